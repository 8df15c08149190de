//! The control plane: registry, health, KV and configuration, behind Consul's HTTP API.
//!
//! A request comes in at [`api`], reads the [`registry`]'s view of what the [`store`] holds, and
//! changes it by a batch that the store applies whole or not at all.

pub mod agent;
pub mod api;
pub mod check;
mod clock;
pub mod decode;
pub mod definition;
pub mod dns;
pub mod filter;
pub mod registry;
pub mod server;
pub mod snapshot;
pub mod store;
pub mod types;
