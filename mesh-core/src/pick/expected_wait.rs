//! Expected wait: of the endpoints that answered last and a few drawn ones, the one of least wait.
//!
//! ```text
//! candidates = the last 8 that answered ∪ `choiceCount` drawn
//! pick       = the one of least (in flight + 1) × service time + 1 s × error share
//! ```
//!
//! An endpoint that has just answered has a free place again, and what is known of it is newest.
//! The drawn ones see to it that others are found. Draws are by weight; of those that answered
//! last, one takes part with the chance `weight / greatest weight`, and in slow start as in any
//! policy, lest an endpoint of little weight is remembered from call to call.
//!
//! The first drawn one is taken unless another is better by enough: the waits of the others count
//! `a` to `a + 0.25` times, by chance. Where the latencies of an endpoint are steady, `a` is 1.25: that
//! one was a little faster is no reason to send it everything, and calls go by weight. Where they vary
//! (by a mean of more than 40 % from what was expected), queues come and go, and `a` is 0.9: what
//! answered last is worth more than what is unknown. With unequal weights an endpoint may have so
//! many more in flight as it weighs more: `in flight · mean weight / weight` takes the place of `in
//! flight`.
//!
//! *Reports.* Where at least two endpoints have reported within 5 ms, the candidates are those of
//! the last eight that reported within 100 ms, and the wait is that of their reports: nothing that
//! was seen from here is as new. Where fewer have, [`Picker::probes`](super::Picker::probes)
//! names three drawn ones to ask first, if the way to them is short (an eighth of the average
//! latency). Endpoints that do not report would never be picked so: when a draw names one of
//! them, the pick is made by what was seen from here, and of the last eight only those that do not
//! report take part. So each kind gets about what its weight is, and the drawn ones what they are
//! worth.
//!
//! Reports are never used without fresh ones among them: clients that have none but those of
//! their own calls would all return to the endpoint that was idle a moment ago.
//!
//! Cost: ten endpoints are looked at; no lock, no allocation.
//!
//! Source: ours. Against Prequal (NSDI 2024): asks only when what is known is stale; one number
//! instead of hot and cold. The formula is with [`Load::expected_wait`](crate::load::Load).

use super::Config;
use super::choices::Choices;
use super::group::{Candidates, Found};
use super::members::Members;
use super::probes::Probes;
use crate::Draw;
use crate::endpoint::Member;
use crate::load::Seat;
use std::cell::Cell;
use std::time::Duration;

/// How new a report is when it is as good as asking.
const FRESH: Duration = Duration::from_millis(5);
/// How many such reports make asking needless.
const ENOUGH: usize = 2;

/// How many are asked otherwise.
const ASKED: usize = 3;

/// Waits are told apart by chance when they differ by less than this share.
const BLUR: f64 = 0.25;
/// What the wait of any but the first drawn is multiplied by where latencies are steady, and where
/// they vary.
const STEADY: (f32, f64) = (0.25, 1.25);
const VARIED: (f32, f64) = (0.4, 0.9);

#[derive(Debug)]
pub(super) struct ExpectedWait {
    choices: Choices,
    /// The greatest weight; none if all are equal.
    heaviest: Option<u32>,
    /// The mean of unequal weights.
    mean_weight: Option<f32>,
    /// The number under which its members are remembered.
    group: u16,
}

impl ExpectedWait {
    pub(super) fn new<C>(members: Members<'_, C>, config: &Config) -> Self {
        let group = members.get(0).map_or(0, |member| member.endpoint.load().new_group());
        let weights = || members.iter().map(|member| member.spec.weight);
        let heaviest = weights().max().filter(|heaviest| weights().any(|one| one != *heaviest));
        let total: f64 = weights().map(f64::from).sum();
        let mean_weight = heaviest.map(|_| (total / members.len() as f64) as f32);
        Self { choices: Choices::new(members, config.choices()), heaviest, mean_weight, group }
    }

