//! Deadline: bounds one call, with all its attempts and waits.
//!
//! `expiry = min(now + timeout, expiry the caller brought)`; it only shrinks on its way down.
//! `timeout` is the caller's own ([`CallOptions`](crate::CallOptions)), else the policy's.
//! The caller brings an expiry as an [`Expiry`] in the request's extensions, as a field of the request
//! (`grpc-timeout` on gRPC, `x-envoy-expected-rq-timeout-ms` on other HTTP), or by calling from within a handler that serves under a deadline itself
//! (`server::Context`).
//!
//! What it bounds depends on who asked for it:
//!
//! | timeout | up to the response head | response body |
//! |---|---|---|
//! | explicit: set by configuration, [`DeadlineLayer::new`] or the caller | `expiry` | `expiry` |
//! | nobody set one: 15 s | 15 s from when the request is sent in full | none in total |
//! | always | `stream_idle` while the request is being sent, looked at once per 15 s | `stream_idle` (`retry.perTryIdleTimeout`) between two frames |
//! | `maxStreamDuration` | it | it, as [`ErrorKind::StreamDuration`] |
//!
//! When it passes, the inner future or body is dropped, which cancels the attempt in flight.
//! The call then fails with [`ErrorKind::Deadline`], a body that stood still with
//! [`ErrorKind::StreamIdle`]; a gRPC response that has begun ends in trailers with
//! `grpc-status: 4` instead, so that the caller sees `DEADLINE_EXCEEDED`. A call that comes with
//! an expiry in the past is not sent.
//!
//! When a streaming request is sent in full, a [`Retry`](crate::retry::Retry) below tells; without
//! one, the 15 s count from the start like an explicit timeout.
//!
//! Of what a field allows, `grpcTimeoutHeaderOffset` is taken off, and `grpcTimeoutHeaderMax` is the
//! most.
//!
//! An explicit expiry goes out with the attempt, as the time left, in the same field.
//!
//! Cost: no clock read where a `Call` is pinned, and one timer, made when the answer is first
//! not there yet.
//!
//! Units: `timeout` is a span (`1500ms`), [`Expiry`] is an instant.
//! Source: gRPC guide "Deadlines"; on the wire, `grpc-timeout` of PROTOCOL-HTTP2; Envoy's
//! router filter for the other field and for the stream idle timeout.
//! Order: above retry, so that attempts and back-off share one budget of time.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! use http::{Request, Response};
//! use mesh_tower::deadline::DeadlineLayer;
//! use mesh_tower::{Body, Error, ErrorKind};
//! use std::time::Duration;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! let never = service_fn(|_| std::future::pending::<Result<Response<Body>, Error>>());
//! let service = ServiceBuilder::new()
//!     .layer(DeadlineLayer::new(Duration::from_millis(20)))
//!     .service(never);
//! let error = service.oneshot(Request::new(Body::empty())).await.unwrap_err();
//! assert_eq!(error.kind(), ErrorKind::Deadline);
//! # }
//! ```

use crate::answer;
use crate::body::BoxError;
use crate::call;
use crate::clock;
use crate::fields;
use crate::server::Context as ServerContext;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use mesh_core::deadline::{
    EXPECTED_TIMEOUT, GRPC_TIMEOUT, format_expected_timeout, format_grpc_timeout,
    parse_expected_timeout, parse_grpc_timeout,
};
use mesh_core::policy::Timeouts;
use mesh_core::{Error, ErrorKind, Timestamp};
use pin_project_lite::pin_project;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Sleep, sleep_until};
use tower_layer::Layer;
use tower_service::Service;

pub use mesh_core::deadline::Expiry;

/// In the extensions of a request whose timeout counts from when it is sent in full: tells when
/// that was, and whether it moves until then.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// Zero while nobody watches the body, one while it is under way, else the instant.
    at: AtomicU64,
    /// Whether some of it was taken since somebody last looked.
    moved: AtomicBool,
    /// Since when none was.
    still: AtomicU64,
}

impl Sent {
    const UNDER_WAY: u64 = 1;

    /// Someone watches the body, and it has yet to be sent.
    pub(crate) fn begin(&self) {
        self.at.store(Self::UNDER_WAY, Relaxed);
        self.moved();
    }

    /// Some of the body was taken.
    pub(crate) fn moved(&self) {
        self.moved.store(true, Relaxed);
    }

    /// The body is sent, or given up.
    pub(crate) fn end(&self) {
        if self.at.load(Relaxed) == Self::UNDER_WAY {
            self.at.store(clock::now().as_nanos(), Relaxed);
        }
    }

    /// Until when the answer may take, if that is later than `head`.
    pub(crate) fn extend(&self, head: Timestamp, span: Duration) -> Option<Timestamp> {
        let since = match self.at.load(Relaxed) {
            0 => return None,
            Self::UNDER_WAY => clock::now(),
            at => Timestamp::from_nanos(at),
        };
        Some(since + span).filter(|later| *later > head)
    }

