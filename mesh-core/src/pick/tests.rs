use super::*;
use crate::health::breaker::{self, Admission};
use crate::health::check::Cause;
use crate::health::outlier;
use crate::{Declared, Endpoint, EndpointId, EndpointSpec, Failure, Locality, Outcome};
use proptest::prelude::*;
use std::net::SocketAddr;
use std::time::Duration;

const NOW: Timestamp = Timestamp::from_nanos(1_000_000_000);

fn specs(weights: &[u32]) -> Vec<EndpointSpec> {
    let spec = |(weight, n): (&u32, u16)| {
        EndpointSpec::new(SocketAddr::from(([10, 0, 0, 1], n))).with_weight(*weight)
    };
    weights.iter().zip(1..).map(spec).collect()
}

fn set_of(weights: &[u32]) -> EndpointSet {
    EndpointSet::empty().update(specs(weights), |_| ()).0
}

fn picker(weights: &[u32], policy: Policy) -> Picker {
    Picker::new(set_of(weights), Config { policy, ..Config::default() })
}

fn seeded(seed: u64) -> impl FnMut() -> u64 {
    let mut rng = fastrand::Rng::with_seed(seed);
    move || rng.u64(..)
}

fn place(picker: &Picker, picked: &Picked<'_>) -> usize {
    let same = |member: &Member| std::ptr::eq(member, picked.member);
    picker.set().members().iter().position(same).expect("a member")
}

/// Takes an endpoint out that can be picked in a panic.
fn take_out(endpoint: &Endpoint) {
    assert!(endpoint.health().set_not_well(NOW, Cause::Timeout));
    assert!(!endpoint.is_selectable_at(NOW));
}

/// Takes an endpoint out that would refuse what it is sent.
fn open_breaker(endpoint: &Endpoint) {
    let config = breaker::Config { consecutive_failures: 1, ..breaker::Config::default() };
    let failure = Outcome::Failure(Failure::Timeout);
    endpoint.breaker().record(Admission::Closed, failure, NOW, &config, &mut || 0);
    assert!(!endpoint.is_selectable_at(NOW));
}

/// Ejects an endpoint, as outlier detection does.
fn eject(picker: &Picker, endpoint: &Endpoint) {
    let config =
        outlier::Config { max_ejection_percent: 100, consecutive_5xx: 1, ..Default::default() };
    let failure = Outcome::Failure(Failure::Timeout);
    let len = picker.set().members().len();
    outlier::Detector::new(config).record(endpoint, len, failure, NOW, &mut || 0);
    assert!(endpoint.health().is_ejected());
}

/// How often each member is picked, in percent.
fn shares(picker: &Picker, picks: usize, mut draw: impl Draw) -> Vec<f64> {
    let mut shares = vec![0.0; picker.set().members().len()];
    for _ in 0..picks {
        let picked = picker.pick(&PickArgs::new(NOW), &mut draw).expect("picked");
        shares[place(picker, &picked)] += 100.0 / picks as f64;
    }
    shares
}

#[test]
fn the_less_loaded_of_two_is_picked() {
    for policy in [Policy::ExpectedWait, Policy::PeakEwma, Policy::LeastRequest] {
        let picker = picker(&[1, 1], policy);
        picker.set().members()[0].endpoint.load().begin();
        let shares = shares(&picker, 100, seeded(1));
        assert!((shares[1] - 100.0).abs() < 1e-9, "{policy:?}: two draws of two see both");
    }
}

#[test]
fn an_endpoint_that_fails_fast_draws_no_traffic() {
    let picker = picker(&[1; 10], Policy::PeakEwma);
    let config = &picker.config().ewma;
    for member in picker.set().members() {
        member.endpoint.load().observe(NOW, Duration::from_millis(40), config);
    }
    let bad = picker.set().members()[3].endpoint.load();
    bad.observe(NOW, Duration::from_millis(1), config);
    bad.penalize(NOW, config.failure_penalty, config);
    assert!(shares(&picker, 10_000, seeded(2))[3] < 0.01);
}

