//! Whether a further attempt follows, and what it needs.

use super::request::{Head, Source};
use super::{Config, Own};
use crate::body::Body;
use crate::call::{Call, Tried};
use crate::call_options::CallOptions;
use crate::clock;
use crate::deadline::Expiry;
use crate::telemetry::DestinationMetrics;
use http::{Response, StatusCode};
use mesh_core::limit::{Kind, Permit};
use mesh_core::retry::pushback::{self, Pushback};
use mesh_core::retry::{Attempted, End, Stop, Verdict, budget, decide, throttling};
use mesh_core::{EndpointId, Error, ErrorKind, GrpcCode, Timestamp};
use std::sync::Arc;
use std::time::Duration;

/// All that a further attempt needs.
#[derive(Debug)]
pub(super) struct Repeat<S> {
    pub(super) service: S,
    pub(super) head: Head,
    pub(super) body: Source,
    /// The body of the attempt that was decided on.
    pub(super) next: Option<Body>,
    /// Counts a retry under way.
    pub(super) permit: Option<Permit>,
    pub(super) own: Arc<Own>,
    /// The settings of a call without a pinned one, where its caller asks for others.
    pub(super) changed: Option<Arc<Config>>,
    /// Whether the call was sent again transparently: such an attempt is not counted.
    pub(super) resent: bool,
    /// Waits by back-off since the server last said how long to wait.
    pub(super) backoffs: u32,
}

/// What follows an attempt.
pub(super) enum Next {
    /// Another, after this wait.
    Attempt(Duration),
    /// None: its end is the call's. If that is for want of something, what was used up.
    Stop(Option<ErrorKind>),
}

impl<S> Repeat<S> {
    pub(super) fn pinned(&self) -> Option<&Call> {
        self.head.call.as_deref()
    }

    pub(super) fn config(&self) -> &Config {
        match self.pinned() {
            Some(call) => call.retry(),
            None => self.changed.as_deref().unwrap_or(&self.own.config),
        }
    }

    fn budget_config(&self) -> &budget::Config {
        self.pinned().map_or(&self.own.budget_config, |call| &call.policy.budget)
    }

    fn throttling(&self) -> Option<(&throttling::Throttling, &throttling::Config)> {
        match self.pinned() {
            Some(call) => {
                let config = call.policy.retry_throttling.as_ref()?;
                let shared = call.shared.as_deref();
                Some((shared.map_or(&self.own.throttling, |shared| &shared.throttling), config))
            }
            None => Some((&self.own.throttling, self.own.throttling_config.as_ref()?)),
        }
    }

    /// Whether the caller says that a repeated call does no harm.
    fn idempotent(&self) -> Option<bool> {
        match self.pinned() {
            Some(call) => call.idempotent(),
            None => self.head.extensions.get::<CallOptions>()?.idempotent,
        }
    }

    pub(super) fn metrics(&self) -> Option<&DestinationMetrics> {
        self.pinned().and_then(Call::metrics).or(self.own.metrics.as_ref()).map(Arc::as_ref)
    }

    /// The endpoint that let the attempt run out of time.
    pub(super) fn hung(&self) -> Option<&EndpointId> {
        self.pinned().and_then(|call| call.hung.get())
    }

    /// What follows attempt number `attempt`. If that is another, everything is set for it.
    pub(super) fn next<R>(&mut self, answer: &Result<Response<R>, Error>, attempt: u32) -> Next {
        self.permit = None;
        let (verdict, pushback) = self.judge(answer, attempt);
        match verdict {
            Verdict::Transparent => self.resend(answer),
            Verdict::Retry { .. } => self.retry(answer, pushback),
            Verdict::Stop { why: Stop::Exhausted } => Next::Stop(Some(ErrorKind::RetryLimit)),
            Verdict::Stop { .. } => Next::Stop(None),
        }
    }

    /// Whether another attempt may follow, and what the server says about it.
    fn judge<R>(
        &self,
        answer: &Result<Response<R>, Error>,
        attempt: u32,
    ) -> (Verdict, Option<Pushback>) {
        let none = Verdict::Stop { why: Stop::NotListed };
        let Some(end) = self.end(answer) else {
            if let Some((throttling, config)) = self.throttling() {
                throttling.succeeded(config);
            }
            return (none, None);
        };
        let headers = answer.as_ref().ok().map(Response::headers);
        let attempted = Attempted::new(&self.head.method, end)
            .with_idempotent(self.idempotent())
            .with_attempts(attempt - u32::from(self.resent))
            .with_resent(self.resent)
            .with_headers(headers);
        let verdict = decide(self.config(), &attempted);
        let pushback = headers.and_then(pushback::grpc);
        let listed =
            !matches!(verdict, Verdict::Transparent | Verdict::Stop { why: Stop::NotListed });
        if (listed || pushback == Some(Pushback::Stop))
            && let Some((throttling, config)) = self.throttling()
        {
            throttling.failed(config);
        }
        match pushback {
            Some(Pushback::Stop) => (none, pushback),
            _ => (verdict, pushback),
        }
    }

