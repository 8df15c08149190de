//! What becomes of results: thresholds, time to live, time as critical. No I/O; `now` is an argument.
//!
//! *Thresholds*: with `s` successes or `f` failures in a row (a warning is a success),
//!
//! ```text
//! s ≥ SuccessBeforePassing    → the result (passing or warning)
//! f ≥ FailuresBeforeCritical  → critical
//! f ≥ FailuresBeforeWarning   → warning; as FailuresBeforeCritical where it is not given
//! otherwise                   → as before
//! ```
//!
//! *Time to live*: critical once `now ≥ last word + TTL`, the first time counted from registration.
//!
//! *Critical for long*: `now ≥ critical since + max(DeregisterCriticalServiceAfter, 1 min)`.
//!
//! Source: Consul "Check Definition" and its API reference.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_core::Draw;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::types::CheckStatus;

/// Nothing is deregistered sooner. Source: Consul's `CheckDeregisterIntervalMin`.
const SOONEST_DEREGISTRATION: Duration = Duration::from_secs(60);

/// What a check found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckResult {
    /// How things stand.
    pub status: CheckStatus,
    /// What was seen, for people.
    pub output: String,
}

impl CheckResult {
    /// This status, with this to say.
    #[must_use]
    pub fn new(status: CheckStatus, output: impl Into<String>) -> Self {
        Self { status, output: output.into() }
    }

    /// All is well.
    #[must_use]
    pub fn passing(output: impl Into<String>) -> Self {
        Self::new(CheckStatus::Passing, output)
    }

    /// It does not serve.
    #[must_use]
    pub fn critical(output: impl Into<String>) -> Self {
        Self::new(CheckStatus::Critical, output)
    }
}

/// Rows of results that it takes to change. 0 and 1 both mean: at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Thresholds {
    passing: u32,
    warning: u32,
    critical: u32,
}

impl Thresholds {
    /// Successes before passing; failures before warning, or as before critical where 0; failures
    /// before critical.
    #[must_use]
    pub const fn new(passing: u32, warning: u32, critical: u32) -> Self {
        let warning = if warning == 0 { critical } else { warning };
        Self { passing, warning, critical }
    }
}

/// The rows of results of one check.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    thresholds: Thresholds,
    successes: u32,
    failures: u32,
    told: Option<CheckResult>,
}

impl Rows {
    /// No result yet.
    #[must_use]
    pub const fn new(thresholds: Thresholds) -> Self {
        Self { thresholds, successes: 0, failures: 0, told: None }
    }

    /// Takes in a result; says what is to be told, if that is news.
    pub fn record(&mut self, result: CheckResult) -> Option<CheckResult> {
        let status = self.status(result.status)?;
        let news = CheckResult { status, ..result };
        if self.told.as_ref() == Some(&news) {
            return None;
        }
        self.told = Some(news.clone());
        Some(news)
    }

    fn status(&mut self, seen: CheckStatus) -> Option<CheckStatus> {
        let Thresholds { passing, warning, critical } = self.thresholds;
        if seen < CheckStatus::Critical {
            (self.successes, self.failures) = (self.successes.saturating_add(1), 0);
            return (self.successes >= passing).then_some(seen);
        }
        (self.successes, self.failures) = (0, self.failures.saturating_add(1));
        match self.failures {
            failures if failures >= critical => Some(CheckStatus::Critical),
            failures if failures >= warning => Some(CheckStatus::Warning),
            _ => None,
        }
    }
}

/// When the first run is: spread over the interval, so that checks that were registered together
/// do not run together.
#[must_use]
pub fn first_run(interval: Duration, draw: &mut impl Draw) -> Duration {
    interval.mul_f64(draw.unit())
}

/// The clock of a check that waits to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ttl {
    ttl: Duration,
    /// None once it has expired, until the next word.
    expires: Option<Instant>,
}

impl Ttl {
    /// Starts at `now`.
    #[must_use]
    pub fn new(ttl: Duration, now: Instant) -> Self {
        Self { ttl, expires: now.checked_add(ttl) }
    }

    /// Goes on where it was left: `remaining` of it is to come.
    #[must_use]
    pub fn resumed(ttl: Duration, remaining: Duration, now: Instant) -> Self {
        Self { ttl, expires: now.checked_add(remaining.min(ttl)) }
    }

