//! What a policy applies to, as it is written.

use crate::config::de::Located;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a policy applies to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct TargetRef {
    /// Its API group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<Located<String>>,
    /// `Mesh`, `Namespace`, `Service`, `HTTPRoute`, `GRPCRoute` or `TCPRoute`.
    pub(crate) kind: Located<TargetKind>,
    /// Its name; none for the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<Located<String>>,
}

/// Kind of what a policy applies to.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
pub(crate) enum TargetKind {
    /// Everything.
    #[default]
    Mesh,
    /// All of a namespace.
    Namespace,
    /// One destination.
    Service,
    /// Calls that one route decides on.
    #[serde(rename = "HTTPRoute")]
    HttpRoute,
    /// Calls that one route decides on.
    #[serde(rename = "GRPCRoute")]
    GrpcRoute,
    /// Connections that one route decides on.
    #[serde(rename = "TCPRoute")]
    TcpRoute,
}