    pub(super) fn pick<'a, C>(
        &self,
        candidates: &Candidates<'a, '_, C>,
        draw: &mut impl Draw,
    ) -> Option<Found<'a, C>> {
        let now = candidates.args.now;
        let found = match candidates.len() {
            1 => candidates.usable(0)?,
            _ if !self.knows_enough(candidates) => {
                let spread = candidates.picker.set().recent().spread();
                self.by_observation(candidates, draw, against(spread), |_| true)?
            }
            _ => self.by_kind(candidates, draw)?,
        };
        found.member.endpoint.load().picked(now, Seat::new(self.group, found.place));
        Some(found)
    }

    /// Whether enough endpoints have just reported.
    fn knows_enough<C>(&self, candidates: &Candidates<'_, '_, C>) -> bool {
        let now = candidates.args.now;
        let recent = candidates.picker.set().recent();
        let is_fresh = |place: &usize| {
            let member = candidates.members.get(*place);
            member.is_some_and(|member| member.endpoint.load().is_reported(now, FRESH))
        };
        recent.is_reporting(now)
            && recent.places(self.group).filter(is_fresh).take(ENOUGH).count() == ENOUGH
    }

    /// By what endpoints say if a draw names one that reports, else among those that do not.
    fn by_kind<'a, C>(
        &self,
        candidates: &Candidates<'a, '_, C>,
        draw: &mut impl Draw,
    ) -> Option<Found<'a, C>> {
        let now = candidates.args.now;
        let reports = |member: &Member<C>| member.endpoint.load().reports(now);
        let drawn = self.choices.place(candidates, draw).and_then(|place| candidates.usable(place));
        if !drawn.is_some_and(|drawn| reports(drawn.member)) {
            // What a draw may bring instead, of either kind, has no precedence here.
            return self.by_observation(candidates, draw, VARIED.1, |member| !reports(member));
        }
        let chance = Cell::new(draw.bits());
        let wait = |member: &Member<C>| {
            let wait = member.endpoint.load().reported_wait(now)?;
            Some(wait * (1.0 + BLUR * next(&chance)))
        };
        match self.least_recent(candidates, draw, wait) {
            Some((found, _)) => Some(found),
            None => self.by_observation(candidates, draw, VARIED.1, |_| true),
        }
    }

    /// By what was seen from here, of those that answered last only among some.
    fn by_observation<'a, C>(
        &self,
        candidates: &Candidates<'a, '_, C>,
        draw: &mut impl Draw,
        against: f64,
        among: impl Fn(&Member<C>) -> bool,
    ) -> Option<Found<'a, C>> {
        let now = candidates.args.now;
        let chance = Cell::new(draw.bits());
        let first = Cell::new(true);
        let wait = |member: &Member<C>| {
            let load = member.endpoint.load();
            let wait = match self.mean_weight {
                None => load.expected_wait(now),
                Some(mean) => load.weighted_wait(now, member.spec.weight as f32 / mean),
            };
            if first.replace(false) { wait } else { wait * (against + BLUR * next(&chance)) }
        };
        let drawn = self.choices.least_and_load(candidates, draw, wait);
        let recent =
            self.least_recent(candidates, draw, |member| among(member).then(|| wait(member)));
        let (found, _) = match (recent, drawn) {
            (Some(recent), Some(drawn)) if recent.1 < drawn.1 => recent,
            (_, Some(drawn)) => drawn,
            (recent, None) => recent?,
        };
        Some(found)
    }

    /// The one of least wait of those that answered last.
    fn least_recent<'a, C>(
        &self,
        candidates: &Candidates<'a, '_, C>,
        draw: &mut impl Draw,
        wait: impl Fn(&Member<C>) -> Option<f64>,
    ) -> Option<(Found<'a, C>, f64)> {
        let mut best: Option<(Found<'a, C>, f64)> = None;
        for place in candidates.picker.set().recent().places(self.group) {
            // The wait first: it costs less than to ask whether the endpoint can be picked.
            let Some(member) = candidates.members.get(place) else { continue };
            let Some(wait) = wait(member) else { continue };
            if best.as_ref().is_some_and(|(_, least)| wait >= *least) {
                continue;
            }
            let Some(found) = candidates.usable(place) else { continue };
            let by_weight =
                |heaviest: u32| draw.below(heaviest as usize) < member.spec.weight as usize;
            if self.heaviest.is_none_or(by_weight) && candidates.is_warm(member, draw) {
                best = Some((found, wait));
            }
        }
        best
    }

    /// Three to ask, unless enough is known.
    pub(super) fn probes<'a, C>(
        &self,
        candidates: &Candidates<'a, '_, C>,
        draw: &mut impl Draw,
    ) -> Probes<'a, C> {
        let mut probes = Probes::default();
        if candidates.len() < 2 || self.knows_enough(candidates) {
            return probes;
        }
        for _ in 0..ASKED {
            let Some(place) = self.choices.place(candidates, draw) else { continue };
            let Some(found) = candidates.usable(place) else { continue };
            let load = found.member.endpoint.load();
            if load.may_report(candidates.args.now) {
                load.sit(Seat::new(self.group, found.place));
                probes.push(found.member);
                probes.wait = true;
            }
        }
        probes
    }
}

/// What the wait of any but the first drawn is multiplied by at least, where the logarithms of latencies are so
/// far from what was expected.
fn against(spread: f32) -> f64 {
    let part = (spread - STEADY.0) / (VARIED.0 - STEADY.0);
    STEADY.1 + (VARIED.1 - STEADY.1) * f64::from(part.clamp(0.0, 1.0))
}

/// A number in `[0, 1)` from a chain that one draw began: coarse, and cheaper than a draw.
fn next(chain: &Cell<u64>) -> f64 {
    let bits = chain.get().wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
    chain.set(bits);
    (bits >> 54) as f64 / 1024.0
}

#[cfg(test)]
#[path = "expected_wait_tests.rs"]
mod tests;
