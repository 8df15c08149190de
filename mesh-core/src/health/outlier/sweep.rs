//! The sweep: puts back whose time is over, and compares the endpoints of a set.

use super::{Detector, Reason, enforced};
use crate::endpoint::{Endpoint, EndpointId, EndpointSet};
use crate::{Draw, Timestamp};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

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

/// An endpoint with its calls of one interval.
struct Rated<'a, C> {
    endpoint: &'a Endpoint<C>,
    calls: u32,
    /// Percent of the calls that succeeded.
    rate: f64,
}

/// One kind of calls whose rates are compared.
struct Kind {
    enforcing_success_rate: u8,
    enforcing_failure_percentage: u8,
    success_rate: fn(u32, u32) -> Reason,
    failure_percentage: fn(u32) -> Reason,
}

/// Whom a sweep has judged so far.
struct Round {
    set_len: usize,
    now: Timestamp,
    sweep: Sweep,
}

impl Detector {
    /// Puts back whose time is over, and compares the endpoints by their calls since the last
    /// sweep. To be called once per [`Config::interval`](super::Config::interval).
    pub fn sweep<C>(&self, set: &EndpointSet<C>, now: Timestamp, draw: &mut impl Draw) -> Sweep {
        let config = &self.config;
        let off = config.is_off();
        let mut round = Round { set_len: set.members().len(), now, sweep: Sweep::default() };
        let (mut answers, mut reached, mut latencies) = (Vec::new(), Vec::new(), Vec::new());
        for member in set.members() {
            let endpoint = &*member.endpoint;
            let health = endpoint.health();
            let counts = &health.counts;
            let rated =
                |(calls, successes)| Rated { endpoint, calls, rate: rate(calls, successes) };
            let (answered, was_reached) =
                (rated(counts.answers.take()), rated(counts.reached.take()));
            let latency = counts.take_latency(
                f64::from(config.latency_quantile) / 100.0,
                config.latency_request_volume,
            );
            if off {
                health.ejections.store(0, Relaxed);
            }
            if !health.is_ejected() {
                let _ = health
                    .ejections
                    .fetch_update(Relaxed, Relaxed, |ejections| ejections.checked_sub(1));
                answers.push(answered);
                reached.push(was_reached);
                latencies.extend(latency.map(|latency| (endpoint, latency)));
            } else if off || health.ejected_until() <= now {
                if health.is_on_probation() && config.probation && !off {
                    health.set_due();
                    continue;
                }
                counts.end_rows();
                if health.readmit(now) {
                    round.sweep.readmitted.push(endpoint.id().clone());
                }
            }
        }
        let kind = Kind {
            enforcing_success_rate: config.enforcing_success_rate,
            enforcing_failure_percentage: config.enforcing_failure_percentage,
            success_rate: |rate, required| Reason::SuccessRate { rate, required },
            failure_percentage: Reason::FailurePercentage,
        };
        self.by_rates(answers, &kind, draw, &mut round);
        if config.split_external_local_origin_errors {
            let kind = Kind {
                enforcing_success_rate: config.enforcing_local_origin_success_rate,
                enforcing_failure_percentage: config.enforcing_failure_percentage_local_origin,
                success_rate: |rate, required| Reason::LocalOriginSuccessRate { rate, required },
                failure_percentage: Reason::LocalOriginFailurePercentage,
            };
            self.by_rates(reached, &kind, draw, &mut round);
        }
        self.by_latency(latencies, draw, &mut round);
        round.sweep
    }

    fn by_rates<C>(
        &self,
        mut rated: Vec<Rated<'_, C>>,
        kind: &Kind,
        draw: &mut impl Draw,
        round: &mut Round,
    ) {
        // The worst first: the share that may be out is for them.
        rated.sort_by(|a, b| a.rate.total_cmp(&b.rate));
        self.by_success_rate(&rated, kind, draw, round);
        self.by_failure_percentage(&rated, kind, draw, round);
    }

    fn by_success_rate<C>(
        &self,
        rated: &[Rated<'_, C>],
        kind: &Kind,
        draw: &mut impl Draw,
        round: &mut Round,
    ) {
        let config = &self.config;
        let comparable: Vec<_> = rated
            .iter()
            .filter(|one| one.calls > 0 && one.calls >= config.success_rate_request_volume)
            .collect();
        let hosts = comparable.len();
        if kind.enforcing_success_rate == 0
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
            if enforced(kind.enforcing_success_rate, draw) {
                let reason = (kind.success_rate)(tenths(one.rate), tenths(required));
                self.judge(one.endpoint, reason, draw, round);
            }
        }
    }

    fn by_failure_percentage<C>(
        &self,
        rated: &[Rated<'_, C>],
        kind: &Kind,
        draw: &mut impl Draw,
        round: &mut Round,
    ) {
        let config = &self.config;
        let comparable: Vec<_> = rated
            .iter()
            .filter(|one| one.calls > 0 && one.calls >= config.failure_percentage_request_volume)
            .collect();
        if kind.enforcing_failure_percentage == 0
            || comparable.len() < config.failure_percentage_minimum_hosts as usize
        {
            return;
        }
        let threshold = f64::from(config.failure_percentage_threshold);
        for one in comparable {
            let failed = 100.0 - one.rate;
            if failed >= threshold && enforced(kind.enforcing_failure_percentage, draw) {
                let reason = (kind.failure_percentage)(failed as u32);
                self.judge(one.endpoint, reason, draw, round);
            }
        }
    }

    fn by_latency<C>(
        &self,
        mut latencies: Vec<(&Endpoint<C>, Duration)>,
        draw: &mut impl Draw,
        round: &mut Round,
    ) {
        let config = &self.config;
        if config.enforcing_latency == 0 || latencies.len() < config.latency_minimum_hosts as usize
        {
            return;
        }
        // The slowest first.
        latencies.sort_by(|(_, a), (_, b)| b.cmp(a));
        let Some((_, median)) = latencies.get(latencies.len() / 2) else { return };
        let median = *median;
        let most = median.mul_f64(f64::from(config.latency_threshold) / 100.0);
        let most = most.max(median.saturating_add(config.latency_minimum_excess));
        for (endpoint, latency) in latencies.into_iter().take_while(|(_, latency)| *latency > most)
        {
            if enforced(config.enforcing_latency, draw) {
                let tenths =
                    |span: Duration| u32::try_from(span.as_micros() / 100).unwrap_or(u32::MAX);
                let reason = Reason::Latency { latency: tenths(latency), median: tenths(median) };
                self.judge(endpoint, reason, draw, round);
            }
        }
    }

    fn judge<C>(
        &self,
        endpoint: &Endpoint<C>,
        reason: Reason,
        draw: &mut impl Draw,
        round: &mut Round,
    ) {
        let health = endpoint.health();
        let ejection = self.eject(endpoint.id(), health, round.set_len, reason, round.now, draw);
        round.sweep.ejected.extend(ejection);
    }
}

fn rate(calls: u32, successes: u32) -> f64 {
    if calls == 0 { 100.0 } else { 100.0 * f64::from(successes) / f64::from(calls) }
}

fn tenths(rate: f64) -> u32 {
    (rate * 10.0).round().max(0.0) as u32
}
