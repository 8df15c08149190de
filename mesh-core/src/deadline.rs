//! Deadlines: instants inside, spans on the wire.
//!
//! `child = min(parent, now + timeout)`: an expiry only shrinks on its way down.
//!
//! On the wire a deadline is the time that is left: `grpc-timeout` (1 to 8 digits and a unit of
//! `H M S m u n`) on gRPC calls, `x-envoy-expected-rq-timeout-ms` (milliseconds) on HTTP ones.
//! Both are written rounded down, so that the next hop never waits longer than this one; only
//! what is left of the last millisecond is written as one, since Envoy's fields have 0 for "no
//! timeout".
//!
//! Source: gRPC "over HTTP2", Requests; Envoy "HTTP header manipulation".

use crate::Timestamp;
use http::{HeaderName, HeaderValue};
use std::fmt;
use std::time::Duration;

/// The field of a gRPC call's timeout.
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// The field of an HTTP call's timeout.
pub const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");

/// The instant at which a call ends, whatever it has reached by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(clippy::exhaustive_structs, reason = "an instant with a meaning, nothing else")]
pub struct Expiry(pub Timestamp);

impl Expiry {
    /// The expiry of work that may take `timeout` from now, and no longer than its parent.
    ///
    /// ```
    /// use mesh_core::Timestamp;
    /// use mesh_core::deadline::Expiry;
    /// use std::time::Duration;
    ///
    /// let now = Timestamp::from_nanos(0);
    /// let parent = Expiry::child(None, now, Some(Duration::from_secs(1)));
    /// let child = Expiry::child(parent, now, Some(Duration::from_secs(15)));
    /// assert_eq!(child, parent);
    /// ```
    #[must_use]
    pub fn child(parent: Option<Self>, now: Timestamp, timeout: Option<Duration>) -> Option<Self> {
        match (parent, timeout.map(|timeout| Self(now + timeout))) {
            (Some(parent), Some(own)) => Some(parent.min(own)),
            (parent, own) => parent.or(own),
        }
    }

    /// The time that is left; zero once it has passed.
    #[must_use]
    pub fn remaining(self, now: Timestamp) -> Duration {
        self.0.since(now)
    }

    /// Whether no time is left.
    #[must_use]
    pub fn has_passed(self, now: Timestamp) -> bool {
        self.0 <= now
    }
}

/// The value of a timeout field that does not follow its grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a timeout")
    }
}

impl std::error::Error for Malformed {}

/// Reads the value of `grpc-timeout`.
///
/// # Errors
/// When it is not 1 to 8 digits and a unit. 8 digits of hours are far below what a
/// [`Duration`] holds, so nothing wraps.
///
/// ```
/// use mesh_core::deadline::parse_grpc_timeout;
/// use std::time::Duration;
///
/// assert_eq!(parse_grpc_timeout(b"1500m"), Ok(Duration::from_millis(1500)));
/// assert!(parse_grpc_timeout(b"1.5S").is_err());
/// ```
pub fn parse_grpc_timeout(value: &[u8]) -> Result<Duration, Malformed> {
    let (unit, digits) = value.split_last().ok_or(Malformed)?;
    let amount = number(digits, 8)?;
    Ok(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return Err(Malformed),
    })
}

/// Writes the value of `grpc-timeout` in the finest unit that 8 digits can hold, rounded down.
#[must_use]
pub fn format_grpc_timeout(timeout: Duration) -> HeaderValue {
    const LIMIT: u128 = 100_000_000;
    let nanos = timeout.as_nanos();
    let (amount, unit) = [(1, b'n'), (1_000, b'u'), (1_000_000, b'm'), (1_000_000_000, b'S')]
        .into_iter()
        .map(|(span, unit)| (nanos / span, unit))
        .find(|(amount, _)| *amount < LIMIT)
        .unwrap_or_else(|| match u128::from(timeout.as_secs()) {
            seconds if seconds / 60 < LIMIT => (seconds / 60, b'M'),
            seconds => ((seconds / 3600).min(LIMIT - 1), b'H'),
        });
    // Below `LIMIT`, so nothing is cut off.
    decimal(amount as u64, Some(unit))
}

/// Reads the value of `x-envoy-expected-rq-timeout-ms`; `None` if it is 0, which sets none.
///
/// # Errors
/// When it is not a number of at most 15 digits.
pub fn parse_expected_timeout(value: &[u8]) -> Result<Option<Duration>, Malformed> {
    number(value, 15).map(|millis| (millis > 0).then(|| Duration::from_millis(millis)))
}

/// Writes the value of `x-envoy-expected-rq-timeout-ms`: rounded down, and at least 1.
#[must_use]
pub fn format_expected_timeout(timeout: Duration) -> HeaderValue {
    let millis = timeout.as_millis().max(1);
    decimal(u64::try_from(millis).unwrap_or(u64::MAX), None)
}

