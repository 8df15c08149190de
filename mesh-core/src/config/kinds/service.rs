//! `Service`: a destination as it is written, with its endpoints and how they are spoken to.

use crate::config::de::Located;
use crate::endpoint::Declared;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// `Service`: a destination, and where its endpoints come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct ServiceSpec {
    /// Where its endpoints come from: exactly one of `static`, `dns`, `file`, `consul`.
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
    /// A service in Consul's catalog; it is watched. The agent and its token come from the
    /// environment (`CONSUL_HTTP_ADDR`, `CONSUL_HTTP_TOKEN`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) consul: Option<Located<ConsulEndpoints>>,
}

/// Which instances of a service in Consul's catalog are endpoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct ConsulEndpoints {
    /// Its name in the catalog. That of the Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) service: Option<Located<String>>,
    /// Only instances that have this tag. All.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tag: Option<Located<String>>,
    /// Only instances that have all of these tags, besides `tag`. All.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tags: Vec<Located<String>>,
    /// The datacenter that is asked. That of the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) datacenter: Option<Located<String>>,
    /// Whether instances with a warning get no calls. They get them by their `Weights.Warning`.
    pub(crate) only_passing: bool,
    /// An expression of Consul that selects instances, which Consul itself checks
    /// (`Service.Meta.version == 2`). All.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) filter: Option<Located<String>>,
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
