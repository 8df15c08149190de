use super::*;
use crate::{EndpointSet, EndpointSpec};
use crate::{GrpcCode, endpoint::Member};
use http::StatusCode;
use proptest::prelude::*;
use std::net::SocketAddr;

fn at(seconds: u64) -> Timestamp {
    Timestamp::ZERO + Duration::from_secs(seconds)
}

fn set_of(len: u16) -> EndpointSet {
    let specs = (0..len).map(|n| EndpointSpec::new(SocketAddr::from(([10, 0, 0, 1], 1 + n))));
    EndpointSet::empty().update(specs.collect(), |_| ()).0
}

fn http(code: u16) -> Outcome {
    Outcome::of_http(StatusCode::from_u16(code).expect("valid"))
}

fn zero() -> u64 {
    0
}

fn record(detector: &Detector, set: &EndpointSet, n: usize, outcome: Outcome) -> Option<Ejection> {
    let len = set.members().len();
    detector.record(&set.members()[n].endpoint, len, outcome, at(0), &mut zero)
}

fn is_out(member: &Member) -> bool {
    member.endpoint.health().is_ejected()
}

#[test]
fn five_5xx_in_a_row_eject() {
    let (detector, set) = (Detector::new(Config::default()), set_of(4));
    for outcome in [http(500), http(503), http(500), http(500), http(200), http(404)] {
        assert_eq!(record(&detector, &set, 0, outcome), None);
    }
    for _ in 0..4 {
        assert_eq!(record(&detector, &set, 0, http(500)), None);
        assert_eq!(record(&detector, &set, 0, Outcome::Cancelled), None);
    }
    let ejection = record(&detector, &set, 0, http(500)).expect("the fifth");
    assert_eq!(ejection.reason, Reason::Consecutive5xx(5));
    assert_eq!(ejection.duration, Duration::from_secs(30));
    assert_eq!(set.ejected(), 1);
    assert!(!set.members()[0].endpoint.is_selectable());
}

#[test]
fn failures_on_the_way_and_grpc_failures_count_as_5xx() {
    for failure in [Failure::Connect, Failure::Timeout, Failure::Grpc(GrpcCode::UNAVAILABLE)] {
        let (detector, set) = (Detector::new(Config::default()), set_of(4));
        let ejection = (0..5).find_map(|_| record(&detector, &set, 0, Outcome::Failure(failure)));
        assert_eq!(ejection.map(|one| one.reason), Some(Reason::Consecutive5xx(5)));
    }
}

#[test]
fn in_split_mode_failures_on_the_way_count_apart() {
    let config = Config {
        split_external_local_origin_errors: true,
        consecutive_local_origin_failure: 2,
        ..Config::default()
    };
    let (detector, set) = (Detector::new(config), set_of(4));
    let reset = Outcome::Failure(Failure::Reset);
    for _ in 0..4 {
        assert_eq!(record(&detector, &set, 0, http(500)), None);
        assert_eq!(record(&detector, &set, 0, reset), None);
    }
    let reason = record(&detector, &set, 0, reset).expect("two in a row").reason;
    assert_eq!(reason, Reason::ConsecutiveLocalOrigin(2));
}

#[test]
fn gateway_failures_eject_where_enforced() {
    let config = Config {
        consecutive_5xx: 0,
        consecutive_gateway_failure: 3,
        enforcing_consecutive_gateway_failure: 100,
        ..Config::default()
    };
    let (detector, set) = (Detector::new(config), set_of(4));
    for code in [502, 504, 500, 503, 503] {
        assert_eq!(record(&detector, &set, 0, http(code)), None, "a 500 ends the row");
    }
    let reason = record(&detector, &set, 0, http(502)).expect("three in a row").reason;
    assert_eq!(reason, Reason::ConsecutiveGatewayFailure(3));
}

#[test]
fn ejections_grow_to_300_s_and_shrink_while_well() {
    let (detector, set) = (Detector::new(Config::default()), set_of(4));
    let eject = || (0..5).find_map(|_| record(&detector, &set, 0, http(500)));
    let mut now = at(0);
    for seconds in [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300] {
        let len = set.members().len();
        let endpoint = &set.members()[0].endpoint;
        let ejection = (0..5)
            .find_map(|_| detector.record(endpoint, len, http(500), now, &mut zero))
            .expect("ejected");
        assert_eq!(ejection.duration, Duration::from_secs(seconds));
        let early =
            detector.sweep(&set, now + ejection.duration - Duration::from_secs(1), &mut zero);
        assert_eq!(early, Sweep::default());
        now = now + ejection.duration;
        let sweep = detector.sweep(&set, now, &mut zero);
        assert_eq!(sweep.readmitted, [endpoint.id().clone()]);
    }
    for _ in 0..11 {
        detector.sweep(&set, now, &mut zero);
    }
    assert_eq!(eject().expect("ejected").duration, Duration::from_secs(30));
}

