//! Maps that Consul tells as `null` while they are empty.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

/// What can be empty.
pub(super) trait Empty {
    fn empty(&self) -> bool;
}

impl<K, V> Empty for BTreeMap<K, V> {
    fn empty(&self) -> bool {
        self.is_empty()
    }
}

impl Empty for Map<String, Value> {
    fn empty(&self) -> bool {
        self.is_empty()
    }
}

pub(super) fn serialize<T: Empty + Serialize, S: Serializer>(
    value: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    if value.empty() { serializer.serialize_none() } else { value.serialize(serializer) }
}

pub(super) fn deserialize<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}
