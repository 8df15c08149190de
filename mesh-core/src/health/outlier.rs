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
//!
//! The n-th ejection lasts `min(base × n, max(base, max))`; n falls by one at each sweep that finds
//! the endpoint in. An endpoint returns at the first sweep after its time. At most
//! `maxEjectionPercent` of the set, rounded down, is out at once; with `alwaysEjectOne` at least
//! one endpoint may be.
//!
//! Calls since the last sweep are counted in one word per endpoint (two halves: all,
//! succeeded), which the sweep swaps for an empty one.
//!
//! Source: Envoy "Outlier detection" and `OutlierDetection`; gRFC A50. Ours: the defaults of
//! `maxEjectionPercent` and `alwaysEjectOne`, because 10 % of a set of five is none; and the worst
//! are ejected first.

use super::{Health, Invalid};
use crate::config::{percent, span};
use crate::endpoint::{Endpoint, EndpointId, EndpointSet};
use crate::{Draw, Failure, Outcome, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
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
    /// Percentage of failures that ejects. 85.
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
    }

    /// What makes no sense, by the key of the value.
    #[must_use]
    pub fn problems(&self) -> Vec<Invalid> {
        [
            ("interval", self.interval),
            ("baseEjectionTime", self.base_ejection_time),
            ("maxEjectionTime", self.max_ejection_time),
        ]
        .into_iter()
        .filter(|(_, span)| span.is_zero())
        .map(|(path, _)| Invalid::new(path, format!("`{path}` must be more than 0s")))
        .collect()
    }

    /// How many endpoints of a set of this size may be out at once.
    #[must_use]
    pub fn allowed(&self, set_len: usize) -> usize {
        let share = set_len.saturating_mul(usize::from(self.max_ejection_percent.min(100))) / 100;
        share.max(usize::from(self.always_eject_one))
    }

    fn ejection_time(&self, ejections: u32, draw: &mut impl Draw) -> Duration {
        let longest = self.max_ejection_time.max(self.base_ejection_time);
        let span = self.base_ejection_time.saturating_mul(ejections).min(longest);
        if self.max_ejection_time_jitter.is_zero() {
            return span;
        }
        span.saturating_add(self.max_ejection_time_jitter.mul_f64(draw.unit()))
    }
}

/// Counts of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Counts {
    consecutive_5xx: AtomicU32,
    consecutive_gateway: AtomicU32,
    consecutive_local: AtomicU32,
    /// Since the last sweep: calls in the high half, successes in the low half.
    bucket: AtomicU64,
}

const CALL: u64 = 1 << 32;
const SUCCESS: u64 = 1;

impl Counts {
    fn count(&self, success: bool) {
        self.bucket.fetch_add(CALL + if success { SUCCESS } else { 0 }, Relaxed);
    }

    fn end_rows(&self) {
        // The loads spare a shared cache line three writes on each success.
        for row in [&self.consecutive_5xx, &self.consecutive_gateway, &self.consecutive_local] {
            if row.load(Relaxed) != 0 {
                row.store(0, Relaxed);
            }
        }
    }

    /// Calls and successes since the last time this was asked.
    fn take(&self) -> (u32, u32) {
        let bucket = self.bucket.swap(0, Relaxed);
        ((bucket >> 32) as u32, bucket as u32)
    }
}

/// Why an endpoint was ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// So many 5xx in a row.
    Consecutive5xx(u32),
    /// So many gateway failures in a row.
    ConsecutiveGatewayFailure(u32),
    /// So many failures on the way in a row.
    ConsecutiveLocalOrigin(u32),
    /// A success rate below that of the others; both in tenths of a percent.
    SuccessRate {
        /// Of the endpoint.
        rate: u32,
        /// What it should have been at least.
        required: u32,
    },
    /// So many percent of the calls failed.
    FailurePercentage(u32),
}

/// Largest number that [`Reason::pack`] keeps; larger ones are cut to it.
const MAX_PACKED: u32 = (1 << 24) - 1;

impl Reason {
    pub(super) fn pack(self) -> u64 {
        let (code, a, b) = match self {
            Self::Consecutive5xx(n) => (1, n, 0),
            Self::ConsecutiveGatewayFailure(n) => (2, n, 0),
            Self::ConsecutiveLocalOrigin(n) => (3, n, 0),
            Self::SuccessRate { rate, required } => (4, rate, required),
            Self::FailurePercentage(n) => (5, n, 0),
        };
        code << 48 | u64::from(a.min(MAX_PACKED)) << 24 | u64::from(b.min(MAX_PACKED))
    }

    pub(super) fn unpack(word: u64) -> Self {
        let a = (word >> 24) as u32 & MAX_PACKED;
        let b = word as u32 & MAX_PACKED;
        match word >> 48 {
            2 => Self::ConsecutiveGatewayFailure(a),
            3 => Self::ConsecutiveLocalOrigin(a),
            4 => Self::SuccessRate { rate: a, required: b },
            5 => Self::FailurePercentage(a),
            _ => Self::Consecutive5xx(a),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Consecutive5xx(n) => write!(f, "{n} consecutive 5xx"),
            Self::ConsecutiveGatewayFailure(n) => write!(f, "{n} consecutive gateway failures"),
            Self::ConsecutiveLocalOrigin(n) => write!(f, "{n} consecutive connection failures"),
            Self::SuccessRate { rate, required } => write!(
                f,
                "success rate {}.{} %, below {}.{} %",
                rate / 10,
                rate % 10,
                required / 10,
                required % 10
            ),
            Self::FailurePercentage(n) => write!(f, "{n} % of calls failed"),
        }
    }
}

