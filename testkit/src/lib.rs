//! What the mesh's own tests share.
//!
//! - [`contract`]: the one test that every layer passes.
//! - [`endpoint`]: scripted endpoints on real loopback sockets.
//!
//! A development dependency only: nothing here is meant for production.

pub mod contract;
pub mod endpoint;
mod wait;

pub use wait::until;
