//! Load reports that the proxy makes for a service in another language: what callers, in process,
//! are told of an endpoint that knows nothing of it, and what they do with it.

mod common;

use common::{exchange, listener, proxy_of, service};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt;
use mesh_core::load::Report;
use mesh_tower::telemetry::Probed;
use mesh_tower::{Body, Mesh};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::Duration;
use testkit::endpoint::{Reply, ScriptedEndpoint};
use tokio::time::timeout;
use tower_service::Service;

const LIMIT: Duration = Duration::from_secs(20);
const TEXT: &str = "endpoint-load-metrics";

/// A proxy in front of an endpoint; `policy` is its ServerPolicy, as flow YAML.
async fn inbound(endpoint: &ScriptedEndpoint, policy: &str) -> (mesh_proxy::Proxy, SocketAddr) {
    let policy = match policy {
        "" => String::new(),
        policy => format!(
            "apiVersion: mesh/v1\nkind: ServerPolicy\nmetadata: {{ name: app }}\n\
             spec: {{ targetRef: {{ kind: Service, name: app }}, {policy} }}\n"
        ),
    };
    let service = service("app", endpoint.address(), "");
    let listener = listener("in", "auto", "app");
    let (proxy, addresses) = proxy_of(&format!("{policy}{service}{listener}")).await;
    (proxy, addresses[0])
}

/// What a caller that asks is told with the answer.
async fn told(proxy: SocketAddr) -> Option<Report> {
    ask(proxy, "GET / HTTP/1.1\r\nHost: app\r\n").await.1
}

/// What a probe is answered with.
async fn probe(proxy: SocketAddr) -> (String, Option<Report>) {
    ask(proxy, "OPTIONS * HTTP/1.1\r\nHost: app\r\nMax-Forwards: 0\r\n").await
}

async fn ask(proxy: SocketAddr, head: &str) -> (String, Option<Report>) {
    let ask = "endpoint-load-metrics-format: BIN\r\nConnection: close\r\n\r\n";
    let answer = exchange(proxy, format!("{head}{ask}").as_bytes()).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let fields = answer.lines().skip(1).take_while(|line| !line.is_empty());
    let headers: HeaderMap = fields
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| {
            let name = HeaderName::try_from(name).expect("a name");
            (name, HeaderValue::try_from(value).expect("a value"))
        })
        .collect();
    let report = Report::of(&headers, &[]).map(|report| report.expect("that can be read"));
    (answer, report)
}

#[tokio::test]
async fn a_service_that_says_nothing_is_reported_by_its_proxy() {
    let endpoint = ScriptedEndpoint::http1(Reply::status(200)).await;
    endpoint.plan(|_, head| match head.uri.path() {
        "/hang" => Reply::hang(),
        "/fail" => Reply::status(503),
        _ => Reply::status(200).after(Duration::from_millis(20)),
    });
    let (_proxy, address) = inbound(&endpoint, "").await;
    let first = told(address).await.expect("a report");
    assert_eq!((first.in_flight, first.error_share), (Some(0), Some(0.0)));
    assert!(first.service_time >= Some(Duration::from_millis(20)), "{first:?}");

    let hanging = tokio::spawn(exchange(address, b"GET /hang HTTP/1.1\r\nHost: app\r\n\r\n"));
    testkit::until("one is in flight", || endpoint.in_flight() == 1).await;
    exchange(address, b"GET /fail HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n").await;
    let busy = told(address).await.expect("a report");
    assert_eq!(busy.in_flight, Some(1));
    assert!(busy.error_share > Some(0.1) && busy.eps > 0.0, "{busy:?}");
    hanging.abort();
    let idle = async { while told(address).await.and_then(|told| told.in_flight) != Some(0) {} };
    timeout(LIMIT, idle).await.expect("who goes away is not in flight");
}

#[tokio::test]
async fn what_the_service_says_of_itself_goes_out_with_it() {
    for (said, utilization) in [
        ("TEXT application_utilization=0.7,named_metrics.queue=3", 0.7),
        ("JSON {\"applicationUtilization\": 0.7}", 0.7),
        ("BIN SWZmZmZmZuY/", 0.7),
        ("TEXT application_utilization=1e300", 100.0),
        ("TEXT application_utilization=NaN", 0.0),
        ("JSON {", 0.0),
        ("nothing of the kind", 0.0),
    ] {
        let endpoint = ScriptedEndpoint::http1(Reply::status(200).header(TEXT, said)).await;
        let (_proxy, address) = inbound(&endpoint, "").await;
        let report = told(address).await.expect("a report");
        assert_eq!(
            (report.application_utilization, report.in_flight),
            (utilization, Some(0)),
            "{said}"
        );
    }
}

