//! Weighted round robin: a rotation in which each endpoint comes up in proportion to the capacity
//! that its reports give it.
//!
//! ```text
//! weight = qps / (utilization + errorUtilizationPenalty × eps / qps)
//! ```
//!
//! Weights are taken anew every `weightUpdatePeriod`, by the pick that finds it over. An endpoint
//! without a usable weight counts as the mean of the others; where fewer than two have one, this
//! is round robin. A weight above ten times the mean counts as that, one below a hundredth of the
//! greatest as that.
//!
//! *Static stride*: turn `t` of `n` endpoints stands at place `p = t mod n` in round `r = t / n`. With
//! weights scaled so that the greatest is `M = 65,535`, the place is passed over when `(w·r + o) mod M
//! < M − w`; `o = p·M/2` spreads the rounds. So one of weight `w` is taken in `w` of `M` rounds, evenly,
//! and nothing but the turn is written.
//!
//! *Slow start*: an endpoint that is new lets turns of its own pass, so that it is taken as often as one
//! of weight `w · factor` would be, from the moment on at which it is new.
//!
//! Configured weights of endpoints have no effect while reports say more; round robin heeds them.
//!
//! Source: gRFC A58 (weights, blackout, expiration), A114 (utilization); gRPC's static stride
//! scheduler.

use super::choices::REDRAWS;
use super::group::{Candidates, Found};
use super::members::Members;
use super::round_robin::RoundRobin;
use crate::config::span;
use crate::{Draw, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// Settings of weighted round robin. Names and meanings are gRPC's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Config {
    /// What the share of errors adds to the utilization, 0 or more. 1.0.
    #[schemars(range(min = 0.0))]
    pub error_utilization_penalty: f64,
    /// How long reports must have come before they count; 0s: not at all. 10 s.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub blackout_period: Duration,
    /// How long a report counts, at least 1 ms. 3 min.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub weight_expiration_period: Duration,
    /// How often weights are taken anew; at least 100 ms. 1 s.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub weight_update_period: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            error_utilization_penalty: 1.0,
            blackout_period: Duration::from_secs(10),
            weight_expiration_period: Duration::from_secs(180),
            weight_update_period: Duration::from_secs(1),
        }
    }
}

const SHORTEST_PERIOD: Duration = Duration::from_millis(100);
/// The greatest weight of the rotation.
const GREATEST: u16 = u16::MAX;
/// Most that a weight may be in means, and least in greatest ones.
const MOST_MEANS: f64 = 10.0;
const LEAST_SHARE: f64 = 0.01;

#[derive(Debug)]
pub(super) struct WeightedRoundRobin {
    config: Config,
    plain: RoundRobin,
    /// Of the places.
    weights: Box<[AtomicU16]>,
    /// Whether enough weights are known.
    weighted: AtomicBool,
    turn: AtomicUsize,
    /// Nanoseconds of the next look at the reports.
    due: AtomicU64,
}

impl WeightedRoundRobin {
    pub(super) fn new<C>(members: Members<'_, C>, config: &Config) -> Self {
        Self {
            config: config.clone(),
            plain: RoundRobin::new(members),
            weights: (0..members.len()).map(|_| AtomicU16::new(GREATEST)).collect(),
            weighted: AtomicBool::new(false),
            turn: AtomicUsize::new(0),
            due: AtomicU64::new(0),
        }
    }

    pub(super) fn pick<'a, C>(
        &self,
        candidates: &Candidates<'a, '_, C>,
        draw: &mut impl Draw,
    ) -> Option<Found<'a, C>> {
        self.update(candidates, draw);
        if !self.weighted.load(Relaxed) {
            return self.plain.pick(candidates, draw);
        }
        let places = self.weights.len();
        // One that is in slow start and not to be taken this time.
        let mut spare = None;
        let mut passed = 0;
        // In any M rounds all places come up; with weights of at least a hundredth, in 101.
        for _ in 0..places.saturating_mul(101) {
            let turn = self.turn.fetch_add(1, Relaxed);
            let (place, round) = (turn.checked_rem(places)?, turn / places);
            let weight = self.weights.get(place)?.load(Relaxed);
            if !takes(weight, place, round) {
                continue;
            }
            if let Some(found) = candidates.usable(place) {
                if candidates.is_warm(found.member, draw) {
                    return Some(found);
                }
                spare = Some(found);
            }
            passed += 1;
            if passed > REDRAWS {
                break;
            }
        }
        spare
    }

    /// Takes the weights anew if it is time.
    fn update<C>(&self, candidates: &Candidates<'_, '_, C>, draw: &mut impl Draw) {
        let now = candidates.args.now;
        let due = self.due.load(Relaxed);
        if now < Timestamp::from_nanos(due) {
            return;
        }
        let next = now + self.config.weight_update_period.max(SHORTEST_PERIOD);
        if self.due.compare_exchange(due, next.as_nanos(), Relaxed, Relaxed).is_err() {
            return;
        }
        if due == 0 {
            // Clients that start together must not walk in step.
            self.turn.store(draw.bits() as usize >> 16, Relaxed);
        }
        let penalty = self.config.error_utilization_penalty;
        let penalty = if penalty > 0.0 { penalty.min(1e6) } else { 0.0 };
        let weights: Vec<_> = candidates
            .members
            .iter()
            .map(|member| {
                let Config { blackout_period, weight_expiration_period, .. } = self.config;
                let load = member.endpoint.load();
                load.capacity(now, penalty, blackout_period, weight_expiration_period)
            })
            .collect();
        let scaled = scale(&weights);
        self.weighted.store(scaled.is_some(), Relaxed);
        for (slot, weight) in self.weights.iter().zip(scaled.unwrap_or_default()) {
            slot.store(weight, Relaxed);
        }
    }
}

