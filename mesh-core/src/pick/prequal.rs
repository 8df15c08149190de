//! Prequal: asks a few drawn endpoints with each call, and goes by the answers of the last ones.
//!
//! ```text
//! with each call   ask `probesPerCall` drawn endpoints, and do not wait for them
//! pick             of the pool of answers: the cold one of least latency, else the one of least
//!                  requests in flight; drawn, if the pool holds fewer than two
//! uses             b = max(1, (1 + reuseDelta) / ((1 − m/n)·probesPerCall − removalsPerCall))
//! ```
//!
//! `m` is `poolSize`, `n` the number of endpoints; a `b` that is not whole is rounded by chance so that
//! its mean stays. Where the quotient is negative, because the pool holds a good part of the set, `b`
//! has no bound: age and newer answers end an answer's life. What is hot and what is removed is told
//! in `load/pool.rs`.
//!
//! Draws are by weight, and an endpoint in slow start is asked as often as it counts: so it is
//! picked. One that does not answer is drawn only when too few do. Of calls that fail fast Prequal
//! as published says nothing; an endpoint that does so has little in flight and draws traffic until
//! outlier detection ejects it.
//!
//! Groups of one set (localities, subsets) share its pool.
//!
//! Source: Wydrowski, Kleinberg, Rumble, Archer, "Load is not what you should balance: Introducing
//! Prequal" (NSDI 2024): asynchronous mode, defaults of §4 and §5. Ours: a share of a probe or of a
//! removal is drawn, where theirs is spread evenly.

use super::choices::Choices;
use super::group::{Candidates, Found};
use super::members::Members;
use super::probes::{MAX_PROBES, Probes};
use crate::Draw;
use crate::config::span;
use crate::load::{Seat, pool};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::time::Duration;

/// Settings of Prequal. Defaults are the paper's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Config {
    /// Answers that are kept, 2 to 32. 16.
    #[schemars(range(min = 2, max = 32))]
    pub pool_size: u32,
    /// How long an answer counts, 2ms to 1h. 1 s.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub max_age: Duration,
    /// Endpoints asked with each call on average, above 0 and at most 5. 3.
    #[schemars(range(min = 0.0, max = 5.0))]
    pub probes_per_call: f64,
    /// Answers taken away with each call on average, in turn the oldest and the worst; 0 or more, and
    /// less than `probesPerCall`. 1.
    #[schemars(range(min = 0.0))]
    pub removals_per_call: f64,
    /// The share of answers, 0 to 1, of which the most requests in flight are the most of a cold
    /// endpoint: at 0 requests in flight decide alone, at 1 latency. 0.84.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub rif_quantile: f64,
    /// How fast answers may gather in the pool, above −1; more is more uses of each. 1.
    pub reuse_delta: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pool_size: 16,
            max_age: Duration::from_secs(1),
            probes_per_call: 3.0,
            removals_per_call: 1.0,
            rif_quantile: 0.84,
            reuse_delta: 1.0,
        }
    }
}

/// Shortest and longest that an answer may count.
const AGES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_secs(3600));
/// Fewer answers than this leave no choice.
const ENOUGH: usize = 2;

impl Config {
    /// What is wrong with it, by key, and what helps. A [`Picker`](super::Picker) that gets it all
    /// the same takes the nearest value that is right.
    pub(crate) fn problems(&self) -> Vec<(&'static str, &'static str, &'static str)> {
        let mut problems = Vec::new();
        let mut check = |holds: bool, key, what, help| {
            if !holds {
                problems.push((key, what, help));
            }
        };
        let sizes = ENOUGH as u32..=pool::MOST as u32;
        let most = MAX_PROBES as f64;
        check(
            sizes.contains(&self.pool_size),
            "poolSize",
            "a pool holds 2 to 32 answers",
            "16 suffices, by the paper",
        );
        check(
            (AGES.0..=AGES.1).contains(&self.max_age),
            "maxAge",
            "an answer counts for 2ms to 1h",
            "write `1s`",
        );
        check(
            self.probes_per_call > 0.0 && self.probes_per_call <= most,
            "probesPerCall",
            "a call asks more than 0 and at most 5 endpoints",
            "3 by the paper; below 1 the pool is often empty",
        );
        check(
            self.removals_per_call >= 0.0 && self.removals_per_call.is_finite(),
            "removalsPerCall",
            "a call takes away 0 answers or more",
            "1 by the paper",
        );
        check(
            matches!(
                self.removals_per_call.partial_cmp(&self.probes_per_call),
                Some(Ordering::Less) | None
            ),
            "removalsPerCall",
            "`removalsPerCall` must be less than `probesPerCall`, or the pool is always empty",
            "1 of 3 by the paper",
        );
        check(
            (0.0..=1.0).contains(&self.rif_quantile),
            "rifQuantile",
            "a quantile is a number from 0 to 1",
            "0.84 by the paper, which finds 0.6 to 0.9 good",
        );
        check(
            self.reuse_delta > -1.0 && self.reuse_delta.is_finite(),
            "reuseDelta",
            "`reuseDelta` is a finite number above -1",
            "1 by the paper",
        );
        problems
    }

