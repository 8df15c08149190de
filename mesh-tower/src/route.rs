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
//! What the rule does to requests and responses ([`mesh_core::route::filter`]) is done here as
//! well: it edits both, or answers instead of sending. A rule without filters costs one branch.
//! So does a policy without a `fault` ([`mesh_core::fault`]).
//!
//! Order: topmost, since everything below asks the policy that it pins.
//! Errors: [`ErrorKind::NoRoute`], [`ErrorKind::NoDestination`]; [`ErrorKind::Tls`] for an `https`
//! URI whose destination is configured without TLS. Source: Gateway API HTTPRoute
//! precedence (`mesh_core::route`).

use crate::call::{self, Begun, Call};
use crate::criticality;
use crate::explain::Recording;
use crate::fault::{Delayed, Ended, Fault, Next};
use crate::fields;
use crate::filter::{self, After};
use crate::mesh::{Mesh, Stop};
use crate::mirror;
use crate::rate_limit::Asker;
use bytes::Bytes;
use http::header::HOST;
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri};
use mesh_core::retry::RequestFields;
use mesh_core::{DestinationName, Error, ErrorKind};
use pin_project_lite::pin_project;
use std::borrow::Cow;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
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
        Route { inner, mesh: self.mesh.clone(), by: self.by.clone(), source: None }
    }
}

/// See the [module docs](self).
#[derive(Clone, Debug)]
pub struct Route<S> {
    inner: S,
    mesh: Mesh,
    by: By,
    /// Who calls, if that is not to be asked of the request being served.
    source: Option<IpAddr>,
}

impl<S, B, R> Service<Request<B>> for Route<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: Into<Error>,
    B: 'static,
    R: From<Bytes>,
{
    type Response = S::Response;
    type Error = Error;
    type Future = ResponseFuture<S, B, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let begun = Begun::now(&request);
        self.call_begun(request, begun)
    }
}

impl<S> Route<S> {
    /// Says who calls.
    pub(crate) const fn set_source(&mut self, source: IpAddr) {
        self.source = Some(source);
    }

    /// Who asks rate limit services.
    pub(crate) fn asker(&self) -> Asker {
        self.mesh.asker()
    }

    /// Calls, where the head was looked at.
    pub(crate) fn call_begun<B>(
        &mut self,
        mut request: Request<B>,
        begun: Begun,
    ) -> ResponseFuture<S, B, S::Future>
    where
        S: Service<Request<B>> + Clone,
        B: 'static,
    {
        let recording = Recording::asked(&request, begun.started);
        let state = match self.find(&mut request, begun, recording.as_ref()) {
            Ok(call) => {
                let call = trusting(call, &mut request);
                criticality::send(&call, request.headers_mut());
                if call.filters.is_some() || call.policy.fault.is_some() {
                    self.shape(call, request)
                } else {
                    call::pin(&mut request, call);
                    State::Routed { inner: self.inner.call(request), after: None }
                }
            }
            Err(Stop::Refused(error)) => State::Refused { error: Some(error) },
            Err(Stop::Answered(filters)) => {
                let response = Box::new(filter::answer(&filters, &request));
                State::Answered { response: Some(response) }
            }
        };
        ResponseFuture { state, recording }
    }

    /// Lets the filters of a call edit its request, and its policy inject a fault.
    fn shape<B>(&mut self, mut call: Call, mut request: Request<B>) -> State<S, B, S::Future>
    where
        S: Service<Request<B>> + Clone,
        B: 'static,
    {
        let filters = call.filters.take();
        if let Some(response) = filters.as_ref().and_then(|own| filter::preflight(own, &request)) {
            if let Some(noting) = &call.noting {
                noting.recording().answered("CORS preflight");
            }
            return State::Answered { response: Some(Box::new(response)) };
        }
        let fault = Fault::decide(&call, &request, self.mesh.faults());
        if let (Some(fault), Some(noting)) = (&fault, &call.noting) {
            noting.recording().fault(fault.injected());
        }
        let mut after = None;
        if let Some(filters) = filters {
            after = After::of(&filters, request.headers());
            // What goes nowhere is not edited, nor copied.
            if !fault.as_ref().is_some_and(Fault::aborts) {
                filter::edit(&filters, &mut request);
                mirror::send(&self.mesh, &filters.mirrors, call.draws, &mut request);
            }
        }
        call::pin(&mut request, call);
        let Some(fault) = fault else {
            return State::Routed { inner: self.inner.call(request), after };
        };
        // A call that leaves later uses the instance that was made ready for it.
        let ready = || {
            let next = self.inner.clone();
            std::mem::replace(&mut self.inner, next)
        };
        match fault.inject(request, after, ready) {
            Next::Send(request, after) => State::Routed { inner: self.inner.call(request), after },
            Next::Answer(response) => State::Answered { response: Some(response) },
            Next::Wait(delayed) => State::Delayed { delayed },
        }
    }
}

