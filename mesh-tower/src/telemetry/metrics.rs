//! Metrics: what is counted, and where.
//!
//! A [`Metrics`] handle is one registry; a mesh has one. Each destination resolves its
//! [`DestinationMetrics`] once and adds to plain atomics from then on: relaxed additions, no
//! lock, no hashing, no text. Names and labels are written when a page is scraped.
//!
//! | instrument | labels | counted |
//! |---|---|---|
//! | `http.client.request.duration` (s) | `server.address`, `http.request.method`, `http.response.status_code`, `error.type` | each attempt, to the end of its response body |
//! | `rpc.client.call.duration` (s) | `server.address`, `rpc.system.name`, `rpc.response.status_code` | each gRPC call with all its attempts |
//! | `http.server.request.duration` (s) | `http.request.method`, `http.response.status_code`, `error.type` | each request served, refused ones included |
//! | `rpc.server.call.duration` (s) | `rpc.system.name`, `rpc.response.status_code` | each gRPC call served |
//! | `mesh.tls.handshakes` | `result` = success, client_certificate, timeout, failure | TLS handshakes of callers |
//! | `mesh.calls` | `mesh.destination`, `mesh.outcome` = success, failure, cancelled | each call with all its attempts |
//! | `mesh.retry.attempts` | `mesh.destination` | attempts after the first |
//! | `mesh.retry.hedges` | `mesh.destination` | of these, those sent beside an attempt under way |
//! | `mesh.retry.budget.exhausted` | `mesh.destination` | retries the budget refused |
//! | `mesh.retry.budget.remaining` | `mesh.destination` | retries the budget would allow now |
//! | `mesh.lb.picks` | `mesh.destination` | endpoints picked |
//! | `mesh.lb.endpoints` | `mesh.destination`, `state` | endpoints by state, now |
//! | `mesh.lb.ejections` | `mesh.destination` | endpoints ejected by outlier detection |
//! | `mesh.health_check.results` | `mesh.destination`, `result` = success, or why it failed: status, grpc_status, not_serving, immediate_fail, connect, timeout, reset, garbage, too_long | active health checks |
//! | `mesh.probes` | `mesh.destination`, `result` = answered, unanswered, refused | endpoints asked for a load report before a pick; no calls |
//! | `mesh.breaker.transitions` | `mesh.destination`, `state` = closed, open, half_open | breakers that came into the state |
//! | `mesh.fault.delays`, `mesh.fault.aborts` | `mesh.destination` | calls delayed, and calls failed, on purpose |
//! | `mesh.mirror.copies`, `mesh.mirror.dropped` | `mesh.destination` | copies of requests sent there, and copies given up before |
//! | `mesh.ratelimit.denied` | `mesh.destination`, `mesh.enforced` | calls over a rate limit; those not enforced passed |
//! | `mesh.server.ratelimit.denied` | `mesh.enforced` | requests over a rate limit; the same |
//! | `mesh.ratelimit.global` | `mesh.destination`, `mesh.result` | calls that the rate limit service was asked about, by what came of it; `failure_mode_allowed` are errors that let the call pass |
//! | `mesh.server.ratelimit.global` | `mesh.result` | requests; the same |
//! | `mesh.shed` | `mesh.destination`, `mesh.flag` | calls refused before they were sent |
//! | `mesh.metrics.overflow` | `mesh.destination` | requests counted as `_OTHER` because their family is full |
//!
//! Labels are bounded: destinations are capped at [`MAX_DESTINATIONS`], the rest share one called
//! `_OTHER`; statuses are capped per destination (see [`histogram`](super::histogram)). The name of
//! a destination is that of the configuration, or, where a call names a host that nobody
//! configured, the authority as the caller wrote it; such a name and its counters are forgotten
//! when the destination is, some minutes after its last call.
//!
//! Source: OpenTelemetry semantic conventions for HTTP and RPC metrics.