#[test]
fn a_success_rate_far_below_the_mean_ejects() {
    let (detector, set) = (Detector::new(Config::default()), set_of(6));
    for n in 0..6 {
        for call in 0..100 {
            let bad = if n == 3 { call % 3 == 0 } else { call == 50 };
            assert_eq!(record(&detector, &set, n, http(if bad { 500 } else { 200 })), None);
        }
    }
    // Rates 99 ×5 and 66: mean 93.5, stdev 12.30, required 93.5 − 1.9 × 12.30 = 70.1.
    let sweep = detector.sweep(&set, at(10), &mut zero);
    assert_eq!(sweep.ejected.len(), 1);
    assert_eq!(sweep.ejected[0].endpoint, *set.members()[3].endpoint.id());
    assert_eq!(sweep.ejected[0].reason.to_string(), "success rate 66.0 %, below 70.1 %");
    assert_eq!(detector.sweep(&set, at(20), &mut zero).ejected, [], "counts start anew");
}

#[test]
fn success_rates_need_enough_endpoints_with_enough_calls() {
    for (endpoints, calls) in [(4, 100), (6, 99)] {
        let (detector, set) = (Detector::new(Config::default()), set_of(endpoints));
        for n in 0..usize::from(endpoints) {
            for call in 0..calls {
                let bad = n == 0 && call % 3 == 0;
                record(&detector, &set, n, http(if bad { 500 } else { 200 }));
            }
        }
        assert_eq!(detector.sweep(&set, at(10), &mut zero).ejected, []);
    }
}

#[test]
fn the_failure_percentage_ejects_at_its_threshold() {
    let config = Config {
        enforcing_failure_percentage: 100,
        enforcing_success_rate: 0,
        consecutive_5xx: 0,
        ..Config::default()
    };
    let (detector, set) = (Detector::new(config), set_of(6));
    for n in 0..6 {
        for call in 0..100 {
            let failed = [85, 84, 0, 0, 0, 0][n];
            record(&detector, &set, n, http(if call < failed { 500 } else { 200 }));
        }
    }
    let sweep = detector.sweep(&set, at(10), &mut zero);
    assert_eq!(sweep.ejected.len(), 1);
    assert_eq!(sweep.ejected[0].reason, Reason::FailurePercentage(85));
}

#[test]
fn without_detectors_all_return() {
    let (detector, set) = (Detector::new(Config::default()), set_of(4));
    (0..5).for_each(|_| drop(record(&detector, &set, 0, http(500))));
    assert!(is_out(&set.members()[0]));
    let off = Detector::new(Config::off());
    assert!(off.config().is_off() && !Config::default().is_off());
    assert_eq!(off.sweep(&set, at(1), &mut zero).readmitted.len(), 1);
    assert_eq!(set.ejected(), 0);
}

#[test]
fn a_share_of_the_detections_is_enforced() {
    let config = Config { enforcing_consecutive_5xx: 40, ..Config::default() };
    for (bits, ejected) in [(39u64, true), (40, false)] {
        let (detector, set) = (Detector::new(config.clone()), set_of(4));
        // `below(100)` of these bits is the number itself.
        let mut draw = || (bits << 56) / 100 * 256 + 255;
        let endpoint = &set.members()[0].endpoint;
        let last = (0..5).find_map(|_| detector.record(endpoint, 4, http(500), at(0), &mut draw));
        assert_eq!(last.is_some(), ejected, "{bits}");
    }
}

#[test]
fn removed_endpoints_do_not_use_up_the_share() {
    let (detector, set) = (Detector::new(Config::default()), set_of(2));
    (0..5).for_each(|_| drop(record(&detector, &set, 0, http(500))));
    (0..5).for_each(|_| drop(record(&detector, &set, 1, http(500))));
    assert!(is_out(&set.members()[0]) && !is_out(&set.members()[1]), "one of two may be out");
    let rest = vec![(*set.members()[1].spec).clone()];
    let (rest, _) = set.update(rest, |_| ());
    assert_eq!(rest.ejected(), 0);
}

