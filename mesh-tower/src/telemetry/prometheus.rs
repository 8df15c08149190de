//! The metrics page, for Prometheus and what reads like it.
//!
//! [`page`] answers a scrape: OpenMetrics 1.0 if `Accept` asks for it, else the older text
//! format 0.0.4. [`MetricsCollector`] puts the same families into a registry of your own.
//!
//! OpenTelemetry names become Prometheus names by the usual rule: dots to `_`, the unit as a
//! word, `_total` behind counters. The page is written from the counters as they are; nothing
//! is kept between two scrapes.
//!
//! ```
//! use mesh_tower::telemetry::{Metrics, prometheus};
//!
//! let metrics = Metrics::new();
//! metrics.destination("inventory").retried();
//! let page = prometheus::page(&metrics, None);
//! assert_eq!(page.content_type, "text/plain; version=0.0.4; charset=utf-8");
//! assert!(page.text.contains("mesh_retry_attempts_total{mesh_destination=\"inventory\"} 1"));
//! ```
//!
//! Source: Prometheus "Exposition formats"; OpenMetrics 1.0; OpenTelemetry "Prometheus and
//! OpenMetrics compatibility".

use super::histogram::{BOUNDS, End, Grid, Histogram};
use super::metrics::{DestinationMetrics, Metrics};
use crate::clock;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;
use std::sync::Arc;

/// A scrape's answer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Page {
    /// For the `Content-Type` field.
    pub content_type: &'static str,
    /// The body.
    pub text: String,
}

/// Writes all metrics in the format that `accept` (the request's `Accept` field) prefers.
#[must_use]
pub fn page(metrics: &Metrics, accept: Option<&str>) -> Page {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(MetricsCollector::new(metrics.clone())));
    let mut open = String::with_capacity(16 * 1024);
    // A `String` takes all that is written, so this cannot fail; half a page would be refused
    // by the scraper for its missing end.
    let complete = text::encode(&mut open, &registry).is_ok();
    debug_assert!(complete);
    if accept.is_some_and(prefers_open_metrics) {
        Page {
            content_type: "application/openmetrics-text; version=1.0.0; charset=utf-8",
            text: open,
        }
    } else {
        Page { content_type: "text/plain; version=0.0.4; charset=utf-8", text: plain(&open) }
    }
}

/// Whether the best range that names OpenMetrics weighs at least as much as the best that
/// names plain text.
fn prefers_open_metrics(accept: &str) -> bool {
    let weight = |wanted: &str| {
        accept
            .split(',')
            .filter_map(|range| {
                let mut parts = range.split(';').map(str::trim);
                parts.next().filter(|name| name.eq_ignore_ascii_case(wanted))?;
                let quality = parts.find_map(|part| part.strip_prefix("q="));
                Some(quality.map_or(1.0, |text| text.parse().unwrap_or(0.0)))
            })
            .fold(0.0, f32::max)
    };
    let open = weight("application/openmetrics-text");
    open > 0.0 && open >= weight("text/plain")
}

/// Turns OpenMetrics into text format 0.0.4: there, a counter's family is named with its
/// `_total`, and neither units nor an end are written.
fn plain(open: &str) -> String {
    let mut text = String::with_capacity(open.len());
    let mut help: Option<(&str, &str)> = None;
    for line in open.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((_, words)) = help.take().filter(|(helped, _)| *helped == name) {
                text.extend(["# HELP ", name, suffix, " ", words, "\n"]);
            }
            text.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
        } else if !line.starts_with('#') {
            text.extend([line, "\n"]);
        }
    }
    text
}

/// All families of a [`Metrics`], for a registry of `prometheus-client`.
#[derive(Clone, Debug)]
pub struct MetricsCollector {
    metrics: Metrics,
}

impl MetricsCollector {
    /// Collects from `metrics`.
    #[must_use]
    pub const fn new(metrics: Metrics) -> Self {
        Self { metrics }
    }
}

type Labels<'a> = Vec<(&'static str, &'a str)>;
type Read = fn(&DestinationMetrics) -> u64;

