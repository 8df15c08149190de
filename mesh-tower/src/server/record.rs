//! What is known of one request being served: its span, its context, and how it ended.
//!
//! A [`Record`] travels with the request from arrival to the end of the response body, first in
//! the future, then in the body, and reports once, when it is dropped there. The end is
//!
//! - the status, for a response whose body was read to its end;
//! - the flag of the error, for an answer that the mesh made or cut short;
//! - `downstream_connection_termination`, if the caller went away before the end;
//! - for gRPC, besides, `grpc-status` from trailers or from the head of a trailers-only answer.

use super::admission::Place;
use super::{Context, Shared, panicked};
use crate::clock;
use crate::rate_limit;
use crate::report::{Form, Serving};
use crate::telemetry::{End, ServerMetrics};
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::{Body as HttpBody, Frame};
use mesh_core::trace_context::TraceContext;
use mesh_core::{Error, ErrorKind, GrpcCode, Timestamp};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tracing::Span;
use tracing::field::{Empty, display};

/// One request being served.
#[derive(Debug)]
pub(super) struct Record {
    metrics: Arc<ServerMetrics>,
    context: Context,
    span: Span,
    started: Timestamp,
    method: Method,
    grpc: bool,
    status: Option<StatusCode>,
    code: Option<GrpcCode>,
    /// What went wrong, as far as the mesh knows.
    error: Option<ErrorKind>,
    /// Whether the response body was read to its end, or has none.
    complete: bool,
    /// Whether the mesh answered in place of the handler.
    own: bool,
    /// Bytes of the body still to come, if the head announced how many there are.
    left: Option<u64>,
    /// For its answer.
    fields: Option<Box<HeaderMap>>,
    /// Counts it for the load reports.
    serving: Option<Serving>,
    /// Among those being served; `None` for one that was refused, or still waits.
    place: Option<Place>,
}

impl Record {
    pub(super) fn new<B>(
        shared: &Shared,
        request: &Request<B>,
        started: Timestamp,
        mut context: Context,
    ) -> Self {
        let grpc = mesh_core::is_grpc(request.headers());
        let config = &shared.config;
        let trusted = shared.trusts(context.peer.as_ref());
        let form = Form::granted(config.load_reports, trusted, request.headers());
        let serving = shared.reports.begin(form, grpc, started);
        let span = span(request, &context, grpc);
        if !span.is_disabled() {
            let parent = context.trace;
            let own = match parent {
                Some(parent) => parent.child(&mut || fastrand::u64(..)),
                None => TraceContext::root(&mut || fastrand::u64(..)),
            };
            span.record("trace_id", display(format_args!("{:032x}", own.trace_id)));
            span.record("span_id", display(format_args!("{:016x}", own.span_id)));
            if let Some(parent) = parent {
                span.record("parent_span_id", display(format_args!("{:016x}", parent.span_id)));
            }
            context.trace = Some(own);
        }
        Self {
            metrics: shared.metrics.clone(),
            context,
            span,
            started,
            method: request.method().clone(),
            grpc,
            status: None,
            code: None,
            error: None,
            complete: false,
            own: false,
            left: None,
            fields: None,
            serving,
            place: None,
        }
    }

    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    pub(super) fn is_grpc(&self) -> bool {
        self.grpc
    }

    /// Fields that its answer is to carry.
    pub(super) fn tell(&mut self, fields: Option<Box<HeaderMap>>) {
        self.fields = fields;
    }

    /// It has a place.
    pub(super) fn admitted(&mut self, place: Place) {
        self.place = Some(place);
    }

    /// It waited for a place, and has one.
    pub(super) fn waited(&mut self, place: Place) {
        if let Some(serving) = &mut self.serving {
            serving.waited();
        }
        self.admitted(place);
    }

    /// It waited for a place, and did not get one.
    pub(super) fn shed(&self, refusal: &Error) {
        self.metrics.shed(refusal.kind());
    }

    /// Runs a piece of the application's code in the request's context and span; a panic in it
    /// becomes an error.
    pub(super) fn run<T>(&self, code: impl FnOnce() -> T) -> Result<T, Error> {
        let _entered = self.span.enter();
        // Whatever panicked is dropped and never looked at again.
        self.context.enter(|| catch_unwind(AssertUnwindSafe(code))).map_err(|panic| {
            tracing::error!(
                panic = text(&*panic),
                "a handler panicked; its request is answered 500"
            );
            panicked()
        })
    }

    /// The handler answered.
    pub(super) fn head<B>(&mut self, response: &mut Response<B>) {
        if let Some(serving) = &mut self.serving {
            serving.head(response);
        }
        if let Some(fields) = &self.fields {
            rate_limit::tell(fields, response.headers_mut());
        }
        self.note(response);
    }

    fn note<B>(&mut self, response: &Response<B>) {
        self.status = Some(response.status());
        self.complete = self.method == Method::HEAD;
        let length = response.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        self.left = length.and_then(|length| length.parse().ok());
        if self.grpc {
            self.code = GrpcCode::from_headers(response.headers());
        }
    }

