//! What a rate limit service says.

use super::super::Told;
use crate::protobuf::{Fields, Malformed, Value};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::fmt::Write;

/// Fields that an answer may add to each of request and response.
const MAX_FIELDS: usize = 64;
/// Their names and values together, in bytes.
const MAX_FIELD_BYTES: usize = 16 * 1024;

/// What belongs to the connection, to the framing of a message, or to those who speak for us: no
/// answer may add it.
const FIXED: [&str; 14] = [
    "connection",
    "content-length",
    "grpc-message",
    "grpc-status",
    "host",
    "keep-alive",
    "proxy-connection",
    "proxy-status",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-envoy-overloaded",
    "x-envoy-ratelimited",
];

/// What it says of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Code {
    /// It is within all limits.
    Ok,
    /// It is over one.
    OverLimit,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answer {
    /// Of all descriptors together.
    pub code: Code,
    /// For the request, in place of its own of these names.
    pub request: HeaderMap,
    /// For the response, beside its own. `x-ratelimit-*` is told apart.
    pub response: HeaderMap,
    /// How the tightest limit stands, and the windows of all, if callers are told and it says so.
    pub told: Option<(Told, String)>,
}

impl Answer {
    /// Reads a message. `None` if it is none, says neither yes nor no, or adds more fields than any
    /// answer needs. Statuses are read if `descriptors` is how many there should be.
    pub(super) fn decode(message: &[u8], descriptors: Option<usize>) -> Option<Self> {
        let mut code = 0;
        let (mut request, mut response) = (Added::default(), Added::default());
        let (mut statuses, mut told, mut windows) = (0, None::<Told>, String::new());
        for field in Fields::of(message) {
            match field.ok()? {
                (1, Value::Number(number)) => code = number,
                (2, Value::Bytes(status)) => {
                    statuses += 1;
                    if descriptors.is_some_and(|most| statuses <= most) {
                        let status = Status::decode(status).ok()?;
                        status.window(&mut windows);
                        if let Some(own) = status.told() {
                            told = Some(match told {
                                Some(known) => known.tighter(own),
                                None => own,
                            });
                        }
                    }
                }
                (3, Value::Bytes(field)) => response.add(field)?,
                (4, Value::Bytes(field)) => request.add(field)?,
                _ => {}
            }
        }
        let code = match code {
            1 => Code::Ok,
            2 => Code::OverLimit,
            _ => return None,
        };
        // Of another number it is not known whose they are.
        let told = told.filter(|_| descriptors == Some(statuses)).map(|told| (told, windows));
        Some(Self { code, request: request.fields, response: response.fields, told })
    }
}

/// Fields so far.
#[derive(Default)]
struct Added {
    fields: HeaderMap,
    count: usize,
    bytes: usize,
}

impl Added {
    /// Adds one, unless it is none or may not be added; `None` if there are too many.
    fn add(&mut self, message: &[u8]) -> Option<()> {
        let (mut key, mut value, mut raw): (_, _, &[u8]) = (&[][..], &[][..], &[]);
        for field in Fields::of(message) {
            match field.ok()? {
                (1, Value::Bytes(bytes)) => key = bytes,
                (2, Value::Bytes(bytes)) => value = bytes,
                (3, Value::Bytes(bytes)) => raw = bytes,
                _ => {}
            }
        }
        self.count += 1;
        self.bytes += message.len();
        if self.count > MAX_FIELDS || self.bytes > MAX_FIELD_BYTES {
            return None;
        }
        let value = if value.is_empty() { raw } else { value };
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(key), HeaderValue::from_bytes(value))
            && !FIXED.contains(&name.as_str())
        {
            self.fields.append(name, value);
        }
        Some(())
    }
}

/// Of one descriptor.
#[derive(Default)]
struct Status<'a> {
    limit: Option<(u64, u64, &'a [u8])>,
    remaining: u64,
    reset: u64,
}

impl<'a> Status<'a> {
    fn decode(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut status = Self::default();
        for field in Fields::of(message) {
            match field? {
                (2, Value::Bytes(limit)) => {
                    let (mut requests, mut unit, mut name) = (0, 0, &[][..]);
                    for field in Fields::of(limit) {
                        match field? {
                            (1, Value::Number(number)) => requests = number,
                            (2, Value::Number(number)) => unit = number,
                            (3, Value::Bytes(bytes)) => name = bytes,
                            _ => {}
                        }
                    }
                    status.limit = Some((requests, unit, name));
                }
                (3, Value::Number(number)) => status.remaining = number,
                (4, Value::Bytes(duration)) => {
                    for field in Fields::of(duration) {
                        if let (1, Value::Number(seconds)) = field? {
                            // A negative one is past.
                            status.reset = u64::try_from(seconds.cast_signed()).unwrap_or(0);
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(status)
    }

    /// Nothing of one that has no limit.
    fn told(&self) -> Option<Told> {
        let whole = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let (limit, _, _) = self.limit?;
        Some(Told { limit: whole(limit), remaining: whole(self.remaining), reset: self.reset })
    }

    /// `, 10;w=60;name="per-tenant"`
    fn window(&self, out: &mut String) {
        let Some((requests, unit, name)) = self.limit else { return };
        let seconds = match unit {
            1 => 1,
            2 => 60,
            3 => 3600,
            4 => 86_400,
            5 => 2_592_000,
            6 => 31_536_000,
            7 => 604_800,
            _ => return,
        };
        // Writing to a string cannot fail.
        let _ = write!(out, ", {requests};w={seconds}");
        let plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
        if !name.is_empty() && name.len() <= 256 && name.iter().all(plain) {
            let _ = write!(out, ";name=\"{}\"", String::from_utf8_lossy(name));
        }
    }
}
