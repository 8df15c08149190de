//! What the mesh's own tests share.
//!
//! - [`contract`]: the one test that every layer passes.
//! - [`endpoint`]: scripted endpoints on real loopback sockets.
//! - [`greeter`]: a gRPC service with all four shapes of a call.
//!
//! A development dependency only: nothing here is meant for production.

pub mod contract;
pub mod endpoint;
pub mod greeter;
mod wait;

pub use wait::until;
