//! One endpoint as a file writes it.

use mesh_core::{Declared, EndpointSpec, Locality};
use serde::de::value::{MapAccessDeserializer, MapDeserializer, StrDeserializer};
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;

/// One endpoint of an endpoint file: `ip:port`, or a map with more.
#[derive(Clone, Debug)]
pub(super) struct Entry(Body);

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Entry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("ip:port, or a map with `address`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Entry, E> {
                let address = StrDeserializer::new(text);
                Body::deserialize(MapDeserializer::new([("address", address)].into_iter()))
                    .map(Entry)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Entry, A::Error> {
                Body::deserialize(MapAccessDeserializer::new(map)).map(Entry)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// The fields are explained in the [module docs](super); those that the configuration's list of
/// endpoints has too are named alike.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Body {
    address: SocketAddr,
    #[serde(default)]
    additional_addresses: Vec<SocketAddr>,
    hostname: Option<String>,
    #[serde(default = "one")]
    weight: NonZeroU32,
    #[serde(default)]
    priority: u32,
    #[serde(default)]
    locality: Place,
    #[serde(default)]
    health: Health,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Place {
    region: String,
    zone: String,
    sub_zone: String,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
enum Health {
    #[default]
    Healthy,
    Degraded,
    Draining,
    Unhealthy,
}

const fn one() -> NonZeroU32 {
    NonZeroU32::MIN
}

impl From<Entry> for EndpointSpec {
    fn from(Entry(entry): Entry) -> Self {
        let Place { region, zone, sub_zone } = entry.locality;
        let mut spec = Self::new(entry.address)
            .with_weight(entry.weight.get())
            .with_priority(entry.priority)
            .with_locality(Locality::new(region, zone, sub_zone))
            .with_declared(match entry.health {
                Health::Healthy => Declared::Healthy,
                Health::Degraded => Declared::Degraded,
                Health::Draining => Declared::Draining,
                Health::Unhealthy => Declared::Unhealthy,
            })
            .with_metadata(entry.metadata);
        for address in entry.additional_addresses {
            spec = spec.with_address(address);
        }
        if let Some(hostname) = entry.hostname {
            spec = spec.with_hostname(hostname);
        }
        spec
    }
}
