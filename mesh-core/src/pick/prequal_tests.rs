use super::super::{PickArgs, Picker, Policy, slow_start};
use super::*;
use crate::load::{Load, Report};
use crate::{EndpointSet, EndpointSpec, Timestamp};
use proptest::prelude::*;
use std::net::SocketAddr;

const MS: Duration = Duration::from_millis(1);

fn at(millis: u64) -> Timestamp {
    Timestamp::from_nanos((1 << 30) + (millis << 20))
}

fn picker(endpoints: u16, config: Config) -> Picker {
    let spec = |n| EndpointSpec::new(SocketAddr::from(([10, 0, 0, 1], n)));
    let config = super::super::Config {
        policy: Policy::Prequal,
        prequal: config,
        ..super::super::Config::default()
    };
    let specs = (1..=endpoints).map(spec).collect();
    Picker::new(EndpointSet::empty().update(specs, |_| ()).0, config)
}

fn seeded(seed: u64) -> impl FnMut() -> u64 {
    let mut rng = fastrand::Rng::with_seed(seed);
    move || rng.u64(..)
}

fn load(picker: &Picker, place: usize) -> &Load {
    picker.set().members()[place].endpoint.load()
}

fn place_of(picker: &Picker, member: &crate::Member) -> usize {
    picker.set().members().iter().position(|one| std::ptr::eq(one, member)).expect("a member")
}

fn pick(picker: &Picker, now: Timestamp, draw: &mut impl Draw) -> usize {
    place_of(picker, picker.pick(&PickArgs::new(now), draw).expect("picked").member)
}

fn report(in_flight: u32, latency: Duration) -> Report {
    Report { in_flight: Some(in_flight), latency: Some(latency), ..Report::default() }
}

/// All endpoints are asked, and answer this: in flight, latency in milliseconds.
fn answered(picker: &Picker, now: Timestamp, answers: &[(u32, u32)]) {
    let mut draw = seeded(1);
    while !(0..answers.len()).all(|place| load(picker, place).is_reported(now, MS)) {
        for member in picker.probes(&PickArgs::new(now), &mut draw) {
            let (in_flight, latency) = answers[place_of(picker, member)];
            member.endpoint.load().probed(now, &report(in_flight, latency * MS), MS);
        }
    }
}

/// Nothing but the rule: no removals.
fn plain() -> Config {
    Config { removals_per_call: 0.0, ..Config::default() }
}

#[test]
fn cold_before_hot_and_the_fastest_of_the_cold() {
    // Of 10 answers, ceil(0.84 · 10) = 9 have at most 4 in flight: one is hot.
    let mut answers = [(4, 50); 10];
    answers[3] = (9, 1);
    answers[7] = (4, 20);
    let picker = picker(10, plain());
    answered(&picker, at(0), &answers);
    assert_eq!(pick(&picker, at(1), &mut seeded(2)), 7, "3 is faster, and hot");
    assert_ne!(pick(&picker, at(1), &mut seeded(2)), 7, "hot by its use: 5 in flight");
}

#[test]
fn where_all_are_hot_the_one_with_the_least_in_flight() {
    let config = Config { rif_quantile: 0.0, ..plain() };
    let picker = picker(4, config);
    answered(&picker, at(0), &[(3, 10), (5, 1), (8, 1), (3, 20)]);
    let mut draw = seeded(3);
    let picks: Vec<_> = (0..5).map(|_| pick(&picker, at(1), &mut draw)).collect();
    // 0 and 3 are cold, the faster first; then both have 4, the others 5 and 8.
    assert_eq!(picks[..2], [0, 3]);
    assert!(picks[2..4].iter().all(|place| [0, 3].contains(place)), "{picks:?}");
    assert!([0, 1, 3].contains(&picks[4]), "each has 5: {picks:?}");
}

#[test]
fn at_quantile_1_latency_decides_alone() {
    let picker = picker(3, Config { rif_quantile: 1.0, ..plain() });
    answered(&picker, at(0), &[(0, 10), (100, 1), (50, 5)]);
    assert_eq!(pick(&picker, at(1), &mut seeded(4)), 1);
}

