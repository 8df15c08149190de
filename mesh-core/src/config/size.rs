//! Sizes as text: `64KiB`.
//!
//! A whole number and a unit of `B`, `KiB`, `MiB`, `GiB`. No fractions, no decimal units (`KB` and
//! `K` mean different things to different people), no bare numbers.
//!
//! ```
//! use mesh_core::config::size;
//!
//! assert_eq!(size::parse("64KiB")?, 65_536);
//! assert_eq!(size::format(65_536), "64KiB");
//! assert!(size::parse("64K").is_err());
//! # Ok::<(), size::InvalidSize>(())
//! ```
//!
//! For a field: `#[serde(with = "size")]` and `#[schemars(with = "size::Text")]`.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serializer};
use std::borrow::Cow;
use std::fmt;

/// The units, largest first, in bytes.
const UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads a size in bytes.
///
/// # Errors
/// When the text is not a whole number and a unit, or the size exceeds `u64`.
pub fn parse(text: &str) -> Result<u64, InvalidSize> {
    let invalid = |why| InvalidSize { text: text.chars().take(40).collect(), why };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at(digits);
    let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(invalid("the units are B, KiB, MiB and GiB, after a whole number"));
    };
    let count: u64 = count.parse().map_err(|_| invalid("a whole number goes before the unit"))?;
    count.checked_mul(*scale).ok_or_else(|| invalid("it is too large"))
}

/// Writes a size, in the largest unit that it is a multiple of.
#[must_use]
pub fn format(bytes: u64) -> String {
    UNITS
        .iter()
        .find(|(_, scale)| bytes >= *scale && bytes.is_multiple_of(*scale))
        .map_or_else(|| "0B".to_owned(), |(unit, scale)| format!("{}{unit}", bytes / scale))
}

/// For serde: writes the field as text.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(bytes: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*bytes))
}

/// For serde: reads the field from text.
///
/// # Errors
/// When the text is no size.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    parse(&Cow::<'de, str>::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// The schema of a size.
#[derive(Debug)]
#[non_exhaustive]
pub struct Text;

impl JsonSchema for Text {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB)$" })
    }
}

/// A text that is no size, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidSize {
    text: String,
    why: &'static str,
}

impl fmt::Display for InvalidSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not a size like `64KiB`: {}", self.text.escape_debug(), self.why)
    }
}

impl std::error::Error for InvalidSize {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_are_binary_and_explicit() {
        for (text, bytes) in [("0B", 0), ("1B", 1), ("64KiB", 65_536), ("2MiB", 2 << 20)] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
            assert_eq!(format(bytes), text);
        }
        for text in
            ["", "64", "64K", "64KB", "1.5MiB", "-1B", " 1B", "KiB", "18446744073709551615KiB"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(bytes: u64) {
            prop_assert_eq!(parse(&format(bytes)), Ok(bytes));
        }
    }
}
