//! How an attempt ended, as health, retries and budgets see it.
//!
//! HTTP: 5xx is a failure of the endpoint, everything else a success (Envoy's reading: a 404 or
//! 429 is an answer). gRPC: the status in trailers, or in the head of a trailers-only
//! response, decides; the codes that mean "the server could not" are failures.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use std::fmt;

/// The classified end of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The endpoint did its work; the answer may still be a 404.
    Success,
    /// The endpoint, or the way to it, failed.
    Failure(Failure),
    /// The caller went away first: says nothing about the endpoint.
    Cancelled,
}

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// No connection: refused, unreachable, TLS refused, or the connect timeout passed.
    Connect,
    /// The connection broke, or the stream was reset, after the request had been handed to it.
    Reset,
    /// No response head within the time allowed.
    Timeout,
    /// The endpoint answered with what is not HTTP or gRPC.
    Protocol,
    /// A 5xx status.
    Http(StatusCode),
    /// A gRPC status that counts as the server's failure.
    Grpc(GrpcCode),
}

/// Whether the fields announce gRPC: content type `application/grpc`, alone or with a message
/// format (`+proto`) or parameters. gRPC-Web is another protocol.
///
/// ```
/// let mut headers = http::HeaderMap::new();
/// headers.insert("content-type", http::HeaderValue::from_static("application/grpc+proto"));
/// assert!(mesh_core::is_grpc(&headers));
/// ```
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

impl Outcome {
    /// Reads an HTTP status that is no gRPC answer.
    #[must_use]
    pub fn of_http(status: StatusCode) -> Self {
        if status.is_server_error() { Self::Failure(Failure::Http(status)) } else { Self::Success }
    }

    /// Reads a gRPC status.
    #[must_use]
    pub const fn of_grpc(code: GrpcCode) -> Self {
        if code.is_server_failure() { Self::Failure(Failure::Grpc(code)) } else { Self::Success }
    }

    /// Whether the endpoint failed.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Failure(_))
    }
}

impl Failure {
    /// Whether the fault arose on the way, not in an answer of the endpoint (Envoy: "locally
    /// originated").
    #[must_use]
    pub const fn is_local_origin(self) -> bool {
        matches!(self, Self::Connect | Self::Reset | Self::Timeout | Self::Protocol)
    }

    /// Whether it is a gateway failure: 502, 503, 504, gRPC UNAVAILABLE or DEADLINE_EXCEEDED.
    #[must_use]
    pub fn is_gateway(self) -> bool {
        match self {
            Self::Http(status) => matches!(status.as_u16(), 502..=504),
            Self::Grpc(code) => matches!(code, GrpcCode::UNAVAILABLE | GrpcCode::DEADLINE_EXCEEDED),
            _ => false,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect => f.write_str("no connection"),
            Self::Reset => f.write_str("connection reset"),
            Self::Timeout => f.write_str("timeout"),
            Self::Protocol => f.write_str("protocol error"),
            Self::Http(status) => write!(f, "HTTP {}", status.as_u16()),
            Self::Grpc(code) => write!(f, "gRPC {code}"),
        }
    }
}

/// A gRPC status code. Unknown numbers are kept as they came.
///
/// Source: gRPC "Status codes and their use in gRPC".
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct GrpcCode(u32);

macro_rules! grpc_codes {
    ($($name:ident = $number:literal),* $(,)?) => {
        #[allow(missing_docs)]
        impl GrpcCode {
            $(pub const $name: Self = Self($number);)*

            /// The standard's name, if the standard has one for it.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some(stringify!($name)),)*
                    _ => None,
                }
            }

            /// The code of a standard name, as it stands in configuration.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                [$((stringify!($name), Self::$name)),*]
                    .into_iter()
                    .find(|(known, _)| name.replace('-', "_").eq_ignore_ascii_case(known))
                    .map(|(_, code)| code)
            }
        }
    };
}