#[test]
fn with_fewer_than_two_answers_one_is_drawn() {
    let picker = picker(10, plain());
    let mut draw = seeded(5);
    let mut seen = [0; 10];
    (0..1_000).for_each(|_| seen[pick(&picker, at(0), &mut draw)] += 1);
    assert!(seen.iter().all(|picks| (50..200).contains(picks)), "{seen:?}");
    let probes = picker.probes(&PickArgs::new(at(0)), &mut draw);
    let one = probes.into_iter().next().expect("asked");
    one.endpoint.load().probed(at(0), &report(0, MS), MS);
    let same = |picker: &Picker, now, draw: &mut _| {
        (0..100).filter(|_| pick(picker, now, draw) == place_of(picker, one)).count()
    };
    assert!(same(&picker, at(1), &mut draw) < 30, "one answer is no choice");
    assert!(same(&picker, at(2_000), &mut draw) < 30, "and an old one is none");
}

#[test]
fn three_are_asked_with_each_call_and_nobody_waits() {
    let mut draw = seeded(6);
    for (per_call, expected) in [(3.0, 3.0), (0.5, 0.5), (1.25, 1.25)] {
        let picker = picker(1_000, Config { probes_per_call: per_call, ..plain() });
        let mut asked = 0;
        for _ in 0..4_000 {
            let probes = picker.probes(&PickArgs::new(at(0)), &mut draw);
            assert!(!probes.wait);
            asked += probes.into_iter().count();
        }
        let mean = asked as f64 / 4_000.0;
        assert!((mean - expected).abs() < 0.05, "{mean} of {expected}");
    }
    assert_eq!(picker(1, plain()).probes(&PickArgs::new(at(0)), &mut draw).into_iter().count(), 0);
}

#[test]
fn who_does_not_answer_is_not_in_the_pool_and_who_never_reports_is_not_asked() {
    let picker = picker(3, plain());
    answered(&picker, at(0), &[(0, 1), (0, 5), (0, 9)]);
    load(&picker, 0).unanswered();
    assert_eq!(pick(&picker, at(1), &mut seeded(7)), 1);
    let silent = self::picker(2, plain());
    (0..2).for_each(|place| load(&silent, place).succeeded(at(0), MS));
    let probes = silent.probes(&PickArgs::new(at(1)), &mut seeded(8));
    assert_eq!(probes.into_iter().count(), 0);
}

#[test]
fn what_is_out_or_was_tried_is_not_picked_by_its_answer() {
    let picker = picker(4, plain());
    answered(&picker, at(0), &[(0, 1), (0, 2), (0, 3), (0, 4)]);
    picker.set().members()[0].endpoint.health().set_unreachable(at(0), Timestamp::MAX);
    let tried = [picker.set().members()[1].endpoint.id().clone()];
    let args = PickArgs::new(at(1)).with_avoid(&tried);
    let picked = picker.pick(&args, &mut seeded(9)).expect("two are left");
    assert_eq!(place_of(&picker, picked.member), 2);
}

#[test]
fn an_endpoint_in_slow_start_is_asked_less() {
    let before = picker(20, plain());
    let slow = Some(slow_start::Config::default());
    let config = super::super::Config { slow_start: slow, ..before.config().clone() };
    let spec = |n| EndpointSpec::new(SocketAddr::from(([10, 0, 0, 1], n)));
    let (set, _) = before.set().update((1..=21).map(spec).collect(), |_| ());
    let picker = Picker::new(set, config);
    let mut draw = seeded(10);
    let mut asked = [0; 21];
    for _ in 0..4_000 {
        for member in picker.probes(&PickArgs::new(at(0)), &mut draw) {
            asked[place_of(&picker, member)] += 1;
        }
    }
    assert!(asked[20] * 5 < asked[0], "a tenth: {asked:?}");
}

