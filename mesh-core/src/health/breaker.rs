//! Breaker of one endpoint: after failures in a row it refuses, then lets one attempt through.
//!
//! ```text
//!          n failures in a row                     open time passed, one attempt asks
//! closed ───────────────────────► open ───────────────────────────────────────────► half-open
//!   ▲                              ▲                                                   │
//!   │                              └──── probe failed: open again, twice as long ──────┤
//!   └───────────────────────────────────────── probe succeeded ───────────────────────┘
//! ```
//!
//! In half-open exactly one attempt, the *probe*, is admitted. A probe whose caller went away
//! says nothing: the next attempt becomes the probe. One that is never recorded gives way after
//! the open time. The open time is `open × 2^(n−1)`, at most `max_open`, plus up to `jitter` of
//! itself, `n` being the openings in a row.
//!
//! Results of attempts admitted before the breaker opened are ignored while it is not closed.
//!
//! State and instant share one word, so that the transitions are single compare-and-swaps.
//! Source: Finagle `FailureAccrualFactory`; Linkerd "Circuit Breaking" (1 s to 60 s, jitter 0.5).

use super::{EndpointState, StateKind, Tally};
use crate::config::{percent, span};
use crate::{Draw, Outcome, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Settings of a breaker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Config {
    /// Failures in a row that open it, at least 1. 5.
    #[schemars(range(min = 1))]
    pub consecutive_failures: u32,
    /// How long it stays open the first time. 1 s.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub open: Duration,
    /// How long it stays open at most, before jitter; `open` if that is longer. 60 s.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub max_open: Duration,
    /// Largest random addition to the open time, in percent of it. 50.
    #[serde(deserialize_with = "percent::deserialize")]
    #[schemars(with = "percent::Number")]
    pub jitter: u8,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            open: Duration::from_secs(1),
            max_open: Duration::from_secs(60),
            jitter: 50,
        }
    }
}

impl Config {
    fn open_for(&self, openings: u32, draw: &mut impl Draw) -> Duration {
        let doubled = self.open.saturating_mul(2u32.saturating_pow(openings.saturating_sub(1)));
        let base = doubled.min(self.max_open.max(self.open));
        base.saturating_add(base.mul_f64(draw.unit() * f64::from(self.jitter.min(100)) / 100.0))
    }
}

/// What the two low bits of the word say; the rest is the instant in nanoseconds.
const CLOSED: u64 = 0;
const OPEN: u64 = 1;
const HALF_OPEN: u64 = 2;
const STATE: u64 = 3;

/// How an attempt was admitted; to be handed back with its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a caller must know both")]
pub enum Admission {
    /// The breaker is closed.
    Closed,
    /// This attempt is the probe.
    Probe(Probe),
}

/// Tells one probe from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe(u64);

/// The breaker is open, or half-open with its probe under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refused {
    /// When it may admit a probe.
    pub until: Timestamp,
    /// From when that counts.
    now: Timestamp,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the breaker is open for another {:?}", self.until.since(self.now))
    }
}

impl std::error::Error for Refused {}

/// A change that is worth a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transition {
    /// It opened, for this long.
    Opened(Duration),
    /// It closed.
    Closed,
}

/// See the [module docs](self).
#[derive(Debug)]
pub struct Breaker {
    /// Instant and state; see [`STATE`].
    word: AtomicU64,
    failures: AtomicU32,
    openings: AtomicU32,
    since: AtomicU64,
    tally: Tally,
}

impl Breaker {
    pub(crate) const fn new(tally: Tally) -> Self {
        Self {
            word: AtomicU64::new(CLOSED),
            failures: AtomicU32::new(0),
            openings: AtomicU32::new(0),
            since: AtomicU64::new(0),
            tally,
        }
    }

