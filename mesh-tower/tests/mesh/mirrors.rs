//! Copies of requests on real sockets: what the shadow gets, and that the call learns nothing of it.

use super::{LIMIT, call, get, mesh, service};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use mesh_tower::{Body, Mesh};
use testkit::endpoint::{Reply, ScriptedEndpoint};
use testkit::until;
use tower::ServiceExt;

/// Service `inventory`, whose requests are copied to service `next`.
async fn mirrored(shadow: &ScriptedEndpoint, share: &str) -> (ScriptedEndpoint, Mesh) {
    let endpoint = ScriptedEndpoint::http1(Reply::status(200)).await;
    let route = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: r }}\n\
         spec:\n  parentRefs: [{{ kind: Service, name: inventory }}]\n  rules:\n  - filters:\n    \
         - {{ type: RequestMirror, requestMirror: {{ backendRef: {{ name: next }}{share} }} }}\n    \
         - {{ type: RequestHeaderModifier, requestHeaderModifier: {{ set: [{{ name: x-by, value: rule }}] }} }}\n    \
         backendRefs: [{{ name: inventory }}]\n---\n"
    );
    let services =
        service("inventory", &[endpoint.address()]) + &service("next", &[shadow.address()]);
    (endpoint, mesh(&(services + &route)))
}

fn dropped(mesh: &Mesh) -> (u64, u64) {
    let counts = mesh.metrics().destination("next").counts();
    (counts.mirrored, counts.mirrors_dropped)
}

#[tokio::test]
async fn the_shadow_gets_the_request_as_it_is_sent_and_its_answer_is_thrown_away() {
    let shadow = ScriptedEndpoint::http1(Reply::status(500).body(100)).await;
    let (endpoint, mesh) = mirrored(&shadow, "").await;
    let body = Body::from("hello");
    let request = Request::put("http://inventory:8080/x?y=1")
        .header("x-envoy-expected-rq-timeout-ms", "9000")
        .body(body)
        .expect("a request");
    let answer = mesh.http().oneshot(request).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    until("the shadow has it whole", || shadow.body_bytes() == 5).await;
    let (sent, copied) = (&endpoint.arrivals()[0], &shadow.arrivals()[0]);
    assert_eq!((&copied.method, &copied.uri), (&sent.method, &sent.uri));
    assert_eq!(sent.headers["host"], "inventory:8080");
    assert_eq!(copied.headers["host"], "inventory-shadow:8080");
    assert_eq!(copied.headers["x-by"], "rule");
    let left: u64 = copied.headers["x-envoy-expected-rq-timeout-ms"]
        .to_str()
        .expect("text")
        .parse()
        .expect("milliseconds");
    assert!((14_000..=15_000).contains(&left), "its own destination's, not the call's: {left}");
    let next = || mesh.metrics().destination("next").counts();
    until("the copy has ended", || next().failed == 1).await;
    assert_eq!(next().retries, 0, "a copy is not retried");
    assert_eq!(dropped(&mesh), (1, 0));
}

#[tokio::test]
async fn a_stream_is_copied_while_it_is_sent() {
    let shadow = ScriptedEndpoint::http1(Reply::status(200)).await;
    let (endpoint, mesh) = mirrored(&shadow, "").await;
    let bytes = bytes::Bytes::from(vec![7; 200_000]);
    // Not known to be in memory, so it is a stream to the mesh.
    let body = Body::new(Full::new(bytes).map_err(|never| match never {}));
    let answer = call(&mesh, Method::POST, "http://inventory/", body).await;
    assert_eq!(answer.expect("an answer"), StatusCode::OK);
    until("the shadow has it whole", || shadow.body_bytes() == 200_000).await;
    assert_eq!(endpoint.body_bytes(), 200_000);
}

#[tokio::test]
async fn a_shadow_that_hangs_or_refuses_neither_slows_nor_fails_a_call() {
    let mut shadow = ScriptedEndpoint::http1(Reply::hang()).await;
    let (_endpoint, mesh) = mirrored(&shadow, "").await;
    for _ in 0..10 {
        let answer = tokio::time::timeout(LIMIT, get(&mesh, "http://inventory/")).await;
        assert_eq!(answer.expect("in time").expect("an answer"), StatusCode::OK);
    }
    until("all copies hang", || shadow.in_flight() == 10).await;
    shadow.kill().await;
    for _ in 0..10 {
        assert_eq!(get(&mesh, "http://inventory/").await.expect("an answer"), StatusCode::OK);
    }
    assert_eq!(dropped(&mesh), (20, 0));
}

#[tokio::test]
async fn no_more_than_so_many_copies_are_under_way() {
    let shadow = ScriptedEndpoint::http1(Reply::hang()).await;
    let (_endpoint, mesh) = mirrored(&shadow, "").await;
    for _ in 0..1030 {
        assert_eq!(get(&mesh, "http://inventory/").await.expect("an answer"), StatusCode::OK);
    }
    assert_eq!(dropped(&mesh), (1024, 6));
}

#[tokio::test]
async fn a_share_of_requests_is_copied() {
    let shadow = ScriptedEndpoint::http1(Reply::status(200)).await;
    for (share, least, most) in [
        (", percent: 0", 0, 0),
        (", percent: 100", 400, 400),
        (", fraction: { numerator: 1, denominator: 4 }", 50, 150),
    ] {
        let (endpoint, mesh) = mirrored(&shadow, share).await;
        for _ in 0..400 {
            get(&mesh, "http://inventory/").await.expect("an answer");
        }
        let (copies, _) = dropped(&mesh);
        // A quarter of 400 is 100, and 50 more or less is six standard deviations.
        assert!((least..=most).contains(&copies), "{share}: {copies}");
        assert_eq!(endpoint.calls(), 400);
    }
}

#[tokio::test]
async fn an_upgrade_is_not_copied() {
    let shadow = ScriptedEndpoint::http1(Reply::status(200)).await;
    let (_endpoint, mesh) = mirrored(&shadow, "").await;
    let request =
        Request::get("http://inventory/").header("connection", "upgrade").header("upgrade", "x");
    let request = request.body(Body::empty()).expect("a request");
    let answer = mesh.http().oneshot(request).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(dropped(&mesh), (0, 0));
}
