use super::*;
use crate::pick::{self, PickArgs, Picker};
use crate::{EndpointSet, EndpointSpec, Timestamp};
use std::net::SocketAddr;

const NOW: Timestamp = Timestamp::from_nanos(1_000_000_000);

/// Endpoints in zones of region `r`: how many there are, and how many of them can be picked.
fn set_of(zones: &[(&str, usize, usize)]) -> EndpointSet {
    let specs = zones.iter().zip(1u8..).flat_map(|((zone, total, _), net)| {
        (0..*total as u16).map(move |n| {
            EndpointSpec::new(SocketAddr::from(([10, 0, net, 1], 1 + n)))
                .with_locality(Locality::new("r", *zone, "rack"))
        })
    });
    let (set, _) = EndpointSet::empty().update(specs.collect(), |_| ());
    for (zone, _, healthy) in zones {
        let here = set.members().iter().filter(|member| *member.spec.locality.zone == **zone);
        for member in here.skip(*healthy) {
            member.endpoint.health().set_unreachable(Timestamp::ZERO, Timestamp::MAX);
        }
    }
    set
}

/// Percent of the picks that go to each zone.
fn picks(set: EndpointSet, config: Config, caller: &Caller) -> BTreeMap<String, f64> {
    let config = pick::Config { locality: Some(config), ..pick::Config::default() };
    let picker = Picker::of(set, config, caller);
    let seed = 17;
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut shares = BTreeMap::new();
    for _ in 0..50_000 {
        let picked = picker.pick(&PickArgs::new(NOW), &mut || rng.u64(..)).expect("picked");
        *shares.entry(picked.member.spec.locality.zone.to_string()).or_default() +=
            100.0 / 50_000.0;
    }
    shares
}

fn weighted(weights: &[(&str, u32)]) -> Config {
    let weights = weights.iter().map(|(place, weight)| ((*place).to_owned(), *weight)).collect();
    Config { weights, ..Config::default() }
}

fn zone_aware(callers: &[(&str, u32)]) -> Config {
    let callers = callers.iter().map(|(zone, count)| ((*zone).to_owned(), *count)).collect();
    let zones = ZoneAware { callers, ..ZoneAware::default() };
    Config { zone_aware: Some(zones), ..Config::default() }
}

#[track_caller]
fn assert_shares(shares: &BTreeMap<String, f64>, expected: &[(&str, f64)]) {
    for (zone, expected) in expected {
        let share = shares.get(*zone).copied().unwrap_or(0.0);
        assert!((share - expected).abs() < 1.0, "{zone}: {share}, not {expected}: {shares:?}");
    }
}

#[test]
fn the_rows_of_envoys_page_on_weights() {
    for (healthy, expected) in
        [(100, [33.3, 66.7]), (70, [33.0, 67.0]), (50, [26.0, 74.0]), (25, [15.0, 85.0])]
    {
        let set = set_of(&[("x", 100, healthy), ("y", 100, 100)]);
        let shares = picks(set, weighted(&[("r/x", 1), ("r/y", 2)]), &Caller::default());
        assert_shares(&shares, &[("x", expected[0]), ("y", expected[1])]);
    }
}

#[test]
fn the_most_exact_pattern_counts_and_the_rest_gets_what_is_left() {
    let set = set_of(&[("x", 2, 2), ("y", 2, 2), ("z", 2, 2)]);
    let weights = weighted(&[("r", 30), ("r/x/*", 70), ("q", 100)]);
    let shares = picks(set, weights, &Caller::default());
    assert_shares(&shares, &[("x", 70.0), ("y", 15.0), ("z", 15.0)]);

    let set = set_of(&[("x", 2, 2), ("y", 2, 2)]);
    let only_x = weighted(&[("*/x", 1)]);
    assert_shares(&picks(set, only_x.clone(), &Caller::default()), &[("x", 100.0)]);
    let set = set_of(&[("x", 2, 0), ("y", 2, 2)]);
    assert_shares(&picks(set, only_x, &Caller::default()), &[("y", 100.0)]);
}

