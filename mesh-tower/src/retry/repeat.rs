//! Whether a further attempt follows, and what it needs.

use super::request::{Head, Source};
use super::{Config, Own};
use crate::body::Body;
use crate::call::{Call, Tried};
use crate::call_options::CallOptions;
use crate::clock;
use crate::deadline::Expiry;
use crate::draws::Decision;
use crate::explain::Noting;
use crate::telemetry::DestinationMetrics;
use http::Response;
use mesh_core::hedge::Latencies;
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
    /// What the attempt that was decided on needs.
    pub(super) next: Option<Further>,
    /// Counts a retry under way.
    pub(super) permit: Option<Permit>,
    pub(super) own: Arc<Own>,
    /// The settings of a call without a pinned one, where its caller asks for others.
    pub(super) changed: Option<Arc<Config>>,
    /// Whether the call was sent again transparently: such an attempt is not counted.
    pub(super) resent: bool,
    /// Where the attempt that has ended is noted, if that is not the one that began last.
    pub(super) judged: Option<Noting>,
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

/// What an attempt's end means.
pub(super) enum Seen {
    /// It is the call's: well, or nothing that another attempt may mend.
    Answer,
    /// The server asks not to be called again.
    Forbidden,
    /// The endpoint left the request out.
    Unprocessed,
    /// A failure on a condition of the policy.
    Failure {
        /// All attempts of a sequence are made.
        exhausted: bool,
        /// How long the server asks to be left alone.
        pushback: Option<Duration>,
    },
}

/// What a further attempt needs and holds.
#[derive(Debug)]
pub(super) struct Further {
    pub(super) body: Body,
    pub(super) permit: Option<Permit>,
    /// Whether it is one of those that settings bound.
    pub(super) counts: bool,
}

/// Why there can be no further attempt.
pub(super) enum Refused {
    /// Something is used up.
    Exhausted(ErrorKind),
    /// There is no time, or no body.
    Impossible,
}

impl<S> Repeat<S> {
    pub(super) fn pinned(&self) -> Option<&Call> {
        self.head.call.as_deref()
    }

    /// Where the attempt that has ended is noted, if the caller asks.
    fn noting(&self) -> Option<&Noting> {
        self.judged.as_ref().or_else(|| self.pinned()?.noting.as_ref())
    }

