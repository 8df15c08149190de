//! Percentages as whole numbers from 0 to 100.
//!
//! For a field: `#[serde(deserialize_with = "percent::deserialize")]` and
//! `#[schemars(with = "percent::Number")]`; for an `Option`, [`optional`] and
//! `Option<percent::Number>`.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;

/// For serde: reads a whole number from 0 to 100.
///
/// # Errors
/// When the number is out of that range.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    checked(u64::deserialize(deserializer)?)
}

/// As [`deserialize`], or nothing.
///
/// # Errors
/// When the number is out of that range.
pub fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u8>, D::Error> {
    Option::<u64>::deserialize(deserializer)?.map(checked).transpose()
}

fn checked<E: serde::de::Error>(number: u64) -> Result<u8, E> {
    u8::try_from(number)
        .ok()
        .filter(|percent| *percent <= 100)
        .ok_or_else(|| E::custom(format!("{number} is not a percentage from 0 to 100")))
}

/// The schema of a percentage.
#[derive(Debug)]
#[non_exhaustive]
pub struct Number;

impl JsonSchema for Number {
    fn schema_name() -> Cow<'static, str> {
        "Percent".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 0, "maximum": 100 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_numbers_up_to_100() {
        for (text, percent) in [("0", Some(0)), ("100", Some(100)), ("101", None), ("-1", None)] {
            let mut reader = serde_json::Deserializer::from_str(text);
            assert_eq!(deserialize(&mut reader).ok(), percent, "{text}");
        }
    }
}
