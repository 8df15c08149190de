//! Answers that the mesh makes itself, instead of an application.
//!
//! One [`Error`] becomes one response, the same from a server layer and from the proxy:
//!
//! - HTTP: the status of the error's kind, the sentence as `text/plain`, and
//!   `proxy-status: mesh; error=<type>; details="<flag>; attempts=N"` (RFC 9209; a further flag says
//!   what was used up, so that no attempt followed), by which a caller tells our answer from the
//!   application's.
//! - gRPC: trailers-only, status 200 with `grpc-status` and `grpc-message` in the head.
//!
//! Source: RFC 9209; gRPC "over HTTP2", Responses.

use bytes::Bytes;
use http::Response;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use mesh_core::{Error, ErrorKind, GrpcCode};
use std::fmt::Write;

/// The field by which an intermediary explains an answer of its own (RFC 9209).
pub const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// By which a caller knows not to try again (Envoy "Router").
const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");
const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");
const TRUE: HeaderValue = HeaderValue::from_static("true");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// The response that tells a caller of an error; trailers-only if the request was gRPC.
///
/// ```
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use mesh_tower::{Error, ErrorKind, answer};
///
/// let error = Error::new(ErrorKind::Deadline, "no answer within 200 ms").with_attempts(2);
/// let response = answer::response::<Full<Bytes>>(&error, false);
/// assert_eq!(response.status(), 504);
/// assert_eq!(
///     response.headers()["proxy-status"],
///     "mesh; error=http_response_timeout; details=\"upstream_request_timeout; attempts=2\"",
/// );
/// ```
#[must_use]
pub fn response<B: From<Bytes>>(error: &Error, grpc: bool) -> Response<B> {
    let mut response = if grpc {
        self::grpc(error.grpc_code(), &error.to_string())
    } else {
        let mut text = error.to_string();
        text.push('\n');
        let mut response = Response::new(B::from(Bytes::from(text)));
        *response.status_mut() = error.kind().status();
        response.headers_mut().insert(CONTENT_TYPE, TEXT);
        response
    };
    for (name, value) in error.fields().into_iter().flatten() {
        // What does not fit any more is left out.
        let _ = response.headers_mut().try_append(name.clone(), value.clone());
    }
    response.headers_mut().insert(PROXY_STATUS, proxy_status(error));
    match error.kind() {
        ErrorKind::RateLimited => response.headers_mut().insert(RATE_LIMITED, TRUE),
        ErrorKind::Overflow => response.headers_mut().insert(OVERLOADED, TRUE),
        _ => None,
    };
    response
}

/// A trailers-only response of gRPC.
pub(crate) fn grpc<B: From<Bytes>>(code: GrpcCode, message: &str) -> Response<B> {
    let mut response = Response::new(B::from(Bytes::new()));
    let headers = response.headers_mut();
    headers.reserve(4);
    headers.insert(CONTENT_TYPE, GRPC);
    insert_grpc_status(headers, code, message);
    response
}

/// The trailers that end a gRPC stream with an error.
#[must_use]
pub fn trailers(error: &Error) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    insert_grpc_status(&mut trailers, error.grpc_code(), &error.to_string());
    trailers
}

/// The value of `proxy-status` for an error.
#[must_use]
pub fn proxy_status(error: &Error) -> HeaderValue {
    let kind = error.kind();
    let mut value = format!("mesh; error={}; details=\"{}", kind.proxy_status(), kind.flag());
    if error.attempts() > 0 {
        // Writing to a string cannot fail.
        let _ = write!(value, "; attempts={}", error.attempts());
    }
    if let Some(what) = error.exhausted() {
        let _ = write!(value, "; {}", what.flag());
    }
    value.push('"');
    // Flags and types are lower-case words, so this is never the fallback.
    HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static("mesh"))
}

/// Whether a response was made by the mesh (ours or another hop's), not by an application.
#[must_use]
pub fn is_ours<B>(response: &Response<B>) -> bool {
    let status = response.headers().get(PROXY_STATUS);
    status.is_some_and(|value| value.as_bytes().starts_with(b"mesh; error="))
}

fn insert_grpc_status(headers: &mut HeaderMap, code: GrpcCode, message: &str) {
    headers.insert(GRPC_STATUS, HeaderValue::from(code.number()));
    if let Ok(message) = HeaderValue::try_from(percent_encode(message)) {
        headers.insert(GRPC_MESSAGE, message);
    }
}

/// Percent-encodes as `grpc-message` asks: all but 0x20 to 0x7E, and `%` itself.
fn percent_encode(message: &str) -> String {
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b'%' | 0..=0x1F | 0x7F.. => {
                let _ = write!(encoded, "%{byte:02X}");
            }
            _ => encoded.push(char::from(byte)),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_answers_in_both_protocols() {
        for &kind in ErrorKind::ALL {
            let error = Error::new(kind, "because").with_attempts(3);
            let http = response::<Bytes>(&error, false);
            assert_eq!(http.status(), kind.status());
            assert!(is_ours(&http), "{kind:?}");
            let told = http.headers().contains_key("x-envoy-ratelimited");
            assert_eq!(told, kind == ErrorKind::RateLimited);
            let told = http.headers().contains_key("x-envoy-overloaded");
            assert_eq!(told, kind == ErrorKind::Overflow);
            assert_eq!(
                http.body(),
                &Bytes::from(format!("{}: because (after 3 attempts)\n", kind.flag()))
            );

            let grpc = response::<Bytes>(&error, true);
            assert_eq!(grpc.status(), 200);
            assert_eq!(GrpcCode::from_headers(grpc.headers()), Some(error.grpc_code()));
            assert!(grpc.body().is_empty() && mesh_core::is_grpc(grpc.headers()) && is_ours(&grpc));
        }
    }

    #[test]
    fn a_message_cannot_break_out_of_its_field() {
        let error = Error::new(ErrorKind::Connect, "100 % of\r\nx: \u{e9}");
        let grpc = response::<Bytes>(&error, true);
        assert_eq!(
            grpc.headers()["grpc-message"],
            "upstream_connection_failure: 100 %25 of%0D%0Ax: %C3%A9"
        );
    }
}
