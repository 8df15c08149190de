//! Retry: sends a call again when that is safe and may help.
//!
//! ```text
//!            ┌────────────── wait (back-off, or what the server asked for) ◄─┐
//!            ▼                                                               │ yes
//! ready → attempt ── response or error ── another? ──────────────────────────┘
//!                                            │ no
//!                                            ▼
//!                            that response or error, as it came
//! ```
//!
//! Another attempt is made if all of this holds:
//!
//! 1. *Safe and of use*: the policy's conditions say so ([`mesh_core::retry::decide`]). By
//!    default any method when the request cannot have reached the application; GET, HEAD,
//!    OPTIONS and what is marked idempotent also on reset, timeout of the attempt, 502–504 and
//!    `UNAVAILABLE`. A gRPC response counts only while it has no message: its status is in the
//!    head. The server may forbid it (`grpc-retry-pushback-ms: -1`).
//! 2. *Attempts left*: 1 more by default.
//! 3. *The body can be repeated*: it is known in full, or is a stream of at most 64 KiB, which
//!    is recorded while it is sent. A longer one is sent once.
//! 4. *Time left*: the wait ends before the call's deadline does.
//! 5. *The limit of retries at once is not reached*; by default there is none.
//! 6. *The budget has room*: 20 % of the destination's calls over 10 s, at least 10 per second.
//!    Under 100 % errors the endpoints so see at most 1.2 times the calls, plus the minimum.
//! 7. *Retries are not throttled*, if the policy has `retryThrottling` (gRFC A6).
//!
//! A request that the endpoint says it left out (REFUSED_STREAM, GOAWAY with an older last stream)
//! goes again at once, once, and counts nowhere; only 3 and 4 are asked. One that found a pooled
//! connection closed before anything was written never gets here: `connect` takes the next one.
//!
//! The wait is none when the request cannot have reached the application (it goes to another
//! endpoint, and nobody is overloaded by it), what the server asked for (`Retry-After`,
//! `grpc-retry-pushback-ms`), else full jitter: `random mod min(25 ms · 2^(n−1), 250 ms)`, where
//! `n` counts the waits since the server last asked for one.
//!
//! With `hedge` the next attempt does not wait for the end of the one before: the file `hedge.rs`.
//!
//! Further attempts avoid the endpoints of the earlier ones and say that they are further ones:
//! `grpc-previous-rpc-attempts: n−1` on gRPC, `x-envoy-attempt-count: n` on other HTTP, with the
//! time left until the deadline if the call carries one. A response that is given up is
//! dropped, and with it its body. After the last attempt its own response or error is the
//! call's; the error says how many attempts were made, and it or the response ([`Exhausted`]) what
//! was used up: the attempts, the budget, or the cap on retries at once.
//!
//! Cost when the first attempt succeeds: a copy of the request's head, the body's record, no
//! clock read. Calls whose policy allows no retry are passed through.
//!
//! Metrics: `mesh.retry.attempts`, `mesh.retry.budget.exhausted`.
//! Order: below deadline, which cuts everything here short; above balance, which picks anew for
//! each attempt.
//! Source: Envoy's router filter (conditions, back-off), gRFC A6 (pushback, transparent
//! retries), Finagle (budget).
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), mesh_tower::Error> {
//! use http::{Request, Response, StatusCode};
//! use mesh_tower::retry::RetryLayer;
//! use mesh_tower::{Body, Error};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! let flaky = service_fn(async |request: Request<Body>| {
//!     let again = request.headers().contains_key("x-envoy-attempt-count");
//!     let mut response = Response::new(Body::empty());
//!     if !again {
//!         *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
//!     }
//!     Ok::<_, Error>(response)
//! });
//! let service = ServiceBuilder::new().layer(RetryLayer::new()).service(flaky);
//! let response = service.oneshot(Request::new(Body::empty())).await?;
//! assert_eq!(response.status(), StatusCode::OK);
//! # Ok(())
//! # }
//! ```

mod hedge;
mod repeat;
pub(crate) mod replay;
mod request;

use crate::body::{Body, BoxError};
use crate::call::{self, Exhausted};
use crate::clock;
use crate::telemetry::DestinationMetrics;
use bytes::Bytes;
use hedge::{Hedged, Plan};
use http::{Request, Response};
use http_body::Body as HttpBody;
use mesh_core::hedge::{self as hedge_config, Latencies};
use mesh_core::retry::budget::{self, Budget};
use mesh_core::retry::throttling::{self, Throttling};
use mesh_core::{EndpointId, Error, ErrorKind, Timestamp};
use pin_project_lite::pin_project;
use repeat::{Next, Repeat};
use request::{Head, Source};
use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Sleep, sleep};
use tower_layer::Layer;
use tower_service::Service;

