//! How the catalog changes: whole registrations, and removals.
//!
//! A registration names a node, and with it a service, checks, or both; all of it becomes visible
//! at once. What is equal to what is there is not written, so that an agent that says again what it
//! said before wakes nobody. A service needs its node and a check its service, also when somebody
//! else removes them at the same moment: the guards see to it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::{Plan, View};
use super::{Catalog, Host, fold};
use crate::store::{Batch, Key, StoreError, Table};
use crate::types::{CheckStatus, HealthCheck, Node, NodeService, ServiceKind};

/// Bytes of a name or an ID, at most: they are keys, and are told in every answer.
const NAME_BYTES: usize = 512;
/// Consul's check of whether an agent is there.
const SERF_HEALTH: &str = "serfhealth";

/// What is to be in the catalog.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[non_exhaustive]
pub struct Registration {
    /// The datacenter; this server's where empty.
    pub datacenter: String,
    /// The node's UUID, if it has one. A node that comes with the UUID of another replaces that.
    #[serde(rename = "ID")]
    pub id: String,
    /// The node's name. Required.
    pub node: String,
    /// Where the node is reached. Required unless the node is left as it is.
    pub address: String,
    /// Further addresses of the node by name.
    pub tagged_addresses: BTreeMap<String, String>,
    /// Whatever the node's owner wants to say of it.
    pub node_meta: BTreeMap<String, String>,
    /// An instance on the node.
    pub service: Option<NodeService>,
    /// A check of the node or of an instance on it.
    pub check: Option<HealthCheck>,
    /// Further checks.
    pub checks: Vec<HealthCheck>,
    /// Whether a node that is there is left as it is.
    pub skip_node_update: bool,
}

/// What is to be removed: an instance with its checks, a check, or the node with all on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[non_exhaustive]
pub struct Deregistration {
    /// The datacenter; this server's where empty.
    pub datacenter: String,
    /// The node's name. Required.
    pub node: String,
    /// Accepted, and of no meaning.
    pub address: String,
    /// The instance.
    #[serde(rename = "ServiceID")]
    pub service_id: String,
    /// The check.
    #[serde(rename = "CheckID")]
    pub check_id: String,
}

/// Why the catalog was not changed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// It cannot be registered so.
    #[error("{0}")]
    Refused(String),
    /// It could not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn refused(message: impl Into<String>) -> CatalogError {
    CatalogError::Refused(message.into())
}

/// Registers a node, and what comes with it.
///
/// # Errors
/// [`CatalogError::Refused`] in Consul's words where something is missing or contradicts itself.
pub fn register(
    view: &View,
    wanted: &Registration,
    datacenter: &str,
) -> Result<Plan<()>, CatalogError> {
    let catalog = view.catalog();
    check_node(wanted)?;
    let name = fold(&wanted.node);
    let mut batch = Batch::default();
    let host = register_node(view, wanted, datacenter, &mut batch)?;
    if let Some(service) = &wanted.service {
        let service = completed(service)?;
        let id = fold(&service.id);
        let there = host.and_then(|host| host.services.get(&id));
        let modify_index = there.map(|there| there.modify_index);
        let key = Key::pair(Table::Service, &name, &id);
        let bare = |service: &NodeService| NodeService {
            create_index: 0,
            modify_index: 0,
            ..service.clone()
        };
        if there.is_none_or(|there| bare(there) != service) {
            batch.expect(key.clone(), modify_index);
            batch.put(key, json(&service));
        }
    }
    for check in wanted.check.iter().chain(&wanted.checks) {
        register_check(catalog, wanted, check, &mut batch)?;
    }
    if !batch.changes.is_empty() {
        // The node that all of it is on; where it is written, its guard is there already.
        let key = Key::new(Table::Node, name);
        if let Some(node) = host.and_then(|host| host.node.as_ref())
            && !batch.changes.iter().any(|change| change.key() == &key)
        {
            batch.expect(key, Some(node.modify_index));
        }
    }
    Ok(Plan::new(batch, ()))
}