/// Whether a place takes its turn in this round.
fn takes(weight: u16, place: usize, round: usize) -> bool {
    let (weight, most) = (u64::from(weight), u64::from(GREATEST));
    let offset = place as u64 % 2 * (most / 2);
    let round = round as u64 % most;
    (weight * round + offset) % most >= most - weight
}

/// Weights for the rotation; none if fewer than two are known.
fn scale(weights: &[Option<f64>]) -> Option<Vec<u16>> {
    let known = || weights.iter().flatten();
    if known().count() < 2 {
        return None;
    }
    let mean = known().sum::<f64>() / known().count() as f64;
    let bounded = |weight: f64| weight.min(MOST_MEANS * mean);
    let greatest = bounded(known().copied().fold(0.0, f64::max));
    let scaled = |weight: &Option<f64>| {
        let share = bounded(weight.unwrap_or(mean)) / greatest;
        (share.clamp(LEAST_SHARE, 1.0) * f64::from(GREATEST)).round() as u16
    };
    Some(weights.iter().map(scaled).collect())
}

#[cfg(test)]
mod tests {
    use super::super::{PickArgs, Picker, Policy};
    use super::*;
    use crate::load::Report;
    use crate::{EndpointSet, EndpointSpec};
    use proptest::prelude::*;
    use std::net::SocketAddr;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_secs(seconds)
    }

    fn picker(endpoints: u16) -> Picker {
        let spec = |n| EndpointSpec::new(SocketAddr::from(([10, 0, 0, 1], n)));
        let config = super::super::Config {
            policy: Policy::WeightedRoundRobin,
            ..super::super::Config::default()
        };
        let specs = (1..=endpoints).map(spec).collect();
        Picker::new(EndpointSet::empty().update(specs, |_| ()).0, config)
    }

    fn report(picker: &Picker, place: usize, now: Timestamp, qps: f64, used: f64, eps: f64) {
        let report = Report { qps, eps, cpu_utilization: used, ..Report::default() };
        picker.set().members()[place].endpoint.load().reported(now, &report);
    }

    /// Picks of each, in percent.
    fn shares(picker: &Picker, now: Timestamp) -> Vec<f64> {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut shares = vec![0.0; picker.set().members().len()];
        for _ in 0..10_000 {
            let picked = picker.pick(&PickArgs::new(now), &mut || rng.u64(..)).expect("picked");
            let same = |one: &crate::Member| std::ptr::eq(one, picked.member);
            let place = picker.set().members().iter().position(same).expect("a member");
            shares[place] += 0.01;
        }
        shares
    }

    fn close(shares: &[f64], expected: &[f64]) {
        let differ = shares.iter().zip(expected).any(|(one, other)| (one - other).abs() > 1.0);
        assert!(!differ, "{shares:?} against {expected:?}");
    }

    #[test]
    fn shares_are_as_the_capacities() {
        let picker = picker(3);
        for second in 0..=11 {
            // 200, 100 and 100 / (0.5 + 0.5) calls per second.
            report(&picker, 0, at(second), 100.0, 0.5, 0.0);
            report(&picker, 1, at(second), 50.0, 0.5, 0.0);
            report(&picker, 2, at(second), 100.0, 0.5, 50.0);
        }
        close(&shares(&picker, at(11)), &[50.0, 25.0, 25.0]);
    }

    #[test]
    fn reports_count_after_the_blackout_and_until_they_expire() {
        let picker = picker(2);
        let tell = |now| {
            report(&picker, 0, now, 100.0, 0.25, 0.0);
            report(&picker, 1, now, 100.0, 0.75, 0.0);
        };
        tell(at(1));
        close(&shares(&picker, at(10)), &[50.0, 50.0]);
        tell(at(11));
        close(&shares(&picker, at(12)), &[75.0, 25.0]);
        close(&shares(&picker, at(190)), &[75.0, 25.0]);
        close(&shares(&picker, at(192)), &[50.0, 50.0]);
        tell(at(200));
        close(&shares(&picker, at(205)), &[50.0, 50.0]);
        close(&shares(&picker, at(211)), &[75.0, 25.0]);
    }

    #[test]
    fn without_a_weight_an_endpoint_counts_as_the_mean() {
        let picker = picker(3);
        for second in [1, 11] {
            report(&picker, 0, at(second), 100.0, 0.25, 0.0);
            report(&picker, 1, at(second), 100.0, 0.5, 0.0);
            report(&picker, 2, at(second), 0.0, 0.5, 0.0);
        }
        close(&shares(&picker, at(12)), &[44.4, 22.2, 33.3]);
    }

    /// As in Envoy, where slow start scales the weights of the schedule.
    #[test]
    fn a_new_endpoint_counts_with_its_weight_times_its_factor() {
        let spec = |n| EndpointSpec::new(SocketAddr::from(([10, 0, 0, 1], n)));
        let first = EndpointSet::empty().update((1..=3).map(spec).collect(), |_| ()).0;
        let set = first.update((1..=4).map(spec).collect(), |_| ()).0;
        let config = super::super::Config {
            policy: Policy::WeightedRoundRobin,
            slow_start: Some(super::super::slow_start::Config::default()),
            ..super::super::Config::default()
        };
        let picker = Picker::new(set, config);
        // New from its first look on.
        picker.pick(&PickArgs::new(at(1)), &mut || 0).expect("picked");
        let joined = picker.set().members()[3].endpoint.health().new_since(at(1));
        assert_eq!(joined, Some(at(1)));
        for second in 1..=31 {
            for (place, qps) in [200.0, 100.0, 100.0, 200.0].into_iter().enumerate() {
                report(&picker, place, at(second), qps, 0.5, 0.0);
            }
        }
        for (second, factor) in [(16, 0.5), (25, 0.8), (31, 1.0)] {
            let total = 4.0 + 2.0 * factor;
            let expected = [2.0, 1.0, 1.0, 2.0 * factor].map(|weight| 100.0 * weight / total);
            close(&shares(&picker, at(second)), &expected);
        }
        // Back from an ejection, at once.
        picker.set().members()[0].endpoint.health().set_unreachable(at(31), Timestamp::MAX);
        picker.set().members()[0].endpoint.health().set_reachable(at(31));
        let total = 4.2;
        close(&shares(&picker, at(31)), &[0.2, 1.0, 1.0, 2.0].map(|weight| 100.0 * weight / total));
    }

    #[test]
    fn one_weight_alone_is_round_robin() {
        let picker = picker(2);
        [1, 11].iter().for_each(|second| report(&picker, 0, at(*second), 100.0, 0.1, 0.0));
        close(&shares(&picker, at(12)), &[50.0, 50.0]);
    }

    #[test]
    fn absurd_weights_are_bounded() {
        let weights = [Some(1e300), Some(1.0), Some(1e-300), None];
        let scaled = scale(&weights).expect("three are known");
        assert_eq!(scaled[0], GREATEST);
        assert!(scaled.iter().all(|weight| *weight >= 655), "{scaled:?}");
        for penalty in [f64::NAN, -1.0, f64::INFINITY, f64::MAX] {
            let mut picker = picker(2);
            let mut config = picker.config().clone();
            config.weighted_round_robin.error_utilization_penalty = penalty;
            picker = Picker::new(picker.set().clone(), config);
            for second in [1, 11] {
                report(&picker, 0, at(second), 100.0, 0.5, 10.0);
                report(&picker, 1, at(second), 100.0, 0.5, 0.0);
            }
            assert!(shares(&picker, at(12))[0] > 0.5, "{penalty}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// Shares converge to the capacities that are reported, within 1 % of all calls.
        #[test]
        fn shares_converge(capacities in prop::collection::vec(1u32..=50, 2..10)) {
            let picker = picker(capacities.len() as u16);
            for second in 0..=11 {
                for (place, capacity) in capacities.iter().enumerate() {
                    report(&picker, place, at(second), f64::from(*capacity), 0.5, 0.0);
                }
            }
            let total = f64::from(capacities.iter().sum::<u32>());
            for (share, capacity) in shares(&picker, at(11)).iter().zip(&capacities) {
                let expected = 100.0 * f64::from(*capacity) / total;
                prop_assert!((share - expected).abs() < 1.0, "{share}, not {expected}");
            }
        }
    }

    proptest! {
        /// Each place is taken in `w` of `M` rounds, and in any stretch of them about as often.
        #[test]
        fn turns_are_in_proportion(weight in 655u16.., place in 0usize..8, from in 0usize..1_000_000) {
            let rounds = 6_554;
            let taken = (from..from + rounds).filter(|round| takes(weight, place, *round)).count();
            let share = f64::from(weight) / f64::from(GREATEST);
            prop_assert!((taken as f64 - share * rounds as f64).abs() <= 2.0, "{taken}");
        }
    }
}
