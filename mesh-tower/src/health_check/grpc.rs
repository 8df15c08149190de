//! A check by gRPC: `grpc.health.v1.Health`, `Check` and `Watch`.
//!
//! Of the protocol's two messages each has one field, so they are written and read here:
//!
//! | message | field 1 |
//! |---|---|
//! | `HealthCheckRequest` | `service`, a string |
//! | `HealthCheckResponse` | `status`, an enumeration |
//!
//! Source: gRPC over HTTP/2; gRPC "Health checking protocol"; Protocol Buffers "Encoding".

use super::Failed;
use crate::body::Body;
use crate::connect::{Connections, Protocol, ResponseBody};
use crate::grpc::{self, Malformed, code, frame, split};
use bytes::BytesMut;
use http::{HeaderValue, Request, Response, header};
use http_body_util::BodyExt;
use mesh_core::GrpcCode;
use mesh_core::health::check::{Cause, Grpc, Heard, Serving};
use std::sync::Arc;
use std::time::Duration;

/// Longest message that is read; the protocol's own has two bytes.
const MESSAGE: usize = 4096;

/// Asks once.
pub(super) async fn check(
    connections: &Arc<Connections>,
    grpc: &Grpc,
    host: &str,
    timeout: Duration,
) -> Result<(), Failed> {
    let mut request = request("Check", grpc, host)?;
    let millis = timeout.as_millis().min(99_999_999);
    if let Ok(value) = format!("{millis}m").parse() {
        request.headers_mut().insert("grpc-timeout", value);
    }
    let mut answer = Answer::of(connections, request).await?;
    let mut said = None;
    loop {
        match answer.next().await? {
            Part::Status(status) => said = Some(status),
            Part::End(GrpcCode::OK) => break,
            Part::End(code) => return Err(Cause::Grpc(code).into()),
        }
    }
    match said {
        Some(status) => status.verdict().map_err(Failed::from),
        None => Err(Failed::new(Cause::Garbage, "health check: an answer without a message")),
    }
}

/// What a watching call told.
pub(super) struct Told {
    pub(super) heard: Heard,
    pub(super) message: String,
}

impl Told {
    /// Nothing, for too long.
    pub(super) fn silent(timeout: Duration) -> Self {
        let message = format!("health check: no answer within {timeout:?}");
        Self { heard: Heard::Lost(Cause::Timeout), message }
    }
}

/// Waits for the next that the endpoint says, over `stream`, or over a call made for it.
pub(super) async fn listen(
    stream: &mut Option<Answer>,
    connections: &Arc<Connections>,
    grpc: &Grpc,
    host: &str,
) -> Told {
    let next = async {
        let answer = match stream {
            Some(answer) => answer,
            None => stream.insert(Answer::of(connections, request("Watch", grpc, host)?).await?),
        };
        answer.next().await
    };
    match next.await {
        Ok(Part::Status(status)) => {
            let message =
                status.verdict().map_or_else(|cause| cause.to_string(), |()| String::new());
            Told { heard: Heard::Status(status), message }
        }
        Ok(Part::End(code)) => {
            Told { heard: Heard::Ended(code), message: Cause::Grpc(code).to_string() }
        }
        Err(failed) => Told { heard: Heard::Lost(failed.cause), message: failed.message },
    }
}

fn request(method: &str, asked: &Grpc, host: &str) -> Result<Request<Body>, Failed> {
    let host = asked.authority.as_deref().unwrap_or(host);
    let method = format!("/grpc.health.v1.Health/{method}");
    let mut request = grpc::request(host, &method, Body::from(encode(&asked.service_name)))
        .map_err(|error| {
            Failed::new(Cause::Garbage, format!("the request of the check is not valid: {error}"))
        })?;
    let agent = HeaderValue::from_static("mesh-health-check");
    request.headers_mut().insert(header::USER_AGENT, agent);
    Ok(request)
}

