//! What the API speaks: Consul's JSON shapes, with Consul's field names.
//!
//! What people and agents write ([`ServiceDefinition`], [`CheckDefinition`]) is apart from what the
//! catalog keeps and tells ([`NodeService`], [`HealthCheck`]).
//!
//! Source: Consul's HTTP API reference, 1.8.

mod check;
mod duration;
mod node;
mod null;
mod service;
mod token;

pub use check::{CheckDefinition, CheckStatus, HealthCheck, HealthCheckDefinition};
pub use duration::{GoDuration, GoDurationError};
pub use node::Node;
pub use service::{
    Connect, NodeService, Proxy, ServiceAddress, ServiceDefinition, ServiceKind, Upstream, Weights,
};
pub use token::Token;
