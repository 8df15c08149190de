//! Outlier detection: takes out endpoints that fail more than they should.
//!
//! Detectors, each with the percentage of detections that are enforced:
//!
//! - *consecutive*: n failures in a row of one class (5xx, gateway failure, local origin). Acts at
//!   the failure. A success ends the row. Unless `splitExternalLocalOriginErrors`, a failure
//!   on the way counts as a 5xx and as a gateway failure.
//! - *success rate*: at each sweep, among the endpoints with enough calls since the last one,
//!   those with `rate < mean − stdev × factor / 1000`.
//! - *failure percentage*: at each sweep, those at or above a fixed percentage. Not enforced by
//!   default.
//! - *latency*: at each sweep, among the endpoints with enough successes since the last one, those
//!   whose latency `L` (the `latencyQuantile` of the times to their response heads) is more than
//!   `max(M × latencyThreshold / 100, M + latencyMinimumExcess)`, `M` being the median of all `L`.
//!   The median holds still while less than half of the endpoints are slow, which a mean does not;
//!   the second term keeps noise of microseconds from counting. Latencies are counted in buckets,
//!   four to a doubling, so `L` is right within a quarter. Not enforced by default.
//!
//! In split mode (`splitExternalLocalOriginErrors`) the success rate and the failure percentage are
//! also taken of whether endpoints could be reached, with `enforcingLocalOriginSuccessRate` and
//! `enforcingFailurePercentageLocalOrigin`.
//!
//! The n-th ejection lasts `min(base × n, max(base, max))`; n falls by one at each sweep that finds
//! the endpoint in. An endpoint returns at the first sweep after its time. At most
//! `maxEjectionPercent` of the set, rounded down, is out at once; with `alwaysEjectOne` at least
//! one endpoint may be.
//!
//! With [`probation`](Config::probation), an endpoint whose time is over returns by one real call:
//! it is let through alone, its success puts the endpoint back, its failure ejects it again. The
//! n-th ejection then lasts `min(base × 2^(n−1), max(base, max))`, of which the second half is
//! drawn by chance; nothing waits for a sweep.
//!
//! Calls since the last sweep are counted in one word per endpoint (two halves: all,
//! succeeded), which the sweep swaps for an empty one.
//!
//! Source: Envoy "Outlier detection" and `OutlierDetection`; gRFC A50; for probation Finagle
//! "Failure accrual". Ours: the defaults of `maxEjectionPercent` and `alwaysEjectOne`, because 10 %
//! of a set of five is none; the worst are ejected first; and the detector of latency.

mod counts;
mod probation;
mod reason;
mod sweep;

pub(super) use counts::Counts;
pub use probation::{Admitted, Probe, Probed};
pub use reason::Reason;
pub use sweep::{Ejection, Sweep};

