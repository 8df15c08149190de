use super::*;
use crate::endpoint::Locality;
use crate::pick::subset::{self, Chosen, Selector};
use crate::pick::{Labels, PickArgs, Picker, locality};
use crate::{Declared, EndpointSpec, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// What becomes of one in a hundred of the endpoints of a level.
#[derive(Clone, Copy)]
struct Percent {
    healthy: usize,
    degraded: usize,
}

/// A set with 100 endpoints per level.
fn set_of(levels: &[Percent]) -> EndpointSet {
    let specs = levels.iter().zip(0u32..).flat_map(|(level, priority)| {
        (0..100).map(move |n| {
            let address = SocketAddr::from(([10, 0, 0, 1], 1 + 100 * priority as u16 + n));
            let degraded = (level.healthy..level.healthy + level.degraded).contains(&n.into());
            let declared = if degraded { Declared::Degraded } else { Declared::Healthy };
            EndpointSpec::new(address).with_priority(priority).with_declared(declared)
        })
    });
    let (set, _) = EndpointSet::empty().update(specs.collect(), |_| ());
    for (level, of) in set.members().chunks(100).zip(levels) {
        for member in level.iter().skip(of.healthy + of.degraded) {
            member.endpoint.health().set_unreachable(Timestamp::ZERO, Timestamp::MAX);
        }
    }
    set
}

fn healthy(percent: &[usize]) -> Vec<Percent> {
    percent.iter().map(|healthy| Percent { healthy: *healthy, degraded: 0 }).collect()
}

fn levels_of(set: &EndpointSet) -> Levels {
    let levels =
        Levels::new(set, None, &Config::default(), &Caller::default(), &Arc::new(Split::None));
    levels.recount(set, 50);
    levels
}

/// Shares of the levels in percent, first of the healthy ones, then of the degraded ones.
fn shares(levels: &[Percent]) -> [Vec<u64>; 2] {
    let levels = levels_of(&set_of(levels));
    let mut before = 0;
    [Standing::Healthy, Standing::Degraded].map(|standing| {
        let all = levels.all().iter().map(|level| {
            let up_to = u64::from(level.share.of(standing).load(Relaxed));
            let share = up_to - before;
            before = up_to;
            (share * 100 + WHOLE / 2) / WHOLE
        });
        all.collect()
    })
}

#[test]
fn the_rows_of_envoys_table() {
    for (health, expected) in [
        (&[100, 100][..], &[100, 0][..]),
        (&[72, 72], &[100, 0]),
        (&[71, 71], &[99, 1]),
        (&[50, 50], &[70, 30]),
        (&[25, 100], &[35, 65u64]),
        (&[50, 60], &[70, 30]),
        (&[25, 25], &[50, 50]),
        (&[25, 25, 20], &[36, 36, 28]),
        (&[5, 65], &[7, 93]),
        (&[0, 100], &[0, 100]),
        (&[0, 0], &[100, 0]),
    ] {
        // The page rounds, and gives the last level what is left: off by one at most.
        for (share, expected) in shares(&healthy(health))[0].iter().zip(expected) {
            assert!(share.abs_diff(*expected) <= 1, "{health:?}: {share} for {expected}");
        }
    }
}

#[test]
fn degraded_endpoints_take_what_healthy_ones_leave() {
    let of = |rows: &[(usize, usize)]| {
        let rows: Vec<Percent> = rows
            .iter()
            .map(|(healthy, degraded)| Percent { healthy: *healthy, degraded: *degraded })
            .collect();
        shares(&rows)
    };
    assert_eq!(of(&[(50, 50)]), [[70], [30]], "140 × 50 % are 70");
    assert_eq!(of(&[(72, 28)]), [[100], [0]], "the healthy ones suffice");
    assert_eq!(of(&[(0, 100)]), [[0], [100]]);
    assert_eq!(of(&[(25, 50), (25, 0)]), [[35, 35], [30, 0]], "healthy ones of all levels first");
    assert_eq!(of(&[(10, 10)]), [[50], [50]], "scaled up together when short");
}

#[test]
fn a_level_panics_below_its_threshold_when_all_together_are_short() {
    for (health, expected) in [
        (&[25, 25][..], &[true, true][..]),
        (&[5, 65], &[true, false]),
        (&[25, 100], &[false, false]),
        (&[50], &[false]),
        (&[45], &[true]),
    ] {
        let set = set_of(&healthy(health));
        let levels = levels_of(&set);
        let panics: Vec<bool> =
            levels.all().iter().map(|level| levels.panics(level, &set, 50)).collect();
        assert_eq!(panics, expected, "{health:?}");
        assert!(levels.all().iter().all(|level| !levels.panics(level, &set, 0)), "0 is off");
    }
}

#[test]
fn shares_are_counted_anew_after_a_change() {
    let set = set_of(&healthy(&[100]));
    let levels = levels_of(&set);
    assert!(!levels.panics(&levels.all()[0], &set, 50));
    for member in set.members().iter().take(51) {
        member.endpoint.health().set_unreachable(Timestamp::ZERO, Timestamp::MAX);
    }
    assert!(levels.panics(&levels.all()[0], &set, 50));
    set.members()[0].endpoint.health().set_reachable(Timestamp::ZERO);
    assert!(!levels.panics(&levels.all()[0], &set, 50));
}

#[test]
fn a_call_may_start_at_a_later_priority() {
    let levels = levels_of(&set_of(&healthy(&[100, 100, 100])));
    let priorities =
        |from| levels.from(from).iter().map(|level| level.priority).collect::<Vec<_>>();
    assert_eq!(priorities(0), [0, 1, 2]);
    assert_eq!(priorities(1), [1, 2]);
    assert_eq!(priorities(7), [0, 1, 2], "none so late");
}

/// A picker for endpoints `(priority, zone, labels)`, zone-aware for a caller in zone `x`, with
/// subsets by `key`.
fn picker_by<'a>(endpoints: impl Iterator<Item = (u32, &'a str, String)>, key: &str) -> Picker {
    let locality = locality::Config {
        zone_aware: Some(locality::ZoneAware::default()),
        ..locality::Config::default()
    };
    let keys = [key.to_owned()].into();
    let selector = Selector { keys, fallback: None, fallback_keys: BTreeSet::new() };
    let subsets = subset::Config { selectors: vec![selector], ..subset::Config::default() };
    let specs = endpoints.zip(1u32..).map(|((priority, zone, value), n)| {
        let labels = BTreeMap::from([(key.to_owned(), value)]);
        let mut spec = EndpointSpec::new(SocketAddr::from((std::net::Ipv4Addr::from(n), 80)))
            .with_locality(Locality::new("r", zone, ""))
            .with_metadata(labels);
        spec.priority = priority;
        spec
    });
    let (set, _) = EndpointSet::empty().update(specs.collect(), |_| ());
    let config = Config { locality: Some(locality), subsets: Some(subsets), ..Config::default() };
    Picker::of(set, config, &Caller::new(Locality::new("r", "x", "")))
}

