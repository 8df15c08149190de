//! Hedging: further attempts beside one that takes long; the first good answer is the call's.
//!
//! ```text
//!            delay over, or a failure that a condition names
//!        ┌────────────────────────────────────────────────────┐
//!        ▼                                                    │
//! ask budget and throttling ── yes ──► begin ──► 1 to 5 attempts under way
//!        │ no                                                 │ an answer, a failure that no
//!        ▼                                                    │ condition names, or the last one
//! no further attempt; those under way go on                   ▼
//!                                          the call's; the others are dropped, which cancels them
//! ```
//!
//! Each attempt avoids the endpoints of all others. One whose body is still being read from the
//! caller has no further one beside it: it cannot be sent twice at once. An endpoint whose attempt is
//! cancelled counts with the time it had.
//!
//! The delay, and what ends mean: [`mesh_core::hedge`]. All of this is behind one box that calls
//! without hedging do not have. Metrics: `mesh.retry.hedges`.

use super::repeat::{Further, Refused, Repeat, Seen};
use super::{attempt_timeout, ended};
use crate::body::Body;
use crate::call::Call;
use crate::clock;
use http::{Request, Response};
use mesh_core::hedge::Latencies;
use mesh_core::limit::Permit;
use mesh_core::retry::Config;
use mesh_core::{EndpointId, Error, ErrorKind, Timestamp, hedge};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Sleep, sleep};
use tower_service::Service;

/// What a call is hedged by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// Attempts at most.
    most: u32,
    /// How long after one the next begins; none: not known yet, so that time begins none.
    delay: Option<Duration>,
    /// Whether first attempts are measured.
    measured: bool,
    /// Whether `perTryTimeout` cuts attempts.
    cuts: bool,
}

impl Plan {
    /// Whether `perTryTimeout` cuts attempts.
    pub(super) const fn cuts(self) -> bool {
        self.cuts
    }

    /// The plan of a call that begins at `now` and does no harm when repeated; `None` if it is not
    /// hedged. `retries` are those that its caller asks for.
    pub(super) fn new<'a>(
        hedge: &hedge::Config,
        retry: &Config,
        retries: Option<u32>,
        now: Timestamp,
        latencies: impl FnOnce() -> &'a Latencies,
    ) -> Option<Self> {
        let most = match retries {
            _ if hedge.on_per_try_timeout => retry.attempts.saturating_add(1),
            Some(retries) => hedge.max_attempts.min(retries.saturating_add(1)),
            None => hedge.max_attempts,
        };
        let most = most.min(hedge::MAX_ATTEMPTS);
        if most < 2 {
            return None;
        }
        let delay = match hedge.percentile {
            Some(percentile) => latencies().percentile(now, percentile),
            None if hedge.on_per_try_timeout => Some(retry.per_try_timeout?),
            None => Some(hedge.delay?),
        };
        Some(Self {
            most,
            delay,
            measured: hedge.percentile.is_some(),
            cuts: !hedge.on_per_try_timeout,
        })
    }
}

/// A call with its attempts under way.
pub(super) struct Hedged<S, F> {
    repeat: Box<Repeat<S>>,
    plan: Plan,
    per_try: Option<Duration>,
    running: Vec<Running<F>>,
    /// Attempts begun, and of these those that count.
    begun: u32,
    counted: u32,
    /// When the first began, until it is measured.
    first: Option<Timestamp>,
    /// When another attempt is thought of.
    timer: Option<Pin<Box<Sleep>>>,
    /// An attempt that is decided on: to begin when the timer is over, if there is one.
    further: Option<Further>,
    /// Why there is to be no further attempt, if there is not.
    refused: Option<ErrorKind>,
    /// The server said not to send another.
    forbidden: bool,
}

struct Running<F> {
    number: u32,
    inner: Pin<Box<F>>,
    call: Option<Arc<Call>>,
    per_try: Option<Pin<Box<Sleep>>>,
    _permit: Option<Permit>,
}

impl<F> Running<F> {
    fn new(number: u32, inner: F, call: Option<Arc<Call>>, per_try: Option<Duration>) -> Self {
        Self {
            number,
            inner: Box::pin(inner),
            call,
            per_try: per_try.map(|allowed| Box::pin(sleep(allowed))),
            _permit: None,
        }
    }
}