/// A request for a service, with its prefix.
fn encode(service: &str) -> Vec<u8> {
    let mut message = Vec::with_capacity(service.len() + 3);
    if !service.is_empty() {
        message.push(1 << 3 | 2);
        let mut length = service.len();
        while length >= 0x80 {
            message.push(length as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    frame(&message)
}

/// The answer to a call: messages, then a status.
pub(super) struct Answer {
    body: ResponseBody,
    /// The status, where the head has it.
    ended: Option<GrpcCode>,
    buffer: BytesMut,
}

enum Part {
    Status(Serving),
    End(GrpcCode),
}

impl Answer {
    async fn of(connections: &Arc<Connections>, request: Request<Body>) -> Result<Self, Failed> {
        let response = connections.send(request, Protocol::Http2).await;
        Ok(Self::new(response.map_err(|lost| lost.error)?))
    }

    fn new(response: Response<ResponseBody>) -> Self {
        let ended = GrpcCode::of_head(response.status(), response.headers());
        Self { body: response.into_body(), ended, buffer: BytesMut::new() }
    }

    async fn next(&mut self) -> Result<Part, Failed> {
        loop {
            if let Some(message) = split(&mut self.buffer, MESSAGE).map_err(Cause::from)? {
                return Ok(Part::Status(decode(&message).ok_or(Cause::Garbage)?));
            }
            if let Some(code) = self.ended {
                return Ok(Part::End(code));
            }
            match self.body.frame().await.transpose()? {
                Some(frame) => match frame.into_data() {
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(frame) => self.ended = Some(code(frame.trailers_ref())),
                },
                None => self.ended = Some(code(None)),
            }
        }
    }
}

impl From<Malformed> for Cause {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::Compressed => Self::Garbage,
            Malformed::TooLong => Self::TooLong,
        }
    }
}

/// Reads the status; none if the bytes are no message. Of several the last counts, and without one
/// it is the enumeration's first.
fn decode(mut message: &[u8]) -> Option<Serving> {
    let mut status = Serving::Unknown;
    while !message.is_empty() {
        let key = varint(&mut message)?;
        let skip = match (key >> 3, key & 7) {
            (0, _) => return None,
            (1, 0) => {
                status = Serving::new(varint(&mut message)?);
                0
            }
            (_, 0) => {
                varint(&mut message)?;
                0
            }
            (_, 1) => 8,
            (_, 2) => usize::try_from(varint(&mut message)?).ok()?,
            (_, 5) => 4,
            _ => return None,
        };
        message = message.get(skip..)?;
    }
    Some(status)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_has_a_prefix_and_one_field() {
        assert_eq!(encode(""), [0, 0, 0, 0, 0]);
        assert_eq!(encode("a.B"), [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'.', b'B']);
        let long = encode(&"x".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 0x02]);
    }

    #[test]
    fn a_status_is_read_whatever_stands_beside_it() {
        for (bytes, status) in [
            (&[][..], Some(Serving::Unknown)),
            (&[0x08, 1], Some(Serving::Serving)),
            (&[0x08, 2], Some(Serving::NotServing)),
            (&[0x08, 3], Some(Serving::ServiceUnknown)),
            (&[0x08, 0x80, 1], Some(Serving::Unknown)),
            (&[0x08, 2, 0x08, 1], Some(Serving::Serving)),
            (&[0x10, 7, 0x08, 1], Some(Serving::Serving)),
            (&[0x12, 2, 9, 9, 0x08, 1], Some(Serving::Serving)),
            (&[0x19, 1, 2, 3, 4, 5, 6, 7, 8, 0x08, 1], Some(Serving::Serving)),
            (&[0x1d, 1, 2, 3, 4, 0x08, 1], Some(Serving::Serving)),
            (&[0x08], None),
            (&[0x12, 9, 1], None),
            (&[0x00, 1], None),
            (&[0x0b], None),
            (&[0xff; 11], None),
        ] {
            assert_eq!(decode(bytes), status, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            decode(&bytes);
        }
    }
}