use super::{Health, Invalid};
use crate::config::{percent, span};
use crate::endpoint::{Endpoint, EndpointId};
use crate::{Draw, Failure, Outcome, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// Settings of outlier detection. Names and meanings are Envoy's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Config {
    /// 5xx in a row that eject; 0 turns it off. 5.
    pub consecutive_5xx: u32,
    /// Percent of these detections that eject. 100.
    #[serde(deserialize_with = "percent::deserialize")]
    #[schemars(with = "percent::Number")]
    pub enforcing_consecutive_5xx: u8,
    /// Gateway failures (502–504) in a row that eject; 0 turns it off. 5.
    pub consecutive_gateway_failure: u32,
    /// Percent of these detections that eject. 0.
    #[serde(deserialize_with = "percent::deserialize")]
    #[schemars(with = "percent::Number")]
    pub enforcing_consecutive_gateway_failure: u8,
    /// Failures on the way in a row that eject, in split mode; 0 turns it off. 5.
    pub consecutive_local_origin_failure: u32,
    /// Percent of these detections that eject. 100.
    #[serde(deserialize_with = "percent::deserialize")]
    #[schemars(with = "percent::Number")]
    pub enforcing_consecutive_local_origin_failure: u8,
    /// Split mode: failures on the way are counted apart from answers. false.
    pub split_external_local_origin_errors: bool,
    /// Time between sweeps. 10 s.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub interval: Duration,
    /// Length of the first ejection. 30 s.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub base_ejection_time: Duration,
    /// Length of the longest; the base if that is longer. 300 s.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub max_ejection_time: Duration,
    /// Largest random addition to an ejection. 0 s.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub max_ejection_time_jitter: Duration,
    /// Largest share of the set that is out at once. 50.
    #[serde(deserialize_with = "percent::deserialize")]
    #[schemars(with = "percent::Number")]
    pub max_ejection_percent: u8,
    /// Whether one endpoint may be out whatever the share. true.
    pub always_eject_one: bool,
    /// Whether a successful active health check ends an ejection. true.
    pub successful_active_health_check_uneject_host: bool,
    /// After an ejection one real call decides whether the endpoint returns. false.
    pub probation: bool,
    /// Percent of success rate detections that eject; 0 turns it off. 100.
    #[serde(deserialize_with = "percent::deserialize")]
    #[schemars(with = "percent::Number")]
    pub enforcing_success_rate: u8,
    /// Endpoints with enough calls that a comparison of success rates needs. 5.
    pub success_rate_minimum_hosts: u32,
    /// Calls in an interval that make an endpoint comparable. 100.
    pub success_rate_request_volume: u32,
    /// Thousandths of a standard deviation below the mean that eject. 1900.
    pub success_rate_stdev_factor: u32,
    /// Percentage of failures that ejects, at least 1. 85.
    #[serde(deserialize_with = "percent::deserialize")]
    #[schemars(with = "percent::Number")]
    pub failure_percentage_threshold: u8,
    /// Percent of these detections that eject; 0 turns it off. 0.
    #[serde(deserialize_with = "percent::deserialize")]
    #[schemars(with = "percent::Number")]
    pub enforcing_failure_percentage: u8,
    /// Endpoints with enough calls that the failure percentage needs. 5.
    pub failure_percentage_minimum_hosts: u32,
    /// Calls in an interval that make an endpoint's failure percentage count. 50.
    pub failure_percentage_request_volume: u32,
    /// In split mode, percent of detections by the rate of endpoints that were reached that eject;
    /// 0 turns it off. 100.
    #[serde(deserialize_with = "percent::deserialize")]
    #[schemars(with = "percent::Number")]
    pub enforcing_local_origin_success_rate: u8,
    /// In split mode, percent of detections by the percentage of failures on the way that eject; 0
    /// turns it off. 0.
    #[serde(deserialize_with = "percent::deserialize")]
    #[schemars(with = "percent::Number")]
    pub enforcing_failure_percentage_local_origin: u8,
    /// Percent of detections by latency that eject; 0 turns it off. 0.
    #[serde(deserialize_with = "percent::deserialize")]
    #[schemars(with = "percent::Number")]
    pub enforcing_latency: u8,
    /// The part of an endpoint's calls, in percent, that its latency is not exceeded by. 90.
    #[serde(deserialize_with = "percent::deserialize")]
    #[schemars(with = "percent::Number")]
    pub latency_quantile: u8,
    /// Percent of the median of all endpoints that a latency must exceed to eject. 300.
    pub latency_threshold: u32,
    /// How much more than the median it must be besides. 10 ms.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub latency_minimum_excess: Duration,
    /// Endpoints with enough calls that a comparison of latencies needs. 5.
    pub latency_minimum_hosts: u32,
    /// Successful calls in an interval that make an endpoint comparable. 50.
    pub latency_request_volume: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            consecutive_5xx: 5,
            enforcing_consecutive_5xx: 100,
            consecutive_gateway_failure: 5,
            enforcing_consecutive_gateway_failure: 0,
            consecutive_local_origin_failure: 5,
            enforcing_consecutive_local_origin_failure: 100,
            split_external_local_origin_errors: false,
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_time_jitter: Duration::ZERO,
            max_ejection_percent: 50,
            always_eject_one: true,
            successful_active_health_check_uneject_host: true,
            enforcing_success_rate: 100,
            success_rate_minimum_hosts: 5,
            success_rate_request_volume: 100,
            success_rate_stdev_factor: 1900,
            failure_percentage_threshold: 85,
            enforcing_failure_percentage: 0,
            failure_percentage_minimum_hosts: 5,
            failure_percentage_request_volume: 50,
            probation: false,
            enforcing_local_origin_success_rate: 100,
            enforcing_failure_percentage_local_origin: 0,
            enforcing_latency: 0,
            latency_quantile: 90,
            latency_threshold: 300,
            latency_minimum_excess: Duration::from_millis(10),
            latency_minimum_hosts: 5,
            latency_request_volume: 50,
        }
    }
}

