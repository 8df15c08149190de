//! `service-router`: which calls of a service go where.

use super::HeaderModifiers;
use super::span::Span;
use crate::config::de::Located;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `service-router`: routes for the calls of a service, of which the first that matches decides; what
/// none matches goes to the service itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub(crate) struct ServiceRouter {
    /// `service-router`.
    pub(crate) kind: String,
    /// The service.
    pub(crate) name: Located<String>,
    /// Its namespace. `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<String>,
    /// For people and tools; nothing here reads them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) meta: BTreeMap<String, String>,
    /// The routes.
    #[serde(default)]
    pub(crate) routes: Vec<Located<ConsulRoute>>,
}

/// One route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "PascalCase")]
pub(crate) struct ConsulRoute {
    /// What it takes. Everything.
    #[serde(rename = "Match", skip_serializing_if = "Option::is_none")]
    pub(crate) matched: Option<ConsulMatch>,
    /// Where that goes. To the service itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) destination: Option<Located<ConsulDestination>>,
}

/// What a route takes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ConsulMatch {
    /// Conditions on requests, which must all hold.
    #[serde(rename = "HTTP", skip_serializing_if = "Option::is_none")]
    pub(crate) http: Option<Located<ConsulHttpMatch>>,
}

/// Conditions on requests, which must all hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "PascalCase")]
pub(crate) struct ConsulHttpMatch {
    /// The path, letter by letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path_exact: Option<Located<String>>,
    /// How the path begins, as a text: `/a` begins `/ab` too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path_prefix: Option<Located<String>>,
    /// An expression that covers the whole path (RE2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path_regex: Option<Located<String>>,
    /// Whether upper and lower case are the same in `PathExact` and `PathPrefix`. No.
    pub(crate) case_insensitive: bool,
    /// On headers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) header: Vec<Located<ConsulHeader>>,
    /// On query parameters.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) query_param: Vec<Located<ConsulQuery>>,
    /// Any of these methods. Any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) methods: Vec<Located<String>>,
}

/// A condition on a header: one of `Present`, `Exact`, `Prefix`, `Suffix`, `Regex`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub(crate) struct ConsulHeader {
    /// Its name.
    pub(crate) name: Located<String>,
    /// It is there.
    #[serde(default)]
    pub(crate) present: bool,
    /// Its value, letter by letter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) exact: Option<Located<String>>,
    /// How its value begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) prefix: Option<Located<String>>,
    /// How its value ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) suffix: Option<Located<String>>,
    /// An expression that covers its whole value (RE2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) regex: Option<Located<String>>,
    /// Whether the condition must not hold. No.
    #[serde(default)]
    pub(crate) invert: bool,
}

/// A condition on a query parameter: one of `Present`, `Exact`, `Regex`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub(crate) struct ConsulQuery {
    /// Its name.
    pub(crate) name: Located<String>,
    /// It is there.
    #[serde(default)]
    pub(crate) present: bool,
    /// Its value, letter by letter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) exact: Option<Located<String>>,
    /// An expression that covers its whole value (RE2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) regex: Option<Located<String>>,
}

/// Where a route sends what it takes, and how.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "PascalCase")]
pub(crate) struct ConsulDestination {
    /// The service, which may split it further. That of the router.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) service: Option<Located<String>>,
    /// A subset of it; nothing is split further then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) service_subset: Option<Located<String>>,
    /// The namespace of the service. That of the router.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<String>,
    /// What the endpoints see in place of `PathExact` or `PathPrefix`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prefix_rewrite: Option<Located<String>>,
    /// `timeouts.request`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) request_timeout: Option<Located<Span>>,
    /// `timeouts.streamIdle`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) idle_timeout: Option<Located<Span>>,
    /// `retry.attempts`. 1 if a condition is stated here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) num_retries: Option<Located<u32>>,
    /// `connect-failure` in `retry.on`.
    pub(crate) retry_on_connect_failure: bool,
    /// Words of `retry.on`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) retry_on: Vec<Located<String>>,
    /// Statuses of `retry.on`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) retry_on_status_codes: Vec<Located<u32>>,
    /// Edits of the fields of requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) request_headers: Option<HeaderModifiers>,
    /// Edits of the fields of responses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) response_headers: Option<HeaderModifiers>,
}
