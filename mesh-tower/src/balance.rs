//! Balance: one attempt, at the endpoint that the destination's picker chooses.
//!
//! `pick → admit → send`, then the response body keeps the ticket (see `ticket`):
//!
//! 1. *pick* compares a few endpoints by load among those that can be picked: reachable, not
//!    ejected, breaker not open, not tried before by this call. Below the panic threshold it
//!    picks among all. An ejected endpoint whose probation is due gets one attempt at a time.
//! 2. *admit* asks the endpoint's limit of requests and its breaker, where there are such; a
//!    refusal is an error that a retry may answer with another endpoint.
//! 3. *send* hands the request to a connection of the endpoint, opened if none is free and the
//!    limits of connections allow it.
//!
//! Where the policy compares reports and those that are known are stale, up to three endpoints are
//! asked for theirs before the pick ([`report`]).
//!
//! An endpoint that cannot be connected to is out at once, and a background task tries it, with
//! back-off, until it answers again: callers do not pay for finding out. The first call to a
//! destination waits for discovery, within its deadline.
//!
//! What waits for the response is boxed, once per attempt (`connect`), and nothing else in the
//! client stack is.
//!
//! Order: lowest; retry above it, so that each attempt picks anew.
//! Source: `mesh_core::pick`; gRFC A61 (pick by connectivity), Finagle fail-fast.

