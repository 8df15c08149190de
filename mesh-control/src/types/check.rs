//! Checks: as somebody defines them, and as the catalog keeps them.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::GoDuration;

/// How a check stands. The order is that of severity.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum CheckStatus {
    /// All is well.
    Passing,
    /// It serves, and somebody should look.
    Warning,
    /// It does not serve. What every check begins with.
    #[default]
    Critical,
}

impl CheckStatus {
    /// Consul's word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for CheckStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A check as it is registered: with exactly one way to find out how things are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[non_exhaustive]
pub struct CheckDefinition {
    /// Its key at the agent; the name where it is empty.
    #[serde(rename = "ID", alias = "CheckID", skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// What people call it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Free text.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub notes: String,
    /// The service that it is about; a check of the whole node where empty.
    #[serde(rename = "ServiceID", skip_serializing_if = "String::is_empty")]
    pub service_id: String,
    /// The state until the first result. Critical.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<CheckStatus>,

    /// Command and arguments of a script. Runs only where scripts are enabled.
    #[serde(alias = "ScriptArgs", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// URL to GET (or [`method`](Self::method)).
    #[serde(rename = "HTTP", skip_serializing_if = "String::is_empty")]
    pub http: String,
    /// Request headers of an HTTP check.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub header: BTreeMap<String, Vec<String>>,
    /// Method of an HTTP check. GET.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub method: String,
    /// Body of an HTTP check.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub body: String,
    /// `host:port` to connect to.
    #[serde(rename = "TCP", skip_serializing_if = "String::is_empty")]
    pub tcp: String,
    /// `host:port` to send a datagram to; an ICMP refusal is critical.
    #[serde(rename = "UDP", skip_serializing_if = "String::is_empty")]
    pub udp: String,
    /// `host:port[/service]` for `grpc.health.v1`.
    #[serde(rename = "GRPC", skip_serializing_if = "String::is_empty")]
    pub grpc: String,
    /// Whether the gRPC check speaks TLS.
    #[serde(rename = "GRPCUseTLS", skip_serializing_if = "is_false")]
    pub grpc_use_tls: bool,
    /// `host:port` for an HTTP/2 PING.
    #[serde(rename = "H2PING", alias = "H2Ping", skip_serializing_if = "String::is_empty")]
    pub h2_ping: String,
    /// Whether the PING goes over TLS. Yes.
    #[serde(rename = "H2PingUseTLS", skip_serializing_if = "Option::is_none")]
    pub h2_ping_use_tls: Option<bool>,
    /// Critical unless somebody says otherwise at least this often.
    #[serde(rename = "TTL", skip_serializing_if = "GoDuration::is_zero")]
    pub ttl: GoDuration,
    /// Node whose health this check repeats.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub alias_node: String,
    /// Service (ID) whose health this check repeats.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub alias_service: String,
    /// Name of a service of the operating system.
    #[serde(rename = "OSService", skip_serializing_if = "String::is_empty")]
    pub os_service: String,

    /// Time between the end of one run and the next.
    #[serde(skip_serializing_if = "GoDuration::is_zero")]
    pub interval: GoDuration,
    /// Longest a run may take. 10 s; scripts 30 s.
    #[serde(skip_serializing_if = "GoDuration::is_zero")]
    pub timeout: GoDuration,
    /// Whether certificates are not verified. They are.
    #[serde(rename = "TLSSkipVerify", skip_serializing_if = "is_false")]
    pub tls_skip_verify: bool,
    /// Name to send and verify in TLS; the host's where empty.
    #[serde(rename = "TLSServerName", skip_serializing_if = "String::is_empty")]
    pub tls_server_name: String,
    /// Bytes of output kept. 4,096.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_max_size: Option<u64>,
    /// Successes in a row before it passes. 0: at once.
    #[serde(skip_serializing_if = "is_zero")]
    pub success_before_passing: u32,
    /// Failures in a row before it warns. 0: at once.
    #[serde(skip_serializing_if = "is_zero")]
    pub failures_before_warning: u32,
    /// Failures in a row before it is critical. 0: at once.
    #[serde(skip_serializing_if = "is_zero")]
    pub failures_before_critical: u32,
    /// Time as critical after which its service is deregistered; never where zero.
    #[serde(skip_serializing_if = "GoDuration::is_zero")]
    pub deregister_critical_service_after: GoDuration,
}

/// A check as the catalog keeps and tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[non_exhaustive]
pub struct HealthCheck {
    /// The node that it is of.
    pub node: String,
    /// Its key on that node.
    #[serde(rename = "CheckID")]
    pub id: String,
    /// What people call it.
    pub name: String,
    /// How it stands.
    pub status: CheckStatus,
    /// Free text of its owner.
    pub notes: String,
    /// What the last run said, at most 4 KiB.
    pub output: String,
    /// The service instance that it is about; empty for a check of the node.
    #[serde(rename = "ServiceID")]
    pub service_id: String,
    /// That instance's service.
    pub service_name: String,
    /// That instance's tags.
    pub service_tags: Vec<String>,
    /// `http`, `tcp`, `ttl`, …; empty for what was registered from outside.
    #[serde(rename = "Type")]
    pub kind: String,
    /// How it is run, where the catalog was told.
    pub definition: HealthCheckDefinition,
    /// The revision that made it.
    pub create_index: u64,
    /// The revision that changed it last.
    pub modify_index: u64,
}

/// The part of a definition that the catalog keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[non_exhaustive]
pub struct HealthCheckDefinition {
    /// See [`CheckDefinition::interval`].
    #[serde(skip_serializing_if = "GoDuration::is_zero")]
    pub interval: GoDuration,
    /// See [`CheckDefinition::timeout`].
    #[serde(skip_serializing_if = "GoDuration::is_zero")]
    pub timeout: GoDuration,
    /// See [`CheckDefinition::deregister_critical_service_after`].
    #[serde(skip_serializing_if = "GoDuration::is_zero")]
    pub deregister_critical_service_after: GoDuration,
    /// See [`CheckDefinition::http`].
    #[serde(rename = "HTTP", skip_serializing_if = "String::is_empty")]
    pub http: String,
    /// See [`CheckDefinition::header`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub header: BTreeMap<String, Vec<String>>,
    /// See [`CheckDefinition::method`].
    #[serde(skip_serializing_if = "String::is_empty")]
    pub method: String,
    /// See [`CheckDefinition::body`].
    #[serde(skip_serializing_if = "String::is_empty")]
    pub body: String,
    /// See [`CheckDefinition::tls_skip_verify`].
    #[serde(rename = "TLSSkipVerify", skip_serializing_if = "is_false")]
    pub tls_skip_verify: bool,
    /// See [`CheckDefinition::tcp`].
    #[serde(rename = "TCP", skip_serializing_if = "String::is_empty")]
    pub tcp: String,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(value: &u32) -> bool {
    *value == 0
}
