//! Faults injected on purpose, on real sockets and in paused time.

use super::{get, mesh, seen, service};
use http::{Request, StatusCode};
use mesh_tower::{Body, ErrorKind, Mesh};
use std::time::Duration;
use testkit::endpoint::{Reply, ScriptedEndpoint};
use tokio::time::Instant;
use tower::{Layer, ServiceExt};

/// A policy for service `inventory`.
fn policy(spec: &str) -> String {
    format!(
        "apiVersion: mesh/v1\nkind: TrafficPolicy\nmetadata: {{ name: p }}\n\
         spec: {{ targetRef: {{ kind: Service, name: inventory }}, {spec} }}\n---\n"
    )
}

async fn both(spec: &str) -> (ScriptedEndpoint, Mesh) {
    let endpoint = ScriptedEndpoint::http1(Reply::status(200)).await;
    let mesh = mesh(&(service("inventory", &[endpoint.address()]) + &policy(spec)));
    (endpoint, mesh)
}

fn request(fields: &[(&str, &str)]) -> Request<Body> {
    let mut request = Request::get("http://inventory/");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(Body::empty()).expect("a request")
}

#[tokio::test]
async fn an_aborted_call_goes_nowhere_and_is_told_as_ours() {
    let (endpoint, mesh) = both("fault: { abort: { httpStatus: 418, percentage: 100 } }").await;
    let response = mesh.http().oneshot(request(&[])).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
    let details = "mesh; error=proxy_internal_response; details=\"fault_injected\"";
    assert_eq!(response.headers()["proxy-status"], details);

    let grpc = request(&[("content-type", "application/grpc")]);
    let response = mesh.http().oneshot(grpc).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["grpc-status"], "2", "418 is UNKNOWN");
    assert_eq!(endpoint.connections(), 0);
    let counts = mesh.metrics().destination("inventory").counts();
    assert_eq!((counts.aborts_injected, counts.delays_injected), (2, 0));
    assert_eq!(
        (counts.succeeded, counts.failed),
        (1, 1),
        "as from an endpoint: 418 is no failure of it"
    );
    assert_eq!(seen(&mesh, "inventory").ejections, 0);
}