use super::histogram::{Codes, End, Grid, MethodLabel};
use super::probes::{ByResult, Probed};
use mesh_core::health::check::Cause;
use mesh_core::{ErrorKind, GrpcCode, Outcome, Timestamp};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Destinations that get labels of their own.
pub const MAX_DESTINATIONS: usize = 1_000;

const OTHER: &str = "_OTHER";

/// A registry of metrics; clones share it.
///
/// ```
/// use mesh_core::Outcome;
/// use mesh_tower::telemetry::Metrics;
///
/// let metrics = Metrics::new();
/// let inventory = metrics.destination("inventory");
/// inventory.call_ended(Outcome::Success);
/// assert_eq!(metrics.destination("inventory").counts().succeeded, 1);
/// ```
#[derive(Clone, Default)]
pub struct Metrics(Arc<Registry>);

#[derive(Default)]
struct Registry {
    destinations: Mutex<BTreeMap<Arc<str>, Arc<DestinationMetrics>>>,
    server: Arc<ServerMetrics>,
}

impl Metrics {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The metrics of a destination: the same for the same name.
    ///
    /// Takes a lock; call it once per destination, not once per call.
    #[must_use]
    pub fn destination(&self, name: &str) -> Arc<DestinationMetrics> {
        let mut destinations = self.0.destinations.lock();
        if let Some(known) = destinations.get(name) {
            return known.clone();
        }
        let name = if destinations.len() < MAX_DESTINATIONS { name } else { OTHER };
        let name: Arc<str> = name.into();
        destinations
            .entry(name.clone())
            .or_insert_with(|| Arc::new(DestinationMetrics::new(name)))
            .clone()
    }

    /// Forgets a destination, unless somebody still counts for it.
    pub(crate) fn forget(&self, name: &str) {
        let mut destinations = self.0.destinations.lock();
        if destinations.get(name).is_some_and(|known| Arc::strong_count(known) == 1) {
            destinations.remove(name);
        }
    }

    /// The metrics that destinations without a name of their own share: for names that come from
    /// calls instead of configuration.
    #[must_use]
    pub fn other(&self) -> Arc<DestinationMetrics> {
        self.destination(OTHER)
    }

    /// The metrics of what this process serves.
    #[must_use]
    pub fn server(&self) -> &Arc<ServerMetrics> {
        &self.0.server
    }

    /// All destinations, by name.
    #[must_use]
    pub fn destinations(&self) -> Vec<Arc<DestinationMetrics>> {
        self.0.destinations.lock().values().cloned().collect()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.destinations.lock().keys()).finish()
    }
}

/// State that is looked at when a page is scraped, not counted as it changes.
pub trait Observe: Send + Sync {
    /// The state now.
    fn observe(&self, now: Timestamp) -> Observed;
}

/// What [`Observe`] sees.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Observed {
    /// Endpoints by state: `ready`, `unreachable`, `ejected`, `unhealthy`, `draining`, ...
    pub endpoints: Vec<(&'static str, u64)>,
    /// Retries that the budget would allow now.
    pub budget_remaining: Option<u64>,
}

/// How a call ended, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// With an answer that is no failure.
    Success,
    /// With a failure of the endpoint or of the mesh.
    Failure,
    /// The caller went away first.
    Cancelled,
}

impl From<Outcome> for Ended {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Success => Self::Success,
            Outcome::Cancelled => Self::Cancelled,
            _ => Self::Failure,
        }
    }
}

/// State of a breaker, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BreakerState {
    /// Calls flow.
    Closed,
    /// Calls are refused.
    Open,
    /// One call is let through to see.
    HalfOpen,
}

