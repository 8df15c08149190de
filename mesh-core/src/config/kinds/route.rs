//! Routes as they are written: `HTTPRoute`, `GRPCRoute`, `TCPRoute` and `TLSRoute`, with the bodies of
//! Gateway API.

use crate::config::de::Located;
use crate::config::filters::{FractionOf, RouteFilter};
use crate::config::span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// What a route is attached to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct ParentRef {
    /// Its API group; empty for a Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<Located<String>>,
    /// `Service`. (Gateway API takes `Gateway` for granted, which is not supported yet.)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<Located<String>>,
    /// Its name.
    pub(crate) name: Located<String>,
    /// Its namespace. That of the route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<Located<String>>,
    /// Accepted for files from a cluster: a Service here has no ports, its endpoints do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) port: Option<u16>,
}

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct BackendRef {
    /// Its API group; empty for a Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<Located<String>>,
    /// `Service`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<Located<String>>,
    /// Its name.
    pub(crate) name: Located<String>,
    /// Its namespace. That of the route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<Located<String>>,
    /// Accepted for files from a cluster: a Service here has no ports, its endpoints do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) port: Option<u16>,
    /// Its share: weight over the sum of weights, at most 1,000,000; 0 is none. 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) weight: Option<Located<u32>>,
    /// What is done to the requests that go here, and to their responses. Nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) filters: Vec<Located<RouteFilter>>,
    /// Labels of the endpoints that take the calls, by the subsets of its policy; of several the
    /// first for which there are endpoints. Any endpoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) subsets: Vec<Located<BTreeMap<String, String>>>,
}

/// `HTTPRoute`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct HttpRouteSpec {
    /// The Services whose calls it decides on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) parent_refs: Vec<Located<ParentRef>>,
    /// Further hosts whose calls it decides on: names, `*.suffix`, or `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) hostnames: Vec<Located<String>>,
    /// Its rules; the most specific match decides, not the order.
    pub(crate) rules: Vec<Located<HttpRule>>,
}

/// One rule of an `HTTPRoute`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct HttpRule {
    /// Its name in labels and logs. Its position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<Located<String>>,
    /// Any of these selects it. Every request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) matches: Vec<Located<HttpMatch>>,
    /// What is done to requests and responses on their way. Nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) filters: Vec<Located<RouteFilter>>,
    /// Where requests go.
    #[serde(default)]
    pub(crate) backend_refs: Vec<Located<BackendRef>>,
    /// How long a call may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) timeouts: Option<HttpTimeouts>,
    /// Whether and how it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) retry: Option<HttpRetry>,
}

/// Timeouts of a rule (GEP-1742).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct HttpTimeouts {
    /// Of the call, with all attempts.
    #[serde(with = "span::optional", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<span::Text>")]
    pub(crate) request: Option<Duration>,
    /// Of each attempt.
    #[serde(with = "span::optional", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<span::Text>")]
    pub(crate) backend_request: Option<Duration>,
}

/// Retries of a rule (GEP-1731).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct HttpRetry {
    /// The statuses that are tried again, 400 to 599.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) codes: Option<Vec<u16>>,
    /// How many attempts more than the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) attempts: Option<u32>,
    /// Least pause before an attempt.
    #[serde(with = "span::optional", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<span::Text>")]
    pub(crate) backoff: Option<Duration>,
}

/// Conditions that must all hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct HttpMatch {
    /// On the path. Any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<Located<HttpPathMatch>>,
    /// On the method. Any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) method: Option<Located<String>>,
    /// On headers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) headers: Vec<Located<NamedMatch>>,
    /// On query parameters.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) query_params: Vec<Located<NamedMatch>>,
    /// On cookies. Not in Gateway API.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) cookies: Vec<Located<NamedMatch>>,
    /// Only this share of the requests that meet the others; the rest goes on to later matches.
    /// All. Not in Gateway API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fraction: Option<Located<FractionOf>>,
}

/// A condition on the path.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct HttpPathMatch {
    /// How it is compared. `PathPrefix`.
    #[serde(rename = "type")]
    pub(crate) kind: PathMatchType,
    /// With what. `/`.
    pub(crate) value: Option<Located<String>>,
}

impl HttpPathMatch {
    /// The text to compare with.
    pub(crate) fn text(&self) -> &str {
        self.value.as_ref().map_or("/", |value| value)
    }
}

/// How a path is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) enum PathMatchType {
    /// Letter by letter.
    Exact,
    /// By whole segments from the start.
    #[default]
    PathPrefix,
    /// By an expression that must cover it wholly.
    RegularExpression,
}

/// How a text is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) enum MatchType {
    /// Letter by letter.
    #[default]
    Exact,
    /// By an expression that must cover it wholly.
    RegularExpression,
}

/// A condition on a header or query parameter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct NamedMatch {
    /// How it is compared. `Exact`.
    #[serde(default, rename = "type")]
    pub(crate) kind: MatchType,
    /// Of the header or parameter.
    pub(crate) name: Located<String>,
    /// With what.
    pub(crate) value: Located<String>,
}

/// `GRPCRoute`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct GrpcRouteSpec {
    /// The Services whose calls it decides on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) parent_refs: Vec<Located<ParentRef>>,
    /// Further hosts whose calls it decides on: names, `*.suffix`, or `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) hostnames: Vec<Located<String>>,
    /// Its rules; the most specific match decides, not the order.
    pub(crate) rules: Vec<Located<GrpcRule>>,
}

/// One rule of a `GRPCRoute`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct GrpcRule {
    /// Its name in labels and logs. Its position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<Located<String>>,
    /// Any of these selects it. Every gRPC call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) matches: Vec<Located<GrpcMatch>>,
    /// What is done to requests and responses on their way. Nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) filters: Vec<Located<RouteFilter>>,
    /// Where calls go.
    #[serde(default)]
    pub(crate) backend_refs: Vec<Located<BackendRef>>,
}

/// Conditions that must all hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct GrpcMatch {
    /// On service and method. Any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) method: Option<Located<GrpcMethodMatch>>,
    /// On headers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) headers: Vec<Located<NamedMatch>>,
}

/// A condition on service and method; at least one of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct GrpcMethodMatch {
    /// How they are compared. `Exact`.
    #[serde(rename = "type")]
    pub(crate) kind: MatchType,
    /// Full name of the service, with its package.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) service: Option<Located<String>>,
    /// Name of the method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) method: Option<Located<String>>,
}

/// `TCPRoute`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct TcpRouteSpec {
    /// The Services whose connections it decides on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) parent_refs: Vec<Located<ParentRef>>,
    /// Exactly one.
    pub(crate) rules: Vec<Located<TcpRule>>,
}

/// The rule of a `TCPRoute`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct TcpRule {
    /// Its name in labels and logs. Its position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<Located<String>>,
    /// Where connections go.
    #[serde(default)]
    pub(crate) backend_refs: Vec<Located<BackendRef>>,
}

/// `TLSRoute`: connections by the name that a TLS client asks for, without ending TLS.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct TlsRouteSpec {
    /// The Services on whose listeners it decides. Listeners without a Service take every route.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) parent_refs: Vec<Located<ParentRef>>,
    /// The names that clients ask for (SNI): names, `*.suffix`, or `*`. At least one.
    pub(crate) hostnames: Vec<Located<String>>,
    /// Exactly one.
    pub(crate) rules: Vec<Located<TcpRule>>,
}
