//! Channel: what callers call through.
//!
//! A clone is cheap and shares everything. It takes requests with any body of `Bytes`, so it is
//! the transport of tonic clients and an HTTP client alike:
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use http::Request;
//! use mesh_tower::{Body, Mesh};
//! use tower::ServiceExt;
//!
//! let mesh = Mesh::from_env()?;
//! let request = Request::get("http://inventory/items/7").body(Body::empty())?;
//! let response = mesh.http().oneshot(request).await?;
//! println!("{}", response.status());
//! # Ok(())
//! # }
//! ```

use crate::body::{Body, BoxError};
use crate::call::Begun;
use crate::mesh::Mesh;
use crate::rate_limit::Asker;
use crate::route::RouteLayer;
use crate::stack::{Stack, StackResponse, stack};
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use mesh_core::{DestinationName, Error};
use pin_project_lite::pin_project;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use tower_service::Service;

/// See the [module docs](self).
#[derive(Clone, Debug)]
pub struct Channel(Stack);

impl Channel {
    pub(crate) fn by_request(mesh: &Mesh) -> Self {
        Self(stack(mesh, &RouteLayer::new(mesh.clone())))
    }

    pub(crate) fn by_configured_request(mesh: &Mesh) -> Self {
        Self(stack(mesh, &RouteLayer::configured(mesh.clone())))
    }

    pub(crate) fn to(mesh: &Mesh, destination: &DestinationName) -> Self {
        Self(stack(mesh, &RouteLayer::new(mesh.clone()).to(destination)))
    }

    pub(crate) fn named(mesh: &Mesh, name: &str) -> Self {
        Self(stack(mesh, &RouteLayer::new(mesh.clone()).authority(name)))
    }
}

impl Channel {
    /// For the calls of one caller: `source` is the address that policies may hash by
    /// ([`mesh_core::hash`]). Without it, that of whoever sent the request being served counts.
    #[must_use]
    pub fn with_source(mut self, source: IpAddr) -> Self {
        self.0.set_source(source);
        self
    }

    /// Who asks rate limit services about requests that come in on the worker of this channel.
    #[must_use]
    pub fn asker(&self) -> Asker {
        self.0.asker()
    }

    /// Calls, for a caller that has looked at the clock and at the head.
    pub fn call_begun(&mut self, request: Request<Body>, begun: Begun) -> ResponseFuture {
        ResponseFuture { inner: self.0.call_begun(request, begun) }
    }
}

impl<B> Service<Request<B>> for Channel
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody>;
    type Error = Error;
    type Future = ResponseFuture;

    /// Always ready: what cannot be served is refused by the call.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Service::<Request<Body>>::poll_ready(&mut self.0, cx)
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        ResponseFuture { inner: self.0.call(request.map(Body::new)) }
    }
}

/// The error, in the words of tonic too if that is at hand.
fn explained(error: Error) -> Error {
    #[cfg(feature = "tonic")]
    let error = crate::integrations::tonic::explained(error);
    error
}

type StackFuture = <Stack as Service<Request<Body>>>::Future;
type StackBody = <StackResponse as IntoBody>::Body;

/// Names the body of a response type.
trait IntoBody {
    type Body;
}

impl<B> IntoBody for Response<B> {
    type Body = B;
}

pin_project! {
    /// A call under way. Dropping it cancels the attempts, timers and streams below at once.
    pub struct ResponseFuture {
        #[pin]
        inner: StackFuture,
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response<ResponseBody>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project()
            .inner
            .poll(cx)
            .map_ok(|response| response.map(|inner| ResponseBody { inner: Box::pin(inner) }))
            .map_err(explained)
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

/// The response body of a call. Dropping it before its end cancels the rest.
pub struct ResponseBody {
    // Boxed, since whoever gets the response moves it many times.
    inner: Pin<Box<StackBody>>,
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.inner.as_mut().poll_frame(cx).map_err(|error| match error.downcast::<Error>() {
            Ok(error) => explained(*error).into(),
            Err(other) => other,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}
