//! What is asked of the catalog.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use super::super::Indexed;
use super::{Catalog, Group, Host, fold};
use crate::types::{CheckStatus, HealthCheck, Node, NodeService};

/// Which instances are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Instances {
    /// Those of the service of this name.
    Named,
    /// Those that speak mutual TLS for it: its sidecars, and itself where it does so natively.
    Connect,
}

/// An instance of a service, with all that decides on its health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct Instance {
    /// The node that it is on.
    pub node: Arc<Node>,
    /// The instance.
    pub service: Arc<NodeService>,
    /// The checks of the node and of the instance.
    pub checks: Vec<Arc<HealthCheck>>,
}

impl Instance {
    /// How it stands: as its worst check; passing without any.
    #[must_use]
    pub fn status(&self) -> CheckStatus {
        let worst = self.checks.iter().map(|check| check.status).max();
        worst.unwrap_or(CheckStatus::Passing)
    }

    /// Whether it has this tag, in whatever case.
    #[must_use]
    pub fn has_tag(&self, tag: &str) -> bool {
        let tag = fold(tag);
        self.service.tags.iter().any(|own| fold(own) == tag)
    }
}

/// A node with the instances on it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeServices {
    /// The node.
    pub node: Arc<Node>,
    /// In the order of their IDs.
    pub services: Vec<Arc<NodeService>>,
}

impl Host {
    fn instance(&self, id: &str) -> Option<Instance> {
        let (node, service) = (self.node.as_ref()?, self.services.get(id)?);
        let decides = |check: &&Arc<HealthCheck>| {
            check.service_id.is_empty() || fold(&check.service_id) == id
        };
        Some(Instance {
            node: Arc::clone(node),
            service: Arc::clone(service),
            checks: self.checks.values().filter(decides).cloned().collect(),
        })
    }
}

impl Catalog {
    /// All nodes, by name.
    #[must_use]
    pub fn nodes(&self) -> Indexed<Vec<Arc<Node>>> {
        let nodes = self.hosts.values().filter_map(|host| host.node.clone());
        Indexed::new(self.nodes_index, nodes.collect())
    }

    /// One node by name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.hosts.get(&fold(name))?.node.as_ref()
    }

    /// One node with its instances.
    #[must_use]
    pub fn node_services(&self, name: &str) -> Indexed<Option<NodeServices>> {
        self.of_host(name, |host| {
            let services = host.services.values().cloned().collect();
            Some(NodeServices { node: host.node.clone()?, services })
        })
    }

    /// One instance by its node and ID.
    #[must_use]
    pub fn instance(&self, node: &str, id: &str) -> Option<Instance> {
        self.hosts.get(&fold(node))?.instance(&fold(id))
    }

    /// The checks of one node and of the instances on it.
    #[must_use]
    pub fn node_checks(&self, name: &str) -> Indexed<Vec<Arc<HealthCheck>>> {
        self.of_host(name, |host| host.checks.values().cloned().collect())
    }

    /// Services by name, with all tags of their instances; on those nodes that `on` says.
    pub fn services(
        &self,
        on: impl Fn(&Node) -> bool,
    ) -> Indexed<BTreeMap<String, BTreeSet<String>>> {
        let mut names = BTreeMap::<_, BTreeSet<_>>::new();
        for host in self.hosts.values() {
            if host.node.as_deref().is_some_and(&on) {
                for service in host.services.values() {
                    let tags = names.entry(service.name.clone()).or_default();
                    tags.extend(service.tags.iter().cloned());
                }
            }
        }
        Indexed::new(self.services_index, names)
    }

    /// The instances of a service, by node and ID.
    #[must_use]
    pub fn instances(&self, service: &str, which: Instances) -> Indexed<Vec<Instance>> {
        let (groups, gone) = match which {
            Instances::Named => (&self.services, self.gone.service),
            Instances::Connect => (&self.connect, self.gone.connect),
        };
        let Some(group) = groups.get(&fold(service)) else { return Indexed::new(gone, Vec::new()) };
        Indexed::new(group.index, self.of_group(group).collect())
    }

    /// The checks of the instances of a service, each with its node.
    #[must_use]
    pub fn service_checks(&self, service: &str) -> Indexed<Vec<(Arc<Node>, Arc<HealthCheck>)>> {
        let Some(group) = self.services.get(&fold(service)) else {
            return Indexed::new(self.gone.service, Vec::new());
        };
        let checks = self.of_group(group).flat_map(|instance| {
            let Instance { node, checks, .. } = instance;
            let own = checks.into_iter().filter(|check| !check.service_id.is_empty());
            own.map(move |check| (Arc::clone(&node), check))
        });
        Indexed::new(group.index, checks.collect())
    }

    /// The checks in this state, or all, each with its node; by node and ID.
    #[must_use]
    pub fn checks(
        &self,
        status: Option<CheckStatus>,
    ) -> Indexed<Vec<(Arc<Node>, Arc<HealthCheck>)>> {
        let checks = self.hosts.values().filter_map(|host| Some((host.node.as_ref()?, host)));
        let checks = checks.flat_map(|(node, host)| {
            let wanted = host.checks.values();
            let wanted =
                wanted.filter(move |check| status.is_none_or(|wanted| wanted == check.status));
            wanted.map(move |check| (Arc::clone(node), Arc::clone(check)))
        });
        Indexed::new(self.checks_index, checks.collect())
    }

    fn of_group<'a>(&'a self, group: &'a Group) -> impl Iterator<Item = Instance> + 'a {
        group.instances.iter().filter_map(|(node, id)| self.hosts.get(node)?.instance(id))
    }

    fn of_host<T: Default>(&self, name: &str, read: impl Fn(&Host) -> T) -> Indexed<T> {
        match self.hosts.get(&fold(name)) {
            Some(host) => Indexed::new(host.index, read(host)),
            None => Indexed::new(self.gone.node, T::default()),
        }
    }
}
