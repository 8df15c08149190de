//! The catalog: nodes, the instances of services on them, and their checks.
//!
//! Names and IDs are compared without regard to case, as Consul compares them; they are told as
//! they were registered.
//!
//! Each node and each service has an index of its own, which counts whatever can be seen of it:
//! of a node its services and checks, of a service its instances, their checks, and the nodes
//! that they are on, deletions included. So a query that waits for one service is not answered
//! because of another. What is gone leaves only the revision at which something of its kind went
//! last; that is the index of every name that nobody has registered.
//!
//! A check's service name and tags are those of its instance now, not those of the day on which it
//! was registered.
//!
//! Source: Consul's HTTP API, "Catalog" and "Health".

mod read;
mod write;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::Topic;
use crate::store::{Key, Record, StoreError, Table};
use crate::types::{HealthCheck, Node, NodeService, ServiceKind};

pub use read::{Instance, Instances, NodeServices};
pub use write::{CatalogError, Deregistration, Registration, deregister, register};

/// See the [module docs](self).
#[derive(Debug, Default)]
pub struct Catalog {
    /// By folded name.
    hosts: BTreeMap<String, Host>,
    /// Instances by folded name of their service.
    services: BTreeMap<String, Group>,
    /// Instances that speak mutual TLS for a service, by its folded name.
    connect: BTreeMap<String, Group>,
    /// Folded names of nodes by their UUID.
    ids: HashMap<String, String>,
    /// When a node, an instance, a check was made, changed or removed last.
    nodes_index: u64,
    services_index: u64,
    checks_index: u64,
    gone: Gone,
}

/// A node with what is on it.
#[derive(Debug, Default)]
struct Host {
    /// Without it, what is here cannot be seen: its node is about to come, or just went.
    node: Option<Arc<Node>>,
    /// By folded ID.
    services: BTreeMap<String, Arc<NodeService>>,
    /// By folded ID.
    checks: BTreeMap<String, Arc<HealthCheck>>,
    index: u64,
}

/// Instances that are asked for together.
#[derive(Debug, Default)]
struct Group {
    /// Folded names of node and instance.
    instances: BTreeSet<(String, String)>,
    index: u64,
}

/// The revisions at which the last of something went.
#[derive(Debug, Default)]
struct Gone {
    node: u64,
    service: u64,
    connect: u64,
}

/// A name as it is compared.
fn fold(name: &str) -> String {
    name.to_lowercase()
}

/// The service that this instance speaks mutual TLS for, folded.
fn speaks_for(service: &NodeService) -> Option<String> {
    match service.kind {
        ServiceKind::ConnectProxy => Some(fold(&service.proxy.destination_service_name)),
        _ => service.connect.native.then(|| fold(&service.name)),
    }
}

fn decode<T: DeserializeOwned>(record: &Record) -> Result<T, StoreError> {
    serde_json::from_slice(&record.value).map_err(|error| StoreError::Unreadable {
        what: format!("the {:?} {:?}", record.key.table, record.key.name),
        why: error.to_string(),
    })
}

/// The two parts of a name: node and ID.
fn parts(name: &str) -> (&str, &str) {
    name.split_once(Key::SEPARATOR).unwrap_or((name, ""))
}

impl Catalog {
    /// Takes the revision of a store that was just read for that of every index: what was removed
    /// before is not known any more, and an index must not go back.
    pub(super) fn settle(&mut self, revision: u64) {
        self.hosts.values_mut().for_each(|host| host.index = revision);
        let groups = self.services.values_mut().chain(self.connect.values_mut());
        groups.for_each(|group| group.index = revision);
        (self.nodes_index, self.services_index, self.checks_index) = (revision, revision, revision);
        self.gone = Gone { node: revision, service: revision, connect: revision };
    }

    pub(super) fn put(&mut self, record: &Record) -> Result<Vec<Topic>, StoreError> {
        match record.key.table {
            Table::Node => self.put_node(record),
            Table::Service => self.put_service(record),
            _ => self.put_check(record),
        }
    }

