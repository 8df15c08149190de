//! What the API speaks: Consul's JSON shapes, with Consul's field names.
//!
//! What people and agents write ([`ServiceDefinition`], [`CheckDefinition`]) is apart from what the
//! catalog keeps and tells ([`NodeService`], [`HealthCheck`]).
//!
//! Source: Consul's HTTP API reference, 1.8.

mod check;
mod config_entry;
mod duration;
mod node;
mod null;
mod service;
mod token;

pub use check::{CheckDefinition, CheckStatus, HealthCheck, HealthCheckDefinition};
pub use config_entry::{
    ConfigEntry, CookieConfig, EntryKind, Expose, ExposePath, Failover, FailoverTarget, HashPolicy,
    HeaderEdits, HeaderMatch, HttpMatch, LeastRequestConfig, LoadBalancer, MeshGateway,
    ProxyDefaults, QueryMatch, Redirect, ResolverSubset, RingHashConfig, RouteDestination,
    RouteMatch, RouterRoute, ServiceDefaults, ServiceResolver, ServiceRouter, ServiceSplitter,
    Split, UnknownKind,
};
pub use duration::{GoDuration, GoDurationError};
pub use node::Node;
pub use service::{
    Connect, NodeService, Proxy, ServiceAddress, ServiceDefinition, ServiceKind, Upstream, Weights,
};
pub use token::Token;