pub use mesh_core::retry::Config;

/// Wraps a service in [`Retry`].
///
/// Each wrapped service has a budget of its own, which its clones share: wrap once per
/// destination.
#[derive(Clone, Debug, Default)]
pub struct RetryLayer {
    config: Config,
    budget: budget::Config,
    throttling: Option<throttling::Config>,
    hedge: Option<hedge_config::Config>,
    metrics: Option<Arc<DestinationMetrics>>,
}

impl RetryLayer {
    /// With the default policy.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Conditions, attempts and waits for calls without a pinned [`Call`](crate::call::Call).
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Attempts after the first. 1.
    #[must_use]
    pub const fn attempts(mut self, attempts: u32) -> Self {
        self.config.attempts = attempts;
        self
    }

    /// Longest that one attempt may take to its response head. None.
    #[must_use]
    pub const fn per_try_timeout(mut self, timeout: Duration) -> Self {
        self.config.per_try_timeout = Some(timeout);
        self
    }

    /// How many retries the traffic may add. 20 % over 10 s, at least 10 per second.
    #[must_use]
    pub fn budget(mut self, budget: budget::Config) -> Self {
        self.budget = budget;
        self
    }

    /// Stops retries while more calls fail than succeed. Off.
    #[must_use]
    pub const fn throttling(mut self, throttling: throttling::Config) -> Self {
        self.throttling = Some(throttling);
        self
    }

    /// Sends further attempts beside one that takes long. Off.
    #[must_use]
    pub fn hedge(mut self, hedge: hedge_config::Config) -> Self {
        self.hedge = Some(hedge);
        self
    }

    /// Where retries are counted; nowhere by default.
    #[must_use]
    pub fn metrics(mut self, metrics: Arc<DestinationMetrics>) -> Self {
        self.metrics = Some(metrics);
        self
    }
}

impl<S> Layer<S> for RetryLayer {
    type Service = Retry<S>;

    fn layer(&self, inner: S) -> Retry<S> {
        let own = Own {
            config: self.config.clone(),
            budget: Budget::new(&self.budget),
            budget_config: self.budget.clone(),
            throttling: Throttling::new(),
            throttling_config: self.throttling,
            hedge: self.hedge.clone(),
            latencies: OnceLock::new(),
            metrics: self.metrics.clone(),
        };
        Retry { inner, own: Arc::new(own) }
    }
}

/// See the [module docs](self).
#[derive(Clone, Debug)]
pub struct Retry<S> {
    inner: S,
    own: Arc<Own>,
}

/// What serves calls without a pinned [`Call`].
#[derive(Debug)]
struct Own {
    config: Config,
    budget: Budget,
    budget_config: budget::Config,
    throttling: Throttling,
    throttling_config: Option<throttling::Config>,
    hedge: Option<hedge_config::Config>,
    latencies: OnceLock<Box<Latencies>>,
    metrics: Option<Arc<DestinationMetrics>>,
}

