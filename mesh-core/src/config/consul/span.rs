//! Spans of time as Consul writes them: `1m30s`, `1.5s`, `500ms`; `0s` is none.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::borrow::Cow;
use std::time::Duration;

/// The units in nanoseconds (Go, `time.ParseDuration`).
const UNITS: [(&str, f64); 8] = [
    ("h", 3.6e12),
    ("ms", 1e6),
    ("m", 6e10),
    ("s", 1e9),
    ("us", 1e3),
    ("µs", 1e3),
    ("μs", 1e3),
    ("ns", 1.0),
];
/// Longest span: that of our own texts.
const MOST: f64 = 99_999.0 * 3.6e12;

/// A span of time; `None` if it is zero, which to Consul is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Option<Duration>);

impl Span {
    /// `None` if the text is no such span, or none of whole milliseconds.
    fn parse(text: &str) -> Option<Self> {
        let mut rest = text;
        let mut nanos = 0.0;
        if rest == "0" {
            return Some(Self(None));
        }
        if rest.is_empty() || rest.len() > 64 {
            return None;
        }
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
            let (number, tail) = rest.split_at(end);
            let number: f64 = number.parse().ok()?;
            // `ms` stands before `m`, which begins it.
            let (unit, scale) = UNITS.iter().find(|(unit, _)| tail.starts_with(unit))?;
            rest = tail.get(unit.len()..)?;
            nanos += number * scale;
        }
        let millis = (nanos / 1e6).round();
        let whole = (millis * 1e6 - nanos).abs() < 1.0;
        (whole && nanos <= MOST).then(|| {
            // The cast is of a whole number that is in range.
            let span = Duration::from_millis(millis as u64);
            Self((!span.is_zero()).then_some(span))
        })
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            let shown: String = text.chars().take(40).collect();
            de::Error::custom(format!(
                "`{}` is no span of whole milliseconds like `1m30s`",
                shown.escape_debug()
            ))
        })
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::super::span::format(self.0.unwrap_or_default()))
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "ConsulDuration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "description": "as in Go: `1m30s`, `1.5s`; `0s` is none" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_go_reads_them() {
        for (text, millis) in [
            ("30s", Some(30_000)),
            ("1m30s", Some(90_000)),
            ("1h0m0s", Some(3_600_000)),
            ("1.5s", Some(1_500)),
            ("15ms", Some(15)),
            ("2000us", Some(2)),
            ("99999h", Some(359_996_400_000)),
            ("0s", Some(0)),
            ("0", Some(0)),
            ("", None),
            ("5", None),
            ("-5s", None),
            ("1e9s", None),
            ("1us", None),
            ("1.2.3s", None),
            (".s", None),
            ("5 s", None),
            ("100000h", None),
            ("9999999999999999999999999999999999999999h", None),
            ("5d", None),
        ] {
            let span = Span::parse(text).map(|span| span.0.unwrap_or_default().as_millis());
            assert_eq!(span, millis, "{text}");
        }
    }
}
