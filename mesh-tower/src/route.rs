//! Route: one look at the configuration per call.
//!
//! Finds the rule for the request's authority, method, path, query and headers, draws the
//! destination among the rule's weighted ones, and pins all that the layers below need as one
//! [`Call`] to the request. A call keeps the version it saw: a configuration that
//! lands meanwhile decides the next call.
//!
//! The authority that rules see is the channel's own name for [`Mesh::channel`](crate::Mesh::channel),
//! else that of the URI, else the `Host` field; [`RouteLayer::to`] asks the rules of one destination
//! instead, and of no host. An authority nobody configured is a plain DNS
//! name: the destination is made at the first call and kept.
//!
//! Order: topmost, since everything below asks the policy that it pins.
//! Errors: [`ErrorKind::NoRoute`], [`ErrorKind::NoDestination`]; [`ErrorKind::Tls`] for an `https`
//! URI whose destination is configured without TLS. Source: Gateway API HTTPRoute
//! precedence (`mesh_core::route`).

use crate::call::{self, Call};
use crate::clock;
use crate::mesh::Mesh;
use http::header::HOST;
use http::uri::{Authority, Scheme};
use http::{Request, Uri};
use mesh_core::{DestinationName, Error, ErrorKind, Timestamp};
use pin_project_lite::pin_project;
use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use tower_layer::Layer;
use tower_service::Service;

/// Wraps a service in [`Route`].
#[derive(Clone, Debug)]
pub struct RouteLayer {
    mesh: Mesh,
    by: By,
}

#[derive(Clone, Debug)]
enum By {
    Request,
    /// As `Request`, but a host that is not configured is refused.
    Configured,
    Name(Authority),
    /// The routes of this destination, whatever the authority.
    Destination(DestinationName, Authority),
    Invalid(Error),
}

impl RouteLayer {
    /// Routes by each request's own authority.
    #[must_use]
    pub const fn new(mesh: Mesh) -> Self {
        Self { mesh, by: By::Request }
    }

    /// Routes by each request's own authority, to configured hosts only: for requests of strangers,
    /// who must not choose where we connect to. Another host fails with [`ErrorKind::NoRoute`].
    #[must_use]
    pub const fn configured(mesh: Mesh) -> Self {
        Self { mesh, by: By::Configured }
    }

    /// Routes as if every request had this authority. A request that names one of its own keeps
    /// it on the wire; one that names none gets this one.
    ///
    /// A name that is no authority fails every call with [`ErrorKind::NoRoute`].
    #[must_use]
    pub fn authority(mut self, name: &str) -> Self {
        self.by = parse(name).map_or_else(By::Invalid, By::Name);
        self
    }

    /// Routes by the rules attached to a destination alone, whatever authority a request has. What
    /// none of them takes fails with [`ErrorKind::NoRoute`]. A request that names no authority gets
    /// the destination's name.
    #[must_use]
    pub fn to(mut self, destination: &DestinationName) -> Self {
        self.by = parse(&destination.to_string())
            .map_or_else(By::Invalid, |authority| By::Destination(destination.clone(), authority));
        self
    }
}

impl<S> Layer<S> for RouteLayer {
    type Service = Route<S>;

    fn layer(&self, inner: S) -> Route<S> {
        Route { inner, mesh: self.mesh.clone(), by: self.by.clone() }
    }
}

/// See the [module docs](self).
#[derive(Clone, Debug)]
pub struct Route<S> {
    inner: S,
    mesh: Mesh,
    by: By,
}

impl<S, B> Service<Request<B>> for Route<S>
where
    S: Service<Request<B>>,
    S::Error: Into<Error>,
    B: 'static,
{
    type Response = S::Response;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture<S::Future> {
        self.call_at(request, clock::now())
    }
}

impl<S> Route<S> {
    /// Calls, counting from `started`.
    pub(crate) fn call_at<B>(
        &mut self,
        mut request: Request<B>,
        started: Timestamp,
    ) -> ResponseFuture<S::Future>
    where
        S: Service<Request<B>>,
        B: 'static,
    {
        match self.find(&mut request, started) {
            Ok(call) => {
                call::pin(&mut request, call);
                ResponseFuture { state: State::Routed { inner: self.inner.call(request) } }
            }
            Err(error) => ResponseFuture { state: State::Refused { error: Some(error) } },
        }
    }
}

impl<S> Route<S> {
    fn find<B>(&self, request: &mut Request<B>, started: Timestamp) -> Result<Call, Error> {
        match &self.by {
            By::Request | By::Configured => {
                let authority = own_authority(request)?;
                self.mesh.route(&authority, request, matches!(self.by, By::Request), started)
            }
            By::Name(name) => {
                complete(request, name)?;
                self.mesh.route(name.as_str(), request, true, started)
            }
            By::Destination(destination, name) => {
                complete(request, name)?;
                self.mesh.route_to(destination, request, started)
            }
            By::Invalid(error) => Err(error.clone()),
        }
    }
}

fn parse(name: &str) -> Result<Authority, Error> {
    Authority::try_from(name).map_err(|error| {
        let message = format!("`{}` is not an authority (host or host:port)", name.escape_debug());
        Error::new(ErrorKind::NoRoute, message).with_source(error)
    })
}

/// The authority that the request names, in lower case: the URI's wins over `Host` (RFC 9112
/// section 3.2.2).
fn own_authority<B>(request: &Request<B>) -> Result<Cow<'_, str>, Error> {
    let text = match request.uri().authority() {
        Some(authority) => authority.as_str(),
        None => request
            .headers()
            .get(HOST)
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::NoRoute,
                    "the request names no destination: give it a URI such as http://inventory/items, or a Host field",
                )
            })?
            .to_str()
            .map_err(|error| {
                Error::new(ErrorKind::NoRoute, "the Host field is not text").with_source(error)
            })?,
    };
    Ok(if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(text.to_ascii_lowercase())
    } else {
        Cow::Borrowed(text)
    })
}

/// Gives a request without an authority that of its channel.
fn complete<B>(request: &mut Request<B>, authority: &Authority) -> Result<(), Error> {
    if request.uri().authority().is_some() || request.headers().contains_key(HOST) {
        return Ok(());
    }
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme.get_or_insert(Scheme::HTTP);
    parts.authority = Some(authority.clone());
    if parts.path_and_query.is_none() {
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
    }
    *request.uri_mut() = Uri::from_parts(parts).map_err(|error| {
        Error::new(ErrorKind::NoRoute, "the request's target is no URI").with_source(error)
    })?;
    Ok(())
}

pin_project! {
    /// The inner answer, or the refusal when nothing matches.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProject]
    #[derive(Debug)]
    enum State<F> {
        Routed { #[pin] inner: F },
        Refused { error: Option<Error> },
    }
}

impl<F, T, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<Error>,
{
    type Output = Result<T, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProject::Routed { inner } => inner.poll(cx).map_err(Into::into),
            StateProject::Refused { error } => match error.take() {
                Some(error) => Poll::Ready(Err(error)),
                None => Poll::Pending,
            },
        }
    }
}
