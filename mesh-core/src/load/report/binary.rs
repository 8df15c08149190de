//! The binary form: protobuf, of which a report needs doubles, and maps from text to doubles.

use super::{
    ERROR_SHARE, Field, IN_FLIGHT, InvalidReport, LATENCY, Map, Reading, Report, SERVICE_TIME,
};
use crate::protobuf::{BYTES, FIXED64, Fields, Malformed, Value};

/// Room that any report of ours fits into, in base64 too: four doubles and four named metrics
/// are at most 149 bytes, and 199 characters.
pub(super) const LONGEST: usize = 200;

pub(super) fn decode(bytes: &[u8], reading: &mut Reading<'_>) -> Result<(), InvalidReport> {
    for field in Fields::of(bytes) {
        match field? {
            (number, Value::Fixed(bits)) => {
                if let Some(field) = Field::of_number(number) {
                    reading.field(field, f64::from_bits(bits));
                }
            }
            (number, Value::Bytes(entry)) => {
                if let Some(map) = Map::of_number(number) {
                    let (key, value) = decode_entry(entry)?;
                    reading.entry(map, key, value);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// A map entry is a message of its own: key 1, value 2, either absent when it is the default.
fn decode_entry(bytes: &[u8]) -> Result<(&str, f64), InvalidReport> {
    let (mut key, mut number) = ("", 0.0);
    for field in Fields::of(bytes) {
        match field? {
            (1, Value::Bytes(text)) => {
                key = std::str::from_utf8(text)
                    .map_err(|_| InvalidReport("a metric's name is not UTF-8"))?;
            }
            (2, Value::Fixed(bits)) => number = f64::from_bits(bits),
            _ => {}
        }
    }
    Ok((key, number))
}

impl From<Malformed> for InvalidReport {
    fn from(malformed: Malformed) -> Self {
        Self(match malformed {
            Malformed::Truncated => "the binary form ends too early",
            Malformed::Number => "a number of the binary form has more than 64 bits",
            Malformed::Field => "the binary form is no protobuf message",
        })
    }
}

pub(super) fn encode(report: &Report, out: &mut Vec<u8>) {
    for (number, value) in [
        (1, report.cpu_utilization),
        (6, report.qps),
        (7, report.eps),
        (9, report.application_utilization),
    ] {
        if value != 0.0 {
            out.push(number << 3 | FIXED64 as u8);
            out.extend_from_slice(&value.to_le_bytes());
        }
    }
    for (name, value) in [
        (IN_FLIGHT, report.in_flight.map(f64::from)),
        (SERVICE_TIME, report.service_time.map(|span| span.as_secs_f64())),
        (ERROR_SHARE, report.error_share),
        (LATENCY, report.latency.map(|span| span.as_secs_f64())),
    ] {
        let Some(value) = value else { continue };
        // Lengths of one byte: the names are ours and short.
        out.extend_from_slice(&[8 << 3 | BYTES as u8, name.len() as u8 + 11]);
        out.extend_from_slice(&[1 << 3 | BYTES as u8, name.len() as u8]);
        out.extend_from_slice(name.as_bytes());
        out.push(2 << 3 | FIXED64 as u8);
        out.extend_from_slice(&value.to_le_bytes());
    }
}
