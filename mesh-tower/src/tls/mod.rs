//! TLS and mutual TLS from PEM files, on both sides, with hot reload.
//!
//! By rustls with aws-lc-rs, handed over explicitly: the process-wide default provider is neither
//! read nor set. TLS 1.3; 1.2 where a setting allows it. What the peer's certificate proves is
//! judged by parsed names ([`Identity`]), never by parts of strings.
//!
//! A file that changes is loaded again, together with its partners, and swapped in for the next
//! handshakes; open connections stay. A file that does not load (half written, a key that does
//! not fit the certificate) leaves the old ones in place and is reported once.

mod client;
mod error;
mod files;
mod identity;
mod load_error;
mod server;

pub(crate) use client::Offer;
pub use client::{Client, ClientConfig};
pub(crate) use error::alert;
pub use identity::Identity;
pub use load_error::LoadError;
pub use mesh_core::{InvalidSpiffeId, SpiffeId};
pub use server::{Server, ServerConfig};

use rustls::SupportedProtocolVersion;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use std::sync::{Arc, OnceLock};

/// ALPN name of HTTP/2.
pub(crate) const H2: &[u8] = b"h2";
/// ALPN name of HTTP/1.1.
pub(crate) const HTTP_1_1: &[u8] = b"http/1.1";

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider())))
}

fn versions(allow_tls12: bool) -> &'static [&'static SupportedProtocolVersion] {
    static BOTH: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];
    static ONLY_13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
    if allow_tls12 { BOTH } else { ONLY_13 }
}
