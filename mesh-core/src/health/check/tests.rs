use super::*;
use crate::GrpcCode;
use proptest::prelude::*;

const S: Duration = Duration::from_secs(1);

fn none() -> u64 {
    0
}

fn config() -> Config {
    Config {
        unhealthy_threshold: 3,
        healthy_threshold: 2,
        interval_jitter_percent: 0,
        ..Config::tcp(Tcp::default())
    }
}

/// `+` a success, `-` a failure that may be chance, `!` one that says so, `i` an immediate fail
/// outside of a check. Gives `1` while the endpoint is in.
fn play(healthy: bool, script: &str) -> String {
    let config = config();
    let mut machine = Machine::new(healthy);
    let states = script.chars().map(|step| {
        match step {
            '+' => drop(machine.record(Ok(()), &config)),
            '-' => drop(machine.record(Err(Cause::Timeout), &config)),
            '!' => drop(machine.record(Err(Cause::Status(500)), &config)),
            _ => machine.failed_meanwhile(),
        }
        if machine.is_healthy() { '1' } else { '0' }
    });
    states.collect()
}

#[test]
fn rows_decide_and_the_first_check_needs_one_success() {
    for (healthy, script, states) in [
        (false, "+", "1"),
        (false, "-+", "00"),
        (false, "-++", "001"),
        (false, "-+-++", "00001"),
        (false, "+--+---", "1111110"),
        (false, "+---++", "111001"),
        (false, "+!", "10"),
        (false, "+--!", "1110"),
        (false, "+!+!++", "100001"),
        (true, "+", "1"),
        (true, "---", "110"),
        (true, "!++", "001"),
        (true, "+i++", "1001"),
        (true, "i+", "00"),
        (false, "-++i+++", "0010011"),
    ] {
        assert_eq!(play(healthy, script), states, "{script} from {healthy}");
    }
}

#[test]
fn the_endpoint_says_so_or_it_may_be_chance() {
    for (cause, immediate) in [
        (Cause::Status(503), true),
        (Cause::RetriableStatus(503), false),
        (Cause::Grpc(GrpcCode::UNAVAILABLE), true),
        (Cause::NotServing(Serving::NotServing), true),
        (Cause::NotServing(Serving::Unknown), true),
        (Cause::ImmediateFail, true),
        (Cause::Connect, false),
        (Cause::Timeout, false),
        (Cause::Reset, false),
        (Cause::Garbage, false),
        (Cause::TooLong, false),
    ] {
        let mut machine = Machine::new(true);
        let transition = machine.record(Err(cause), &config());
        let expected = if immediate { Transition::Changed } else { Transition::Pending };
        assert_eq!((transition, cause.is_immediate()), (expected, immediate), "{cause:?}");
    }
}

#[test]
fn intervals_depend_on_traffic_result_and_pending_change() {
    use Transition::{Changed, Pending, Unchanged};
    let all = Config {
        interval: 10 * S,
        unhealthy_interval: Some(2 * S),
        unhealthy_edge_interval: Some(3 * S),
        healthy_edge_interval: Some(4 * S),
        no_traffic_interval: 60 * S,
        no_traffic_healthy_interval: Some(120 * S),
        ..config()
    };
    let defaults = config();
    for (traffic, success, transition, with_all, by_default) in [
        (true, true, Unchanged, 10, 10),
        (true, true, Changed, 10, 10),
        (true, true, Pending, 4, 10),
        (true, false, Unchanged, 2, 10),
        (true, false, Changed, 2, 10),
        (true, false, Pending, 3, 10),
        (false, true, Unchanged, 120, 60),
        (false, true, Changed, 120, 60),
        (false, true, Pending, 60, 60),
        (false, false, Unchanged, 60, 60),
        (false, false, Pending, 60, 60),
    ] {
        let wait = |config| Machine::wait(success, transition, traffic, config, &mut none);
        let case = (traffic, success, transition);
        assert_eq!(wait(&all), with_all * S, "{case:?}");
        assert_eq!(wait(&defaults), by_default * S, "{case:?}");
    }
    let fallback = Config { unhealthy_interval: Some(2 * S), ..config() };
    let edge = Machine::wait(false, Pending, true, &fallback, &mut none);
    assert_eq!(edge, 2 * S, "the edge interval is the unhealthy interval by default");
}