/// Removes an instance, a check, or a node; fine where there is none.
///
/// # Errors
/// [`CatalogError::Refused`] without the name of a node.
pub fn deregister(view: &View, wanted: &Deregistration) -> Result<Plan<()>, CatalogError> {
    if wanted.node.is_empty() {
        return Err(refused("Must provide node"));
    }
    let name = fold(&wanted.node);
    let mut batch = Batch::default();
    let Some(host) = view.catalog().hosts.get(&name) else { return Ok(Plan::nothing(())) };
    if !wanted.service_id.is_empty() {
        let id = fold(&wanted.service_id);
        if let Some(service) = host.services.get(&id) {
            let key = Key::pair(Table::Service, &name, &id);
            batch.expect(key.clone(), Some(service.modify_index));
            batch.delete(key);
            batch.expect_settled(Key::pair(Table::Check, &name, ""), view.revision());
            let of_it = |check: &&HealthCheck| fold(&check.service_id) == id;
            for check in host.checks.values().map(AsRef::as_ref).filter(of_it) {
                batch.delete(Key::pair(Table::Check, &name, &fold(&check.id)));
            }
        }
    } else if !wanted.check_id.is_empty() {
        let id = fold(&wanted.check_id);
        if host.checks.contains_key(&id) {
            batch.delete(Key::pair(Table::Check, &name, &id));
        }
    } else {
        remove_host(view, &name, host, &mut batch);
    }
    Ok(Plan::new(batch, ()))
}

/// Removes a node with all that is on it, and that came to it since.
fn remove_host(view: &View, name: &str, host: &Host, batch: &mut Batch) {
    for table in [Table::Service, Table::Check] {
        batch.expect_settled(Key::pair(table, name, ""), view.revision());
    }
    let checks = host.checks.keys().map(|id| Key::pair(Table::Check, name, id));
    let services = host.services.keys().map(|id| Key::pair(Table::Service, name, id));
    checks.chain(services).for_each(|key| batch.delete(key));
    if let Some(node) = &host.node {
        let key = Key::new(Table::Node, name);
        batch.expect(key.clone(), Some(node.modify_index));
        batch.delete(key);
    }
}

fn check_node(wanted: &Registration) -> Result<(), CatalogError> {
    if wanted.node.is_empty() {
        return Err(refused("Must provide node"));
    }
    if wanted.address.is_empty() && !wanted.skip_node_update {
        return Err(refused("Must provide address if SkipNodeUpdate is not set"));
    }
    check_name("node name", &wanted.node)?;
    if !wanted.id.is_empty() {
        check_uuid(&wanted.id)?;
    }
    Ok(())
}

/// What no name may be, as it is part of a key.
fn check_name(what: &str, name: &str) -> Result<(), CatalogError> {
    if name.len() > NAME_BYTES {
        return Err(refused(format!("the {what} has {} bytes; at most {NAME_BYTES}", name.len())));
    }
    if name.contains(Key::SEPARATOR) {
        return Err(refused(format!("the {what} holds a NUL character")));
    }
    Ok(())
}

fn check_uuid(id: &str) -> Result<(), CatalogError> {
    let dash = |at: usize| matches!(at, 8 | 13 | 18 | 23);
    if id.len() != 36 {
        return Err(refused("Bad node ID: uuid string is wrong length"));
    }
    let fits = |(at, byte): (usize, u8)| {
        if dash(at) { byte == b'-' } else { byte.is_ascii_hexdigit() }
    };
    if id.bytes().enumerate().all(fits) {
        Ok(())
    } else {
        Err(refused("Bad node ID: uuid is improperly formatted"))
    }
}

/// Adds what becomes of the node; the answer is what is on it afterwards, if it stays.
fn register_node<'a>(
    view: &'a View,
    wanted: &Registration,
    datacenter: &str,
    batch: &mut Batch,
) -> Result<Option<&'a Host>, CatalogError> {
    let catalog = view.catalog();
    let name = fold(&wanted.node);
    let host = catalog.hosts.get(&name);
    let there = host.and_then(|host| host.node.as_ref());
    if wanted.skip_node_update && there.is_some() {
        return Ok(host);
    }
    let node = Node {
        id: wanted.id.clone(),
        name: wanted.node.clone(),
        address: wanted.address.clone(),
        datacenter: datacenter.to_owned(),
        tagged_addresses: wanted.tagged_addresses.clone(),
        meta: wanted.node_meta.clone(),
        create_index: 0,
        modify_index: 0,
    };
    if there.is_some_and(|there| {
        Node { create_index: 0, modify_index: 0, ..Node::clone(there) } == node
    }) {
        return Ok(host);
    }
    if let (Some(host), Some(there)) = (host, there)
        && !wanted.id.is_empty()
        && !there.id.is_empty()
        && fold(&there.id) != fold(&wanted.id)
        && let Some(serf) = host.checks.get(SERF_HEALTH)
        && serf.status != CheckStatus::Critical
    {
        return Err(refused(format!(
            "failed inserting node: Error while renaming Node ID: \"{}\": Node name {} is reserved \
             by node {} with name {} ({})",
            wanted.id, wanted.node, there.id, there.name, there.address
        )));
    }
    if let Some(other) = catalog.ids.get(&fold(&wanted.id)).filter(|other| **other != name)
        && let Some(host) = catalog.hosts.get(other)
    {
        remove_host(view, other, host, batch);
    }
    let key = Key::new(Table::Node, name);
    batch.expect(key.clone(), there.map(|there| there.modify_index));
    batch.put(key, json(&node));
    Ok(host)
}

