//! Response fields that ask for a retry.
//!
//! ```yaml
//! retry:
//!   retriableHeaders: [{ name: x-try-again }, { name: x-shed, value: "now" }]
//! ```
//!
//! A response meets the condition, whatever its status, if it carries one of the fields, with that
//! value where one is given. Source: Envoy `retriable-headers`.

use http::{HeaderMap, HeaderName};
use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// A response field that asks for a retry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct RetriableHeader {
    /// Its name.
    #[serde(deserialize_with = "name", serialize_with = "text")]
    #[schemars(with = "String")]
    pub name: HeaderName,
    /// Its whole value; none: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

impl RetriableHeader {
    /// A field with any value.
    #[must_use]
    pub const fn named(name: HeaderName) -> Self {
        Self { name, value: None }
    }

    /// Whether a response carries it.
    #[must_use]
    pub fn is_in(&self, headers: &HeaderMap) -> bool {
        match &self.value {
            None => headers.contains_key(&self.name),
            Some(value) => headers.get_all(&self.name).iter().any(|one| one == value.as_str()),
        }
    }
}

fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<HeaderName, D::Error> {
    let text = String::deserialize(deserializer)?;
    HeaderName::from_bytes(text.as_bytes())
        .map_err(|_| D::Error::custom(format!("`{}` is no field name", text.escape_debug())))
}

fn text<S: serde::Serializer>(name: &HeaderName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name.as_str())
}
