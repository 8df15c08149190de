//! Expected wait: how long a call would take at an endpoint, in seconds, as our default compares it.
//!
//! ```text
//! wait = (in flight + 1) × service time + cost × error share
//! cost = 1 s, or 25 times the average latency of the set if that is longer
//! ```
//!
//! From what the caller saw:
//!
//! | event | service time `s` | error share `e` |
//! |---|---|---|
//! | success after `r` | `s^0.7 · r^0.3`: an average of logarithms, which one slow call does not upset | `0.9·e` |
//! | failure, timeout | – | `e + 0.1·(1 − e)` |
//! | failure with the wish to be left alone for a while | – | 1 as long as that lasts, at most 300 s |
//! | it can be connected to again after it could not | – | 0 |
//! | time | after 30 s without news, what is above the average falls back to it: `a + (s − a)·30 s/age` | `e·2^(−age/20 s)` |
//!
//! While calls are pending, the time since the endpoint last answered one is a lower bound of `s`: a
//! black hole shows before any deadline passes. An endpoint that has not answered yet counts as the
//! average of its set; without one, as 30 ms.
//!
//! From what the endpoint [reports](super::report), while that is at most 100 ms old: its own `in
//! flight`, plus one for each use since; its median service time; the greater of both error shares.
//!
//! All state is in words that are read and written without order: a reader may see one word older
//! than the next, which shifts a wait by one call. One compare-and-swap per outcome.
//!
//! Source: ours. Shortest expected delay (Winston 1977) is the idea behind the product; the
//! measurements behind the constants are in `docs/balancing.md`.

use super::{MAX_PENALTY, Report};
use crate::Timestamp;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Latency of an endpoint when nothing is known of any.
const INITIAL: f32 = 0.03;
/// Shortest and longest latency that is told apart from others.
const SHORTEST: f32 = 1e-6;
const LONGEST: f32 = 300.0;
/// How much of the logarithm the newest success is.
const NEWEST: f32 = 0.3;
/// What a failure adds of what the error share lacks to 1, and a success takes off it.
const STEP: f32 = 0.1;
/// Seconds that an error share of 1 costs, and least multiple of the average latency.
const ERROR_COST: f32 = 1.0;
const ERROR_COST_IN_LATENCIES: f32 = 25.0;
/// Seconds in which an error share falls to half. At calls of 2 ms one failure keeps an endpoint out of
/// the choice for two minutes; a slower fall would for a quarter of an hour.
const ERRORS_FADE: f32 = 20.0;
/// Seconds for which a high latency is believed without news.
const BELIEVED: f32 = 30.0;
/// How old a report may be.
const REPORT_AGE: Duration = Duration::from_millis(100);
/// How long an endpoint that was asked and does not answer is still one that reports.
const SILENT_AFTER: Duration = Duration::from_secs(30);

/// What is known of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Wait {
    /// [`Own`]; 0 until the first outcome.
    own: AtomicU64,
    /// When it last answered, or was picked with nothing pending; nanoseconds.
    progress: AtomicU64,
    /// Until when it asked to be left alone; nanoseconds.
    alone_until: AtomicU64,
    /// [`Told`].
    told: AtomicU64,
    /// When; nanoseconds, the lowest bit set if it has left a question since unanswered; 0 if it
    /// never was told.
    told_at: AtomicU64,
}

impl Wait {
    pub(super) const fn new() -> Self {
        Self {
            own: AtomicU64::new(0),
            progress: AtomicU64::new(0),
            alone_until: AtomicU64::new(0),
            told: AtomicU64::new(0),
            told_at: AtomicU64::new(0),
        }
    }

    /// It was picked, with so many in flight before.
    pub(super) fn picked(&self, now: Timestamp, in_flight: u32) {
        if in_flight == 0 {
            // The age of an error share counts from the same word: what has faded, stays so.
            let own = self.own.load(Relaxed);
            if Own::unpack(own).is_some_and(|own| own.errors > 0.0) {
                self.update(now, own, |own| own);
            }
            self.progress.store(now.as_nanos(), Relaxed);
        }
        if self.told_at.load(Relaxed) != 0 {
            let told = self.told.load(Relaxed);
            if told & 0xffff != 0xffff {
                self.told.store(told + 1, Relaxed);
            }
        }
    }