    /// Whether it is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.word.load(Relaxed) == CLOSED
    }

    /// Whether [`Breaker::try_acquire`] would admit an attempt now.
    #[must_use]
    pub fn would_admit(&self, now: Timestamp) -> bool {
        let word = self.word.load(Relaxed);
        word == CLOSED || until(word) <= now
    }

    /// Asks for an attempt to be admitted.
    ///
    /// # Errors
    /// When it is open, or half-open with its probe under way.
    pub fn try_acquire(&self, now: Timestamp, config: &Config) -> Result<Admission, Refused> {
        let word = self.word.load(Relaxed);
        if word == CLOSED {
            return Ok(Admission::Closed);
        }
        if until(word) > now {
            return Err(Refused { until: until(word), now });
        }
        // The probe may take as long as the breaker may be open. A later stamp tells it from the
        // probe before, even when that was admitted at this same instant.
        let lease = now + config.max_open.max(Duration::from_nanos(4));
        let probe = pack(lease.max(until(word) + Duration::from_nanos(4)), HALF_OPEN);
        match self.word.compare_exchange(word, probe, Relaxed, Relaxed) {
            Ok(_) => Ok(Admission::Probe(Probe(probe))),
            Err(CLOSED) => Ok(Admission::Closed),
            Err(other) => Err(Refused { until: until(other), now }),
        }
    }

    /// Closes it, when it is not configured any more: nothing would be recorded that could.
    pub fn close(&self, now: Timestamp) {
        self.failures.store(0, Relaxed);
        self.openings.store(0, Relaxed);
        if self.word.swap(CLOSED, Relaxed) != CLOSED {
            self.since.store(now.as_nanos(), Relaxed);
            self.tally.changed();
        }
    }

    /// Records how an admitted attempt ended. Each admission is to be recorded once; an
    /// abandoned attempt as [`Outcome::Cancelled`].
    pub fn record(
        &self,
        admission: Admission,
        outcome: Outcome,
        now: Timestamp,
        config: &Config,
        draw: &mut impl Draw,
    ) -> Option<Transition> {
        match (admission, outcome) {
            (Admission::Closed, Outcome::Success) => {
                // The load spares a shared cache line a write on each success.
                if self.failures.load(Relaxed) != 0 {
                    self.failures.store(0, Relaxed);
                }
                None
            }
            (Admission::Closed, Outcome::Failure(_)) => {
                let failures = self.failures.fetch_add(1, Relaxed).saturating_add(1);
                (failures >= config.consecutive_failures)
                    .then(|| self.open(CLOSED, now, config, draw))?
            }
            (Admission::Probe(Probe(word)), Outcome::Success) => {
                self.word.compare_exchange(word, CLOSED, Relaxed, Relaxed).ok()?;
                self.failures.store(0, Relaxed);
                self.openings.store(0, Relaxed);
                self.since.store(now.as_nanos(), Relaxed);
                self.tally.changed();
                Some(Transition::Closed)
            }
            (Admission::Probe(Probe(word)), Outcome::Failure(_)) => {
                self.open(word, now, config, draw)
            }
            (Admission::Probe(Probe(word)), Outcome::Cancelled) => {
                // Due at once. Lost to a newer probe, there is nothing to give back.
                let due = pack(now, OPEN);
                let _ = self.word.compare_exchange(word, due, Relaxed, Relaxed);
                None
            }
            (Admission::Closed, Outcome::Cancelled) => None,
        }
    }

    fn open(
        &self,
        from: u64,
        now: Timestamp,
        config: &Config,
        draw: &mut impl Draw,
    ) -> Option<Transition> {
        let openings = self.openings.load(Relaxed).saturating_add(1);
        let span = config.open_for(openings, draw);
        self.word.compare_exchange(from, pack(now + span, OPEN), Relaxed, Relaxed).ok()?;
        self.openings.store(openings, Relaxed);
        self.since.store(now.as_nanos(), Relaxed);
        self.tally.changed();
        Some(Transition::Opened(span))
    }

    /// When it opened or closed last; `None` if it never did.
    pub(crate) fn changed_at(&self) -> Option<Timestamp> {
        let since = Timestamp::from_nanos(self.since.load(Relaxed));
        (since > Timestamp::ZERO).then_some(since)
    }

    /// Its state if it is not closed.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> Option<EndpointState> {
        let word = self.word.load(Relaxed);
        let failures = self.failures.load(Relaxed);
        let reason = match word & STATE {
            CLOSED => return None,
            HALF_OPEN => "the probe is under way".into(),
            _ => format!("{failures} failures in a row").into(),
        };
        let until = (word & STATE == OPEN).then(|| until(word));
        Some(EndpointState::new(now, StateKind::BreakerOpen, self.changed_at(), until, reason))
    }
}

const fn pack(at: Timestamp, state: u64) -> u64 {
    at.as_nanos() & !STATE | state
}

const fn until(word: u64) -> Timestamp {
    Timestamp::from_nanos(word & !STATE)
}

#[cfg(test)]
#[path = "breaker_tests.rs"]
mod tests;
