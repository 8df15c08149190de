//! `service-router`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::is_default;
use super::splitter::HeaderEdits;
use crate::types::GoDuration;

/// Which calls of a service go where: the first route that matches decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ServiceRouter {
    /// The service.
    pub name: String,
    /// The routes; what none matches goes to the service itself.
    pub routes: Vec<RouterRoute>,
    /// For people and tools.
    #[serde(skip_serializing_if = "is_default")]
    pub meta: BTreeMap<String, String>,
}

/// One route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RouterRoute {
    /// What it takes. Everything.
    #[serde(rename = "Match", skip_serializing_if = "is_default")]
    pub matches: Option<RouteMatch>,
    /// Where that goes. To the service itself.
    #[serde(skip_serializing_if = "is_default")]
    pub destination: Option<RouteDestination>,
}

/// What a route takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RouteMatch {
    /// Conditions on requests, which must all hold.
    #[serde(rename = "HTTP", skip_serializing_if = "is_default")]
    pub http: Option<HttpMatch>,
}

/// Conditions on requests, which must all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
#[non_exhaustive]
pub struct HttpMatch {
    /// The path, letter by letter.
    #[serde(skip_serializing_if = "is_default")]
    pub path_exact: String,
    /// How the path begins.
    #[serde(skip_serializing_if = "is_default")]
    pub path_prefix: String,
    /// An expression that covers the path.
    #[serde(skip_serializing_if = "is_default")]
    pub path_regex: String,
    /// Whether upper and lower case are the same in paths.
    #[serde(skip_serializing_if = "is_default")]
    pub case_insensitive: bool,
    /// On header fields.
    #[serde(skip_serializing_if = "is_default")]
    pub header: Vec<HeaderMatch>,
    /// On query parameters.
    #[serde(skip_serializing_if = "is_default")]
    pub query_param: Vec<QueryMatch>,
    /// Any of these methods. Any.
    #[serde(skip_serializing_if = "is_default")]
    pub methods: Vec<String>,
}

/// A condition on a header field.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
#[non_exhaustive]
pub struct HeaderMatch {
    /// Its name.
    pub name: String,
    /// It is there.
    #[serde(skip_serializing_if = "is_default")]
    pub present: bool,
    /// Its value.
    #[serde(skip_serializing_if = "is_default")]
    pub exact: String,
    /// How its value begins.
    #[serde(skip_serializing_if = "is_default")]
    pub prefix: String,
    /// How its value ends.
    #[serde(skip_serializing_if = "is_default")]
    pub suffix: String,
    /// An expression that covers its value.
    #[serde(skip_serializing_if = "is_default")]
    pub regex: String,
    /// Whether the condition must not hold.
    #[serde(skip_serializing_if = "is_default")]
    pub invert: bool,
}

/// A condition on a query parameter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
#[non_exhaustive]
pub struct QueryMatch {
    /// Its name.
    pub name: String,
    /// It is there.
    #[serde(skip_serializing_if = "is_default")]
    pub present: bool,
    /// Its value.
    #[serde(skip_serializing_if = "is_default")]
    pub exact: String,
    /// An expression that covers its value.
    #[serde(skip_serializing_if = "is_default")]
    pub regex: String,
}

/// Where a route sends what it takes, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RouteDestination {
    /// How long a call may last.
    #[serde(skip_serializing_if = "is_default")]
    pub request_timeout: GoDuration,
    /// How long a stream may stay silent.
    #[serde(skip_serializing_if = "is_default")]
    pub idle_timeout: GoDuration,
    /// The service. That of the router.
    #[serde(skip_serializing_if = "is_default")]
    pub service: String,
    /// A subset of it. The default one.
    #[serde(skip_serializing_if = "is_default")]
    pub service_subset: String,
    /// The namespace of the service. `default`.
    #[serde(skip_serializing_if = "is_default")]
    pub namespace: String,
    /// What the endpoints see in place of the path, or the prefix, that matched.
    #[serde(skip_serializing_if = "is_default")]
    pub prefix_rewrite: String,
    /// Attempts after the first.
    #[serde(skip_serializing_if = "is_default")]
    pub num_retries: u32,
    /// Whether a failed connection is tried again.
    #[serde(skip_serializing_if = "is_default")]
    pub retry_on_connect_failure: bool,
    /// What is tried again.
    #[serde(skip_serializing_if = "is_default")]
    pub retry_on: Vec<String>,
    /// Statuses that are tried again.
    #[serde(skip_serializing_if = "is_default")]
    pub retry_on_status_codes: Vec<u32>,
    /// Edits of the fields of requests.
    #[serde(skip_serializing_if = "is_default")]
    pub request_headers: Option<HeaderEdits>,
    /// Edits of the fields of responses.
    #[serde(skip_serializing_if = "is_default")]
    pub response_headers: Option<HeaderEdits>,
}

impl ServiceRouter {
    /// Methods are in capital letters, and destinations say their namespace.
    pub(super) fn canonicalize(&mut self) {
        for route in &mut self.routes {
            let http = route.matches.as_mut().and_then(|matches| matches.http.as_mut());
            for method in http.into_iter().flat_map(|http| &mut http.methods) {
                method.make_ascii_uppercase();
            }
            if let Some(destination) = &mut route.destination
                && destination.namespace.is_empty()
            {
                "default".clone_into(&mut destination.namespace);
            }
        }
    }
}