    /// Whether it is under way, and nothing of it was taken for as long as `idle`.
    fn stands_still(&self, now: Timestamp, idle: Duration) -> bool {
        if self.at.load(Relaxed) != Self::UNDER_WAY {
            return false;
        }
        if self.moved.swap(false, Relaxed) {
            self.still.store(now.as_nanos(), Relaxed);
        }
        now.since(Timestamp::from_nanos(self.still.load(Relaxed))) >= idle
    }
}

const SHORT: u64 = 64 * 1024;

/// Wraps a service in [`Deadline`].
#[derive(Clone, Copy, Debug, Default)]
pub struct DeadlineLayer {
    timeouts: Timeouts,
}

impl DeadlineLayer {
    /// Bounds each call, its response body included, to `timeout`. [`DeadlineLayer::default`]
    /// bounds what nobody gave a timeout.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        let mut timeouts = Timeouts::default();
        timeouts.request = timeout;
        timeouts.explicit = true;
        Self { timeouts }
    }

    /// Longest that a response body may stand still. 5 min.
    #[must_use]
    pub const fn stream_idle(mut self, span: Duration) -> Self {
        self.timeouts.stream_idle = span;
        self
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline { inner, timeouts: self.timeouts }
    }
}

/// See the [module docs](self).
#[derive(Clone, Copy, Debug)]
pub struct Deadline<S> {
    inner: S,
    timeouts: Timeouts,
}

impl<S, B, R> Service<Request<B>> for Deadline<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<Error>,
    B: HttpBody + 'static,
{
    type Response = Response<Body<R>>;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let limits = Limits::of(&request, &self.timeouts);
        // Bodies of a known length this short do not count: they are sent with the head.
        let streams =
            !limits.asked && request.body().size_hint().exact().is_none_or(|length| length > SHORT);
        let sent = streams.then(Arc::<Sent>::default);
        if limits.head <= limits.started {
            return ResponseFuture { inner: None, timer: None, limits, sent: None };
        }
        limits.pin(&mut request, sent.as_ref());
        ResponseFuture { inner: Some(self.inner.call(request)), timer: None, limits, sent }
    }
}

/// Until when the head of the answer to a call must be there, as this layer will hold it.
pub(crate) fn head<B: 'static>(request: &Request<B>) -> Timestamp {
    Limits::of(request, &Timeouts::default()).head
}

/// The instants that one call is held to.
#[derive(Clone, Copy, Debug)]
struct Limits {
    started: Timestamp,
    /// When the request leaves.
    leaves: Timestamp,
    /// For the response head.
    head: Timestamp,
    /// What the head may take from when the request is sent in full, if nobody asked for a timeout.
    span: Duration,
    /// Whether anybody asked for a timeout.
    asked: bool,
    /// For the whole call, if anything bounds that.
    whole: Option<Timestamp>,
    /// What it is to exceed that.
    beyond: ErrorKind,
    idle: Duration,
    grpc: bool,
}

impl Limits {
    fn of<B: 'static>(request: &Request<B>, own: &Timeouts) -> Self {
        let pinned = call::pinned(request);
        let timeouts = pinned.map_or(own, |call| &call.policy.timeouts);
        let (started, leaves) = pinned.map_or_else(
            || {
                let now = clock::now();
                (now, now)
            },
            |call| (call.started, call.leaves),
        );
        let grpc = pinned.map_or_else(|| mesh_core::is_grpc(request.headers()), |call| call.grpc);
        let field = || {
            let span = if grpc {
                parse_grpc_timeout(fields::get(request.headers(), &GRPC_TIMEOUT)?.as_bytes())
                    .ok()?
            } else {
                parse_expected_timeout(
                    fields::get(request.headers(), &EXPECTED_TIMEOUT)?.as_bytes(),
                )
                .ok()??
            };
            Some(started + timeouts.believed(span))
        };
        let brought = [
            pinned.and_then(|call| call.expiry).map(|Expiry(at)| at),
            request.extensions().get().map(|Expiry(at)| *at),
            ServerContext::with(|context| context.expiry).flatten().map(|Expiry(at)| at),
            field(),
        ];
        let asked = call::asked_timeout(request);
        let span = asked.unwrap_or(timeouts.request);
        let own = started + span;
        let explicit = (asked.is_some() || timeouts.explicit).then_some(own);
        let asked = brought.into_iter().chain([explicit]).flatten().min();
        let stream = timeouts.max_stream_duration.map(|span| started + span);
        let (whole, beyond) = match (asked, stream) {
            (Some(asked), Some(stream)) if asked <= stream => (Some(asked), ErrorKind::Deadline),
            (_, Some(stream)) => (Some(stream), ErrorKind::StreamDuration),
            (asked, None) => (asked, ErrorKind::Deadline),
        };
        let still = pinned.and_then(|call| call.retry().per_try_idle_timeout);
        Self {
            started,
            leaves,
            asked: asked.is_some(),
            beyond,
            head: whole.map_or(own, |whole| own.min(whole)),
            span,
            whole,
            idle: still.map_or(timeouts.stream_idle, |still| still.min(timeouts.stream_idle)),
            grpc,
        }
    }

    /// Hands the expiry to the layers below, and to the wire.
    fn pin<B: 'static>(&self, request: &mut Request<B>, sent: Option<&Arc<Sent>>) {
        if let Some(call) = call::pinned_mut(request) {
            call.expiry = Some(Expiry(self.head));
            call.sent = sent.cloned();
        } else {
            let extensions = request.extensions_mut();
            extensions.insert(Expiry(self.head));
            if let Some(sent) = sent {
                extensions.insert(sent.clone());
            }
        }
        if let Some(whole) = self.whole {
            send(request.headers_mut(), whole.since(self.leaves), self.grpc);
        }
    }

    fn passed(&self) -> Error {
        let allowed = self.head.since(self.started);
        let kind = if self.whole == Some(self.head) { self.beyond } else { ErrorKind::Deadline };
        Error::new(kind, format!("no response within {allowed:?}"))
    }
}