#[tokio::test]
async fn an_aborted_call_is_readable_by_the_page_that_makes_it_and_its_preflight_is_answered() {
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: r }\n\
         spec:\n  parentRefs: [{ kind: Service, name: inventory }]\n  rules:\n  - filters:\n    \
         - { type: CORS, cors: { allowOrigins: [\"https://shop.example\"] } }\n    \
         backendRefs: [{ name: inventory }]\n---\n";
    let config = service("inventory", &["127.0.0.1:9".parse().expect("an address")])
        + &policy("fault: { abort: { httpStatus: 503, percentage: 100 } }")
        + route;
    let mesh = mesh(&config);
    let page = [("origin", "https://shop.example")];
    let response = mesh.http().oneshot(request(&page)).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["access-control-allow-origin"], "https://shop.example");
    let plain = mesh.http().oneshot(request(&[])).await.expect("an answer");
    assert_eq!(plain.headers()["vary"], "origin", "no cache gives it to the page");

    let mut asking = request(&[page[0], ("access-control-request-method", "GET")]);
    *asking.method_mut() = http::Method::OPTIONS;
    let response = mesh.http().oneshot(asking).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    assert_eq!(mesh.metrics().destination("inventory").counts().aborts_injected, 2);
}

#[tokio::test]
async fn a_grpc_status_is_what_its_http_equivalent_is() {
    let (_endpoint, mesh) =
        both("fault: { abort: { grpcStatus: UNAVAILABLE, percentage: 100 } }").await;
    assert_eq!(
        get(&mesh, "http://inventory/").await.expect("an answer"),
        StatusCode::SERVICE_UNAVAILABLE
    );
    let grpc = request(&[("content-type", "application/grpc")]);
    let response = mesh.http().oneshot(grpc).await.expect("an answer");
    assert_eq!(response.headers()["grpc-status"], "14");
    let counts = mesh.metrics().destination("inventory").counts();
    assert_eq!((counts.failed, counts.retries), (2, 0), "a fault is not retried");
}

#[tokio::test]
async fn a_share_of_calls_is_hit_and_the_others_pass() {
    let (endpoint, mesh) = both("fault: { abort: { httpStatus: 500, percentage: 30 } }").await;
    let mut aborted = 0;
    for _ in 0..1000 {
        let status = get(&mesh, "http://inventory/").await.expect("an answer");
        aborted += u64::from(status == StatusCode::INTERNAL_SERVER_ERROR);
    }
    assert_eq!(endpoint.calls() + aborted, 1000);
    // Seven standard deviations of 14.5.
    assert!((200..=400).contains(&aborted), "{aborted}");
}

#[tokio::test]
async fn a_delayed_call_leaves_later_and_is_aborted_after_the_delay() {
    let (endpoint, mesh) = both(
        "fault: { delay: { header: true, percentage: 100 }, abort: { header: true, percentage: 100 } }",
    )
    .await;
    let started = Instant::now();
    let delayed = request(&[("x-envoy-fault-delay-request", "60")]);
    let response = mesh.http().oneshot(delayed).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    assert!(started.elapsed() >= Duration::from_millis(60));

    let started = Instant::now();
    let fields = [("x-envoy-fault-delay-request", "60"), ("x-envoy-fault-abort-request", "404")];
    let response = mesh.http().oneshot(request(&fields)).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert!(started.elapsed() >= Duration::from_millis(60), "delay comes first");
    assert_eq!(endpoint.calls(), 1);
    let counts = mesh.metrics().destination("inventory").counts();
    assert_eq!((counts.aborts_injected, counts.delays_injected), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_delay_is_no_latency_of_the_endpoint() {
    let config = service("inventory", &["127.0.0.1:9".parse().expect("an address")])
        + &policy(
            "fault: { delay: { fixedDelay: 10s, percentage: 100 } }, timeouts: { request: 12s }",
        );
    let layer = mesh_tower::route::RouteLayer::new(mesh(&config));
    let below = tower::service_fn(|mut request: Request<Body>| async move {
        let call = mesh_tower::call::pinned_mut(&mut request).expect("routed");
        assert_eq!(call.leaves.since(call.started).as_secs(), 10);
        Ok::<_, mesh_tower::Error>(http::Response::new(Body::empty()))
    });
    layer.layer(below).oneshot(request(&[])).await.expect("an answer");
}

#[tokio::test]
async fn an_endpoint_is_told_what_the_delay_left_of_the_deadline() {
    let (endpoint, mesh) =
        both("fault: { delay: { fixedDelay: 60ms, percentage: 100 } }, timeouts: { request: 60s }")
            .await;
    get(&mesh, "http://inventory/").await.expect("an answer");
    let left = endpoint.arrivals()[0].headers["x-envoy-expected-rq-timeout-ms"].clone();
    let left: u64 = left.to_str().expect("text").parse().expect("milliseconds");
    assert!(left <= 59_940, "{left}");
}

#[tokio::test(start_paused = true)]
async fn the_deadline_holds_while_a_call_is_delayed() {
    // Nothing listens there, and nothing is sent there.
    let config = service("inventory", &["127.0.0.1:9".parse().expect("an address")])
        + &policy(
            "timeouts: { request: 2s }, fault: { delay: { fixedDelay: 1h, percentage: 100 } }",
        );
    let mesh = mesh(&config);
    let started = Instant::now();
    let error = get(&mesh, "http://inventory/").await.expect_err("too late");
    assert_eq!(error.kind(), ErrorKind::Deadline);
    let took = started.elapsed();
    assert!(Duration::from_secs(2) <= took && took < Duration::from_millis(2010), "{took:?}");
    assert_eq!(error.destination(), Some("inventory"));
    let counts = mesh.metrics().destination("inventory").counts();
    assert_eq!((counts.failed, counts.picks), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn no_more_calls_are_delayed_at_once_than_may_be() {
    let config = service("inventory", &["127.0.0.1:9".parse().expect("an address")])
        + &policy(
            "fault: { delay: { fixedDelay: 10s, percentage: 100 }, abort: { httpStatus: 418, percentage: 100 }, maxActiveFaults: 1 }",
        );
    let mesh = mesh(&config);
    let held = tokio::spawn(mesh.http().oneshot(request(&[])));
    tokio::time::advance(Duration::from_secs(1)).await;
    let free = mesh.http().oneshot(request(&[])).await;
    // It was sent to where nothing listens.
    assert_eq!(free.expect_err("nobody is there").kind(), ErrorKind::NoHealthyEndpoint);
    let held = held.await.expect("no panic").expect("an answer");
    assert_eq!(held.status(), StatusCode::IM_A_TEAPOT);
    let next = mesh.http().oneshot(request(&[])).await.expect("an answer");
    assert_eq!(next.status(), StatusCode::IM_A_TEAPOT, "the place is free again");
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_goes_away_frees_the_place() {
    let config = service("inventory", &["127.0.0.1:9".parse().expect("an address")])
        + &policy(
            "fault: { delay: { fixedDelay: 10s, percentage: 100 }, maxActiveFaults: 1 }, timeouts: { request: 1h }",
        );
    let mesh = mesh(&config);
    for _ in 0..3 {
        let call = mesh.http().oneshot(request(&[]));
        assert!(tokio::time::timeout(Duration::from_secs(5), call).await.is_err(), "delayed");
    }
    assert_eq!(mesh.metrics().destination("inventory").counts().delays_injected, 3);
}

#[tokio::test]
async fn a_route_has_faults_of_its_own() {
    let endpoint = ScriptedEndpoint::http1(Reply::status(200)).await;
    let config = service("inventory", &[endpoint.address()])
        + "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: r }\n\
           spec:\n  parentRefs: [{ kind: Service, name: inventory }]\n  rules:\n  \
           - matches: [{ path: { value: /hit } }]\n    backendRefs: [{ name: inventory }]\n---\n\
           apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: s }\n\
           spec:\n  parentRefs: [{ kind: Service, name: inventory }]\n  rules:\n  \
           - backendRefs: [{ name: inventory }]\n---\n\
           apiVersion: mesh/v1\nkind: TrafficPolicy\nmetadata: { name: p }\n\
           spec: { targetRef: { kind: HTTPRoute, name: r }, fault: { abort: { httpStatus: 503, percentage: 100 } } }\n";
    let mesh = mesh(&config);
    assert_eq!(
        get(&mesh, "http://inventory/hit").await.expect("an answer"),
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert_eq!(get(&mesh, "http://inventory/").await.expect("an answer"), StatusCode::OK);
}
