//! Concurrency: finds out by its latency how much a server can work on at once.
//!
//! ```text
//! gradient = clamp(minRTT × (1 + buffer) / sampleRTT, 0.5, 2)
//! limit    = clamp(gradient × limit + √(gradient × limit), minConcurrency, maxConcurrencyLimit)
//! ```
//!
//! `sampleRTT` is a percentile of the latencies of one window; `minRTT` the same percentile of
//! `requestCount` requests while the limit is held at `minConcurrency`, so that none of them waits
//! for another.
//!
//! ```text
//!            requestCount latencies seen: the limit from before
//! measuring ────────────────────────────────────────────────────► sampling ─┐ each window:
//!  limit =  ◄────────────────────────────────────────────────────          ◄┘ a new limit
//!  minimum   interval (+ jitter) over, or five windows at the minimum
//! ```
//!
//! A request that began before the measurement did does not count in it. A window without requests
//! changes nothing.
//!
//! Units: latencies from admission to the end of the response; the limit in requests.
//! Cost: a copy of four bytes per request that ends, a selection in at most 1,000 values per window.
//!
//! Source: Envoy "Adaptive concurrency" and its API, whose names and defaults these are; its code
//! for the headroom, which its page gives as √limit. Ours: of the latencies of a window at most
//! 1,000 are kept, each with equal probability.

use crate::config::{percent, span};
use crate::{Draw, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Most latencies that are kept of one window.
const KEPT: usize = 1_000;
/// Windows at the minimum after which `minRTT` is in doubt.
const DOUBTFUL: u32 = 5;

/// Settings of a [`Controller`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Config {
    /// Which percentile of a window stands for it, at least 1. 50.
    #[serde(deserialize_with = "percent::deserialize")]
    #[schemars(with = "percent::Number")]
    pub sample_aggregate_percentile: u8,
    /// Highest limit, at least `minRtt.minConcurrency`. 1,000.
    pub max_concurrency_limit: u32,
    /// Length of a window, at least 1 ms. 100 ms.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub concurrency_update_interval: Duration,
    /// How the latency of a server without overload is measured.
    pub min_rtt: MinRtt,
}

/// How the latency without overload is measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct MinRtt {
    /// Time between two measurements, at least 1 ms. 60 s.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub interval: Duration,
    /// Requests of one measurement, 1 to 1,000. 50.
    pub request_count: u32,
    /// Longest random addition to `interval`, in percent of it. 15.
    #[serde(deserialize_with = "percent::deserialize")]
    #[schemars(with = "percent::Number")]
    pub jitter: u8,
    /// The limit during a measurement, and the lowest at all; at least 1. 3.
    pub min_concurrency: u32,
    /// How far latencies may exceed the measured one without lowering the limit, in percent. 25.
    #[serde(deserialize_with = "percent::deserialize")]
    #[schemars(with = "percent::Number")]
    pub buffer: u8,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sample_aggregate_percentile: 50,
            max_concurrency_limit: 1_000,
            concurrency_update_interval: Duration::from_millis(100),
            min_rtt: MinRtt::default(),
        }
    }
}

impl Default for MinRtt {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(60),
            request_count: 50,
            jitter: 15,
            min_concurrency: 3,
            buffer: 25,
        }
    }
}

/// Finds the limit of one server. See the [module docs](self).
///
/// ```
/// use mesh_core::Timestamp;
/// use mesh_core::concurrency::{Config, Controller};
/// use std::time::Duration;
///
/// let mut controller = Controller::new(Config::default(), Timestamp::ZERO);
/// assert_eq!(controller.limit(), 3);
/// let mut now = Timestamp::ZERO;
/// for _ in 0..1_000 {
///     let began = now;
///     now = now + Duration::from_millis(10);
///     controller.record(began, now, &mut || 0);
/// }
/// assert!(controller.limit() > 100, "the latency does not rise");
/// ```
#[derive(Debug)]
pub struct Controller {
    config: Config,
    limit: u32,
    phase: Phase,
    /// `minRTT`, once it was measured.
    least: Option<u32>,
    /// Latencies of the window in microseconds.
    window: Vec<u32>,
    /// How many there were, kept or not.
    seen: u64,
    /// When `minRTT` is measured again.
    measure_at: Timestamp,
    /// Windows in a row that ended at the minimum.
    at_minimum: u32,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Since then; the limit to go back to.
    Measuring { since: Timestamp, before: u32 },
    /// A window, until then.
    Sampling { until: Timestamp },
}

