//! Server: what a request meets before the application, and its answer on the way out.
//!
//! One layer for axum routers and tonic servers, over any body. For each request it
//!
//! 1. reads the caller's deadline (`grpc-timeout`, `x-envoy-expected-rq-timeout-ms`), criticality
//!    (`x-mesh-criticality`) and trace (`traceparent`, `tracestate`, `baggage`), and refuses what
//!    came too late, or is over a rate limit ([`rate_limit`](crate::rate_limit)), for which a service
//!    may have to be asked;
//! 2. takes a place among those being served, or waits for one, or sheds ([`Admission`]);
//! 3. polls the handler inside a [`Context`] and a SERVER span, so that the calls it makes
//!    inherit the remaining time, the criticality and the trace, and drops it when the deadline
//!    passes;
//! 4. turns a panic of the handler into an answer: the connection and its other streams live;
//! 5. tells callers that ask, with the answer, how busy the server is, and answers by itself those
//!    that ask for nothing else ([`report`](crate::report)).
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
//!
//! A request that waits, for a place or for what a rate limit service says, is kept with the service that was ready for it; the next one gets a clone.

mod admission;
mod body;
mod context;
mod record;

pub use admission::{Admission, Admitted, Place, Waiting};
pub use body::ResponseBody;
pub use context::Context;
/// Settings of a [`ServerLayer`]: what configuration calls a `ServerPolicy`.
pub use mesh_core::config::ServerPolicy as Config;

use crate::listen::{Drains, Peer};
use crate::rate_limit::{Arrival, Asker, Asking, Checked, Limit};
use crate::report::Reports;
use crate::report::stream::{self, Subscribing};
use crate::telemetry::{Metrics, ServerMetrics};
use crate::{BoxError, clock, fields};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Body as HttpBody;
use mesh_core::criticality::{CRITICALITY, Criticality};
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

#[derive(Clone, Debug)]
struct Shared {
    config: Config,
    rate_limit: Option<Arc<Limit>>,
    asker: Option<Asker>,
    admission: Arc<Admission>,
    metrics: Arc<ServerMetrics>,
    reports: Arc<Reports>,
    drains: Arc<Drains>,
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
        Self::of(config, metrics, Arc::default())
    }

    /// The same, behind listeners that may drain.
    pub(crate) fn of(config: Config, metrics: &Metrics, drains: Arc<Drains>) -> Self {
        let metrics = metrics.server().clone();
        let admission = Arc::new(Admission::new(&config));
        let rate_limit = config.rate_limit.as_ref().map(Limit::new).map(Arc::new);
        let reports = Arc::default();
        let asker = None;
        let shared = Shared { config, rate_limit, asker, admission, metrics, reports, drains };
        Self { shared: Arc::new(shared) }
    }

    /// Who asks the service that `rateLimit.global` names, as [`Mesh::server`](crate::Mesh::server)
    /// sets it. Without it asking fails, and `failureModeDeny` decides.
    #[must_use]
    pub fn asked_by(mut self, asker: Asker) -> Self {
        let shared = Shared { asker: Some(asker), ..Shared::clone(&self.shared) };
        self.shared = Arc::new(shared);
        self
    }

    /// What it tells callers of its load, shared by its clones. The application may add how busy it
    /// is itself.
    #[must_use]
    pub fn reports(&self) -> &Arc<Reports> {
        &self.shared.reports
    }

    /// Requests being served now, response bodies included.
    #[must_use]
    pub fn serving(&self) -> usize {
        self.shared.admission.serving()
    }

    /// Requests that wait for a place now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.admission.waiting()
    }
}

impl Default for ServerLayer {
    fn default() -> Self {
        Self::new(Config::default())
    }
}

impl Shared {
    /// Holds the request against the rate limit.
    fn limit<B>(
        &self,
        request: &Request<B>,
        context: &Context,
        now: Timestamp,
    ) -> Result<Checked, Error> {
        let Some(limit) = &self.rate_limit else { return Ok(Checked::Passed(None)) };
        let asker = self.asker.as_ref();
        let arrival = Arrival::of(context.peer.as_ref())
            .to(asker.and_then(Asker::service))
            .asked_by(asker, context.expiry);
        limit.inbound(request, &arrival, &self.metrics, now)
    }