    fn refused(&self, why: &str) {
        if let Some(noting) = self.noting() {
            noting.refused(why);
        }
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

    /// Whether it is declared that a repeated call does no harm.
    fn idempotent(&self) -> Option<bool> {
        match self.pinned() {
            Some(call) => call.idempotent(self.head.uri.path()),
            None => self.head.extensions.get::<CallOptions>()?.idempotent,
        }
    }

    pub(super) fn metrics(&self) -> Option<&DestinationMetrics> {
        self.pinned().and_then(Call::metrics).or(self.own.metrics.as_ref()).map(Arc::as_ref)
    }

    /// The endpoint that let the attempt run out of time.
    pub(super) fn hung(&self) -> Option<&EndpointId> {
        self.pinned().and_then(|call| call.at.get())
    }

    /// How long first attempts of the destination take.
    pub(super) fn latencies(&self) -> &Latencies {
        let shared = self.pinned().and_then(|call| call.shared.as_deref());
        let latencies = shared.map_or(&self.own.latencies, |shared| &shared.latencies);
        latencies.get_or_init(Box::default)
    }

    /// What follows attempt number `attempt`. If that is another, everything is set for it.
    pub(super) fn next<R>(&mut self, answer: &Result<Response<R>, Error>, attempt: u32) -> Next {
        self.permit = None;
        let further = match self.judge(answer, attempt) {
            Seen::Answer | Seen::Forbidden => return Next::Stop(None),
            Seen::Unprocessed => self.resend(false).map(|further| (further, Duration::ZERO)),
            Seen::Failure { exhausted: true, .. } => {
                return Next::Stop(Some(ErrorKind::RetryLimit));
            }
            Seen::Failure { pushback, .. } => {
                let delay = self.delay(answer, pushback);
                self.further(delay).map(|further| (further, delay))
            }
        };
        match further {
            Ok((further, delay)) => {
                if let Some(noting) = self.noting() {
                    noting.wait(delay);
                }
                self.next = Some(further);
                self.avoid(answer);
                Next::Attempt(delay)
            }
            Err(Refused::Exhausted(what)) => Next::Stop(Some(what)),
            Err(Refused::Impossible) => Next::Stop(None),
        }
    }

    /// What the end of attempt number `attempt` means. Tells it to retry throttling.
    pub(super) fn judge<R>(&self, answer: &Result<Response<R>, Error>, attempt: u32) -> Seen {
        let Some(end) = self.end(answer) else {
            self.succeeded();
            return Seen::Answer;
        };
        let headers = answer.as_ref().ok().map(Response::headers);
        let attempted = Attempted::new(&self.head.method, end)
            .with_idempotent(self.idempotent())
            .with_attempts(attempt - u32::from(self.resent && attempt > 1))
            .with_resent(self.resent)
            .with_headers(headers);
        let verdict = decide(self.config(), &attempted);
        let pushback = headers.and_then(pushback::grpc);
        if let Some(noting) = self.noting() {
            noting.judged(verdict, pushback);
        }
        let named =
            !matches!(verdict, Verdict::Transparent | Verdict::Stop { why: Stop::NotListed });
        if !named && end.is_success() && pushback != Some(Pushback::Stop) {
            self.succeeded();
        }
        if (named || pushback == Some(Pushback::Stop))
            && let Some((throttling, config)) = self.throttling()
        {
            throttling.failed(config);
        }
        let exhausted = match (verdict, pushback) {
            (_, Some(Pushback::Stop)) => return Seen::Forbidden,
            (Verdict::Transparent, _) => return Seen::Unprocessed,
            (Verdict::Retry { .. }, _) => false,
            (Verdict::Stop { why: Stop::Exhausted }, _) => true,
            (Verdict::Stop { .. }, _) => return Seen::Answer,
        };
        let pushback = match pushback {
            Some(Pushback::Wait(delay)) => Some(delay),
            _ => None,
        };
        Seen::Failure { exhausted, pushback }
    }

    /// Tells retry throttling of a call that went well.
    fn succeeded(&self) {
        if let Some((throttling, config)) = self.throttling() {
            throttling.succeeded(config);
        }
    }

    /// What the server asked for, else the back-off; none for what cannot have reached the
    /// application.
    fn delay<R>(
        &mut self,
        answer: &Result<Response<R>, Error>,
        pushback: Option<Duration>,
    ) -> Duration {
        let asked = pushback.or_else(|| match answer {
            Ok(response) => pushback::retry_after(response.headers(), clock::wall()),
            Err(_) => None,
        });
        match asked {
            Some(delay) => {
                self.backoffs = 0;
                delay
            }
            None if answer.as_ref().is_err_and(Error::is_retryable) => Duration::ZERO,
            None => {
                self.backoffs = self.backoffs.saturating_add(1);
                let draws = self.pinned().map(|call| call.draws).unwrap_or_default();
                let draw = &mut draws.of(Decision::Backoff(self.backoffs));
                self.config().backoff.delay(self.backoffs, draw)
            }
        }
    }

    /// Sends again at once what the application cannot have seen: it counts nowhere. `beside` others
    /// it takes the body from none of them.
    pub(super) fn resend(&mut self, beside: bool) -> Result<Further, Refused> {
        if !self.is_possible(clock::now(), Duration::ZERO) {
            return Err(Refused::Impossible);
        }
        let body = if beside { self.body.copy() } else { self.body.again() };
        let body = body.ok_or(Refused::Impossible)?;
        self.resent = true;
        Ok(Further { body, permit: None, counts: false })
    }

    /// An attempt that begins after `delay`, in place of those before it.
    pub(super) fn further(&self, delay: Duration) -> Result<Further, Refused> {
        let now = clock::now();
        if !self.is_possible(now, delay) {
            return Err(Refused::Impossible);
        }
        let permit = self.admit(now).map_err(Refused::Exhausted)?;
        // Now the earlier attempt loses the body; had the budget refused, it would still need it.
        let body = self.body.again().ok_or(Refused::Impossible)?;
        Ok(self.counted(body, permit))
    }

    /// An attempt that begins now, beside others; `None` while the request is not whole. An error
    /// says what is used up.
    pub(super) fn beside(&self) -> Result<Option<Further>, ErrorKind> {
        let Some(body) = self.body.copy() else { return Ok(None) };
        let permit = self.admit(clock::now())?;
        Ok(Some(self.counted(body, permit)))
    }

    fn counted(&self, body: Body, permit: Option<Permit>) -> Further {
        if let Some(metrics) = self.metrics() {
            metrics.retried();
        }
        Further { body, permit, counts: true }
    }

    /// Whether there is time and a body for an attempt that begins after `delay`.
    fn is_possible(&self, now: Timestamp, delay: Duration) -> bool {
        let why = if self.head.expiry.is_some_and(|Expiry(expiry)| now + delay >= expiry) {
            "the deadline of the call comes first"
        } else if !self.body.is_repeatable() {
            "the body is longer than `retry.bodyLimit`"
        } else {
            return true;
        };
        self.refused(why);
        false
    }

    /// Takes what one more attempt costs the destination; says what is used up.
    fn admit(&self, now: Timestamp) -> Result<Option<Permit>, ErrorKind> {
        let refused = |why| {
            self.refused(why);
            if let Some(metrics) = self.metrics() {
                metrics.budget_exhausted();
            }
            ErrorKind::RetryBudget
        };
        if self.throttling().is_some_and(|(throttling, config)| !throttling.allows(config)) {
            return Err(refused("`retryThrottling` has too few tokens left"));
        }
        let mut permit = None;
        if let Some(limits) = self.pinned().and_then(Call::limits) {
            let acquired = limits.acquire(Kind::Retry).map_err(|overflow| {
                self.refused(&overflow.to_string());
                ErrorKind::Overflow
            });
            permit = Some(acquired?);
            let calls =
                || limits.active(Kind::Request).saturating_add(limits.active(Kind::Pending));
            if self.budget_config().is_crowded(limits.active(Kind::Retry), calls) {
                return Err(refused("`budget.activePercent` allows no more retries at once"));
            }
        }
        let budget = self.pinned().and_then(Call::budget).unwrap_or(&self.own.budget);
        if budget.withdraw(now) { Ok(permit) } else { Err(refused("the retry budget is spent")) }
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
        match GrpcCode::of_head(status, response.headers()) {
            Some(code) => Some(End::Grpc(code)),
            None => by_field.then_some(End::Status(status)),
        }
    }

    /// Notes the endpoint that just failed.
    fn avoid<R>(&mut self, answer: &Result<Response<R>, Error>) {
        let tried = match answer {
            Ok(response) => response.extensions().get().map(|Tried(endpoint)| endpoint.clone()),
            Err(error) => error.endpoint().map(EndpointId::from),
        };
        if let Some(tried) = tried {
            self.tried(tried);
        }
    }

    /// Notes an endpoint that further attempts are to avoid.
    pub(super) fn tried(&mut self, endpoint: EndpointId) {
        if let Some(call) = &mut self.head.call
            && !call.tried.contains(&endpoint)
        {
            Arc::make_mut(call).tried.push(endpoint);
        }
    }
}