impl Collector for MetricsCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let destinations = self.metrics.destinations();
        durations(&mut encoder, &destinations, self.metrics.server())?;
        counters(&mut encoder, &destinations)?;
        gauges(&mut encoder, &destinations)?;
        let mut shed = encoder.encode_descriptor(
            "mesh_server_shed",
            "Requests refused before the handler saw them",
            None,
            MetricType::Counter,
        )?;
        for (kind, count) in self.metrics.server().sheds() {
            counter(&mut shed, &vec![("mesh_flag", kind.flag())], count)?;
        }
        let mut limited = encoder.encode_descriptor(
            "mesh_server_ratelimit_denied",
            "Requests over a rate limit; those not enforced passed",
            None,
            MetricType::Counter,
        )?;
        for (enforced, count) in
            self.metrics.server().rate_limits().into_iter().filter(|(_, n)| *n > 0)
        {
            counter(&mut limited, &vec![("mesh_enforced", word(enforced))], count)?;
        }
        let mut asked = encoder.encode_descriptor(
            "mesh_server_ratelimit_global",
            "Requests that the rate limit service was asked about, by what came of it",
            None,
            MetricType::Counter,
        )?;
        for (result, count) in self.metrics.server().global_limits().filter(|(_, n)| *n > 0) {
            counter(&mut asked, &vec![("mesh_result", result.as_str())], count)?;
        }
        let mut handshakes = encoder.encode_descriptor(
            "mesh_tls_handshakes",
            "TLS handshakes of callers by result",
            None,
            MetricType::Counter,
        )?;
        for (how, count) in self.metrics.server().handshakes() {
            counter(&mut handshakes, &vec![("result", how.as_str())], count)?;
        }
        let mut build = encoder.encode_descriptor(
            "mesh_build_info",
            "Always 1; the labels say what runs",
            None,
            MetricType::Gauge,
        )?;
        gauge(&mut build, &vec![("version", env!("CARGO_PKG_VERSION"))], 1)
    }
}

fn durations(
    encoder: &mut DescriptorEncoder<'_>,
    destinations: &[Arc<DestinationMetrics>],
    server: &super::ServerMetrics,
) -> fmt::Result {
    let seconds = Some(&Unit::Seconds);
    let mut family = encoder.encode_descriptor(
        "http_client_request_duration",
        "Attempts sent, to the end of the response body",
        seconds,
        MetricType::Histogram,
    )?;
    for destination in destinations {
        requests(&mut family, &destination.http, &vec![("server_address", destination.name())])?;
    }
    let mut family = encoder.encode_descriptor(
        "rpc_client_call_duration",
        "gRPC calls with all their attempts",
        seconds,
        MetricType::Histogram,
    )?;
    for destination in destinations {
        let mut result = Ok(());
        destination.rpc.each(|code, seen| {
            let labels = vec![
                ("server_address", destination.name()),
                ("rpc_system_name", "grpc"),
                ("rpc_response_status_code", code),
            ];
            result = result.and_then(|()| histogram(&mut family, &labels, seen));
        });
        result?;
    }
    let mut family = encoder.encode_descriptor(
        "http_server_request_duration",
        "Requests served",
        seconds,
        MetricType::Histogram,
    )?;
    requests(&mut family, &server.http, &Vec::new())?;
    let mut family = encoder.encode_descriptor(
        "rpc_server_call_duration",
        "gRPC calls served",
        seconds,
        MetricType::Histogram,
    )?;
    let mut result = Ok(());
    server.rpc.each(|code, seen| {
        let labels = vec![("rpc_system_name", "grpc"), ("rpc_response_status_code", code)];
        result = result.and_then(|()| histogram(&mut family, &labels, seen));
    });
    result
}

fn counters(
    encoder: &mut DescriptorEncoder<'_>,
    destinations: &[Arc<DestinationMetrics>],
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(
        "mesh_calls",
        "Calls with all their attempts",
        None,
        MetricType::Counter,
    )?;
    for destination in destinations {
        let counts = destination.counts();
        for (outcome, count) in [
            ("success", counts.succeeded),
            ("failure", counts.failed),
            ("cancelled", counts.cancelled),
        ] {
            let labels = vec![named(destination), ("mesh_outcome", outcome)];
            counter(&mut family, &labels, count)?;
        }
    }
    let plain: [(&str, &str, Read); 10] = [
        ("mesh_retry_attempts", "Attempts after the first", |of| of.counts().retries),
        ("mesh_retry_hedges", "Attempts after the first, sent beside one under way", |of| {
            of.counts().hedges
        }),
        ("mesh_retry_budget_exhausted", "Retries that the budget refused", |of| {
            of.counts().budget_exhausted
        }),
        ("mesh_lb_picks", "Endpoints picked", |of| of.counts().picks),
        ("mesh_lb_ejections", "Endpoints that outlier detection took out", |of| {
            of.counts().ejections
        }),
        ("mesh_fault_delays", "Calls delayed on purpose", |of| of.counts().delays_injected),
        ("mesh_fault_aborts", "Calls failed on purpose", |of| of.counts().aborts_injected),
        ("mesh_mirror_copies", "Copies of requests sent", |of| of.counts().mirrored),
        ("mesh_mirror_dropped", "Copies of requests given up before they were sent", |of| {
            of.counts().mirrors_dropped
        }),
        ("mesh_metrics_overflow", "Requests counted in a series called _OTHER", |of| {
            of.http.overflowed()
        }),
    ];
    for (name, help, read) in plain {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for destination in destinations {
            counter(&mut family, &vec![named(destination)], read(destination))?;
        }
    }
    let mut family = encoder.encode_descriptor(
        "mesh_breaker_transitions",
        "Breakers that came into a state",
        None,
        MetricType::Counter,
    )?;
    for destination in destinations {
        for (state, count) in destination.breaker_transitions() {
            let labels = vec![named(destination), ("state", state.as_str())];
            counter(&mut family, &labels, count)?;
        }
    }
    let mut family = encoder.encode_descriptor(
        "mesh_health_check_results",
        "Active health checks by result",
        None,
        MetricType::Counter,
    )?;
    for destination in destinations {
        for (result, count) in destination.checks() {
            counter(&mut family, &vec![named(destination), ("result", result)], count)?;
        }
    }
    let mut family = encoder.encode_descriptor(
        "mesh_probes",
        "Endpoints asked for a load report before a pick, by result",
        None,
        MetricType::Counter,
    )?;
    for destination in destinations {
        for (how, count) in destination.probes().into_iter().filter(|(_, n)| *n > 0) {
            counter(&mut family, &vec![named(destination), ("result", how.as_str())], count)?;
        }
    }
    let mut family = encoder.encode_descriptor(
        "mesh_ratelimit_denied",
        "Calls over a rate limit; those not enforced passed",
        None,
        MetricType::Counter,
    )?;
    for destination in destinations {
        for (enforced, count) in destination.rate_limits().into_iter().filter(|(_, n)| *n > 0) {
            let labels = vec![named(destination), ("mesh_enforced", word(enforced))];
            counter(&mut family, &labels, count)?;
        }
    }
    let mut family = encoder.encode_descriptor(
        "mesh_ratelimit_global",
        "Calls that the rate limit service was asked about, by what came of it",
        None,
        MetricType::Counter,
    )?;
    for destination in destinations {
        for (result, count) in destination.global_limits().filter(|(_, n)| *n > 0) {
            let labels = vec![named(destination), ("mesh_result", result.as_str())];
            counter(&mut family, &labels, count)?;
        }
    }
    let mut family = encoder.encode_descriptor(
        "mesh_shed",
        "Calls refused before they were sent",
        None,
        MetricType::Counter,
    )?;
    for destination in destinations {
        for (kind, count) in destination.sheds() {
            counter(&mut family, &vec![named(destination), ("mesh_flag", kind.flag())], count)?;
        }
    }
    Ok(())
}

