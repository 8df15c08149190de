use super::*;
use http::{HeaderName, HeaderValue};

fn config(yaml: &str) -> Result<Config, String> {
    serde_saphyr::from_str(yaml).map_err(|error| error.to_string())
}

fn valid(yaml: &str) -> Config {
    let config = config(yaml).unwrap_or_else(|error| panic!("{yaml}: {error}"));
    assert_eq!(config.contradiction(), None, "{yaml}");
    config
}

fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let field = |(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
    fields.iter().copied().map(field).collect()
}

/// A draw that lies at this share of the range.
fn at(share: f64) -> impl FnMut() -> u64 {
    move || (share * 2f64.powi(64)) as u64
}

#[test]
fn delay_and_abort_are_drawn_one_after_the_other() {
    let config = valid(
        "{ delay: { fixedDelay: 2s, percentage: 10 }, abort: { httpStatus: 503, percentage: 0.5 } }",
    );
    let none = HeaderMap::new();
    let (late, fails) =
        (Some(Duration::from_secs(2)), Some(Status::Http(StatusCode::SERVICE_UNAVAILABLE)));
    for (first, second, delay, abort) in [
        (0.0999, 0.00499, late, fails),
        (0.0999, 0.00501, late, None),
        (0.1001, 0.00499, None, fails),
        (0.1001, 0.00501, None, None),
    ] {
        let mut draws = [first, second].into_iter();
        let mut draw = || at(draws.next().expect("two draws"))();
        assert_eq!(config.decide(&none, &mut draw), Injected { delay, abort }, "{first} {second}");
    }
}

#[test]
fn nothing_and_all_are_known_without_a_draw() {
    let never: fn() -> u64 = || panic!("no draw is needed");
    let none = HeaderMap::new();
    let all = valid(
        "{ delay: { fixedDelay: 1ms, percentage: 100 }, abort: { grpcStatus: ABORTED, percentage: 0 } }",
    );
    let injected = all.decide(&none, &mut { never });
    assert_eq!((injected.delay, injected.abort), (Some(Duration::from_millis(1)), None));
    assert_eq!(Config::default().decide(&none, &mut { never }), Injected::default());
}

#[test]
fn a_caller_says_what_and_the_configuration_how_often_at_most() {
    let config = valid(
        "{ delay: { header: true, percentage: 50 }, abort: { header: true, percentage: 50 } }",
    );
    let ms = |ms| Some(Duration::from_millis(ms));
    let http = |code| Some(Status::Http(StatusCode::from_u16(code).expect("a status")));
    let grpc = |code| Some(Status::Grpc(GrpcCode::new(code)));
    for (fields, draw, delay, abort) in [
        (&[][..], 0.0, None, None),
        (&[(DELAY, "53")], 0.49, ms(53), None),
        (&[(DELAY, "53")], 0.51, None, None),
        (&[(DELAY, "53"), (DELAY_PERCENTAGE, "20")], 0.19, ms(53), None),
        (&[(DELAY, "53"), (DELAY_PERCENTAGE, "20")], 0.21, None, None),
        (&[(DELAY, "53"), (DELAY_PERCENTAGE, "0")], 0.0, None, None),
        (&[(DELAY, "53"), (DELAY_PERCENTAGE, "99")], 0.51, None, None),
        (&[(DELAY, "53"), (DELAY_PERCENTAGE, "99999999999999999999")], 0.51, None, None),
        (&[(DELAY, "53"), (DELAY_PERCENTAGE, "-1")], 0.49, ms(53), None),
        (&[(DELAY, "53"), (DELAY_PERCENTAGE, "abc")], 0.49, ms(53), None),
        (&[(DELAY, "0")], 0.0, None, None),
        (&[(DELAY, "-5")], 0.0, None, None),
        (&[(DELAY, "NaN")], 0.0, None, None),
        (&[(DELAY, "18446744073709551615")], 0.0, Some(MAX_DELAY), None),
        (&[(ABORT, "401")], 0.49, None, http(401)),
        (&[(ABORT, "401")], 0.51, None, None),
        (&[(ABORT, "199")], 0.0, None, None),
        (&[(ABORT, "600")], 0.0, None, None),
        (&[(ABORT, "65737")], 0.0, None, None),
        (&[(ABORT_GRPC, "3")], 0.0, None, grpc(3)),
        (&[(ABORT_GRPC, "4294967295")], 0.0, None, grpc(u32::MAX)),
        (&[(ABORT_GRPC, "4294967296")], 0.0, None, None),
        (&[(ABORT_GRPC, "3"), (ABORT, "500")], 0.0, None, http(500)),
        (&[(ABORT, "500"), (ABORT_PERCENTAGE, "1")], 0.02, None, None),
        (&[(DELAY, "1"), (ABORT, "500")], 0.0, ms(1), http(500)),
    ] {
        let injected = config.decide(&headers(fields), &mut at(draw));
        assert_eq!(injected, Injected { delay, abort }, "{fields:?} {draw}");
    }
}

