//! What the mesh's own tests share.
//!
//! - [`consul`]: a real Consul agent, where one is installed.
//! - [`contract`]: the one test that every layer passes.
//! - [`endpoint`]: scripted endpoints on real loopback sockets.
//! - [`figure()`]: what a test measured, shown at the end of all tests.
//! - [`greeter`]: a gRPC service with all four shapes of a call.
//! - [`net`]: certificates, and a faulty network in user space.
//! - [`parts`]: real programs, or the reason why a test is skipped.
//! - [`rate_limit`]: a rate limit service by Envoy's protocol.
//! - [`world`]: many clients and endpoints in virtual time, by a seed.
//!
//! A development dependency only: nothing here is meant for production.

pub mod consul;
pub mod contract;
pub mod endpoint;
mod figure;
pub mod greeter;
pub mod net;
pub mod parts;
pub mod rate_limit;
mod wait;
pub mod world;

pub use figure::figure;
pub use wait::until;

use std::env;
use std::path::{Path, PathBuf};

/// The folder of what is built, where tests leave notes for `cargo xtask test`.
fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from)
}