#[test]
fn reasons_survive_their_word() {
    for reason in [
        Reason::Consecutive5xx(5),
        Reason::ConsecutiveGatewayFailure(7),
        Reason::ConsecutiveLocalOrigin(reason::MAX_PACKED),
        Reason::SuccessRate { rate: 661, required: 999 },
        Reason::FailurePercentage(100),
        Reason::LocalOriginSuccessRate { rate: 661, required: 999 },
        Reason::LocalOriginFailurePercentage(85),
        Reason::Latency { latency: 8400, median: 1400 },
        Reason::Probation,
    ] {
        assert_eq!(Reason::unpack(reason.pack()), reason);
    }
}

#[test]
fn in_split_mode_the_way_has_a_success_rate_of_its_own() {
    let config = Config {
        split_external_local_origin_errors: true,
        consecutive_local_origin_failure: 0,
        ..Config::default()
    };
    let lost = Outcome::Failure(Failure::Reset);
    let (detector, set) = (Detector::new(config.clone()), set_of(6));
    for n in 0..6 {
        for call in 0..100 {
            // What an endpoint answers says nothing about the way to it.
            let outcome = if n == 3 && call % 3 == 0 { lost } else { http(200) };
            assert_eq!(record(&detector, &set, n, outcome), None);
        }
    }
    let sweep = detector.sweep(&set, at(10), &mut zero);
    let told: Vec<_> = sweep.ejected.iter().map(|one| one.reason.to_string()).collect();
    assert_eq!(told, ["reached in 66.0 % of calls, below 70.3 %"]);

    let off = Config { enforcing_local_origin_success_rate: 0, ..config };
    let by_share = Config { enforcing_failure_percentage_local_origin: 100, ..off.clone() };
    for (config, expected) in [(off, None), (by_share, Some(90))] {
        let (detector, set) = (Detector::new(config), set_of(6));
        for n in 0..6 {
            for call in 0..100 {
                let outcome = if n == 3 && call < 90 { lost } else { http(200) };
                record(&detector, &set, n, outcome);
            }
        }
        let sweep = detector.sweep(&set, at(10), &mut zero);
        let reason = sweep.ejected.first().map(|one| one.reason);
        assert_eq!(reason, expected.map(Reason::LocalOriginFailurePercentage));
    }
}

/// The latencies of six endpoints in an interval: 100 calls each of so many milliseconds, of which
/// one in eleven takes three times as long.
fn slow(config: Config, millis: [u64; 6], calls: u64) -> Vec<(usize, String)> {
    let (detector, set) = (Detector::new(config), set_of(6));
    for (n, millis) in millis.into_iter().enumerate() {
        for call in 0..calls {
            let took = if call % 11 == 0 { 3 * millis } else { millis };
            detector.observe(&set.members()[n].endpoint, Duration::from_millis(took));
        }
    }
    let sweep = detector.sweep(&set, at(10), &mut zero);
    let place = |one: &Ejection| {
        set.members().iter().position(|member| *member.endpoint.id() == one.endpoint)
    };
    let told = sweep.ejected.iter().map(|one| (place(one).expect("known"), one.reason.to_string()));
    told.collect()
}

#[test]
fn a_latency_far_above_the_median_ejects() {
    let config = Config { enforcing_latency: 100, ..Config::default() };
    let ejected = |config: &Config, millis, calls| {
        slow(config.clone(), millis, calls).into_iter().map(|(n, _)| n).collect::<Vec<_>>()
    };
    let told = slow(config.clone(), [20, 20, 200, 20, 20, 20], 100);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].0, 2);
    assert!(
        told[0].1.starts_with("latency 2") && told[0].1.contains("the median is 2"),
        "{told:?}"
    );

    assert_eq!(ejected(&config, [20, 20, 55, 20, 20, 20], 100), [0; 0], "less than three times");
    assert_eq!(ejected(&config, [20, 500, 200, 20, 20, 20], 100), [1, 2], "the slowest first");
    let all = [20, 500, 500, 500, 500, 500];
    assert_eq!(ejected(&config, all, 100), [0; 0], "most are slow: that is the median");
    assert_eq!(ejected(&config, [1, 1, 8, 1, 1, 1], 100), [0; 0], "no 10 ms above it");
    assert_eq!(ejected(&config, [20, 20, 200, 20, 20, 20], 49), [0; 0], "too few calls");
    let few = Config { latency_minimum_hosts: 7, ..config.clone() };
    assert_eq!(ejected(&few, [20, 20, 200, 20, 20, 20], 100), [0; 0], "too few endpoints");
    let off = Config { enforcing_latency: 0, ..config };
    assert_eq!(ejected(&off, [20, 20, 200, 20, 20, 20], 100), [0; 0]);
}

