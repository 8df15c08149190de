//! Consul's configuration entries of the discovery chain, as they are written (as YAML or JSON).
//!
//! What they say is compiled to the same rules as routes. Keys of Consul that nothing acts on here
//! are refused, as all unknown keys are.

mod resolver;
mod router;
mod span;

pub(crate) use resolver::{
    ConsulFailover, ConsulHashPolicy, ConsulLoadBalancer, FailoverTarget, HashField,
    LoadBalancerPolicy, ServiceResolver, Subset,
};
pub(crate) use router::{
    ConsulDestination, ConsulHeader, ConsulHttpMatch, ConsulQuery, ConsulRoute, ServiceRouter,
};

use super::de::Located;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `service-splitter`: the shares in which the calls of a service go to others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub(crate) struct ServiceSplitter {
    /// `service-splitter`.
    pub(crate) kind: String,
    /// The service.
    pub(crate) name: Located<String>,
    /// Its namespace. `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<String>,
    /// For people and tools; nothing here reads them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) meta: BTreeMap<String, String>,
    /// The shares; their weights sum up to 100.
    pub(crate) splits: Vec<Located<Split>>,
}

/// One share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub(crate) struct Split {
    /// In percent, in steps of 0.01.
    pub(crate) weight: Located<f64>,
    /// The service that gets it, and may split it further. That of the splitter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) service: Option<Located<String>>,
    /// The subset that gets it; nothing is split further then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) service_subset: Option<Located<String>>,
    /// The namespace of the service. That of the splitter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<String>,
    /// Edits of the fields of requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) request_headers: Option<HeaderModifiers>,
    /// Edits of the fields of responses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) response_headers: Option<HeaderModifiers>,
}

/// Edits of fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "PascalCase")]
pub(crate) struct HeaderModifiers {
    /// Fields that get this value beside those they have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) add: BTreeMap<String, Located<String>>,
    /// Fields that get this value and no other.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) set: BTreeMap<String, Located<String>>,
    /// Names of fields that go.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) remove: Vec<Located<String>>,
}
