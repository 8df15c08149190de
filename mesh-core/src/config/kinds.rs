//! The kinds of objects that a file can hold, as they are written.
//!
//! Ours are `mesh/v1`; routes have the bodies of Gateway API, whose `apiVersion` they carry.

mod listener;
mod route;
mod service;
mod target;

pub(crate) use self::listener::ListenerSpec;
pub use self::listener::{Direction, ListenerProtocol};
pub(crate) use self::route::{
    BackendRef, GrpcMatch, GrpcRouteSpec, HttpMatch, HttpRouteSpec, HttpTimeouts, MatchType,
    NamedMatch, ParentRef, PathMatchType, TcpRouteSpec, TcpRule, TlsRouteSpec,
};
pub use self::service::AppProtocol;
pub(crate) use self::service::{ConsulEndpoints, EndpointBody, EndpointEntry, ServiceSpec, Tls};
pub(crate) use self::target::{TargetKind, TargetRef};
use super::de::Located;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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