/// The instance with its defaults, without what is not its owner's to say.
fn completed(service: &NodeService) -> Result<NodeService, CatalogError> {
    let mut service = NodeService { create_index: 0, modify_index: 0, ..service.clone() };
    if service.name.is_empty() {
        return Err(refused("Must provide service name with ID"));
    }
    if service.id.is_empty() {
        service.id.clone_from(&service.name);
    }
    check_name("service name", &service.name)?;
    check_name("service ID", &service.id)?;
    if service.kind == ServiceKind::ConnectProxy {
        let mut wrong = Vec::new();
        if service.proxy.destination_service_name.is_empty() {
            wrong.push("Proxy.DestinationServiceName must be non-empty for Connect proxy services");
        }
        if service.port == 0 {
            wrong.push("Port must be set for a Connect proxy");
        }
        if service.connect.native {
            wrong.push("A Proxy cannot also be Connect Native, only typical services");
        }
        if !wrong.is_empty() {
            let s = if wrong.len() == 1 { "" } else { "s" };
            let list: String = wrong.iter().map(|wrong| format!("\t* {wrong}\n")).collect();
            return Err(refused(format!("{} error{s} occurred:\n{list}\n", wrong.len())));
        }
    }
    Ok(service)
}

fn register_check(
    catalog: &Catalog,
    wanted: &Registration,
    check: &HealthCheck,
    batch: &mut Batch,
) -> Result<(), CatalogError> {
    let node = fold(&wanted.node);
    if !check.node.is_empty() && fold(&check.node) != node {
        return Err(refused(format!(
            "check node \"{}\" does not match node \"{}\"",
            check.node, wanted.node
        )));
    }
    let mut check = HealthCheck {
        node: wanted.node.clone(),
        service_name: String::new(),
        service_tags: Vec::new(),
        create_index: 0,
        modify_index: 0,
        ..check.clone()
    };
    if check.id.is_empty() {
        check.id.clone_from(&check.name);
    }
    if check.id.is_empty() {
        return Err(refused(format!(
            "failed inserting check: a check on node \"{}\" has neither CheckID nor Name",
            wanted.node
        )));
    }
    check_name("check ID", &check.id)?;
    if check.kind.is_empty() {
        check.kind = if !check.definition.http.is_empty() {
            "http".to_owned()
        } else if !check.definition.tcp.is_empty() {
            "tcp".to_owned()
        } else {
            String::new()
        };
    }
    let host = catalog.hosts.get(&node);
    if !check.service_id.is_empty() {
        let id = fold(&check.service_id);
        let comes = Key::pair(Table::Service, &node, &id);
        let service = host.and_then(|host| host.services.get(&id));
        if !batch.changes.iter().any(|change| change.key() == &comes) {
            let Some(service) = service else {
                return Err(refused(format!(
                    "failed inserting check: Missing service registration on node \"{}\"",
                    wanted.node
                )));
            };
            batch.expect(comes, Some(service.modify_index));
        }
    }
    let key = Key::pair(Table::Check, &node, &fold(&check.id));
    let there = host.and_then(|host| host.checks.get(&fold(&check.id)));
    let same = there.is_some_and(|there| {
        let there = HealthCheck {
            service_name: String::new(),
            service_tags: Vec::new(),
            create_index: 0,
            modify_index: 0,
            ..HealthCheck::clone(there)
        };
        there == check
    });
    if !same {
        batch.expect(key.clone(), there.map(|there| there.modify_index));
        batch.changes.retain(|change| change.key() != &key);
        batch.put(key, json(&check));
    }
    Ok(())
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("what the catalog keeps has text for keys")
}
