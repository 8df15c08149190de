//! Spans of time as text: `1m30s500ms`.
//!
//! One to four parts, each one to five digits and a unit of `h`, `m`, `s`, `ms`. No fractions, no
//! signs, no bare numbers; an absent field, not `0s`, means "none". Source: Gateway API GEP-2257.
//!
//! ```
//! use mesh_core::config::span;
//! use std::time::Duration;
//!
//! assert_eq!(span::parse("1m30s500ms")?, Duration::from_millis(90_500));
//! assert_eq!(span::format(Duration::from_millis(90_500)), "1m30s500ms");
//! assert!(span::parse("1.5s").is_err());
//! # Ok::<(), span::InvalidSpan>(())
//! ```
//!
//! For a field: `#[serde(with = "span")]` and `#[schemars(with = "span::Text")]`; for an
//! `Option`, [`optional`] and `Option<span::Text>`.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// The units, largest first, in milliseconds.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// The largest count of one part.
const MAX_COUNT: u64 = 99_999;

/// Reads a span.
///
/// # Errors
/// When the text is not one to four parts of one to five digits and a unit.
pub fn parse(text: &str) -> Result<Duration, InvalidSpan> {
    let invalid = |why| InvalidSpan { text: text.chars().take(40).collect(), why };
    let mut rest = text;
    let mut millis = 0;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (count, tail) = rest.split_at(digits);
        let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at(letters);
        if !(1..=5).contains(&digits) {
            return Err(invalid("each part is one to five digits and a unit"));
        }
        let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(invalid("the units are h, m, s and ms, without fractions"));
        };
        let count: u64 = count.parse().map_err(|_| invalid("a number does not fit"))?;
        millis += count * scale;
        parts += 1;
        rest = tail;
    }
    match parts {
        0 => Err(invalid("it is empty")),
        1..=4 => Ok(Duration::from_millis(millis)),
        _ => Err(invalid("it has more than four parts")),
    }
}

/// Writes a span; what is below a millisecond is cut off, and what exceeds the largest
/// span that can be written (`99999h59m59s999ms`) is cut to it.
#[must_use]
pub fn format(span: Duration) -> String {
    let longest = (MAX_COUNT + 1) * UNITS[0].1 - 1;
    let mut left = u64::try_from(span.as_millis()).unwrap_or(u64::MAX).min(longest);
    let mut text = String::new();
    for (unit, scale) in UNITS {
        if left >= scale {
            text.push_str(&(left / scale).to_string());
            text.push_str(unit);
            left %= scale;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// For serde: writes the field as text.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*span))
}

/// For serde: reads the field from text.
///
/// # Errors
/// When the text is no span.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse(&Cow::<'de, str>::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// For serde: a span that may be left out.
pub mod optional {
    use super::{Cow, Duration};
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes the field as text, or nothing.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(
        span: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match span {
            Some(span) => super::serialize(span, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// Reads the field from text; null is nothing.
    ///
    /// # Errors
    /// When the text is no span.
    pub fn deserialize<'de, De: Deserializer<'de>>(
        deserializer: De,
    ) -> Result<Option<Duration>, De::Error> {
        Option::<Cow<'de, str>>::deserialize(deserializer)?
            .map(|text| super::parse(&text).map_err(De::Error::custom))
            .transpose()
    }
}

/// The schema of a span.
#[derive(Debug)]
#[non_exhaustive]
pub struct Text;

impl JsonSchema for Text {
    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$" })
    }
}

/// A text that is no span, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidSpan {
    text: String,
    why: &'static str,
}

impl fmt::Display for InvalidSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is not a span of time like `1m30s500ms`: {}",
            self.text.escape_debug(),
            self.why
        )
    }
}

impl std::error::Error for InvalidSpan {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_the_standard() {
        for (text, millis) in [
            ("10h", 36_000_000),
            ("15s", 15_000),
            ("500ms", 500),
            ("2h45m", 9_900_000),
            ("2h30m10s500ms", 9_010_500),
            ("0s", 0),
            ("0h0m1s", 1_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in
            ["", "1", "1.5h", "-1s", "100000s", "1d", "1us", "s", "1h1h1h1h1h", "1 s", "1s "]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_longest_span_still_reads_back() {
        assert_eq!(format(Duration::MAX), "99999h59m59s999ms");
        assert!(parse(&format(Duration::MAX)).is_ok());
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(millis in 0u64..359_999_999_999) {
            let span = Duration::from_millis(millis);
            prop_assert_eq!(parse(&format(span)), Ok(span));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,24}") {
            let _ = parse(&text);
        }
    }
}
