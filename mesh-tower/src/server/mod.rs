//! Server: what a request meets before the application, and its answer on the way out.
//!
//! One layer for axum routers and tonic servers, over any body. For each request it
//!
//! 1. takes a place among those being served, or sheds ([`Config::max_requests`]);
//! 2. reads the caller's deadline (`grpc-timeout`, `x-envoy-expected-rq-timeout-ms`) and trace
//!    (`traceparent`, `tracestate`, `baggage`), and refuses what came too late;
//! 3. polls the handler inside a [`Context`] and a SERVER span, so that the calls it makes
//!    inherit the remaining time and the trace, and drops it when the deadline passes;
//! 4. turns a panic of the handler into an answer: the connection and its other streams live.
//!
//! `expiry = min(now + timeout in the request, now + Config::timeout, expiry of an outer layer)`
//!
//! A refusal is a response ([`answer`](crate::answer)), never an error: the service's own error type is left
//! alone. The place, the span and the measured duration last until the response body ends.
//! A gRPC deadline bounds the whole stream; an HTTP one the wait for the response head.
//!
//! Units: timeouts are spans, `grpc-timeout` and the Envoy field count from arrival.
//! Source: gRPC "over HTTP2"; Envoy "HTTP header manipulation"; W3C Trace Context;
//! OpenTelemetry semantic conventions for HTTP and RPC servers.
//! Order: outermost, so that what else the application layers is inside its deadline.

mod admission;
mod body;
mod context;
mod record;

pub use admission::{Admission, Place};
pub use body::ResponseBody;
pub use context::Context;
/// Settings of a [`ServerLayer`]: what configuration calls a `ServerPolicy`.
pub use mesh_core::config::ServerPolicy as Config;

use crate::listen::Peer;
use crate::telemetry::{Metrics, ServerMetrics};
use crate::{BoxError, clock, fields};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Body as HttpBody;
use mesh_core::deadline::{self, EXPECTED_TIMEOUT, Expiry, GRPC_TIMEOUT};
use mesh_core::trace_context::{TRACEPARENT, TraceContext};
use mesh_core::{Error, ErrorKind, Timestamp};
use pin_project_lite::pin_project;
use record::Record;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll, ready};
use std::time::Duration;
use tokio::time::{Sleep, sleep_until};
use tower_layer::Layer;
use tower_service::Service;

const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// Wraps a service in [`Server`].
///
/// ```
/// # #[cfg(feature = "axum")] {
/// use axum::{Router, routing::get};
/// use mesh_tower::server::{Config, ServerLayer};
///
/// let app: Router = Router::new()
///     .route("/items/{id}", get(|| async { "an item" }))
///     .layer(ServerLayer::new(Config::default()));
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ServerLayer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    admission: Arc<Admission>,
    metrics: Arc<ServerMetrics>,
}

impl ServerLayer {
    /// A layer; its clones share one count of requests.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self::with_metrics(config, &Metrics::new())
    }

    /// A layer that counts into the metrics of a mesh.
    #[must_use]
    pub fn with_metrics(config: Config, metrics: &Metrics) -> Self {
        let metrics = metrics.server().clone();
        Self { shared: Arc::new(Shared { config, admission: Arc::default(), metrics }) }
    }

    /// Requests being served now, response bodies included.
    #[must_use]
    pub fn serving(&self) -> usize {
        self.shared.admission.serving()
    }
}

impl Default for ServerLayer {
    fn default() -> Self {
        Self::new(Config::default())
    }
}

impl Shared {
    /// Answers before the handler has seen the request.
    fn refuse<F>(&self, record: Record, refusal: Error) -> ResponseFuture<F> {
        self.metrics.shed(refusal.kind());
        ResponseFuture::refused(record, refusal)
    }
}

impl<S> Layer<S> for ServerLayer {
    type Service = Server<S>;

    fn layer(&self, inner: S) -> Server<S> {
        Server { inner, shared: self.shared.clone() }
    }
}

/// See the [module docs](self).
#[derive(Clone, Debug)]
pub struct Server<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S, B, RB> Service<Request<B>> for Server<S>
where
    S: Service<Request<B>, Response = Response<RB>>,
    RB: HttpBody<Data = Bytes>,
    RB::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<RB>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let shared = &*self.shared;
        let now = clock::now();
        let place = match shared.admission.admit(shared.config.max_requests) {
            Ok(place) => place,
            Err(shed) => {
                let record = Record::new(shared, &request, now, Context::default(), None);
                return shared.refuse(record, shed);
            }
        };
        let (context, refusal) = read(&shared.config, &request, now);
        let timer = context.expiry.map(|Expiry(at)| sleep_until(clock::instant(at)));
        let record = Record::new(shared, &request, now, context, Some(place));
        if let Some(refusal) = refusal {
            return shared.refuse(record, refusal);
        }
        // A handler may do its work, and panic, before it has returned a future.
        match record.run(|| self.inner.call(request)) {
            Ok(handler) => ResponseFuture {
                handler: Some(handler),
                timer,
                record: Some(record),
                refusal: None,
            },
            Err(panic) => ResponseFuture::refused(record, panic),
        }
    }
}