    /// Sends again at once what the application cannot have seen.
    fn resend<R>(&mut self, answer: &Result<Response<R>, Error>) -> Next {
        let now = clock::now();
        if !self.is_possible(now, Duration::ZERO) {
            return Next::Stop(None);
        }
        self.next = self.body.again();
        self.resent = true;
        self.avoid(answer);
        if self.next.is_some() { Next::Attempt(Duration::ZERO) } else { Next::Stop(None) }
    }

    fn retry<R>(
        &mut self,
        answer: &Result<Response<R>, Error>,
        pushback: Option<Pushback>,
    ) -> Next {
        let asked = match (pushback, answer) {
            (Some(Pushback::Wait(delay)), _) => Some(delay),
            (_, Ok(response)) => pushback::retry_after(response.headers(), clock::wall()),
            (_, Err(_)) => None,
        };
        let delay = match asked {
            Some(delay) => {
                self.backoffs = 0;
                delay
            }
            None if answer.as_ref().is_err_and(Error::is_retryable) => Duration::ZERO,
            None => {
                self.backoffs = self.backoffs.saturating_add(1);
                self.config().backoff.delay(self.backoffs, &mut || fastrand::u64(..))
            }
        };
        let now = clock::now();
        if !self.is_possible(now, delay) {
            return Next::Stop(None);
        }
        match self.admit(now) {
            Ok(permit) => self.permit = permit,
            Err(what) => return Next::Stop(Some(what)),
        }
        // Now the earlier attempt loses the body; had the budget refused, it would still need it.
        self.next = self.body.again();
        if self.next.is_none() {
            return Next::Stop(None);
        }
        if let Some(metrics) = self.metrics() {
            metrics.retried();
        }
        self.avoid(answer);
        Next::Attempt(delay)
    }

    /// Whether there is time and a body for an attempt that begins after `delay`.
    fn is_possible(&self, now: Timestamp, delay: Duration) -> bool {
        self.head.expiry.is_none_or(|Expiry(expiry)| now + delay < expiry)
            && self.body.is_repeatable()
    }

    /// Takes what one more attempt costs the destination; says what is used up.
    fn admit(&self, now: Timestamp) -> Result<Option<Permit>, ErrorKind> {
        let refused = || {
            if let Some(metrics) = self.metrics() {
                metrics.budget_exhausted();
            }
            ErrorKind::RetryBudget
        };
        if self.throttling().is_some_and(|(throttling, config)| !throttling.allows(config)) {
            return Err(refused());
        }
        let mut permit = None;
        if let Some(limits) = self.pinned().and_then(Call::limits) {
            permit = Some(limits.acquire(Kind::Retry).map_err(|_| ErrorKind::Overflow)?);
            let calls =
                || limits.active(Kind::Request).saturating_add(limits.active(Kind::Pending));
            if self.budget_config().is_crowded(limits.active(Kind::Retry), calls) {
                return Err(refused());
            }
        }
        let budget = self.pinned().and_then(Call::budget).unwrap_or(&self.own.budget);
        if budget.withdraw(now) { Ok(permit) } else { Err(refused()) }
    }

    /// How the attempt ended; `None` if well, or its response is under way.
    fn end<'a, R>(&self, answer: &'a Result<Response<R>, Error>) -> Option<End<'a>> {
        let response = match answer {
            Ok(response) => response,
            Err(error) => return Some(End::Error(error)),
        };
        // The usual case, decided without a look at conditions: none of the others names a 2xx.
        let by_field = !self.config().retriable_headers.is_empty();
        let status = response.status();
        if !self.head.grpc {
            return (by_field || !status.is_success()).then_some(End::Status(status));
        }
        match GrpcCode::from_headers(response.headers()) {
            Some(code) => Some(End::Grpc(code)),
            None if status == StatusCode::OK => by_field.then_some(End::Status(status)),
            None => Some(End::Grpc(GrpcCode::from_http(status))),
        }
    }

    /// Notes the endpoint that just failed.
    fn avoid<R>(&mut self, answer: &Result<Response<R>, Error>) {
        let tried = match answer {
            Ok(response) => response.extensions().get().map(|Tried(endpoint)| endpoint.clone()),
            Err(error) => error.endpoint().map(EndpointId::from),
        };
        if let (Some(call), Some(tried)) = (&mut self.head.call, tried) {
            Arc::make_mut(call).tried.push(tried);
        }
    }
}
