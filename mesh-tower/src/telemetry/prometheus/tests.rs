use super::*;
use crate::telemetry::{BreakerState, GlobalLimit, Handshake, Observe, Observed, Probed};
use http::{Method, StatusCode};
use mesh_core::health::check::Cause;
use mesh_core::{ErrorKind, GrpcCode, Outcome, Timestamp};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

struct Gauges;

impl Observe for Gauges {
    fn observe(&self, _: Timestamp) -> Observed {
        Observed { endpoints: vec![("ready", 2), ("ejected", 1)], budget_remaining: Some(97) }
    }
}

fn filled() -> (Metrics, Arc<dyn Observe>) {
    let metrics = Metrics::new();
    let inventory = metrics.destination("inventory");
    let took = Duration::from_millis(7);
    inventory.attempt_ended(&Method::GET, End::Status(StatusCode::OK), took);
    inventory.attempt_ended(&Method::GET, End::Status(StatusCode::SERVICE_UNAVAILABLE), took);
    inventory.attempt_ended(&Method::POST, End::Error(ErrorKind::Connect), took);
    inventory.rpc_ended(GrpcCode::UNAVAILABLE, took);
    inventory.call_ended(Outcome::Success);
    inventory.retried();
    inventory.shed(ErrorKind::Overflow);
    inventory.breaker_changed(BreakerState::Open);
    inventory.checked(Ok(()));
    inventory.checked(Err(Cause::Status(503)));
    metrics.destination("na\"me\\").picked();
    metrics.server().request_ended(&Method::GET, End::Status(StatusCode::OK), took);
    metrics.server().rpc_ended(GrpcCode::OK, took);
    metrics.server().shed(ErrorKind::Shed);
    let gauges: Arc<dyn Observe> = Arc::new(Gauges);
    inventory.observed_by(Arc::downgrade(&gauges));
    (metrics, gauges)
}

#[test]
fn the_accept_field_chooses_the_format() {
    for (accept, open) in [
        (None, false),
        (Some("*/*"), false),
        (Some("text/plain;version=0.0.4"), false),
        (Some("application/openmetrics-text;version=1.0.0,text/plain;q=0.5"), true),
        (Some("application/openmetrics-text;q=0.1, text/plain"), false),
        (Some("application/openmetrics-text;q=0"), false),
        (Some("application/openmetrics-text;q=x"), false),
    ] {
        let page = page(&Metrics::new(), accept);
        assert_eq!(page.content_type.starts_with("application/"), open, "{accept:?}");
        assert_eq!(page.text.ends_with("# EOF\n"), open, "{accept:?}");
    }
}

#[test]
fn a_series_carries_the_standard_labels() {
    let (metrics, _gauges) = filled();
    let text = page(&metrics, None).text;
    for line in [
        "http_client_request_duration_seconds_bucket{le=\"0.01\",server_address=\"inventory\",\
         http_request_method=\"GET\",http_response_status_code=\"200\"} 1",
        "http_client_request_duration_seconds_count{server_address=\"inventory\",\
         http_request_method=\"POST\",error_type=\"upstream_connection_failure\"} 1",
        "http_client_request_duration_seconds_sum{server_address=\"inventory\",\
         http_request_method=\"GET\",http_response_status_code=\"503\",error_type=\"503\"} 0.007",
        "rpc_client_call_duration_seconds_count{server_address=\"inventory\",\
         rpc_system_name=\"grpc\",rpc_response_status_code=\"UNAVAILABLE\"} 1",
        "mesh_lb_endpoints{mesh_destination=\"inventory\",state=\"ejected\"} 1",
        "mesh_retry_budget_remaining{mesh_destination=\"inventory\"} 97",
        "mesh_breaker_transitions_total{mesh_destination=\"inventory\",state=\"open\"} 1",
        "mesh_health_check_results_total{mesh_destination=\"inventory\",result=\"success\"} 1",
        "mesh_health_check_results_total{mesh_destination=\"inventory\",result=\"status\"} 1",
        "mesh_shed_total{mesh_destination=\"inventory\",mesh_flag=\"upstream_overflow\"} 1",
        "mesh_lb_picks_total{mesh_destination=\"na\\\"me\\\\\"} 1",
        "# TYPE mesh_calls_total counter",
        "# TYPE mesh_lb_endpoints gauge",
    ] {
        assert!(text.lines().any(|seen| seen == line), "{line}\nis not in\n{text}");
    }
}