    /// Somebody said how things are.
    pub fn told(&mut self, now: Instant) {
        self.expires = now.checked_add(self.ttl);
    }

    /// When it will expire; none if it has.
    #[must_use]
    pub const fn expires(&self) -> Option<Instant> {
        self.expires
    }

    /// The result if it expires at `now`, which it does once. `output` is what was said last.
    pub fn expire(&mut self, now: Instant, output: &str) -> Option<CheckResult> {
        self.expires.filter(|at| *at <= now)?;
        self.expires = None;
        Some(CheckResult::critical(match output {
            "" => "TTL expired".to_owned(),
            last => format!("TTL expired (last output before timeout follows): {last}"),
        }))
    }
}

/// The last word on a check that waits to be told, as it is kept over a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct SavedTtl {
    /// How things stood.
    pub status: CheckStatus,
    /// What was said.
    pub output: String,
    /// Milliseconds of Unix time when that is worth nothing any more.
    pub expires: u64,
}

impl SavedTtl {
    /// What was said at `wall` for a time of `ttl`.
    #[must_use]
    pub fn new(result: &CheckResult, wall: SystemTime, ttl: Duration) -> Self {
        let expires = wall.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_add(ttl);
        let expires = u64::try_from(expires.as_millis()).unwrap_or(u64::MAX);
        Self { status: result.status, output: result.output.clone(), expires }
    }

    /// How long it still holds at `wall`; none if it does not. Never more than `ttl`, however the
    /// clock was set meanwhile.
    #[must_use]
    pub fn remaining(&self, wall: SystemTime, ttl: Duration) -> Option<Duration> {
        let wall = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        let left = Duration::from_millis(self.expires).checked_sub(wall)?;
        (!left.is_zero()).then(|| left.min(ttl))
    }
}

/// Since when a check is critical.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CriticalSince(Option<Instant>);

impl CriticalSince {
    /// Takes in how the check stands at `now`.
    pub fn note(&mut self, status: CheckStatus, now: Instant) {
        match status {
            CheckStatus::Critical => self.0 = self.0.or(Some(now)),
            CheckStatus::Passing | CheckStatus::Warning => self.0 = None,
        }
    }

    /// Whether its service is to go at `now`. `after` of zero: never.
    #[must_use]
    pub fn is_over(&self, after: Duration, now: Instant) -> bool {
        let Some(since) = self.0.filter(|_| !after.is_zero()) else { return false };
        now.duration_since(since) >= after.max(SOONEST_DEREGISTRATION)
    }
}

#[cfg(test)]
mod tests {
    use super::CheckStatus::{Critical, Passing, Warning};
    use super::*;
    use proptest::prelude::*;

    /// What is told after each of `seen`, with an output that tells them apart.
    fn told(thresholds: Thresholds, seen: &[CheckStatus]) -> Vec<Option<CheckStatus>> {
        let mut rows = Rows::new(thresholds);
        let result = |(n, status): (usize, &CheckStatus)| CheckResult::new(*status, n.to_string());
        seen.iter()
            .enumerate()
            .map(|seen| rows.record(result(seen)).map(|told| told.status))
            .collect()
    }

    #[test]
    fn without_thresholds_every_result_is_told() {
        let seen = [Passing, Critical, Warning, Critical];
        assert_eq!(told(Thresholds::default(), &seen), seen.map(Some));
        assert_eq!(told(Thresholds::new(1, 1, 1), &seen), seen.map(Some));
    }

    #[test]
    fn rows_must_be_unbroken() {
        let seen = [Passing, Critical, Warning, Passing, Critical, Critical, Critical];
        let expected = [None, None, None, Some(Passing), None, Some(Critical), Some(Critical)];
        assert_eq!(told(Thresholds::new(2, 0, 2), &seen), expected);
    }

    #[test]
    fn it_warns_before_it_is_critical() {
        let seen = [Critical; 5];
        let expected = [None, Some(Warning), Some(Warning), Some(Critical), Some(Critical)];
        assert_eq!(told(Thresholds::new(0, 2, 4), &seen), expected);
        // Not given: as many as before critical.
        let expected = [None, None, None, Some(Critical), Some(Critical)];
        assert_eq!(told(Thresholds::new(0, 0, 4), &seen), expected);
    }