impl<S, F> Hedged<S, F> {
    pub(super) fn new(
        repeat: Box<Repeat<S>>,
        first: F,
        plan: Plan,
        started: Timestamp,
        per_try: Option<Duration>,
    ) -> Self {
        let running = Running::new(1, first, repeat.head.call.clone(), per_try);
        let mut hedged = Self {
            repeat,
            plan,
            per_try,
            running: Vec::with_capacity(2),
            begun: 1,
            counted: 1,
            first: plan.measured.then_some(started),
            timer: None,
            further: None,
            refused: None,
            forbidden: false,
        };
        hedged.running.push(running);
        hedged.arm();
        hedged
    }

    pub(super) fn poll<R, E>(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<R>, Error>>
    where
        S: Service<Request<Body>, Response = Response<R>, Error = E, Future = F>,
        F: Future<Output = Result<Response<R>, E>>,
        E: Into<Error>,
    {
        loop {
            if let Some(answer) = self.poll_attempts(cx) {
                return Poll::Ready(answer);
            }
            let due = match &mut self.timer {
                Some(timer) => timer.as_mut().poll(cx).is_ready(),
                None => false,
            };
            if due {
                self.timer = None;
                if self.further.is_none() {
                    self.think_of_another();
                }
                // It may have set a timer, which is to be polled.
                continue;
            }
            if self.timer.is_some() || self.further.is_none() {
                return Poll::Pending;
            }
            match self.repeat.service.poll_ready(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => self.begin(),
                Poll::Ready(Err(error)) => {
                    self.further = None;
                    self.refused = Some(ErrorKind::Overflow);
                    if self.running.is_empty() {
                        return Poll::Ready(ended(Err(error.into()), self.begun, None));
                    }
                }
            }
        }
    }

    /// The call's answer, if an attempt has brought it.
    fn poll_attempts<R, E>(&mut self, cx: &mut Context<'_>) -> Option<Result<Response<R>, Error>>
    where
        F: Future<Output = Result<Response<R>, E>>,
        E: Into<Error>,
    {
        let mut at = 0;
        while let Some(running) = self.running.get_mut(at) {
            let answer = match running.inner.as_mut().poll(cx) {
                Poll::Ready(answer) => answer.map_err(Into::into),
                Poll::Pending => {
                    let late = running
                        .per_try
                        .as_mut()
                        .is_some_and(|timer| timer.as_mut().poll(cx).is_ready());
                    if !late {
                        at += 1;
                        continue;
                    }
                    if running.number == 1 {
                        self.measure();
                    }
                    let allowed = self.per_try.unwrap_or_default();
                    let endpoint = self.over(at);
                    if let Some(last) =
                        self.settle(Err(attempt_timeout(allowed, endpoint.as_ref())))
                    {
                        return Some(last);
                    }
                    continue;
                }
            };
            let first = running.number == 1;
            self.over(at);
            if let Some(last) = self.settle(answer) {
                return Some(last);
            }
            if first {
                // It failed: that says nothing about how long an answer takes.
                self.first = None;
            }
        }
        None
    }

    /// Drops an attempt that is over; further ones avoid its endpoint.
    fn over(&mut self, at: usize) -> Option<EndpointId> {
        let call = self.running.remove(at).call?;
        self.repeat.judged = call.noting.clone();
        let endpoint = call.at.get().cloned()?;
        self.repeat.tried(endpoint.clone());
        Some(endpoint)
    }

    /// What the end of an attempt means: the call's answer, or that it goes on.
    fn settle<R>(
        &mut self,
        answer: Result<Response<R>, Error>,
    ) -> Option<Result<Response<R>, Error>> {
        let alone = self.running.is_empty();
        match self.repeat.judge(&answer, 1) {
            Seen::Answer => {
                // That a further attempt found no endpoint says nothing about those under way.
                let unsent = answer.as_ref().is_err_and(|error| !error.may_have_reached());
                if !alone && unsent {
                    self.refused = Some(ErrorKind::Overflow);
                    return None;
                }
                self.measure();
                self.running.clear();
                Some(ended(answer, self.begun, None))
            }
            Seen::Forbidden => {
                self.forbidden = true;
                alone.then(|| ended(answer, self.begun, None))
            }
            // Another is about to begin already.
            Seen::Unprocessed | Seen::Failure { .. } if self.further.is_some() => None,
            Seen::Unprocessed => match self.repeat.resend(!alone) {
                Ok(further) => {
                    (self.further, self.timer) = (Some(further), None);
                    None
                }
                Err(_) => alone.then(|| ended(answer, self.begun, None)),
            },
            Seen::Failure { pushback, .. } => {
                let wait = pushback.unwrap_or_default();
                if alone {
                    return self.go_on(answer, wait);
                }
                // The others may answer yet; this failure is forgotten.
                if wait.is_zero() {
                    self.timer = None;
                    self.think_of_another();
                } else {
                    self.timer = Some(Box::pin(sleep(wait)));
                }
                None
            }
        }
    }

    /// The last attempt under way failed: begins another after `wait`, or ends the call.
    fn go_on<R>(
        &mut self,
        answer: Result<Response<R>, Error>,
        wait: Duration,
    ) -> Option<Result<Response<R>, Error>> {
        if self.forbidden {
            return Some(ended(answer, self.begun, None));
        }
        if self.counted >= self.plan.most {
            return Some(ended(answer, self.begun, Some(ErrorKind::RetryLimit)));
        }
        if self.refused.is_some() {
            return Some(ended(answer, self.begun, self.refused));
        }
        match self.repeat.further(wait) {
            Ok(further) => {
                self.further = Some(further);
                self.timer = (!wait.is_zero()).then(|| Box::pin(sleep(wait)));
                None
            }
            Err(Refused::Exhausted(what)) => Some(ended(answer, self.begun, Some(what))),
            Err(Refused::Impossible) => Some(ended(answer, self.begun, None)),
        }
    }

    /// Decides on another attempt beside those under way.
    fn think_of_another(&mut self) {
        if self.counted >= self.plan.most || self.refused.is_some() || self.forbidden {
            return;
        }
        match self.repeat.beside() {
            Ok(Some(further)) => self.further = Some(further),
            Ok(None) if !self.repeat.body.is_repeatable() => {}
            // The request is not whole yet: asked again later, and not at once if there is no delay.
            Ok(None) => {
                let delay = self.plan.delay.map(|delay| delay.max(Duration::from_millis(1)));
                self.timer = delay.map(|delay| Box::pin(sleep(delay)));
            }
            Err(what) => self.refused = Some(what),
        }
    }

    fn begin(&mut self)
    where
        S: Service<Request<Body>, Future = F>,
    {
        let Some(further) = self.further.take() else { return };
        self.begun += 1;
        if further.counts {
            self.counted += 1;
        }
        let beside = self.running.iter().filter_map(|running| running.call.as_ref()?.at.get());
        let beside: Vec<_> = beside.cloned().collect();
        beside.into_iter().for_each(|endpoint| self.repeat.tried(endpoint));
        if !self.running.is_empty()
            && let Some(metrics) = self.repeat.metrics()
        {
            metrics.hedged();
        }
        let request = self.repeat.head.request(self.counted, further.body, self.per_try);
        let inner = self.repeat.service.call(request);
        let call = self.repeat.head.call.clone();
        if !self.running.is_empty()
            && let Some(noting) = call.as_ref().and_then(|call| call.noting.as_ref())
        {
            noting.beside();
        }
        let mut running = Running::new(self.begun, inner, call, self.per_try);
        running._permit = further.permit;
        self.running.push(running);
        self.arm();
    }

    /// Sets the time of the next attempt.
    fn arm(&mut self) {
        let more = self.counted < self.plan.most && self.refused.is_none() && !self.forbidden;
        self.timer = self.plan.delay.filter(|_| more).map(|delay| Box::pin(sleep(delay)));
    }

    /// Notes how long the first attempt took, or has taken until another answered.
    fn measure(&mut self) {
        let Some(started) = self.first.take() else { return };
        let now = clock::now();
        self.repeat.latencies().record(now, now.since(started));
    }
}

impl<S, F> Drop for Hedged<S, F> {
    fn drop(&mut self) {
        // Its caller went away. What had exceeded the delay by then would have been slow.
        let Some(started) = self.first else { return };
        let beyond = clock::now().since(started);
        if self.running.iter().any(|running| running.number == 1)
            && self.plan.delay.is_some_and(|delay| beyond >= delay)
        {
            self.measure();
        }
    }
}

impl<S, F> fmt::Debug for Hedged<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hedged")
            .field("plan", &self.plan)
            .field("running", &self.running.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "hedge_tests.rs"]
mod tests;