/// Writes the time left into the request.
pub(crate) fn send(headers: &mut HeaderMap, left: Duration, grpc: bool) {
    if grpc {
        headers.insert(GRPC_TIMEOUT, format_grpc_timeout(left));
    } else {
        headers.insert(EXPECTED_TIMEOUT, format_expected_timeout(left));
    }
}

pin_project! {
    /// The inner answer, or [`ErrorKind::Deadline`] if that comes first.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: Option<F>,
        #[pin]
        timer: Option<Sleep>,
        limits: Limits,
        sent: Option<Arc<Sent>>,
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<Error>,
{
    type Output = Result<Response<Body<R>>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            return Poll::Ready(Err(this.limits.passed()));
        };
        if let Poll::Ready(answer) = inner.poll(cx) {
            return Poll::Ready(match answer {
                Ok(response) => Ok(response.map(|body| Body::new(body, this.limits))),
                Err(error) => Err(error.into()),
            });
        }
        if this.timer.is_none() {
            this.timer.set(Some(sleep_until(clock::instant(this.limits.head))));
        }
        if let Some(mut timer) = this.timer.as_pin_mut() {
            loop {
                ready!(timer.as_mut().poll(cx));
                let span = this.limits.span;
                let idle = this.limits.idle;
                if this.sent.as_ref().is_some_and(|sent| sent.stands_still(clock::now(), idle)) {
                    this.inner.set(None);
                    let message = format!("nothing of the request was taken for {idle:?}");
                    return Poll::Ready(Err(Error::new(ErrorKind::StreamIdle, message)));
                }
                let later = this.sent.as_ref().and_then(|sent| sent.extend(this.limits.head, span));
                let whole = this.limits.whole;
                let later = later.map(|later| whole.map_or(later, |whole| later.min(whole)));
                let later = later.filter(|later| *later > this.limits.head);
                let Some(later) = later else { break };
                this.limits.head = later;
                timer.as_mut().reset(clock::instant(later));
            }
        }
        this.inner.set(None);
        Poll::Ready(Err(this.limits.passed()))
    }
}

pin_project! {
    /// A response body under the call's expiry and the idle timeout.
    #[derive(Debug)]
    pub struct Body<B> {
        // Gone once the time is up.
        #[pin]
        inner: Option<B>,
        // Boxed, since most bodies never need it and every response is moved many times.
        timer: Option<Pin<Box<Sleep>>>,
        // When the body was first seen to wait for the frame it waits for.
        waiting: Option<Timestamp>,
        whole: Option<Timestamp>,
        beyond: ErrorKind,
        idle: Duration,
        grpc: bool,
    }
}

impl<B> Body<B> {
    const fn new(inner: B, limits: &Limits) -> Self {
        Self {
            inner: Some(inner),
            timer: None,
            waiting: None,
            whole: limits.whole,
            beyond: limits.beyond,
            idle: limits.idle,
            grpc: limits.grpc,
        }
    }
}

/// The body of an answer made above, which is there already.
impl<B: From<Bytes>> From<Bytes> for Body<B> {
    fn from(bytes: Bytes) -> Self {
        Self {
            inner: Some(B::from(bytes)),
            timer: None,
            waiting: None,
            whole: None,
            beyond: ErrorKind::Deadline,
            idle: Duration::ZERO,
            grpc: false,
        }
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
        let Some(inner) = this.inner.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        if let Poll::Ready(frame) = inner.poll_frame(cx) {
            *this.waiting = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let stalled = *this.waiting.get_or_insert_with(clock::now) + *this.idle;
        let expiry = this.whole.map_or(stalled, |whole| whole.min(stalled));
        let at = clock::instant(expiry);
        let timer = this.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= at {
                break;
            }
            // Set for an earlier frame; the body has moved since.
            timer.as_mut().reset(at);
        }
        this.inner.set(None);
        let error = if expiry == stalled {
            let sentence = format!("the response stood still for {:?}", this.idle);
            Error::new(ErrorKind::StreamIdle, sentence)
        } else {
            Error::new(*this.beyond, "the response was not complete in time")
        };
        Poll::Ready(Some(if *this.grpc {
            Ok(Frame::trailers(answer::trailers(&error)))
        } else {
            Err(error.into())
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

#[cfg(test)]
mod tests;
