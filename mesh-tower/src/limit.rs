//! Limit: caps the calls that a destination has in flight.
//!
//! `in flight + 1 > max_requests` refuses the call with [`ErrorKind::Overflow`]. A refusal is an
//! error from the future, never a wait in `poll_ready`: a queue would only hide the overload, and
//! the caller's deadline knows better how long to wait.
//!
//! A call is in flight from `call` to the end of its response body, or until either is dropped.
//!
//! Before it counts, the rate limit and the throttle of the destination are asked, where the policy
//! has them: `rateLimit` refuses with [`ErrorKind::RateLimited`], `throttle` with
//! [`ErrorKind::Shed`]. A rate limit that asks a service holds the call back until that has answered;
//! the call counts meanwhile.
//!
//! Units: calls. Default: 65,536, since a cap that is met by accident is an outage.
//! Metrics: `mesh.shed` with `mesh.flag` = `upstream_overflow`.
//! Order: above retry, so that a call counts once, whatever its attempts.
//! Source: Envoy "Circuit breaking" (`max_requests`).
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), mesh_tower::Error> {
//! use http::{Request, Response};
//! use mesh_tower::limit::LimitLayer;
//! use mesh_tower::{Body, Error, ErrorKind};
//! use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
//!
//! let mut service = ServiceBuilder::new()
//!     .layer(LimitLayer::new(1))
//!     .service(service_fn(async |_| Ok::<_, Error>(Response::new(Body::from("hello")))));
//! let first = service.ready().await?.call(Request::new(Body::empty())).await?;
//! let refused = service.ready().await?.call(Request::new(Body::empty())).await.unwrap_err();
//! assert_eq!(refused.kind(), ErrorKind::Overflow);
//! drop(first);
//! assert!(service.ready().await?.call(Request::new(Body::empty())).await.is_ok());
//! # Ok(())
//! # }
//! ```

use crate::call::{self, Call};
use crate::guard::{self, Held};
use crate::rate_limit::Asker;
use crate::telemetry::DestinationMetrics;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use mesh_core::limit::{Kind, Limits, Overflow, Permit};
use mesh_core::{Error, ErrorKind};
use pin_project_lite::pin_project;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tower_layer::Layer;
use tower_service::Service;

pub use mesh_core::limit::Config;

/// Wraps a service in [`Limit`].
///
/// Each wrapped service has a count of its own, which its clones share.
#[derive(Clone, Debug, Default)]
pub struct LimitLayer {
    config: Config,
    metrics: Option<Arc<DestinationMetrics>>,
    asker: Option<Asker>,
}

impl LimitLayer {
    /// Refuses calls beyond `max_requests` in flight. [`LimitLayer::default`] has the default.
    #[must_use]
    pub fn new(max_requests: u32) -> Self {
        let mut config = Config::default();
        config.max_requests = max_requests;
        Self { config, metrics: None, asker: None }
    }

    /// Where refusals are counted; nowhere by default.
    #[must_use]
    pub fn metrics(mut self, metrics: Arc<DestinationMetrics>) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// Who asks rate limit services.
    #[must_use]
    pub(crate) fn asker(mut self, asker: Asker) -> Self {
        self.asker = Some(asker);
        self
    }
}

impl<S> Layer<S> for LimitLayer {
    type Service = Limit<S>;

    fn layer(&self, inner: S) -> Limit<S> {
        let limits = Limits::new(&self.config);
        Limit { inner, limits, metrics: self.metrics.clone(), asker: self.asker.clone() }
    }
}

/// See the [module docs](self).
#[derive(Clone, Debug)]
pub struct Limit<S> {
    inner: S,
    limits: Limits,
    metrics: Option<Arc<DestinationMetrics>>,
    asker: Option<Asker>,
}

impl<S, B, R> Service<Request<B>> for Limit<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: Into<Error>,
    B: 'static,
    R: HttpBody,
{
    type Response = Response<Body<R>>;
    type Error = Error;
    type Future = ResponseFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let pinned = call::pinned(&request);
        let asker = self.asker.as_ref();
        let held = match pinned.map_or(Ok(None), |call| guard::ask(call, &request, asker)) {
            Ok(held) => held,
            Err(refusal) => return ResponseFuture::refused(refusal),
        };
        let limits = pinned.and_then(Call::limits).unwrap_or(&self.limits);
        let permit = match limits.acquire(Kind::Request) {
            Ok(permit) => permit,
            Err(overflow) => {
                if let Some(metrics) = pinned.and_then(Call::metrics).or(self.metrics.as_ref()) {
                    metrics.shed(ErrorKind::Overflow);
                }
                return ResponseFuture::refused(refused(&overflow));
            }
        };
        let (mut inner, mut asked) = (None, None);
        if held.as_deref().is_some_and(Held::asks) {
            // What leaves later uses the instance that was made ready for it.
            let next = self.inner.clone();
            let service = std::mem::replace(&mut self.inner, next);
            asked = Some(Box::new(HeldBack { service, request }));
        } else {
            inner = Some(self.inner.call(request));
        }
        ResponseFuture { asked, inner, permit: Some(permit), held, refusal: None }
    }
}

/// A call that the rate limit service is asked about, and what will send it.
#[derive(Debug)]
struct HeldBack<S, B> {
    service: S,
    request: Request<B>,
}