#[test]
fn both_jitters_add_to_the_wait() {
    let config = Config {
        interval: 10 * S,
        interval_jitter: 2 * S,
        interval_jitter_percent: 50,
        ..config()
    };
    let wait = |bits: u64| Machine::wait(true, Transition::Unchanged, true, &config, &mut || bits);
    assert_eq!(wait(0), 10 * S);
    assert_eq!(wait(1 << 63), Duration::from_millis(13_500));
    assert!(wait(u64::MAX) <= 17 * S);
    let nothing = Config { interval: Duration::ZERO, ..super::Config::default() };
    let shortest = Machine::wait(true, Transition::Unchanged, true, &nothing, &mut none);
    assert_eq!(shortest, Duration::from_millis(1), "never a busy loop");
}

#[test]
fn what_makes_no_sense_is_told_by_path() {
    let told = |config: &Config| {
        let problems = config.problems();
        problems.iter().map(|problem| problem.path.clone()).collect::<Vec<_>>()
    };
    assert_eq!(told(&Config::default()), [""], "nothing is asked");
    let two = Config { grpc: Some(Grpc::default()), ..Config::tcp(Tcp::default()) };
    assert_eq!(told(&two), [""], "two are asked");
    assert_eq!(told(&Config::grpc(Grpc::default())), [""; 0]);

    let zero = Config {
        interval: Duration::ZERO,
        timeout: Duration::ZERO,
        no_traffic_interval: Duration::ZERO,
        unhealthy_edge_interval: Some(Duration::ZERO),
        unhealthy_threshold: 0,
        healthy_threshold: 0,
        port: Some(0),
        ..Config::tcp(Tcp::default())
    };
    assert_eq!(
        told(&zero),
        [
            "interval",
            "timeout",
            "unhealthyEdgeInterval",
            "noTrafficInterval",
            "unhealthyThreshold",
            "healthyThreshold",
            "port"
        ]
    );

    let http = Http {
        path: "healthz".to_owned(),
        host: Some("user@host".to_owned()),
        method: "CONNECT".to_owned(),
        headers: vec![
            Header::new("x-good", "value"),
            Header::new("bad name", "value"),
            Header::new("Host", "value"),
            Header::new("x-good", "two\nlines"),
        ],
        expected_statuses: Vec::new(),
        ..Http::default()
    };
    assert_eq!(
        told(&Config::http(http)),
        [
            "http.path",
            "http.host",
            "http.method",
            "http.expectedStatuses",
            "http.headers.1.name",
            "http.headers.2.name",
            "http.headers.3.value"
        ]
    );

    let tcp = Tcp {
        send: Some(Payload::Hex("0".to_owned())),
        receive: vec![Payload::Text("+PONG".to_owned()), Payload::Text(String::new())],
    };
    assert_eq!(told(&Config::tcp(tcp)), ["tcp.send", "tcp.receive.1"]);

    let grpc = Grpc {
        service_name: "x".repeat(1025),
        authority: Some("two hosts".to_owned()),
        ..Grpc::default()
    };
    assert_eq!(told(&Config::grpc(grpc)), ["grpc.serviceName", "grpc.authority"]);
}

proptest! {
    /// Whatever is seen, a change of state has a reason: as many in a row as the threshold says, a
    /// failure that says so, or the first check.
    #[test]
    fn the_state_changes_only_after_a_whole_row(
        start: bool,
        unhealthy in 1u32..5,
        healthy in 1u32..5,
        seen in prop::collection::vec(0u8..3, 1..200),
    ) {
        let config = Config {
            unhealthy_threshold: unhealthy,
            healthy_threshold: healthy,
            ..Config::tcp(Tcp::default())
        };
        let mut machine = Machine::new(start);
        let (mut row, mut last) = (0u32, None);
        for (n, kind) in seen.into_iter().enumerate() {
            let result = match kind {
                0 => Ok(()),
                1 => Err(Cause::Reset),
                _ => Err(Cause::Status(500)),
            };
            let before = machine.is_healthy();
            row = if last == Some(result.is_ok()) { row + 1 } else { 1 };
            last = Some(result.is_ok());
            let transition = machine.record(result, &config);
            let changed = before != machine.is_healthy();
            prop_assert_eq!(changed, transition == Transition::Changed);
            if changed {
                prop_assert_eq!(result.is_ok(), machine.is_healthy());
                let reason = match result {
                    Ok(()) => n == 0 || row >= healthy,
                    Err(cause) => cause.is_immediate() || row >= unhealthy,
                };
                prop_assert!(reason, "{result:?} after {row}");
                row = 0;
            } else if before != result.is_ok() {
                prop_assert_eq!(transition, Transition::Pending, "on the way");
            }
        }
    }
}
