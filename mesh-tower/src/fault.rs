//! Fault: delays and fails calls on purpose, as the policy's `fault` says.
//!
//! ```text
//! route → delay, within the deadline → abort, or the layers below
//! ```
//!
//! An injected status is a response of ours (`proxy-status: mesh; …; details="fault_injected"`), as a
//! caller would get it from the endpoint; nothing leaves the process, nothing is retried, and no
//! endpoint is blamed. It counts as the destination's call, and so does one whose deadline passes
//! while it is delayed. What is decided when: [`mesh_core::fault`].
//!
//! Cost: a call whose policy has no `fault` pays one branch; a delay costs one box.
//! Metrics: `mesh.fault.delays`, `mesh.fault.aborts`.
//! Order: in [`Route`](crate::route::Route), above retry and limit: a fault is a property of the
//! call, not of an attempt, and a delayed call holds no place.
//! Source: Envoy, HTTP fault filter; gRFC A33.

use crate::answer;
use crate::call::{self, Call};
use crate::clock;
use crate::deadline;
use crate::draws::Decision;
use crate::filter::After;
use crate::telemetry;
use bytes::Bytes;
use http::{Request, Response};
use mesh_core::fault::{Active, ActiveFault, Injected, Status};
use mesh_core::{Error, ErrorKind, Timestamp};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::time::{Sleep, sleep_until};

/// What to inject into a call, and its place among the active faults.
#[derive(Debug)]
pub(crate) struct Fault {
    injected: Injected,
    active: ActiveFault,
}

impl Fault {
    /// Decides on a call; `None` leaves it alone.
    pub(crate) fn decide<B>(call: &Call, request: &Request<B>, active: &Active) -> Option<Self> {
        let config = call.policy.fault.as_ref()?;
        let injected = config.decide(request.headers(), &mut call.draws.of(Decision::Fault));
        if injected == Injected::default() {
            return None;
        }
        let active = active.enter(config.max_active_faults)?;
        if let Some(metrics) = call.metrics() {
            if injected.delay.is_some() {
                metrics.fault_delayed();
            }
            if injected.abort.is_some() {
                metrics.fault_aborted();
            }
        }
        Some(Self { injected, active })
    }

    /// What is done to the call.
    pub(crate) const fn injected(&self) -> &Injected {
        &self.injected
    }

    /// Whether the call goes nowhere.
    pub(crate) const fn aborts(&self) -> bool {
        self.injected.abort.is_some()
    }

    /// What to do with the request that the call is pinned to.
    pub(crate) fn inject<S, B: 'static>(
        self,
        request: Request<B>,
        after: Option<Box<After>>,
        service: impl FnOnce() -> S,
    ) -> Next<S, B> {
        match (self.injected.delay, self.injected.abort) {
            (None, Some(status)) => Next::Answer(Box::new(aborted(&request, status, after))),
            (None, None) => Next::Send(request, after),
            (Some(delay), abort) => {
                let expiry = deadline::head(&request);
                let started = call::pinned(&request).map_or_else(clock::now, |call| call.started);
                let until = (started + delay).min(expiry);
                let held = Held { request, service: service(), after, _active: self.active };
                Next::Wait(Box::pin(Delayed {
                    sleep: sleep_until(clock::instant(until)),
                    expiry,
                    abort,
                    held: Some(held),
                }))
            }
        }
    }
}

/// The answer to a call that fails with a status, which counts as one of its destination.
fn aborted<B: 'static>(
    request: &Request<B>,
    status: Status,
    after: Option<Box<After>>,
) -> Response<Bytes> {
    let grpc = call::pinned(request).is_some_and(|call| call.grpc);
    let error = Error::new(ErrorKind::FaultInjected, format!("aborted with {status} on purpose"));
    let mut response = answer::response::<Bytes>(&error, grpc);
    if grpc {
        let own = answer::grpc::<Bytes>(status.grpc(), &error.to_string());
        for (name, value) in own.headers() {
            response.headers_mut().insert(name.clone(), value.clone());
        }
    } else {
        *response.status_mut() = status.http();
    }
    if let Some(after) = after {
        after.apply(response.headers_mut());
    }
    telemetry::answered(request, &response);
    response
}

/// What is to be done now.
#[expect(clippy::large_enum_variant, reason = "taken apart where it is made")]
pub(crate) enum Next<S, B> {
    Send(Request<B>, Option<Box<After>>),
    Answer(Box<Response<Bytes>>),
    Wait(Pin<Box<Delayed<S, B>>>),
}

pin_project_lite::pin_project! {
    /// A call that leaves later.
    #[derive(Debug)]
    pub(crate) struct Delayed<S, B> {
        #[pin]
        sleep: Sleep,
        expiry: Timestamp,
        abort: Option<Status>,
        held: Option<Held<S, B>>,
    }
}

#[derive(Debug)]
struct Held<S, B> {
    request: Request<B>,
    service: S,
    after: Option<Box<After>>,
    _active: ActiveFault,
}

/// What became of a call that was delayed.
#[expect(clippy::large_enum_variant, reason = "taken apart where it is made")]
pub(crate) enum Ended<S, B> {
    Send(S, Request<B>, Option<Box<After>>),
    Answer(Box<Response<Bytes>>),
    Late(Error),
}

impl<S, B: 'static> Future for Delayed<S, B> {
    type Output = Ended<S, B>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended<S, B>> {
        let this = self.project();
        ready!(this.sleep.poll(cx));
        let Some(Held { mut request, service, after, _active }) = this.held.take() else {
            return Poll::Pending;
        };
        let now = clock::now();
        Poll::Ready(if now >= *this.expiry {
            let why = "no response in time: the call was delayed on purpose";
            let error = Error::new(ErrorKind::Deadline, why);
            Ended::Late(telemetry::failed(&request, error))
        } else if let Some(status) = *this.abort {
            Ended::Answer(Box::new(aborted(&request, status, after)))
        } else {
            if let Some(call) = call::pinned_mut(&mut request) {
                call.leaves = now;
            }
            Ended::Send(service, request, after)
        })
    }
}