impl BreakerState {
    const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// The counters of one destination.
pub struct DestinationMetrics {
    name: Arc<str>,
    pub(super) http: Grid,
    pub(super) rpc: Codes,
    succeeded: AtomicU64,
    failed: AtomicU64,
    cancelled: AtomicU64,
    retries: AtomicU64,
    hedges: AtomicU64,
    budget_exhausted: AtomicU64,
    picks: AtomicU64,
    ejections: AtomicU64,
    checks_passed: AtomicU64,
    checks_failed: [AtomicU64; Cause::WORDS.len()],
    delays: AtomicU64,
    aborts: AtomicU64,
    mirrored: AtomicU64,
    mirrors_dropped: AtomicU64,
    breaker: [AtomicU64; BreakerState::ALL.len()],
    probes: ByResult,
    shed: ByKind,
    rate_limited: RateLimited,
    global_limited: GlobalLimited,
    observe: Mutex<Option<Weak<dyn Observe>>>,
}

/// The plain counters of one destination, read at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Calls that ended well.
    pub succeeded: u64,
    /// Calls that failed, retries included.
    pub failed: u64,
    /// Calls that their caller gave up.
    pub cancelled: u64,
    /// Attempts after the first.
    pub retries: u64,
    /// Of these, those sent beside an attempt under way.
    pub hedges: u64,
    /// Retries that the budget refused.
    pub budget_exhausted: u64,
    /// Endpoints picked: attempts that got as far as an endpoint.
    pub picks: u64,
    /// Endpoints that outlier detection took out.
    pub ejections: u64,
    /// Calls delayed on purpose.
    pub delays_injected: u64,
    /// Calls failed on purpose.
    pub aborts_injected: u64,
    /// Copies of other destinations' requests that were sent here.
    pub mirrored: u64,
    /// Copies that were not sent.
    pub mirrors_dropped: u64,
}

impl DestinationMetrics {
    fn new(name: Arc<str>) -> Self {
        Self {
            name,
            http: Grid::default(),
            rpc: Codes::default(),
            succeeded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            hedges: AtomicU64::new(0),
            budget_exhausted: AtomicU64::new(0),
            picks: AtomicU64::new(0),
            ejections: AtomicU64::new(0),
            checks_passed: AtomicU64::new(0),
            checks_failed: Default::default(),
            delays: AtomicU64::new(0),
            aborts: AtomicU64::new(0),
            mirrored: AtomicU64::new(0),
            mirrors_dropped: AtomicU64::new(0),
            breaker: Default::default(),
            probes: ByResult::default(),
            shed: ByKind::default(),
            rate_limited: RateLimited::default(),
            global_limited: GlobalLimited::default(),
            observe: Mutex::new(None),
        }
    }

    /// The destination's name, as labels carry it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// One attempt ended.
    pub fn attempt_ended(&self, method: impl Into<MethodLabel>, end: End, took: Duration) {
        self.http.record(method, end, took);
    }

    /// One gRPC call ended, with all its attempts.
    pub fn rpc_ended(&self, code: GrpcCode, took: Duration) {
        self.rpc.record(code, took);
    }

    /// One call ended, with all its attempts.
    pub fn call_ended(&self, ended: impl Into<Ended>) {
        match ended.into() {
            Ended::Success => &self.succeeded,
            Ended::Failure => &self.failed,
            Ended::Cancelled => &self.cancelled,
        }
        .fetch_add(1, Relaxed);
    }

    /// A further attempt is made.
    pub fn retried(&self) {
        self.retries.fetch_add(1, Relaxed);
    }

    /// A further attempt is made beside one under way.
    pub fn hedged(&self) {
        self.hedges.fetch_add(1, Relaxed);
    }

    /// The budget refused a further attempt.
    pub fn budget_exhausted(&self) {
        self.budget_exhausted.fetch_add(1, Relaxed);
    }

    /// An endpoint was picked.
    pub fn picked(&self) {
        self.picks.fetch_add(1, Relaxed);
    }

    /// Outlier detection took an endpoint out.
    pub fn ejected(&self) {
        self.ejections.fetch_add(1, Relaxed);
    }

    /// An active health check ended, or an answer took the place of one.
    pub fn checked(&self, seen: Result<(), Cause>) {
        let count = match seen {
            Ok(()) => &self.checks_passed,
            Err(cause) => {
                let known = Cause::WORDS.iter().position(|word| *word == cause.as_str());
                let Some(count) = known.and_then(|at| self.checks_failed.get(at)) else { return };
                count
            }
        };
        count.fetch_add(1, Relaxed);
    }