    pub(super) fn delete(&mut self, key: &Key, revision: u64) -> Vec<Topic> {
        match key.table {
            Table::Node => self.delete_node(&key.name, revision),
            Table::Service => self.delete_service(&key.name, revision),
            _ => self.delete_check(&key.name, revision),
        }
    }

    fn put_node(&mut self, record: &Record) -> Result<Vec<Topic>, StoreError> {
        let mut node: Node = decode(record)?;
        (node.create_index, node.modify_index) = (record.create_index, record.modify_index);
        let name = &record.key.name;
        let id = fold(&node.id);
        let host = self.hosts.entry(name.clone()).or_default();
        let before = host.node.replace(Arc::new(node));
        if let Some(before) = before.filter(|before| fold(&before.id) != id) {
            self.forget_id(&fold(&before.id), name);
        }
        if !id.is_empty() {
            self.ids.insert(id, name.clone());
        }
        self.nodes_index = record.modify_index;
        let mut touched = vec![Topic::Nodes];
        self.touch_host(name, record.modify_index, &mut touched);
        Ok(touched)
    }

    fn delete_node(&mut self, name: &str, revision: u64) -> Vec<Topic> {
        let mut touched = vec![Topic::Nodes];
        self.nodes_index = revision;
        self.touch_host(name, revision, &mut touched);
        if let Some(node) = self.hosts.get_mut(name).and_then(|host| host.node.take()) {
            self.forget_id(&fold(&node.id), name);
        }
        self.tidy_host(name, revision);
        touched
    }

    fn put_service(&mut self, record: &Record) -> Result<Vec<Topic>, StoreError> {
        let mut service: NodeService = decode(record)?;
        (service.create_index, service.modify_index) = (record.create_index, record.modify_index);
        let (revision, (node, id)) = (record.modify_index, parts(&record.key.name));
        let mut touched = self.leave_groups(node, id, revision);
        let place = (node.to_owned(), id.to_owned());
        let name = fold(&service.name);
        let group = self.services.entry(name.clone()).or_default();
        group.instances.insert(place.clone());
        group.index = revision;
        touched.push(Topic::Service(name));
        if let Some(name) = speaks_for(&service) {
            let group = self.connect.entry(name.clone()).or_default();
            group.instances.insert(place);
            group.index = revision;
            touched.push(Topic::Connect(name));
        }
        let host = self.hosts.entry(node.to_owned()).or_default();
        host.index = revision;
        for check in host.checks.values_mut().filter(|check| fold(&check.service_id) == id) {
            let check = Arc::make_mut(check);
            check.service_name.clone_from(&service.name);
            check.service_tags.clone_from(&service.tags);
        }
        host.services.insert(id.to_owned(), Arc::new(service));
        self.services_index = revision;
        touched.extend([Topic::Services, Topic::Node(node.to_owned())]);
        Ok(touched)
    }

    fn delete_service(&mut self, name: &str, revision: u64) -> Vec<Topic> {
        let (node, id) = parts(name);
        let mut touched = self.leave_groups(node, id, revision);
        touched.extend([Topic::Services, Topic::Node(node.to_owned())]);
        if let Some(host) = self.hosts.get_mut(node) {
            host.services.remove(id);
            host.index = revision;
        }
        self.services_index = revision;
        self.tidy_host(node, revision);
        touched
    }

    fn put_check(&mut self, record: &Record) -> Result<Vec<Topic>, StoreError> {
        let mut check: HealthCheck = decode(record)?;
        (check.create_index, check.modify_index) = (record.create_index, record.modify_index);
        let (revision, (node, id)) = (record.modify_index, parts(&record.key.name));
        let host = self.hosts.entry(node.to_owned()).or_default();
        if let Some(service) = host.services.get(&fold(&check.service_id)) {
            check.service_name.clone_from(&service.name);
            check.service_tags.clone_from(&service.tags);
        }
        let check = Arc::new(check);
        let before = host.checks.insert(id.to_owned(), Arc::clone(&check));
        let mut touched = vec![Topic::Checks];
        self.touch_check(node, &check, revision, &mut touched);
        // A check that was moved leaves its old instance in another state, too.
        if let Some(before) = before.filter(|before| before.service_id != check.service_id) {
            self.touch_check(node, &before, revision, &mut touched);
        }
        self.checks_index = revision;
        Ok(touched)
    }