#[test]
fn weights_are_shares() {
    for policy in [Policy::RoundRobin, Policy::Random, Policy::LeastRequest] {
        let picker = picker(&[1, 2, 7], policy);
        let shares = shares(&picker, 20_000, seeded(3));
        for (share, expected) in shares.iter().zip([10.0, 20.0, 70.0]) {
            assert!((share - expected).abs() < 1.5, "{policy:?}: {shares:?}");
        }
    }
}

#[test]
fn weights_converge_to_shares() {
    let weights: Vec<u32> = (0..50).map(|n| 1 + n * n % 17).collect();
    let total: u32 = weights.iter().sum();
    for policy in [Policy::RoundRobin, Policy::Random] {
        let seed = 13;
        let picker = picker(&weights, policy);
        for (share, weight) in shares(&picker, 500_000, seeded(seed)).iter().zip(&weights) {
            let expected = 100.0 * f64::from(*weight) / f64::from(total);
            assert!((share - expected).abs() < 0.1, "{policy:?}, seed {seed}: {share}, {expected}");
        }
    }
}

/// The greatest weights that can be written, whose sum no `u32` holds, beside the least one.
#[test]
fn weights_whose_sum_overflows_are_shares_all_the_same() {
    for policy in [
        Policy::ExpectedWait,
        Policy::PeakEwma,
        Policy::LeastRequest,
        Policy::RoundRobin,
        Policy::WeightedRoundRobin,
        Policy::Random,
        Policy::RingHash,
        Policy::Maglev,
    ] {
        let picker = picker(&[u32::MAX, u32::MAX, u32::MAX, 1], policy);
        let mut draw = seeded(14);
        let mut shares = [0.0; 4];
        for _ in 0..20_000 {
            let args = PickArgs::new(NOW).with_hash(draw());
            let picked = picker.pick(&args, &mut draw).expect("picked");
            shares[place(&picker, &picked)] += 100.0 / 20_000.0;
        }
        let even = |share: &f64| (share - 100.0 / 3.0).abs() < 6.0;
        assert!(shares[..3].iter().all(even) && shares[3] < 1.0, "{policy:?}: {shares:?}");
    }
}

#[test]
fn degraded_endpoints_take_calls_when_the_others_are_too_few() {
    let mut specs = specs(&[1; 4]);
    specs.iter_mut().skip(2).for_each(|spec| spec.declared = Declared::Degraded);
    let set = EndpointSet::empty().update(specs, |_| ()).0;
    let picker = Picker::new(set, Config::default());
    let healthy = |seed| shares(&picker, 10_000, seeded(seed))[..2].iter().sum::<f64>();
    assert!((healthy(20) - 70.0).abs() < 2.0, "half are healthy: 140 × 50 %");
    picker.set().members()[0].endpoint.health().set_unreachable(NOW, Timestamp::MAX);
    assert!((healthy(21) - 35.0).abs() < 2.0, "{}", healthy(21));
    picker.set().members()[1].endpoint.health().set_unreachable(NOW, Timestamp::MAX);
    assert!(healthy(22) < 0.01, "only the degraded ones are left");
    let draining = picker.set().members()[2].endpoint.health();
    draining.set_declared(Declared::Draining);
    assert!((shares(&picker, 100, seeded(23))[3] - 100.0).abs() < 1e-9, "draining takes nothing");
}

#[test]
fn a_new_endpoint_takes_its_share_slowly() {
    for policy in [
        Policy::RoundRobin,
        Policy::Random,
        Policy::LeastRequest,
        Policy::PeakEwma,
        Policy::ExpectedWait,
    ] {
        let (first, _) = EndpointSet::<()>::empty().update(specs(&[1; 9]), |_| ());
        let (set, _) = first.update(specs(&[1; 10]), |_| ());
        let slow_start = Some(slow_start::Config::default());
        let picker = Picker::new(set, Config { policy, slow_start, ..Config::default() });
        for (after, factor) in [(0, 0.1), (15, 0.5), (30, 1.0)] {
            let args = PickArgs::new(NOW + Duration::from_secs(after));
            let mut draw = seeded(30);
            let new = (0..20_000)
                .filter(|_| {
                    let picked = picker.pick(&args, &mut draw).expect("picked");
                    place(&picker, &picked) == 9
                })
                .count() as f64
                / 200.0;
            let expected = 100.0 * factor / (9.0 + factor);
            assert!(
                (new - expected).abs() < 1.0,
                "{policy:?} after {after} s: {new}, not {expected}"
            );
        }
    }
}