#[tokio::test]
async fn a_probe_ends_at_the_proxy_and_a_strangers_at_the_service() {
    for (policy, answered) in [
        ("", true),
        ("maxRequests: 1", true),
        ("trustCallers: false", false),
        ("loadReports: Never", false),
    ] {
        let endpoint = ScriptedEndpoint::http1(Reply::hang()).await;
        let (_proxy, address) = inbound(&endpoint, policy).await;
        if answered {
            let _busy = told_while_busy(&endpoint, address).await;
            let (answer, report) = probe(address).await;
            assert!(answer.starts_with("HTTP/1.1 204"), "{policy}: {answer}");
            assert!(report.is_some_and(|report| report.in_flight >= Some(1)), "{policy}");
            assert!(endpoint.arrivals().iter().all(|seen| seen.method != Method::OPTIONS));
        } else {
            endpoint.set(Reply::status(200));
            let (answer, report) = probe(address).await;
            assert!(answer.starts_with("HTTP/1.1 200") && report.is_none(), "{policy}: {answer}");
            let arrivals = endpoint.arrivals();
            let arrived = arrivals.last().expect("a request like any other");
            assert_eq!(arrived.method, Method::OPTIONS);
            assert!(!arrived.headers.contains_key("endpoint-load-metrics-format"), "{policy}");
        }
    }
}

/// Leaves one request in flight that has asked for a report.
async fn told_while_busy(
    endpoint: &ScriptedEndpoint,
    proxy: SocketAddr,
) -> tokio::task::JoinHandle<Option<Report>> {
    let busy = tokio::spawn(told(proxy));
    testkit::until("one is in flight", || endpoint.in_flight() == 1).await;
    busy
}

#[tokio::test]
async fn callers_in_process_leave_a_busy_service_by_what_its_proxy_says() {
    const WORK: Duration = Duration::from_millis(60);
    let endpoints = [
        ScriptedEndpoint::http1(Reply::status(200).after(WORK)).await,
        ScriptedEndpoint::http1(Reply::status(200).after(WORK)).await,
    ];
    let (_first, busy) = inbound(&endpoints[0], "").await;
    let (_second, idle) = inbound(&endpoints[1], "").await;
    let config = format!(
        "apiVersion: mesh/v1\nkind: Service\nmetadata: {{ name: app }}\n\
         spec: {{ endpoints: {{ static: ['{busy}', '{idle}'] }} }}\n"
    );
    let mesh = Mesh::builder().config_text("test", &*config).build().expect("valid");
    let call = async || {
        let request = http::Request::get("http://app/").body(Body::empty()).expect("valid");
        let mut channel = mesh.http();
        poll_fn(|cx| Service::<http::Request<Body>>::poll_ready(&mut channel, cx))
            .await
            .expect("ready");
        let response = channel.call(request).await.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK);
        assert!(!response.headers().contains_key("endpoint-load-metrics-bin"));
        response.into_body().collect().await.expect("a whole body");
    };
    let answered = || {
        let metrics = mesh.metrics().destination("app");
        metrics.probes().find_map(|(how, n)| (how == Probed::Answered).then_some(n)).unwrap_or(0)
    };
    let reported = async {
        while answered() < 4 {
            call().await
        }
    };
    timeout(LIMIT, reported).await.expect("both are asked");

    // Others keep one of them busy: nothing that is seen from here tells of it.
    endpoints[0].plan(|_, head| match head.uri.path() {
        "/hang" => Reply::hang(),
        _ => Reply::status(200).after(WORK),
    });
    let mut others = tokio::task::JoinSet::new();
    for _ in 0..30 {
        others.spawn(exchange(busy, b"GET /hang HTTP/1.1\r\nHost: app\r\n\r\n"));
    }
    testkit::until("it is busy", || endpoints[0].in_flight() >= 30).await;
    // A call that got no answer in its few milliseconds picks by what it has seen itself.
    let (mut informed, mut went) = (0, 0);
    let counted = async {
        while informed < 30 {
            let (before, asked) = (endpoints[0].calls(), answered());
            call().await;
            if answered() >= asked + 2 {
                informed += 1;
                went += endpoints[0].calls() - before;
            }
        }
    };
    timeout(LIMIT, counted).await.expect("probes are answered");
    assert!(
        went < 10,
        "{went} of {informed} calls to the busy one that both had told of themselves"
    );
}