impl Config {
    /// Without any detector: nothing is ejected, and what is ejected returns at the next sweep.
    #[must_use]
    pub fn off() -> Self {
        Self {
            consecutive_5xx: 0,
            consecutive_gateway_failure: 0,
            consecutive_local_origin_failure: 0,
            enforcing_success_rate: 0,
            enforcing_failure_percentage: 0,
            enforcing_local_origin_success_rate: 0,
            enforcing_failure_percentage_local_origin: 0,
            enforcing_latency: 0,
            ..Self::default()
        }
    }

    /// Whether no detector can eject.
    #[must_use]
    pub fn is_off(&self) -> bool {
        let consecutive = [
            (self.consecutive_5xx, self.enforcing_consecutive_5xx),
            (self.consecutive_gateway_failure, self.enforcing_consecutive_gateway_failure),
            (
                self.consecutive_local_origin_failure,
                self.enforcing_consecutive_local_origin_failure,
            ),
        ];
        consecutive.iter().all(|(count, enforcing)| *count == 0 || *enforcing == 0)
            && self.enforcing_success_rate == 0
            && self.enforcing_failure_percentage == 0
            && self.enforcing_local_origin_success_rate == 0
            && self.enforcing_failure_percentage_local_origin == 0
            && self.enforcing_latency == 0
    }

    /// What makes no sense, by the key of the value.
    #[must_use]
    pub fn problems(&self) -> Vec<Invalid> {
        let mut problems: Vec<_> = [
            ("interval", self.interval),
            ("baseEjectionTime", self.base_ejection_time),
            ("maxEjectionTime", self.max_ejection_time),
        ]
        .into_iter()
        .filter(|(_, span)| span.is_zero())
        .map(|(path, _)| Invalid::new(path, format!("`{path}` must be more than 0s")))
        .collect();
        if self.failure_percentage_threshold == 0 {
            let message = "`failurePercentageThreshold` must be at least 1: 0 ejects endpoints that \
                           never fail";
            problems.push(Invalid::new("failurePercentageThreshold", message));
        }
        if self.latency_quantile == 0 {
            problems.push(Invalid::new("latencyQuantile", "`latencyQuantile` must be at least 1"));
        }
        if self.latency_threshold <= 100 {
            let message = "`latencyThreshold` must be more than 100: half of the endpoints are \
                           slower than the median";
            problems.push(Invalid::new("latencyThreshold", message));
        }
        problems
    }

    /// How many endpoints of a set of this size may be out at once.
    #[must_use]
    pub fn allowed(&self, set_len: usize) -> usize {
        let share = set_len.saturating_mul(usize::from(self.max_ejection_percent.min(100))) / 100;
        share.max(usize::from(self.always_eject_one))
    }

    fn ejection_time(&self, ejections: u32, draw: &mut impl Draw) -> Duration {
        let longest = self.max_ejection_time.max(self.base_ejection_time);
        let span = if self.probation {
            let factor = 2u32.saturating_pow(ejections.saturating_sub(1));
            let span = self.base_ejection_time.saturating_mul(factor).min(longest);
            probation::equal_jitter(span, draw)
        } else {
            self.base_ejection_time.saturating_mul(ejections).min(longest)
        };
        if self.max_ejection_time_jitter.is_zero() {
            return span;
        }
        span.saturating_add(self.max_ejection_time_jitter.mul_f64(draw.unit()))
    }
}

/// Outlier detection of one destination. It holds settings only: counts live in the endpoints, and
/// the number of ejected ones in their set, so that new settings are a new detector.
#[derive(Clone, Debug)]
pub struct Detector {
    config: Config,
}

impl Detector {
    /// A detector with these settings.
    #[must_use]
    pub const fn new(config: Config) -> Self {
        Self { config }
    }

