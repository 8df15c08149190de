//! Load: what an endpoint costs now, as the picker compares it.
//!
//! Two measures, of which the policy in use keeps one: the *expected wait* of our default
//! (`load/wait.rs`, the formula is with [`Load::expected_wait`]), and *peak EWMA*, which follows.
//!
//! On completion with latency `r`, with estimate `E`, the span `Δ` since the last one, and decay
//! `τ`:
//!
//! ```text
//! E ← r                                  if r > E
//! E ← E·e^(−Δ/τ) + r·(1 − e^(−Δ/τ))      otherwise
//! load = E·e^(−Δ/τ)·(in flight + 1)      in seconds
//! ```
//!
//! A peak counts at once and is forgotten slowly. An estimate that nobody confirms decays towards
//! zero, so that an endpoint that looked slow gets another chance. A new endpoint starts at
//! `initial`, and decays from the first look at it.
//!
//! A failure is recorded with a *penalty* in place of its latency: an endpoint that answers 503 in
//! a millisecond would otherwise look fast and draw traffic. The penalty is the server's own
//! (`Retry-After`, `grpc-retry-pushback-ms`) or 5 s, at most 300 s.
//!
//! Estimate and stamp share one word, so that a reader never sees one without the other: 32 bits
//! of float, 32 bits of ticks of 2^20 ns (about 1 ms), which wrap after 52 days.
//!
//! Source: Finagle `PeakEwma`; linkerd2-proxy's load biaser for the penalty.

mod capacity;
mod latencies;
pub(crate) mod pool;
mod recent;
pub mod report;
mod reporter;
mod tick;
mod wait;

pub(crate) use recent::{Recent, Seat};
pub use report::Report;
pub use reporter::Reporter;

use crate::Timestamp;
use crate::config::span;
use capacity::Capacity;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use wait::Wait;

/// The longest penalty, whoever asks for it.
pub const MAX_PENALTY: Duration = Duration::from_secs(300);

/// An estimate never decays below this (1 ns), so that in-flight counts still tell endpoints apart.
const FLOOR: f64 = 1e-9;

/// Settings of the estimate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Config {
    /// Time in which an unconfirmed estimate falls to 37 %, at least 1 ms. 10 s.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub decay: Duration,
    /// Estimate of an endpoint that has not answered yet; 0s: it is taken first. 30 ms.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub initial: Duration,
    /// What a failure counts as, unless the server asks for another delay. 5 s.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub failure_penalty: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            decay: Duration::from_secs(10),
            initial: Duration::from_millis(30),
            failure_penalty: Duration::from_secs(5),
        }
    }
}

/// Load of one endpoint: attempts in flight, and the estimate of its latency.
#[derive(Debug, Default)]
pub struct Load {
    in_flight: AtomicU32,
    /// A [`Sample`]; 0 until the first look.
    ewma: AtomicU64,
    wait: Wait,
    capacity: Capacity,
    /// A [`Seat`]: where it was picked last.
    seat: AtomicU64,
    /// Shared by its set; none outside of any.
    recent: Option<Arc<Recent>>,
}