impl Controller {
    /// A controller that begins to measure.
    #[must_use]
    pub fn new(config: Config, now: Timestamp) -> Self {
        let limit = minimum(&config);
        Self {
            config,
            limit,
            phase: Phase::Measuring { since: now, before: limit },
            least: None,
            window: Vec::new(),
            seen: 0,
            measure_at: now,
            at_minimum: 0,
        }
    }

    /// Requests that may be served at once.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// The settings in force.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The measured latency of the server without overload.
    #[must_use]
    pub fn min_rtt(&self) -> Option<Duration> {
        self.least.map(|micros| Duration::from_micros(micros.into()))
    }

    /// A request that was admitted at `began` has ended by itself. One that was refused or given up
    /// says nothing about the server, and is not recorded.
    pub fn record(&mut self, began: Timestamp, now: Timestamp, draw: &mut impl Draw) {
        let latency = u32::try_from(now.since(began).as_micros()).unwrap_or(u32::MAX).max(1);
        match self.phase {
            Phase::Measuring { since, before } => {
                if began < since {
                    return;
                }
                self.keep(latency, draw);
                if self.window.len() >= self.wanted() {
                    self.least = self.close();
                    self.limit = before;
                    self.measure_at = now + self.pause(draw);
                    self.sample(now);
                }
            }
            Phase::Sampling { until } => {
                if now >= until {
                    self.update();
                    if now >= self.measure_at || self.at_minimum >= DOUBTFUL {
                        self.phase = Phase::Measuring { since: now, before: self.limit };
                        self.limit = minimum(&self.config);
                        self.at_minimum = 0;
                        return;
                    }
                    self.sample(now);
                }
                self.keep(latency, draw);
            }
        }
    }

    fn sample(&mut self, now: Timestamp) {
        let window = self.config.concurrency_update_interval.max(Duration::from_millis(1));
        self.phase = Phase::Sampling { until: now + window };
    }

    /// Ends a window with a new limit.
    fn update(&mut self) {
        let (Some(least), Some(sample)) = (self.least, self.close()) else { return };
        let allowed = f64::from(least) * (1.0 + f64::from(self.config.min_rtt.buffer) / 100.0);
        let gradient = (allowed / f64::from(sample)).clamp(0.5, 2.0);
        let limit = gradient * f64::from(self.limit);
        // From a float `as` saturates.
        let limit = (limit + limit.sqrt()) as u32;
        let lowest = minimum(&self.config);
        self.limit = limit.clamp(lowest, self.config.max_concurrency_limit.max(lowest));
        self.at_minimum = if self.limit == lowest { self.at_minimum + 1 } else { 0 };
    }

    /// Keeps a latency: all of them with equal probability, once there are too many (Vitter's
    /// algorithm R).
    fn keep(&mut self, latency: u32, draw: &mut impl Draw) {
        self.seen += 1;
        if self.window.len() < KEPT {
            self.window.push(latency);
            return;
        }
        let place = draw.below(usize::try_from(self.seen).unwrap_or(usize::MAX));
        if let Some(kept) = self.window.get_mut(place) {
            *kept = latency;
        }
    }

    /// The percentile of the window, which is empty then; `None` if it was before.
    fn close(&mut self) -> Option<u32> {
        let percentile = usize::from(self.config.sample_aggregate_percentile.clamp(1, 100));
        let rank = (self.window.len() * percentile).div_ceil(100).checked_sub(1)?;
        let (_, latency, _) = self.window.select_nth_unstable(rank);
        let latency = *latency;
        self.window.clear();
        self.seen = 0;
        Some(latency)
    }

    fn wanted(&self) -> usize {
        usize::try_from(self.config.min_rtt.request_count).unwrap_or(KEPT).clamp(1, KEPT)
    }

    fn pause(&self, draw: &mut impl Draw) -> Duration {
        let MinRtt { interval, jitter, .. } = self.config.min_rtt;
        let share = draw.unit() * f64::from(jitter.min(100)) / 100.0;
        let jitter = Duration::try_from_secs_f64(interval.as_secs_f64() * share);
        interval.saturating_add(jitter.unwrap_or_default())
    }
}

fn minimum(config: &Config) -> u32 {
    config.min_rtt.min_concurrency.max(1)
}

#[cfg(test)]
#[path = "concurrency_tests.rs"]
mod tests;
