//! Reporter: counts at a server what its [`Report`]s say.
//!
//! ```text
//! in flight     calls begun and not ended
//! service time  median of the last 31, recounted at every fourth end
//! rates         calls and errors of the last 2 s, in eight parts of 250 ms
//! error share   Σ wᵢ·errorsᵢ / (Σ wᵢ·callsᵢ + 0.1), wᵢ = 0.6^i for the part i before the newest
//! ```
//!
//! The error share is that of about the last half second, so that a fault shows before it has cost
//! many calls. The tenth of a call makes that of a few calls fade. After 2 s all is forgotten.
//!
//! The median, because one call in a hundred that takes a hundred times longer would double a
//! mean, and say nothing about the next call. A service time is that of the work, without the
//! wait for a slot: the wait is what `in flight` stands for. Where a server cannot tell the two
//! apart, the time from arrival to answer is the next best.
//!
//! No lock, no allocation: an end writes four words. Threads that meet may lose a service time to
//! each other; no count of calls in flight.
//!
//! Whoever serves calls [`Reporter::begin`] at arrival, then either [`Reporter::end`] or
//! [`Reporter::cancelled`], and attaches [`Reporter::report`] to the response. A probe is answered with
//! [`Reporter::answer`], which says more: what calls took that met as many in flight as there are
//! now (`load/latencies.rs`), if [`Reporter::took`] was told.

use super::latencies::Latencies;
use super::report::{MAX_IN_FLIGHT, MAX_RATE, MAX_SERVICE_TIME, MAX_UTILIZATION, Report};
use crate::Timestamp;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Service times that the median is of. Odd, so that there is one in the middle.
const TIMES: usize = 31;
/// How often the median is counted anew, once there are 31: the others read what it was.
const RECOUNT: u32 = 4;
/// Parts of the window of the rates.
const PARTS: u64 = 8;
const PART: Duration = Duration::from_millis(250);
/// 0.6^i: what a call counts for the error share, by the age of its part.
const WEIGHTS: [f64; PARTS as usize] =
    [1.0, 0.6, 0.36, 0.216, 0.129_6, 0.077_76, 0.046_656, 0.027_993_6];
/// A fraction of a good call that is always there.
const SOME: f64 = 0.1;

/// What a server counts about itself: calls in flight, the median of the last 31 service times, and
/// rates and errors of the last 2 s.
///
/// ```
/// use mesh_core::{Timestamp, load::Reporter};
/// use std::time::Duration;
///
/// let reporter = Reporter::new();
/// reporter.begin();
/// let now = Timestamp::ZERO + Duration::from_secs(1);
/// reporter.end(now, Duration::from_millis(40), false);
/// let report = reporter.report(now);
/// assert_eq!(report.in_flight, Some(0));
/// assert_eq!(report.service_time, Some(Duration::from_millis(40)));
/// ```
#[derive(Debug)]
pub struct Reporter {
    in_flight: AtomicU32,
    /// Microseconds.
    times: [AtomicU32; TIMES],
    ended: AtomicU32,
    /// Microseconds; 0 before the first end.
    median: AtomicU32,
    rates: [AtomicU64; PARTS as usize],
    /// Bits of `f64`.
    cpu: AtomicU64,
    application: AtomicU64,
    latencies: Latencies,
}

impl Default for Reporter {
    fn default() -> Self {
        Self::new()
    }
}

