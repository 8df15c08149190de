//! Telemetry: metrics, spans and trace context, by the names of OpenTelemetry.
//!
//! One layer, at two places of the stack: it watches a call with all its attempts, or one
//! attempt, from its start to the end of the response body.
//!
//! | | [`TelemetryLayer::call`] | [`TelemetryLayer::attempt`] |
//! |---|---|---|
//! | span | INTERNAL | CLIENT, within the call's |
//! | metrics | `mesh.calls`; for gRPC `rpc.client.call.duration` | `http.client.request.duration` |
//! | trace context | if recorded | each attempt is a child of its own |
//!
//! How it ended is read where it shows: the status of an HTTP response from its head, that of a
//! gRPC response from its trailers, or from the head of a trailers-only response; without one
//! it is `UNKNOWN`. A body that breaks off is an error. Dropped before the end, a call counts as
//! cancelled; an attempt keeps the status it had, so that a response given up for a retry counts
//! as what it was.
//!
//! Cost: an attempt reads the clock once, at its end; the first one takes its start from the
//! pinned [`Call`]. Spans that nobody records and trace context that nobody sent cost a check.
//!
//! Which metrics there are: [`Metrics`]. What the spans hold: they carry the attributes of
//! the OpenTelemetry conventions for HTTP and RPC clients, plus `mesh.destination`,
//! `mesh.endpoint`, `mesh.attempt`, `mesh.pick_reason`.
//!
//! Order: `call` above deadline and retry, `attempt` between retry and balance.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), mesh_tower::Error> {
//! use http::{Request, Response};
//! use mesh_tower::telemetry::{Metrics, TelemetryLayer};
//! use mesh_tower::{Body, Error};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! let metrics = Metrics::new();
//! let inventory = metrics.destination("inventory");
//! let service = ServiceBuilder::new()
//!     .layer(TelemetryLayer::call().metrics(inventory.clone()))
//!     .layer(TelemetryLayer::attempt().metrics(inventory.clone()))
//!     .service(service_fn(async |_| Ok::<_, Error>(Response::new(Body::empty()))));
//! service.oneshot(Request::new(Body::empty())).await?;
//! assert_eq!(inventory.counts().succeeded, 1);
//! # Ok(())
//! # }
//! ```

mod by_label;
mod destination_metrics;
pub mod histogram;
mod labels;
mod metrics;
#[cfg(feature = "prometheus")]
pub mod prometheus;
mod propagation;
mod server_metrics;
mod span;
mod watch;

pub use destination_metrics::{Counts, DestinationMetrics, Observe, Observed};
pub use histogram::{End, Histogram, MethodLabel};
pub use labels::{BreakerState, Ended, GlobalLimit, Handshake, Probed};
pub use metrics::{MAX_DESTINATIONS, Metrics};
pub use server_metrics::ServerMetrics;

use crate::body::BoxError;
use crate::call::{self, Call};
use crate::clock;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use mesh_core::Error;
use pin_project_lite::pin_project;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tower_layer::Layer;
use tower_service::Service;
use watch::Watch;

/// Wraps a service in [`Telemetry`].
#[derive(Clone, Debug)]
pub struct TelemetryLayer {
    scope: Scope,
    metrics: Option<Arc<DestinationMetrics>>,
}

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Call,
    Attempt,
}

impl TelemetryLayer {
    /// Watches calls.
    #[must_use]
    pub const fn call() -> Self {
        Self { scope: Scope::Call, metrics: None }
    }

    /// Watches attempts.
    #[must_use]
    pub const fn attempt() -> Self {
        Self { scope: Scope::Attempt, metrics: None }
    }

    /// Where calls without a pinned [`Call`] are counted; nowhere by default.
    #[must_use]
    pub fn metrics(mut self, metrics: Arc<DestinationMetrics>) -> Self {
        self.metrics = Some(metrics);
        self
    }
}

impl<S> Layer<S> for TelemetryLayer {
    type Service = Telemetry<S>;

    fn layer(&self, inner: S) -> Telemetry<S> {
        Telemetry { inner, layer: self.clone() }
    }
}

/// See the [module docs](self).
#[derive(Clone, Debug)]
pub struct Telemetry<S> {
    inner: S,
    layer: TelemetryLayer,
}

