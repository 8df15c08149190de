//! Schedule: when to ask again.
//!
//! After an answer: `clamp(ttl, floor, ceiling) × uniform(0.9, 1.1)`, clamped again, so that a
//! thousand clients that learned a name together do not ask together.
//!
//! After the n-th failure in a row: `max(1 s, uniform(0, min(30 s, 1 s × 2^n)))`: full jitter,
//! and never more than one query per second.

use super::Config;
use mesh_core::Draw;
use std::time::Duration;

/// The shortest span between two queries for one name.
pub(super) const SPACING: Duration = Duration::from_secs(1);
/// The longest TTL that is believed.
pub(super) const LONGEST: Duration = Duration::from_secs(3600);
const BACKOFF_CEILING: Duration = Duration::from_secs(30);

/// How often NXDOMAIN must come in a row before the endpoints are given up.
const NXDOMAIN_BELIEVED: u32 = 3;

#[derive(Debug)]
pub(super) struct Schedule {
    floor: Duration,
    ceiling: Duration,
    failures: u32,
    nxdomains: u32,
}

impl Schedule {
    pub(super) fn new(config: &Config) -> Self {
        let floor = config.min_refresh.clamp(SPACING, LONGEST);
        let ceiling = config.max_refresh.clamp(floor, LONGEST);
        Self { floor, ceiling, failures: 0, nxdomains: 0 }
    }

    /// The wait after an answer with this TTL.
    pub(super) fn answered(&mut self, ttl: Duration, draw: &mut impl Draw) -> Duration {
        self.failures = 0;
        self.nxdomains = 0;
        ttl.clamp(self.floor, self.ceiling)
            .mul_f64(0.9 + 0.2 * draw.unit())
            .clamp(self.floor, self.ceiling)
    }

    /// The wait after no answer, or one that cannot be used.
    pub(super) fn failed(&mut self, draw: &mut impl Draw) -> Duration {
        self.nxdomains = 0;
        self.back_off(draw)
    }

    /// The wait after NXDOMAIN, and whether it has come often enough to be believed.
    pub(super) fn no_such_name(&mut self, draw: &mut impl Draw) -> (Duration, bool) {
        self.nxdomains = self.nxdomains.saturating_add(1);
        (self.back_off(draw), self.nxdomains >= NXDOMAIN_BELIEVED)
    }

    /// Whether the last try failed: nudges do not shorten a back-off.
    pub(super) fn is_backing_off(&self) -> bool {
        self.failures > 0
    }

    fn back_off(&mut self, draw: &mut impl Draw) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let bound = SPACING.saturating_mul(1 << self.failures.min(8)).min(BACKOFF_CEILING);
        bound.mul_f64(draw.unit()).max(SPACING)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn schedule() -> Schedule {
        Schedule::new(&Config { min_refresh: SECOND, ..Config::default() })
    }

    #[test]
    fn a_ttl_is_clamped_to_one_second_and_one_hour() {
        for bits in [0, u64::MAX / 2, u64::MAX] {
            let mut draw = || bits;
            let shortest = schedule().answered(Duration::ZERO, &mut draw);
            assert!((SECOND..=SECOND * 11 / 10).contains(&shortest), "{shortest:?}");
            let longest = schedule().answered(Duration::from_secs(1 << 31), &mut draw);
            assert!((LONGEST * 9 / 10..=LONGEST).contains(&longest), "{longest:?}");
        }
    }

    #[test]
    fn a_floor_outside_the_range_is_moved_into_it() {
        let config = Config {
            min_refresh: Duration::ZERO,
            max_refresh: Duration::ZERO,
            ..Config::default()
        };
        assert_eq!(Schedule::new(&config).answered(Duration::from_secs(60), &mut || 0u64), SECOND);
    }

    #[test]
    fn jitter_is_ten_percent_both_ways() {
        let ttl = Duration::from_secs(100);
        assert_eq!(schedule().answered(ttl, &mut || 0u64), Duration::from_secs(90));
        let late = schedule().answered(ttl, &mut || u64::MAX);
        assert!(late > Duration::from_secs(109) && late <= Duration::from_secs(110), "{late:?}");
    }

    #[test]
    fn back_off_doubles_to_thirty_seconds_and_an_answer_resets_it() {
        let mut schedule = schedule();
        let mut draw = || u64::MAX;
        let waits: Vec<u64> =
            (0..7).map(|_| schedule.failed(&mut draw).as_secs_f64().round() as u64).collect();
        assert_eq!(waits, [2, 4, 8, 16, 30, 30, 30]);
        assert!(schedule.is_backing_off());
        schedule.answered(SECOND, &mut draw);
        assert!(!schedule.is_backing_off());
        assert_eq!(schedule.failed(&mut || 0u64), SECOND, "full jitter, but one query per second");
    }

    #[test]
    fn nxdomain_is_believed_at_the_third_in_a_row() {
        let mut schedule = schedule();
        let mut draw = || 0u64;
        assert!(!schedule.no_such_name(&mut draw).1);
        assert!(!schedule.no_such_name(&mut draw).1);
        schedule.failed(&mut draw);
        assert!(!schedule.no_such_name(&mut draw).1, "SERVFAIL between breaks the row");
        assert!(!schedule.no_such_name(&mut draw).1);
        assert!(schedule.no_such_name(&mut draw).1);
    }
}
