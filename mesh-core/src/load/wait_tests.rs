use super::super::{Load, Recent, Seat};
use super::*;
use proptest::prelude::*;
use std::sync::Arc;

const MS: Duration = Duration::from_millis(1);

fn at(millis: u64) -> Timestamp {
    Timestamp::from_nanos(1_000_000_000 + millis * 1_000_000)
}

/// The load of an endpoint in a set in which successes took 40 ms so far.
fn load() -> Load {
    let recent = Arc::new(Recent::default());
    recent.succeeded(40 * MS);
    Load::in_set(recent)
}

fn begin(load: &Load, now: Timestamp) {
    load.picked(now, Seat::new(1, 0));
    load.begin();
}

fn close(left: f64, right: f64) {
    assert!((left - right).abs() <= right.abs() * 0.02, "{left} is not about {right}");
}

fn report(in_flight: u32, service_time: Duration, errors: f64) -> Report {
    Report {
        in_flight: Some(in_flight),
        service_time: Some(service_time),
        error_share: Some(errors),
        ..Report::default()
    }
}

#[test]
fn one_slow_call_in_ten_moves_it_by_its_logarithm() {
    let load = load();
    (0..50).for_each(|n| load.succeeded(at(n), 40 * MS));
    close(load.expected_wait(at(50)), 0.04);
    load.succeeded(at(51), 400 * MS);
    close(load.expected_wait(at(51)), 0.04 * 10f64.powf(0.3));
}

#[test]
fn each_attempt_in_flight_adds_one_service_time() {
    let load = load();
    (0..50).for_each(|n| load.succeeded(at(n), 40 * MS));
    for calls in 2..5 {
        begin(&load, at(50));
        close(load.expected_wait(at(50)), f64::from(calls) * 0.04);
    }
    load.end();
    close(load.expected_wait(at(50)), 3.0 * 0.04);
}

#[test]
fn a_failure_costs_a_tenth_of_a_second_however_fast_it_is() {
    let load = load();
    load.succeeded(at(0), 40 * MS);
    load.failed(at(1), None);
    close(load.expected_wait(at(1)), 0.14);
    load.failed(at(2), None);
    close(load.expected_wait(at(2)), 0.04 + 0.19);
    load.succeeded(at(3), 40 * MS);
    close(load.expected_wait(at(3)), 0.04 + 0.171);
}

#[test]
fn who_comes_back_has_the_latency_but_not_the_failures_of_before() {
    let load = load();
    (0..50).for_each(|n| load.succeeded(at(n), 10 * MS));
    (50..60).for_each(|n| load.failed(at(n), None));
    assert!(load.expected_wait(at(60)) > 0.5);
    load.came_back();
    close(load.expected_wait(at(60)), 0.01);

    let never_answered = self::load();
    never_answered.failed(at(0), None);
    never_answered.came_back();
    close(never_answered.expected_wait(at(0)), 0.04);
}

#[test]
fn who_asks_to_be_left_alone_costs_a_second_as_long_as_that_lasts() {
    let load = load();
    load.succeeded(at(0), 40 * MS);
    load.failed(at(0), Some(5_000 * MS));
    close(load.expected_wait(at(4_999)), 1.04);
    load.reported(at(4_950), &report(0, 40 * MS, 0.0));
    close(load.reported_wait(at(4_999)).expect("new"), 1.04);
    load.succeeded(at(4_990), 40 * MS);
    close(load.expected_wait(at(4_999)), 1.04);
    assert!(load.expected_wait(at(5_000)) < 0.2, "one failure is left");
    load.failed(at(6_000), Some(Duration::MAX));
    close(load.expected_wait(at(305_000)), 1.04);
    assert!(load.expected_wait(at(306_000)) < 0.1, "300 s are the most");
    load.failed(at(400_000), Some(5_000 * MS));
    load.came_back();
    close(load.expected_wait(at(400_000)), 0.04);
}

#[test]
fn where_calls_are_long_a_failure_costs_as_many_of_them() {
    let recent = Arc::new(Recent::default());
    recent.succeeded(2_000 * MS);
    let load = Load::in_set(recent);
    load.succeeded(at(0), 2_000 * MS);
    load.failed(at(1), None);
    close(load.expected_wait(at(1)), 2.0 + 0.1 * 50.0);
}

#[test]
fn errors_count_half_after_twenty_seconds() {
    let load = load();
    load.succeeded(at(0), 40 * MS);
    load.failed(at(0), None);
    close(load.expected_wait(at(20_000)), 0.04 + 0.05);
    begin(&load, at(20_000));
    load.end();
    close(load.expected_wait(at(20_000)), 0.04 + 0.05);
    close(load.expected_wait(at(40_000)), 0.04 + 0.025);
}

#[test]
fn a_black_hole_shows_before_the_deadline() {
    let load = load();
    load.succeeded(at(0), 40 * MS);
    begin(&load, at(10_000));
    close(load.expected_wait(at(10_020)), 2.0 * 0.04);
    close(load.expected_wait(at(10_500)), 2.0 * 0.5);
}

