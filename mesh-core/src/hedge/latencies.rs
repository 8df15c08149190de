//! How long the first attempts of a destination take, as far as a quantile needs it.
//!
//! Logarithmic buckets, 16 per doubling, in two windows of 10 s: what is older than both is
//! forgotten. A quantile is kept for a quarter of a second, so a call reads one word; whoever
//! comes after that adds up some 450 counters twice. Routes to one destination may ask for quantiles of
//! their own: a few are kept beside each other.
//!
//! An attempt that was cancelled because another answered counts with the time it had by then. That
//! is less than it would have taken, but more than the delay, so the share of attempts that
//! exceed the delay stays what the percentile says.

use crate::Timestamp;
use crate::hash::mix;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Buckets per doubling: a quantile is at most 1/16 too large.
const STEPS: u32 = 16;
const BUCKETS: usize = 28 * STEPS as usize;
/// Units of the smallest buckets, in nanoseconds; the largest begins at 18 min.
const UNIT: u64 = 1_024;
/// Attempts of a window below which no quantile is told.
const ENOUGH: u64 = 100;
/// How long attempts are gathered before the quantile follows them, in nanoseconds.
const WINDOW: u64 = 10_000_000_000;
/// How often the quantile is taken anew, in nanoseconds.
const PERIOD: u64 = 250_000_000;

/// How long the first attempts of a destination take: a quantile of the last 10 to 20 s, at most 1/16
/// too large, read as one word.
#[derive(Debug)]
pub struct Latencies {
    windows: [Window; 2],
    /// The number of the window that is being filled.
    current: AtomicU64,
    kept: [Kept; 4],
}

/// The quantile that was asked for last among those with this place.
#[derive(Debug, Default)]
struct Kept {
    /// When it is to be taken anew.
    due: AtomicU64,
    /// Nanoseconds in the high 48 bits, zero for too few attempts; the percentile in hundredths in
    /// the low 16.
    word: AtomicU64,
}

#[derive(Debug)]
struct Window([AtomicU32; BUCKETS]);

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

impl Latencies {
    /// Knows nothing.
    #[must_use]
    pub fn new() -> Self {
        let window = || Window(std::array::from_fn(|_| AtomicU32::new(0)));
        Self { windows: [window(), window()], current: AtomicU64::new(0), kept: Default::default() }
    }

    /// A first attempt that ended at `now` took so long.
    pub fn record(&self, now: Timestamp, took: Duration) {
        let number = now.as_nanos() / WINDOW;
        let current = self.current.load(Relaxed);
        if number > current
            && self.current.compare_exchange(current, number, Relaxed, Relaxed).is_ok()
        {
            // A few records of other threads may fall in between; they are a few of many.
            self.window(number).clear();
            if number > current + 1 {
                self.window(number + 1).clear();
            }
        }
        self.window(number.max(current)).add(bucket(took));
    }

    /// What `percentile` per cent of the attempts took at most, by hundredths of a per cent; `None`
    /// below 100 attempts.
    #[must_use]
    pub fn percentile(&self, now: Timestamp, percentile: f64) -> Option<Duration> {
        let hundredths = (percentile.clamp(0.0, 100.0) * 100.0).round() as u64;
        let kept = self.kept.get(mix(hundredths) as usize % self.kept.len())?;
        let due = kept.due.load(Relaxed);
        let nanos = now.as_nanos();
        let mut word = kept.word.load(Relaxed);
        let turn = nanos >= due
            && kept.due.compare_exchange(due, nanos + PERIOD, Relaxed, Relaxed).is_ok();
        if turn || word as u16 != hundredths as u16 {
            let quantile = self.add_up(nanos / WINDOW, hundredths as f64 / 100.0).unwrap_or(0);
            word = quantile.min(u64::MAX >> 16) << 16 | hundredths;
            kept.word.store(word, Relaxed);
        }
        match word >> 16 {
            0 => None,
            quantile => Some(Duration::from_nanos(quantile)),
        }
    }

    fn add_up(&self, number: u64, percentile: f64) -> Option<u64> {
        // A window that nobody has written to since is of an earlier time.
        let age = number.saturating_sub(self.current.load(Relaxed));
        let live = match age {
            0 => &self.windows[..],
            1 => std::slice::from_ref(self.window(number - 1)),
            _ => &[],
        };
        let count = |index: usize| live.iter().map(|window| window.at(index)).sum::<u64>();
        let total = (0..BUCKETS).map(count).sum::<u64>();
        if total < ENOUGH {
            return None;
        }
        let wanted = (total as f64 * percentile / 100.0).ceil().max(1.0) as u64;
        let mut seen = 0;
        (0..BUCKETS).find_map(|index| {
            seen += count(index);
            (seen >= wanted).then(|| bound(index))
        })
    }

