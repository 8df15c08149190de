//! The service mesh as tower layers.

mod affinity;
pub mod answer;
pub mod balance;
pub mod body;
pub mod breaker;
mod builder;
pub mod call;
mod call_options;
mod caller;
pub mod channel;
pub mod clock;
pub mod connect;
pub mod criticality;
pub mod deadline;
mod descriptors;
mod destination;
mod draws;
#[cfg(feature = "consul")]
pub mod entries;
mod explain;
mod fault;
mod fields;
mod filter;
mod grpc;
mod guard;
mod health_check;
mod integrations;
pub mod limit;
pub mod listen;
pub mod mesh;
mod mirror;
mod plain;
pub mod rate_limit;
mod relay;
pub mod report;
pub mod retry;
pub mod route;
pub mod server;
mod stack;
pub mod telemetry;
pub mod ticket;
pub mod tls;
mod workers;

pub use body::{Body, BoxError};
pub use builder::{BuildError, MeshBuilder};
pub use call_options::CallOptions;
pub use channel::Channel;
pub use criticality::Criticality;
pub use destination::{DestinationState, EndpointView};
#[cfg(feature = "reqwest")]
pub use integrations::reqwest::SendVia;
pub use listen::Listener;
pub use mesh::Mesh;
pub use mesh_core::explain::Explanation;
pub use mesh_core::{Error, ErrorKind};
pub use relay::Relay;

/// The README's examples, compiled.
#[cfg(all(doctest, feature = "full"))]
#[doc = include_str!("../../README.md")]
struct Readme;