impl<S, B, R> Service<Request<B>> for Telemetry<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<Error>,
    B: 'static,
    R: HttpBody,
{
    type Response = Response<Body<R>>;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let TelemetryLayer { scope, metrics } = &self.layer;
        let scope = *scope;
        let pinned = call::pinned(&request);
        let grpc = pinned.map_or_else(|| mesh_core::is_grpc(request.headers()), |call| call.grpc);
        let started = match pinned {
            Some(call) if scope == Scope::Call => call.started,
            Some(call) if call.attempt == 1 => call.leaves,
            _ => clock::now(),
        };
        let metrics = pinned.and_then(Call::metrics).or(metrics.as_ref()).cloned();

        let destination = metrics.as_deref().map_or("", DestinationMetrics::name);
        let span = span::start(scope, &request, destination, grpc);
        if scope == Scope::Attempt || !span.is_disabled() {
            let context = propagation::propagate(request.headers_mut(), !span.is_disabled());
            if let Some(context) = &context {
                span::identify(&span, context);
            }
        }
        let watch = Watch::new(scope, metrics, span, started, request.method(), grpc);
        let entered = watch.enter();
        let inner = self.inner.call(request);
        drop(entered);
        ResponseFuture { inner, watch: Some(watch) }
    }
}

/// Counts a call that a layer above answers by itself as one of its destination.
pub(crate) fn answered<B: 'static, R>(request: &Request<B>, response: &Response<R>) {
    let mut watch = alone(request);
    watch.head(response);
    watch.complete();
}

/// Counts a call that a layer above fails as one of its destination, which the error names from
/// here on.
pub(crate) fn failed<B: 'static>(request: &Request<B>, error: Error) -> Error {
    alone(request).failed(error)
}

/// The watch of a call that never comes to this layer.
fn alone<B: 'static>(request: &Request<B>) -> Watch {
    let pinned = call::pinned(request);
    let grpc = pinned.is_some_and(|call| call.grpc);
    let started = pinned.map_or_else(clock::now, |call| call.started);
    let metrics = pinned.and_then(Call::metrics).cloned();
    let destination = metrics.as_deref().map_or("", DestinationMetrics::name);
    let span = span::start(Scope::Call, request, destination, grpc);
    Watch::new(Scope::Call, metrics, span, started, request.method(), grpc)
}

pin_project! {
    /// The inner answer, watched.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        watch: Option<Watch>,
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: HttpBody,
    E: Into<Error>,
{
    type Output = Result<Response<Body<R>>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = {
            let _entered = this.watch.as_ref().map(Watch::enter);
            ready!(this.inner.poll(cx))
        };
        let watch = this.watch.take();
        Poll::Ready(match answer {
            Ok(response) => Ok(watched(response, watch)),
            Err(error) => {
                let error = error.into();
                Err(match watch {
                    Some(watch) => watch.failed(error),
                    None => error,
                })
            }
        })
    }
}

fn watched<R: HttpBody>(response: Response<R>, watch: Option<Watch>) -> Response<Body<R>> {
    let watch = watch.and_then(|mut watch| {
        watch.head(&response);
        if response.body().is_end_stream() {
            watch.complete();
            None
        } else {
            Some(watch)
        }
    });
    response.map(|inner| Body { inner, watch })
}

pin_project! {
    /// A response body, watched to its end.
    #[derive(Debug)]
    pub struct Body<B> {
        #[pin]
        inner: B,
        watch: Option<Watch>,
    }
}

/// The body of an answer made above, which nobody watches.
impl<B: From<Bytes>> From<Bytes> for Body<B> {
    fn from(bytes: Bytes) -> Self {
        Self { inner: B::from(bytes), watch: None }
    }
}

impl<B> HttpBody for Body<B>
where
    B: HttpBody<Error: Into<BoxError>>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let mut this = self.project();
        let frame =
            ready!(this.inner.as_mut().poll_frame(cx)).map(|frame| frame.map_err(Into::into));
        match &frame {
            Some(Ok(frame)) => {
                if let (Some(watch), Some(trailers)) = (&mut this.watch, frame.trailers_ref()) {
                    watch.trailers(trailers);
                }
                if this.inner.is_end_stream()
                    && let Some(watch) = this.watch.take()
                {
                    watch.complete();
                }
            }
            Some(Err(error)) => {
                if let Some(watch) = this.watch.take() {
                    watch.broken(error);
                }
            }
            None => {
                if let Some(watch) = this.watch.take() {
                    watch.complete();
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests;
