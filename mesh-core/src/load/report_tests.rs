use super::*;
use proptest::prelude::*;

fn headers(name: HeaderName, value: &[u8]) -> HeaderMap {
    HeaderMap::from_iter([(name, HeaderValue::from_bytes(value).expect("a field value"))])
}

fn read(value: &str) -> Result<Report, InvalidReport> {
    Report::of(&headers(HEADER, value.as_bytes()), &[]).expect("there")
}

fn full() -> Report {
    Report {
        in_flight: Some(7),
        service_time: Some(Duration::from_millis(40)),
        error_share: Some(0.25),
        latency: Some(Duration::from_millis(55)),
        cpu_utilization: 0.7,
        application_utilization: 0.8,
        named_utilization: 0.0,
        qps: 1000.5,
        eps: 2.0,
    }
}

#[test]
fn every_form_says_the_same() {
    let json =
        r#"{"cpuUtilization": 0.7, "application_utilization": "0.8", "rps_fractional": 1000.5,
        "eps": 2, "mem_utilization": 0.3, "named_metrics": {"mesh.in_flight": 7,
        "mesh.service_time": 0.04, "mesh.error_share": 0.25,
        "mesh.latency": 0.055, "other": 9}}"#
            .replace('\n', " ");
    let bin = full().to_header();
    let bin = bin.to_str().expect("visible");
    let text = full().to_text_header();
    let own_json = full().to_json_header();
    let older = "TEXT cpu_utilization:0.7, application_utilization:0.8,rps_fractional:1000.5,eps:2,\
        named_metrics.mesh.in_flight:7,named_metrics.mesh.service_time:0.04,\
        named_metrics.mesh.error_share:0.25,named_metrics.mesh.latency:0.055";
    for value in [
        format!("JSON {json}").as_str(),
        format!("BIN {bin}").as_str(),
        older,
        text.to_str().expect("visible"),
        own_json.to_str().expect("visible"),
    ] {
        assert_eq!(read(value), Ok(full()), "{value}");
    }
    assert_eq!(Report::of(&headers(HEADER_BIN, bin.as_bytes()), &[]), Some(Ok(full())));
    assert_eq!(Report::of(&HeaderMap::new(), &[]), None);
}

/// Made by another encoder: `protoc --encode` of `cpu_utilization: 0.5`, `rps: 3`,
/// `utilization {key: "disk" value: 0.25}`, `rps_fractional: 8`.
#[test]
fn foreign_bytes_are_read_and_what_is_unknown_is_skipped() {
    let bytes = [
        &[0x09][..],
        &0.5f64.to_le_bytes(),
        &[0x18, 3],
        &[0x2a, 15, 0x0a, 4],
        b"disk",
        &[0x11],
        &0.25f64.to_le_bytes(),
        &[0x31],
        &8f64.to_le_bytes(),
        &[0x7d, 1, 2, 3, 4],
    ]
    .concat();
    let names = ["utilization.disk".to_owned(), "named_metrics.disk".to_owned()];
    let report = Report::from_binary(&bytes, &names).expect("valid");
    assert_eq!((report.cpu_utilization, report.qps), (0.5, 8.0));
    assert_eq!(report.named_utilization, 0.25);
    assert_eq!(report.utilization(), 0.25, "a metric asked for by name goes before the processors");
    assert_eq!(Report::from_binary(&bytes, &[]).expect("valid").utilization(), 0.5);
}

#[test]
fn padding_is_read_and_not_sent() {
    let report = Report { error_share: Some(0.5), ..Report::default() };
    let value = report.to_header();
    let value = value.to_str().expect("visible");
    assert!(!value.contains('='), "{value}");
    let padding = value.len().next_multiple_of(4) - value.len();
    assert!(padding > 0, "the case at hand");
    for value in [value.to_owned(), format!("{value}{}", "=".repeat(padding))] {
        assert_eq!(Report::of(&headers(HEADER_BIN, value.as_bytes()), &[]), Some(Ok(report)));
    }
}