fn number(digits: &[u8], longest: usize) -> Result<u64, Malformed> {
    if digits.is_empty() || digits.len() > longest || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Malformed);
    }
    Ok(digits.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

/// Writes a number and a unit without the detour over a string.
fn decimal(mut amount: u64, unit: Option<u8>) -> HeaderValue {
    let mut text = [0; 21];
    let mut start = text.len();
    let mut put = |byte| {
        start -= 1;
        text[start] = byte;
    };
    if let Some(unit) = unit {
        put(unit);
    }
    loop {
        put(b'0' + (amount % 10) as u8);
        amount /= 10;
        if amount == 0 {
            break;
        }
    }
    HeaderValue::from_bytes(&text[start..]).unwrap_or(HeaderValue::from_static("0"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn grpc_timeouts_of_every_unit_are_read() {
        for (text, span) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("4m", Duration::from_millis(4)),
            ("5u", Duration::from_micros(5)),
            ("6n", Duration::from_nanos(6)),
            ("0n", Duration::ZERO),
            ("00000001S", Duration::from_secs(1)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
        ] {
            assert_eq!(parse_grpc_timeout(text.as_bytes()), Ok(span), "{text}");
        }
    }

    #[test]
    fn what_is_no_grpc_timeout_is_refused() {
        for text in
            ["", "S", "5", "-5S", "+5S", "5 S", " 5S", "5s", "5h", "999999999S", "1.5S", "0x5S"]
        {
            assert_eq!(parse_grpc_timeout(text.as_bytes()), Err(Malformed), "{text:?}");
        }
        assert!(parse_grpc_timeout("５S".as_bytes()).is_err());
    }

    #[test]
    fn a_written_timeout_reads_back_not_longer_and_at_most_one_unit_shorter() {
        let mut nanos: u128 = 1;
        while nanos < 10u128.pow(25) {
            for nanos in [nanos - 1, nanos, nanos * 7 / 3] {
                let secs = u64::try_from(nanos / 1_000_000_000).expect("in range");
                let span = Duration::new(secs, (nanos % 1_000_000_000) as u32);
                let written = format_grpc_timeout(span);
                let read = parse_grpc_timeout(written.as_bytes()).expect("ours");
                assert!(read <= span, "{written:?} for {span:?}");
                let capped = read >= Duration::from_secs(99_999_999 * 3600);
                assert!(capped || read >= span.mul_f64(0.999), "{written:?} for {span:?}");
            }
            nanos *= 10;
        }
        assert_eq!(format_grpc_timeout(Duration::MAX), "99999999H");
        assert_eq!(format_grpc_timeout(Duration::from_millis(250)), "250000u");
    }

    #[test]
    fn the_http_field_is_whole_milliseconds_and_never_reads_as_none() {
        for (span, text) in [
            (Duration::ZERO, "1"),
            (Duration::from_nanos(1), "1"),
            (Duration::from_micros(1999), "1"),
            (Duration::from_secs(15), "15000"),
        ] {
            assert_eq!(format_expected_timeout(span), text);
        }
        assert_eq!(parse_expected_timeout(b"1500"), Ok(Some(Duration::from_millis(1500))));
        assert_eq!(parse_expected_timeout(b"0"), Ok(None));
        for text in ["", "-1", "1.5", "1e3", "10s", "1000000000000000"] {
            assert_eq!(parse_expected_timeout(text.as_bytes()), Err(Malformed), "{text:?}");
        }
    }

    #[test]
    fn an_expiry_only_shrinks() {
        let now = Timestamp::from_nanos(1_000);
        let soon = Expiry(now + Duration::from_secs(1));
        let span = |secs| Some(Duration::from_secs(secs));
        assert_eq!(Expiry::child(Some(soon), now, span(15)), Some(soon));
        assert_eq!(Expiry::child(Some(soon), now, None), Some(soon));
        assert_eq!(Expiry::child(None, now, span(1)), Some(soon));
        assert_eq!(Expiry::child(None, now, None), None);
        assert_eq!(soon.remaining(now), Duration::from_secs(1));
        assert!(!soon.has_passed(now) && soon.has_passed(soon.0));
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_and_read_again(count in 0u64..=99_999_999, unit in 0usize..6) {
            let text = format!("{count}{}", ["n", "u", "m", "S", "M", "H"][unit]);
            let span = parse_grpc_timeout(text.as_bytes()).expect("valid");
            prop_assert_eq!(parse_grpc_timeout(format_grpc_timeout(span).as_bytes()), Ok(span));
            let expiry = Expiry::child(None, Timestamp::from_nanos(7), Some(span));
            prop_assert!(expiry >= Some(Expiry(Timestamp::from_nanos(7))), "never wraps");
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..24)) {
            let _ = parse_grpc_timeout(&bytes);
            let _ = parse_expected_timeout(&bytes);
        }
    }
}