fn refused(overflow: &Overflow) -> Error {
    Error::new(ErrorKind::Overflow, overflow.to_string())
}

pin_project! {
    /// The inner answer, or [`ErrorKind::Overflow`], or the refusal of a rate limit or
    /// a throttle.
    pub struct ResponseFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        asked: Option<Box<HeldBack<S, B>>>,
        #[pin]
        inner: Option<S::Future>,
        permit: Option<Permit>,
        held: Option<Box<Held>>,
        refusal: Option<Error>,
    }
}

impl<S: Service<Request<B>>, B> ResponseFuture<S, B> {
    const fn refused(refusal: Error) -> Self {
        Self { asked: None, inner: None, permit: None, held: None, refusal: Some(refusal) }
    }
}

impl<S: Service<Request<B>>, B> fmt::Debug for ResponseFuture<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").field("refusal", &self.refusal).finish_non_exhaustive()
    }
}

impl<S, B, R> Future for ResponseFuture<S, B>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<Error>,
    B: 'static,
    R: HttpBody,
{
    type Output = Result<Response<Body<R>>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let (Some(back), Some(held)) = (this.asked.as_mut(), this.held.as_mut()) {
            let granted = ready!(held.poll_asked(&mut back.request, cx));
            let Some(back) = this.asked.take() else { return Poll::Pending };
            let HeldBack { mut service, request } = *back;
            match granted {
                Ok(()) => this.inner.set(Some(service.call(request))),
                Err(refusal) => {
                    *this.permit = None;
                    return Poll::Ready(Err(match call::pinned(&request) {
                        Some(call) => guard::named(refusal, call),
                        None => refusal,
                    }));
                }
            }
        }
        let Some(inner) = this.inner.as_pin_mut() else {
            return match this.refusal.take() {
                Some(refusal) => Poll::Ready(Err(refusal)),
                None => Poll::Pending,
            };
        };
        let mut answer = ready!(inner.poll(cx)).map_err(Into::into);
        if let Some(held) = this.held.take() {
            match &mut answer {
                Ok(response) => held.answered(response),
                Err(error) => held.failed(error),
            }
        }
        let response = answer?;
        let permit = this.permit.take().filter(|_| !response.body().is_end_stream());
        Poll::Ready(Ok(response.map(|inner| Body { inner, permit })))
    }
}

pin_project! {
    /// A response body that keeps its call's place until it ends.
    #[derive(Debug)]
    pub struct Body<B> {
        #[pin]
        inner: B,
        permit: Option<Permit>,
    }
}

/// The body of an answer made above, which takes no place.
impl<B: From<Bytes>> From<Bytes> for Body<B> {
    fn from(bytes: Bytes) -> Self {
        Self { inner: B::from(bytes), permit: None }
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
        if !matches!(frame, Some(Ok(_))) {
            *this.permit = None;
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
    use http_body_util::BodyExt;
    use std::future::pending;
    use tower::{ServiceExt, service_fn};

    fn layer() -> (LimitLayer, Arc<DestinationMetrics>) {
        let metrics = Metrics::new().destination("inventory");
        (LimitLayer::new(1).metrics(metrics.clone()), metrics)
    }

    fn answering(
        body: &'static str,
    ) -> impl Service<Request<()>, Response = Response<crate::Body>, Error = Error> + Clone {
        service_fn(move |_| async move { Ok(Response::new(crate::Body::from(body))) })
    }

    #[tokio::test(start_paused = true)]
    async fn it_keeps_the_contract() {
        testkit::contract::check(
            |inner| LimitLayer::default().layer(inner),
            || Request::new(()),
            || Response::new(crate::Body::empty()),
        )
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn one_call_too_many_is_refused_and_counted() {
        let (layer, metrics) = layer();
        let mut service = layer
            .layer(service_fn(|_: Request<()>| pending::<Result<Response<crate::Body>, Error>>()));
        let first = service.call(Request::new(()));
        let error = service.call(Request::new(())).await.expect_err("no room");
        assert_eq!(error.kind(), ErrorKind::Overflow);
        assert_eq!(metrics.sheds().collect::<Vec<_>>(), [(ErrorKind::Overflow, 1)]);
        drop(first);
        assert!(service.call(Request::new(())).inner.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn clones_share_the_count() {
        let (layer, _) = layer();
        let service = layer.layer(answering("hello"));
        let held = service.clone().oneshot(Request::new(())).await.expect("room");
        assert!(service.oneshot(Request::new(())).await.is_err());
        drop(held);
    }

    #[tokio::test(start_paused = true)]
    async fn the_place_is_kept_to_the_end_of_the_body() {
        let (layer, _) = layer();
        let service = layer.layer(answering("hello"));
        let mut body = service.clone().oneshot(Request::new(())).await.expect("room").into_body();
        assert!(body.frame().await.is_some());
        assert!(service.clone().oneshot(Request::new(())).await.is_err(), "not at its end yet");
        assert!(body.frame().await.is_none());
        assert!(service.oneshot(Request::new(())).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_body_keeps_no_place() {
        let (layer, _) = layer();
        let service = layer.layer(answering(""));
        let _first = service.clone().oneshot(Request::new(())).await.expect("room");
        assert!(service.oneshot(Request::new(())).await.is_ok());
    }
}
