//! Durations as Go writes and reads them: `1h0m0s`, `1.5s`, `300ms`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// A span of time in Go's notation. A bare number is nanoseconds, as in Consul's JSON.
///
/// Written the way Go does: the largest unit first, none left out between (`1m0s`).
///
/// Source: Go's `time.ParseDuration` and `Duration.String`. Negative spans are refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct GoDuration(pub Duration);

/// Why a text is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no duration: write a number with a unit, as in 10s, 1m30s or 500ms")]
pub struct GoDurationError {
    text: String,
}

impl GoDuration {
    /// This span.
    #[must_use]
    pub const fn new(span: Duration) -> Self {
        Self(span)
    }

    /// The name under which it asks to be decoded: what stands for a duration depends on who wrote it.
    pub(crate) const NAME: &'static str = "$mesh::GoDuration";

    /// No time at all.
    pub const ZERO: Self = Self(Duration::ZERO);

    /// Whether it is zero, which mostly stands for "not set".
    #[must_use]
    pub const fn is_zero(&self) -> bool {
        self.0.is_zero()
    }
}

impl FromStr for GoDuration {
    type Err = GoDurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || GoDurationError { text: text.chars().take(64).collect() };
        if text == "0" {
            return Ok(Self::ZERO);
        }
        let mut rest = text.strip_prefix('+').unwrap_or(text);
        if rest.is_empty() {
            return Err(wrong());
        }
        let mut nanos = 0_u128;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
            let (whole, after) = rest.split_at(digits);
            let (fraction, after) = match after.strip_prefix('.') {
                Some(after) => {
                    let end = after.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
                    after.split_at(end)
                }
                None => ("", after),
            };
            if whole.is_empty() && fraction.is_empty() {
                return Err(wrong());
            }
            let unit_end =
                after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
            let (unit, after) = after.split_at(unit_end);
            let unit: u128 = match unit {
                "ns" => 1,
                "us" | "µs" | "μs" => 1_000,
                "ms" => 1_000_000,
                "s" => 1_000_000_000,
                "m" => 60_000_000_000,
                "h" => 3_600_000_000_000,
                _ => return Err(wrong()),
            };
            let number = |digits: &str| -> Result<u128, GoDurationError> {
                if digits.is_empty() { Ok(0) } else { digits.parse().map_err(|_| wrong()) }
            };
            // Past nanoseconds nothing is left of a fraction of an hour, either.
            let fraction = &fraction[..fraction.len().min(18)];
            let scale = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| wrong())?);
            let part = number(whole)?
                .checked_mul(unit)
                .and_then(|whole| whole.checked_add(number(fraction).ok()? * unit / scale));
            nanos = part.and_then(|part| nanos.checked_add(part)).ok_or_else(wrong)?;
            rest = after;
        }
        // Go keeps an i64 of nanoseconds.
        let nanos = i64::try_from(nanos).map_err(|_| wrong())?;
        Ok(Self(Duration::from_nanos(nanos.unsigned_abs())))
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        let fraction = |f: &mut fmt::Formatter<'_>, nanos: u128, unit: u128, name: &str| {
            let digits = unit.ilog10() as usize;
            let part = format!("{:0digits$}", nanos % unit);
            match part.trim_end_matches('0') {
                "" => write!(f, "{}{name}", nanos / unit),
                part => write!(f, "{}.{part}{name}", nanos / unit),
            }
        };
        match nanos {
            0 => f.write_str("0s"),
            1..1_000 => write!(f, "{nanos}ns"),
            1_000..1_000_000 => fraction(f, nanos, 1_000, "µs"),
            1_000_000..1_000_000_000 => fraction(f, nanos, 1_000_000, "ms"),
            _ => {
                let minutes = nanos / 60_000_000_000;
                if minutes >= 60 {
                    write!(f, "{}h", minutes / 60)?;
                }
                if minutes > 0 {
                    write!(f, "{}m", minutes % 60)?;
                }
                fraction(f, nanos % 60_000_000_000, 1_000_000_000, "s")
            }
        }
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = GoDuration;

            fn visit_newtype_struct<D: Deserializer<'de>>(
                self,
                inner: D,
            ) -> Result<GoDuration, D::Error> {
                inner.deserialize_any(self)
            }

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as \"10s\", or a number of nanoseconds")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<GoDuration, E> {
                if text.is_empty() { Ok(GoDuration::ZERO) } else { text.parse().map_err(E::custom) }
            }

            fn visit_u64<E: de::Error>(self, nanos: u64) -> Result<GoDuration, E> {
                Ok(GoDuration(Duration::from_nanos(nanos)))
            }

            fn visit_i64<E: de::Error>(self, nanos: i64) -> Result<GoDuration, E> {
                u64::try_from(nanos)
                    .map_err(|_| E::custom(format!("{nanos} is negative; a duration is not")))
                    .and_then(|nanos| self.visit_u64(nanos))
            }
        }
        deserializer.deserialize_newtype_struct(Self::NAME, Read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_reads_and_writes_the_same() {
        // Text, nanoseconds, and how Go prints it again.
        for (text, nanos, again) in [
            ("0", 0, "0s"),
            ("0s", 0, "0s"),
            ("10s", 10_000_000_000, "10s"),
            ("1m30s", 90_000_000_000, "1m30s"),
            ("1h", 3_600_000_000_000, "1h0m0s"),
            ("72h", 259_200_000_000_000, "72h0m0s"),
            ("1.5s", 1_500_000_000, "1.5s"),
            (".5s", 500_000_000, "500ms"),
            ("1500ms", 1_500_000_000, "1.5s"),
            ("1.5us", 1_500, "1.5µs"),
            ("12ns", 12, "12ns"),
            ("+5m", 300_000_000_000, "5m0s"),
        ] {
            let read: GoDuration = text.parse().expect(text);
            assert_eq!(read.0.as_nanos(), nanos, "{text}");
            assert_eq!(read.to_string(), again, "{text}");
        }
        for wrong in ["", "5", "-1s", "1x", "s", ".s", "1s2", "9999999999999h", "1..5s", "١s"] {
            let error = wrong.parse::<GoDuration>().expect_err(wrong).to_string();
            assert!(error.contains("write a number with a unit"), "{error}");
        }
    }

    #[test]
    fn json_takes_text_and_nanoseconds() {
        assert_eq!(serde_json::from_str::<GoDuration>("\"15s\"").unwrap().0.as_secs(), 15);
        assert_eq!(serde_json::from_str::<GoDuration>("15000000000").unwrap().0.as_secs(), 15);
        assert!(serde_json::from_str::<GoDuration>("-1").is_err());
        assert_eq!(
            serde_json::to_string(&GoDuration(Duration::from_secs(90))).unwrap(),
            "\"1m30s\""
        );
    }
}