    /// A call is delayed on purpose.
    pub fn fault_delayed(&self) {
        self.delays.fetch_add(1, Relaxed);
    }

    /// A call fails on purpose, now or after its delay.
    pub fn fault_aborted(&self) {
        self.aborts.fetch_add(1, Relaxed);
    }

    /// A copy of another destination's request is sent here.
    pub fn mirrored(&self) {
        self.mirrored.fetch_add(1, Relaxed);
    }

    /// A copy of another destination's request is not sent.
    pub fn mirror_dropped(&self) {
        self.mirrors_dropped.fetch_add(1, Relaxed);
    }

    /// A breaker came into a state.
    pub fn breaker_changed(&self, to: BreakerState) {
        self.breaker[to as usize].fetch_add(1, Relaxed);
    }

    /// A probe of an endpoint ended.
    pub fn probed(&self, how: Probed) {
        self.probes.add(how);
    }

    /// How often endpoints were asked for a load report before a pick, by what came of it.
    #[must_use]
    pub fn probes(&self) -> [(Probed, u64); 3] {
        self.probes.each()
    }

    /// A call was refused before it was sent.
    pub fn shed(&self, kind: ErrorKind) {
        self.shed.add(kind);
    }

    /// A call was over a rate limit, which was enforced or not.
    pub fn rate_limited(&self, enforced: bool) {
        self.rate_limited.add(enforced);
    }

    /// How many calls were over a rate limit: those that passed, and those that were refused.
    #[must_use]
    pub fn rate_limits(&self) -> [(bool, u64); 2] {
        self.rate_limited.each()
    }

    /// The rate limit service was asked about a call.
    pub fn global_limited(&self, result: GlobalLimit) {
        self.global_limited.add(result);
    }

    /// How often the rate limit service was asked, by what came of it.
    pub fn global_limits(&self) -> impl Iterator<Item = (GlobalLimit, u64)> + '_ {
        self.global_limited.each()
    }

    /// Who knows the state behind the gauges. The last one asked is asked; one that is gone
    /// leaves the gauges out.
    pub fn observed_by(&self, observe: Weak<dyn Observe>) {
        *self.observe.lock() = Some(observe);
    }

    /// The gauges, if someone who knows them is there.
    #[must_use]
    pub fn observe(&self, now: Timestamp) -> Option<Observed> {
        let observe = self.observe.lock().as_ref().and_then(Weak::upgrade)?;
        Some(observe.observe(now))
    }

    /// The plain counters.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            succeeded: self.succeeded.load(Relaxed),
            failed: self.failed.load(Relaxed),
            cancelled: self.cancelled.load(Relaxed),
            retries: self.retries.load(Relaxed),
            hedges: self.hedges.load(Relaxed),
            budget_exhausted: self.budget_exhausted.load(Relaxed),
            picks: self.picks.load(Relaxed),
            ejections: self.ejections.load(Relaxed),
            delays_injected: self.delays.load(Relaxed),
            aborts_injected: self.aborts.load(Relaxed),
            mirrored: self.mirrored.load(Relaxed),
            mirrors_dropped: self.mirrors_dropped.load(Relaxed),
        }
    }

    /// How often breakers came into each state.
    pub fn breaker_transitions(&self) -> impl Iterator<Item = (BreakerState, u64)> + '_ {
        BreakerState::ALL
            .into_iter()
            .map(|state| (state, self.breaker[state as usize].load(Relaxed)))
    }

    /// How often active health checks ended, by result: `success`, or why not. What never occurred
    /// is left out.
    pub fn checks(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let passed = ("success", self.checks_passed.load(Relaxed));
        let failed = self.checks_failed.iter().map(|count| count.load(Relaxed));
        let failed = Cause::WORDS.into_iter().zip(failed);
        std::iter::once(passed).chain(failed).filter(|(_, count)| *count > 0)
    }

    /// How often calls were refused before they were sent, by kind; kinds that never occurred
    /// are left out.
    pub fn sheds(&self) -> impl Iterator<Item = (ErrorKind, u64)> + '_ {
        self.shed.each()
    }
}

