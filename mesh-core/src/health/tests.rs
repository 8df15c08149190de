use super::outlier::Reason;
use super::*;
use std::time::Duration;

fn at(seconds: u64) -> Timestamp {
    Timestamp::ZERO + Duration::from_secs(seconds)
}

#[test]
fn a_state_says_why_and_for_how_long() {
    let health = Health::new(Tally::default());
    let text = |now| health.state(at(now)).to_string();
    assert_eq!(text(0), "ready");

    assert_eq!(health.state(at(0)).since, None, "it was never out");

    assert!(health.set_unreachable(at(5), at(7)));
    assert!(!health.set_unreachable(at(6), at(9)), "it was out already");
    assert_eq!(text(6), "unreachable: no connection, next try in 3 s");
    assert_eq!(health.state(at(6)).since, Some(at(5)));

    let reason = Reason::Consecutive5xx(5);
    let thirty = |_| Duration::from_secs(30);
    assert_eq!(health.eject(at(8), 1, reason, false, thirty), Some(Duration::from_secs(30)));
    assert_eq!(text(10), "ejected: 5 consecutive 5xx, returns in 28 s");
    assert_eq!(text(39), "ejected: 5 consecutive 5xx, returns at the next sweep");

    health.set_declared(Declared::Draining);
    assert_eq!(text(10), "draining: discovery says so");
    health.set_declared(Declared::Healthy);
    assert!(health.readmit(at(40)));
    assert!(!health.readmit(at(41)));
    assert!(health.set_reachable(at(42)));
    assert!(!health.set_reachable(at(43)));
    assert_eq!(text(44), "ready");
    assert_eq!(health.state(at(44)).since, Some(at(42)));
    assert!(health.is_selectable());
}

#[test]
fn an_endpoint_that_is_not_well_says_why_and_since_when() {
    let health = Health::new(Tally::default());
    let text = |now| health.state(at(now)).to_string();
    assert!(health.is_well());
    assert!(health.set_not_well(at(1), Cause::Unchecked));
    assert_eq!(text(2), "unhealthy: no health check has ended yet");
    assert!(!health.is_selectable() && health.is_declared_usable());

    assert!(!health.set_not_well(at(3), Cause::Status(503)), "it was out already");
    assert_eq!(text(4), "unhealthy: health check: HTTP 503");
    assert_eq!(health.state(at(4)).since, Some(at(1)));

    health.set_unreachable(at(5), at(6));
    assert_eq!(text(5), "unreachable: no connection, next try in 1 s");
    health.set_reachable(at(7));
    assert!(health.set_well(at(8)));
    assert!(!health.set_well(at(9)));
    assert_eq!(text(9), "ready");
    assert_eq!(health.state(at(9)).since, Some(at(8)));
    assert!(health.is_selectable());
}

#[test]
fn only_changes_of_the_choice_count_as_changes() {
    let tally = Tally::default();
    let health = Health::new(tally.clone());
    let before = tally.changes();
    health.set_declared(Declared::Healthy);
    health.set_reachable(at(0));
    assert_eq!(tally.changes(), before);
    health.set_unreachable(at(1), at(2));
    assert_ne!(tally.changes(), before);
}

#[test]
fn degraded_endpoints_are_counted_until_they_are_gone() {
    let tally = Tally::default();
    let health = Health::new(tally.clone());
    health.set_declared(Declared::Degraded);
    assert_eq!(health.standing(), Some(Standing::Degraded));
    health.set_declared(Declared::Degraded);
    assert!(tally.any_degraded());
    health.set_declared(Declared::Healthy);
    assert!(!tally.any_degraded());
    health.set_declared(Declared::Degraded);
    health.retire();
    assert!(!tally.any_degraded());
}

#[test]
fn discovery_and_checks_say_degraded_independently_and_either_suffices() {
    let tally = Tally::default();
    let health = Health::new(tally.clone());
    let text = || health.state(at(1)).to_string();
    let standings = || {
        let [now, later] = [health.standing(), health.standing_at(at(1))];
        assert_eq!(now, later);
        now
    };
    let before = tally.changes();
    assert!(!health.set_degraded(false), "no check has said otherwise");
    assert_eq!(tally.changes(), before);

    assert!(health.set_degraded(true) && !health.set_degraded(true));
    assert_ne!(tally.changes(), before);
    assert_eq!((standings(), health.is_degraded()), (Some(Standing::Degraded), true));
    assert_eq!(text(), "ready: degraded, its health check says so");

    health.set_declared(Declared::Degraded);
    assert_eq!(text(), "ready: degraded, discovery says so");
    assert!(health.set_degraded(false));
    assert_eq!(standings(), Some(Standing::Degraded), "discovery still says so");
    assert!(tally.any_degraded());
    health.set_degraded(true);
    health.set_declared(Declared::Healthy);
    assert_eq!(standings(), Some(Standing::Degraded), "the check still says so");

    health.set_not_well(at(2), Cause::Status(503));
    assert_eq!(standings(), None);
    health.set_well(at(3));
    assert_eq!(standings(), Some(Standing::Degraded), "nothing has said otherwise");
    let minute = |_| Duration::from_secs(60);
    assert!(health.eject(at(4), 1, Reason::Consecutive5xx(5), true, minute).is_some());
    assert_eq!(health.standing_at(at(5)), None);
    assert_eq!(health.standing_at(at(64)), Some(Standing::Degraded), "probation is due");

    health.retire();
    assert!(!tally.any_degraded());
    assert!(!health.set_degraded(true) && !tally.any_degraded(), "a check that ends late");
}

#[test]
fn what_joins_is_new_from_the_first_look_on() {
    let health = Health::new(Tally::default());
    assert_eq!(health.new_since(at(5)), None, "there from the start");
    health.set_joined();
    assert_eq!(health.new_since(at(7)), Some(at(7)));
    assert_eq!(health.new_since(at(9)), Some(at(7)));
    health.set_unreachable(at(10), at(11));
    health.set_reachable(at(12));
    assert_eq!(health.new_since(at(13)), Some(at(12)), "it came back");
}

#[test]
fn a_retired_endpoint_is_not_counted_as_ejected() {
    let tally = Tally::default();
    let health = Health::new(tally.clone());
    let minute = |_| Duration::from_secs(60);
    assert!(health.eject(at(1), 1, Reason::Consecutive5xx(5), false, minute).is_some());
    assert_eq!(tally.ejected(), 1);
    health.retire();
    assert_eq!(tally.ejected(), 0);
    assert!(health.eject(at(1), 1, Reason::Consecutive5xx(5), false, minute).is_none());
    assert_eq!(tally.ejected(), 0);
}