impl Reporter {
    /// Nothing counted yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            times: [const { AtomicU32::new(0) }; TIMES],
            ended: AtomicU32::new(0),
            median: AtomicU32::new(0),
            rates: [const { AtomicU64::new(0) }; PARTS as usize],
            cpu: AtomicU64::new(0),
            application: AtomicU64::new(0),
            latencies: Latencies::new(),
        }
    }

    /// A call has arrived; returns how many it found in flight, for [`Reporter::took`].
    pub fn begin(&self) -> u32 {
        self.in_flight.fetch_add(1, Relaxed)
    }

    /// A call that found so many in flight was answered well this long after its arrival, its wait
    /// for a place included. Beside [`Reporter::end`], which is told the work alone.
    pub fn took(&self, found: u32, latency: Duration) {
        self.latencies.took(found, latency);
    }

    /// A call was answered after this much work, well or with a failure of the server; once for
    /// each [`Reporter::begin`]. How long a failure took says nothing about calls that are served.
    pub fn end(&self, now: Timestamp, service_time: Duration, failed: bool) {
        self.leave();
        self.count(now, failed);
        if failed {
            return;
        }
        let ended = self.ended.fetch_add(1, Relaxed);
        // Fits: the longest is far below 2^32 µs.
        let micros = service_time.min(MAX_SERVICE_TIME).as_micros().max(1) as u32;
        if let Some(slot) = self.times.get(ended as usize % TIMES) {
            slot.store(micros, Relaxed);
        }
        let known = ended.saturating_add(1).min(TIMES as u32);
        if known < TIMES as u32 || ended.is_multiple_of(RECOUNT) {
            self.recount(known as usize);
        }
    }

    /// A call went away, or was refused, before there was an answer that says anything about the
    /// server; in place of [`Reporter::end`].
    pub fn cancelled(&self) {
        self.leave();
    }

    /// A call was refused for overload: it counts as an error, lest the server looks fast; in place
    /// of [`Reporter::end`].
    pub fn refused(&self, now: Timestamp) {
        self.leave();
        self.count(now, true);
    }

    /// What the process uses of its processors, in `0..=1`; more when beyond what is meant to be
    /// used. Nothing measures it here. What is negative or no number counts as not said.
    pub fn set_cpu_utilization(&self, utilization: f64) {
        self.cpu.store(utilization.to_bits(), Relaxed);
    }

    /// Utilization as the application defines it, as [`Reporter::set_cpu_utilization`].
    pub fn set_application_utilization(&self, utilization: f64) {
        self.application.store(utilization.to_bits(), Relaxed);
    }

    /// What it has to say now. Cost: some twenty loads.
    #[must_use]
    pub fn report(&self, now: Timestamp) -> Report {
        let newest = part(now);
        let (mut calls, mut errors) = (0, 0);
        let (mut weighted_calls, mut weighted_errors) = (0.0, 0.0);
        for word in self.rates.iter().map(|word| word.load(Relaxed)) {
            let age = newest.wrapping_sub(of(word)) & STAMP;
            if word != 0
                && let Some(weight) = WEIGHTS.get(age as usize)
            {
                let (more_calls, more_errors) = counts(word);
                calls += more_calls;
                errors += more_errors;
                weighted_calls += weight * more_calls as f64;
                weighted_errors += weight * more_errors as f64;
            }
        }
        let seconds = (PART * PARTS as u32).as_secs_f64();
        let median = self.median.load(Relaxed);
        let utilization = |word: &AtomicU64| {
            let value = f64::from_bits(word.load(Relaxed));
            if value > 0.0 { value.min(MAX_UTILIZATION) } else { 0.0 }
        };
        Report {
            in_flight: Some(self.in_flight.load(Relaxed).min(MAX_IN_FLIGHT)),
            service_time: (median > 0).then(|| Duration::from_micros(median.into())),
            error_share: Some(weighted_errors / (weighted_calls + SOME)),
            cpu_utilization: utilization(&self.cpu),
            application_utilization: utilization(&self.application),
            qps: (calls as f64 / seconds).min(MAX_RATE),
            eps: (errors as f64 / seconds).min(MAX_RATE),
            ..Report::default()
        }
    }

    /// As [`Reporter::report`], with the latency at what is in flight now: what a probe is answered
    /// with.
    #[must_use]
    pub fn answer(&self, now: Timestamp) -> Report {
        let report = self.report(now);
        Report { latency: report.in_flight.and_then(|calls| self.latencies.at(calls)), ..report }
    }

    fn leave(&self) {
        let before = self.in_flight.fetch_sub(1, Relaxed);
        debug_assert!(before > 0, "an end without begin");
    }

    fn recount(&self, known: usize) {
        let mut times = [0; TIMES];
        for (copy, time) in times.iter_mut().zip(&self.times) {
            *copy = time.load(Relaxed);
        }
        if let Some(times) = times.get_mut(..known.max(1)) {
            let (_, median, _) = times.select_nth_unstable((times.len() - 1) / 2);
            self.median.store(*median, Relaxed);
        }
    }

    fn count(&self, now: Timestamp, failed: bool) {
        let part = part(now);
        let Some(word) = self.rates.get((part % PARTS) as usize) else { return };
        // Always `Ok`: the closure never refuses.
        let _ = word.fetch_update(Relaxed, Relaxed, |old| {
            let (calls, errors) = if of(old) == part { counts(old) } else { (0, 0) };
            Some(pack(part, (calls + 1).min(MOST), (errors + u64::from(failed)).min(MOST)))
        });
    }
}