    #[test]
    fn the_same_is_not_told_twice_and_a_new_output_is_news() {
        let mut rows = Rows::new(Thresholds::default());
        assert!(rows.record(CheckResult::passing("up")).is_some());
        assert!(rows.record(CheckResult::passing("up")).is_none());
        assert!(rows.record(CheckResult::passing("up for long")).is_some());
        assert!(rows.record(CheckResult::critical("up for long")).is_some());
    }

    #[test]
    fn a_ttl_expires_once_and_every_word_starts_it_anew() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut ttl = Ttl::new(10 * second, start);
        assert_eq!(ttl.expire(start + 9 * second, ""), None);
        ttl.told(start + 9 * second);
        assert_eq!(ttl.expire(start + 18 * second, "hey"), None);
        assert_eq!(
            ttl.expire(start + 19 * second, "hey"),
            Some(CheckResult::critical("TTL expired (last output before timeout follows): hey"))
        );
        assert_eq!(ttl.expire(start + 99 * second, "hey"), None);
        ttl.told(start + 99 * second);
        assert_eq!(
            ttl.expire(start + 109 * second, ""),
            Some(CheckResult::critical("TTL expired"))
        );
    }

    #[test]
    fn the_last_word_holds_over_a_restart_as_long_as_it_would_have() {
        let (ttl, now) = (Duration::from_secs(10), UNIX_EPOCH + Duration::from_secs(1_000_000));
        let saved = SavedTtl::new(&CheckResult::passing("well"), now, ttl);
        let after = |seconds| saved.remaining(now + Duration::from_secs(seconds), ttl);
        assert_eq!(after(4), Some(Duration::from_secs(6)));
        assert_eq!(after(10), None);
        // The clock was set back by a day.
        assert_eq!(saved.remaining(now - Duration::from_secs(86_400), ttl), Some(ttl));
        let start = Instant::now();
        let resumed = Ttl::resumed(ttl, Duration::from_secs(6), start);
        assert_eq!(resumed.expires(), Some(start + Duration::from_secs(6)));
    }

    #[test]
    fn critical_for_long_is_counted_without_a_break_and_from_a_minute() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut critical = CriticalSince::default();
        assert!(!critical.is_over(90 * second, start + 1000 * second));
        critical.note(Critical, start);
        critical.note(Critical, start + 60 * second);
        assert!(!critical.is_over(90 * second, start + 89 * second));
        assert!(critical.is_over(90 * second, start + 90 * second));
        assert!(!critical.is_over(Duration::ZERO, start + 9_000 * second));
        // Less than a minute is a minute.
        assert!(!critical.is_over(second, start + 59 * second));
        assert!(critical.is_over(second, start + 60 * second));
        critical.note(Warning, start + 80 * second);
        critical.note(Critical, start + 81 * second);
        assert!(!critical.is_over(90 * second, start + 170 * second));
        assert!(critical.is_over(90 * second, start + 171 * second));
    }

    proptest! {
        #[test]
        fn the_first_run_is_within_the_interval(bits: u64, seconds in 1_u64..100_000) {
            let interval = Duration::from_secs(seconds);
            let first = first_run(interval, &mut || bits);
            prop_assert!(first < interval + Duration::from_millis(1));
        }

        #[test]
        fn critical_is_never_told_before_its_row(
            passing in 0_u32..4, warning in 0_u32..4, more in 0_u32..4,
            seen in proptest::collection::vec(0_u8..3, 0..40),
        ) {
            let critical = warning + more;
            let mut rows = Rows::new(Thresholds::new(passing, warning, critical));
            let (mut good, mut bad) = (0, 0);
            for (n, status) in seen.into_iter().enumerate() {
                let status = [Passing, Warning, Critical][usize::from(status)];
                (good, bad) = if status == Critical { (0, bad + 1) } else { (good + 1, 0) };
                let told = rows.record(CheckResult::new(status, n.to_string()));
                match told.map(|told| told.status) {
                    Some(Critical) => prop_assert!(bad >= critical.max(1)),
                    Some(Passing) => prop_assert!(good >= passing.max(1)),
                    Some(Warning) => prop_assert!(good >= passing.max(1) || bad >= warning),
                    None => prop_assert!(good < passing.max(1) && bad < critical.max(1)),
                }
            }
        }
    }
}