    /// Answers a request that is about the server's load and nothing else.
    fn answer<B>(&self, request: &Request<B>) -> Option<Response<()>> {
        let trusted = || self.trusts(peer(request).as_ref());
        self.reports.answer(self.config.load_reports, trusted, request)
    }

    /// Whether a request is one for reports at intervals, from a caller that may have them.
    fn is_subscribing<B>(&self, request: &Request<B>) -> bool {
        let trusted = || self.trusts(peer(request).as_ref());
        stream::is_asked(self.config.load_reports, trusted, request)
    }

    /// Whether a caller may have load reports if it asks for them.
    fn trusts(&self, peer: Option<&Peer>) -> bool {
        self.config.trust_callers || peer.and_then(Peer::identity).is_some()
    }

    /// Answers before the handler has seen the request.
    fn refuse<S, B>(&self, record: Record, refusal: Error) -> ResponseFuture<S, B>
    where
        S: Service<Request<B>>,
    {
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
    S: Service<Request<B>, Response = Response<RB>> + Clone,
    B: HttpBody,
    RB: HttpBody<Data = Bytes>,
    RB::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<RB>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let shared = &*self.shared;
        if let Some(answer) = shared.answer(&request) {
            return ResponseFuture::about_load(AboutLoad::Told(answer));
        }
        if shared.is_subscribing(&request) {
            let stream = Subscribing::new(request.into_body(), &shared.reports, &shared.drains);
            return ResponseFuture::about_load(AboutLoad::Subscribing(stream));
        }
        let now = clock::now();
        let (context, refusal) = read(&shared.config, &request, now);
        let limited = match refusal {
            None => shared.limit(&request, &context, now),
            Some(refusal) => Err(refusal),
        };
        let expiry = context.expiry;
        let criticality = context.criticality.unwrap_or_default();
        let mut record = Record::new(shared, &request, now, context);
        let step = match limited {
            Ok(Checked::Passed(fields)) => {
                record.tell(fields);
                match shared.admission.admit(now, criticality, expiry) {
                    Ok(Admitted::Served(place)) => {
                        record.admitted(place);
                        None
                    }
                    Ok(Admitted::Waits(waiting)) => Some(Step::Waits(waiting)),
                    Err(shed) => return shared.refuse(record, shed),
                }
            }
            Ok(Checked::Asks(asking)) => {
                let (admission, criticality) = (shared.admission.clone(), criticality);
                Some(Step::Asks { asking, admission, criticality, expiry })
            }
            Err(refusal) => return shared.refuse(record, refusal),
        };
        let timer = expiry.map(|Expiry(at)| sleep_until(clock::instant(at)));
        if let Some(step) = step {
            let next = self.inner.clone();
            let inner = std::mem::replace(&mut self.inner, next);
            let queued = Box::new(Queued { step, inner, request });
            return ResponseFuture { queued: Some(queued), timer, ..ResponseFuture::of(record) };
        }
        // A handler may do its work, and panic, before it has returned a future.
        match record.run(|| self.inner.call(request)) {
            Ok(handler) => {
                ResponseFuture { handler: Some(handler), timer, ..ResponseFuture::of(record) }
            }
            Err(panic) => ResponseFuture::refused(record, panic),
        }
    }
}

/// A request that waits, and what will serve it.
struct Queued<S, B> {
    step: Step,
    inner: S,
    request: Request<B>,
}

/// What it waits for.
enum Step {
    /// What the rate limit service says; then for a place.
    Asks {
        asking: Asking,
        admission: Arc<Admission>,
        criticality: Criticality,
        expiry: Option<Expiry>,
    },
    /// A place.
    Waits(Waiting),
}

/// A request that is about the server's load and nothing else.
enum AboutLoad<B> {
    /// It has its answer.
    Told(Response<()>),
    /// It is told at intervals.
    Subscribing(Subscribing<B>),
}

impl<B: HttpBody> AboutLoad<B> {
    fn poll<RB>(&mut self, cx: &mut task::Context<'_>) -> Poll<Response<ResponseBody<RB>>> {
        Poll::Ready(match self {
            Self::Told(answer) => std::mem::take(answer).map(|()| ResponseBody::of_load(None)),
            Self::Subscribing(subscribing) => {
                let (head, stream) = ready!(subscribing.poll(cx));
                head.map(|()| ResponseBody::of_load(stream))
            }
        })
    }
}

