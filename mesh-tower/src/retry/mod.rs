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
//!
//! The wait is none when the request cannot have reached the application (it goes to another
//! endpoint, and nobody is overloaded by it), what the server asked for (`Retry-After`,
//! `grpc-retry-pushback-ms`), else full jitter: `random mod min(25 ms · 2^(n−1), 250 ms)`.
//!
//! Further attempts avoid the endpoints of the earlier ones and say that they are further ones:
//! `grpc-previous-rpc-attempts: n−1` on gRPC, `x-envoy-attempt-count: n` on other HTTP, with the
//! time left until the deadline if the call carries one. A response that is given up is
//! dropped, and with it its body. After the last attempt its own response or error is the
//! call's; the error says how many attempts were made.
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

pub(crate) mod replay;

use crate::body::{Body, BoxError};
use crate::call::{self, Call, Tried};
use crate::call_options::CallOptions;
use crate::clock;
use crate::deadline::{self, Expiry, Sent};
use crate::telemetry::DestinationMetrics;
use bytes::Bytes;
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri,
    Version,
};
use http_body::Body as HttpBody;
use mesh_core::deadline::{EXPECTED_TIMEOUT, GRPC_TIMEOUT};
use mesh_core::limit::{Kind, Permit};
use mesh_core::retry::budget::{self, Budget};
use mesh_core::retry::pushback::{self, Pushback};
use mesh_core::retry::{Attempted, End, Verdict, decide};
use mesh_core::{EndpointId, Error, ErrorKind, GrpcCode, Timestamp};
use pin_project_lite::pin_project;
use replay::Tape;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Sleep, sleep};
use tower_layer::Layer;
use tower_service::Service;

pub use mesh_core::retry::Config;

const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");
const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");
const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");

/// Wraps a service in [`Retry`].
///
/// Each wrapped service has a budget of its own, which its clones share: wrap once per
/// destination.
#[derive(Clone, Debug, Default)]
pub struct RetryLayer {
    config: Config,
    budget: budget::Config,
    metrics: Option<Arc<DestinationMetrics>>,
}

impl RetryLayer {
    /// With the default policy.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Conditions, attempts and waits for calls without a pinned [`Call`].
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
        let (config, budget, started) = match call::pinned(&request) {
            Some(call) => (call.retry(), call.budget().unwrap_or(&self.own.budget), call.started),
            None => {
                changed = call::options(&request).and_then(|asked| asked.retry(&self.own.config));
                let config = changed.as_deref().unwrap_or(&self.own.config);
                (config, &self.own.budget, clock::now())
            }
        };
        budget.deposit(started);
        let per_try = config.per_try_timeout;
        let limit = (config.attempts > 0).then_some(config.body_limit);
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
        if let (Some(allowed), Some(call)) = (per_try, &mut call) {
            Arc::make_mut(call).expiry = Some(sooner(expiry, started + allowed));
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
            })
        });
        request.body_mut().call = call;
        let inner = self.inner.call(request);
        ResponseFuture { state: State::Attempt { inner, timer: None }, repeat, attempt: 1, per_try }
    }
}

/// Where the body of a further attempt comes from.
#[derive(Debug)]
enum Source {
    Whole(Body),
    Tape(Tape),
}

impl Source {
    /// The body to send, and what repeats it, if it is to be repeated up to `limit` bytes.
    fn split(body: Body, limit: Option<u64>, sent: Option<Arc<Sent>>) -> (Body, Option<Self>) {
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

    fn is_repeatable(&self) -> bool {
        match self {
            Self::Whole(_) => true,
            Self::Tape(tape) => tape.is_repeatable(),
        }
    }

    fn again(&self) -> Option<Body> {
        match self {
            Self::Whole(body) => body.try_clone(),
            Self::Tape(tape) => tape.play().map(Body::from),
        }
    }
}

/// The head of a request, to be sent again.
#[derive(Debug)]
struct Head {
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    /// As the attempt under way has it.
    call: Option<Arc<Call>>,
    grpc: bool,
    /// That of the call; an attempt's own may be sooner.
    expiry: Option<Expiry>,
    extensions: Extensions,
}

impl Head {
    fn of(request: &Request<Body>, call: Option<&Arc<Call>>, expiry: Option<Expiry>) -> Self {
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            headers: request.headers().clone(),
            grpc: call.map_or_else(|| mesh_core::is_grpc(request.headers()), |call| call.grpc),
            expiry,
            extensions: request.extensions().clone(),
            call: call.cloned(),
        }
    }

