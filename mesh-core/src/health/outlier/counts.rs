//! What is counted of one endpoint between two sweeps.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Counts of one endpoint.
#[derive(Debug, Default)]
pub(in crate::health) struct Counts {
    pub(super) consecutive_5xx: AtomicU32,
    pub(super) consecutive_gateway: AtomicU32,
    pub(super) consecutive_local: AtomicU32,
    /// What the endpoint answered; in split mode without failures on the way.
    pub(super) answers: Bucket,
    /// In split mode: whether it could be reached.
    pub(super) reached: Bucket,
    /// Made when the first latency is counted.
    latencies: OnceLock<Box<Latencies>>,
}

impl Counts {
    pub(in crate::health) fn end_rows(&self) {
        // The loads spare a shared cache line three writes on each success.
        for row in [&self.consecutive_5xx, &self.consecutive_gateway, &self.consecutive_local] {
            if row.load(Relaxed) != 0 {
                row.store(0, Relaxed);
            }
        }
    }

    pub(super) fn observe(&self, took: Duration) {
        self.latencies.get_or_init(Box::default).count(took);
    }

    /// The quantile of the latencies since the last time this was asked, if there were so many.
    pub(super) fn take_latency(&self, quantile: f64, least: u32) -> Option<Duration> {
        let (total, buckets) = self.latencies.get()?.take();
        (total > 0 && total >= u64::from(least)).then(|| at_quantile(&buckets, total, quantile))
    }
}

const CALL: u64 = 1 << 32;
const SUCCESS: u64 = 1;

/// Calls in the high half, successes in the low half.
#[derive(Debug, Default)]
pub(super) struct Bucket(AtomicU64);

impl Bucket {
    pub(super) fn count(&self, success: bool) {
        self.0.fetch_add(CALL + if success { SUCCESS } else { 0 }, Relaxed);
    }

    /// Calls and successes since the last time this was asked.
    pub(super) fn take(&self) -> (u32, u32) {
        let bucket = self.0.swap(0, Relaxed);
        ((bucket >> 32) as u32, bucket as u32)
    }
}

/// Buckets of a doubling of the latency.
const STEPS: u64 = 4;
/// The first doubling that is told apart begins at 2^6 µs, the last ends at 2^28 µs (268 s).
const FIRST: u32 = 6;
const LAST: u32 = 27;
const BUCKETS: usize = (LAST - FIRST + 1) as usize * STEPS as usize;

/// Latencies by size, four buckets to a doubling.
#[derive(Debug)]
struct Latencies([AtomicU32; BUCKETS]);

impl Default for Latencies {
    fn default() -> Self {
        Self([const { AtomicU32::new(0) }; BUCKETS])
    }
}

impl Latencies {
    fn count(&self, took: Duration) {
        if let Some(bucket) = self.0.get(place(took)) {
            bucket.fetch_add(1, Relaxed);
        }
    }

    fn take(&self) -> (u64, [u32; BUCKETS]) {
        let mut counts = [0; BUCKETS];
        let mut total = 0;
        for (count, bucket) in counts.iter_mut().zip(&self.0) {
            *count = bucket.swap(0, Relaxed);
            total += u64::from(*count);
        }
        (total, counts)
    }
}

/// The bucket of a latency: the position of its highest bit, and the two bits below that.
fn place(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros())
        .unwrap_or(u64::MAX)
        .clamp(1 << FIRST, (1 << (LAST + 1)) - 1);
    let doubling = micros.ilog2();
    let step = (micros >> (doubling - 2)) & (STEPS - 1);
    (u64::from(doubling - FIRST) * STEPS + step) as usize
}

/// Where a bucket begins, in microseconds; that after the last is its end.
fn begin(place: usize) -> f64 {
    let (doubling, step) = (place as u64 / STEPS, place as u64 % STEPS);
    ((STEPS + step) << (doubling + u64::from(FIRST) - 2)) as f64
}

fn at_quantile(buckets: &[u32; BUCKETS], total: u64, quantile: f64) -> Duration {
    let rank = (quantile * total as f64).max(f64::MIN_POSITIVE);
    let mut below = 0.0;
    for (place, count) in buckets.iter().enumerate().filter(|(_, count)| **count > 0) {
        let within = (rank - below) / f64::from(*count);
        if within <= 1.0 {
            let micros = begin(place) + (begin(place + 1) - begin(place)) * within;
            return Duration::from_micros(micros as u64);
        }
        below += f64::from(*count);
    }
    Duration::from_micros(begin(BUCKETS) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_or_too_little_has_no_quantile() {
        let counts = Counts::default();
        assert_eq!(counts.take_latency(0.5, 0), None);
        counts.observe(Duration::from_millis(5));
        assert_eq!(counts.take_latency(0.5, 2), None);
        assert_eq!(counts.take_latency(0.5, 0), None, "taken is gone");
    }

    #[test]
    fn the_least_and_the_largest_latency_have_a_bucket() {
        assert_eq!((place(Duration::ZERO), place(Duration::MAX)), (0, BUCKETS - 1));
        for index in 0..BUCKETS {
            assert_eq!(place(Duration::from_micros(begin(index) as u64)), index);
            assert_eq!(place(Duration::from_micros(begin(index + 1) as u64 - 1)), index);
        }
    }

    proptest! {
        #[test]
        fn a_quantile_is_right_within_a_bucket(
            mut micros in prop::collection::vec(64u64..200_000_000, 1..300),
            percent in 1u32..=100,
        ) {
            let counts = Counts::default();
            for took in &micros {
                counts.observe(Duration::from_micros(*took));
            }
            micros.sort_unstable();
            let rank = (micros.len() * percent as usize).div_ceil(100).max(1);
            let exact = micros[rank - 1] as f64;
            let quantile = counts.take_latency(f64::from(percent) / 100.0, 1).expect("some");
            let ratio = quantile.as_micros() as f64 / exact;
            prop_assert!((0.79..1.26).contains(&ratio), "{quantile:?} for {exact} µs");
        }
    }
}