pin_project! {
    /// The response of the handler, or one that says why there is none.
    pub struct ResponseFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        // Boxed, so that a request which need not wait does not carry the room for it.
        queued: Option<Box<Queued<S, B>>>,
        #[pin]
        handler: Option<S::Future>,
        #[pin]
        timer: Option<Sleep>,
        record: Option<Record>,
        refusal: Option<Error>,
        // Of a request that is no call: nothing else is there.
        about_load: Option<Box<AboutLoad<B>>>,
    }
}

impl<S: Service<Request<B>>, B> ResponseFuture<S, B> {
    const fn of(record: Record) -> Self {
        Self {
            queued: None,
            handler: None,
            timer: None,
            record: Some(record),
            refusal: None,
            about_load: None,
        }
    }

    fn about_load(request: AboutLoad<B>) -> Self {
        Self {
            queued: None,
            handler: None,
            timer: None,
            record: None,
            refusal: None,
            about_load: Some(Box::new(request)),
        }
    }

    fn refused(record: Record, refusal: Error) -> Self {
        Self { refusal: Some(refusal), ..Self::of(record) }
    }

    /// Waits for what there is to wait for, then hands the request to the service.
    fn poll_queued(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let (Some(queued), Some(record)) = (this.queued.as_mut(), this.record.as_mut()) else {
            return Poll::Ready(());
        };
        let decided = ready!(queued.poll_place(record, cx));
        let Some(queued) = this.queued.take() else { return Poll::Ready(()) };
        let Queued { mut inner, request, .. } = *queued;
        match decided {
            Ok(()) => match record.run(|| inner.call(request)) {
                Ok(handler) => this.handler.set(Some(handler)),
                Err(panic) => *this.refusal = Some(panic),
            },
            Err(refusal) => *this.refusal = Some(refusal),
        }
        Poll::Ready(())
    }
}

impl<S, B> Queued<S, B> {
    /// Waits for a place. Why there is none is counted.
    fn poll_place(
        &mut self,
        record: &mut Record,
        cx: &mut task::Context<'_>,
    ) -> Poll<Result<(), Error>> {
        if let Step::Asks { asking, admission, criticality, expiry } = &mut self.step {
            let granted = match ready!(Pin::new(asking).poll(cx)) {
                Ok(granted) => granted,
                // Counted where it was decided.
                Err(refusal) => return Poll::Ready(Err(refusal)),
            };
            granted.edit(self.request.headers_mut());
            record.tell(granted.into_fields());
            let now = clock::now();
            let admitted = if expiry.is_some_and(|expiry| expiry.has_passed(now)) {
                let why = "the deadline passed while the rate limit service was asked";
                Err(Error::new(ErrorKind::Deadline, why))
            } else {
                admission.admit(now, *criticality, *expiry)
            };
            match admitted {
                Ok(Admitted::Waits(waiting)) => self.step = Step::Waits(waiting),
                Ok(Admitted::Served(place)) => {
                    record.waited(place);
                    return Poll::Ready(Ok(()));
                }
                Err(shed) => {
                    record.shed(&shed);
                    return Poll::Ready(Err(shed));
                }
            }
        }
        let Step::Waits(waiting) = &mut self.step else { return Poll::Pending };
        Poll::Ready(match ready!(Pin::new(waiting).poll(cx)) {
            Ok(place) => {
                record.waited(place);
                Ok(())
            }
            Err(shed) => {
                record.shed(&shed);
                Err(shed)
            }
        })
    }
}

impl<S, B, RB> Future for ResponseFuture<S, B>
where
    S: Service<Request<B>, Response = Response<RB>>,
    B: HttpBody,
    RB: HttpBody<Data = Bytes>,
    RB::Error: Into<BoxError>,
{
    type Output = Result<Response<ResponseBody<RB>>, S::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        if let Some(request) = self.as_mut().project().about_load {
            return request.poll(cx).map(Ok);
        }
        ready!(self.as_mut().poll_queued(cx));
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

impl<S: Service<Request<B>>, B> fmt::Debug for ResponseFuture<S, B> {
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
        let told = headers.get(CRITICALITY);
        context.criticality = told.and_then(|value| Criticality::parse(value.as_bytes()));
    }
    context.criticality = context.criticality.or(config.criticality);

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
