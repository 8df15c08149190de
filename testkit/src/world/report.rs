//! What a run was like.

use mesh_core::Timestamp;
use std::fmt;
use std::time::Duration;

/// Something that must never happen, and did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Broken {
    /// When.
    pub at: Timestamp,
    /// What.
    pub what: String,
}

/// What a run was like. Counts are of the calls that began while it was measured.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// Repeats the run.
    pub seed: u64,
    /// Calls that ended.
    pub calls: u64,
    /// Of them, those that failed.
    pub failed: u64,
    /// Attempts of these calls.
    pub attempts: u64,
    /// Probes for these calls.
    pub probes: u64,
    /// Calls that began in each second, and those of them that were good.
    pub seconds: Vec<(u64, u64)>,
    /// Picks of each endpoint for these calls.
    pub picks: Vec<u64>,
    /// What must never happen, and did; empty in a run that is as it should be.
    pub broken: Vec<Broken>,
    /// Latencies of good calls that are not dear, sorted.
    latencies: Vec<Duration>,
}

impl Report {
    /// Failed calls, of 1.
    #[must_use]
    pub fn failed_share(&self) -> f64 {
        self.failed as f64 / self.calls.max(1) as f64
    }

    /// Attempts per call.
    #[must_use]
    pub fn amplification(&self) -> f64 {
        self.attempts as f64 / self.calls.max(1) as f64
    }

    /// Probes per call.
    #[must_use]
    pub fn probes_per_call(&self) -> f64 {
        self.probes as f64 / self.calls.max(1) as f64
    }

    /// The share of the calls of these seconds that were good.
    #[must_use]
    pub fn good_share(&self, seconds: std::ops::Range<usize>) -> f64 {
        let of = self.seconds.get(seconds).unwrap_or_default();
        let (all, good) = of.iter().fold((0, 0), |(all, good), one| (all + one.0, good + one.1));
        good as f64 / all.max(1) as f64
    }

    /// The first second, from the given one on, since which at least this share of the calls of
    /// each second was good; none if the last was not.
    #[must_use]
    pub fn good_since(&self, from: usize, share: f64) -> Option<usize> {
        let bad = |second: &usize| self.good_share(*second..*second + 1) < share;
        let since = (from..self.seconds.len()).rev().find(bad).map_or(from, |last| last + 1);
        (since < self.seconds.len()).then_some(since)
    }

    /// The latency below which this share of the good calls ended; zero if none was good.
    #[must_use]
    pub fn latency(&self, quantile: f64) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        let index = (last as f64 * quantile).round() as usize;
        self.latencies.get(index).copied().unwrap_or_default()
    }

    /// The picks of these endpoints, in multiples of their fair share.
    #[must_use]
    pub fn share_of(&self, endpoints: std::ops::Range<usize>) -> f64 {
        let all: u64 = self.picks.iter().sum();
        let fair = all as f64 * endpoints.len() as f64 / self.picks.len() as f64;
        let theirs: u64 = self.picks.get(endpoints).unwrap_or_default().iter().sum();
        theirs as f64 / fair
    }

    /// Fails the test if a rule of the world was broken.
    ///
    /// # Panics
    ///
    /// With the seed and the first rules that were broken.
    pub fn assert_sound(&self) {
        let first: Vec<_> = self.broken.iter().take(5).collect();
        assert!(
            first.is_empty(),
            "MESH_SEED={}: {} broken: {first:#?}",
            self.seed,
            self.broken.len()
        );
        assert!(self.calls > 0, "MESH_SEED={}: nothing happened", self.seed);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} calls, {:.3} % failed, p50 {:.0} ms, p99 {:.0} ms, amplification {:.3}",
            self.calls,
            self.failed_share() * 100.0,
            self.latency(0.5).as_secs_f64() * 1e3,
            self.latency(0.99).as_secs_f64() * 1e3,
            self.amplification(),
        )
    }
}

/// A report in the making.
pub(super) struct Tally(Report);

/// Rules broken again and again need not fill the memory.
const MOST_BROKEN: usize = 1000;

impl Tally {
    pub(super) fn new(seed: u64, endpoints: usize) -> Self {
        Self(Report {
            seed,
            calls: 0,
            failed: 0,
            attempts: 0,
            probes: 0,
            seconds: Vec::new(),
            picks: vec![0; endpoints],
            broken: Vec::new(),
            latencies: Vec::new(),
        })
    }

    pub(super) fn picked(&mut self, endpoint: usize) {
        self.0.picks[endpoint] += 1;
    }

    pub(super) fn probed(&mut self, endpoints: usize) {
        self.0.probes += endpoints as u64;
    }

    pub(super) fn finished(
        &mut self,
        second: usize,
        good: bool,
        latency: Duration,
        attempts: u32,
        dear: bool,
    ) {
        self.0.calls += 1;
        self.0.attempts += u64::from(attempts);
        if self.0.seconds.len() <= second {
            self.0.seconds.resize(second + 1, (0, 0));
        }
        let (all, good_ones) = &mut self.0.seconds[second];
        *all += 1;
        *good_ones += u64::from(good);
        if good && !dear {
            self.0.latencies.push(latency);
        } else if !good {
            self.0.failed += 1;
        }
    }

    pub(super) fn broken(&mut self, at: Timestamp, what: Option<String>) {
        if let Some(what) = what
            && self.0.broken.len() < MOST_BROKEN
        {
            self.0.broken.push(Broken { at, what });
        }
    }

    pub(super) fn report(mut self) -> Report {
        self.0.latencies.sort_unstable();
        self.0
    }
}
