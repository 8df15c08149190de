//! What ring hash and Maglev have in common, and what bounds their load.

use super::*;
use crate::affinity::{self, Status};
use crate::endpoint::{Declared, EndpointId, EndpointSpec};
use crate::hash::cookie::Cookie;
use crate::hash::xxh64;
use proptest::prelude::*;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

const NOW: Timestamp = Timestamp::from_nanos(1_000_000_000);
const BOTH: [Policy; 2] = [Policy::RingHash, Policy::Maglev];

fn address(n: u32) -> SocketAddr {
    let [_, a, b, c] = n.to_be_bytes();
    SocketAddr::from(([10, a, b, c], 80))
}

fn spec(n: u32) -> EndpointSpec {
    EndpointSpec::new(address(n))
}

fn set(specs: impl IntoIterator<Item = EndpointSpec>) -> EndpointSet {
    EndpointSet::empty().update(specs.into_iter().collect(), |_| ()).0
}

fn config(policy: Policy) -> Config {
    Config { policy, ..Config::default() }
}

fn picker(policy: Policy, specs: impl IntoIterator<Item = EndpointSpec>) -> Picker {
    Picker::new(set(specs), config(policy))
}

fn key(n: u64) -> u64 {
    xxh64(&n.to_le_bytes())
}

/// Where a hash goes; nothing is left to chance.
fn goes(picker: &Picker, hash: u64) -> String {
    goes_with(picker, &PickArgs::new(NOW).with_hash(hash))
}

fn goes_with(picker: &Picker, args: &PickArgs<'_>) -> String {
    let mut chance = || -> u64 { panic!("a hash leaves nothing to chance") };
    picker.pick(args, &mut chance).unwrap().member.endpoint.id().to_string()
}

fn map(picker: &Picker, keys: u64) -> Vec<String> {
    (0..keys).map(|n| goes(picker, key(n))).collect()
}

fn moved(before: &[String], after: &[String]) -> f64 {
    let moved = before.iter().zip(after).filter(|(before, after)| before != after).count();
    moved as f64 / before.len() as f64
}

#[test]
fn a_hash_keeps_its_endpoint_whatever_the_order_of_the_list() {
    for policy in BOTH {
        let forth = map(&picker(policy, (0..20).map(spec)), 2_000);
        let back = map(&picker(policy, (0..20).rev().map(spec)), 2_000);
        assert_eq!(forth, back, "{policy:?}");
    }
}

