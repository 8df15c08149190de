//! What asks for reports at intervals: `xds.service.orca.v3.OrcaLoadReportRequest`.
//!
//! | field | value |
//! |---|---|
//! | 1 `report_interval` | `google.protobuf.Duration`: 1 seconds, 2 nanoseconds |
//! | 2 `request_cost_names` | passed over: there are no costs of calls in what we report |

use super::{InvalidReport, MAX_LEN, TOO_LONG};
use crate::protobuf::{BYTES, Fields, Malformed, Value};
use std::time::Duration;

/// Asks for reports at intervals.
///
/// ```
/// use mesh_core::load::report::StreamRequest;
/// use std::time::Duration;
///
/// let mut request = StreamRequest::default();
/// request.interval = Some(Duration::from_millis(1_500));
/// assert_eq!(StreamRequest::from_binary(&request.to_binary()), Ok(request));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamRequest {
    /// How often; none if it does not say, or says what is no span of time.
    pub interval: Option<Duration>,
}

impl StreamRequest {
    /// Reads the message.
    ///
    /// # Errors
    /// When it is longer than [`MAX_LEN`] or no protobuf message.
    pub fn from_binary(message: &[u8]) -> Result<Self, InvalidReport> {
        const INVALID: InvalidReport = InvalidReport("the request is no protobuf message");
        if message.len() > MAX_LEN {
            return Err(TOO_LONG);
        }
        let mut request = Self::default();
        for field in Fields::of(message) {
            if let (1, Value::Bytes(span)) = field.map_err(|_| INVALID)? {
                request.interval = read(span).map_err(|_| INVALID)?;
            }
        }
        Ok(request)
    }

    /// The binary form.
    #[must_use]
    pub fn to_binary(&self) -> Vec<u8> {
        let Some(interval) = self.interval else { return Vec::new() };
        let mut span = Vec::with_capacity(16);
        for (field, value) in [(1, interval.as_secs()), (2, interval.subsec_nanos().into())] {
            if value != 0 {
                span.push(field << 3);
                put(&mut span, value);
            }
        }
        // At most sixteen bytes: its length is one.
        [&[1 << 3 | BYTES as u8, span.len() as u8], &span[..]].concat()
    }
}

/// A span of time; none if it is negative or has too many nanoseconds.
fn read(span: &[u8]) -> Result<Option<Duration>, Malformed> {
    let (mut seconds, mut nanos) = (0, 0);
    for field in Fields::of(span) {
        match field? {
            (1, Value::Number(number)) => seconds = number,
            (2, Value::Number(number)) => nanos = number,
            _ => {}
        }
    }
    // Both are signed, so that what is negative comes as a number beyond these.
    let is_span = i64::try_from(seconds).is_ok() && nanos < 1_000_000_000;
    Ok(is_span.then(|| Duration::new(seconds, nanos as u32)))
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_bytes_are_those_of_the_standard() {
        for (millis, bytes) in [
            (10_000, &[0x0a, 2, 0x08, 10][..]),
            (1_500, &[0x0a, 8, 0x08, 1, 0x10, 0x80, 0xca, 0xb5, 0xee, 0x01]),
            (0, &[0x0a, 0]),
        ] {
            let request = StreamRequest { interval: Some(Duration::from_millis(millis)) };
            assert_eq!(request.to_binary(), bytes);
            assert_eq!(StreamRequest::from_binary(bytes), Ok(request));
        }
        assert_eq!(StreamRequest::default().to_binary(), [0u8; 0]);
    }

    #[test]
    fn what_makes_no_sense_is_not_said_and_what_is_unknown_is_passed_over() {
        let negative = [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        let nanos = [0x10, 0x80, 0x94, 0xeb, 0xdc, 0x03];
        for (span, interval) in [
            (&negative[..], None),
            (&nanos, None),
            (&[0x18, 5, 0x08, 3], Some(Duration::from_secs(3))),
        ] {
            let message = [&[0x12, 1, b'x', 0x0a, span.len() as u8], span].concat();
            let read = StreamRequest::from_binary(&message).map(|request| request.interval);
            assert_eq!(read, Ok(interval), "{span:?}");
        }
        for bytes in [&[0x0a, 9, 1][..], &[0x0b], &[0x0a, 1, 0x08]] {
            assert!(StreamRequest::from_binary(bytes).is_err(), "{bytes:?}");
        }
        assert!(StreamRequest::from_binary(&[0; MAX_LEN + 1]).is_err());
    }

    proptest! {
        #[test]
        fn any_span_survives_and_no_bytes_panic(
            seconds in 0..u64::MAX >> 1, nanos in 0u32..1_000_000_000,
            bytes in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let request = StreamRequest { interval: Some(Duration::new(seconds, nanos)) };
            prop_assert_eq!(StreamRequest::from_binary(&request.to_binary()), Ok(request));
            let _ = StreamRequest::from_binary(&bytes);
        }
    }
}
