//! Breaker: stops calling after failures, and lets single calls through to see.
//!
//! ```text
//! closed ── consecutive failures ──► open ── its time passes ──► half-open
//!   ▲                                 ▲                             │ one call at a time
//!   │                                 └──────── it fails ───────────┤ (the time doubles)
//!   └──────────────────────────────────────── it succeeds ──────────┘
//! ```
//!
//! While it is open, calls are refused with [`ErrorKind::Overflow`], as errors from the future.
//! The outcome of a call is the status of its response head; for gRPC the status in its
//! trailers, or in the head of a trailers-only response. A call that is dropped before its
//! outcome is known says nothing, and gives its turn as the probe back.
//!
//! In the default stack each endpoint has such a breaker already, asked by balance. This layer is
//! one for a hand-made stack around a single callee.
//!
//! Units and defaults: [`Config`]. Metrics: `mesh.breaker.transitions`, `mesh.shed`.
//! Order: below retry, so that each attempt asks.
//! Source: [`mesh_core::health::breaker`], which holds the states and the formula.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! use http::{Request, Response};
//! use mesh_tower::breaker::BreakerLayer;
//! use mesh_tower::{Body, Error, ErrorKind};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! let dead = service_fn(async |_| Err::<Response<Body>, Error>(ErrorKind::Connect.into()));
//! let service = ServiceBuilder::new().layer(BreakerLayer::new(1)).service(dead);
//! let call = || service.clone().oneshot(Request::new(Body::empty()));
//! assert_eq!(call().await.unwrap_err().kind(), ErrorKind::Connect);
//! assert_eq!(call().await.unwrap_err().kind(), ErrorKind::Overflow);
//! # }
//! ```

use crate::call;
use crate::clock;
use crate::telemetry::{BreakerState, DestinationMetrics};
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use mesh_core::health::breaker::{Admission, Refused, Transition};
use mesh_core::{Endpoint, Error, ErrorKind, Failure, GrpcCode, Outcome};
use pin_project_lite::pin_project;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tower_layer::Layer;
use tower_service::Service;

pub use mesh_core::health::breaker::Config;

/// Wraps a service in [`Breaker`].
///
/// Each wrapped service has a breaker of its own, which its clones share.
#[derive(Clone, Debug, Default)]
pub struct BreakerLayer {
    config: Config,
    metrics: Option<Arc<DestinationMetrics>>,
}

impl BreakerLayer {
    /// Opens after so many failures in a row. [`BreakerLayer::default`] has the default.
    #[must_use]
    pub fn new(consecutive_failures: u32) -> Self {
        let mut config = Config::default();
        config.consecutive_failures = consecutive_failures;
        Self { config, metrics: None }
    }

    /// All settings.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Where transitions and refusals are counted; nowhere by default.
    #[must_use]
    pub fn metrics(mut self, metrics: Arc<DestinationMetrics>) -> Self {
        self.metrics = Some(metrics);
        self
    }
}

impl<S> Layer<S> for BreakerLayer {
    type Service = Breaker<S>;

    fn layer(&self, inner: S) -> Breaker<S> {
        let shared = Shared {
            callee: Endpoint::new("callee".into(), ()),
            config: self.config.clone(),
            metrics: self.metrics.clone(),
        };
        Breaker { inner, shared: Arc::new(shared) }
    }
}

/// See the [module docs](self).
#[derive(Clone, Debug)]
pub struct Breaker<S> {
    inner: S,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Whose breaker it is; nothing else of it is used.
    callee: Endpoint,
    config: Config,
    metrics: Option<Arc<DestinationMetrics>>,
}

impl<S, B, R> Service<Request<B>> for Breaker<S>
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

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match Turn::take(&self.shared, &request) {
            Ok(turn) => ResponseFuture {
                inner: Some(self.inner.call(request)),
                turn: Some(turn),
                refusal: None,
            },
            Err(refused) => {
                let error = Error::new(ErrorKind::Overflow, refused.to_string());
                ResponseFuture { inner: None, turn: None, refusal: Some(error) }
            }
        }
    }
}

/// One admitted call, until its outcome is recorded.
#[derive(Debug)]
struct Turn {
    shared: Arc<Shared>,
    admission: Admission,
    grpc: bool,
    outcome: Outcome,
}

