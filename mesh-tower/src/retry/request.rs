//! The request of a call, to be sent more than once.

use super::replay::Tape;
use crate::body::Body;
use crate::call::Call;
use crate::clock;
use crate::deadline::{self, Expiry, Sent};
use crate::explain::Noting;
use http::{Extensions, HeaderName, HeaderValue, Method, Request, Uri, Version};
use http_body::Body as HttpBody;
use mesh_core::deadline::{EXPECTED_TIMEOUT, GRPC_TIMEOUT};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

pub(super) const PREVIOUS_ATTEMPTS: HeaderName =
    HeaderName::from_static("grpc-previous-rpc-attempts");
pub(super) const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");

/// Where the body of a further attempt comes from.
#[derive(Debug)]
pub(super) enum Source {
    Whole(Body),
    Tape(Tape),
}

impl Source {
    /// The body to send, and what repeats it, if it is to be repeated up to `limit` bytes.
    pub(super) fn split(
        body: Body,
        limit: Option<u64>,
        sent: Option<Arc<Sent>>,
    ) -> (Body, Option<Self>) {
        if let Some(copy) = body.try_clone() {
            return (body, limit.map(|_| Self::Whole(copy)));
        }
        let limit = limit.filter(|limit| body.size_hint().lower() <= *limit);
        if limit.is_none() && sent.is_none() {
            return (body, None);
        }
        let tape = Tape::new(body, limit.unwrap_or(0), sent);
        let replay = tape.play().map_or_else(Body::empty, Body::from);
        (replay, limit.map(|_| Self::Tape(tape)))
    }

    pub(super) fn is_repeatable(&self) -> bool {
        match self {
            Self::Whole(_) => true,
            Self::Tape(tape) => tape.is_repeatable(),
        }
    }

    /// A copy to send beside the attempt that has the body; `None` while that is not read in full.
    pub(super) fn copy(&self) -> Option<Body> {
        match self {
            Self::Whole(body) => body.try_clone(),
            Self::Tape(tape) => tape.copy().map(Body::from),
        }
    }

    pub(super) fn again(&self) -> Option<Body> {
        match self {
            Self::Whole(body) => body.try_clone(),
            Self::Tape(tape) => tape.play().map(Body::from),
        }
    }
}

/// The head of a request, to be sent again.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) method: Method,
    pub(super) uri: Uri,
    version: Version,
    /// A list, which is copied with one allocation instead of two.
    fields: Vec<(HeaderName, HeaderValue)>,
    /// As the attempt under way has it.
    pub(super) call: Option<Arc<Call>>,
    pub(super) grpc: bool,
    pub(super) expiry: Option<Expiry>,
    pub(super) extensions: Extensions,
}

impl Head {
    pub(super) fn of(
        request: &Request<Body>,
        call: Option<&Arc<Call>>,
        expiry: Option<Expiry>,
    ) -> Self {
        let headers = request.headers();
        let mut fields = Vec::with_capacity(headers.len());
        fields.extend(headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            fields,
            grpc: call.map_or_else(|| mesh_core::is_grpc(headers), |call| call.grpc),
            expiry,
            extensions: request.extensions().clone(),
            call: call.cloned(),
        }
    }

    /// The request of attempt number `attempt`, not counting what the application cannot have seen.
    /// It may take as long as `per_try`.
    pub(super) fn request(
        &mut self,
        attempt: u32,
        body: Body,
        per_try: Option<Duration>,
    ) -> Request<Body> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = self.version;
        *request.extensions_mut() = self.extensions.clone();
        if let Some(before) = &self.call {
            let mut call = Call::clone(before);
            call.attempt = attempt;
            call.noting = before.noting.as_ref().map(Noting::next);
            call.at = OnceLock::new();
            call.cut = per_try.map(|allowed| clock::now() + allowed);
            let call = Arc::new(call);
            self.call = Some(call.clone());
            request.body_mut().call = Some(call);
        }
        let headers = request.headers_mut();
        for (name, value) in &self.fields {
            headers.append(name, value.clone());
        }
        if attempt <= 1 {
            // Nobody has seen the one before.
        } else if self.grpc {
            headers.insert(PREVIOUS_ATTEMPTS, HeaderValue::from(attempt - 1));
        } else {
            headers.insert(ATTEMPT_COUNT, HeaderValue::from(attempt));
        }
        let told = if self.grpc { &GRPC_TIMEOUT } else { &EXPECTED_TIMEOUT };
        if let Some(Expiry(expiry)) = self.expiry.filter(|_| headers.contains_key(told)) {
            deadline::send(headers, expiry.since(clock::now()), self.grpc);
        }
        request
    }
}
