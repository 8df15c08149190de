//! Ticket: the guard of one attempt in flight.
//!
//! It counts the attempt at its endpoint from the pick to the end of the response body, and hands
//! what was seen to the endpoint's load, its breaker and the destination's outlier detector:
//!
//! | moment | what is recorded |
//! |---|---|
//! | response head | latency; for HTTP the outcome, by status |
//! | trailers | for gRPC the outcome, by `grpc-status` |
//! | either | what the endpoint reports of its load, if it was asked |
//! | error before the end | the failure |
//! | dropped without a head, its time over | a timeout |
//! | dropped without a head, another attempt was quicker | the time it had as latency |
//! | dropped before the end otherwise | only that it ended: the caller went away |
//!
//! Where the destination's health is checked, a head may also say that the endpoint takes itself out
//! (`x-envoy-immediate-health-check-fail`).
//!
//! The ticket of a connection that is upgraded to another protocol lasts as long as the connection.
//!
//! A failure never enters the load as its latency, so that an endpoint that fails fast does not look
//! fast: it counts in the share of errors, or for peak EWMA as a penalty (5 s, or what the server asked
//! for). The formulas are in [`mesh_core::load`]. Source: linkerd2-proxy's load biaser.

use crate::call::Call;
use crate::clock;
use crate::destination::{Destination, Endpoint};
use crate::health_check::IMMEDIATE_FAIL;
use crate::report;
use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use mesh_core::health::breaker::Admission;
use mesh_core::health::outlier::Probe;
use mesh_core::limit::Permit;
use mesh_core::retry::pushback;
use mesh_core::{Error, Failure, GrpcCode, Outcome, Timestamp};
use pin_project_lite::pin_project;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// Guard of one attempt in flight.
pub(crate) struct Ticket {
    destination: Arc<Destination>,
    call: Arc<Call>,
    endpoint: Arc<Endpoint>,
    started: Timestamp,
    admission: Option<Admission>,
    /// It decides about the endpoint's probation.
    probe: Option<Probe>,
    /// Its place under the endpoint's limit, if it has one.
    permit: Option<Permit>,
    /// The endpoint was asked for a load report.
    reports: bool,
    /// It has come to an end, or at least to the head of the response.
    ended: bool,
    /// The outcome is recorded; only the end is still to come.
    decided: bool,
}

impl Ticket {
    pub(crate) fn new(
        destination: Arc<Destination>,
        call: Arc<Call>,
        endpoint: Arc<Endpoint>,
        started: Timestamp,
        admission: Option<Admission>,
    ) -> Self {
        endpoint.load().begin();
        Self {
            destination,
            call,
            endpoint,
            started,
            admission,
            probe: None,
            permit: None,
            reports: false,
            ended: false,
            decided: false,
        }
    }

    /// With its place under the endpoint's limit.
    pub(crate) fn with_permit(mut self, permit: Option<Permit>) -> Self {
        self.permit = permit;
        self
    }

    /// It decides about the endpoint's probation, if there is a probe.
    pub(crate) const fn with_probe(mut self, probe: Option<Probe>) -> Self {
        self.probe = probe;
        self
    }

    /// The endpoint was asked for a load report.
    pub(crate) const fn with_reports(mut self, reports: bool) -> Self {
        self.reports = reports;
        self
    }

    /// Whom the attempt is for.
    pub(crate) const fn destination(&self) -> &Arc<Destination> {
        &self.destination
    }

    /// What was decided about it.
    pub(crate) fn call(&self) -> &Call {
        &self.call
    }

    /// Where it is made.
    pub(crate) const fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// When it began.
    pub(crate) const fn started(&self) -> Timestamp {
        self.started
    }

    /// Notes how the attempt ended, if its caller asks.
    pub(crate) fn note(&self, outcome: impl FnOnce() -> String) {
        if let Some(noting) = &self.call.noting {
            noting.ended(outcome(), clock::now().since(self.started));
        }
    }

    /// Takes what the endpoint reports out of a head or trailers.
    fn report(&self, now: Timestamp, headers: &mut HeaderMap) {
        if self.reports
            && let Some(report) = report::take(headers)
        {
            self.endpoint.load().reported(now, &report);
        }
    }

    /// The response head is here: one clock read, and for HTTP the whole verdict.
    pub(crate) fn head<B>(&mut self, response: &mut Response<B>) -> Outcome {
        self.ended = true;
        let now = clock::now();
        self.report(now, response.headers_mut());
        if self.call.policy.health_check.is_some()
            && response.headers().contains_key(IMMEDIATE_FAIL)
        {
            self.destination.failed_itself(&self.endpoint);
        }
        let outcome = if self.call.grpc {
            match GrpcCode::of_head(response.status(), response.headers()) {
                Some(code) => Outcome::of_grpc(code),
                None => {
                    self.observe(now);
                    return Outcome::Success;
                }
            }
        } else {
            Outcome::of_http(response.status())
        };
        if outcome.is_failure() {
            self.fail(now, outcome, Some(response.headers()));
        } else {
            self.observe(now);
            self.decide(now, outcome);
        }
        outcome
    }

