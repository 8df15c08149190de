//! What the agent needs of the servers: to tell them what it has, and to read what they believe.

use futures_util::future::BoxFuture;

use super::Token;
use crate::types::{HealthCheck, Node, NodeService};

/// The catalog that an agent brings its services and checks to: the registry of this process, or
/// that of servers elsewhere by their API.
pub trait Catalog: Send + Sync + 'static {
    /// What the catalog has of the node of this name, with the revision of that; none if it knows
    /// no such node. Waits until the revision is another than `index`, or for some minutes, and
    /// answers either way. Index 0 does not wait.
    fn node<'a>(
        &'a self,
        node: &'a str,
        index: u64,
    ) -> BoxFuture<'a, Result<(u64, Option<OfNode>), CatalogError>>;

    /// Takes in a node with at most one service and any number of checks, whole or not at all.
    fn register(&self, what: Registration) -> BoxFuture<'_, Result<(), CatalogError>>;

    /// Takes out a service with its checks, or a check. What is not there is no error.
    fn deregister(&self, what: Deregistration) -> BoxFuture<'_, Result<(), CatalogError>>;
}

/// What the catalog has of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs, reason = "built by every implementation of Catalog")]
pub struct OfNode {
    /// The node itself.
    pub node: Node,
    /// Its services.
    pub services: Vec<NodeService>,
    /// Its checks and those of its services.
    pub checks: Vec<HealthCheck>,
}

/// What an agent tells the catalog at once.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Registration {
    /// The agent's node.
    pub node: Node,
    /// One of its services.
    pub service: Option<NodeService>,
    /// Checks of that service, or of the node.
    pub checks: Vec<HealthCheck>,
    /// The token to do it with.
    pub token: Token,
}

/// What an agent takes out of the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deregistration {
    /// The agent's node, by name.
    pub node: String,
    /// What of it.
    pub what: Gone,
    /// The token to do it with.
    pub token: Token,
}

/// What is gone of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Gone {
    /// The service of this ID, and its checks.
    Service(String),
    /// The check of this ID.
    Check(String),
}

/// Why the catalog did not do as it was told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// It cannot be reached, or cannot write now. Worth another try.
    #[error("{0}")]
    Away(String),
    /// It does not want this, and will not want it the next time: no permission, or wrong.
    #[error("{0}")]
    Refused(String),
}