#[test]
fn endpoints_that_are_all_new_are_picked_all_the_same() {
    let (first, _) = EndpointSet::<()>::empty().update(specs(&[1; 1]), |_| ());
    let others = specs(&[1; 5]).split_off(1);
    let (set, _) = first.update(others, |_| ());
    for policy in [Policy::RoundRobin, Policy::PeakEwma, Policy::ExpectedWait] {
        let slow_start = Some(slow_start::Config::default());
        let picker = Picker::new(set.clone(), Config { policy, slow_start, ..Config::default() });
        let seen = shares(&picker, 4_000, seeded(31));
        assert!(seen.iter().all(|share| (share - 25.0).abs() < 4.0), "{policy:?}: {seen:?}");
    }
}

/// Records of latency are for those that go by it: for the others a response writes nothing.
#[test]
fn only_policies_that_go_by_latency_keep_it() {
    for (policy, keeps) in [
        (Policy::ExpectedWait, true),
        (Policy::Prequal, true),
        (Policy::PeakEwma, true),
        (Policy::LeastRequest, false),
        (Policy::RoundRobin, false),
        (Policy::WeightedRoundRobin, false),
        (Policy::Random, false),
        (Policy::PickFirst, false),
        (Policy::RingHash, false),
        (Policy::Maglev, false),
    ] {
        let picker = picker(&[1; 2], policy);
        let load = picker.set().members()[0].endpoint.load();
        let untouched = format!("{load:?}");
        let config = picker.config();
        config.succeeded(load, NOW, Duration::from_millis(20));
        config.failed(load, NOW, Some(Duration::from_secs(1)));
        assert_eq!(format!("{load:?}") != untouched, keeps, "{policy:?}");
        assert_eq!(config.load(load, NOW).is_some(), keeps, "{policy:?}");
    }
}

#[test]
fn pick_first_stays_with_one_until_it_is_out() {
    let picker = picker(&[1; 3], Policy::PickFirst);
    let pick = |picker: &Picker, avoid: &[EndpointId]| {
        let args = PickArgs::new(NOW).with_avoid(avoid);
        let picked = picker.pick(&args, &mut seeded(40)).expect("picked");
        place(picker, &picked)
    };
    let ids: Vec<_> = picker.set().members().iter().map(|member| member.spec.id.clone()).collect();
    assert_eq!(pick(&picker, &[]), 0);
    assert_eq!(pick(&picker, &ids[..1]), 1, "a retry goes on to the next");
    assert_eq!(pick(&picker, &[]), 0, "and moves nobody else");

    let health = picker.set().members()[0].endpoint.health();
    health.set_unreachable(NOW, Timestamp::MAX);
    assert_eq!(pick(&picker, &[]), 1);
    health.set_reachable(NOW);
    assert_eq!(pick(&picker, &[]), 1, "it stays the one");

    let (set, _) = picker.set().update(specs(&[2, 1, 1]), |_| ());
    let next = Picker::new(set, picker.config().clone());
    assert_eq!(pick(&next, &[]), 1, "across an update");
    next.set().members()[1].endpoint.health().set_unreachable(NOW, Timestamp::MAX);
    assert_eq!(pick(&next, &[]), 0, "then the search begins at the first again");
}