impl fmt::Debug for DestinationMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DestinationMetrics")
            .field("name", &self.name)
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

/// How a caller's TLS handshake ended, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Handshake {
    /// The connection is secured.
    Success,
    /// The caller showed no certificate, or none that is trusted.
    ClientCertificate,
    /// It took too long.
    Timeout,
    /// The caller went away, refused our certificate, or spoke no TLS that we do.
    Failure,
}

impl Handshake {
    const ALL: [Self; 4] = [Self::Success, Self::ClientCertificate, Self::Timeout, Self::Failure];

    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::ClientCertificate => "client_certificate",
            Self::Timeout => "timeout",
            Self::Failure => "failure",
        }
    }
}

/// The counters of what this process serves.
#[derive(Debug, Default)]
pub struct ServerMetrics {
    pub(super) http: Grid,
    pub(super) rpc: Codes,
    shed: ByKind,
    rate_limited: RateLimited,
    global_limited: GlobalLimited,
    handshakes: [AtomicU64; Handshake::ALL.len()],
}

impl ServerMetrics {
    /// One request was served, or ended in an error.
    pub fn request_ended(&self, method: impl Into<MethodLabel>, end: End, took: Duration) {
        self.http.record(method, end, took);
    }

    /// One gRPC call was served.
    pub fn rpc_ended(&self, code: GrpcCode, took: Duration) {
        self.rpc.record(code, took);
    }

    /// A request was refused before the handler saw it.
    pub fn shed(&self, kind: ErrorKind) {
        self.shed.add(kind);
    }

    /// A request was over a rate limit, which was enforced or not.
    pub fn rate_limited(&self, enforced: bool) {
        self.rate_limited.add(enforced);
    }

    /// How many requests were over a rate limit: those that passed, and those that were refused.
    #[must_use]
    pub fn rate_limits(&self) -> [(bool, u64); 2] {
        self.rate_limited.each()
    }

    /// The rate limit service was asked about a request.
    pub fn global_limited(&self, result: GlobalLimit) {
        self.global_limited.add(result);
    }

    /// How often the rate limit service was asked, by what came of it.
    pub fn global_limits(&self) -> impl Iterator<Item = (GlobalLimit, u64)> + '_ {
        self.global_limited.each()
    }

    /// A TLS handshake ended.
    pub fn handshake_ended(&self, how: Handshake) {
        self.handshakes[how as usize].fetch_add(1, Relaxed);
    }

    /// How often TLS handshakes ended, by result.
    pub fn handshakes(&self) -> impl Iterator<Item = (Handshake, u64)> + '_ {
        Handshake::ALL.into_iter().map(|how| (how, self.handshakes[how as usize].load(Relaxed)))
    }

    /// How often requests were refused, by kind; kinds that never occurred are left out.
    pub fn sheds(&self) -> impl Iterator<Item = (ErrorKind, u64)> + '_ {
        self.shed.each()
    }
}

/// What came of asking the rate limit service, as a label. The words are Envoy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GlobalLimit {
    /// Within all limits.
    Ok,
    /// Over one.
    OverLimit,
    /// No answer, or none that can be used.
    Error,
    /// Of the errors, those that let the call pass.
    FailureModeAllowed,
}

impl GlobalLimit {
    const ALL: [Self; 4] = [Self::Ok, Self::OverLimit, Self::Error, Self::FailureModeAllowed];

    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::OverLimit => "over_limit",
            Self::Error => "error",
            Self::FailureModeAllowed => "failure_mode_allowed",
        }
    }
}

#[derive(Debug, Default)]
struct GlobalLimited([AtomicU64; GlobalLimit::ALL.len()]);