/// Ejects the first endpoint of a set whose endpoints return on probation.
fn on_probation() -> (Detector, EndpointSet) {
    let config = Config {
        probation: true,
        base_ejection_time: Duration::from_secs(4),
        max_ejection_time: Duration::from_secs(10),
        ..Config::default()
    };
    let (detector, set) = (Detector::new(config), set_of(4));
    (0..5).for_each(|_| drop(record(&detector, &set, 0, http(500))));
    assert!(is_out(&set.members()[0]));
    (detector, set)
}

fn text(set: &EndpointSet, seconds: u64) -> String {
    set.members()[0].endpoint.state(at(seconds)).to_string()
}

#[test]
fn on_probation_one_call_decides() {
    let (detector, set) = on_probation();
    let endpoint = &set.members()[0].endpoint;
    // 4 s of which the second half is drawn: here none of it.
    assert_eq!(text(&set, 1), "ejected: 5 consecutive 5xx, returns in 1 s");
    assert_eq!(detector.admit(endpoint, at(1)), Admitted::No);
    assert!(!endpoint.is_selectable_at(at(1)));

    assert!(endpoint.is_selectable_at(at(2)) && !endpoint.is_selectable());
    assert_eq!(
        detector.sweep(&set, at(2), &mut zero),
        Sweep::default(),
        "time alone is not enough"
    );
    assert!(endpoint.is_selectable(), "it counts as available, lest it is never picked");
    assert_eq!(text(&set, 2), "probation: 5 consecutive 5xx, the next call decides");

    let Admitted::OnProbation(probe) = detector.admit(endpoint, at(2)) else { panic!("due") };
    assert_eq!(text(&set, 3), "probation: 5 consecutive 5xx, a call is deciding");
    assert_eq!(detector.admit(endpoint, at(3)), Admitted::No, "one at a time");
    assert!(!endpoint.is_selectable_at(at(3)));
    let gone = detector.probed(endpoint, probe, Outcome::Cancelled, at(3), &mut zero);
    assert_eq!(gone, Probed::Undecided);

    let Admitted::OnProbation(second) = detector.admit(endpoint, at(3)) else { panic!("due") };
    assert_ne!(probe, second);
    let failed = detector.probed(endpoint, second, http(503), at(4), &mut zero);
    let Probed::Ejected(ejection) = failed else { panic!("{failed:?}") };
    assert_eq!((ejection.reason, ejection.duration), (Reason::Probation, Duration::from_secs(4)));
    assert_eq!(text(&set, 5), "ejected: failed on probation, returns in 3 s");
    assert_eq!(set.ejected(), 1, "it never counted as back");
    assert!(!endpoint.is_selectable());
    let late = detector.probed(endpoint, probe, Outcome::Success, at(5), &mut zero);
    assert_eq!(late, Probed::Undecided, "a call of before decides nothing");

    let Admitted::OnProbation(third) = detector.admit(endpoint, at(8)) else { panic!("due") };
    let well = detector.probed(endpoint, third, Outcome::Success, at(8), &mut zero);
    assert_eq!((well, set.ejected(), text(&set, 9).as_str()), (Probed::Readmitted, 0, "ready"));
    assert_eq!(detector.admit(endpoint, at(9)), Admitted::Freely);
}

#[test]
fn a_deciding_call_that_takes_too_long_gives_way() {
    let (detector, set) = on_probation();
    let endpoint = &set.members()[0].endpoint;
    assert!(matches!(detector.admit(endpoint, at(2)), Admitted::OnProbation(_)));
    assert_eq!(detector.admit(endpoint, at(11)), Admitted::No);
    assert!(matches!(detector.admit(endpoint, at(12)), Admitted::OnProbation(_)));
}

#[test]
fn without_probation_any_more_time_alone_readmits() {
    let (_, set) = on_probation();
    let detector = Detector::new(Config::default());
    let sweep = detector.sweep(&set, at(2), &mut zero);
    assert_eq!(sweep.readmitted, [set.members()[0].endpoint.id().clone()]);
}

