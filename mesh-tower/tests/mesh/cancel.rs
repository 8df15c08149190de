//! Deadlines and callers that go away: what they started ends at the endpoint.

use super::{LIMIT, get, mesh, policy, service};
use http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use mesh_tower::{Body, ErrorKind};
use testkit::endpoint::{Reply, ScriptedEndpoint};
use testkit::until;
use tokio::time::timeout;
use tower::ServiceExt;

#[tokio::test]
async fn the_deadline_ends_the_attempt_at_the_endpoint() {
    let endpoint = ScriptedEndpoint::http1(Reply::hang()).await;
    let service = service("inventory", &[endpoint.address()]);
    let mesh = mesh(&format!("{}{service}", policy("timeouts: { request: 100ms }")));

    let answer = timeout(LIMIT, get(&mesh, "http://inventory/")).await.expect("in time");

    let error = answer.expect_err("the endpoint hangs");
    assert_eq!(error.kind(), ErrorKind::Deadline, "{error}");
    assert_eq!(error.destination(), Some("inventory"));
    assert_eq!(endpoint.calls(), 1);
    until("the endpoint hears of it", || endpoint.in_flight() == 0).await;
}

#[tokio::test]
async fn a_chosen_timeout_bounds_the_body_too() {
    let endpoint = ScriptedEndpoint::http1(Reply::status(200).body(1 << 40)).await;
    let service = service("inventory", &[endpoint.address()]);
    let mesh = mesh(&format!("{}{service}", policy("timeouts: { request: 200ms }")));
    let request = Request::get("http://inventory/").body(Body::empty()).expect("valid");
    let mut body = mesh.http().oneshot(request).await.expect("a head").into_body();
    let error = timeout(LIMIT, async {
        loop {
            match body.frame().await.expect("a terabyte does not end") {
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    })
    .await
    .expect("in time");
    let error = error.downcast_ref::<mesh_tower::Error>().expect("an error of ours");
    assert_eq!(error.kind(), ErrorKind::Deadline, "{error}");
    until("the connection is closed", || endpoint.open_connections() == 0).await;
}

#[tokio::test]
async fn a_dropped_call_for_an_upgrade_closes_its_connection() {
    let endpoint = ScriptedEndpoint::http1(Reply::hang()).await;
    let mesh = mesh(&service("inventory", &[endpoint.address()]));
    let request = Request::get("http://inventory/")
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, "echo")
        .body(Body::empty())
        .expect("valid");
    let call = tokio::spawn(mesh.http().oneshot(request));
    until("the call arrives", || endpoint.in_flight() == 1).await;
    call.abort();
    until("its connection is closed", || {
        endpoint.in_flight() == 0 && endpoint.open_connections() == 0
    })
    .await;
}

#[tokio::test]
async fn a_dropped_call_closes_its_http1_connection() {
    let endpoint = ScriptedEndpoint::http1(Reply::hang()).await;
    let mesh = mesh(&service("inventory", &[endpoint.address()]));
    let caller = mesh.clone();
    let call = tokio::spawn(async move { get(&caller, "http://inventory/").await });
    until("the call arrives", || endpoint.in_flight() == 1).await;
    call.abort();
    until("its connection is closed", || {
        endpoint.in_flight() == 0 && endpoint.open_connections() == 0
    })
    .await;
    let now = super::seen(&mesh, "inventory").endpoints[0].in_flight;
    assert_eq!(now, 0, "nor does the mesh count it any more");
}

#[tokio::test]
async fn a_dropped_call_resets_its_http2_stream_and_keeps_the_connection() {
    let endpoint = ScriptedEndpoint::http2(Reply::hang()).await;
    let service = service("inventory", &[endpoint.address()]);
    let mesh = mesh(&format!("{}{service}", policy("protocol: Http2")));
    let caller = mesh.clone();
    let call = tokio::spawn(async move { get(&caller, "http://inventory/").await });
    until("the call arrives", || endpoint.in_flight() == 1).await;
    call.abort();
    until("its stream is reset", || endpoint.in_flight() == 0).await;

    endpoint.set(Reply::status(200));
    assert_eq!(get(&mesh, "http://inventory/").await.expect("an answer"), StatusCode::OK);
    assert_eq!((endpoint.connections(), endpoint.open_connections()), (1, 1));
}

#[tokio::test]
async fn a_dropped_body_closes_its_connection() {
    let endpoint = ScriptedEndpoint::http1(Reply::status(200).body(1 << 40)).await;
    let mesh = mesh(&service("inventory", &[endpoint.address()]));
    let request = Request::get("http://inventory/").body(Body::empty()).expect("valid");
    let response = mesh.http().oneshot(request).await.expect("a head");
    assert_eq!(super::seen(&mesh, "inventory").endpoints[0].in_flight, 1, "until the body ends");
    drop(response);
    until("its connection is closed", || endpoint.open_connections() == 0).await;
    assert_eq!(super::seen(&mesh, "inventory").endpoints[0].in_flight, 0);
}
