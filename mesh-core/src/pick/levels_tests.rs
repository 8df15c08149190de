use super::*;
use crate::{EndpointSpec, Timestamp};
use std::net::SocketAddr;

/// A set with 20 endpoints per level, so many percent of which are available.
fn set_of(health: &[u16]) -> EndpointSet {
    let specs = health.iter().zip(0u32..).flat_map(|(_, priority)| {
        (0..20).map(move |n| {
            let address = SocketAddr::from(([10, 0, 0, 1], 1 + 20 * priority as u16 + n));
            EndpointSpec::new(address).with_priority(priority)
        })
    });
    let (set, _) = EndpointSet::empty().update(specs.collect(), |_| ());
    for (level, percent) in set.members().chunks(20).zip(health) {
        for member in level.iter().skip(usize::from(percent / 5)) {
            member.endpoint.health().set_unreachable(Timestamp::ZERO, Timestamp::MAX);
        }
    }
    set
}

fn shares(health: &[u16]) -> (Vec<u64>, Vec<bool>) {
    let set = set_of(health);
    let levels = Levels::new(&set, &Config::default());
    let mut before = 0;
    let shares = levels.all().iter().map(|level| {
        let up_to = levels.counted(level, &set, 50) >> 1 & ((1 << 23) - 1);
        let share = up_to - before;
        before = up_to;
        (share * 100 + WHOLE / 2) / WHOLE
    });
    (shares.collect(), levels.all().iter().map(|level| levels.panics(level, &set, 50)).collect())
}

#[test]
fn the_rows_of_envoys_table() {
    for (health, expected) in [
        (&[100, 100][..], &[100, 0][..]),
        (&[75, 75], &[100, 0]),
        (&[50, 50], &[70, 30]),
        (&[25, 100], &[35, 65u64]),
        (&[25, 25], &[50, 50]),
        (&[25, 25, 20], &[36, 36, 28]),
        (&[5, 65], &[7, 93]),
        (&[0, 100], &[0, 100]),
        (&[0, 0], &[100, 0]),
    ] {
        // The page rounds, and gives the last level what is left: off by one at most.
        for (share, expected) in shares(health).0.iter().zip(expected) {
            assert!(share.abs_diff(*expected) <= 1, "{health:?}: {share} for {expected}");
        }
    }
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
        assert_eq!(shares(health).1, expected, "{health:?}");
    }
}

#[test]
fn shares_are_counted_anew_after_a_change() {
    let set = set_of(&[100]);
    let levels = Levels::new(&set, &Config::default());
    assert!(!levels.panics(&levels.all()[0], &set, 50));
    for member in set.members().iter().take(11) {
        member.endpoint.health().set_unreachable(Timestamp::ZERO, Timestamp::MAX);
    }
    assert!(levels.panics(&levels.all()[0], &set, 50));
    set.members()[0].endpoint.health().set_reachable(Timestamp::ZERO);
    assert!(!levels.panics(&levels.all()[0], &set, 50));
}
