//! What was seen of a call or an attempt so far; it is counted once, when this ends.

use super::{DestinationMetrics, End, Ended, MethodLabel, Scope};
use crate::body::BoxError;
use crate::clock;
use http::{HeaderMap, Method, Response, StatusCode};
use mesh_core::{Error, ErrorKind, GrpcCode, Outcome, Timestamp};
use std::sync::Arc;
use tracing::Span;
use tracing::span::Entered;

#[derive(Debug)]
pub(super) struct Watch {
    scope: Scope,
    metrics: Option<Arc<DestinationMetrics>>,
    span: Span,
    started: Timestamp,
    method: MethodLabel,
    grpc: bool,
    status: Option<StatusCode>,
    code: Option<GrpcCode>,
    error: Option<(ErrorKind, GrpcCode)>,
    complete: bool,
}

impl Watch {
    pub(super) fn new(
        scope: Scope,
        metrics: Option<Arc<DestinationMetrics>>,
        span: Span,
        started: Timestamp,
        method: &Method,
        grpc: bool,
    ) -> Self {
        Self {
            scope,
            metrics,
            span,
            started,
            method: method.into(),
            grpc,
            status: None,
            code: None,
            error: None,
            complete: false,
        }
    }

    /// What happens until the guard is dropped belongs to the span.
    pub(super) fn enter(&self) -> Entered<'_> {
        self.span.enter()
    }

    pub(super) fn head<B>(&mut self, response: &Response<B>) {
        let status = response.status();
        self.status = Some(status);
        if self.grpc {
            self.code = GrpcCode::of_head(status, response.headers());
        }
    }

    pub(super) fn trailers(&mut self, trailers: &HeaderMap) {
        if self.grpc {
            self.code = GrpcCode::from_headers(trailers).or(self.code);
        }
    }

    /// The response is here whole.
    pub(super) fn complete(mut self) {
        self.complete = true;
    }

    /// There is no response. What refused the call above the destination's own layers did not
    /// know whom it was for; the error says so from here on.
    pub(super) fn failed(mut self, error: Error) -> Error {
        self.error = Some((error.kind(), error.grpc_code()));
        match &self.metrics {
            Some(metrics) if error.destination().is_none() => {
                error.with_destination(metrics.name())
            }
            _ => error,
        }
    }

    /// The response broke off.
    pub(super) fn broken(mut self, error: &BoxError) {
        self.error = Some(match error.downcast_ref::<Error>() {
            Some(error) => (error.kind(), error.grpc_code()),
            None => (ErrorKind::ConnectionClosed, GrpcCode::UNAVAILABLE),
        });
    }

    fn grpc_code(&self) -> GrpcCode {
        match (self.error, self.code) {
            (Some((_, code)), _) | (None, Some(code)) => code,
            (None, None) if self.complete => GrpcCode::UNKNOWN,
            (None, None) => GrpcCode::CANCELLED,
        }
    }

    fn ended(&self) -> Ended {
        match self.status {
            _ if self.error.is_some() => Ended::Failure,
            Some(status) if !self.grpc => Outcome::of_http(status).into(),
            Some(_) if self.complete || self.code.is_some() => {
                Outcome::of_grpc(self.grpc_code()).into()
            }
            _ => Ended::Cancelled,
        }
    }

    fn end(&self) -> End {
        match (self.error, self.status) {
            (Some((kind, _)), _) => End::Error(kind),
            (None, Some(status)) => End::Status(status),
            (None, None) => End::Error(ErrorKind::CallerGone),
        }
    }

    fn describe(&self) {
        let span = &self.span;
        if let Some(status) = self.status {
            span.record("http.response.status_code", status.as_u16());
        }
        if self.grpc {
            let code = self.grpc_code();
            span.record("rpc.response.status_code", tracing::field::display(code));
        }
        if self.ended() == Ended::Failure {
            span.record("otel.status_code", "ERROR");
        }
        match self.end() {
            End::Error(kind) => {
                span.record("error.type", kind.flag());
            }
            End::Status(status) if status.is_client_error() || status.is_server_error() => {
                span.record("error.type", status.as_str());
            }
            _ => {}
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.span.is_disabled() {
            self.describe();
        }
        let Some(metrics) = &self.metrics else { return };
        match self.scope {
            Scope::Attempt => {
                metrics.attempt_ended(self.method, self.end(), clock::now().since(self.started));
            }
            Scope::Call => {
                metrics.call_ended(self.ended());
                if self.grpc {
                    metrics.rpc_ended(self.grpc_code(), clock::now().since(self.started));
                }
            }
        }
    }
}