#[test]
fn as_many_subsets_as_endpoints_share_one_look_at_their_places() {
    const COUNT: usize = 10_000;
    let endpoints = (0..COUNT).map(|n| (0, ["x", "y"][n % 2], n.to_string()));
    let picker = picker_by(endpoints, "id");
    let subsets = picker.subsets.as_ref().expect("there are subsets");
    for n in 0..COUNT {
        let Chosen::Subset(levels) = subsets.choose(&[Labels::from_iter([("id", n.to_string())])])
        else {
            panic!("no subset {n}")
        };
        assert!(Arc::ptr_eq(&levels.split, &picker.levels.split), "{n}");
        assert_eq!((levels.members(), levels.levels.len()), (1, 1), "{n}");
    }
}

#[test]
fn zones_count_in_the_first_priority_of_a_subset_whatever_it_is_in_the_set() {
    let prod = (0..4).map(|_| (0, "y", "prod".to_owned()));
    let dev = (0..8).map(|n| (1, ["x", "y"][n % 2], "dev".to_owned()));
    let picker = picker_by(prod.chain(dev), "stage");
    let wanted = [Labels::from_iter([("stage", "dev")])];
    let args = PickArgs::new(Timestamp::from_nanos(1)).with_subset(&wanted);
    let mut rng = fastrand::Rng::with_seed(5);
    for _ in 0..100 {
        let picked = picker.pick(&args, &mut || rng.u64(..)).expect("all are up");
        assert_eq!(&*picked.member.spec.locality.zone, "x", "the caller's own");
    }
}
