//! Server policy: how a service receives calls.

use super::span;
use crate::criticality::Criticality;
use crate::{concurrency, rate_limit, shed};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How a service receives calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct ServerPolicy {
    /// Calls served at once; further ones are shed with 503, or RESOURCE_EXHAUSTED for gRPC, at
    /// least 1. Not limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_requests: Option<u32>,
    /// Finds the limit of calls served at once by their latency; `maxRequests` bounds it besides.
    /// Off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive_concurrency: Option<concurrency::Config>,
    /// Lets calls above the limit wait for a short time instead of refusing them at once, and sheds
    /// the least critical first. Needs a limit. Off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shedding: Option<shed::Config>,
    /// How many calls may come in a span of time; refused with 429, or RESOURCE_EXHAUSTED for gRPC.
    /// Not limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<rate_limit::Config>,
    /// How critical a call is that does not say so, or is not believed: what an overload sheds
    /// first. As `Critical`, without telling further hops.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub criticality: Option<Criticality>,
    /// Longest a call may be served. Not limited.
    #[serde(with = "span::optional", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<span::Text>")]
    pub timeout: Option<Duration>,
    /// Whether deadline, criticality and trace that callers send are taken over; false at an edge.
    /// true.
    pub trust_callers: bool,
    /// Who is told, with the answer, how busy the server is. `Asked`.
    pub load_reports: LoadReports,
    /// How long calls in flight may take to end when the server stops. 30 s.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub drain_timeout: Duration,
}

/// Who gets reports of a server's load, in the words of ORCA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub enum LoadReports {
    /// Callers that ask, by `endpoint-load-metrics-format`, and are believed (`trustCallers`) or have
    /// proved an identity.
    #[default]
    Asked,
    /// Every caller: gRPC and Envoy use reports without asking for them.
    Always,
    /// Nobody; nothing is counted.
    Never,
}

impl Default for ServerPolicy {
    fn default() -> Self {
        Self {
            max_requests: None,
            adaptive_concurrency: None,
            shedding: None,
            rate_limit: None,
            criticality: None,
            timeout: None,
            trust_callers: true,
            load_reports: LoadReports::Asked,
            drain_timeout: Duration::from_secs(30),
        }
    }
}
