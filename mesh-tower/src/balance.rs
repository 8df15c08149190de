//! Balance: one attempt, at the endpoint that the destination's picker chooses.
//!
//! `pick → admit → send`, then the response body keeps the ticket (see `ticket`):
//!
//! 1. *pick* compares a few endpoints by load among those that can be picked: reachable, not
//!    ejected, breaker not open, not tried before by this call. Below the panic threshold it
//!    picks among all.
//! 2. *admit* asks the endpoint's limit of requests and its breaker, where there are such; a
//!    refusal is an error that a retry may answer with another endpoint.
//! 3. *send* hands the request to a connection of the endpoint, opened if none is free and the
//!    limits of connections allow it.
//!
//! An endpoint that cannot be connected to is out at once, and a background task tries it, with
//! back-off, until it answers again: callers do not pay for finding out. The first call to a
//! destination waits for discovery, within its deadline.
//!
//! The future is boxed here, once per attempt, and nowhere else in the client stack.
//!
//! Order: lowest; retry above it, so that each attempt picks anew.
//! Source: `mesh_core::pick`; gRFC A61 (pick by connectivity), Finagle fail-fast.

use crate::body::{Body, BoxError};
use crate::call::{self, Call, Tried};
use crate::clock;
use crate::connect::ResponseBody;
use crate::destination::{Destination, Endpoint, Unpicked};
use crate::ticket::{Counted, Ticket};
use crate::workers::Worker;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use mesh_core::limit::{Kind, UNLIMITED};
use mesh_core::{Error, ErrorKind, Failure, Timestamp};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tower_service::Service;
use tracing::{Level, Span, span_enabled};

/// See the [module docs](self).
#[derive(Clone, Debug)]
pub struct Balance {
    target: Target,
    worker: Worker,
}

#[derive(Clone, Debug)]
enum Target {
    /// The one that route pinned.
    Routed,
    /// This one, unless route pinned another.
    Fixed(Arc<Destination>),
    /// None: every call fails with this.
    Invalid(Error),
}

impl Balance {
    pub(crate) const fn routed(worker: Worker) -> Self {
        Self { target: Target::Routed, worker }
    }

    pub(crate) const fn fixed(destination: Arc<Destination>, worker: Worker) -> Self {
        Self { target: Target::Fixed(destination), worker }
    }

    pub(crate) const fn invalid(error: Error, worker: Worker) -> Self {
        Self { target: Target::Invalid(error), worker }
    }
}

impl<B> Service<Request<B>> for Balance
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Counted<ResponseBody>>;
    type Error = Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        let mut request = request.map(Body::new);
        let pinned = request.extensions_mut().remove::<Call>();
        let found = match (pinned, &self.target) {
            (Some(call), target) => match (&call.destination, target) {
                (Some(destination), _) | (None, Target::Fixed(destination)) => {
                    Ok((destination.clone(), call))
                }
                (None, Target::Invalid(error)) => Err(error.clone()),
                (None, Target::Routed) => Err(unrouted()),
            },
            (None, Target::Fixed(destination)) => {
                let grpc = call::is_grpc(request.headers());
                let call = Call::new(clock::now(), destination.policy(), grpc);
                Ok((destination.clone(), call))
            }
            (None, Target::Invalid(error)) => Err(error.clone()),
            (None, Target::Routed) => Err(unrouted()),
        };
        let worker = self.worker;
        ResponseFuture(match found {
            Ok((destination, call)) => Box::pin(attempt(destination, call, request, worker)),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        })
    }
}

fn unrouted() -> Error {
    Error::new(
        ErrorKind::NoRoute,
        "the request reached the balancer without a destination; put the route layer above it",
    )
}

/// One attempt: pick, admit, send.
async fn attempt(
    destination: Arc<Destination>,
    call: Call,
    request: Request<Body>,
    worker: Worker,
) -> Result<Response<Counted<ResponseBody>>, Error> {
    let (endpoint, started) = pick(&destination, &call).await?;
    let shared = destination.shared();
    let refused = |why: String| {
        shared.metrics.shed(ErrorKind::Overflow);
        Error::new(ErrorKind::Overflow, why)
            .with_destination(destination.label().clone())
            .with_endpoint(endpoint.id())
    };
    let permit = match call.policy.endpoint_limits.max_requests {
        UNLIMITED => None,
        _ => {
            let permit = endpoint.limits().acquire(Kind::Request);
            Some(permit.map_err(|overflow| refused(format!("at the endpoint, {overflow}")))?)
        }
    };
    let admission = match &call.policy.breaker {
        None => None,
        Some(config) => {
            let admission = endpoint.breaker().try_acquire(started, config);
            Some(admission.map_err(|open| refused(open.to_string()))?)
        }
    };
    endpoint.connections.attempted();
    shared.metrics.picked();
    let protocol = call.policy.protocol;
    let sending = endpoint.connections.of(worker).clone();
    let mut ticket = Ticket::new(
        destination.clone(),
        call.policy,
        endpoint.clone(),
        started,
        admission,
        call.grpc,
    )
    .with_permit(permit);
    match sending.send(request, protocol).await {
        Ok(mut response) => {
            if ticket.head(&response).is_failure() {
                // Only a failure is ever retried, so only then is it worth an allocation.
                response.extensions_mut().insert(Tried(endpoint.id().clone()));
            }
            Ok(response.map(|body| Counted::new(body, ticket)))
        }
        Err(failed) => {
            let mut error = failed
                .error
                .with_destination(destination.label().clone())
                .with_endpoint(endpoint.id());
            ticket.error(&error);
            drop(ticket);
            if error.kind() == ErrorKind::Overflow {
                shared.metrics.shed(ErrorKind::Overflow);
            }
            if error.failure() == Some(Failure::Connect) {
                destination.unreachable(&endpoint, &error);
                if let Some(down) = destination.down(&error) {
                    error = down;
                }
            } else if error.failure() == Some(Failure::Reset) {
                destination.suspect(&endpoint, &error);
            }
            Err(error)
        }
    }
}

/// The endpoint for this attempt, and the instant it was chosen.
async fn pick(
    destination: &Arc<Destination>,
    call: &Call,
) -> Result<(Arc<Endpoint>, Timestamp), Error> {
    // The first attempt starts with the call: one clock read serves both.
    let mut now = if call.attempt <= 1 { call.started } else { clock::now() };
    loop {
        match destination.pick(now, &call.tried) {
            Ok((endpoint, reason)) => {
                if span_enabled!(Level::DEBUG) {
                    Span::current()
                        .record("mesh.endpoint", endpoint.id().as_str())
                        .record("mesh.pick_reason", reason.as_str());
                }
                return Ok((endpoint, now));
            }
            Err(Unpicked::Final(error)) => return Err(error),
            Err(Unpicked::Unresolved) => {
                destination.resolved().await;
                now = clock::now();
            }
        }
    }
}

/// An attempt under way; dropping it cancels.
pub struct ResponseFuture(Pin<Box<dyn Future<Output = Answer> + Send>>);

type Answer = Result<Response<Counted<ResponseBody>>, Error>;

impl Future for ResponseFuture {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