impl Load {
    /// No attempt in flight, nothing known.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            ewma: AtomicU64::new(0),
            wait: Wait::new(),
            capacity: Capacity::new(),
            seat: AtomicU64::new(0),
            recent: None,
        }
    }

    /// As [`Load::new`], in a set.
    pub(crate) fn in_set(recent: Arc<Recent>) -> Self {
        Self { recent: Some(recent), ..Self::new() }
    }

    /// Attempts in flight.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// An attempt begins.
    pub fn begin(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    /// An attempt has ended; once for each [`Load::begin`].
    pub fn end(&self) {
        let before = self.in_flight.fetch_sub(1, Relaxed);
        debug_assert!(before > 0, "end without begin");
    }

    /// Records the latency of a success.
    pub fn observe(&self, now: Timestamp, latency: Duration, config: &Config) {
        self.record(now, latency, config);
    }

    /// Records a failure, as if it had lasted `penalty` (at most [`MAX_PENALTY`]).
    pub fn penalize(&self, now: Timestamp, penalty: Duration, config: &Config) {
        self.record(now, penalty.min(MAX_PENALTY), config);
    }

    fn record(&self, now: Timestamp, latency: Duration, config: &Config) {
        let latency = latency.as_secs_f64();
        let mut word = self.ewma.load(Relaxed);
        loop {
            let new = match Sample::unpack(word) {
                None if latency <= config.initial.as_secs_f64() => {
                    // The first answer: no span has passed in which `initial` could fade.
                    Sample::new(config.initial.as_secs_f64(), now)
                }
                None => Sample::new(latency, now),
                Some(old) => old.then(now, latency, config.decay),
            };
            match self.ewma.compare_exchange_weak(word, new.pack(), Relaxed, Relaxed) {
                Ok(_) => return,
                Err(current) => word = current,
            }
        }
    }

    /// The estimated latency in seconds, faded to `now`.
    ///
    /// The first look at an endpoint that has not answered starts the fading of `initial`;
    /// otherwise reading changes nothing.
    #[must_use]
    pub fn latency(&self, now: Timestamp, config: &Config) -> f64 {
        match Sample::unpack(self.ewma.load(Relaxed)) {
            Some(sample) => sample.faded(now, config.decay),
            None => {
                let initial = config.initial.as_secs_f64();
                // When another thread was first, its sample is as good.
                let _ = self.ewma.compare_exchange(
                    0,
                    Sample::new(initial, now).pack(),
                    Relaxed,
                    Relaxed,
                );
                initial.max(FLOOR)
            }
        }
    }

    /// A success, for the expected wait.
    pub fn succeeded(&self, now: Timestamp, latency: Duration) {
        let distance = self.wait.succeeded(now, latency, self.average());
        if let Some(recent) = &self.recent {
            recent.succeeded(latency);
            if let Some(distance) = distance {
                recent.differed(distance);
            }
            recent.heard(Seat::from_bits(self.seat.load(Relaxed)), now);
        }
    }

    /// A failure or timeout, for the expected wait. `alone` is for how long the server asks to be
    /// left alone, if it does; at most [`MAX_PENALTY`] of it counts.
    pub fn failed(&self, now: Timestamp, alone: Option<Duration>) {
        self.wait.failed(now, alone);
    }

    /// It can be connected to again after it could not: its failures were those of a process that
    /// is gone. Without this, an endpoint that was restarted would be left alone for minutes where
    /// calls take a few milliseconds, since one failure costs as much as many of them.
    pub fn came_back(&self) {
        self.wait.came_back();
        // Peak EWMA has penalties among its latencies: it starts anew.
        self.ewma.store(0, Relaxed);
    }

    /// The endpoint has said this of itself, with a response or asked by a probe.
    pub fn reported(&self, now: Timestamp, report: &Report) {
        self.wait.told(now, report);
        self.capacity.told(now, report);
        if let Some(recent) = &self.recent
            && report.in_flight.is_some()
        {
            recent.reported(now);
            recent.heard(Seat::from_bits(self.seat.load(Relaxed)), now);
        }
    }

    /// A probe was answered with this report after this time. Where round trips are long, no more
    /// probes are asked for.
    pub fn probed(&self, now: Timestamp, report: &Report, round_trip: Duration) {
        self.reported(now, report);
        let Some(recent) = &self.recent else { return };
        recent.probed(round_trip);
        if let Some(in_flight) = report.in_flight {
            let average = || Duration::try_from_secs_f32(recent.average()).unwrap_or_default();
            let latency = report.latency.or(report.service_time).unwrap_or_else(average);
            let seat = Seat::from_bits(self.seat.load(Relaxed));
            recent.pool().heard(seat, now, in_flight, latency);
        }
    }

    /// A probe was not answered within the time that others took: what the endpoint said before
    /// is not believed any more.
    pub fn unanswered(&self) {
        self.wait.did_not_say();
        if let Some(recent) = &self.recent {
            recent.pool().unanswered(Seat::from_bits(self.seat.load(Relaxed)));
        }
    }

    /// A policy has picked it, there.
    pub(crate) fn picked(&self, now: Timestamp, seat: Seat) {
        self.sit(seat);
        self.wait.picked(now, self.in_flight());
    }

    /// A policy looks for it there when it is heard of.
    pub(crate) fn sit(&self, seat: Seat) {
        if self.seat.load(Relaxed) != seat.bits() {
            self.seat.store(seat.bits(), Relaxed);
        }
    }

    /// `(in flight + 1) × service time + 1 s × error share`, in seconds, by what was seen from
    /// here: the service time is the average of logarithms of the latencies of successes (0.7 old,
    /// 0.3 new), at least the time since the last answer while attempts are pending; the error
    /// share moves by a tenth at each outcome, and fades within some 20 s. A share of 1 costs 25
    /// average latencies of the set if that is longer than 1 s.
    #[must_use]
    pub fn expected_wait(&self, now: Timestamp) -> f64 {
        // Only the policy that compares this says when an attempt began with nothing pending.
        let is_compared = self.seat.load(Relaxed) != 0;
        self.wait.seen(now, self.in_flight(), is_compared, self.average(), 1.0)
    }

    /// As [`Load::expected_wait`], for an endpoint that may have so many times more in flight than
    /// others.
    pub(crate) fn weighted_wait(&self, now: Timestamp, weight: f32) -> f64 {
        let is_compared = self.seat.load(Relaxed) != 0;
        self.wait.seen(now, self.in_flight(), is_compared, self.average(), weight)
    }

    /// As [`Load::expected_wait`], by what the endpoint [reported](report::Report): its calls in
    /// flight, one more for each attempt sent since, its median service time, and the greater of
    /// its error share and the one seen from here. None if it has not within 100 ms.
    #[must_use]
    pub fn reported_wait(&self, now: Timestamp) -> Option<f64> {
        self.wait.said(now, self.in_flight(), self.average())
    }

    /// Its weight by gRFC A58: calls per second at which it would be fully used. None without
    /// reports that count.
    pub(crate) fn capacity(
        &self,
        now: Timestamp,
        penalty: f64,
        blackout: Duration,
        expiration: Duration,
    ) -> Option<f64> {
        self.capacity.weight(now, penalty, blackout, expiration)
    }

    /// Whether its report is at most this old.
    pub(crate) fn is_reported(&self, now: Timestamp, age: Duration) -> bool {
        self.wait.is_fresh(now, age)
    }

    /// Whether it is known to report what it has in flight, as our inbound stack does: it has, and
    /// has not left questions open for long.
    #[must_use]
    pub fn reports(&self, now: Timestamp) -> bool {
        self.wait.reports(now)
    }

    /// Whether asking it for a report may help: it reports, or nothing is known of it.
    pub(crate) fn may_report(&self, now: Timestamp) -> bool {
        self.wait.reports(now) || !self.wait.is_known()
    }

    /// What probes of its set brought; none outside of any.
    pub(crate) fn pool(&self) -> Option<&pool::Pool> {
        self.recent.as_ref().map(|recent| recent.pool())
    }

    /// A number for a group of its set; 0 outside of any.
    pub(crate) fn new_group(&self) -> u16 {
        self.recent.as_ref().map_or(0, |recent| recent.group())
    }

    fn average(&self) -> f32 {
        self.recent.as_ref().map_or(0.0, |recent| recent.average())
    }

    /// `estimate × (in flight + 1)`, in seconds: what the picker compares.
    #[must_use]
    pub fn peak_ewma(&self, now: Timestamp, config: &Config) -> f64 {
        self.latency(now, config) * (f64::from(self.in_flight()) + 1.0)
    }
}