#[test]
fn shuffled_callers_do_not_all_use_the_same_endpoint() {
    let mut config = Config { policy: Policy::PickFirst, ..Config::default() };
    config.pick_first.shuffle = true;
    let first = |seed| {
        let picker =
            Picker::of(set_of(&[1; 5]), config.clone(), &Caller::default().with_seed(seed));
        let picked = picker.pick(&PickArgs::new(NOW), &mut seeded(41)).expect("picked");
        place(&picker, &picked)
    };
    assert_eq!(first(1), first(1), "the order of a caller stays");
    let used: std::collections::BTreeSet<_> = (0..100).map(first).collect();
    assert_eq!(used.len(), 5);
}

#[test]
fn a_caller_uses_its_subset_only() {
    let config = Config {
        subsetting: Some(subsetting::Config { size: 3, mode: subsetting::Mode::Random }),
        ..Config::default()
    };
    let picker = Picker::of(set_of(&[1; 20]), config, &Caller::default().with_seed(5));
    let used = shares(&picker, 1_000, seeded(42)).iter().filter(|share| **share > 0.0).count();
    assert_eq!(used, 3);
}

#[test]
fn a_call_that_starts_at_a_later_priority_spares_the_first() {
    let mut specs = specs(&[1; 4]);
    specs.iter_mut().skip(2).for_each(|spec| spec.priority = 1);
    let set = EndpointSet::empty().update(specs, |_| ()).0;
    let picker = Picker::new(set, Config::default());
    let args = PickArgs::new(NOW).with_priority(1);
    let mut draw = seeded(43);
    let mut pick = || place(&picker, &picker.pick(&args, &mut draw).expect("picked"));
    assert!((0..50).all(|_| pick() >= 2));
    for member in &picker.set().members()[2..] {
        member.endpoint.health().set_unreachable(NOW, Timestamp::MAX);
    }
    assert!((0..50).all(|_| pick() < 2), "only when no other can be");
}

#[test]
fn round_robin_visits_each_in_turn_from_a_random_start() {
    let picker = picker(&[1; 5], Policy::RoundRobin);
    let mut draw = seeded(4);
    let mut turn = || {
        let picked = picker.pick(&PickArgs::new(NOW), &mut draw).expect("picked");
        place(&picker, &picked)
    };
    let first = turn();
    for n in 1..20 {
        assert_eq!(turn(), (first + n) % 5);
    }
    let bias =
        Config { policy: Policy::LeastRequest, active_request_bias: 0.0, ..Config::default() };
    let rotating = Picker::new(set_of(&[1; 5]), bias);
    rotating.set().members()[0].endpoint.load().begin();
    assert_eq!(shares(&rotating, 100, seeded(5)), [20.0; 5], "bias 0 is round robin");
}

#[test]
fn tried_endpoints_are_used_only_when_nothing_else_is() {
    for policy in [
        Policy::ExpectedWait,
        Policy::PeakEwma,
        Policy::LeastRequest,
        Policy::RoundRobin,
        Policy::Random,
    ] {
        let picker = picker(&[1; 3], policy);
        let ids: Vec<_> =
            picker.set().members().iter().map(|member| member.endpoint.id().clone()).collect();
        let mut draw = seeded(6);
        for _ in 0..100 {
            let picked = picker
                .pick(&PickArgs::new(NOW).with_avoid(&ids[..2]), &mut draw)
                .expect("one is left");
            assert_eq!(*picked.member.endpoint.id(), ids[2]);
            let picked = picker
                .pick(&PickArgs::new(NOW).with_avoid(&ids), &mut draw)
                .expect("tried ones remain");
            assert_eq!(picked.reason, Reason::Retried);
        }
    }
}