impl Turn {
    fn take<B: 'static>(shared: &Arc<Shared>, request: &Request<B>) -> Result<Self, Refused> {
        let pinned = call::pinned(request);
        let now = match pinned {
            Some(call) if call.attempt == 1 => call.leaves,
            _ => clock::now(),
        };
        let admission = shared.callee.breaker().try_acquire(now, &shared.config);
        if let Some(metrics) = &shared.metrics {
            match admission {
                Err(_) => metrics.shed(ErrorKind::Overflow),
                Ok(Admission::Probe(_)) => metrics.breaker_changed(BreakerState::HalfOpen),
                Ok(Admission::Closed) => {}
            }
        }
        Ok(Self {
            shared: shared.clone(),
            admission: admission?,
            grpc: pinned.map_or_else(|| mesh_core::is_grpc(request.headers()), |call| call.grpc),
            outcome: Outcome::Cancelled,
        })
    }

    /// Reads the head; the turn comes back if the outcome is still to come.
    fn head<B: HttpBody>(mut self, response: &Response<B>) -> Option<Self> {
        let status = response.status();
        if !self.grpc {
            self.outcome = Outcome::of_http(status);
            return None;
        }
        match GrpcCode::of_head(status, response.headers()) {
            Some(code) => self.outcome = Outcome::of_grpc(code),
            None if response.body().is_end_stream() => {
                self.outcome = Outcome::of_grpc(GrpcCode::UNKNOWN);
            }
            None => return Some(self),
        }
        None
    }

    fn trailers(mut self, trailers: Option<&HeaderMap>) {
        let code = trailers.and_then(GrpcCode::from_headers).unwrap_or(GrpcCode::UNKNOWN);
        self.outcome = Outcome::of_grpc(code);
    }

    fn failed(mut self, failure: Option<Failure>) {
        if let Some(failure) = failure {
            self.outcome = Outcome::Failure(failure);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Shared { callee, config, metrics } = &*self.shared;
        let transition = callee.breaker().record(
            self.admission,
            self.outcome,
            clock::now(),
            config,
            &mut || fastrand::u64(..),
        );
        let state = match transition {
            Some(Transition::Opened(_)) => BreakerState::Open,
            Some(Transition::Closed) => BreakerState::Closed,
            _ => return,
        };
        if let Some(metrics) = metrics {
            metrics.breaker_changed(state);
        }
    }
}

pin_project! {
    /// The inner answer, or [`ErrorKind::Overflow`].
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: Option<F>,
        turn: Option<Turn>,
        refusal: Option<Error>,
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
        let Some(inner) = this.inner.as_pin_mut() else {
            return match this.refusal.take() {
                Some(refusal) => Poll::Ready(Err(refusal)),
                None => Poll::Pending,
            };
        };
        let answer = ready!(inner.poll(cx)).map_err(Into::into);
        let turn = this.turn.take();
        Poll::Ready(match answer {
            Ok(response) => {
                let turn = turn.and_then(|turn| turn.head(&response));
                Ok(response.map(|inner| Body { inner, turn }))
            }
            Err(error) => {
                if let Some(turn) = turn {
                    turn.failed(error.failure());
                }
                Err(error)
            }
        })
    }
}

pin_project! {
    /// A response body whose trailers may decide.
    #[derive(Debug)]
    pub struct Body<B> {
        #[pin]
        inner: B,
        turn: Option<Turn>,
    }
}