#[test]
fn uses_follow_the_formula_of_the_paper() {
    // (1 + 1) / ((1 − 16/100)·3 − 1); (1 + 1) / ((1 − 16/1000)·3 − 1).
    for (endpoints, expected) in [(100, 1.315_789), (1_000, 1.024_590), (16, f64::INFINITY)] {
        let uses = Config::default().uses(endpoints);
        assert!((uses - expected).abs() < 1e-5 || uses == expected, "{endpoints}: {uses}");
    }
    let idle = Config { reuse_delta: -0.9, ..Config::default() };
    assert_eq!(idle.uses(1_000), 1.0, "at least once");
}

#[test]
fn absurd_settings_are_told_and_do_no_harm() {
    assert_eq!(Config::default().problems(), []);
    type Edit = fn(&mut Config);
    let wrong: [(&str, Edit); 13] = [
        ("poolSize", |config| config.pool_size = 1),
        ("poolSize", |config| config.pool_size = u32::MAX),
        ("maxAge", |config| config.max_age = Duration::ZERO),
        ("maxAge", |config| config.max_age = Duration::MAX),
        ("probesPerCall", |config| config.probes_per_call = f64::NAN),
        ("probesPerCall", |config| config.probes_per_call = f64::INFINITY),
        ("removalsPerCall", |config| config.removals_per_call = -1.0),
        ("removalsPerCall", |config| config.removals_per_call = 3.0),
        ("removalsPerCall", |config| config.removals_per_call = f64::NAN),
        ("rifQuantile", |config| config.rif_quantile = 84.0),
        ("rifQuantile", |config| config.rif_quantile = f64::NAN),
        ("reuseDelta", |config| config.reuse_delta = -1.0),
        ("reuseDelta", |config| config.reuse_delta = f64::NEG_INFINITY),
    ];
    for (key, edit) in wrong {
        let mut config = Config::default();
        edit(&mut config);
        assert!(config.problems().iter().any(|(told, ..)| *told == key), "{key}: {config:?}");
        assert!(config.bounded().uses(100) >= 1.0, "{config:?}");
        let picker = picker(5, config);
        let mut draw = seeded(11);
        for n in 0..100 {
            for member in picker.probes(&PickArgs::new(at(n)), &mut draw) {
                member.endpoint.load().probed(at(n), &report(1, MS), MS);
            }
            pick(&picker, at(n), &mut draw);
        }
    }
}

proptest! {
    /// The pick is the one that the rule names in a plain list of the answers.
    #[test]
    fn the_pick_is_the_one_of_the_rule(
        answers in prop::collection::vec((0u32..30, 1u32..1_000), 2..16),
        seed in any::<u64>(),
    ) {
        let picker = picker(answers.len() as u16, plain());
        answered(&picker, at(0), &answers);
        let pool = picker.set().recent().pool();
        let is_hot = |place: usize| {
            let group = load(&picker, place).pool().expect("in a set");
            let answer = group.answers(1, at(0), Duration::from_secs(1));
            answer.into_iter().find(|one| one.place == place).is_some_and(|one| pool.is_hot(one.said))
        };
        let hot: Vec<bool> = (0..answers.len()).map(is_hot).collect();
        let most_cold = answers.iter().zip(&hot).filter(|(_, hot)| !**hot).map(|((n, _), _)| *n).max();
        let least_hot = answers.iter().zip(&hot).filter(|(_, hot)| **hot).map(|((n, _), _)| *n).min();
        if let (Some(cold), Some(hot)) = (most_cold, least_hot) {
            prop_assert!(cold < hot, "one threshold parts them");
        }
        prop_assert!(most_cold.is_some(), "the threshold is one of the answers");
        let best = answers.iter().zip(&hot).filter(|(_, hot)| !**hot).map(|((_, time), _)| *time).min();
        let picked = pick(&picker, at(1), &mut seeded(seed));
        prop_assert!(!hot[picked]);
        prop_assert_eq!(Some(answers[picked].1), best);
    }
}
