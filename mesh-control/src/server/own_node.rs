//! The node that a server is: its identity, its place in the catalog, and its agent.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use crate::agent::{self, Agent, AgentError, OfRegistry};
use crate::registry::Registry;
use crate::registry::catalog::{CatalogError, Registration, register};
use crate::types::{CheckStatus, HealthCheck, Node, NodeService};

use super::{Settings, StartError};

/// The node's UUID in the data directory.
const ID_FILE: &str = "node-id";
/// What the agent keeps, in the data directory.
const AGENT_FOLDER: &str = "agent";
/// The port that a server is known by in Consul's catalog.
const SERVER_PORT: u16 = 8300;

/// The node as these settings describe it.
pub(super) fn describe(settings: &Settings, listens: IpAddr) -> Result<Node, StartError> {
    let id = match &settings.data_dir {
        Some(folder) => node_id(folder)
            .map_err(|error| StartError::DataDir { path: folder.join(ID_FILE), error })?,
        None => random_id(),
    };
    let address = if listens.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { listens };
    let address = settings.advertise.unwrap_or(address);
    let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
    let names =
        ["lan".to_owned(), "wan".to_owned(), format!("lan_{family}"), format!("wan_{family}")];
    Ok(Node {
        id,
        name: settings.node_name.clone(),
        address: address.to_string(),
        datacenter: settings.datacenter.clone(),
        tagged_addresses: names.map(|name| (name, address.to_string())).into(),
        ..Node::default()
    })
}

/// The UUID of this node: the one that it had before, or a new one.
fn node_id(folder: &Path) -> io::Result<String> {
    let path = folder.join(ID_FILE);
    match fs::read_to_string(&path) {
        Ok(id) => return Ok(id.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let id = random_id();
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    file.write_all(id.as_bytes())?;
    file.sync_all()?;
    Ok(id)
}

/// A random UUID (RFC 9562, version 4).
fn random_id() -> String {
    let bits = fastrand::u128(..);
    let bits = bits & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Puts the server into the catalog, as Consul's leader does with its servers: the node, the
/// service `consul`, and the check that says that the node is there.
pub(super) async fn enter(registry: &Registry, node: &Node) -> Result<(), StartError> {
    let service = NodeService {
        id: OfRegistry::SERVERS.to_owned(),
        name: OfRegistry::SERVERS.to_owned(),
        port: SERVER_PORT,
        meta: [("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned())].into(),
        ..NodeService::default()
    };
    let alive = HealthCheck {
        id: "serfHealth".to_owned(),
        name: "Serf Health Status".to_owned(),
        output: "Agent alive and reachable".to_owned(),
        status: CheckStatus::Passing,
        ..HealthCheck::default()
    };
    let wanted = Registration {
        id: node.id.clone(),
        node: node.name.clone(),
        address: node.address.clone(),
        tagged_addresses: node.tagged_addresses.clone(),
        service: Some(service),
        check: Some(alive),
        ..Registration::default()
    };
    let written = registry.write(|view| register(view, &wanted, &node.datacenter)).await;
    written.map(drop).map_err(|error| match error {
        CatalogError::Refused(why) => StartError::Node(why),
        CatalogError::Store(error) => StartError::Store(error),
    })
}

/// Starts the node's agent over the server's own registry.
pub(super) async fn start_agent(
    settings: &Settings,
    registry: &Registry,
    node: Node,
) -> Result<Agent, AgentError> {
    let catalog = Arc::new(OfRegistry::new(registry.clone(), node.datacenter.clone()));
    let mut config = agent::Config::new(node);
    config.data_dir = settings.data_dir.as_ref().map(|folder| folder.join(AGENT_FOLDER));
    Agent::start(config, catalog).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_random_uuid() {
        let (one, other) = (random_id(), random_id());
        assert_ne!(one, other);
        for id in [one, other] {
            let parts: Vec<_> = id.split('-').map(str::len).collect();
            assert_eq!(parts, [8, 4, 4, 4, 12], "{id}");
            assert_eq!(id.as_bytes()[14], b'4', "{id}");
            assert!(b"89ab".contains(&id.as_bytes()[19]), "{id}");
        }
    }

    #[test]
    fn an_id_stays() {
        let folder = tempfile::tempdir().unwrap();
        let id = node_id(folder.path()).unwrap();
        assert_eq!(node_id(folder.path()).unwrap(), id);
    }
}
