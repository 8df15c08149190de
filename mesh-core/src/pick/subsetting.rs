//! Subsetting: of a large set, each caller uses a few endpoints only.
//!
//! *Random*: endpoints are ordered by a hash of their id that is seeded per caller, and the first
//! `size` are kept. A change of the set changes at most one of them per endpoint that came or went.
//! Loads are even only on average: with `n` callers, an endpoint has `n·size/endpoints` of them,
//! give or take the root of that.
//!
//! *Deterministic*: endpoints in the order of their ids are shuffled the same way by all callers of
//! one round, and dealt out in hands of `size`: caller `c` is in round `c / hands` and gets hand
//! `c % hands`. Each round uses every endpoint once, but for those left over when `size` does not
//! divide their number; another round leaves others over. Loads differ by at most one per round. A
//! change of the set may change all hands.
//!
//! Kept endpoints of all priorities count alike. Source: random, gRFC A68 (ours: any seeded hash,
//! of the id); deterministic, "Site Reliability Engineering", chapter 20.

use super::caller::Caller;
use crate::endpoint::Member;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of subsetting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Config {
    /// How many endpoints a caller uses, at least 1; all if there are no more. 20.
    pub size: u32,
    /// Which. `Random`.
    pub mode: Mode,
}

impl Default for Config {
    fn default() -> Self {
        Self { size: 20, mode: Mode::default() }
    }
}

/// Which endpoints a caller uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub enum Mode {
    /// By chance, as stable as can be.
    #[default]
    Random,
    /// Dealt out by the number of the caller, as even as can be.
    Deterministic,
}

/// The places that a caller uses, ascending; `None`: all.
pub(super) fn kept<C>(members: &[Member<C>], config: &Config, caller: &Caller) -> Option<Vec<u32>> {
    let size = config.size.max(1) as usize;
    if members.len() <= size {
        return None;
    }
    let id = |place: &u32| members.get(*place as usize).map(|member| &member.spec.id);
    let mut places: Vec<u32> = (0..members.len() as u32).collect();
    match config.mode {
        Mode::Random => places.sort_by_cached_key(|place| id(place).map(|id| caller.hash(id))),
        Mode::Deterministic => {
            let hands = (members.len() / size) as u64;
            let (round, hand) = (caller.number / hands, caller.number % hands);
            let order = Caller::default().with_seed(round);
            places.sort_by_cached_key(|place| id(place).map(|id| (order.hash(id), id)));
            places.rotate_left(hand as usize * size);
        }
    }
    places.truncate(size);
    places.sort_unstable();
    Some(places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EndpointId, EndpointSet, EndpointSpec};
    use std::net::SocketAddr;

    fn set_of(ports: impl Iterator<Item = u16>) -> EndpointSet {
        let spec = |port| EndpointSpec::new(SocketAddr::from(([10, 0, 0, 1], port)));
        EndpointSet::empty().update(ports.map(spec).collect(), |_| ()).0
    }

    fn ids(set: &EndpointSet, config: &Config, caller: &Caller) -> Vec<EndpointId> {
        let kept = kept(set.members(), config, caller).expect("a part of them");
        kept.iter().map(|place| set.members()[*place as usize].spec.id.clone()).collect()
    }

    #[test]
    fn a_small_set_is_used_whole() {
        let config = Config { size: 5, ..Config::default() };
        assert!(kept(set_of(1..6).members(), &config, &Caller::default()).is_none());
        assert_eq!(ids(&set_of(1..7), &config, &Caller::default()).len(), 5);
        let none = Config { size: 0, ..Config::default() };
        assert_eq!(ids(&set_of(1..7), &none, &Caller::default()).len(), 1, "0 counts as 1");
    }

    #[test]
    fn a_random_subset_is_as_stable_as_the_set() {
        let config = Config { size: 10, mode: Mode::Random };
        for seed in 0..50 {
            let caller = Caller::default().with_seed(seed);
            let before = ids(&set_of(1..101), &config, &caller);
            let after = ids(&set_of(2..102), &config, &caller);
            let kept = before.iter().filter(|id| after.contains(id)).count();
            assert!(kept >= 8, "seed {seed}: one went and one came, {kept} of 10 stay");
        }
    }

    #[test]
    fn random_subsets_are_even_on_average() {
        let config = Config { size: 20, mode: Mode::Random };
        let set = set_of(1..101);
        let mut callers = [0u32; 100];
        for seed in 0..1_000 {
            for place in
                kept(set.members(), &config, &Caller::default().with_seed(seed)).expect("a part")
            {
                callers[place as usize] += 1;
            }
        }
        // 200 expected, with a deviation of 12.6.
        assert!(callers.iter().all(|count| (140..260).contains(count)), "{callers:?}");
    }

    #[test]
    fn deterministic_subsets_deal_out_all_endpoints() {
        let config = Config { size: 3, mode: Mode::Deterministic };
        let set = set_of(1..13);
        for round in 0..20u64 {
            let mut dealt: Vec<EndpointId> = (0..4)
                .flat_map(|hand| {
                    ids(&set, &config, &Caller::default().with_number(4 * round + hand))
                })
                .collect();
            dealt.sort();
            dealt.dedup();
            assert_eq!(dealt.len(), 12, "round {round}: each endpoint once");
        }
    }

    #[test]
    fn what_one_round_leaves_over_another_uses() {
        let config = Config { size: 4, mode: Mode::Deterministic };
        let set = set_of(1..12);
        let mut callers = std::collections::HashMap::<EndpointId, u32>::new();
        for number in 0..200 {
            for id in ids(&set, &config, &Caller::default().with_number(number)) {
                *callers.entry(id).or_default() += 1;
            }
        }
        assert_eq!(callers.len(), 11);
        // 100 rounds use 8 of 11: 73 each, give or take.
        assert!(callers.values().all(|count| (50..=100).contains(count)), "{callers:?}");
    }
}