pin_project! {
    /// The response of the handler, or one that says why there is none.
    pub struct ResponseFuture<F> {
        #[pin]
        handler: Option<F>,
        #[pin]
        timer: Option<Sleep>,
        record: Option<Record>,
        refusal: Option<Error>,
    }
}

impl<F> ResponseFuture<F> {
    fn refused(record: Record, refusal: Error) -> Self {
        Self { handler: None, timer: None, record: Some(record), refusal: Some(refusal) }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let answer = match (this.handler.as_mut().as_pin_mut(), &*this.record) {
            (Some(handler), Some(record)) => match record.run(|| handler.poll(cx)) {
                Ok(Poll::Ready(answer)) => Ok(answer),
                Ok(Poll::Pending) => {
                    let Some(timer) = this.timer.as_mut().as_pin_mut() else {
                        return Poll::Pending;
                    };
                    ready!(timer.poll(cx));
                    Err(Error::new(ErrorKind::Deadline, "the handler did not answer in time"))
                }
                Err(panic) => Err(panic),
            },
            _ => Err(this.refusal.take().unwrap_or_else(panicked)),
        };
        // Dropped before the caller hears of it: what the handler held is free again.
        this.handler.set(None);
        let Some(record) = this.record.take() else { return Poll::Pending };
        Poll::Ready(match answer {
            Ok(Ok(response)) => Ok(ResponseBody::of_handler(response, record)),
            Ok(Err(error)) => {
                record.fail();
                Err(error)
            }
            Err(refusal) => Ok(ResponseBody::of_mesh(&refusal, record)),
        })
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").field("refusal", &self.refusal).finish_non_exhaustive()
    }
}

/// What the request brought for the calls it will cause, and why it is refused, if it is.
fn read<B>(config: &Config, request: &Request<B>, now: Timestamp) -> (Context, Option<Error>) {
    let mut context = Context { peer: peer(request), ..Context::default() };
    let headers = request.headers();
    if config.trust_callers {
        let parent = fields::get(headers, &TRACEPARENT);
        context.trace = parent.and_then(|value| TraceContext::parse(value.as_bytes()));
        context.trace_state = context.trace.and_then(|_| joined(headers, TRACESTATE));
        context.baggage = joined(headers, BAGGAGE);
    }

    let mut timeout = config.timeout;
    let mut shrink = |to: Duration| timeout = Some(timeout.map_or(to, |own| own.min(to)));
    let mut refusal = None;
    if config.trust_callers {
        match fields::get(headers, &GRPC_TIMEOUT)
            .map(|value| deadline::parse_grpc_timeout(value.as_bytes()))
        {
            Some(Ok(span)) => shrink(span),
            Some(Err(_)) => {
                refusal = Some(Error::new(ErrorKind::CallerProtocol, "grpc-timeout is malformed"));
            }
            None => {}
        }
        // Envoy, too, passes over a field of its own that is malformed.
        let expected = fields::get(headers, &EXPECTED_TIMEOUT).map(HeaderValue::as_bytes);
        if let Some(Ok(Some(span))) = expected.map(deadline::parse_expected_timeout) {
            shrink(span);
        }
    }
    let outer = Context::with(|outer| outer.expiry).flatten();
    context.expiry = Expiry::child(outer, now, timeout);
    if refusal.is_none() && context.expiry.is_some_and(|expiry| expiry.has_passed(now)) {
        refusal = Some(Error::new(ErrorKind::Deadline, "the deadline had passed on arrival"));
    }
    (context, refusal)
}

/// The values of a list field that may stand on several lines, as one.
fn joined(headers: &HeaderMap, name: HeaderName) -> Option<HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    let mut all = match values.next() {
        None => return Some(first.clone()),
        Some(second) => [first.as_bytes(), b",", second.as_bytes()].concat(),
    };
    for value in values {
        all.push(b',');
        all.extend_from_slice(value.as_bytes());
    }
    HeaderValue::try_from(all).ok()
}

/// Who sent the request, as the server in front of the layer noted it.
fn peer<B>(request: &Request<B>) -> Option<Peer> {
    #[cfg(feature = "axum")]
    if let Some(axum::extract::ConnectInfo(peer)) = request.extensions().get() {
        return Some(Peer::clone(peer));
    }
    request.extensions().get().cloned()
}

fn panicked() -> Error {
    Error::new(ErrorKind::Panic, "the handler panicked")
}

#[cfg(test)]
mod tests;