#[test]
fn ejections_double_on_probation_and_half_of_them_is_chance() {
    let config = Config { probation: true, ..Config::default() };
    for (n, seconds) in [(1, 30), (2, 60), (3, 120), (4, 240), (5, 300), (40, 300)] {
        let least = config.ejection_time(n, &mut zero);
        let most = config.ejection_time(n, &mut || u64::MAX);
        assert_eq!(least, Duration::from_millis(500 * seconds), "{n}");
        assert!(most <= Duration::from_secs(seconds) && most > least.mul_f64(1.99), "{most:?}");
    }
}

#[test]
fn a_check_that_succeeds_ends_an_ejection() {
    for (allowed, well, ends) in [(true, true, true), (false, true, false), (true, false, false)] {
        let config =
            Config { successful_active_health_check_uneject_host: allowed, ..Config::default() };
        let (detector, set) = (Detector::new(config), set_of(4));
        (0..5).for_each(|_| drop(record(&detector, &set, 0, http(500))));
        let endpoint = &set.members()[0].endpoint;
        if !well {
            endpoint.health().set_not_well(at(1), crate::health::check::Cause::Timeout);
        }
        assert_eq!(detector.check_passed(endpoint, at(1)), ends);
        assert_eq!(is_out(&set.members()[0]), !ends);
        assert_eq!(set.ejected(), usize::from(!ends));
    }
}

proptest! {
    /// Whatever calls do, and whenever: one at a time decides, the share is kept, and the count of
    /// the ejected is right.
    #[test]
    fn at_most_one_call_decides_at_a_time(
        steps in prop::collection::vec((0u8..6, 0u64..4), 1..200),
    ) {
        let config = Config {
            probation: true,
            base_ejection_time: Duration::from_secs(2),
            max_ejection_time: Duration::from_secs(1000),
            consecutive_5xx: 2,
            max_ejection_percent: 50,
            ..Config::default()
        };
        let (detector, set) = (Detector::new(config), set_of(3));
        let endpoint = &set.members()[0].endpoint;
        let (mut now, mut deciding) = (at(0), None::<Probe>);
        for (step, seconds) in steps {
            now = now + Duration::from_secs(seconds);
            match step {
                0 | 1 => match detector.admit(endpoint, now) {
                    Admitted::OnProbation(probe) => {
                        // The lease of 1,000 s is longer than all of this takes.
                        prop_assert!(deciding.is_none(), "two at a time");
                        deciding = Some(probe);
                    }
                    Admitted::Freely => prop_assert!(!endpoint.health().is_ejected()),
                    Admitted::No => prop_assert!(endpoint.health().is_ejected()),
                },
                2 | 3 => {
                    if let Some(probe) = deciding.take() {
                        let outcome = if step == 2 { Outcome::Success } else { http(500) };
                        let done = detector.probed(endpoint, probe, outcome, now, &mut zero);
                        prop_assert_eq!(done == Probed::Readmitted, step == 2);
                        prop_assert_eq!(endpoint.health().is_ejected(), step == 3);
                    } else {
                        let len = set.members().len();
                        detector.record(endpoint, len, http(500), now, &mut zero);
                    }
                }
                4 => {
                    if let Some(probe) = deciding.take() {
                        detector.probed(endpoint, probe, Outcome::Cancelled, now, &mut zero);
                        prop_assert!(endpoint.health().is_ejected(), "nothing was decided");
                    }
                }
                _ => drop(detector.sweep(&set, now, &mut zero)),
            }
            prop_assert_eq!(deciding.is_some() && endpoint.is_selectable_at(now), false);
            let out = set.members().iter().filter(|member| is_out(member)).count();
            prop_assert_eq!(out, set.ejected());
            prop_assert!(out <= 1);
        }
    }

    #[test]
    fn never_more_than_the_share_and_always_one(
        len in 1u16..30,
        percent in 0u8..=100,
        failures in prop::collection::vec(0usize..30, 1..600),
    ) {
        let config = Config { max_ejection_percent: percent, ..Config::default() };
        let (detector, set) = (Detector::new(config), set_of(len));
        for n in failures {
            record(&detector, &set, n % usize::from(len), http(500));
            let out = set.members().iter().filter(|member| is_out(member)).count();
            prop_assert_eq!(out, set.ejected());
            prop_assert!(out <= (usize::from(len) * usize::from(percent) / 100).max(1));
        }
        for n in 0..usize::from(len) {
            (0..5).for_each(|_| drop(record(&detector, &set, n, http(500))));
        }
        prop_assert!(set.ejected() >= 1);
    }
}