    /// Its settings.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Records how an attempt ended, in a set of `set_len` endpoints.
    pub fn record<C>(
        &self,
        endpoint: &Endpoint<C>,
        set_len: usize,
        outcome: Outcome,
        now: Timestamp,
        draw: &mut impl Draw,
    ) -> Option<Ejection> {
        let health = endpoint.health();
        let counts = &health.counts;
        match outcome {
            Outcome::Cancelled => None,
            Outcome::Success => {
                counts.answers.count(true);
                if self.config.split_external_local_origin_errors {
                    counts.reached.count(true);
                }
                counts.end_rows();
                None
            }
            Outcome::Failure(failure) => {
                let reason = self.detect(counts, failure, draw)?;
                self.eject(endpoint.id(), health, set_len, reason, now, draw)
            }
        }
    }

    /// Records how long a call that succeeded took to its response head. Costs a branch where
    /// latencies are not compared.
    pub fn observe<C>(&self, endpoint: &Endpoint<C>, took: Duration) {
        if self.config.enforcing_latency > 0 {
            endpoint.health().counts.observe(took);
        }
    }

    /// Counts a failure. Every row it belongs to grows, whichever of them ejects.
    fn detect(&self, counts: &Counts, failure: Failure, draw: &mut impl Draw) -> Option<Reason> {
        let config = &self.config;
        let split = config.split_external_local_origin_errors && failure.is_local_origin();
        let mut found = None;
        let mut row = |row: &AtomicU32, limit: u32, enforcing: u8, reason: fn(u32) -> Reason| {
            let length = row.fetch_add(1, Relaxed).saturating_add(1);
            if limit == 0 || length < limit {
                return;
            }
            row.store(0, Relaxed);
            if found.is_none() && enforced(enforcing, draw) {
                found = Some(reason(length));
            }
        };
        if config.split_external_local_origin_errors {
            counts.reached.count(!split);
        }
        if split {
            row(
                &counts.consecutive_local,
                config.consecutive_local_origin_failure,
                config.enforcing_consecutive_local_origin_failure,
                Reason::ConsecutiveLocalOrigin,
            );
            return found;
        }
        counts.answers.count(false);
        row(
            &counts.consecutive_5xx,
            config.consecutive_5xx,
            config.enforcing_consecutive_5xx,
            Reason::Consecutive5xx,
        );
        if failure.is_gateway() || failure.is_local_origin() {
            row(
                &counts.consecutive_gateway,
                config.consecutive_gateway_failure,
                config.enforcing_consecutive_gateway_failure,
                Reason::ConsecutiveGatewayFailure,
            );
        } else if counts.consecutive_gateway.load(Relaxed) != 0 {
            counts.consecutive_gateway.store(0, Relaxed);
        }
        if counts.consecutive_local.load(Relaxed) != 0 {
            // The endpoint answered, so the way to it is whole.
            counts.consecutive_local.store(0, Relaxed);
        }
        found
    }

    fn eject(
        &self,
        id: &EndpointId,
        health: &Health,
        set_len: usize,
        reason: Reason,
        now: Timestamp,
        draw: &mut impl Draw,
    ) -> Option<Ejection> {
        let allowed = self.config.allowed(set_len);
        let duration = health.eject(now, allowed, reason, self.config.probation, |n| {
            self.config.ejection_time(n, draw)
        })?;
        Some(Ejection { endpoint: id.clone(), reason, duration })
    }

    /// An active health check has succeeded: ends an ejection, if the endpoint is well by its
    /// checks and the settings say so. True if it was ejected.
    pub fn check_passed<C>(&self, endpoint: &Endpoint<C>, now: Timestamp) -> bool {
        let health = endpoint.health();
        if !health.is_ejected()
            || !health.is_well()
            || !self.config.successful_active_health_check_uneject_host
        {
            return false;
        }
        health.counts.end_rows();
        health.readmit(now)
    }
}

fn enforced(percent: u8, draw: &mut impl Draw) -> bool {
    percent >= 100 || draw.below(100) < usize::from(percent)
}

#[cfg(test)]
#[path = "outlier_tests.rs"]
mod tests;
