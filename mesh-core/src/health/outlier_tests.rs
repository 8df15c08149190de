use super::*;
use crate::EndpointSpec;
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
        Reason::ConsecutiveLocalOrigin(MAX_PACKED),
        Reason::SuccessRate { rate: 661, required: 999 },
        Reason::FailurePercentage(100),
    ] {
        assert_eq!(Reason::unpack(reason.pack()), reason);
    }
}

proptest! {
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
