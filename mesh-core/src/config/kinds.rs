//! The kinds of objects that a file can hold, as they are written.
//!
//! Ours are `mesh/v1`; routes have the bodies of Gateway API, whose `apiVersion` they carry.

use super::de::Located;
use super::filters::{FractionOf, RouteFilter};
use super::span;
use crate::endpoint::Declared;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// `apiVersion` of our own kinds.
pub(crate) const OURS: &str = "mesh/v1";
/// Group of Gateway API; the versions it has published routes under follow the slash.
pub(crate) const GATEWAY: &str = "gateway.networking.k8s.io";

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Service,
    HttpRoute,
    GrpcRoute,
    TcpRoute,
    TlsRoute,
    HttpRouteFilter,
    TrafficPolicy,
    ServerPolicy,
    Listener,
    /// Of Consul, without `apiVersion`.
    Router,
    /// Of Consul, without `apiVersion`.
    Splitter,
    /// Of Consul, without `apiVersion`.
    Resolver,
}

impl Kind {
    /// Those that are written with an `apiVersion`.
    pub(crate) const ALL: [Self; 9] = [
        Self::Service,
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::TcpRoute,
        Self::TlsRoute,
        Self::HttpRouteFilter,
        Self::TrafficPolicy,
        Self::ServerPolicy,
        Self::Listener,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TcpRoute => "TCPRoute",
            Self::TlsRoute => "TLSRoute",
            Self::HttpRouteFilter => "HTTPRouteFilter",
            Self::TrafficPolicy => "TrafficPolicy",
            Self::ServerPolicy => "ServerPolicy",
            Self::Listener => "Listener",
            Self::Router => "service-router",
            Self::Splitter => "service-splitter",
            Self::Resolver => "service-resolver",
        }
    }

    /// The values of `apiVersion` under which it is known, the preferred first.
    pub(crate) const fn versions(self) -> &'static [&'static str] {
        match self {
            Self::HttpRoute | Self::GrpcRoute | Self::TcpRoute | Self::TlsRoute => &[
                "gateway.networking.k8s.io/v1",
                "gateway.networking.k8s.io/v1beta1",
                "gateway.networking.k8s.io/v1alpha2",
            ],
            _ => &[OURS],
        }
    }
}

/// Who an object is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Metadata {
    /// Its name, unique among objects of its kind and namespace.
    pub(crate) name: Located<String>,
    /// Its namespace. `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<Located<String>>,
    /// For people and tools; nothing here reads them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) labels: BTreeMap<String, String>,
    /// For people and tools; nothing here reads them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
    /// When a cluster created it (RFC 3339); of two routes that match alike the older wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) creation_timestamp: Option<String>,
    /// Of the cluster it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) uid: Option<String>,
    /// Of the cluster it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) resource_version: Option<String>,
    /// Of the cluster it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) generation: Option<u64>,
}

/// `Service`: a destination, and where its endpoints come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct ServiceSpec {
    /// Where its endpoints come from: exactly one of `static`, `dns`, `file`.
    pub(crate) endpoints: Located<Endpoints>,
    /// What its endpoints speak. `http`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) app_protocol: Option<Located<AppProtocol>>,
    /// Further host names that stand for it, besides `name` and `name.namespace`; `*.suffix` is
    /// any name below the suffix. Ports are ignored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) hostnames: Vec<Located<String>>,
    /// TLS to its endpoints. Without it they are spoken to in plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tls: Option<Located<Tls>>,
    /// File with a `FileDescriptorSet` of its gRPC services (`protoc --descriptor_set_out`): methods
    /// that it declares idempotent (`idempotency_level`) may be sent again. It is read whenever the
    /// configuration is. None.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) descriptor_set: Option<Located<PathBuf>>,
}

/// Where endpoints come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Endpoints {
    /// The endpoints themselves.
    #[serde(default, rename = "static", skip_serializing_if = "Option::is_none")]
    pub(crate) fixed: Option<Vec<Located<EndpointEntry>>>,
    /// A DNS name: `name:port` by A and AAAA records, `name` alone by SRV records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) dns: Option<Located<String>>,
    /// A file that lists them; it is watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<Located<PathBuf>>,
}

/// One endpoint: `ip:port`, or a map with more.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct EndpointEntry(pub(crate) EndpointBody);

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct EndpointBody {
    /// `ip:port`.
    pub(crate) address: Located<String>,
    /// Its share of calls in relation to the others, at least 1. 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) weight: Option<Located<u32>>,
    /// 0 is used first, a higher one when no lower one can be used. 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) priority: Option<u32>,
    /// What is known of its health. `Healthy`.
    #[serde(default)]
    pub(crate) health: Declared,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) locality: Option<LocalityBody>,
    /// Its host name: with `tls`, and no `tls.serverName` or `tls.subjectAltNames`, the name asked
    /// for (SNI) and the one its certificate must bear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hostname: Option<Located<String>>,
    /// What else is known of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) metadata: BTreeMap<String, String>,
}

