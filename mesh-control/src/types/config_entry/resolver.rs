//! `service-resolver`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::is_default;
use crate::types::GoDuration;

/// Who serves a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ServiceResolver {
    /// The service.
    pub name: String,
    /// The subset of calls that name none. All instances.
    #[serde(skip_serializing_if = "is_default")]
    pub default_subset: String,
    /// Parts of its instances by name.
    #[serde(skip_serializing_if = "is_default")]
    pub subsets: BTreeMap<String, ResolverSubset>,
    /// Another service that gets all calls.
    #[serde(skip_serializing_if = "is_default")]
    pub redirect: Option<Redirect>,
    /// Who gets the calls while no instance can take one, by subset; `*` is any.
    #[serde(skip_serializing_if = "is_default")]
    pub failover: BTreeMap<String, Failover>,
    /// How long connecting may take.
    #[serde(skip_serializing_if = "is_default")]
    pub connect_timeout: GoDuration,
    /// How long a call may last.
    #[serde(skip_serializing_if = "is_default")]
    pub request_timeout: GoDuration,
    /// How an instance is chosen.
    #[serde(skip_serializing_if = "is_default")]
    pub load_balancer: Option<LoadBalancer>,
    /// For people and tools.
    #[serde(skip_serializing_if = "is_default")]
    pub meta: BTreeMap<String, String>,
}

/// A part of the instances.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ResolverSubset {
    /// Which ones. All.
    #[serde(skip_serializing_if = "is_default")]
    pub filter: String,
    /// Whether those with a warning are left out.
    #[serde(skip_serializing_if = "is_default")]
    pub only_passing: bool,
}

/// Another service that gets all calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Redirect {
    /// Its name. The same.
    #[serde(skip_serializing_if = "is_default")]
    pub service: String,
    /// A subset of it.
    #[serde(skip_serializing_if = "is_default")]
    pub service_subset: String,
    /// Its namespace. The same.
    #[serde(skip_serializing_if = "is_default")]
    pub namespace: String,
    /// Its datacenter. The same.
    #[serde(skip_serializing_if = "is_default")]
    pub datacenter: String,
}

/// Who gets the calls while no instance can take one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Failover {
    /// The service. The same.
    #[serde(skip_serializing_if = "is_default")]
    pub service: String,
    /// A subset of it.
    #[serde(skip_serializing_if = "is_default")]
    pub service_subset: String,
    /// The namespace of the service. The same.
    #[serde(skip_serializing_if = "is_default")]
    pub namespace: String,
    /// Other datacenters, the preferred first.
    #[serde(skip_serializing_if = "is_default")]
    pub datacenters: Vec<String>,
    /// Several, the preferred first.
    #[serde(skip_serializing_if = "is_default")]
    pub targets: Vec<FailoverTarget>,
}

/// One of several.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
#[non_exhaustive]
pub struct FailoverTarget {
    /// The service. The same.
    #[serde(skip_serializing_if = "is_default")]
    pub service: String,
    /// A subset of it.
    #[serde(skip_serializing_if = "is_default")]
    pub service_subset: String,
    /// The namespace of the service. The same.
    #[serde(skip_serializing_if = "is_default")]
    pub namespace: String,
    /// The datacenter of the service. The same.
    #[serde(skip_serializing_if = "is_default")]
    pub datacenter: String,
}

/// How an instance is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LoadBalancer {
    /// `random`, `round_robin`, `least_request`, `ring_hash` or `maglev`.
    #[serde(skip_serializing_if = "is_default")]
    pub policy: String,
    /// Of `least_request`.
    #[serde(skip_serializing_if = "is_default")]
    pub least_request_config: Option<LeastRequestConfig>,
    /// Of `ring_hash`.
    #[serde(skip_serializing_if = "is_default")]
    pub ring_hash_config: Option<RingHashConfig>,
    /// What the hash of a call is made from.
    #[serde(skip_serializing_if = "is_default")]
    pub hash_policies: Vec<HashPolicy>,
}

/// Of `least_request`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LeastRequestConfig {
    /// How many are compared.
    #[serde(skip_serializing_if = "is_default")]
    pub choice_count: u32,
}

/// Of `ring_hash`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RingHashConfig {
    /// Fewest places on the ring.
    #[serde(skip_serializing_if = "is_default")]
    pub minimum_ring_size: u64,
    /// Most places on the ring.
    #[serde(skip_serializing_if = "is_default")]
    pub maximum_ring_size: u64,
}

/// What a hash is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
#[non_exhaustive]
pub struct HashPolicy {
    /// `header`, `cookie` or `query_parameter`.
    #[serde(skip_serializing_if = "is_default")]
    pub field: String,
    /// Its name.
    #[serde(skip_serializing_if = "is_default")]
    pub field_value: String,
    /// How a cookie is made.
    #[serde(skip_serializing_if = "is_default")]
    pub cookie_config: Option<CookieConfig>,
    /// The address of the caller.
    #[serde(rename = "SourceIP", skip_serializing_if = "is_default")]
    pub source_ip: bool,
    /// Whether later ones are ignored once there is a hash.
    #[serde(skip_serializing_if = "is_default")]
    pub terminal: bool,
}

/// How a cookie is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
#[non_exhaustive]
pub struct CookieConfig {
    /// One without a life time.
    #[serde(skip_serializing_if = "is_default")]
    pub session: bool,
    /// Its life time.
    #[serde(rename = "TTL", skip_serializing_if = "is_default")]
    pub ttl: GoDuration,
    /// Its path.
    #[serde(skip_serializing_if = "is_default")]
    pub path: String,
}