/// The call as the fields of its request ask for, where its policy trusts them.
fn trusting<B>(call: Call, request: &mut Request<B>) -> Call {
    if !call.policy.trust_request_headers {
        return call;
    }
    match RequestFields::take(request.headers_mut()) {
        Some(fields) => call.with_fields(fields),
        None => call,
    }
}

impl<S> Route<S> {
    fn find<B>(
        &self,
        request: &mut Request<B>,
        begun: Begun,
        recording: Option<&Arc<Recording>>,
    ) -> Result<Call, Stop> {
        match &self.by {
            By::Request | By::Configured => {
                let authority = own_authority(request)?;
                let plain = matches!(self.by, By::Request);
                self.mesh.route(&authority, request, plain, begun, self.source, recording)
            }
            By::Name(name) => {
                complete(request, name)?;
                self.mesh.route(name.as_str(), request, true, begun, self.source, recording)
            }
            By::Destination(destination, name) => {
                complete(request, name)?;
                self.mesh.route_to(destination, request, begun, self.source, recording)
            }
            By::Invalid(error) => Err(error.clone().into()),
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
        None => fields::get(request.headers(), &HOST)
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
    if request.uri().authority().is_some() || fields::has(request.headers(), &HOST) {
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
    /// The inner answer, that of the rule itself, or the refusal when nothing matches.
    #[derive(Debug)]
    pub struct ResponseFuture<S, B, F> {
        #[pin]
        state: State<S, B, F>,
        // Of a call whose caller asks.
        recording: Option<Arc<Recording>>,
    }
}

pin_project! {
    #[project = StateProject]
    #[derive(Debug)]
    enum State<S, B, F> {
        Routed { #[pin] inner: F, after: Option<Box<After>> },
        Delayed { delayed: Pin<Box<Delayed<S, B>>> },
        Refused { error: Option<Error> },
        Answered { response: Option<Box<Response<Bytes>>> },
    }
}

impl<S, B, F, R, E> Future for ResponseFuture<S, B, F>
where
    S: Service<Request<B>, Future = F>,
    B: 'static,
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<Error>,
    R: From<Bytes>,
{
    type Output = Result<Response<R>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // A response is large: it is not moved once more for a recording that there is not.
        if this.recording.is_none() {
            return this.state.poll_answer(cx);
        }
        let answer = ready!(this.state.poll_answer(cx));
        Poll::Ready(match this.recording.take() {
            None => answer,
            Some(recording) => recording.finish(answer),
        })
    }
}

impl<S, B, F, R, E> State<S, B, F>
where
    S: Service<Request<B>, Future = F>,
    B: 'static,
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<Error>,
    R: From<Bytes>,
{
    fn poll_answer(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<R>, Error>> {
        loop {
            let next = match self.as_mut().project() {
                StateProject::Routed { inner, after } => {
                    let mut answer = inner.poll(cx);
                    if let (Some(after), Poll::Ready(Ok(response))) = (after, &mut answer) {
                        after.apply(response.headers_mut());
                    }
                    return answer.map_err(Into::into);
                }
                StateProject::Refused { error } => {
                    return error.take().map_or(Poll::Pending, |error| Poll::Ready(Err(error)));
                }
                StateProject::Answered { response } => {
                    return match response.take() {
                        Some(response) => Poll::Ready(Ok((*response).map(R::from))),
                        None => Poll::Pending,
                    };
                }
                StateProject::Delayed { delayed } => match ready!(delayed.as_mut().poll(cx)) {
                    Ended::Send(mut service, request, after) => {
                        Self::Routed { inner: service.call(request), after }
                    }
                    Ended::Answer(response) => Self::Answered { response: Some(response) },
                    Ended::Late(error) => Self::Refused { error: Some(error) },
                },
            };
            self.set(next);
        }
    }
}