    fn window(&self, number: u64) -> &Window {
        let [even, odd] = &self.windows;
        if number.is_multiple_of(2) { even } else { odd }
    }
}

impl Window {
    fn add(&self, index: usize) {
        if let Some(counter) = self.0.get(index) {
            counter.fetch_add(1, Relaxed);
        }
    }

    fn at(&self, index: usize) -> u64 {
        self.0.get(index).map_or(0, |counter| u64::from(counter.load(Relaxed)))
    }

    fn clear(&self) {
        self.0.iter().for_each(|counter| counter.store(0, Relaxed));
    }
}

/// The bucket of a span: linear below 16 units, then 16 per doubling.
fn bucket(took: Duration) -> usize {
    let units = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX) / UNIT;
    let step = u64::from(STEPS);
    if units < step {
        return units as usize;
    }
    let doublings = units.ilog2() - step.ilog2();
    let within = (units >> doublings) - step;
    ((u64::from(doublings) + 1) * step + within).min(BUCKETS as u64 - 1) as usize
}

/// The end of a bucket, in nanoseconds.
fn bound(index: usize) -> u64 {
    let (index, step) = (index as u64, u64::from(STEPS));
    let units = match index / step {
        0 => index + 1,
        doublings => (step + index % step + 1) << (doublings - 1),
    };
    units.saturating_mul(UNIT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_millis(millis)
    }

    fn millis(span: Option<Duration>) -> Option<u128> {
        span.map(|span| span.as_millis())
    }

    #[test]
    fn the_percentile_is_that_of_the_last_windows() {
        let latencies = Latencies::new();
        assert_eq!(latencies.percentile(at(0), 98.0), None);
        for i in 0..1_000 {
            let took = if i % 100 == 0 { 1_000 } else { 10 };
            latencies.record(at(300), Duration::from_millis(took));
        }
        let near = |seen: Option<u128>, wanted: u128| {
            let seen = seen.expect("enough attempts");
            assert!(wanted <= seen && seen <= wanted * 17 / 16 + 1, "{seen} for {wanted}");
        };
        near(millis(latencies.percentile(at(300), 98.0)), 10);
        near(millis(latencies.percentile(at(600), 99.5)), 1_000);
        near(millis(latencies.percentile(at(19_900), 98.0)), 10);
        assert_eq!(latencies.percentile(at(20_300), 98.0), None, "all of them are old");
        for _ in 0..100 {
            latencies.record(at(20_400), Duration::from_millis(40));
        }
        near(millis(latencies.percentile(at(20_700), 50.0)), 40);
    }

    #[test]
    fn each_gets_the_percentile_that_it_asks_for() {
        let latencies = Latencies::new();
        (1..=1_000).for_each(|took| latencies.record(at(0), Duration::from_millis(took)));
        for _ in 0..3 {
            for tenths in 500..=999 {
                let percentile = f64::from(tenths) / 10.0;
                let seen = latencies.percentile(at(1), percentile).expect("enough attempts");
                let (least, most) = (f64::from(tenths), f64::from(tenths) * 17.0 / 16.0 + 1.0);
                let seen = seen.as_secs_f64() * 1e3;
                assert!((least..=most).contains(&seen), "{percentile}: {seen} ms");
            }
        }
    }

    #[test]
    fn too_few_attempts_tell_nothing() {
        let latencies = Latencies::new();
        (0..99).for_each(|_| latencies.record(at(0), Duration::from_millis(1)));
        assert_eq!(latencies.percentile(at(0), 98.0), None);
        latencies.record(at(0), Duration::from_millis(1));
        assert_eq!(latencies.percentile(at(100), 98.0), None, "not taken anew yet");
        assert!(latencies.percentile(at(250), 98.0).is_some());
    }

    proptest! {
        #[test]
        fn a_bucket_holds_what_falls_into_it(nanos: u64) {
            let index = bucket(Duration::from_nanos(nanos));
            prop_assert!(index < BUCKETS);
            if index < BUCKETS - 1 {
                prop_assert!(nanos < bound(index));
                prop_assert!(index == 0 || nanos >= bound(index - 1));
                prop_assert!(bound(index) as f64 <= nanos as f64 * 17.0 / 16.0 + 2.0 * UNIT as f64);
            }
        }

        #[test]
        fn no_order_of_events_panics(events in prop::collection::vec((any::<u64>(), any::<u64>()), 1..50)) {
            let latencies = Latencies::new();
            for (now, took) in events {
                let now = Timestamp::from_nanos(now);
                latencies.record(now, Duration::from_nanos(took));
                let _ = latencies.percentile(now, 99.9);
            }
        }
    }
}