    /// It answered well; returns how far the logarithm of the latency is from what was expected.
    pub(super) fn succeeded(&self, now: Timestamp, latency: Duration, average: f32) -> Option<f32> {
        let latency = latency.as_secs_f32().clamp(SHORTEST, LONGEST);
        let age = self.age(now);
        let word = self.own.load(Relaxed);
        self.update(now, word, |own| Own {
            seconds: if own.seconds == 0.0 {
                let from = if average > 0.0 { average } else { latency };
                blend(from, latency)
            } else {
                blend(believed(own.seconds, age, average), latency)
            },
            errors: own.errors * (1.0 - STEP),
        });
        self.progress.store(now.as_nanos(), Relaxed);
        let before = Own::unpack(word).filter(|own| own.seconds > 0.0)?;
        Some((latency / before.seconds).ln().abs())
    }

    /// It failed, or did not answer in time.
    pub(super) fn failed(&self, now: Timestamp, alone: Option<Duration>) {
        if let Some(alone) = alone {
            let until = now + alone.min(MAX_PENALTY);
            self.alone_until.fetch_max(until.as_nanos(), Relaxed);
        }
        self.update(now, self.own.load(Relaxed), |own| Own {
            errors: own.errors + STEP * (1.0 - own.errors),
            ..own
        });
        self.progress.store(now.as_nanos(), Relaxed);
    }

    /// Another process is there now: how fast it is may be as before, its failures are its own.
    pub(super) fn came_back(&self) {
        self.own.fetch_and(!u64::from(u32::MAX), Relaxed);
        self.alone_until.store(0, Relaxed);
    }

    /// Replaces what is known by `change` of it, its errors faded to `now`.
    fn update(&self, now: Timestamp, mut word: u64, change: impl Fn(Own) -> Own) {
        let age = self.age(now);
        loop {
            let old = Own::unpack(word).unwrap_or(Own { seconds: 0.0, errors: 0.0 });
            let new = change(Own { errors: faded(old.errors, age), ..old }).pack();
            match self.own.compare_exchange_weak(word, new, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(current) => word = current,
            }
        }
    }

    /// The error share after some time; there is one, for there was a failure.
    fn errors(&self, errors: f32, age: f32, now: Timestamp) -> f32 {
        if now.as_nanos() < self.alone_until.load(Relaxed) { 1.0 } else { faded(errors, age) }
    }

    /// Seconds since there was news; none if there never was.
    fn age(&self, now: Timestamp) -> f32 {
        match self.progress.load(Relaxed) {
            0 => 0.0,
            at => now.since(Timestamp::from_nanos(at)).as_secs_f32(),
        }
    }

    /// The wait by what was seen from here. The time since there was news bounds it while
    /// attempts are pending, if it is known when the first of them was `picked`.
    pub(super) fn seen(
        &self,
        now: Timestamp,
        in_flight: u32,
        picked: bool,
        average: f32,
        weight: f32,
    ) -> f64 {
        let own = Own::unpack(self.own.load(Relaxed)).unwrap_or(Own { seconds: 0.0, errors: 0.0 });
        let known = own.seconds > 0.0;
        // Most endpoints have nothing pending, no errors and an ordinary latency: no age needed.
        let needs_age = in_flight > 0 || own.errors > 0.0 || own.seconds > average;
        let age = if needs_age { self.age(now) } else { 0.0 };
        let mut seconds = match known {
            true => believed(own.seconds, age, average),
            false if average > 0.0 => average,
            false => INITIAL,
        };
        if in_flight > 0 && picked {
            seconds = seconds.max(age);
        }
        let wait = (in_flight as f32 / weight + 1.0) * seconds;
        if own.errors == 0.0 {
            return f64::from(wait);
        }
        f64::from(wait + cost(average) * self.errors(own.errors, age, now))
    }

    /// The wait by what it said of itself; none if that is too old.
    pub(super) fn said(&self, now: Timestamp, in_flight: u32, average: f32) -> Option<f64> {
        let at = self.told_at.load(Relaxed);
        if at & 1 != 0 || now.since(Timestamp::from_nanos(at)) > REPORT_AGE || at == 0 {
            return None;
        }
        let told = Told::unpack(self.told.load(Relaxed));
        let own = Own::unpack(self.own.load(Relaxed)).unwrap_or(Own { seconds: 0.0, errors: 0.0 });
        let mut seconds = told.seconds;
        if seconds <= 0.0 {
            seconds = if average > 0.0 { average } else { INITIAL };
        }
        let calls = f32::from(told.in_flight) + 1.0;
        let age = if in_flight > 0 || own.errors > 0.0 { self.age(now) } else { 0.0 };
        // Others' calls move on without our seeing it: only a pause beyond the whole queue tells.
        if in_flight > 0 && age > calls * seconds {
            seconds = age;
        }
        let mut errors = told.errors;
        if own.errors > 0.0 {
            errors = errors.max(self.errors(own.errors, age, now));
        }
        Some(f64::from(calls * seconds + cost(average) * errors))
    }