#[test]
fn calls_stay_in_their_zone_while_it_has_its_share() {
    let own = Caller::new(Locality::new("r", "x", ""));
    let even = || set_of(&[("x", 4, 4), ("y", 4, 4)]);
    assert_shares(&picks(even(), zone_aware(&[]), &own), &[("x", 100.0)]);
    let more_here = zone_aware(&[("x", 1), ("y", 3)]);
    assert_shares(&picks(even(), more_here, &own), &[("x", 100.0)]);
    let nowhere = Caller::default();
    assert_shares(&picks(even(), zone_aware(&[]), &nowhere), &[("x", 50.0), ("y", 50.0)]);
}

#[test]
fn what_the_zone_cannot_take_goes_where_there_is_room() {
    let own = Caller::new(Locality::new("r", "x", ""));
    // Half of the callers here, a quarter of the endpoints: half of the calls stay. Zone y has
    // as many endpoints as callers, zone z has all the room.
    let set = set_of(&[("x", 4, 4), ("y", 4, 4), ("z", 8, 8)]);
    let shares = picks(set, zone_aware(&[("x", 2), ("y", 1), ("z", 1)]), &own);
    assert_shares(&shares, &[("x", 50.0), ("y", 0.0), ("z", 50.0)]);
    // Endpoints that are out do not count: 2 of 8 available ones for half of the callers.
    let set = set_of(&[("x", 4, 2), ("y", 6, 6)]);
    let shares = picks(set, zone_aware(&[]), &own);
    assert_shares(&shares, &[("x", 50.0), ("y", 50.0)]);
}

#[test]
fn callers_in_zones_without_endpoints_count_among_all_callers() {
    let own = Caller::new(Locality::new("r", "a", ""));
    // 0.4 of the endpoints for a third of the callers, not for half of them.
    let set = || set_of(&[("a", 4, 4), ("b", 6, 6)]);
    let shares = picks(set(), zone_aware(&[("a", 50), ("b", 50), ("c", 50)]), &own);
    assert_shares(&shares, &[("a", 100.0), ("b", 0.0)]);
    let shares = picks(set(), zone_aware(&[("a", 75), ("b", 25), ("c", 50)]), &own);
    assert_shares(&shares, &[("a", 80.0), ("b", 20.0)]);
    let shares = picks(set(), zone_aware(&[("b", 25), ("c", 50)]), &own);
    assert_shares(&shares, &[("a", 100.0), ("b", 0.0)]);
}

#[test]
fn zones_are_alike_in_a_small_set_or_without_endpoints_here() {
    let own = Caller::new(Locality::new("r", "x", ""));
    let small = set_of(&[("x", 2, 2), ("y", 2, 2)]);
    assert_shares(&picks(small, zone_aware(&[]), &own), &[("x", 50.0), ("y", 50.0)]);
    let elsewhere = set_of(&[("y", 4, 4), ("z", 4, 4)]);
    assert_shares(&picks(elsewhere, zone_aware(&[]), &own), &[("y", 50.0), ("z", 50.0)]);
}

#[test]
fn a_level_that_panics_is_picked_from_as_a_whole() {
    let set = set_of(&[("x", 10, 1), ("y", 10, 1)]);
    let shares = picks(set, weighted(&[("r/x", 1), ("r/y", 9)]), &Caller::default());
    assert_shares(&shares, &[("x", 50.0), ("y", 50.0)]);
}

#[test]
fn the_nearest_by_labels_are_used_first() {
    let own = Caller::new(Locality::new("r", "x", ""));
    let nearest = || Config {
        failover_priority: vec!["topology.kubernetes.io/zone".to_owned()],
        ..Config::default()
    };
    let set = set_of(&[("y", 4, 4), ("x", 4, 4)]);
    assert_shares(&picks(set, nearest(), &own), &[("x", 100.0)]);
    let set = set_of(&[("y", 4, 4), ("x", 4, 2)]);
    assert_shares(&picks(set, nearest(), &own), &[("x", 70.0), ("y", 30.0)]);
}

#[test]
fn a_place_has_one_to_three_parts() {
    assert!(Pattern::parse("r/*/s").is_ok());
    for wrong in ["", "r//s", "r/z/s/t", "/z"] {
        assert!(Pattern::parse(wrong).is_err(), "{wrong}");
    }
    let pattern = Pattern::parse("r/*/s").expect("three parts");
    assert!(pattern.matches(&Locality::new("r", "any", "s")));
    assert!(!pattern.matches(&Locality::new("r", "any", "t")));
}
