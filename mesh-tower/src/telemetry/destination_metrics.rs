//! The counters of one destination.

use super::by_label::ByLabel;
use super::histogram::{Codes, End, Grid, MethodLabel};
use super::labels::{BreakerState, ByKind, Checked, Ended, GlobalLimit, Probed};
use mesh_core::health::check::Cause;
use mesh_core::{ErrorKind, GrpcCode, Timestamp};
use parking_lot::Mutex;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

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

/// The counters of one destination.
pub struct DestinationMetrics {
    name: Arc<str>,
    pub(super) http: Grid,
    pub(super) rpc: Codes,
    calls: ByLabel<Ended, 3>,
    retries: AtomicU64,
    hedges: AtomicU64,
    budget_exhausted: AtomicU64,
    picks: AtomicU64,
    ejections: AtomicU64,
    checks: ByLabel<Checked, { 1 + Cause::WORDS.len() }>,
    delays: AtomicU64,
    aborts: AtomicU64,
    mirrored: AtomicU64,
    mirrors_dropped: AtomicU64,
    breaker: ByLabel<BreakerState, 3>,
    probes: ByLabel<Probed, 3>,
    shed: ByKind,
    rate_limited: ByLabel<bool, 2>,
    global_limited: ByLabel<GlobalLimit, 4>,
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
    pub(super) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            http: Grid::default(),
            rpc: Codes::default(),
            calls: ByLabel::default(),
            retries: AtomicU64::new(0),
            hedges: AtomicU64::new(0),
            budget_exhausted: AtomicU64::new(0),
            picks: AtomicU64::new(0),
            ejections: AtomicU64::new(0),
            checks: ByLabel::default(),
            delays: AtomicU64::new(0),
            aborts: AtomicU64::new(0),
            mirrored: AtomicU64::new(0),
            mirrors_dropped: AtomicU64::new(0),
            breaker: ByLabel::default(),
            probes: ByLabel::default(),
            shed: ByLabel::default(),
            rate_limited: ByLabel::default(),
            global_limited: ByLabel::default(),
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
        self.calls.add(ended.into());
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
        self.checks.add(seen.into());
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
        self.breaker.add(to);
    }

    /// A probe of an endpoint ended.
    pub fn probed(&self, how: Probed) {
        self.probes.add(how);
    }

    /// How often endpoints were asked for a load report before a pick, by what came of it.
    pub fn probes(&self) -> impl Iterator<Item = (Probed, u64)> + '_ {
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
    pub fn rate_limits(&self) -> impl Iterator<Item = (bool, u64)> + '_ {
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
            succeeded: self.calls.of(Ended::Success),
            failed: self.calls.of(Ended::Failure),
            cancelled: self.calls.of(Ended::Cancelled),
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

    /// How calls ended.
    pub fn calls(&self) -> impl Iterator<Item = (Ended, u64)> + '_ {
        self.calls.each()
    }

    /// How often breakers came into each state.
    pub fn breaker_transitions(&self) -> impl Iterator<Item = (BreakerState, u64)> + '_ {
        self.breaker.each()
    }

    /// How often active health checks ended, by result: `success`, or why not. What never occurred
    /// is left out.
    pub fn checks(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.checks.counted().map(|(Checked(word), count)| (word, count))
    }

    /// How often calls were refused before they were sent, by kind; kinds that never occurred
    /// are left out.
    pub fn sheds(&self) -> impl Iterator<Item = (ErrorKind, u64)> + '_ {
        self.shed.counted()
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

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::{Failure, Outcome};

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