    /// Takes over a report; one that does not say what is in flight leaves only its error share,
    /// and cannot be compared by itself.
    pub(super) fn told(&self, now: Timestamp, report: &Report) {
        let Some(in_flight) = report.in_flight else {
            let errors = report.errors() as f32;
            if errors > 0.0 {
                self.update(now, self.own.load(Relaxed), |own| Own {
                    errors: own.errors.max(errors),
                    ..own
                });
            }
            return;
        };
        let told = Told {
            seconds: report.service_time.map_or(0.0, |time| time.as_secs_f32().max(SHORTEST)),
            errors: report.errors() as f32,
            in_flight: in_flight.min(u32::from(u16::MAX)) as u16,
        };
        self.told.store(told.pack(), Relaxed);
        self.told_at.store((now.as_nanos() & !1).max(2), Relaxed);
    }

    /// It was asked for a report, and did not answer while others did.
    pub(super) fn did_not_say(&self) {
        self.told_at.fetch_or(1, Relaxed);
    }

    /// Whether its report is at most this old.
    pub(super) fn is_fresh(&self, now: Timestamp, age: Duration) -> bool {
        let at = self.told_at.load(Relaxed);
        at != 0 && at & 1 == 0 && now.since(Timestamp::from_nanos(at)) <= age
    }

    /// Whether it is known to report: it has, and has not left questions open for long.
    pub(super) fn reports(&self, now: Timestamp) -> bool {
        match self.told_at.load(Relaxed) {
            0 | 1 => false,
            at if at & 1 == 1 => now.since(Timestamp::from_nanos(at)) <= SILENT_AFTER,
            _ => true,
        }
    }

    /// Whether there was an outcome.
    pub(super) fn is_known(&self) -> bool {
        self.own.load(Relaxed) != 0
    }
}

fn blend(old: f32, newest: f32) -> f32 {
    (old * (newest / old).powf(NEWEST)).clamp(SHORTEST, LONGEST)
}

/// A latency after some time without news.
fn believed(seconds: f32, age: f32, average: f32) -> f32 {
    if age <= BELIEVED || seconds <= average || average <= 0.0 {
        return seconds;
    }
    average + (seconds - average) * BELIEVED / age
}

fn faded(errors: f32, age: f32) -> f32 {
    errors * (-age / ERRORS_FADE).exp2()
}

fn cost(average: f32) -> f32 {
    ERROR_COST.max(ERROR_COST_IN_LATENCIES * average)
}

/// Latency in seconds, 0 if it never succeeded, and error share.
#[derive(Clone, Copy)]
struct Own {
    seconds: f32,
    errors: f32,
}

impl Own {
    fn unpack(word: u64) -> Option<Self> {
        let half = |bits: u64| f32::from_bits(bits as u32);
        (word != 0).then(|| Self { seconds: half(word >> 32), errors: half(word) })
    }

    fn pack(self) -> u64 {
        (u64::from(self.seconds.to_bits()) << 32) | u64::from(self.errors.to_bits())
    }
}

/// Service time in seconds (0 if not said), error share in parts of 65,535, calls in flight with
/// those that were sent since.
#[derive(Clone, Copy)]
struct Told {
    seconds: f32,
    errors: f32,
    in_flight: u16,
}

impl Told {
    fn unpack(word: u64) -> Self {
        Self {
            seconds: f32::from_bits((word >> 32) as u32),
            errors: f32::from((word >> 16) as u16) / f32::from(u16::MAX),
            in_flight: word as u16,
        }
    }

    fn pack(self) -> u64 {
        let errors = (self.errors * f32::from(u16::MAX)) as u16;
        (u64::from(self.seconds.to_bits()) << 32)
            | (u64::from(errors) << 16)
            | u64::from(self.in_flight)
    }
}

#[cfg(test)]
#[path = "wait_tests.rs"]
mod tests;
