//! Retry budget: retries are a share of the calls, so that they cannot multiply an outage.
//!
//! ```text
//! may retry  ⇔  retries in the window < percent × calls in the window + min per second × window
//! ```
//!
//! The window is the last `interval`, kept as ten slots: when a slot is full and old its calls and
//! its retries are forgotten together, so the window is between nine and ten tenths of `interval`.
//!
//! A call deposits `percent` units, a retry withdraws 100, so a slot is one signed sum. Time and sum
//! share one word. A withdrawal is booked before the window is summed and taken back when it
//! was one too many: two threads at the edge may both be refused, never both be served.
//!
//! With [`Config::active_percent`] the retries at once are bounded too, by
//! `max(minRetryConcurrency, percent × (calls in flight + calls that wait for a connection))`.
//!
//! Source: Finagle `RetryBudget` (10 s, 20 %, 10 per second); Gateway API GEP-3388 for the names;
//! Envoy's `retry_budget` for the bound on retries at once.

use crate::Timestamp;
use crate::config::{percent, span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

const SLOTS: usize = 10;
/// Units of one retry.
const RETRY: i32 = 100;

/// Settings of a budget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Config {
    /// Retries per hundred calls. 20.
    #[serde(deserialize_with = "percent::deserialize")]
    #[schemars(with = "percent::Number")]
    pub percent: u8,
    /// The window over which both are counted, 1 s to 60 s. 10 s.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub interval: Duration,
    /// Retries per second that are allowed besides. 10.
    pub min_retries_per_second: u32,
    /// Retries at once per hundred calls at once; none: not bounded. Envoy's budget has 20.
    #[serde(deserialize_with = "percent::optional")]
    #[schemars(with = "Option<percent::Number>")]
    pub active_percent: Option<u8>,
    /// Retries at once that are allowed whatever the calls, where `activePercent` bounds them. 3.
    pub min_retry_concurrency: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            percent: 20,
            interval: Duration::from_secs(10),
            min_retries_per_second: 10,
            active_percent: None,
            min_retry_concurrency: 3,
        }
    }
}

impl Config {
    /// Whether `retries` at once, the one in question included, are too many for `calls` at once.
    #[must_use]
    pub fn is_crowded(&self, retries: u32, calls: impl FnOnce() -> u32) -> bool {
        let Some(percent) = self.active_percent else { return false };
        let share = u64::from(calls()) * u64::from(percent.min(100)) / 100;
        u64::from(retries) > share.max(u64::from(self.min_retry_concurrency))
    }
}

/// The retry budget of one destination.
#[derive(Debug)]
pub struct Budget {
    /// Number of the slot in the high half, signed sum of its units in the low half.
    slots: [AtomicU64; SLOTS],
    /// Nanoseconds per slot.
    slot: AtomicU64,
    /// Units per call in the low 32 bits, units per window besides in the high ones.
    rates: AtomicU64,
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(&Config::default())
    }
}

impl Budget {
    /// A budget with nothing deposited.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let budget =
            Self { slots: Default::default(), slot: AtomicU64::new(1), rates: AtomicU64::new(0) };
        budget.reconfigure(config);
        budget
    }

    /// Changes the settings. What was deposited stays, unless the interval changes.
    pub fn reconfigure(&self, config: &Config) {
        let interval = config.interval.clamp(Duration::from_secs(1), Duration::from_secs(60));
        let reserve = u64::from(config.min_retries_per_second) * interval.as_millis() as u64 / 1000;
        let reserve = (reserve * RETRY as u64).min(i32::MAX as u64);
        self.rates.store(reserve << 32 | u64::from(config.percent.min(100)), Relaxed);
        let slot = interval.as_nanos() as u64 / SLOTS as u64;
        if self.slot.swap(slot, Relaxed) != slot {
            // Their numbers are of other spans now.
            self.slots.iter().for_each(|slot| slot.store(0, Relaxed));
        }
    }

    /// A call begins: its share of a retry is deposited.
    pub fn deposit(&self, now: Timestamp) {
        self.add(self.number(now), (self.rates.load(Relaxed) & 0xff) as i32);
    }

    /// Takes one retry out, if the budget has one.
    #[must_use]
    pub fn withdraw(&self, now: Timestamp) -> bool {
        let number = self.number(now);
        self.add(number, -RETRY);
        let enough = self.sum(number) >= 0;
        if !enough {
            self.add(number, RETRY);
        }
        enough
    }

    /// Retries that could be taken out now.
    #[must_use]
    pub fn remaining(&self, now: Timestamp) -> u32 {
        u32::try_from(self.sum(self.number(now)) / i64::from(RETRY)).unwrap_or(0)
    }

    fn number(&self, now: Timestamp) -> u32 {
        // Wraps after years; a slot of that age would be taken for a new one, once.
        (now.as_nanos() / self.slot.load(Relaxed).max(1)) as u32
    }

    fn sum(&self, number: u32) -> i64 {
        let reserve = (self.rates.load(Relaxed) >> 32) as i64;
        let window = self.slots.iter().map(|slot| {
            let word = slot.load(Relaxed);
            let age = number.wrapping_sub((word >> 32) as u32);
            if age < SLOTS as u32 { i64::from(word as u32 as i32) } else { 0 }
        });
        reserve + window.sum::<i64>()
    }

    fn add(&self, number: u32, units: i32) {
        let Some(slot) = self.slots.get(number as usize % SLOTS) else { return };
        // Always `Ok`: the closure never refuses.
        let _ = slot.fetch_update(Relaxed, Relaxed, |word| {
            let own = (word >> 32) as u32;
            let sum = match number.wrapping_sub(own) {
                0 => word as u32 as i32,
                // The clock was read before another thread opened the next slot here: count it
                // there rather than wipe that slot.
                age if age > u32::MAX / 2 => {
                    let late = (word as u32 as i32).saturating_add(units);
                    return Some(u64::from(own) << 32 | u64::from(late as u32));
                }
                _ => 0,
            };
            Some(u64::from(number) << 32 | u64::from(sum.saturating_add(units) as u32))
        });
    }
}

#[cfg(test)]
#[path = "budget_tests.rs"]
mod tests;