#[test]
fn counts_by_label_stand_in_the_order_of_their_values() {
    let metrics = Metrics::new();
    let (of, server) = (metrics.destination("a"), metrics.server());
    of.call_ended(Outcome::Cancelled);
    of.breaker_changed(BreakerState::HalfOpen);
    of.checked(Err(Cause::TooLong));
    of.checked(Ok(()));
    of.probed(Probed::Refused);
    of.probed(Probed::Answered);
    of.rate_limited(true);
    of.rate_limited(false);
    of.global_limited(GlobalLimit::FailureModeAllowed);
    of.global_limited(GlobalLimit::Error);
    of.shed(ErrorKind::RateLimited);
    server.rate_limited(true);
    server.global_limited(GlobalLimit::OverLimit);
    server.handshake_ended(Handshake::Timeout);
    let text = page(&metrics, None).text;
    let by_label = |name: &str| {
        let of_a = format!("mesh_{name}_total{{mesh_destination=\"a\",");
        let own = format!("mesh_{name}_total{{");
        let rest =
            |line| str::strip_prefix(line, &*of_a).or_else(|| str::strip_prefix(line, &*own));
        text.lines().filter_map(rest).collect::<Vec<_>>()
    };
    for (name, rows) in [
        (
            "calls",
            &[
                "mesh_outcome=\"success\"} 0",
                "mesh_outcome=\"failure\"} 0",
                "mesh_outcome=\"cancelled\"} 1",
            ][..],
        ),
        (
            "breaker_transitions",
            &["state=\"closed\"} 0", "state=\"open\"} 0", "state=\"half_open\"} 1"],
        ),
        ("health_check_results", &["result=\"success\"} 1", "result=\"too_long\"} 1"]),
        ("probes", &["result=\"answered\"} 1", "result=\"refused\"} 1"]),
        ("ratelimit_denied", &["mesh_enforced=\"false\"} 1", "mesh_enforced=\"true\"} 1"]),
        (
            "ratelimit_global",
            &["mesh_result=\"error\"} 1", "mesh_result=\"failure_mode_allowed\"} 1"],
        ),
        ("shed", &["mesh_flag=\"rate_limited\"} 1"]),
        ("server_shed", &[]),
        ("server_ratelimit_denied", &["mesh_enforced=\"true\"} 1"]),
        ("server_ratelimit_global", &["mesh_result=\"over_limit\"} 1"]),
        (
            "tls_handshakes",
            &[
                "result=\"success\"} 0",
                "result=\"client_certificate\"} 0",
                "result=\"timeout\"} 1",
                "result=\"failure\"} 0",
            ],
        ),
    ] {
        assert_eq!(by_label(name), rows, "{name}");
    }
}

#[test]
fn the_plain_page_has_no_line_of_open_metrics() {
    let (metrics, _gauges) = filled();
    let open = page(&metrics, Some("application/openmetrics-text")).text;
    assert!(open.contains("# UNIT http_client_request_duration_seconds seconds\n"));
    assert!(open.contains("# TYPE mesh_calls counter\n"));
    let text = page(&metrics, None).text;
    assert!(!text.contains("# UNIT") && !text.contains("# EOF"));
    let samples = |page: &str| page.lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(samples(&open), samples(&text));
}

#[test]
fn promtool_finds_nothing_to_say() {
    let test = "library_metrics_by_promtool";
    let Some(promtool) = testkit::parts::find(test, "promtool") else { return };
    let mut promtool = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    let (metrics, _gauges) = filled();
    let mut stdin = promtool.stdin.take().expect("piped");
    stdin.write_all(page(&metrics, None).text.as_bytes()).expect("promtool reads");
    drop(stdin);
    let output = promtool.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}