impl<S, B, R> Service<Request<B>> for Retry<S>
where
    S: Service<Request<Body>, Response = Response<R>> + Clone,
    S::Error: Into<Error>,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<R>;
    type Error = Error;
    type Future = ResponseFuture<S, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut request = request.map(Body::new);
        let mut changed = None;
        let (config, budget, leaves) = match call::pinned(&request) {
            Some(call) => (call.retry(), call.budget().unwrap_or(&self.own.budget), call.leaves),
            None => {
                changed = call::options(&request).and_then(|asked| asked.retry(&self.own.config));
                let config = changed.as_deref().unwrap_or(&self.own.config);
                (config, &self.own.budget, clock::now())
            }
        };
        budget.deposit(leaves);
        let plan = self.plan(&request, config, leaves);
        let (per_try, beyond) = (config.attempt_timeout(false), config.attempt_timeout(true));
        let limit = (config.attempts > 0 || plan.is_some()).then_some(config.body_limit);
        let mut call = call::unpin(&mut request);
        let sent = match &call {
            Some(call) => call.sent.clone(),
            None => request.extensions_mut().remove(),
        };
        let (body, source) = Source::split(std::mem::take(request.body_mut()), limit, sent);
        *request.body_mut() = body;
        let expiry = match &call {
            Some(call) => call.expiry,
            None => request.extensions().get().copied(),
        };
        let plan = plan.filter(|_| source.is_some());
        // An attempt that may go on beside others is not cut by `perTryTimeout`.
        let per_try = if plan.is_none_or(Plan::cuts) { per_try } else { beyond };
        if let Some(call) = &mut call
            && (per_try.is_some() || plan.is_some())
        {
            let call = Arc::make_mut(call);
            call.hedged = plan.is_some();
            if let Some(allowed) = per_try {
                call.cut = Some(leaves + allowed);
            }
        }
        let repeat = source.map(|source| {
            Box::new(Repeat {
                service: self.inner.clone(),
                head: Head::of(&request, call.as_ref(), expiry),
                body: source,
                next: None,
                permit: None,
                own: self.own.clone(),
                changed,
                resent: false,
                judged: None,
                backoffs: 0,
            })
        });
        if repeat.is_none()
            && let Some(noting) = call.as_ref().and_then(|call| call.noting.as_ref())
        {
            let off = limit.is_none();
            noting.refused(if off { "retries are off" } else { "the body cannot be sent again" });
        }
        request.body_mut().call = call;
        let inner = self.inner.call(request);
        let (state, repeat) = match (plan, repeat) {
            (Some(plan), Some(repeat)) => {
                let hedged = Hedged::new(repeat, inner, plan, leaves, per_try);
                (State::Hedged { hedged: Box::new(hedged) }, None)
            }
            (_, repeat) => (State::Attempt { inner, timer: None }, repeat),
        };
        ResponseFuture { state, repeat, attempt: 1, per_try }
    }
}

impl<S> Retry<S> {
    /// How a call is hedged, if it is.
    fn plan(&self, request: &Request<Body>, config: &Config, leaves: Timestamp) -> Option<Plan> {
        let pinned = call::pinned(request);
        let hedge = match pinned {
            Some(call) => call.hedge()?,
            None => Cow::Borrowed(self.own.hedge.as_ref()?),
        };
        let shared = pinned.and_then(|call| call.shared.as_deref());
        let latencies = shared.map_or(&self.own.latencies, |shared| &shared.latencies);
        let latencies = || &**latencies.get_or_init(Box::default);
        let (asked, declared) = match pinned {
            Some(call) => (call.options.as_deref(), call.idempotent(request.uri().path())),
            None => {
                let asked = call::options(request);
                (asked, asked.and_then(|asked| asked.idempotent))
            }
        };
        if !config.is_idempotent(declared, request.method()) {
            return None;
        }
        Plan::new(&hedge, config, asked.and_then(|asked| asked.retries), leaves, latencies)
    }
}