#[test]
fn a_slow_call_is_believed_for_thirty_seconds() {
    let load = load();
    (0..50).for_each(|_| load.succeeded(at(0), 400 * MS));
    let average = f64::from(load.average());
    close(load.expected_wait(at(29_000)), 0.4);
    close(load.expected_wait(at(60_000)), average + (0.4 - average) / 2.0);
    close(load.expected_wait(at(3_000_000)), average + (0.4 - average) / 100.0);
}

#[test]
fn a_fast_one_is_believed_for_as_long_as_there_is_no_other_news() {
    let load = load();
    (0..50).for_each(|_| load.succeeded(at(0), 4 * MS));
    close(load.expected_wait(at(3_000_000)), 0.004);
}

#[test]
fn an_endpoint_that_has_not_answered_counts_as_the_average_and_else_as_30_ms() {
    close(load().expected_wait(at(0)), 0.04);
    close(Load::new().expected_wait(at(0)), 0.03);
}

#[test]
fn a_report_counts_what_the_endpoint_has_in_flight_and_what_was_sent_since() {
    let load = load();
    assert_eq!(load.reported_wait(at(0)), None);
    load.reported(at(0), &report(3, 10 * MS, 0.0));
    close(load.reported_wait(at(1)).expect("new"), 4.0 * 0.01);
    begin(&load, at(2));
    begin(&load, at(3));
    close(load.reported_wait(at(3)).expect("new"), 6.0 * 0.01);
    load.reported(at(4), &report(0, 10 * MS, 0.5));
    close(load.reported_wait(at(4)).expect("new"), 0.01 + 0.5);
    assert_eq!(load.reported_wait(at(105)), None, "older than 100 ms");
}

#[test]
fn own_failures_count_even_where_the_report_says_there_are_none() {
    let load = load();
    load.succeeded(at(0), 40 * MS);
    (0..10).for_each(|_| load.failed(at(0), None));
    load.reported(at(0), &report(0, MS, 0.0));
    assert!(load.reported_wait(at(1)).expect("new") > 0.6);
}

#[test]
fn a_report_is_not_believed_after_an_unanswered_question() {
    let load = load();
    load.succeeded(at(0), 40 * MS);
    load.reported(at(0), &report(0, MS, 0.0));
    load.unanswered();
    assert_eq!(load.reported_wait(at(1)), None);
    assert!(load.reports(at(1)), "if not now");
    assert!(!load.reports(at(31_000)), "it does not any more");
    load.reported(at(32_000), &report(0, MS, 0.0));
    assert!(load.reported_wait(at(32_000)).is_some() && load.reports(at(32_000)));
}

#[test]
fn who_answers_without_reports_is_not_asked_for_them() {
    let load = load();
    assert!(load.may_report(at(0)) && !load.reports(at(0)), "nothing is known");
    load.succeeded(at(0), 40 * MS);
    assert!(!load.may_report(at(0)) && !load.reports(at(0)));
    load.unanswered();
    assert!(!load.may_report(at(0)) && !load.reports(at(0)));
}

#[test]
fn a_report_without_calls_in_flight_adds_its_errors_to_what_is_seen() {
    let load = load();
    load.succeeded(at(0), 40 * MS);
    let foreign = Report { qps: 100.0, eps: 50.0, cpu_utilization: 0.4, ..Report::default() };
    load.reported(at(0), &foreign);
    assert_eq!(load.reported_wait(at(0)), None);
    close(load.expected_wait(at(0)), 0.04 + 0.5);
}

#[test]
fn absurd_reports_give_finite_waits() {
    for (in_flight, span) in [(u32::MAX, Duration::MAX), (0, Duration::ZERO)] {
        let load = load();
        load.reported(at(0), &report(in_flight, span, 1.0));
        (0..10).for_each(|_| begin(&load, at(0)));
        let wait = load.reported_wait(at(0)).expect("new");
        assert!(wait.is_finite() && wait > 0.0, "{wait}");
    }
}

proptest! {
    /// Against the formula on plain numbers, over any sequence of outcomes within 30 s.
    #[test]
    fn the_packed_state_follows_the_formula(
        steps in prop::collection::vec((0u64..500, 1u64..2_000, any::<bool>()), 1..50),
    ) {
        let load = load();
        let (mut now, mut seconds, mut errors) = (at(0), 0.0f64, 0.0f64);
        for (gap, latency, good) in steps {
            let before = now;
            now = now + Duration::from_millis(gap);
            let age = now.since(before).as_secs_f64();
            let average = f64::from(load.average());
            let known = load.expected_wait(now) > 0.0;
            prop_assert!(known);
            errors *= (-age / 20.0).exp2();
            if good {
                let r = latency as f64 / 1e3;
                let from = if seconds == 0.0 { average } else { seconds };
                seconds = from.powf(0.7) * r.powf(0.3);
                errors *= 0.9;
                load.succeeded(now, Duration::from_millis(latency));
            } else {
                errors += 0.1 * (1.0 - errors);
                load.failed(now, None);
            }
            let average = f64::from(load.average());
            let service = if seconds == 0.0 { average } else { seconds };
            let expected = service + (25.0 * average).max(1.0) * errors;
            let seen = load.expected_wait(now);
            prop_assert!((seen - expected).abs() <= expected * 1e-3, "{seen} against {expected}");
        }
    }
}
