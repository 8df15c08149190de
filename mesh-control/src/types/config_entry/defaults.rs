//! `service-defaults` and `proxy-defaults`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::is_default;

/// What is said of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ServiceDefaults {
    /// The service.
    pub name: String,
    /// `tcp`, `http`, `http2` or `grpc`. That of the proxy defaults, or `tcp`.
    #[serde(skip_serializing_if = "is_default")]
    pub protocol: String,
    /// Kept as it is.
    pub mesh_gateway: MeshGateway,
    /// Kept as it is.
    pub expose: Expose,
    /// Kept as it is.
    #[serde(rename = "ExternalSNI", skip_serializing_if = "is_default")]
    pub external_sni: String,
    /// For people and tools.
    #[serde(skip_serializing_if = "is_default")]
    pub meta: BTreeMap<String, String>,
}

/// What is said of all proxies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ProxyDefaults {
    /// [`ProxyDefaults::NAME`].
    pub name: String,
    /// Settings of proxies; `protocol` is that of services that have none.
    #[serde(with = "crate::types::null")]
    pub config: Map<String, Value>,
    /// Kept as it is.
    pub mesh_gateway: MeshGateway,
    /// Kept as it is.
    pub expose: Expose,
    /// For people and tools.
    #[serde(skip_serializing_if = "is_default")]
    pub meta: BTreeMap<String, String>,
}

impl ProxyDefaults {
    /// The only name there is.
    pub const NAME: &'static str = "global";
}

/// How other datacenters are reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
#[non_exhaustive]
pub struct MeshGateway {
    /// `none`, `local` or `remote`.
    #[serde(skip_serializing_if = "is_default")]
    pub mode: String,
}

/// Paths that are served without identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Expose {
    /// Those of all checks.
    #[serde(skip_serializing_if = "is_default")]
    pub checks: bool,
    /// Others.
    #[serde(skip_serializing_if = "is_default")]
    pub paths: Vec<ExposePath>,
}

/// A path that is served without identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ExposePath {
    /// Where the proxy listens.
    #[serde(skip_serializing_if = "is_default")]
    pub listener_port: u16,
    /// The path.
    #[serde(skip_serializing_if = "is_default")]
    pub path: String,
    /// Where the service listens.
    #[serde(skip_serializing_if = "is_default")]
    pub local_path_port: u16,
    /// `http` or `http2`.
    #[serde(skip_serializing_if = "is_default")]
    pub protocol: String,
    /// Whether it comes from a check.
    pub parsed_from_check: bool,
}