/// An endpoint was taken out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ejection {
    /// Which.
    pub endpoint: EndpointId,
    /// Why.
    pub reason: Reason,
    /// For how long.
    pub duration: Duration,
}

/// What a sweep did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sweep {
    /// Endpoints taken out.
    pub ejected: Vec<Ejection>,
    /// Endpoints put back.
    pub readmitted: Vec<EndpointId>,
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
                counts.count(true);
                counts.end_rows();
                None
            }
            Outcome::Failure(failure) => {
                let reason = self.detect(counts, failure, draw)?;
                self.eject(endpoint.id(), health, set_len, reason, now, draw)
            }
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
        if split {
            row(
                &counts.consecutive_local,
                config.consecutive_local_origin_failure,
                config.enforcing_consecutive_local_origin_failure,
                Reason::ConsecutiveLocalOrigin,
            );
            return found;
        }
        counts.count(false);
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
        let duration =
            health.eject(now, allowed, reason, |n| self.config.ejection_time(n, draw))?;
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

    /// Puts back whose time is over, and compares the endpoints by their calls since the last
    /// sweep. To be called once per [`Config::interval`].
    pub fn sweep<C>(&self, set: &EndpointSet<C>, now: Timestamp, draw: &mut impl Draw) -> Sweep {
        let mut sweep = Sweep::default();
        let mut counted = Vec::new();
        let off = self.config.is_off();
        for member in set.members() {
            let endpoint = &*member.endpoint;
            let health = endpoint.health();
            let (calls, successes) = health.counts.take();
            if off {
                health.ejections.store(0, Relaxed);
            }
            if !health.is_ejected() {
                let _ = health
                    .ejections
                    .fetch_update(Relaxed, Relaxed, |ejections| ejections.checked_sub(1));
                counted.push(Counted { endpoint, calls, rate: rate(calls, successes) });
            } else if off || health.ejected_until() <= now {
                health.counts.end_rows();
                if health.readmit(now) {
                    sweep.readmitted.push(endpoint.id().clone());
                }
            }
        }
        // The worst first: the share that may be out is for them.
        counted.sort_by(|a, b| a.rate.total_cmp(&b.rate));
        let set_len = set.members().len();
        self.by_success_rate(&counted, set_len, now, draw, &mut sweep);
        self.by_failure_percentage(&counted, set_len, now, draw, &mut sweep);
        sweep
    }

    fn by_success_rate<C>(
        &self,
        counted: &[Counted<'_, C>],
        set_len: usize,
        now: Timestamp,
        draw: &mut impl Draw,
        sweep: &mut Sweep,
    ) {
        let config = &self.config;
        let comparable: Vec<_> = counted
            .iter()
            .filter(|one| one.calls > 0 && one.calls >= config.success_rate_request_volume)
            .collect();
        let hosts = comparable.len();
        if config.enforcing_success_rate == 0
            || hosts == 0
            || hosts < config.success_rate_minimum_hosts as usize
        {
            return;
        }
        let mean = comparable.iter().map(|one| one.rate).sum::<f64>() / hosts as f64;
        let variance =
            comparable.iter().map(|one| (one.rate - mean).powi(2)).sum::<f64>() / hosts as f64;
        let factor = f64::from(config.success_rate_stdev_factor) / 1000.0;
        let required = mean - variance.sqrt() * factor;
        for one in comparable.into_iter().take_while(|one| one.rate < required) {
            if enforced(config.enforcing_success_rate, draw) {
                let reason =
                    Reason::SuccessRate { rate: tenths(one.rate), required: tenths(required) };
                let endpoint = one.endpoint;
                sweep.ejected.extend(self.eject(
                    endpoint.id(),
                    endpoint.health(),
                    set_len,
                    reason,
                    now,
                    draw,
                ));
            }
        }
    }

    fn by_failure_percentage<C>(
        &self,
        counted: &[Counted<'_, C>],
        set_len: usize,
        now: Timestamp,
        draw: &mut impl Draw,
        sweep: &mut Sweep,
    ) {
        let config = &self.config;
        let comparable: Vec<_> = counted
            .iter()
            .filter(|one| one.calls > 0 && one.calls >= config.failure_percentage_request_volume)
            .collect();
        if config.enforcing_failure_percentage == 0
            || comparable.len() < config.failure_percentage_minimum_hosts as usize
        {
            return;
        }
        let threshold = f64::from(config.failure_percentage_threshold);
        for one in comparable {
            let failed = 100.0 - one.rate;
            if failed >= threshold && enforced(config.enforcing_failure_percentage, draw) {
                let endpoint = one.endpoint;
                sweep.ejected.extend(self.eject(
                    endpoint.id(),
                    endpoint.health(),
                    set_len,
                    Reason::FailurePercentage(failed as u32),
                    now,
                    draw,
                ));
            }
        }
    }
}

/// An endpoint with its calls of one interval.
struct Counted<'a, C> {
    endpoint: &'a Endpoint<C>,
    calls: u32,
    /// Percent of the calls that succeeded.
    rate: f64,
}

fn rate(calls: u32, successes: u32) -> f64 {
    if calls == 0 { 100.0 } else { 100.0 * f64::from(successes) / f64::from(calls) }
}

fn tenths(rate: f64) -> u32 {
    (rate * 10.0).round().max(0.0) as u32
}

fn enforced(percent: u8, draw: &mut impl Draw) -> bool {
    percent >= 100 || draw.below(100) < usize::from(percent)
}

#[cfg(test)]
#[path = "outlier_tests.rs"]
mod tests;
