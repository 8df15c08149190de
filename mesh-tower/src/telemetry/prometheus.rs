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
use super::{DestinationMetrics, Metrics, ServerMetrics};
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
        served(&mut encoder, self.metrics.server())?;
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
    server: &ServerMetrics,
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
    counter_family(
        encoder,
        "mesh_calls",
        "Calls with all their attempts",
        of_each(destinations, "mesh_outcome", |of| of.calls().map(|(how, n)| (how.as_str(), n))),
    )?;
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
        let rows = destinations.iter().map(|of| (vec![named(of)], read(of)));
        counter_family(encoder, name, help, rows)?;
    }
    counter_family(
        encoder,
        "mesh_breaker_transitions",
        "Breakers that came into a state",
        of_each(destinations, "state", |of| {
            of.breaker_transitions().map(|(to, n)| (to.as_str(), n))
        }),
    )?;
    counter_family(
        encoder,
        "mesh_health_check_results",
        "Active health checks by result",
        of_each(destinations, "result", DestinationMetrics::checks),
    )?;
    counter_family(
        encoder,
        "mesh_probes",
        "Endpoints asked for a load report before a pick, by result",
        of_each(destinations, "result", |of| {
            of.probes().filter(seen).map(|(how, n)| (how.as_str(), n))
        }),
    )?;
    counter_family(
        encoder,
        "mesh_ratelimit_denied",
        "Calls over a rate limit; those not enforced passed",
        of_each(destinations, "mesh_enforced", |of| {
            of.rate_limits().filter(seen).map(|(enforced, n)| (word(enforced), n))
        }),
    )?;
    counter_family(
        encoder,
        "mesh_ratelimit_global",
        "Calls that the rate limit service was asked about, by what came of it",
        of_each(destinations, "mesh_result", |of| {
            of.global_limits().filter(seen).map(|(result, n)| (result.as_str(), n))
        }),
    )?;
    counter_family(
        encoder,
        "mesh_shed",
        "Calls refused before they were sent",
        of_each(destinations, "mesh_flag", |of| of.sheds().map(|(kind, n)| (kind.flag(), n))),
    )
}

/// What is counted of requests and connections that are served.
fn served(encoder: &mut DescriptorEncoder<'_>, server: &ServerMetrics) -> fmt::Result {
    counter_family(
        encoder,
        "mesh_server_shed",
        "Requests refused before the handler saw them",
        server.sheds().map(|(kind, n)| (vec![("mesh_flag", kind.flag())], n)),
    )?;
    counter_family(
        encoder,
        "mesh_server_ratelimit_denied",
        "Requests over a rate limit; those not enforced passed",
        server.rate_limits().filter(seen).map(|(yes, n)| (vec![("mesh_enforced", word(yes))], n)),
    )?;
    counter_family(
        encoder,
        "mesh_server_ratelimit_global",
        "Requests that the rate limit service was asked about, by what came of it",
        server
            .global_limits()
            .filter(seen)
            .map(|(result, n)| (vec![("mesh_result", result.as_str())], n)),
    )?;
    counter_family(
        encoder,
        "mesh_tls_handshakes",
        "TLS handshakes of callers by result",
        server.handshakes().map(|(how, n)| (vec![("result", how.as_str())], n)),
    )
}

/// Whether it was counted at all.
const fn seen<L>((_, count): &(L, u64)) -> bool {
    *count > 0
}

/// What `read` finds of each destination, under `label`.
fn of_each<'a, I: Iterator<Item = (&'static str, u64)>>(
    destinations: &'a [Arc<DestinationMetrics>],
    label: &'static str,
    read: impl Fn(&'a DestinationMetrics) -> I,
) -> impl Iterator<Item = (Labels<'a>, u64)> {
    destinations.iter().flat_map(move |destination| {
        read(destination).map(|(value, n)| (vec![named(destination), (label, value)], n))
    })
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

fn counter_family<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    rows: impl Iterator<Item = (Labels<'a>, u64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, count) in rows {
        family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
    }
    Ok(())
}

fn gauge(family: &mut MetricEncoder<'_>, labels: &Labels<'_>, value: u64) -> fmt::Result {
    family.encode_family(labels)?.encode_gauge(&value)
}

#[cfg(test)]
mod tests;