#[test]
fn below_the_panic_threshold_all_are_picked_but_those_that_discovery_rules_out() {
    let mut specs = specs(&[1; 7]);
    specs[4].declared = Declared::Unhealthy;
    let set = EndpointSet::empty().update(specs, |_| ()).0;
    let picker = Picker::new(set, Config::default());
    for member in &picker.set().members()[..3] {
        take_out(&member.endpoint);
    }
    picker.set().members()[5].endpoint.health().set_unreachable(NOW, Timestamp::MAX);
    open_breaker(&picker.set().members()[6].endpoint);
    let seen = shares(&picker, 1_000, seeded(7));
    assert!(seen[..4].iter().all(|share| *share > 5.0), "{seen:?}");
    assert!(seen[4..] == [0.0; 3], "declared unhealthy, unreachable, open: {seen:?}");

    let off = Config { panic_threshold: 0, ..Config::default() };
    let picker = Picker::new(picker.set().clone(), off);
    let seen = shares(&picker, 100, seeded(7));
    assert!((seen[3] - 100.0).abs() < 1e-9);
    picker.set().members()[3].endpoint.health().set_unreachable(NOW, Timestamp::MAX);
    let error = picker.pick(&PickArgs::new(NOW), &mut seeded(8)).expect_err("all are out");
    assert!(
        error.to_string().starts_with("none of 7 endpoints can be picked; 10.0.0.1:1 is unhealthy")
    );
}

#[test]
fn an_empty_set_has_nothing_to_pick() {
    let picker = picker(&[], Policy::PeakEwma);
    assert!(matches!(picker.pick(&PickArgs::new(NOW), &mut seeded(9)), Err(NoPick::Empty)));
}

#[test]
fn the_next_level_takes_over_as_the_first_fails() {
    let mut specs = specs(&[1; 4]);
    specs.iter_mut().take(2).for_each(|spec| spec.priority = 1);
    let set = EndpointSet::empty().update(specs, |_| ()).0;
    let picker = Picker::new(set, Config::default());
    assert_eq!(shares(&picker, 200, seeded(10))[2..], [0.0; 2], "the first level takes all");
    for member in &picker.set().members()[..2] {
        member.endpoint.health().set_unreachable(NOW, Timestamp::MAX);
    }
    assert_eq!(shares(&picker, 200, seeded(11))[..2], [0.0; 2], "then the second does");
}