grpc_codes! {
    OK = 0, CANCELLED = 1, UNKNOWN = 2, INVALID_ARGUMENT = 3, DEADLINE_EXCEEDED = 4, NOT_FOUND = 5,
    ALREADY_EXISTS = 6, PERMISSION_DENIED = 7, RESOURCE_EXHAUSTED = 8, FAILED_PRECONDITION = 9,
    ABORTED = 10, OUT_OF_RANGE = 11, UNIMPLEMENTED = 12, INTERNAL = 13, UNAVAILABLE = 14,
    DATA_LOSS = 15, UNAUTHENTICATED = 16,
}

impl GrpcCode {
    /// The code with this number.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Reads the value of a `grpc-status` field; what is no number is `UNKNOWN`.
    #[must_use]
    pub fn from_header(value: &[u8]) -> Self {
        match value {
            [digit @ b'0'..=b'9'] => Self((digit - b'0') as u32),
            _ => std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse().ok())
                .map_or(Self::UNKNOWN, Self),
        }
    }

    /// What the head of a response says; `None` if that is for the trailers to say.
    #[must_use]
    pub fn of_head(status: StatusCode, headers: &http::HeaderMap) -> Option<Self> {
        Self::from_headers(headers)
            .or_else(|| (status != StatusCode::OK).then(|| Self::from_http(status)))
    }

    /// Reads `grpc-status` from trailers or the head of a trailers-only response.
    #[must_use]
    pub fn from_headers(headers: &http::HeaderMap) -> Option<Self> {
        headers.get("grpc-status").map(|value| Self::from_header(value.as_bytes()))
    }

    /// What an HTTP status means when the answer carries no `grpc-status`.
    ///
    /// Source: gRPC "HTTP to gRPC Status Code Mapping".
    #[must_use]
    pub const fn from_http(status: StatusCode) -> Self {
        match status.as_u16() {
            400 => Self::INTERNAL,
            401 => Self::UNAUTHENTICATED,
            403 => Self::PERMISSION_DENIED,
            404 => Self::UNIMPLEMENTED,
            429 | 502 | 503 | 504 => Self::UNAVAILABLE,
            _ => Self::UNKNOWN,
        }
    }

    /// Whether the code says that the server, not the request, is at fault.
    #[must_use]
    pub const fn is_server_failure(self) -> bool {
        matches!(
            self,
            Self::UNKNOWN
                | Self::DEADLINE_EXCEEDED
                | Self::INTERNAL
                | Self::UNAVAILABLE
                | Self::DATA_LOSS
        ) || self.0 > 16
    }
}

impl fmt::Display for GrpcCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "code {}", self.0),
        }
    }
}

impl fmt::Debug for GrpcCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn http_status_maps_to_grpc_by_the_standard_table() {
        for (http, grpc) in [
            (400, GrpcCode::INTERNAL),
            (401, GrpcCode::UNAUTHENTICATED),
            (403, GrpcCode::PERMISSION_DENIED),
            (404, GrpcCode::UNIMPLEMENTED),
            (429, GrpcCode::UNAVAILABLE),
            (502, GrpcCode::UNAVAILABLE),
            (503, GrpcCode::UNAVAILABLE),
            (504, GrpcCode::UNAVAILABLE),
            (200, GrpcCode::UNKNOWN),
            (500, GrpcCode::UNKNOWN),
        ] {
            assert_eq!(GrpcCode::from_http(StatusCode::from_u16(http).expect("valid")), grpc);
        }
    }

    #[test]
    fn odd_status_values_are_never_success() {
        for value in ["", "x", "-1", "99", "4294967296"] {
            let code = GrpcCode::from_header(value.as_bytes());
            assert!(Outcome::of_grpc(code).is_failure(), "{value}: {code}");
        }
    }

    #[test]
    fn grpc_is_told_from_grpc_web() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc; charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/json", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]);
            assert_eq!(is_grpc(&headers), expected, "{value}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }
}
