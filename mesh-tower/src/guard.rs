//! Guard: what refuses a call before it leaves, for the sake of its destination.
//!
//! | | refuses | with |
//! |---|---|---|
//! | rate limit | what exceeds `rateLimit` of the policy | [`ErrorKind::RateLimited`] |
//! | throttle | a share of the calls, while the destination takes few on | [`ErrorKind::Shed`] |
//!
//! The destination took a call on if it answered, and not with 429, 503, `RESOURCE_EXHAUSTED` or
//! `UNAVAILABLE`; a call that failed on its way, or ran out of time, was not taken on. A call that
//! its caller gave up says nothing, and counts as taken on.
//!
//! A rate limit that asks a service holds the call back until that has answered, before it is
//! counted as in flight anywhere but in the destination's limit.
//!
//! Cost: two looks at the policy where neither is on. A box per call where throttling is, or answers
//! tell of a rate limit.
//! Algorithms: [`mesh_core::rate_limit`], [`mesh_core::throttle`].

use crate::call::{Call, Shared};
use crate::clock;
use crate::draws::{CallDraws, Decision};
use crate::rate_limit::{self, Asker, Asking, Checked, Limit};
use http::{HeaderMap, Request, Response, StatusCode};
use mesh_core::criticality::{CRITICALITY, Criticality};
use mesh_core::throttle::Throttle;
use mesh_core::{Error, ErrorKind, GrpcCode, Policy, Swap};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// The state of one destination.
pub(crate) struct Guard {
    rate_limit: Swap<Option<Limit>>,
    throttle: Swap<Option<Arc<Throttle>>>,
}

impl Guard {
    /// Nothing asked yet.
    pub(crate) fn new(policy: &Policy) -> Self {
        Self { rate_limit: Swap::new(limit(policy)), throttle: Swap::new(throttle(policy)) }
    }

    /// Takes over a policy. What was counted stays, unless its settings change.
    pub(crate) fn reconfigure(&self, old: &Policy, new: &Policy) {
        if old.rate_limit != new.rate_limit {
            self.rate_limit.store(limit(new));
        }
        if old.throttle != new.throttle {
            self.throttle.store(throttle(new));
        }
    }
}

fn limit(policy: &Policy) -> Option<Limit> {
    policy.rate_limit.as_ref().map(Limit::new)
}

fn throttle(policy: &Policy) -> Option<Arc<Throttle>> {
    policy.throttle.as_ref().map(|config| Arc::new(Throttle::new(config)))
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").finish_non_exhaustive()
    }
}

/// Asks what refuses calls whether this one may leave. What it returns is to hear of the answer.
///
/// # Errors
/// The refusal, which is counted.
pub(crate) fn ask<B>(
    call: &Call,
    request: &Request<B>,
    asker: Option<&Asker>,
) -> Result<Option<Box<Held>>, Error> {
    let policy = &call.policy;
    if policy.rate_limit.is_none() && policy.throttle.is_none() {
        return Ok(None);
    }
    let Some(shared) = call.shared.as_deref() else { return Ok(None) };
    let held = hold(call, shared, request, asker);
    held.inspect_err(|refusal| shared.metrics.shed(refusal.kind()))
        .map_err(|refusal| named(refusal, call))
}

/// A refusal with whom the call was for.
pub(crate) fn named(refusal: Error, call: &Call) -> Error {
    match &call.destination {
        Some(destination) => refusal.with_destination(destination.label().clone()),
        None => refusal,
    }
}

fn hold<B>(
    call: &Call,
    shared: &Shared,
    request: &Request<B>,
    asker: Option<&Asker>,
) -> Result<Option<Box<Held>>, Error> {
    let check = |limit: &Limit| limit.outbound(request, call, asker, &shared.metrics);
    let checked = match (&call.policy.rate_limit, &call.rate_limit) {
        (None, _) => None,
        _ if call.is_own() => None,
        (Some(_), Some(of_route)) => Some(check(of_route)?),
        (Some(_), None) => shared.guard.rate_limit.load().as_ref().map(check).transpose()?,
    };
    let throttled = match &*shared.guard.throttle.load() {
        Some(throttle) => Some(Asked::begin(throttle, request, call.draws)?),
        None => None,
    };
    let (asking, fields) = match checked {
        Some(Checked::Asks(asking)) => (Some(asking), None),
        Some(Checked::Passed(fields)) => (None, fields),
        None => (None, None),
    };
    if asking.is_none() && fields.is_none() && throttled.is_none() {
        return Ok(None);
    }
    Ok(Some(Box::new(Held { asking, fields, throttled })))
}

/// What is to be done for a call before it leaves, and once its answer is there.
#[derive(Debug)]
pub(crate) struct Held {
    asking: Option<Asking>,
    fields: Option<Box<HeaderMap>>,
    throttled: Option<Asked>,
}

impl Held {
    /// Whether a rate limit service has yet to say if the call may leave.
    pub(crate) const fn asks(&self) -> bool {
        self.asking.is_some()
    }

    /// Waits for what the service says, and edits the request accordingly.
    pub(crate) fn poll_asked<B>(
        &mut self,
        request: &mut Request<B>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Error>> {
        let Some(asking) = &mut self.asking else { return Poll::Ready(Ok(())) };
        let granted = ready!(Pin::new(asking).poll(cx));
        self.asking = None;
        Poll::Ready(granted.map(|granted| {
            granted.edit(request.headers_mut());
            self.fields = granted.into_fields();
        }))
    }

    /// The destination answered.
    pub(crate) fn answered<B>(self, response: &mut Response<B>) {
        if let Some(asked) = self.throttled {
            asked.answered(response);
        }
        if let Some(fields) = &self.fields {
            rate_limit::tell(fields, response.headers_mut());
        }
    }

    /// The call failed.
    pub(crate) fn failed(self, error: &Error) {
        if let Some(asked) = self.throttled {
            asked.failed(error);
        }
    }
}

/// A call that throttling counts.
#[derive(Debug)]
struct Asked {
    throttle: Arc<Throttle>,
    level: Criticality,
    accepted: bool,
}

impl Asked {
    fn begin<B>(
        throttle: &Arc<Throttle>,
        request: &Request<B>,
        draws: CallDraws,
    ) -> Result<Self, Error> {
        let told = request.headers().get(CRITICALITY);
        let told = told.and_then(|told| Criticality::parse(told.as_bytes()));
        let level = told.unwrap_or_default();
        if throttle.ask(level, clock::now(), &mut draws.of(Decision::Throttle)) {
            return Ok(Self { throttle: throttle.clone(), level, accepted: true });
        }
        let why = "throttled here: the destination refuses most calls of this criticality";
        Err(Error::new(ErrorKind::Shed, why))
    }

    /// The destination answered.
    fn answered<B>(mut self, response: &Response<B>) {
        let refused = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
        let code = GrpcCode::from_headers(response.headers());
        let busy = [GrpcCode::RESOURCE_EXHAUSTED, GrpcCode::UNAVAILABLE];
        self.accepted =
            !refused.contains(&response.status()) && code.is_none_or(|code| !busy.contains(&code));
    }

    /// The call failed.
    fn failed(mut self, error: &Error) {
        // What never got as far as an endpoint is no word of the destination.
        self.accepted = error.failure().is_none();
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if self.accepted {
            self.throttle.accepted(self.level, clock::now());
        }
    }
}