/// Region, zone and sub-zone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct LocalityBody {
    /// The region.
    pub(crate) region: String,
    /// The zone in it.
    pub(crate) zone: String,
    /// The part of the zone.
    pub(crate) sub_zone: String,
}

impl<'de> Deserialize<'de> for EndpointEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = EndpointEntry;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`ip:port`, or a map with `address`")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<EndpointEntry, E> {
                Ok(EndpointEntry(EndpointBody {
                    address: Located { value: text.to_owned(), ..Located::default() },
                    weight: None,
                    priority: None,
                    health: Declared::Healthy,
                    locality: None,
                    hostname: None,
                    metadata: BTreeMap::new(),
                }))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<EndpointEntry, A::Error> {
                EndpointBody::deserialize(MapAccessDeserializer::new(map)).map(EndpointEntry)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for EndpointEntry {
    fn schema_name() -> Cow<'static, str> {
        "Endpoint".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let body = generator.subschema_for::<EndpointBody>();
        json_schema!({ "anyOf": [{ "type": "string", "description": "ip:port" }, body] })
    }
}

/// What endpoints speak, by the words of Kubernetes' `appProtocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub enum AppProtocol {
    /// HTTP/1.1, or HTTP/2 where TLS agrees on it or a gRPC call needs it.
    #[serde(rename = "http")]
    Http,
    /// HTTP/2 without negotiation.
    #[serde(rename = "http2", alias = "h2c", alias = "kubernetes.io/h2c")]
    Http2,
    /// gRPC, which is HTTP/2.
    #[serde(rename = "grpc")]
    Grpc,
    /// HTTP/1.1 that is upgraded.
    #[serde(rename = "kubernetes.io/ws")]
    WebSocket,
    /// Bytes.
    #[serde(rename = "tcp")]
    Tcp,
}

/// TLS to endpoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Tls {
    /// The name asked for (SNI) and, without `subjectAltNames`, the one the certificate must
    /// bear. The host name of each endpoint (its `hostname`; with `dns` the name that was resolved,
    /// by SRV records the target), or else its IP address; never the host of the request.
    pub(crate) server_name: Option<Located<String>>,
    /// PEM file of the authorities that are trusted. Those of the system.
    pub(crate) ca: Option<Located<PathBuf>>,
    /// PEM file of the certificate to show.
    pub(crate) cert: Option<Located<PathBuf>>,
    /// PEM file of its key.
    pub(crate) key: Option<Located<PathBuf>>,
    /// DNS names, addresses or `spiffe://` identities of which the certificate must bear one.
    pub(crate) subject_alt_names: Vec<Located<String>>,
}

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

/// `Listener`: where a proxy accepts connections, and where they go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct ListenerSpec {
    /// `Inbound`: for the service beside the proxy. `Outbound`: for what it calls.
    pub(crate) direction: Direction,
    /// `ip:port`; port 0 lets the system choose.
    pub(crate) address: Located<String>,
    /// What is spoken. `auto`: HTTP, unless the Service takes bytes.
    #[serde(default)]
    pub(crate) protocol: ListenerProtocol,
    /// TLS of the listener. Without it plain text is spoken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tls: Option<Located<ListenerTlsBody>>,
    /// The Service that everything goes to, by its routes if it has some. Without it, the
    /// authority of each request decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) service: Option<Located<String>>,
}

/// The side of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub enum Direction {
    /// For the service beside the proxy.
    Inbound,
    /// For what the service beside the proxy calls.
    Outbound,
}

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum ListenerProtocol {
    /// As the Service of the listener says: bytes if it is `appProtocol: tcp`; with a `TCPRoute`
    /// attached to it, HTTP by the first bytes, and else bytes. In all other cases as `http`.
    #[default]
    Auto,
    /// HTTP/1 or HTTP/2; all else is refused.
    Http,
    /// Bytes, which nobody looks at.
    Tcp,
    /// TLS, which is not ended here: the name that the client asks for decides, by `TLSRoute`s.
    Tls,
}

/// TLS of a listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct ListenerTlsBody {
    /// PEM file of the certificate chain.
    pub(crate) cert: Located<PathBuf>,
    /// PEM file of its key.
    pub(crate) key: Located<PathBuf>,
    /// PEM file of authorities; with it, every client must show a certificate of one of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) client_ca: Option<Located<PathBuf>>,
}