    fn delete_check(&mut self, name: &str, revision: u64) -> Vec<Topic> {
        let (node, id) = parts(name);
        let mut touched = vec![Topic::Checks];
        let check = self.hosts.get_mut(node).and_then(|host| host.checks.remove(id));
        if let Some(check) = check {
            self.touch_check(node, &check, revision, &mut touched);
        }
        self.checks_index = revision;
        self.tidy_host(node, revision);
        touched
    }

    /// A node's UUID is no longer that of `name`.
    fn forget_id(&mut self, id: &str, name: &str) {
        if self.ids.get(id).is_some_and(|holder| holder == name) {
            self.ids.remove(id);
        }
    }

    /// A check changed: so did its instance, or, for a check of the node, all on the node.
    fn touch_check(&mut self, node: &str, check: &HealthCheck, revision: u64, to: &mut Vec<Topic>) {
        if check.service_id.is_empty() {
            return self.touch_host(node, revision, to);
        }
        let Some(host) = self.hosts.get_mut(node) else { return };
        host.index = revision;
        to.push(Topic::Node(node.to_owned()));
        if let Some(service) = host.services.get(&fold(&check.service_id)).cloned() {
            self.touch_service(&service, revision, to);
        }
    }

    /// The node changed, and with it every instance on it.
    fn touch_host(&mut self, name: &str, revision: u64, to: &mut Vec<Topic>) {
        let Some(host) = self.hosts.get_mut(name) else { return };
        host.index = revision;
        to.push(Topic::Node(name.to_owned()));
        let services: Vec<_> = host.services.values().cloned().collect();
        services.iter().for_each(|service| self.touch_service(service, revision, to));
    }

    /// An instance of this service changed.
    fn touch_service(&mut self, service: &NodeService, revision: u64, to: &mut Vec<Topic>) {
        let name = fold(&service.name);
        if let Some(group) = self.services.get_mut(&name) {
            group.index = revision;
        }
        to.push(Topic::Service(name));
        if let Some(name) = speaks_for(service) {
            if let Some(group) = self.connect.get_mut(&name) {
                group.index = revision;
            }
            to.push(Topic::Connect(name));
        }
    }

    /// Takes an instance out of its groups, as it is about to change or go.
    fn leave_groups(&mut self, node: &str, id: &str, revision: u64) -> Vec<Topic> {
        let mut touched = Vec::new();
        let Some(service) = self.hosts.get(node).and_then(|host| host.services.get(id)).cloned()
        else {
            return touched;
        };
        self.touch_service(&service, revision, &mut touched);
        let place = (node.to_owned(), id.to_owned());
        if leave(&mut self.services, &fold(&service.name), &place) {
            self.gone.service = revision;
        }
        if let Some(name) = speaks_for(&service)
            && leave(&mut self.connect, &name, &place)
        {
            self.gone.connect = revision;
        }
        touched
    }

    /// Forgets a node of which nothing is left.
    fn tidy_host(&mut self, name: &str, revision: u64) {
        let empty =
            |host: &Host| host.node.is_none() && host.services.is_empty() && host.checks.is_empty();
        if self.hosts.get(name).is_some_and(empty) {
            self.hosts.remove(name);
            self.gone.node = revision;
        }
    }
}

/// Removes an instance from a group; whether the group is no more.
fn leave(groups: &mut BTreeMap<String, Group>, name: &str, place: &(String, String)) -> bool {
    let Some(group) = groups.get_mut(name) else { return false };
    group.instances.remove(place);
    let empty = group.instances.is_empty();
    if empty {
        groups.remove(name);
    }
    empty
}

#[cfg(test)]
mod tests;
