//! Spans: one INTERNAL span per call, one CLIENT span per attempt within it.
//!
//! Fields carry the names of OpenTelemetry attributes; own ones begin with `mesh.`. The layers
//! below record what they decide on the current span: `mesh.endpoint`, `mesh.pick_reason`.
//! `otel.name`, `otel.kind` and `otel.status_code` are what `tracing-opentelemetry` reads, since
//! the name of a `tracing` span is fixed when it is compiled.
//!
//! Spans have the level `DEBUG`. A span that no subscriber wants costs the check of one atomic;
//! its fields are not computed.
//!
//! Source: OpenTelemetry semantic conventions for HTTP and RPC spans.

use super::Scope;
use crate::call;
use http::Request;
use mesh_core::trace_context::TraceContext;
use tracing::field::{Empty, display};
use tracing::{Span, debug_span};

/// The span of a call or of one attempt; disabled if no subscriber wants it.
pub(super) fn start<B: 'static>(
    scope: Scope,
    request: &Request<B>,
    destination: &str,
    grpc: bool,
) -> Span {
    let pinned = || call::pinned(request);
    match scope {
        Scope::Call => debug_span!(
            "call",
            otel.name = display(Name { request, grpc }),
            otel.kind = "internal",
            otel.status_code = Empty,
            http.request.method = request.method().as_str(),
            http.response.status_code = Empty,
            rpc.system.name = grpc.then_some("grpc"),
            rpc.response.status_code = Empty,
            "error.type" = Empty,
            mesh.destination = destination,
            mesh.route = pinned().and_then(|call| call.rule.as_deref()).map(|rule| &*rule.name),
            trace_id = Empty,
            span_id = Empty,
        ),
        Scope::Attempt => {
            let attempt = pinned().map_or(1, |call| call.attempt);
            debug_span!(
                "attempt",
                otel.name = display(Name { request, grpc }),
                otel.kind = "client",
                otel.status_code = Empty,
                http.request.method = request.method().as_str(),
                http.request.resend_count = (attempt > 1).then(|| attempt - 1),
                http.response.status_code = Empty,
                rpc.system.name = grpc.then_some("grpc"),
                rpc.response.status_code = Empty,
                server.address = destination,
                "error.type" = Empty,
                mesh.destination = destination,
                mesh.attempt = attempt,
                mesh.endpoint = Empty,
                mesh.pick_reason = Empty,
                trace_id = Empty,
                span_id = Empty,
            )
        }
    }
}

/// Writes the identifiers of the trace on the span.
pub(super) fn identify(span: &Span, context: &TraceContext) {
    span.record("trace_id", display(format_args!("{:032x}", context.trace_id)));
    span.record("span_id", display(format_args!("{:016x}", context.span_id)));
}

/// `package.Service/Method` for gRPC, the method alone for other HTTP: paths are unbounded.
struct Name<'a, B> {
    request: &'a Request<B>,
    grpc: bool,
}

impl<B> std::fmt::Display for Name<'_, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.grpc {
            f.write_str(self.request.uri().path().trim_start_matches('/'))
        } else {
            f.write_str(self.request.method().as_str())
        }
    }
}
