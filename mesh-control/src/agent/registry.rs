//! The registry of this process as the catalog of its own agent.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::catalog::{Catalog, CatalogError, Deregistration, Gone, OfNode, Registration};
use crate::registry::catalog::{self, NodeServices};
use crate::registry::{Indexed, Registry, Topic, View, Wait};
use crate::types::{HealthCheck, Node, NodeService};

/// How long a read waits for a change.
const WAIT: Duration = Duration::from_secs(300);

/// A server's agent writes to the server's own registry.
///
/// The service [`SERVERS`](Self::SERVERS) of its node is the server's, and not shown to the agent,
/// which would take it out as something that nobody registered with it.
#[derive(Clone, Debug)]
pub struct OfRegistry {
    registry: Registry,
    datacenter: String,
}

impl OfRegistry {
    /// The ID of the service that servers are.
    pub const SERVERS: &str = "consul";

    /// Writes to this registry, which is of this datacenter.
    #[must_use]
    pub fn new(registry: Registry, datacenter: impl Into<String>) -> Self {
        Self { registry, datacenter: datacenter.into() }
    }
}

impl From<catalog::CatalogError> for CatalogError {
    fn from(error: catalog::CatalogError) -> Self {
        match error {
            catalog::CatalogError::Refused(why) => Self::Refused(why),
            catalog::CatalogError::Store(error) => Self::Away(error.to_string()),
        }
    }
}

impl Catalog for OfRegistry {
    fn node<'a>(
        &'a self,
        node: &'a str,
        index: u64,
    ) -> BoxFuture<'a, Result<(u64, Option<OfNode>), CatalogError>> {
        async move {
            let read = |view: &View| {
                let found = view.catalog().node_services(node);
                let checks = view.catalog().node_checks(node).value;
                Indexed::new(found.index, found.value.map(|found| of_node(&found, &checks)))
            };
            let wait = Some(Wait::new(index, WAIT));
            let found = self.registry.blocking(wait, &[Topic::node(node)], read).await;
            Ok((found.index, found.value))
        }
        .boxed()
    }

    fn register(&self, what: Registration) -> BoxFuture<'_, Result<(), CatalogError>> {
        async move {
            let Registration { node, service, checks, .. } = what;
            let wanted = catalog::Registration {
                id: node.id,
                node: node.name,
                address: node.address,
                tagged_addresses: node.tagged_addresses,
                node_meta: node.meta,
                service,
                checks,
                ..catalog::Registration::default()
            };
            let plan = |view: &View| catalog::register(view, &wanted, &self.datacenter);
            self.registry.write(plan).await?;
            Ok(())
        }
        .boxed()
    }

    fn deregister(&self, what: Deregistration) -> BoxFuture<'_, Result<(), CatalogError>> {
        async move {
            let (service_id, check_id) = match what.what {
                Gone::Service(id) => (id, String::new()),
                Gone::Check(id) => (String::new(), id),
            };
            let node = what.node;
            let wanted = catalog::Deregistration {
                node,
                service_id,
                check_id,
                ..catalog::Deregistration::default()
            };
            self.registry.write(|view| catalog::deregister(view, &wanted)).await?;
            Ok(())
        }
        .boxed()
    }
}

fn of_node(found: &NodeServices, checks: &[Arc<HealthCheck>]) -> OfNode {
    let services = found.services.iter().filter(|service| service.id != OfRegistry::SERVERS);
    OfNode {
        node: Node::clone(&found.node),
        services: services.map(|service| NodeService::clone(service)).collect(),
        checks: checks.iter().map(|check| HealthCheck::clone(check)).collect(),
    }
}
