//! What a handler answers: JSON with Consul's headers, or an error in a sentence.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;

use super::{Api, Parameters};
use crate::registry::Indexed;
use crate::store::StoreError;

const INDEX: HeaderName = HeaderName::from_static("x-consul-index");
const KNOWN_LEADER: HeaderName = HeaderName::from_static("x-consul-knownleader");
const LAST_CONTACT: HeaderName = HeaderName::from_static("x-consul-lastcontact");

/// A successful answer.
#[derive(Debug)]
#[non_exhaustive]
pub struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    /// A value as JSON, indented where the caller or the server asks for it.
    pub fn json<T: Serialize + ?Sized>(api: &Api, parameters: &Parameters, value: &T) -> Self {
        let body = if api.pretty || parameters.flag("pretty") {
            // Four spaces, as Consul's.
            let mut body = Vec::new();
            let indent = serde_json::ser::PrettyFormatter::with_indent(b"    ");
            let mut serializer = serde_json::Serializer::with_formatter(&mut body, indent);
            value.serialize(&mut serializer).map(|()| body)
        } else {
            serde_json::to_vec(value)
        };
        let mut answer = Self::bytes(body.expect("what we answer has text for keys"));
        answer.set(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        answer
    }

    /// Bytes as they are.
    #[must_use]
    pub fn bytes(body: Vec<u8>) -> Self {
        Self { status: StatusCode::OK, headers: HeaderMap::new(), body }
    }

    /// Nothing, with this status.
    #[must_use]
    pub fn empty(status: StatusCode) -> Self {
        Self { status, headers: HeaderMap::new(), body: Vec::new() }
    }

    /// The same with this status.
    #[must_use]
    pub fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// Adds a header.
    pub fn set(&mut self, name: HeaderName, value: HeaderValue) {
        self.headers.insert(name, value);
    }

    /// Adds what a query tells of itself: the index to wait for, and how fresh it is.
    #[must_use]
    pub fn at(mut self, index: u64) -> Self {
        self.set(INDEX, index.into());
        self.set(KNOWN_LEADER, HeaderValue::from_static("true"));
        self.set(LAST_CONTACT, HeaderValue::from_static("0"));
        self
    }
}

impl Answer {
    /// An indexed value as JSON with its index.
    pub fn query<T: Serialize>(api: &Api, parameters: &Parameters, read: &Indexed<T>) -> Self {
        Self::json(api, parameters, &read.value).at(read.index)
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        (self.status, self.headers, self.body).into_response()
    }
}

/// Why a request was not done: a status, and a sentence as the body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {message}")]
#[non_exhaustive]
pub struct ApiError {
    /// The status of the answer.
    pub status: StatusCode,
    /// What, where, why, and what to do.
    pub message: String,
}

impl ApiError {
    /// An error of this status.
    #[must_use]
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// The caller's mistake.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let status = match error {
            StoreError::Closed => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, self.message).into_response()
    }
}

/// The longest that a blocking query waits.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// How long it waits without `wait`.
pub(super) const DEFAULT_WAIT: Duration = Duration::from_secs(300);