pin_project! {
    /// The answer of the last attempt.
    #[derive(Debug)]
    pub struct ResponseFuture<S, F> {
        #[pin]
        state: State<S, F>,
        // Boxed, since futures are moved many times before they are polled.
        repeat: Option<Box<Repeat<S>>>,
        attempt: u32,
        per_try: Option<Duration>,
    }
}

pin_project! {
    #[project = StateProject]
    #[derive(Debug)]
    enum State<S, F> {
        Attempt {
            #[pin]
            inner: F,
            timer: Option<Pin<Box<Sleep>>>,
        },
        Wait {
            timer: Pin<Box<Sleep>>,
        },
        Ready,
        Hedged {
            hedged: Box<Hedged<S, F>>,
        },
    }
}

impl<S, F, R, E> Future for ResponseFuture<S, F>
where
    S: Service<Request<Body>, Response = Response<R>, Error = E, Future = F>,
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<Error>,
{
    type Output = Result<Response<R>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProject::Attempt { inner, timer } => {
                    let answer = match inner.poll(cx) {
                        Poll::Ready(answer) => answer.map_err(Into::into),
                        Poll::Pending => {
                            let Some(allowed) = *this.per_try else { return Poll::Pending };
                            let timer = timer.get_or_insert_with(|| Box::pin(sleep(allowed)));
                            ready!(timer.as_mut().poll(cx));
                            // Dropped first: it then says which endpoint hung.
                            this.state.set(State::Ready);
                            let hung = this.repeat.as_ref().and_then(|repeat| repeat.hung());
                            Err(attempt_timeout(allowed, hung))
                        }
                    };
                    let next = match this.repeat {
                        Some(repeat) => repeat.next(&answer, *this.attempt),
                        None => Next::Stop(None),
                    };
                    let wait = match next {
                        Next::Attempt(wait) => wait,
                        Next::Stop(exhausted) => {
                            return Poll::Ready(ended(answer, *this.attempt, exhausted));
                        }
                    };
                    drop(answer);
                    this.state.set(if wait.is_zero() {
                        State::Ready
                    } else {
                        State::Wait { timer: Box::pin(sleep(wait)) }
                    });
                }
                StateProject::Wait { timer } => {
                    ready!(timer.as_mut().poll(cx));
                    this.state.set(State::Ready);
                }
                StateProject::Ready => {
                    let Some(repeat) = this.repeat else { return Poll::Pending };
                    if let Err(error) = ready!(repeat.service.poll_ready(cx)) {
                        return Poll::Ready(Err(error.into().with_attempts(*this.attempt)));
                    }
                    *this.attempt += 1;
                    let Some(further) = repeat.next.take() else { return Poll::Pending };
                    repeat.permit = further.permit;
                    let counted = *this.attempt - u32::from(repeat.resent);
                    let request = repeat.head.request(counted, further.body, *this.per_try);
                    let inner = repeat.service.call(request);
                    this.state.set(State::Attempt { inner, timer: None });
                }
                StateProject::Hedged { hedged } => return hedged.poll(cx),
            }
        }
    }
}

/// The answer of the last attempt as the call's, with what was used up if that ended it.
fn ended<R>(
    answer: Result<Response<R>, Error>,
    attempts: u32,
    exhausted: Option<ErrorKind>,
) -> Result<Response<R>, Error> {
    match (answer, exhausted) {
        (Ok(mut response), Some(what)) => {
            response.extensions_mut().insert(Exhausted(what));
            Ok(response)
        }
        (Ok(response), None) => Ok(response),
        (Err(error), Some(what)) => Err(error.with_attempts(attempts).with_exhausted(what)),
        (Err(error), None) => Err(error.with_attempts(attempts)),
    }
}

fn attempt_timeout(allowed: Duration, hung: Option<&EndpointId>) -> Error {
    let sentence = format!("no response to this attempt within {allowed:?}");
    let error = Error::new(ErrorKind::Deadline, sentence).after_send();
    match hung {
        Some(endpoint) => error.with_endpoint(endpoint),
        None => error,
    }
}

#[cfg(test)]
mod tests;