#[test]
fn without_a_hash_chance_decides() {
    for policy in BOTH {
        let picker = picker(policy, (0..4).map(spec));
        let mut seen = HashMap::<String, u32>::new();
        let mut draw = fastrand::Rng::with_seed(7);
        for _ in 0..1_000 {
            let picked = picker.pick(&PickArgs::new(NOW), &mut || draw.u64(..)).unwrap();
            *seen.entry(picked.member.endpoint.id().to_string()).or_default() += 1;
        }
        assert!(seen.len() == 4 && seen.values().all(|count| *count > 150), "{policy:?} {seen:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// A change of one in `n` moves `1/n + ε` of the keys at most: on a ring its own and no other up
    /// to 64 endpoints, 1/64 of all besides beyond that; on a table 1/50 besides.
    #[test]
    fn a_change_of_the_set_moves_few_keys(
        n in prop_oneof![2u32..=64, 65u32..2_000],
        who: prop::sample::Index,
    ) {
        const KEYS: u64 = 20_000;
        let who = who.index(n as usize) as u32;
        for policy in BOTH {
            let besides = match policy {
                Policy::Maglev => 0.02,
                _ if n <= 64 => 0.0,
                _ => 1.0 / 64.0,
            };
            let with = map(&picker(policy, (0..n).map(spec)), KEYS);
            let without = map(&picker(policy, (0..n).filter(|one| *one != who).map(spec)), KEYS);
            let id = address(who).to_string();
            let own = with.iter().filter(|at| **at == id).count() as f64 / KEYS as f64;
            let share = moved(&with, &without);
            prop_assert!(share >= own && share <= own + besides, "{policy:?}: {share} of {own}");
            // Four standard deviations of what 256 random arcs have, or fewer of a larger set.
            let fair = 1.0 / f64::from(n);
            let arcs = (16_384.0 / f64::from(n)).clamp(1.0, 256.0);
            let epsilon = besides + 4.0 * fair / arcs.sqrt() + 0.005;
            prop_assert!(share <= fair + epsilon, "{policy:?}: {share}, not 1/{n} + {epsilon}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Whoever of however many comes or goes, with whatever weight: beside its own keys one in twenty
    /// moves on a table; on a ring, whose size is kept, about as many again as its own.
    #[test]
    fn one_that_comes_or_goes_moves_its_share_of_the_keys(
        weights in prop::collection::vec(1u32..5, 2..40),
        who: prop::sample::Index,
    ) {
        const KEYS: u64 = 4_000;
        let who = who.index(weights.len());
        let spec = |n: usize| spec(n as u32).with_weight(weights[n]);
        let total: u32 = weights.iter().sum();
        for policy in BOTH {
            // A ring of 1,024 entries is not even enough to be measured.
            let mut config = config(policy);
            config.ring_hash.minimum_ring_size = Some(1 << 14);
            let all = (0..weights.len()).map(spec);
            let with = map(&Picker::new(set(all), config.clone()), KEYS);
            let others = (0..weights.len()).filter(|n| *n != who).map(spec);
            let without = map(&Picker::new(set(others), config), KEYS);
            let id = address(who as u32).to_string();
            let own = with.iter().filter(|at| **at == id).count() as f64 / KEYS as f64;
            let expected = f64::from(weights[who]) / f64::from(total);
            prop_assert!((own - expected).abs() < 0.05, "{policy:?}: {own}, not {expected}");
            let share = moved(&with, &without);
            let others = if policy == Policy::RingHash { own + 0.05 } else { 0.05 };
            prop_assert!(share >= own && share <= own + others, "{policy:?}: {share} of {own}");
        }
    }
}

/// Whatever hash a stranger arrives at, there is one answer, and no search beyond the table.
#[test]
fn chosen_hashes_find_an_endpoint_and_always_the_same() {
    for policy in BOTH {
        let picker = picker(policy, (0..10).map(spec));
        let chosen = (0..64).flat_map(|bit| [1 << bit, u64::MAX << bit, (1 << bit) - 1]);
        for hash in chosen.chain([0, u64::MAX]) {
            let first = goes(&picker, hash);
            assert_eq!(goes(&picker, hash), first, "{policy:?} {hash:x}");
        }
    }
}

#[test]
fn an_endpoint_that_is_out_moves_its_own_keys_and_spreads_them() {
    for policy in BOTH {
        let picker = picker(policy, (0..10).map(spec));
        let before = map(&picker, 5_000);
        let out = &picker.set().members()[3].endpoint;
        out.health().set_unreachable(NOW, Timestamp::MAX);
        let during = map(&picker, 5_000);
        let mut heirs = HashMap::<&str, u32>::new();
        for (before, during) in before.iter().zip(&during) {
            if before == out.id().as_str() {
                *heirs.entry(during).or_default() += 1;
            } else {
                assert_eq!(before, during, "{policy:?}");
            }
        }
        assert_eq!(heirs.len(), 9, "{policy:?} {heirs:?}");
        out.health().set_reachable(NOW);
        assert_eq!(map(&picker, 5_000), before, "{policy:?}: they come back");
    }
}

#[test]
fn a_lone_survivor_is_found() {
    for policy in BOTH {
        let mut config = config(policy);
        config.panic_threshold = 0;
        let picker = Picker::new(set((0..2_000).map(spec)), config);
        for member in &picker.set().members()[1..] {
            member.endpoint.health().set_unreachable(NOW, Timestamp::MAX);
        }
        let survivor = picker.set().members()[0].endpoint.id().to_string();
        assert!(map(&picker, 50).iter().all(|id| *id == survivor), "{policy:?}");
        picker.set().members()[0].endpoint.health().set_unreachable(NOW, Timestamp::MAX);
        let none = picker.pick(&PickArgs::new(NOW).with_hash(1), &mut || 0);
        assert!(matches!(none, Err(NoPick::AllOut { total: 2_000, .. })), "{policy:?}");
    }
}

#[test]
fn a_retry_goes_to_another_endpoint_and_always_to_the_same() {
    for policy in BOTH {
        let picker = picker(policy, (0..5).map(spec));
        let mut tried: Vec<EndpointId> = Vec::new();
        for _ in 0..5 {
            let args = PickArgs::new(NOW).with_hash(key(1)).with_avoid(&tried);
            let next = goes_with(&picker, &args);
            assert_eq!(goes_with(&picker, &args), next, "{policy:?}");
            assert!(!tried.iter().any(|id| id.as_str() == next), "{policy:?}");
            tried.push(next.as_str().into());
        }
        let args = PickArgs::new(NOW).with_hash(key(1)).with_avoid(&tried);
        let picked = picker.pick(&args, &mut || 0).unwrap();
        assert_eq!(picked.reason, Reason::Retried);
        assert_eq!(picked.member.endpoint.id(), &tried[0], "the first again");
    }
}

/// 1 % of the weights needs a ring of some 10,000 entries per endpoint.
#[test]
fn shares_converge_to_the_weights() {
    const KEYS: u64 = 400_000;
    for policy in BOTH {
        let mut config = config(policy);
        config.ring_hash.minimum_ring_size = Some(1 << 18);
        let weights = [1, 2, 3, 4];
        let specs = (0..).zip(weights).map(|(n, weight)| spec(n).with_weight(weight));
        let picker = Picker::new(set(specs), config);
        let mut counts = HashMap::<String, u32>::new();
        for n in 0..KEYS {
            *counts.entry(goes(&picker, key(n))).or_default() += 1;
        }
        for (n, weight) in (0..).zip(weights) {
            let share = f64::from(counts[&address(n).to_string()]) / KEYS as f64;
            let expected = f64::from(weight) / 10.0;
            assert!((share - expected).abs() < 0.01, "{policy:?} {n}: {share}");
        }
    }
}

#[test]
fn keys_keep_to_their_level_too() {
    for policy in BOTH {
        let specs = (0..4).map(spec).chain((4..8).map(|n| spec(n).with_priority(1)));
        let picker = picker(policy, specs);
        for member in &picker.set().members()[..2] {
            member.endpoint.health().set_unreachable(NOW, Timestamp::MAX);
        }
        // Half of level 0 is available: it gets 70 % of the keys, the same each time.
        let goes = map(&picker, 10_000);
        assert_eq!(map(&picker, 10_000), goes, "{policy:?}");
        let first: Vec<String> = (0..4).map(|n| address(n).to_string()).collect();
        let share = goes.iter().filter(|id| first.contains(id)).count() as f64 / 10_000.0;
        assert!((share - 0.7).abs() < 0.02, "{policy:?} {share}");
    }
}

/// One key gets all the calls: they fill the endpoints evenly instead of one.
#[test]
fn bounded_load_spreads_what_one_endpoint_has_no_room_for() {
    for policy in BOTH {
        let mut config = config(policy);
        config.ring_hash.hash_balance_factor = Some(150);
        config.maglev.hash_balance_factor = Some(150);
        let picker = Picker::new(set((0..10).map(spec)), config);
        let mut now = NOW;
        for call in 0..1_000u32 {
            now = now + Duration::from_millis(1);
            let args = PickArgs::new(now).with_hash(key(1));
            let picked = picker.pick(&args, &mut || 0).unwrap();
            let load = picked.member.endpoint.load();
            // Not above 150 % of the mean of all before it, rounded up.
            let room = f64::from((call + 1) * 15).div_euclid(100.0) + 2.0;
            assert!(f64::from(load.in_flight()) <= room, "{policy:?} {call}: {}", load.in_flight());
            load.begin();
        }
        let loads = picker.set().members().iter().map(|member| member.endpoint.load().in_flight());
        assert!(loads.clone().max() <= Some(151) && loads.sum::<u32>() == 1_000, "{policy:?}");
    }
}

#[test]
fn bounded_load_leaves_calls_where_there_is_room() {
    for policy in BOTH {
        let unbounded = picker(policy, (0..10).map(spec));
        let mut config = config(policy);
        config.ring_hash.hash_balance_factor = Some(125);
        config.maglev.hash_balance_factor = Some(125);
        let bounded = Picker::new(set((0..10).map(spec)), config);
        for member in bounded.set().members() {
            (0..5).for_each(|_| member.endpoint.load().begin());
        }
        assert_eq!(map(&unbounded, 2_000), map(&bounded, 2_000), "{policy:?}");
    }
}

fn session(strict: bool, statuses: &[Status]) -> affinity::Config {
    let mut config = affinity::Config::new(Cookie::new("session").unwrap());
    config.strict = strict;
    config.override_statuses = statuses.to_vec();
    config
}

#[test]
fn a_session_goes_to_its_endpoint_while_that_may_take_it() {
    use Status::{Degraded, Draining, Healthy};
    let usual = &[Healthy, Degraded][..];
    let with_draining = &[Healthy, Degraded, Draining][..];
    let (set, _) = EndpointSet::<()>::empty().update((0..5).map(spec).collect(), |_| ());
    for (declared, statuses, there) in [
        (Declared::Healthy, usual, true),
        (Declared::Degraded, usual, true),
        (Declared::Draining, usual, false),
        (Declared::Draining, with_draining, true),
        (Declared::Unhealthy, with_draining, false),
        (Declared::Healthy, &[], false),
        (Declared::Degraded, &[Healthy], false),
    ] {
        let specs = (0..4).map(spec).chain([spec(4).with_declared(declared)]);
        let (set, _) = set.update(specs.collect(), |_| ());
        let picker = Picker::new(set, Config::default());
        for strict in [false, true] {
            let config = session(strict, statuses);
            let args = PickArgs::new(NOW).with_pinned(Pinned::new(address(4), &config));
            let picked = picker.pick(&args, &mut || 0);
            let case = format!("{declared:?} {statuses:?} {strict}");
            match (there, strict) {
                (true, _) => {
                    let picked = picked.unwrap();
                    assert_eq!(picked.member.endpoint.id().as_str(), "10.0.0.4:80", "{case}");
                    assert_eq!(picked.reason, Reason::Session, "{case}");
                }
                (false, false) => assert_ne!(picked.unwrap().reason, Reason::Session, "{case}"),
                (false, true) => assert!(matches!(picked, Err(NoPick::Session { .. })), "{case}"),
            }
        }
    }
}

#[test]
fn a_session_counts_an_endpoint_as_degraded_whose_health_check_says_so() {
    let picker = picker(Policy::RoundRobin, (0..3).map(spec));
    let goes_there = |statuses: &[Status]| {
        let config = session(false, statuses);
        let args = PickArgs::new(NOW).with_pinned(Pinned::new(address(1), &config));
        picker.pick(&args, &mut || 0).unwrap().reason == Reason::Session
    };
    let health = picker.set().members()[1].endpoint.health();
    for (degraded, status, other) in
        [(true, Status::Degraded, Status::Healthy), (false, Status::Healthy, Status::Degraded)]
    {
        health.set_degraded(degraded);
        assert!(goes_there(&[status]) && !goes_there(&[other]), "{degraded}");
    }
}

#[test]
fn a_session_leaves_an_endpoint_that_is_out_and_a_lax_one_that_failed_its_call() {
    let picker = picker(Policy::RoundRobin, (0..3).map(spec));
    let id = EndpointId::from(address(1));
    let reason = |strict, avoid: &[EndpointId]| {
        let config = session(strict, &[Status::Healthy]);
        let pinned = Pinned::new(address(1), &config);
        let args = PickArgs::new(NOW).with_pinned(pinned).with_avoid(avoid);
        picker.pick(&args, &mut || 0).map(|picked| picked.reason).map_err(|none| none.to_string())
    };
    let tried = [id];
    assert_eq!(reason(false, &tried), Ok(Reason::Chosen));
    assert_eq!(reason(true, &tried), Ok(Reason::Session), "it may go nowhere else");
    picker.set().members()[1].endpoint.health().set_unreachable(NOW, Timestamp::MAX);
    assert_eq!(reason(false, &[]), Ok(Reason::Chosen));
    let why = reason(true, &[]).unwrap_err();
    assert!(why.starts_with("the session cannot go on: 10.0.0.1:80 is unreachable"), "{why}");
}

#[test]
fn a_session_does_not_lead_out_of_the_subset_of_its_route() {
    let of =
        |n, stage: &str| spec(n).with_metadata([("stage".to_owned(), stage.to_owned())].into());
    let subsets = serde_json::json!({ "selectors": [{ "keys": ["stage"] }] });
    let subsets = Some(serde_json::from_value(subsets).unwrap());
    let config = Config { subsets, ..Config::default() };
    let picker = Picker::new(set([of(1, "stable"), of(2, "canary")]), config);
    let canary = [Labels::from_iter([("stage", "canary")])];
    let pick = |strict, named| {
        let config = session(strict, &[Status::Healthy]);
        let pinned = Pinned::new(address(named), &config);
        let args = PickArgs::new(NOW).with_pinned(pinned).with_subset(&canary);
        let picked = picker.pick(&args, &mut || 0).map_err(|none| none.to_string())?;
        Ok((picked.member.endpoint.id().to_string(), picked.reason))
    };
    assert_eq!(pick(false, 2), Ok(("10.0.0.2:80".to_owned(), Reason::Session)));
    assert_eq!(pick(false, 1), Ok(("10.0.0.2:80".to_owned(), Reason::Only)));
    let why = "the session cannot go on: 10.0.0.1:80 is not in the subset that the call is for";
    assert_eq!(pick(true, 1), Err(why.to_owned()));
}

#[test]
fn any_address_of_an_endpoint_names_it_and_a_strangers_names_none() {
    let picker = picker(Policy::RoundRobin, [spec(1).with_address(address(9)), spec(2)]);
    assert!(!picker.has_addresses());
    let config = session(true, &[Status::Healthy]);
    for (asked, found) in [(1, true), (9, true), (2, true), (3, false)] {
        let args = PickArgs::new(NOW).with_pinned(Pinned::new(address(asked), &config));
        assert_eq!(picker.pick(&args, &mut || 0).is_ok(), found, "{asked}");
    }
    assert!(picker.has_addresses());
    let none: Picker = Picker::new(EndpointSet::empty(), Config::default());
    let args = PickArgs::new(NOW).with_pinned(Pinned::new(address(1), &config));
    assert!(
        matches!(none.pick(&args, &mut || 0), Err(NoPick::Empty)),
        "discovery may be under way"
    );
}