const fn word(truth: bool) -> &'static str {
    if truth { "true" } else { "false" }
}

fn gauges(
    encoder: &mut DescriptorEncoder<'_>,
    destinations: &[Arc<DestinationMetrics>],
) -> fmt::Result {
    let now = clock::now();
    let seen: Vec<_> = destinations
        .iter()
        .filter_map(|destination| Some((destination, destination.observe(now)?)))
        .collect();
    let mut family = encoder.encode_descriptor(
        "mesh_lb_endpoints",
        "Endpoints by state",
        None,
        MetricType::Gauge,
    )?;
    for (destination, observed) in &seen {
        for (state, count) in &observed.endpoints {
            gauge(&mut family, &vec![named(destination), ("state", *state)], *count)?;
        }
    }
    let mut family = encoder.encode_descriptor(
        "mesh_retry_budget_remaining",
        "Retries that the budget would allow now",
        None,
        MetricType::Gauge,
    )?;
    for (destination, observed) in &seen {
        if let Some(remaining) = observed.budget_remaining {
            gauge(&mut family, &vec![named(destination)], remaining)?;
        }
    }
    Ok(())
}

fn named(destination: &DestinationMetrics) -> (&'static str, &str) {
    ("mesh_destination", destination.name())
}

fn requests(family: &mut MetricEncoder<'_>, grid: &Grid, common: &Labels<'_>) -> fmt::Result {
    let mut result = Ok(());
    grid.each(|method, end, seen| {
        let mut labels = common.clone();
        labels.push(("http_request_method", method));
        let code;
        match end {
            End::Status(status) => {
                code = status;
                labels.push(("http_response_status_code", code.as_str()));
                if status.is_client_error() || status.is_server_error() {
                    labels.push(("error_type", code.as_str()));
                }
            }
            End::Error(kind) => labels.push(("error_type", kind.flag())),
            End::Answered(kind, status) => {
                code = status;
                labels.push(("http_response_status_code", code.as_str()));
                labels.push(("error_type", kind.flag()));
            }
            End::Other => labels.push(("http_response_status_code", "_OTHER")),
        }
        result = result.and_then(|()| histogram(family, &labels, seen));
    });
    result
}

fn histogram(family: &mut MetricEncoder<'_>, labels: &Labels<'_>, seen: &Histogram) -> fmt::Result {
    let counts = seen.buckets();
    let bounds = BOUNDS.into_iter().chain([f64::MAX]);
    let buckets: Vec<_> = bounds.zip(counts).collect();
    let count = counts.iter().sum();
    family.encode_family(labels)?.encode_histogram::<NoLabelSet>(seen.sum(), count, &buckets, None)
}

fn counter(family: &mut MetricEncoder<'_>, labels: &Labels<'_>, count: u64) -> fmt::Result {
    family.encode_family(labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)
}

fn gauge(family: &mut MetricEncoder<'_>, labels: &Labels<'_>, value: u64) -> fmt::Result {
    family.encode_family(labels)?.encode_gauge(&value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{BreakerState, Observe, Observed};
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
}