#[test]
fn absurd_numbers_are_bounded_or_not_believed() {
    for (value, in_flight, service_time, error_share) in [
        ("NaN", None, None, None),
        ("inf", None, None, None),
        ("-inf", None, None, None),
        ("-1", None, None, None),
        ("-1e308", None, None, None),
        ("1e308", Some(MAX_IN_FLIGHT), Some(MAX_SERVICE_TIME), Some(1.0)),
        ("1e999", None, None, None),
        ("0", Some(0), Some(Duration::ZERO), Some(0.0)),
        ("1e-320", Some(0), Some(Duration::ZERO), Some(1e-320)),
    ] {
        let report = read(&format!(
            "TEXT named_metrics.mesh.in_flight={value},named_metrics.mesh.service_time={value},\
             named_metrics.mesh.error_share={value},cpu_utilization={value},rps_fractional={value}"
        ))
        .expect("readable");
        assert_eq!(report.in_flight, in_flight, "{value}");
        assert_eq!(report.service_time, service_time, "{value}");
        assert_eq!(report.error_share, error_share, "{value}");
        assert!((0.0..=MAX_UTILIZATION).contains(&report.cpu_utilization), "{value}");
        assert!((0.0..=MAX_RATE).contains(&report.qps), "{value}");
        assert!((0.0..=1.0).contains(&report.errors()), "{value}");
    }
}

#[test]
fn what_is_no_report_is_an_error_and_not_a_panic() {
    for value in [
        "",
        "BIN",
        "BIN ****",
        "BIN CQ",
        "YAML cpu: 1",
        "TEXT cpu_utilization",
        "TEXT cpu_utilization=",
        "TEXT cpu_utilization=\"0.7\"",
        "JSON",
        "JSON [1]",
        "JSON {\"eps\": null}",
        "JSON {\"eps\": {}}",
    ] {
        assert!(read(value).is_err(), "{value}");
    }
    let long = format!("TEXT {}", "a=1,".repeat(MAX_LEN));
    assert_eq!(read(&long), Err(TOO_LONG));
    let deep = format!("JSON {}", "{\"a\":".repeat(1_000));
    assert!(read(&deep).is_err());
    for bytes in [
        // No value; a length beyond the end; a length of 2^64 − 1; a number without end; a group.
        &[0x09][..],
        &[0x42, 0x7f, 0x0a],
        &[0x42, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        &[0xff; 32],
        &[0x0b],
        &[0x42, 3, 0x0a, 1, 0xff],
    ] {
        assert!(Report::from_binary(bytes, &[]).is_err(), "{bytes:x?}");
    }
}

#[test]
fn errors_come_from_rates_when_the_share_is_not_said() {
    assert_eq!(read("TEXT rps_fractional=50,eps=5").expect("valid").errors(), 0.1);
    assert_eq!(read("TEXT rps_fractional=5,eps=50").expect("valid").errors(), 1.0);
    assert_eq!(read("TEXT eps=5").expect("valid").errors(), 0.0);
    assert_eq!(full().errors(), 0.25);
}

#[test]
fn of_the_utilizations_the_most_telling_counts() {
    assert_eq!(full().utilization(), 0.8);
    assert_eq!(read("TEXT cpu_utilization=0.7").expect("valid").utilization(), 0.7);
    assert_eq!(read("TEXT mem_utilization=0.7").expect("valid").utilization(), 0.0);
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        in_flight in prop::option::of(0..MAX_IN_FLIGHT),
        micros in prop::option::of(0u64..300_000_000),
        error_share in prop::option::of(0.0..1.0f64),
        cpu in 0.0..MAX_UTILIZATION,
        qps in 0.0..MAX_RATE,
    ) {
        let report = Report {
            in_flight,
            service_time: micros.map(Duration::from_micros),
            error_share,
            cpu_utilization: cpu,
            qps,
            ..Report::default()
        };
        prop_assert!(report.to_binary().len() <= binary::LONGEST);
        let read = Report::from_binary(&report.to_binary(), &[]).expect("valid");
        prop_assert_eq!(read.in_flight, report.in_flight);
        prop_assert_eq!(read.error_share, report.error_share);
        prop_assert_eq!((read.cpu_utilization, read.qps), (cpu, qps));
        let micros_of = |report: &Report| report.service_time.map(|span| span.as_nanos() / 1_000);
        let differ = micros_of(&read).zip(micros_of(&report)).is_some_and(|(a, b)| a.abs_diff(b) > 1);
        prop_assert!(!differ);
    }

    #[test]
    fn any_bytes_are_read_without_panic_and_within_bounds(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        form in 0usize..4,
    ) {
        let prefix = ["BIN ", "TEXT ", "JSON ", ""][form];
        let value = [prefix.as_bytes(), &bytes].concat();
        let text = Report::from_header(&value, &[]);
        for report in text.into_iter().chain(Report::from_binary(&bytes, &[])) {
            prop_assert!((0.0..=1.0).contains(&report.errors()));
            prop_assert!(report.in_flight.is_none_or(|calls| calls <= MAX_IN_FLIGHT));
            prop_assert!(report.service_time.is_none_or(|span| span <= MAX_SERVICE_TIME));
            prop_assert!((0.0..=MAX_UTILIZATION).contains(&report.utilization()));
        }
    }
}
