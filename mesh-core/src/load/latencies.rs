//! Latencies: what recent calls took, by how many calls they found in flight.
//!
//! Counts of 0 to 7 have a row each, above that each power of two; a row keeps the median of its
//! last seven calls. A count whose row is empty has the latency of the nearest row below, else
//! above: at least that is what the wait is like when there is less to do.
//!
//! Source: Prequal (NSDI 2024), §4: "the median latency among recent queries at or near the current
//! RIF".

use super::report::MAX_SERVICE_TIME;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// Calls that a row's median is of. Odd, so that there is one in the middle.
const TIMES: usize = 7;
/// Counts with a row of their own.
const EACH: u32 = 8;
/// Those, and the powers of two up to the most calls in flight that are believed.
const ROWS: usize = 8 + 18;

/// See the [module docs](self).
#[derive(Debug)]
pub(super) struct Latencies([Row; ROWS]);

#[derive(Debug)]
struct Row {
    /// Microseconds.
    times: [AtomicU32; TIMES],
    ended: AtomicU32,
    /// Microseconds; 0 while empty.
    median: AtomicU32,
}

impl Row {
    const fn new() -> Self {
        Self {
            times: [const { AtomicU32::new(0) }; TIMES],
            ended: AtomicU32::new(0),
            median: AtomicU32::new(0),
        }
    }
}

impl Latencies {
    pub(super) const fn new() -> Self {
        Self([const { Row::new() }; ROWS])
    }

    /// A call that found so many in flight took this long.
    pub(super) fn took(&self, found: u32, latency: Duration) {
        let Some(row) = self.0.get(row_of(found)) else { return };
        // Fits: the longest is far below 2^32 µs.
        let micros = latency.min(MAX_SERVICE_TIME).as_micros().max(1) as u32;
        let ended = row.ended.fetch_add(1, Relaxed) as usize;
        if let Some(slot) = row.times.get(ended % TIMES) {
            slot.store(micros, Relaxed);
        }
        let mut times = [0; TIMES];
        for (copy, time) in times.iter_mut().zip(&row.times) {
            *copy = time.load(Relaxed);
        }
        if let Some(known) = times.get_mut(..(ended + 1).min(TIMES)) {
            let middle = (known.len() - 1) / 2;
            let (_, median, _) = known.select_nth_unstable(middle);
            row.median.store(*median, Relaxed);
        }
    }

    /// What a call takes that finds so many in flight; none before the first.
    pub(super) fn at(&self, found: u32) -> Option<Duration> {
        let (below, above) = self.0.split_at_checked(row_of(found) + 1)?;
        let median = |row: &Row| {
            let median = row.median.load(Relaxed);
            (median > 0).then(|| Duration::from_micros(median.into()))
        };
        below.iter().rev().find_map(median).or_else(|| above.iter().find_map(median))
    }
}

fn row_of(found: u32) -> usize {
    let row = match found.checked_ilog2() {
        Some(power) if found >= EACH => EACH + power - EACH.ilog2(),
        _ => found,
    };
    (row as usize).min(ROWS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_median_for_each_count_in_flight() {
        let latencies = Latencies::new();
        assert_eq!(latencies.at(0), None);
        for n in 1..=9 {
            latencies.took(0, n * MS);
            latencies.took(3, 10 * n * MS);
        }
        assert_eq!(latencies.at(0), Some(6 * MS), "of the last seven, 3 to 9");
        assert_eq!(latencies.at(3), Some(60 * MS));
    }

    #[test]
    fn where_nothing_is_known_the_nearest_below_counts_else_above() {
        let latencies = Latencies::new();
        latencies.took(4, 40 * MS);
        assert_eq!((latencies.at(0), latencies.at(1_000)), (Some(40 * MS), Some(40 * MS)));
        latencies.took(6, 60 * MS);
        assert_eq!((latencies.at(5), latencies.at(7)), (Some(40 * MS), Some(60 * MS)));
    }

    #[test]
    fn rows_are_of_one_and_then_of_powers_of_two() {
        let rows = [0, 7, 8, 15, 16, 1 << 20, u32::MAX].map(row_of);
        assert_eq!(rows, [0, 7, 8, 8, 9, 25, 25]);
    }
}
