//! Services: as somebody defines them, and as the catalog keeps an instance.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{CheckDefinition, Token};

/// What kind of a service it is: empty in JSON for an ordinary one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ServiceKind {
    /// An ordinary service.
    #[default]
    #[serde(rename = "")]
    Typical,
    /// A sidecar.
    ConnectProxy,
    /// A gateway between meshes.
    MeshGateway,
    /// A gateway to services outside.
    TerminatingGateway,
    /// A gateway for callers from outside.
    IngressGateway,
}

impl ServiceKind {
    /// Whether it is an ordinary service.
    #[must_use]
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    pub fn is_typical(&self) -> bool {
        *self == Self::Typical
    }
}

/// Shares of the calls by health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[non_exhaustive]
pub struct Weights {
    /// While all checks pass. 1.
    pub passing: u32,
    /// While one warns. 1.
    pub warning: u32,
}

impl Default for Weights {
    fn default() -> Self {
        Self { passing: 1, warning: 1 }
    }
}

/// An address with a port, by name (`lan`, `wan`, …).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[non_exhaustive]
pub struct ServiceAddress {
    /// Where it is reached.
    pub address: String,
    /// And its port.
    pub port: u16,
}

/// How a service takes part in the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[non_exhaustive]
pub struct Connect {
    /// Whether it speaks mutual TLS by itself.
    #[serde(skip_serializing_if = "is_false")]
    pub native: bool,
    /// A sidecar to register with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sidecar_service: Option<Box<ServiceDefinition>>,
}

/// What a sidecar stands before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[non_exhaustive]
pub struct Proxy {
    /// The service that it serves.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub destination_service_name: String,
    /// The instance that it serves.
    #[serde(rename = "DestinationServiceID", skip_serializing_if = "String::is_empty")]
    pub destination_service_id: String,
    /// Where that instance listens. 127.0.0.1.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub local_service_address: String,
    /// And on which port.
    #[serde(skip_serializing_if = "is_port_zero")]
    pub local_service_port: u16,
    /// Settings of the proxy, kept as they are.
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    pub config: serde_json::Map<String, Value>,
    /// What its service calls.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub upstreams: Vec<Upstream>,
    /// Kept as it is.
    pub mesh_gateway: serde_json::Map<String, Value>,
    /// Kept as it is.
    pub expose: serde_json::Map<String, Value>,
}

/// A destination that a sidecar offers to its service on a local port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[non_exhaustive]
pub struct Upstream {
    /// `service` or `prepared_query`. `service`.
    pub destination_type: String,
    /// The service's or the query's name.
    pub destination_name: String,
    /// Another namespace than the service's own.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub destination_namespace: String,
    /// Another datacenter than the service's own.
    pub datacenter: String,
    /// Where the sidecar listens for its service. 127.0.0.1.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub local_bind_address: String,
    /// And on which port.
    pub local_bind_port: u16,
    /// Settings of this upstream, kept as they are.
    #[serde(with = "super::null")]
    pub config: serde_json::Map<String, Value>,
    /// Kept as it is.
    pub mesh_gateway: serde_json::Map<String, Value>,
}

/// A service as it is registered at an agent, or written into a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[non_exhaustive]
pub struct ServiceDefinition {
    /// What kind of a service it is.
    #[serde(skip_serializing_if = "ServiceKind::is_typical")]
    pub kind: ServiceKind,
    /// The instance's key at the agent; the name where it is empty.
    #[serde(rename = "ID", skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// The service's name. Required.
    #[serde(alias = "Service", skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Labels to query by.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Where it is reached; the node's address where empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// Further addresses by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tagged_addresses: BTreeMap<String, ServiceAddress>,
    /// Whatever its owner wants to say of it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<String, String>,
    /// The port that it serves on.
    #[serde(skip_serializing_if = "is_port_zero")]
    pub port: u16,
    /// Its share of the calls, by health.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<Weights>,
    /// Whether others may change the tags in the catalog.
    #[serde(skip_serializing_if = "is_false")]
    pub enable_tag_override: bool,
    /// How its health is found out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<CheckDefinition>,
    /// Further checks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckDefinition>,
    /// For a sidecar: what it stands before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
    /// How it takes part in the mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect: Option<Connect>,
    /// Token to register it with. Never told back.
    #[serde(skip_serializing)]
    pub token: Token,
}

/// An instance of a service as the catalog keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[non_exhaustive]
pub struct NodeService {
    /// What kind of a service it is.
    #[serde(skip_serializing_if = "ServiceKind::is_typical")]
    pub kind: ServiceKind,
    /// Its key on its node.
    #[serde(rename = "ID")]
    pub id: String,
    /// The service's name.
    #[serde(rename = "Service")]
    pub name: String,
    /// Labels to query by.
    pub tags: Vec<String>,
    /// Where it is reached; the node's address where empty.
    pub address: String,
    /// Further addresses by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tagged_addresses: BTreeMap<String, ServiceAddress>,
    /// Whatever its owner wants to say of it.
    #[serde(with = "super::null")]
    pub meta: BTreeMap<String, String>,
    /// The port that it serves on.
    pub port: u16,
    /// Its share of the calls, by health.
    pub weights: Weights,
    /// Whether others may change the tags in the catalog.
    pub enable_tag_override: bool,
    /// For a sidecar: what it stands before.
    pub proxy: Proxy,
    /// How it takes part in the mesh.
    pub connect: Connect,
    /// The revision that made it.
    pub create_index: u64,
    /// The revision that changed it last.
    pub modify_index: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_port_zero(port: &u16) -> bool {
    *port == 0
}