/// An estimate and when it was made.
#[derive(Clone, Copy)]
struct Sample {
    seconds: f32,
    ticks: u32,
}

impl Sample {
    fn new(seconds: f64, now: Timestamp) -> Self {
        // Never zero, so that no sample packs to the word that means "none".
        Self { seconds: seconds.max(FLOOR) as f32, ticks: ticks(now) }
    }

    fn unpack(word: u64) -> Option<Self> {
        (word != 0)
            .then(|| Self { seconds: f32::from_bits((word >> 32) as u32), ticks: word as u32 })
    }

    fn pack(self) -> u64 {
        u64::from(self.seconds.to_bits()) << 32 | u64::from(self.ticks)
    }

    fn then(self, now: Timestamp, latency: f64, decay: Duration) -> Self {
        let estimate = f64::from(self.seconds);
        if latency > estimate {
            return Self::new(latency, now);
        }
        let Some(elapsed) = self.elapsed(now) else {
            return self;
        };
        let kept = (-elapsed / decay.as_secs_f64()).exp();
        Self::new(estimate * kept + latency * (1.0 - kept), now)
    }

    fn faded(self, now: Timestamp, decay: Duration) -> f64 {
        let estimate = f64::from(self.seconds);
        match self.elapsed(now) {
            Some(elapsed) => (estimate * (-elapsed / decay.as_secs_f64()).exp()).max(FLOOR),
            None => estimate,
        }
    }

    /// Seconds since the sample; `None` within the same tick, or when `now` is a little older
    /// than the sample because another thread read the clock first.
    fn elapsed(self, now: Timestamp) -> Option<f64> {
        let ticks = ticks(now).wrapping_sub(self.ticks);
        (1..u32::MAX / 2).contains(&ticks).then(|| f64::from(ticks) * TICK)
    }
}

/// Length of a tick in seconds.
const TICK: f64 = (1u64 << 20) as f64 / 1e9;

const fn ticks(at: Timestamp) -> u32 {
    (at.as_nanos() >> 20) as u32
}

#[cfg(test)]
mod tests;