#[test]
fn a_caller_is_not_heard_where_the_configuration_says_what() {
    let config = valid(
        "{ delay: { fixedDelay: 1s, percentage: 50 }, abort: { httpStatus: 503, percentage: 50 } }",
    );
    let asked = headers(&[
        (DELAY, "5"),
        (DELAY_PERCENTAGE, "0"),
        (ABORT, "401"),
        (ABORT_GRPC, "1"),
        (ABORT_PERCENTAGE, "0"),
    ]);
    let injected = config.decide(&asked, &mut at(0.49));
    assert_eq!(injected.delay, Some(Duration::from_secs(1)));
    assert_eq!(injected.abort, Some(Status::Http(StatusCode::SERVICE_UNAVAILABLE)));
}

/// gRPC's "HTTP to gRPC Status Code Mapping", and 200, which gRFC A33 maps to UNKNOWN.
#[test]
fn a_status_means_to_each_protocol_what_its_standard_says() {
    for (http, grpc) in [
        (200, 2),
        (400, 13),
        (401, 16),
        (403, 7),
        (404, 12),
        (429, 14),
        (500, 2),
        (502, 14),
        (503, 14),
        (504, 14),
    ] {
        let status = Status::Http(StatusCode::from_u16(http).expect("a status"));
        assert_eq!((status.grpc().number(), status.http().as_u16()), (grpc, http));
    }
    for (grpc, http) in [
        (3, 400),
        (4, 504),
        (5, 404),
        (8, 429),
        (12, 501),
        (14, 503),
        (16, 401),
        (2, 500),
        (99, 500),
    ] {
        let status = Status::Grpc(GrpcCode::new(grpc));
        assert_eq!((status.grpc().number(), status.http().as_u16()), (grpc, http));
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    for wrong in [
        "{ delay: { fixedDelay: 1s, percentage: 100.1 } }",
        "{ delay: { fixedDelay: 1s, percentage: -1 } }",
        "{ delay: { fixedDelay: 1s, percentage: .nan } }",
        "{ delay: { fixedDelay: 1s, percentage: .inf } }",
        "{ delay: { fixedDelay: 5, percentage: 1 } }",
        "{ abort: { httpStatus: 199, percentage: 1 } }",
        "{ abort: { httpStatus: 600, percentage: 1 } }",
        "{ abort: { httpStatus: 65736, percentage: 1 } }",
        "{ abort: { grpcStatus: NOT_A_CODE, percentage: 1 } }",
        "{ abort: { grpcStatus: -1, percentage: 1 } }",
        "{ maxActiveFaults: -1 }",
    ] {
        assert!(config(wrong).is_err(), "{wrong}");
    }
    for contradictory in [
        "{ delay: { percentage: 1 } }",
        "{ delay: { fixedDelay: 1s } }",
        "{ abort: { httpStatus: 500 } }",
        "{ delay: { fixedDelay: 1s, header: true, percentage: 1 } }",
        "{ abort: { percentage: 1 } }",
        "{ abort: { httpStatus: 500, grpcStatus: ABORTED, percentage: 1 } }",
        "{ abort: { httpStatus: 500, header: true, percentage: 1 } }",
    ] {
        let config = config(contradictory).expect("each value by itself is right");
        assert!(config.contradiction().is_some(), "{contradictory}");
    }
}

#[test]
fn no_more_faults_are_active_than_may_be() {
    let active = Active::default();
    let first = active.enter(Some(1)).expect("room");
    assert!(active.enter(Some(1)).is_none());
    let second = active.enter(None).expect("without a limit there is always room");
    assert_eq!(active.count(), 2);
    drop((first, second));
    assert_eq!(active.count(), 0);
    assert!(active.enter(Some(0)).is_none());
}