use crate::body::{Body, BoxError};
use crate::call::{self, Begun, Call, Tried};
use crate::clock;
use crate::connect::{Held, ResponseBody, Sending};
use crate::destination::{Destination, Endpoint, Unpicked};
use crate::draws::Decision;
use crate::report::{self, Asking};
use crate::ticket::{Counted, Ticket};
use crate::workers::Worker;
use bytes::Bytes;
use http::{Request, Response, Version};
use http_body::Body as HttpBody;
use mesh_core::health::breaker::Admission;
use mesh_core::health::outlier::{self, Probe};
use mesh_core::limit::{Kind, Permit, UNLIMITED};
use mesh_core::pick::Reason;
use mesh_core::{Error, ErrorKind, Failure, Outcome, Policy, Timestamp};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
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
        let pinned = call::unpin(&mut request);
        let found = match (pinned, &self.target) {
            (Some(call), target) => match (&call.destination, target) {
                (Some(destination), _) | (None, Target::Fixed(destination)) => {
                    Ok((destination.clone(), call))
                }
                (None, Target::Invalid(error)) => Err(error.clone()),
                (None, Target::Routed) => Err(unrouted()),
            },
            (None, Target::Fixed(destination)) => {
                let begun = Begun::now(&request);
                let policy = destination.policy();
                let mut call = Call::of(&request, begun, policy, destination.clone());
                call.draws = destination.draws();
                let call = call.belong(&request, None, None);
                Ok((destination.clone(), Arc::new(call)))
            }
            (None, Target::Invalid(error)) => Err(error.clone()),
            (None, Target::Routed) => Err(unrouted()),
        };
        ResponseFuture(match found {
            Ok((destination, call)) => {
                // The first attempt starts with the call: one clock read serves both.
                let now = if call.attempt <= 1 { call.leaves } else { clock::now() };
                attempt(destination, call, request, self.worker, now)
            }
            Err(error) => State::Refused { error: Some(error) },
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
fn attempt(
    destination: Arc<Destination>,
    call: Arc<Call>,
    request: Request<Body>,
    worker: Worker,
    now: Timestamp,
) -> State {
    if destination.reads_reports()
        && call.attempt <= 1
        && let Some(asking) = Asking::begin(&destination, &call, &request, worker, now)
    {
        return State::Later {
            then: Box::pin(async move {
                asking.over().await;
                let state = informed(destination, call, request, worker, clock::now());
                ResponseFuture(state).await
            }),
        };
    }
    informed(destination, call, request, worker, now)
}

/// As [`attempt`], when all is asked that is worth asking.
fn informed(
    destination: Arc<Destination>,
    call: Arc<Call>,
    mut request: Request<Body>,
    worker: Worker,
    now: Timestamp,
) -> State {
    let (endpoint, probe) = match choose(&destination, &call, now) {
        Ok(chosen) => chosen,
        Err(Unpicked::Final(error)) => return State::Refused { error: Some(error) },
        Err(Unpicked::Unresolved) => {
            return State::Later {
                then: Box::pin(async move {
                    destination.resolved().await;
                    let state = attempt(destination, call, request, worker, clock::now());
                    ResponseFuture(state).await
                }),
            };
        }
    };
    match admit(&endpoint, &call.policy, now) {
        Ok(Admitted { permit, admission }) => {
            endpoint.connections.attempted();
            destination.shared().metrics.picked();
            let connections = endpoint.connections.of(worker).clone();
            let reports = destination.reads_reports();
            if reports {
                report::ask(request.headers_mut());
            }
            let sending = Sending::start(connections, request, call.policy.protocol, call.grpc);
            let ticket = Ticket::new(destination, call, endpoint, now, admission);
            let ticket = ticket.with_permit(permit).with_probe(probe).with_reports(reports);
            State::Sending { sending, ticket: Some(ticket) }
        }
        Err(why) => {
            if let Some(probe) = probe {
                destination.probed(&endpoint, probe, Outcome::Cancelled, now);
            }
            destination.shared().metrics.shed(ErrorKind::Overflow);
            if let Some(noting) = &call.noting {
                noting.ended(why.clone(), Duration::ZERO);
            }
            let error = Error::new(ErrorKind::Overflow, why)
                .with_destination(destination.label().clone())
                .with_endpoint(endpoint.id());
            State::Refused { error: Some(error) }
        }
    }
}

/// Picks an endpoint; with the probe, if the attempt decides about its probation.
fn choose(
    destination: &Destination,
    call: &Call,
    now: Timestamp,
) -> Result<(Arc<Endpoint>, Option<Probe>), Unpicked> {
    let mut draw = call.draws.of(Decision::Pick(call.tried.len()));
    let args = call.pick_args(now);
    let (mut endpoint, reason) = match &call.noting {
        None => destination.pick(&args, &mut draw)?,
        Some(noting) => noting.pick(destination, &args, &mut draw)?,
    };
    let mut probe = None;
    if endpoint.health().is_ejected() && reason != Reason::Panic {
        (endpoint, probe) = on_probation(destination, call, endpoint, now)?;
    }
    if span_enabled!(Level::DEBUG) {
        Span::current()
            .record("mesh.endpoint", endpoint.id().as_str())
            .record("mesh.pick_reason", reason.as_str());
    }
    if let Some(noting) = &call.noting {
        noting.chosen(&endpoint);
    }
    if call.hedged {
        let _ = call.at.set(endpoint.id().clone());
    }
    Ok((endpoint, probe))
}

/// Asks to be the call that decides about an ejected endpoint; picks another if one was faster.
#[cold]
fn on_probation(
    destination: &Destination,
    call: &Call,
    endpoint: Arc<Endpoint>,
    now: Timestamp,
) -> Result<(Arc<Endpoint>, Option<Probe>), Unpicked> {
    match destination.admit_on_probation(&endpoint, now) {
        outlier::Admitted::Freely => Ok((endpoint, None)),
        outlier::Admitted::OnProbation(probe) => Ok((endpoint, Some(probe))),
        outlier::Admitted::No => {
            let mut avoid = call.tried.clone();
            avoid.push(endpoint.id().clone());
            let mut draw = call.draws.of(Decision::Pick(avoid.len()));
            let (other, reason) =
                destination.pick(&call.pick_args(now).with_avoid(&avoid), &mut draw)?;
            if other.health().is_ejected() && reason != Reason::Panic {
                let message = "its endpoints are on probation, and other calls are deciding";
                let error = Error::new(ErrorKind::NoHealthyEndpoint, message)
                    .with_destination(destination.label().clone());
                return Err(Unpicked::Final(error));
            }
            Ok((other, None))
        }
    }
}

/// What an attempt holds of its endpoint.
struct Admitted {
    permit: Option<Permit>,
    admission: Option<Admission>,
}

/// Asks the endpoint's limit of requests and its breaker; says why not.
fn admit(endpoint: &Endpoint, policy: &Policy, now: Timestamp) -> Result<Admitted, String> {
    let permit = match policy.endpoint_limits.max_requests {
        UNLIMITED => None,
        _ => {
            let permit = endpoint.limits().acquire(Kind::Request);
            Some(permit.map_err(|overflow| format!("at the endpoint, {overflow}"))?)
        }
    };
    let admission = match &policy.breaker {
        None => None,
        Some(config) => {
            let admission = endpoint.breaker().try_acquire(now, config);
            Some(admission.map_err(|open| open.to_string())?)
        }
    };
    Ok(Admitted { permit, admission })
}

/// The response, with the ticket in its body.
fn answered(
    mut response: Response<ResponseBody>,
    mut ticket: Ticket,
) -> Response<Counted<ResponseBody>> {
    if response.version() == Version::HTTP_2 {
        ticket.destination().speaks_http2();
    }
    if ticket.head(&mut response).is_failure() {
        // Only a failure is ever retried, so only then is it worth an allocation.
        response.extensions_mut().insert(Tried(ticket.endpoint().id().clone()));
    }
    let call = ticket.call();
    if let Some(noting) = &call.noting {
        noting.answered(&response, ticket.started());
    }
    if let Some(affinity) = &call.affinity {
        let addresses = ticket.endpoint().connections.addresses();
        affinity.answer(response.headers_mut(), &call.policy, addresses);
    }
    match response.extensions_mut().remove::<Held>() {
        // The attempt lasts as long as the stream that it was upgraded to.
        Some(held) => {
            held.keep(ticket);
            response.map(Counted::over)
        }
        None => response.map(|body| Counted::new(body, ticket)),
    }
}

/// The error, after the endpoint and those that wait for it have learnt of it.
fn failed(error: Error, mut ticket: Ticket) -> Error {
    let (destination, endpoint) = (ticket.destination().clone(), ticket.endpoint().clone());
    let error = error.with_destination(destination.label().clone()).with_endpoint(endpoint.id());
    if error.failure() == Some(Failure::Connect) || !destination.only_guesses(ticket.call()) {
        ticket.error(&error);
    } else {
        ticket.over();
    }
    ticket.note(|| error.to_string());
    drop(ticket);
    if error.kind() == ErrorKind::Overflow {
        destination.shared().metrics.shed(ErrorKind::Overflow);
    }
    match error.failure() {
        Some(Failure::Connect) => {
            destination.unreachable(&endpoint, &error);
            destination.down(&error).unwrap_or(error)
        }
        Some(Failure::Reset) => {
            destination.suspect(&endpoint, &error);
            error
        }
        _ => error,
    }
}

/// An attempt under way; dropping it cancels.
pub struct ResponseFuture(State);

enum State {
    /// On its way; the ticket counts it at its endpoint.
    Sending { sending: Sending, ticket: Option<Ticket> },
    /// Sent after a wait: the first calls to a destination for discovery, others for what
    /// endpoints say of their load.
    Later { then: Pin<Box<dyn Future<Output = Answer> + Send>> },
    /// Not sent at all.
    Refused { error: Option<Error> },
}

type Answer = Result<Response<Counted<ResponseBody>>, Error>;

impl Future for ResponseFuture {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Sending { sending, ticket } => {
                let answer = ready!(Pin::new(sending).poll(cx));
                let Some(ticket) = ticket.take() else { return Poll::Pending };
                Poll::Ready(match answer {
                    Ok(response) => Ok(answered(response, ticket)),
                    Err(lost) => Err(failed(lost.error, ticket)),
                })
            }
            State::Later { then } => then.as_mut().poll(cx),
            State::Refused { error } => match error.take() {
                Some(error) => Poll::Ready(Err(error)),
                None => Poll::Pending,
            },
        }
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
