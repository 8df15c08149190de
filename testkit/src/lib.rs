//! What the mesh's own tests share.
//!
//! - [`contract`]: the one test that every layer passes.
//! - [`endpoint`]: scripted endpoints on real loopback sockets.
//! - [`greeter`]: a gRPC service with all four shapes of a call.
//! - [`net`]: certificates, and a faulty network in user space.
//! - [`parts`]: real programs, or the reason why a test is skipped.
//! - [`world`]: many clients and endpoints in virtual time, by a seed.
//!
//! A development dependency only: nothing here is meant for production.

pub mod contract;
pub mod endpoint;
pub mod greeter;
pub mod net;
pub mod parts;
mod wait;
pub mod world;

pub use wait::until;