    /// The handler's body gave a frame, its end, or an error.
    pub(super) fn frame<E>(&mut self, frame: &mut Option<Result<Frame<Bytes>, E>>) {
        match frame {
            None => self.complete = true,
            Some(Ok(frame)) => {
                if let (Some(left), Some(data)) = (&mut self.left, frame.data_ref()) {
                    *left = left.saturating_sub(data.len() as u64);
                }
                if let (true, Some(trailers)) = (self.grpc, frame.trailers_mut()) {
                    self.code = GrpcCode::from_headers(trailers).or(self.code);
                    if let Some(serving) = &mut self.serving {
                        serving.trailers(trailers);
                    }
                }
            }
            Some(Err(_)) => self.error = Some(ErrorKind::LocalReset),
        }
    }

    /// Looks whether the body has ended: a server need not ask again for a frame that cannot
    /// come.
    pub(super) fn progress<B: HttpBody>(&mut self, body: &B) {
        let left = self.left.or_else(|| body.size_hint().exact());
        self.complete |= body.is_end_stream() || left == Some(0);
    }

    /// The mesh answers in place of the handler.
    pub(super) fn refuse<B>(&mut self, error: &Error, response: &mut Response<B>) {
        if let Some(serving) = &mut self.serving {
            serving.refuse(error.kind(), response);
        }
        self.note(response);
        self.error = Some(error.kind());
        self.complete = true;
        self.own = true;
    }

    /// The mesh ends the body in place of the handler; with trailers, if it is gRPC.
    pub(super) fn cut(&mut self, error: &Error, trailers: Option<&mut HeaderMap>) {
        if let (Some(serving), Some(trailers)) = (&mut self.serving, trailers) {
            serving.trailers(trailers);
        }
        self.error = Some(error.kind());
        self.code = self.grpc.then(|| error.grpc_code());
        self.complete = true;
    }

    /// The service returned its own error, which its server turns into no answer at all.
    pub(super) fn fail(mut self) {
        self.error = Some(ErrorKind::LocalReset);
    }

    fn end(&self) -> (Option<ErrorKind>, Option<GrpcCode>) {
        let gone = !self.complete && self.error.is_none();
        let error = if gone { Some(ErrorKind::CallerGone) } else { self.error };
        let unsaid = if gone { GrpcCode::CANCELLED } else { GrpcCode::UNKNOWN };
        let code = self.grpc.then_some(self.code.unwrap_or(unsaid));
        (error, code)
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let (error, code) = self.end();
        let now = clock::now();
        let took = now.since(self.started);
        if let (Some(place), true, None) = (&self.place, self.complete, self.error) {
            place.answered(now);
        }
        let end = match (error, self.status) {
            (Some(kind), Some(status)) if self.own => End::Answered(kind, status),
            (Some(kind), _) => End::Error(kind),
            (None, Some(status)) => End::Status(status),
            (None, None) => End::Other,
        };
        self.metrics.request_ended(&self.method, end, took);
        if let Some(code) = code {
            self.metrics.rpc_ended(code, took);
        }
        if self.span.is_disabled() {
            return;
        }
        if let Some(status) = self.status {
            self.span.record("http.response.status_code", status.as_u16());
        }
        if let Some(code) = code {
            self.span.record("rpc.response.status_code", display(code));
        }
        let failed = self.status.filter(StatusCode::is_server_error);
        match (error, failed, code.filter(|code| code.is_server_failure())) {
            (Some(kind), _, _) => self.span.record("error.type", kind.flag()),
            (None, Some(status), _) => self.span.record("error.type", status.as_str()),
            (None, None, Some(code)) => self.span.record("error.type", display(code)),
            (None, None, None) => &self.span,
        };
    }
}

/// The SERVER span: names by OpenTelemetry, `otel.name` as its conventions ask.
fn span<B>(request: &Request<B>, context: &Context, grpc: bool) -> Span {
    let span = tracing::info_span!(
        "request",
        otel.name = Empty,
        otel.kind = "server",
        trace_id = Empty,
        span_id = Empty,
        parent_span_id = Empty,
        http.request.method = method(request.method()),
        http.route = Empty,
        http.response.status_code = Empty,
        url.path = request.uri().path(),
        rpc.system.name = Empty,
        rpc.method = Empty,
        rpc.response.status_code = Empty,
        client.address = Empty,
        error.type = Empty,
    );
    if span.is_disabled() {
        return span;
    }
    if grpc {
        let method = request.uri().path().trim_start_matches('/');
        span.record("otel.name", method);
        span.record("rpc.system.name", "grpc");
        span.record("rpc.method", method);
    } else if let Some(route) = route(request) {
        span.record("otel.name", display(format_args!("{} {route}", method(request.method()))));
        span.record("http.route", route);
    } else {
        span.record("otel.name", method(request.method()));
    }
    if let Some(peer) = &context.peer {
        span.record("client.address", display(peer.address().ip()));
    }
    span
}

/// The method, if HTTP's own standards know it; callers cannot make names of their own.
fn method(method: &Method) -> &str {
    const KNOWN: [Method; 9] = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::CONNECT,
        Method::OPTIONS,
        Method::TRACE,
        Method::PATCH,
    ];
    if KNOWN.contains(method) { method.as_str() } else { "_OTHER" }
}

/// The template that the application's router matched.
#[cfg(feature = "axum")]
fn route<B>(request: &Request<B>) -> Option<&str> {
    request.extensions().get().map(axum::extract::MatchedPath::as_str)
}

#[cfg(not(feature = "axum"))]
fn route<B>(_request: &Request<B>) -> Option<&str> {
    None
}

/// The text of a panic, if it has one.
fn text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text")
}
