//! Pushback: how long the server asks to be left alone.
//!
//! | header | value | meaning |
//! |---|---|---|
//! | `grpc-retry-pushback-ms` | `n ≥ 0` | retry after exactly `n` ms |
//! | | negative, or no number | do not retry |
//! | `retry-after` | seconds, or an HTTP date | not before then |
//!
//! Delays are capped at 300 s. Source: gRFC A6; RFC 9110 §10.2.3.

use http::HeaderMap;
use http::header::RETRY_AFTER;
use std::time::{Duration, SystemTime};

/// The longest delay that is believed.
pub const MAX: Duration = Duration::from_secs(300);

/// What the server of a gRPC call asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a caller must handle both")]
pub enum Pushback {
    /// Retry after this delay.
    Wait(Duration),
    /// Do not retry.
    Stop,
}

/// Reads `grpc-retry-pushback-ms`, from trailers or the head of a trailers-only response.
#[must_use]
pub fn grpc(headers: &HeaderMap) -> Option<Pushback> {
    let value = headers.get("grpc-retry-pushback-ms")?.as_bytes();
    Some(
        number(value).map_or(Pushback::Stop, |millis| {
            Pushback::Wait(Duration::from_millis(millis).min(MAX))
        }),
    )
}

/// Reads `retry-after`; `wall` is the time of day, which only a date needs. A date in the past is
/// no delay; what is neither number nor date is as if absent.
#[must_use]
pub fn retry_after(headers: &HeaderMap, wall: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.as_bytes();
    if let Some(seconds) = number(value) {
        return Some(Duration::from_secs(seconds).min(MAX));
    }
    let date = httpdate::parse_http_date(std::str::from_utf8(value).ok()?).ok()?;
    Some(date.duration_since(wall).unwrap_or_default().min(MAX))
}

/// The delay that the server asks for, in either way.
#[must_use]
pub fn server_delay(headers: &HeaderMap, wall: SystemTime) -> Option<Duration> {
    match grpc(headers) {
        Some(Pushback::Wait(delay)) => Some(delay),
        Some(Pushback::Stop) => None,
        None => retry_after(headers, wall),
    }
}

/// A whole number without sign; one too large for 64 bits is the largest.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0, |number: u64, digit| {
        number.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(name: &'static str, value: &[u8]) -> HeaderMap {
        let value = HeaderValue::from_bytes(value).expect("valid");
        HeaderMap::from_iter([(http::HeaderName::from_static(name), value)])
    }

    #[test]
    fn grpc_pushback_is_a_delay_or_a_stop() {
        let millis = |n| Some(Pushback::Wait(Duration::from_millis(n)));
        for (value, expected) in [
            ("0", millis(0)),
            ("25", millis(25)),
            ("99999999999999999999999", millis(300_000)),
            ("-1", Some(Pushback::Stop)),
            ("", Some(Pushback::Stop)),
            ("1.5", Some(Pushback::Stop)),
            ("soon", Some(Pushback::Stop)),
        ] {
            let headers = headers("grpc-retry-pushback-ms", value.as_bytes());
            assert_eq!(grpc(&headers), expected, "{value}");
        }
        assert_eq!(grpc(&HeaderMap::new()), None);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let wall = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").expect("valid");
        for (value, seconds) in [
            (&b"120"[..], Some(120)),
            (b"0", Some(0)),
            (b"301", Some(300)),
            (b"99999999999999999999999", Some(300)),
            (b"Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
            (b"Sunday, 06-Nov-94 08:50:07 GMT", Some(30)),
            (b"Sun Nov  6 08:50:07 1994", Some(30)),
            (b"Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
            (b"Mon, 06 Nov 1995 08:49:37 GMT", Some(300)),
            (b"-1", None),
            (b"1.5", None),
            (b"soon", None),
            (b"\xff", None),
        ] {
            let delay = retry_after(&headers("retry-after", value), wall);
            assert_eq!(delay, seconds.map(Duration::from_secs), "{}", value.escape_ascii());
        }
    }
}