    /// The attempt ended in a way that says nothing of the endpoint.
    pub(crate) const fn over(&mut self) {
        self.ended = true;
    }

    /// The attempt ended without a response.
    pub(crate) fn error(&mut self, error: &Error) {
        self.over();
        if let Some(failure) = error.failure() {
            self.fail(clock::now(), Outcome::Failure(failure), None);
        }
    }

    fn trailers(&mut self, trailers: Option<&HeaderMap>) {
        if self.decided || !self.call.grpc {
            return;
        }
        let code = trailers.and_then(GrpcCode::from_headers).unwrap_or(GrpcCode::UNKNOWN);
        let now = clock::now();
        match Outcome::of_grpc(code) {
            Outcome::Success => self.decide(now, Outcome::Success),
            failure => self.fail(now, failure, trailers),
        }
    }

    /// Dropped before there was an answer: for lack of time, or because nobody wants it any more.
    #[cold]
    fn abandoned(&mut self) {
        let now = clock::now();
        if self.call.is_late(now) {
            // Fails only if it is known already.
            let _ = self.call.at.set(self.endpoint.id().clone());
            self.note(|| "given up: no response in time".to_owned());
            self.fail(now, Outcome::Failure(Failure::Timeout), None);
        } else if self.call.hedged {
            self.note(|| "given up: another attempt was quicker".to_owned());
            // Another attempt was quicker: it has taken at least this long.
            self.observe(now);
        }
    }

    fn observe(&self, now: Timestamp) {
        let policy = &self.call.policy;
        let took = now.since(self.started);
        policy.pick.succeeded(self.endpoint.load(), now, took);
        if policy.outlier.enforcing_latency > 0 {
            self.destination.observe_latency(&self.endpoint, took);
        }
    }

    fn fail(&mut self, now: Timestamp, outcome: Outcome, headers: Option<&HeaderMap>) {
        let delay = headers.and_then(|headers| pushback::server_delay(headers, clock::wall()));
        self.call.policy.pick.failed(self.endpoint.load(), now, delay);
        self.decide(now, outcome);
    }

    fn decide(&mut self, now: Timestamp, outcome: Outcome) {
        self.decided = true;
        self.tell_breaker(now, outcome);
        if let Some(probe) = self.probe.take()
            && self.destination.probed(&self.endpoint, probe, outcome, now)
        {
            return;
        }
        self.destination.record(&self.endpoint, outcome, now);
    }

    fn tell_breaker(&mut self, now: Timestamp, outcome: Outcome) {
        if let (Some(config), Some(admission)) = (&self.call.policy.breaker, self.admission.take())
        {
            self.destination.breaker_record(&self.endpoint, admission, outcome, now, config);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.permit = None;
        if !self.ended && !self.decided {
            self.abandoned();
        }
        self.endpoint.load().end();
        if self.admission.is_some() {
            self.tell_breaker(clock::now(), Outcome::Cancelled);
        }
        if let Some(probe) = self.probe.take() {
            self.destination.probed(&self.endpoint, probe, Outcome::Cancelled, clock::now());
        }
    }
}

pin_project! {
    /// A response body that keeps the attempt's ticket to its end.
    pub struct Counted<B> {
        #[pin]
        inner: B,
        ticket: Option<Ticket>,
    }
}

impl<B> Counted<B> {
    pub(crate) const fn new(inner: B, ticket: Ticket) -> Self {
        Self { inner, ticket: Some(ticket) }
    }

    /// The body of a response whose ticket something else keeps.
    pub(crate) const fn over(inner: B) -> Self {
        Self { inner, ticket: None }
    }
}

/// The body of an answer that no endpoint made.
impl<B: From<Bytes>> From<Bytes> for Counted<B> {
    fn from(bytes: Bytes) -> Self {
        Self::over(B::from(bytes))
    }
}

impl<B> HttpBody for Counted<B>
where
    B: HttpBody<Error = Error>,
{
    type Data = B::Data;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, Error>>> {
        let mut this = self.project();
        let mut frame = ready!(this.inner.as_mut().poll_frame(cx));
        match &mut frame {
            Some(Ok(frame)) if frame.is_data() && !this.inner.is_end_stream() => {}
            Some(Ok(frame)) => {
                if let Some(mut ticket) = this.ticket.take() {
                    if let Some(trailers) = frame.trailers_mut() {
                        ticket.report(clock::now(), trailers);
                    }
                    ticket.trailers(frame.trailers_ref());
                }
            }
            Some(Err(error)) => {
                if let Some(mut ticket) = this.ticket.take() {
                    ticket.error(error);
                }
            }
            None => {
                if let Some(mut ticket) = this.ticket.take() {
                    ticket.trailers(None);
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B> fmt::Debug for Counted<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counted").field("in_flight", &self.ticket.is_some()).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "ticket_tests.rs"]
mod tests;
