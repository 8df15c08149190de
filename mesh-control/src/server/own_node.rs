//! The node that a server is: its identity, its place in the catalog, and its agent.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::agent::{self, Agent, AgentError, OfRegistry};
use crate::registry::Registry;
use crate::registry::catalog::{CatalogError, Registration, register};
use crate::registry::id::random_uuid;
use crate::types::{CheckStatus, HealthCheck, Node, NodeService};

use super::{Settings, StartError};

/// The node's UUID in the data directory.
const ID_FILE: &str = "node-id";
/// What the agent keeps, in the data directory.
const AGENT_FOLDER: &str = "agent";
/// The port that a server is known by in Consul's catalog.
const SERVER_PORT: u16 = 8300;
/// Time between two looks whether the server is in its catalog. Source: Consul's
/// `LeaderReconcileInterval`.
const AGAIN: Duration = Duration::from_secs(60);

/// The node as these settings describe it.
pub(super) fn describe(settings: &Settings, listens: IpAddr) -> Result<Node, StartError> {
    let id = match &settings.data_dir {
        Some(folder) => node_id(folder)
            .map_err(|error| StartError::DataDir { path: folder.join(ID_FILE), error })?,
        None => random_uuid(),
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
        Ok(id) if !id.trim().is_empty() => return Ok(id.trim().to_owned()),
        // Killed between making the file and writing it.
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let id = random_uuid();
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    file.write_all(id.as_bytes())?;
    file.sync_all()?;
    Ok(id)
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
        node_meta: node.meta.clone(),
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

/// Puts the server back for as long as the future is polled: the snapshot that was restored may be
/// another server's, and anyone who may write may deregister a node.
pub(super) async fn stay(registry: Registry, node: Node) {
    loop {
        tokio::time::sleep(AGAIN).await;
        if let Err(error) = enter(&registry, &node).await {
            tracing::warn!(%error, "the server is not in its catalog; the next look tries again");
        }
    }
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
    fn an_id_stays_and_is_never_empty() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(ID_FILE), "").unwrap();
        let id = node_id(folder.path()).unwrap();
        assert_eq!(id.len(), 36);
        assert_eq!(node_id(folder.path()).unwrap(), id);
    }
}