    /// The request of attempt number `attempt`, which may take as long as `per_try`.
    fn request(&mut self, attempt: u32, body: Body, per_try: Option<Duration>) -> Request<Body> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = self.version;
        *request.headers_mut() = self.headers.clone();
        *request.extensions_mut() = self.extensions.clone();
        if let Some(before) = &self.call {
            let mut call = Call::clone(before);
            call.attempt = attempt;
            call.hung = OnceLock::new();
            call.expiry = match per_try {
                Some(allowed) => Some(sooner(self.expiry, clock::now() + allowed)),
                None => self.expiry,
            };
            let call = Arc::new(call);
            self.call = Some(call.clone());
            request.body_mut().call = Some(call);
        }
        let headers = request.headers_mut();
        if self.grpc {
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

/// All that a further attempt needs.
#[derive(Debug)]
struct Repeat<S> {
    service: S,
    head: Head,
    body: Source,
    /// The body of the attempt that was decided on.
    next: Option<Body>,
    /// Counts a retry under way.
    permit: Option<Permit>,
    own: Arc<Own>,
    /// The settings of a call without a pinned one, where its caller asks for others.
    changed: Option<Arc<Config>>,
}

impl<S> Repeat<S> {
    fn pinned(&self) -> Option<&Call> {
        self.head.call.as_deref()
    }

    fn config(&self) -> &Config {
        match self.pinned() {
            Some(call) => call.retry(),
            None => self.changed.as_deref().unwrap_or(&self.own.config),
        }
    }

    /// Whether the caller says that a repeated call does no harm.
    fn idempotent(&self) -> Option<bool> {
        match self.pinned() {
            Some(call) => call.idempotent(),
            None => self.head.extensions.get::<CallOptions>()?.idempotent,
        }
    }

    fn metrics(&self) -> Option<&DestinationMetrics> {
        self.pinned().and_then(Call::metrics).or(self.own.metrics.as_ref()).map(Arc::as_ref)
    }

    /// The endpoint that let the attempt run out of time.
    fn hung(&self) -> Option<&EndpointId> {
        self.pinned().and_then(|call| call.hung.get())
    }

    /// How long to wait before another attempt; `None` if there is to be none.
    fn wait<R>(&mut self, answer: &Result<Response<R>, Error>, attempt: u32) -> Option<Duration> {
        self.permit = None;
        let end = self.end(answer)?;
        let headers = answer.as_ref().ok().map(Response::headers);
        let attempted = Attempted::new(&self.head.method, end)
            .with_idempotent(self.idempotent())
            .with_attempts(attempt)
            .with_rate_limited(headers.is_some_and(|headers| headers.contains_key(RATE_LIMITED)));
        let config = self.config();
        if let Verdict::Stop { .. } = decide(config, &attempted) {
            return None;
        }
        let delay = match (headers.and_then(pushback::grpc), headers) {
            (Some(Pushback::Stop), _) => return None,
            (Some(Pushback::Wait(delay)), _) => delay,
            (None, Some(headers)) => pushback::retry_after(headers, clock::wall())
                .unwrap_or_else(|| config.backoff.delay(attempt, &mut || fastrand::u64(..))),
            (None, None) if answer.as_ref().is_err_and(Error::is_retryable) => Duration::ZERO,
            (None, None) => config.backoff.delay(attempt, &mut || fastrand::u64(..)),
        };
        let now = clock::now();
        if self.head.expiry.is_some_and(|Expiry(expiry)| now + delay >= expiry)
            || !self.body.is_repeatable()
        {
            return None;
        }
        if let Some(limits) = self.pinned().and_then(Call::limits) {
            match limits.acquire(Kind::Retry) {
                Ok(permit) => self.permit = Some(permit),
                Err(_) => return None,
            }
        }
        let budget = self.pinned().and_then(Call::budget).unwrap_or(&self.own.budget);
        if !budget.withdraw(now) {
            if let Some(metrics) = self.metrics() {
                metrics.budget_exhausted();
            }
            return None;
        }
        // Now the earlier attempt loses the body; had the budget refused, it would still need it.
        self.next = Some(self.body.again()?);
        if let Some(metrics) = self.metrics() {
            metrics.retried();
        }
        self.avoid(answer);
        Some(delay)
    }

    /// How the attempt ended; `None` if its response is under way, so that no other can follow.
    fn end<'a, R>(&self, answer: &'a Result<Response<R>, Error>) -> Option<End<'a>> {
        let response = match answer {
            Ok(response) => response,
            Err(error) => return Some(End::Error(error)),
        };
        if !self.head.grpc {
            // The usual case, decided without a look at the policy: no condition names a 2xx.
            let status = response.status();
            return (!status.is_success()).then_some(End::Status(status));
        }
        match GrpcCode::from_headers(response.headers()) {
            Some(code) => Some(End::Grpc(code)),
            None if response.status() == StatusCode::OK => None,
            None => Some(End::Grpc(GrpcCode::from_http(response.status()))),
        }
    }

    /// Notes the endpoint that just failed.
    fn avoid<R>(&mut self, answer: &Result<Response<R>, Error>) {
        let tried = match answer {
            Ok(response) => response.extensions().get().map(|Tried(endpoint)| endpoint.clone()),
            Err(error) => error.endpoint().map(EndpointId::from),
        };
        if let (Some(call), Some(tried)) = (&mut self.head.call, tried) {
            Arc::make_mut(call).tried.push(tried);
        }
    }
}

pin_project! {
    /// The answer of the last attempt.
    #[derive(Debug)]
    pub struct ResponseFuture<S, F> {
        #[pin]
        state: State<F>,
        // Boxed, since futures are moved many times before they are polled.
        repeat: Option<Box<Repeat<S>>>,
        attempt: u32,
        per_try: Option<Duration>,
    }
}

pin_project! {
    #[project = StateProject]
    #[derive(Debug)]
    enum State<F> {
        Attempt {
            #[pin]
            inner: F,
            timer: Option<Pin<Box<Sleep>>>,
        },
        Wait {
            timer: Pin<Box<Sleep>>,
        },
        Ready,
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
                    let wait =
                        this.repeat.as_mut().and_then(|repeat| repeat.wait(&answer, *this.attempt));
                    let Some(wait) = wait else {
                        return Poll::Ready(
                            answer.map_err(|error| error.with_attempts(*this.attempt)),
                        );
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
                    let body = repeat.next.take().unwrap_or_default();
                    let request = repeat.head.request(*this.attempt, body, *this.per_try);
                    let inner = repeat.service.call(request);
                    this.state.set(State::Attempt { inner, timer: None });
                }
            }
        }
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

/// The sooner of the call's expiry and an attempt's own.
fn sooner(expiry: Option<Expiry>, own: Timestamp) -> Expiry {
    Expiry(expiry.map_or(own, |Expiry(at)| at.min(own)))
}

#[cfg(test)]
mod tests;