    /// With every value brought into its range, the default in place of what is no number.
    fn bounded(&self) -> Self {
        let own = Self::default();
        let number = |value: f64, low: f64, high: f64, or: f64| {
            if value.is_nan() { or } else { value.clamp(low, high) }
        };
        let most = MAX_PROBES as f64;
        let probes_per_call = number(self.probes_per_call, 0.001, most, own.probes_per_call);
        Self {
            pool_size: self.pool_size.clamp(ENOUGH as u32, pool::MOST as u32),
            max_age: self.max_age.clamp(AGES.0, AGES.1),
            probes_per_call,
            removals_per_call: number(self.removals_per_call, 0.0, probes_per_call, 0.0),
            rif_quantile: number(self.rif_quantile, 0.0, 1.0, own.rif_quantile),
            reuse_delta: number(self.reuse_delta, -1.0, 1e6, own.reuse_delta),
        }
    }

    /// How often an answer may be used, where there are so many endpoints.
    fn uses(&self, endpoints: usize) -> f64 {
        let held = f64::from(self.pool_size) / endpoints.max(1) as f64;
        let net = (1.0 - held) * self.probes_per_call - self.removals_per_call;
        if net <= 0.0 {
            return f64::INFINITY;
        }
        ((1.0 + self.reuse_delta) / net).max(1.0)
    }
}

#[derive(Debug)]
pub(super) struct Prequal {
    config: Config,
    /// Names one.
    drawn: Choices,
    uses: f64,
    /// The number under which its members are known to the pool.
    group: u16,
}

impl Prequal {
    pub(super) fn new<C>(members: Members<'_, C>, config: &Config) -> Self {
        let config = config.bounded();
        let load = members.get(0).map(|member| member.endpoint.load());
        if let Some(pool) = load.and_then(|load| load.pool()) {
            pool.configure(config.pool_size, config.rif_quantile);
        }
        Self {
            drawn: Choices::new(members, 1),
            uses: config.uses(members.len()),
            group: load.map_or(0, |load| load.new_group()),
            config,
        }
    }

    pub(super) fn pick<'a, C>(
        &self,
        candidates: &Candidates<'a, '_, C>,
        draw: &mut impl Draw,
    ) -> Option<Found<'a, C>> {
        let found = match self.best(candidates, draw) {
            Some(found) => found,
            None => self.drawn.least(candidates, draw, |_| 0.0)?,
        };
        let seat = Seat::new(self.group, found.place);
        found.member.endpoint.load().picked(candidates.args.now, seat);
        Some(found)
    }

    /// By the hot-cold lexicographic rule; none if there are too few answers.
    fn best<'a, C>(
        &self,
        candidates: &Candidates<'a, '_, C>,
        draw: &mut impl Draw,
    ) -> Option<Found<'a, C>> {
        let (now, longest) = (candidates.args.now, self.config.max_age);
        let pool = candidates.picker.set().recent().pool();
        let mut best: Option<(Found<'a, C>, pool::Answer, (bool, f32))> = None;
        let mut usable = 0;
        for answer in pool.answers(self.group, now, longest) {
            let Some(found) = candidates.usable(answer.place) else { continue };
            usable += 1;
            // Cold before hot, and within each by its own measure.
            let rank = match pool.is_hot(answer.said) {
                false => (false, answer.said.latency),
                true => (true, f32::from(answer.said.in_flight)),
            };
            if best.as_ref().is_none_or(|(_, _, least)| rank < *least) {
                best = Some((found, answer, rank));
            }
        }
        let (found, answer, _) = best.filter(|_| usable >= ENOUGH)?;
        pool.used(answer, self.uses, draw.unit());
        for _ in 0..rounded(self.config.removals_per_call, draw) {
            pool.remove_one(self.group, now, longest);
        }
        Some(found)
    }

    /// Those to ask with this call.
    pub(super) fn probes<'a, C>(
        &self,
        candidates: &Candidates<'a, '_, C>,
        draw: &mut impl Draw,
    ) -> Probes<'a, C> {
        let mut probes = Probes::default();
        if candidates.len() < 2 {
            return probes;
        }
        for _ in 0..rounded(self.config.probes_per_call, draw) {
            let Some(place) = self.drawn.place(candidates, draw) else { continue };
            let Some(found) = candidates.usable(place) else { continue };
            let load = found.member.endpoint.load();
            let asked = load.may_report(candidates.args.now);
            if asked && candidates.is_warm(found.member, draw) {
                load.sit(Seat::new(self.group, found.place));
                probes.push(found.member);
            }
        }
        probes
    }
}

/// A whole number whose mean is `value`.
fn rounded(value: f64, draw: &mut impl Draw) -> usize {
    let whole = value.trunc();
    let more = value - whole;
    whole as usize + usize::from(more > 0.0 && draw.unit() < more)
}

#[cfg(test)]
#[path = "prequal_tests.rs"]
mod tests;