impl GlobalLimited {
    fn add(&self, result: GlobalLimit) {
        self.0[result as usize].fetch_add(1, Relaxed);
    }

    fn each(&self) -> impl Iterator<Item = (GlobalLimit, u64)> + '_ {
        GlobalLimit::ALL.into_iter().map(|result| (result, self.0[result as usize].load(Relaxed)))
    }
}

/// What was over a rate limit: not enforced, enforced.
#[derive(Debug, Default)]
struct RateLimited([AtomicU64; 2]);

impl RateLimited {
    fn add(&self, enforced: bool) {
        self.0[usize::from(enforced)].fetch_add(1, Relaxed);
    }

    fn each(&self) -> [(bool, u64); 2] {
        let [shadow, enforced] = &self.0;
        [(false, shadow.load(Relaxed)), (true, enforced.load(Relaxed))]
    }
}

/// A counter per kind of error.
#[derive(Debug)]
struct ByKind([AtomicU64; ErrorKind::ALL.len()]);

impl Default for ByKind {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; ErrorKind::ALL.len()])
    }
}

impl ByKind {
    fn add(&self, kind: ErrorKind) {
        for (known, count) in ErrorKind::ALL.iter().zip(&self.0) {
            if *known == kind {
                count.fetch_add(1, Relaxed);
            }
        }
    }

    fn each(&self) -> impl Iterator<Item = (ErrorKind, u64)> + '_ {
        let counts = self.0.iter().map(|count| count.load(Relaxed));
        ErrorKind::ALL.iter().copied().zip(counts).filter(|(_, count)| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::Failure;

    #[test]
    fn the_same_name_is_the_same_destination() {
        let metrics = Metrics::new();
        metrics.destination("a").retried();
        metrics.clone().destination("a").retried();
        assert_eq!(metrics.destination("a").counts().retries, 2);
        assert_eq!(metrics.destination("b").counts(), Counts::default());
    }

    #[test]
    fn destinations_beyond_the_cap_share_one() {
        let metrics = Metrics::new();
        for i in 0..MAX_DESTINATIONS + 10 {
            metrics.destination(&format!("host-{i}")).picked();
        }
        assert_eq!(metrics.destinations().len(), MAX_DESTINATIONS + 1);
        assert_eq!(metrics.other().counts().picks, 10);
        assert_eq!(metrics.destination("host-0").counts().picks, 1);
    }

    #[test]
    fn calls_are_counted_by_outcome() {
        let metrics = DestinationMetrics::new("a".into());
        metrics.call_ended(Outcome::Success);
        metrics.call_ended(Outcome::Failure(Failure::Connect));
        metrics.call_ended(Outcome::Cancelled);
        metrics.call_ended(Outcome::Cancelled);
        let counts = metrics.counts();
        assert_eq!((counts.succeeded, counts.failed, counts.cancelled), (1, 1, 2));
    }

    #[test]
    fn gauges_are_asked_of_whoever_is_still_there() {
        struct Two;
        impl Observe for Two {
            fn observe(&self, _: Timestamp) -> Observed {
                Observed { endpoints: vec![("ready", 2)], budget_remaining: None }
            }
        }
        let metrics = DestinationMetrics::new("a".into());
        assert!(metrics.observe(Timestamp::ZERO).is_none());
        let two: Arc<dyn Observe> = Arc::new(Two);
        metrics.observed_by(Arc::downgrade(&two));
        assert_eq!(
            metrics.observe(Timestamp::ZERO).map(|seen| seen.endpoints),
            Some(vec![("ready", 2)])
        );
        drop(two);
        assert!(metrics.observe(Timestamp::ZERO).is_none());
    }

    #[test]
    fn refusals_are_counted_by_flag() {
        let metrics = DestinationMetrics::new("a".into());
        metrics.shed(ErrorKind::Overflow);
        metrics.shed(ErrorKind::Overflow);
        assert_eq!(metrics.sheds().collect::<Vec<_>>(), [(ErrorKind::Overflow, 2)]);
    }
}