impl<B: HttpBody> HttpBody for Body<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let frame = ready!(this.inner.poll_frame(cx));
        match &frame {
            Some(Ok(frame)) if frame.is_data() => {}
            Some(Err(_)) => {
                if let Some(turn) = this.turn.take() {
                    turn.failed(Some(Failure::Reset));
                }
            }
            end => {
                if let Some(turn) = this.turn.take() {
                    let frame = end.as_ref().and_then(|frame| frame.as_ref().ok());
                    turn.trailers(frame.and_then(Frame::trailers_ref));
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
mod tests {
    use super::*;
    use crate::telemetry::Metrics;
    use http::HeaderValue;
    use http_body_util::BodyExt;
    use http_body_util::combinators::UnsyncBoxBody;
    use std::cell::Cell;
    use std::future::pending;
    use std::rc::Rc;
    use std::time::Duration;
    use tokio::time::advance;
    use tower::{ServiceExt, service_fn};

    const MS: Duration = Duration::from_millis(1);

    fn config() -> Config {
        let mut config = Config::default();
        config.consecutive_failures = 2;
        config.open = 100 * MS;
        config.jitter = 0;
        config
    }

    /// A callee that answers what the cell says, and counts its calls.
    #[derive(Clone)]
    struct Callee {
        answer: Rc<Cell<Result<u16, ErrorKind>>>,
        called: Rc<Cell<u32>>,
        metrics: Arc<DestinationMetrics>,
    }

    impl Callee {
        fn new(answer: Result<u16, ErrorKind>) -> Self {
            Self {
                answer: Rc::new(Cell::new(answer)),
                called: Rc::default(),
                metrics: Metrics::new().destination("callee"),
            }
        }

        fn service(
            &self,
        ) -> impl Service<Request<()>, Response = Response<Body<crate::Body>>, Error = Error> + Clone
        {
            let callee = self.clone();
            let inner = service_fn(move |_| {
                callee.called.set(callee.called.get() + 1);
                let answer = callee.answer.get();
                async move {
                    let mut response = Response::new(crate::Body::empty());
                    *response.status_mut() = http::StatusCode::from_u16(answer?).expect("valid");
                    Ok::<_, Error>(response)
                }
            });
            let layer = BreakerLayer::default().config(config()).metrics(self.metrics.clone());
            layer.layer(inner)
        }
    }

    fn kind<T>(result: Result<T, Error>) -> Option<ErrorKind> {
        result.err().map(|error| error.kind())
    }

    #[tokio::test(start_paused = true)]
    async fn it_keeps_the_contract() {
        testkit::contract::check(
            |inner| BreakerLayer::default().layer(inner),
            || Request::new(()),
            || Response::new(crate::Body::empty()),
        )
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_open_it_and_a_success_between_them_does_not() {
        for failure in [Ok(500), Err(ErrorKind::Connect)] {
            let callee = Callee::new(failure);
            let service = callee.service();
            let call = || service.clone().oneshot(Request::new(()));
            let _ = call().await;
            callee.answer.set(Ok(404));
            assert!(call().await.is_ok());
            callee.answer.set(failure);
            let _ = call().await;
            assert_ne!(kind(call().await), Some(ErrorKind::Overflow), "second in a row");
            assert_eq!(kind(call().await), Some(ErrorKind::Overflow));
            assert_eq!(callee.called.get(), 4, "a refused call reaches nobody");
            assert_eq!(callee.metrics.sheds().collect::<Vec<_>>(), [(ErrorKind::Overflow, 1)]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn when_its_time_passes_one_call_at_a_time_may_see() {
        let callee = Callee::new(Ok(500));
        let mut service = callee.service();
        let call = || service.clone().oneshot(Request::new(()));
        for _ in 0..2 {
            let _ = call().await;
        }
        advance(99 * MS).await;
        assert_eq!(kind(call().await), Some(ErrorKind::Overflow));
        advance(MS).await;
        let probe = service.call(Request::new(()));
        assert_eq!(
            kind(service.clone().oneshot(Request::new(())).await),
            Some(ErrorKind::Overflow)
        );
        assert_eq!(probe.await.expect("an answer").status(), 500);

        advance(199 * MS).await;
        let call = || service.clone().oneshot(Request::new(()));
        assert_eq!(kind(call().await), Some(ErrorKind::Overflow), "twice as long");
        advance(MS).await;
        callee.answer.set(Ok(200));
        for _ in 0..3 {
            assert!(call().await.is_ok(), "closed again");
        }
        let transitions: Vec<_> = callee.metrics.breaker_transitions().collect();
        assert_eq!(
            transitions,
            [(BreakerState::Closed, 1), (BreakerState::Open, 2), (BreakerState::HalfOpen, 2)]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_is_dropped_gives_its_turn_back() {
        let callee = Callee::new(Ok(500));
        let mut service = callee.service();
        for _ in 0..2 {
            let _ = service.clone().oneshot(Request::new(())).await;
        }
        advance(100 * MS).await;
        drop(service.call(Request::new(())));
        callee.answer.set(Ok(200));
        assert!(service.oneshot(Request::new(())).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_grpc_outcome_comes_with_the_trailers() {
        let inner = service_fn(async |_: Request<()>| {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("14"));
            let body = crate::Body::from("message")
                .with_trailers(async move { Some(Ok(trailers)) })
                .boxed_unsync();
            Ok::<_, Error>(Response::<UnsyncBoxBody<_, _>>::new(body))
        });
        let service = BreakerLayer::default().config(config()).layer(inner);
        for _ in 0..2 {
            let mut request = Request::new(());
            let grpc = HeaderValue::from_static("application/grpc");
            request.headers_mut().insert("content-type", grpc);
            let response = service.clone().oneshot(request).await.expect("not yet open");
            response.into_body().collect().await.expect("whole");
        }
        assert_eq!(kind(service.oneshot(Request::new(())).await), Some(ErrorKind::Overflow));
    }

    #[tokio::test(start_paused = true)]
    async fn cancelled_calls_say_nothing() {
        let inner = service_fn(|_: Request<()>| pending::<Result<Response<crate::Body>, Error>>());
        let mut service = BreakerLayer::default().config(config()).layer(inner);
        for _ in 0..10 {
            drop(service.call(Request::new(())));
        }
        assert!(service.call(Request::new(())).inner.is_some());
    }
}