/// A word of the rates: 24 bits of the part's number, 20 of calls, 20 of errors.
const STAMP: u64 = (1 << 24) - 1;
const MOST: u64 = (1 << 20) - 1;

fn part(now: Timestamp) -> u64 {
    (now.as_nanos() / PART.as_nanos() as u64) & STAMP
}

const fn of(word: u64) -> u64 {
    word >> 40
}

const fn counts(word: u64) -> (u64, u64) {
    (word >> 20 & MOST, word & MOST)
}

const fn pack(part: u64, calls: u64, errors: u64) -> u64 {
    part << 40 | calls << 20 | errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos(millis * 1_000_000)
    }

    fn serve(reporter: &Reporter, now: Timestamp, span: Duration, failed: bool) {
        reporter.begin();
        reporter.end(now, span, failed);
    }

    #[test]
    fn a_new_server_says_that_nothing_is_in_flight_and_no_more() {
        let report = Reporter::new().report(at(5_000));
        assert_eq!((report.in_flight, report.service_time), (Some(0), None));
        assert_eq!((report.error_share, report.qps), (Some(0.0), 0.0));
    }

    #[test]
    fn calls_are_in_flight_until_they_end_in_any_way() {
        let reporter = Reporter::new();
        (0..4).for_each(|n| assert_eq!(reporter.begin(), n));
        assert_eq!(reporter.report(at(0)).in_flight, Some(4));
        reporter.end(at(1), MS, false);
        reporter.end(at(1), MS, true);
        reporter.cancelled();
        reporter.refused(at(1));
        let report = reporter.report(at(1));
        assert_eq!(report.in_flight, Some(0));
        assert_eq!(report.error_share, Some(2.0 / 3.1), "who went away says nothing");
    }

    #[test]
    fn one_dear_call_does_not_move_the_service_time() {
        let reporter = Reporter::new();
        for n in 0..100 {
            serve(&reporter, at(n), if n % 10 == 0 { 600 * MS } else { 6 * MS }, false);
        }
        assert_eq!(reporter.report(at(100)).service_time.map(|t| t.as_millis()), Some(6));
    }

    #[test]
    fn a_failure_has_no_service_time() {
        let reporter = Reporter::new();
        serve(&reporter, at(0), 40 * MS, false);
        (1..40).for_each(|n| serve(&reporter, at(n), MS, true));
        assert_eq!(reporter.report(at(40)).service_time.map(|t| t.as_millis()), Some(40));
    }

    #[test]
    fn a_change_of_pace_shows_after_half_of_the_window() {
        let reporter = Reporter::new();
        (0..31).for_each(|n| serve(&reporter, at(n), 10 * MS, false));
        (0..20).for_each(|n| serve(&reporter, at(n), 30 * MS, false));
        assert_eq!(reporter.report(at(60)).service_time.map(|t| t.as_millis()), Some(30));
    }

    #[test]
    fn rates_are_of_the_last_two_seconds() {
        let reporter = Reporter::new();
        for n in 0..2_000 {
            serve(&reporter, at(n), MS, n % 4 == 0);
        }
        let report = reporter.report(at(1_999));
        assert_eq!((report.qps, report.eps), (1_000.0, 250.0));
        let share = |report: Report| report.error_share.expect("said");
        assert!((share(report) - 0.25).abs() < 1e-3);
        let later = reporter.report(at(3_000));
        assert!((later.qps - 375.0).abs() < 1.0, "three parts are left: {later:?}");
        assert_eq!(reporter.report(at(4_000)).error_share, Some(0.0));
    }

    #[test]
    fn a_fault_shows_within_half_a_second_and_is_forgotten_within_two() {
        let reporter = Reporter::new();
        let share = |now| reporter.report(at(now)).error_share.expect("said");
        (0..2_000).step_by(10).for_each(|n| serve(&reporter, at(n), MS, false));
        (2_000..2_500).step_by(10).for_each(|n| serve(&reporter, at(n), MS, true));
        assert!(share(2_499) > 0.6, "{}", share(2_499));
        assert!(share(4_000) > 0.5, "nothing else is known since: {}", share(4_000));
        (2_500..4_500).step_by(10).for_each(|n| serve(&reporter, at(n), MS, false));
        assert!(share(4_499) < 0.02, "{}", share(4_499));
        assert_eq!(share(6_750), 0.0);
    }

    #[test]
    fn a_stamp_that_comes_round_again_is_not_taken_for_now() {
        let reporter = Reporter::new();
        serve(&reporter, at(100), MS, true);
        // 2^24 parts of 250 ms later, and a little: 48 days.
        let round = Duration::from_millis(250 << 24);
        assert!(reporter.report(at(100) + round + PART).error_share > Some(0.0), "the price");
        assert_eq!(reporter.report(at(100) + round + 9 * PART).error_share, Some(0.0));
    }

    #[test]
    fn utilization_that_makes_no_sense_is_not_said() {
        let reporter = Reporter::new();
        for (set, said) in
            [(0.5, 0.5), (1e308, MAX_UTILIZATION), (-1.0, 0.0), (f64::NAN, 0.0), (-0.0, 0.0)]
        {
            reporter.set_cpu_utilization(set);
            reporter.set_application_utilization(set);
            let report = reporter.report(at(0));
            assert_eq!((report.cpu_utilization, report.application_utilization), (said, said));
        }
    }

    #[test]
    fn an_answer_to_a_probe_says_what_calls_take_at_what_is_in_flight() {
        let reporter = Reporter::new();
        for (calls, latency) in [(0, 10), (3, 40)] {
            let found: Vec<_> = (0..=calls).map(|_| reporter.begin()).collect();
            reporter.took(found[calls], latency * MS);
            found.iter().for_each(|_| reporter.end(at(1), 10 * MS, false));
        }
        assert_eq!(reporter.answer(at(2)).latency, Some(10 * MS));
        (0..3).for_each(|n| assert_eq!(reporter.begin(), n));
        assert_eq!(reporter.answer(at(2)).latency, Some(40 * MS));
        assert_eq!(reporter.report(at(2)).latency, None, "it goes with probes only");
    }

    #[test]
    fn many_threads_lose_no_call_in_flight() {
        let reporter = Reporter::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1_000).for_each(|n| serve(&reporter, at(n), MS, false)));
            }
        });
        let report = reporter.report(at(1_000));
        assert_eq!(report.in_flight, Some(0));
        assert_eq!(report.service_time, Some(MS));
    }

    proptest! {
        /// Against the median of the sorted last 31, which is recounted at most three ends ago.
        #[test]
        fn the_median_is_the_middle_of_the_last(times in prop::collection::vec(1u64..1_000, 1..100)) {
            let reporter = Reporter::new();
            for (n, time) in times.iter().enumerate() {
                serve(&reporter, at(n as u64), Duration::from_millis(*time), false);
            }
            let seen = reporter.report(at(100)).service_time.map(|span| span.as_millis() as u64);
            let possible = (0..RECOUNT as usize).filter_map(|back| {
                let known = &times[..times.len().checked_sub(back)?];
                let mut last = known[known.len().saturating_sub(TIMES)..].to_vec();
                last.sort_unstable();
                last.get((last.len().checked_sub(1)?) / 2).copied()
            });
            prop_assert!(possible.into_iter().any(|median| seen.is_some_and(|seen| seen.abs_diff(median) <= 1)));
        }
    }
}