proptest! {
    #[test]
    fn what_is_out_is_picked_only_below_the_panic_threshold(
        out in prop::collection::vec(0u8..5, 1..40),
        weighted: bool,
        policy in 0usize..10,
        seed: u64,
    ) {
        let weights: Vec<u32> =
            (0..out.len() as u32).map(|n| if weighted { n % 5 + 1 } else { 1 }).collect();
        let policies = [
            Policy::ExpectedWait,
            Policy::PeakEwma,
            Policy::LeastRequest,
            Policy::RoundRobin,
            Policy::Random,
            Policy::PickFirst,
            Policy::WeightedRoundRobin,
            Policy::Prequal,
            Policy::RingHash,
            Policy::Maglev,
        ];
        let picker = picker(&weights, policies[policy]);
        for (member, out) in picker.set().members().iter().zip(&out) {
            match out {
                0 => {}
                1 => take_out(&member.endpoint),
                2 => eject(&picker, &member.endpoint),
                3 => open_breaker(&member.endpoint),
                _ => drop(member.endpoint.health().set_unreachable(NOW, Timestamp::MAX)),
            }
        }
        let available = out.iter().filter(|out| **out == 0).count();
        let panics = available * 2 < out.len();
        let mut draw = seeded(seed);
        for _ in 0..50 {
            let args = PickArgs::new(NOW).with_hash(draw());
            let Ok(picked) = picker.pick(&args, &mut draw) else {
                prop_assert!(out.iter().all(|out| *out >= 3), "none would take a call");
                continue;
            };
            prop_assert!(!picked.member.endpoint.health().is_unreachable());
            prop_assert!(picked.member.endpoint.breaker().is_closed());
            let is_out = !picked.member.endpoint.is_selectable();
            prop_assert!(panics || !is_out);
            prop_assert_eq!(picked.reason == Reason::Panic, is_out);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Ready,
    Degraded,
    Out,
    Open,
    Unreachable,
    Draining,
}

/// Priority, zone, weight and fate of an endpoint.
type Drawn = (u32, u8, u32, Fate);

fn fates() -> impl Strategy<Value = Fate> {
    prop_oneof![
        3 => Just(Fate::Ready),
        1 => Just(Fate::Degraded),
        1 => Just(Fate::Out),
        1 => Just(Fate::Open),
        1 => Just(Fate::Unreachable),
        1 => Just(Fate::Draining),
    ]
}

fn any_set() -> impl Strategy<Value = Vec<Drawn>> {
    prop::collection::vec((0u32..3, 0u8..3, 1u32..4, fates()), 1..40)
}

fn set_with_fates(drawn: &[Drawn]) -> EndpointSet {
    let spec = |((priority, zone, weight, fate), n): (&Drawn, u16)| {
        let mut spec = EndpointSpec::new(SocketAddr::from(([10, 0, 0, 1], n)))
            .with_priority(*priority)
            .with_weight(*weight)
            .with_locality(Locality::new("r", format!("z{zone}"), ""));
        spec.declared = match fate {
            Fate::Degraded => Declared::Degraded,
            Fate::Draining => Declared::Draining,
            _ => Declared::Healthy,
        };
        spec
    };
    let set = EndpointSet::empty().update(drawn.iter().zip(1..).map(spec).collect(), |_| ()).0;
    for member in set.members() {
        match fate(member, drawn) {
            Fate::Out => take_out(&member.endpoint),
            Fate::Open => open_breaker(&member.endpoint),
            Fate::Unreachable => {
                member.endpoint.health().set_unreachable(NOW, Timestamp::MAX);
            }
            _ => {}
        }
    }
    set
}

fn fate(member: &Member, drawn: &[Drawn]) -> Fate {
    drawn[usize::from(member.spec.addresses[0].port()) - 1].3
}

proptest! {
    #[test]
    fn sets_of_all_kinds_are_picked_from_by_their_rules(
        drawn in any_set(),
        policy in 0usize..5,
        split in 0u8..4,
        slow: bool,
        threshold in prop_oneof![Just(0u8), Just(50)],
        seed: u64,
    ) {
        let policies = [
            Policy::PeakEwma,
            Policy::LeastRequest,
            Policy::RoundRobin,
            Policy::Random,
            Policy::PickFirst,
        ];
        let mut place = locality::Config::default();
        match split {
            1 => place.weights = [("r/z0".to_owned(), 3), ("r/z1".to_owned(), 1)].into(),
            2 => place.zone_aware = Some(locality::ZoneAware::default()),
            3 => place.failover_priority = vec!["topology.kubernetes.io/zone".to_owned()],
            _ => {}
        }
        let config = Config {
            policy: policies[policy],
            panic_threshold: threshold,
            locality: (split > 0).then_some(place),
            slow_start: slow.then(slow_start::Config::default),
            ..Config::default()
        };
        let set = set_with_fates(&drawn);
        let picker = Picker::of(set, config, &Caller::new(Locality::new("r", "z0", "")));
        let ready = |fate| matches!(fate, Fate::Ready | Fate::Degraded);
        let any_ready = drawn.iter().any(|(_, _, _, fate)| ready(*fate));
        let mut draw = seeded(seed);
        for _ in 0..30 {
            let Ok(picked) = picker.pick(&PickArgs::new(NOW), &mut draw) else {
                prop_assert!(!any_ready, "one could be picked");
                continue;
            };
            let of = fate(picked.member, &drawn);
            prop_assert!(!matches!(of, Fate::Open | Fate::Unreachable | Fate::Draining), "{of:?}");
            prop_assert_eq!(of == Fate::Out, picked.reason == Reason::Panic);
            prop_assert!(of != Fate::Out || threshold > 0);
            // Levels by labels are finer than priorities: there it is for their own tests to say.
            if of == Fate::Out && split < 3 {
                let level: Vec<&Drawn> =
                    drawn.iter().filter(|one| one.0 == picked.member.spec.priority).collect();
                let available = level.iter().filter(|one| ready(one.3)).count();
                prop_assert!(available * 2 < level.len(), "{available} of {}", level.len());
            }
        }
        let told = picker.explain(&PickArgs::new(NOW));
        prop_assert_eq!(told.iter().any(|one| one.included), any_ready || threshold > 0
            && drawn.iter().any(|one| one.3 == Fate::Out));
    }
}
