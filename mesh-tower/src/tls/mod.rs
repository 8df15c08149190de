//! TLS and mutual TLS from PEM files, on both sides, with hot reload.
//!
//! By rustls with aws-lc-rs, handed over explicitly: the process-wide default provider is neither
//! read nor set. TLS 1.3; 1.2 where a setting allows it. What the peer's certificate proves is
//! judged by parsed names ([`Identity`]), never by parts of strings.
//!
//! Of the cipher suites that both sides know, AES-128-GCM with SHA-256 is taken first, also when
//! the client lists another before it. Key exchange and certificates (X25519, P-256) are of
//! 128 bits, so a longer cipher key protects no more; but processors compute SHA-256 in hardware
//! and SHA-384 not, which makes a tenth of a handshake. A client that offers only AES-256 or
//! ChaCha20 gets what it offers.
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

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{CipherSuite, SupportedCipherSuite, SupportedProtocolVersion};
use std::sync::{Arc, OnceLock};

/// ALPN name of HTTP/2.
pub(crate) const H2: &[u8] = b"h2";
/// ALPN name of HTTP/1.1.
pub(crate) const HTTP_1_1: &[u8] = b"http/1.1";

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| {
        let mut provider = aws_lc_rs::default_provider();
        // Stable: among themselves, the suites stay in the provider's order.
        provider.cipher_suites.sort_by_key(|suite| !is_aes_128(suite));
        Arc::new(provider)
    }))
}

fn is_aes_128(suite: &SupportedCipherSuite) -> bool {
    matches!(
        suite.suite(),
        CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
    )
}

fn versions(allow_tls12: bool) -> &'static [&'static SupportedProtocolVersion] {
    static BOTH: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];
    static ONLY_13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
    if allow_tls12 { BOTH } else { ONLY_13 }
}
