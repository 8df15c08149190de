//! `service-resolver`: who serves a service, and how an endpoint is chosen.

use super::span::Span;
use crate::config::de::Located;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `service-resolver`: who serves a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub(crate) struct ServiceResolver {
    /// `service-resolver`.
    pub(crate) kind: String,
    /// The service.
    pub(crate) name: Located<String>,
    /// Its namespace. `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<String>,
    /// For people and tools; nothing here reads them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) meta: BTreeMap<String, String>,
    /// The subset of calls that name none. All endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) default_subset: Option<Located<String>>,
    /// Parts of its endpoints by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) subsets: BTreeMap<String, Located<Subset>>,
    /// Another service that gets all calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) redirect: Option<Located<ResolverRedirect>>,
    /// Who gets the calls while no endpoint can take one, by subset; `*` is any that is not named.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) failover: BTreeMap<String, Located<ConsulFailover>>,
    /// `timeouts.connect`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) connect_timeout: Option<Located<Span>>,
    /// `timeouts.request`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) request_timeout: Option<Located<Span>>,
    /// How an endpoint is chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) load_balancer: Option<Located<ConsulLoadBalancer>>,
}

/// A part of the endpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub(crate) struct Subset {
    /// `Service.Meta.KEY == VALUE`, several joined by `and`. All endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) filter: Option<Located<String>>,
    /// Whether endpoints with a warning are left out. No.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) only_passing: Option<Located<bool>>,
}

/// Another service that gets all calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub(crate) struct ResolverRedirect {
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) service: Option<Located<String>>,
    /// A subset of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) service_subset: Option<Located<String>>,
    /// Its namespace. The same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<String>,
}

/// Who gets the calls while no endpoint can take one: `Targets`, or one by the other keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "PascalCase")]
pub(crate) struct ConsulFailover {
    /// The service. The same, for another subset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) service: Option<Located<String>>,
    /// A subset of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) service_subset: Option<Located<String>>,
    /// The namespace of the service. That of the resolver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<String>,
    /// Several, of which the first that can take calls gets them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) targets: Vec<Located<FailoverTarget>>,
}

/// One of several.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "PascalCase")]
pub(crate) struct FailoverTarget {
    /// The service. The same, for another subset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) service: Option<Located<String>>,
    /// A subset of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) service_subset: Option<Located<String>>,
    /// The namespace of the service. That of the resolver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<String>,
}

/// How an endpoint is chosen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "PascalCase")]
pub(crate) struct ConsulLoadBalancer {
    /// `pick.policy`. That of the mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) policy: Option<Located<LoadBalancerPolicy>>,
    /// Of `least_request`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) least_request_config: Option<Located<LeastRequestConfig>>,
    /// Of `ring_hash`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ring_hash_config: Option<Located<RingHashConfig>>,
    /// `hash`: what the hash of a call is made from, for `ring_hash` and `maglev`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) hash_policies: Vec<Located<ConsulHashPolicy>>,
}

/// How an endpoint is chosen, by Consul's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LoadBalancerPolicy {
    /// `Random`.
    Random,
    /// `RoundRobin`.
    RoundRobin,
    /// `LeastRequest`.
    LeastRequest,
    /// `RingHash`.
    RingHash,
    /// `Maglev`.
    Maglev,
}

/// Of `least_request`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "PascalCase")]
pub(crate) struct LeastRequestConfig {
    /// `pick.choiceCount`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) choice_count: Option<Located<u32>>,
}

/// Of `ring_hash`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "PascalCase")]
pub(crate) struct RingHashConfig {
    /// `pick.ringHash.minimumRingSize`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) minimum_ring_size: Option<Located<u64>>,
    /// `pick.ringHash.maximumRingSize`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) maximum_ring_size: Option<Located<u64>>,
}

/// What a hash is made from: `Field` with `FieldValue`, or `SourceIP`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "PascalCase")]
pub(crate) struct ConsulHashPolicy {
    /// What kind of thing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) field: Option<Located<HashField>>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) field_value: Option<Located<String>>,
    /// How a cookie is made for calls that lack it. None is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cookie_config: Option<Located<CookieConfig>>,
    /// The IP address of the caller. No.
    #[serde(rename = "SourceIP")]
    pub(crate) source_ip: bool,
    /// Whether later entries are ignored once there is a hash. No.
    pub(crate) terminal: bool,
}

/// A kind of thing that is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum HashField {
    /// A header field.
    Header,
    /// A cookie.
    Cookie,
    /// A query parameter.
    QueryParameter,
}

/// How a cookie is made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "PascalCase")]
pub(crate) struct CookieConfig {
    /// One without a life time. No.
    pub(crate) session: bool,
    /// Its life time.
    #[serde(rename = "TTL", skip_serializing_if = "Option::is_none")]
    pub(crate) ttl: Option<Located<Span>>,
    /// Its path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<Located<String>>,
}
