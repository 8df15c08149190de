//! The binary form: protobuf, of which a report needs doubles, and maps from text to doubles.

use super::{ERROR_SHARE, Field, IN_FLIGHT, InvalidReport, Map, Reading, Report, SERVICE_TIME};

/// Room that any report of ours fits into, in base64 too: four doubles and three named metrics
/// are at most 124 bytes, and 166 characters.
pub(super) const LONGEST: usize = 168;

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

const TRUNCATED: InvalidReport = InvalidReport("the binary form ends too early");

pub(super) fn decode(bytes: &[u8], reading: &mut Reading<'_>) -> Result<(), InvalidReport> {
    let mut input = Input(bytes);
    while !input.0.is_empty() {
        match input.value()? {
            (number, Value::Double(value)) => {
                if let Some(field) = Field::of_number(number) {
                    reading.field(field, value);
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
    let mut input = Input(bytes);
    let (mut key, mut number) = ("", 0.0);
    while !input.0.is_empty() {
        match input.value()? {
            (1, Value::Bytes(text)) => {
                key = std::str::from_utf8(text)
                    .map_err(|_| InvalidReport("a metric's name is not UTF-8"))?;
            }
            (2, Value::Double(value)) => number = value,
            _ => {}
        }
    }
    Ok((key, number))
}

enum Value<'a> {
    Double(f64),
    Bytes(&'a [u8]),
    Other,
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// The next field: its number and value.
    fn value(&mut self) -> Result<(u64, Value<'a>), InvalidReport> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            VARINT => {
                self.varint()?;
                Value::Other
            }
            FIXED64 => {
                let (bytes, rest) = self.0.split_first_chunk::<8>().ok_or(TRUNCATED)?;
                self.0 = rest;
                Value::Double(f64::from_le_bytes(*bytes))
            }
            BYTES => {
                let len = usize::try_from(self.varint()?).map_err(|_| TRUNCATED)?;
                Value::Bytes(self.take(len)?)
            }
            FIXED32 => {
                self.take(4)?;
                Value::Other
            }
            _ => return Err(InvalidReport("the binary form is no protobuf message")),
        };
        Ok((tag >> 3, value))
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], InvalidReport> {
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(TRUNCATED)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn varint(&mut self) -> Result<u64, InvalidReport> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(TRUNCATED)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(InvalidReport("a number of the binary form has more than 64 bits"))
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
