//! Hedging through real sockets.

use super::{addresses, call, get, mesh, policy, seen, service};
use http::{Method, StatusCode};
use testkit::endpoint::{Reply, ScriptedEndpoint};
use testkit::until;

const HEDGED: &str = "hedge: { delay: 30ms }, pick: { policy: Random }, \
                      outlier: { consecutive5xx: 0, consecutiveGatewayFailure: 0 }";

#[tokio::test]
async fn a_slow_endpoint_is_answered_for_by_another_and_let_go() {
    let slow = ScriptedEndpoint::http1(Reply::hang()).await;
    let quick = ScriptedEndpoint::http1(Reply::status(200)).await;
    let endpoints = service("inventory", &[slow.address(), quick.address()]);
    let mesh = mesh(&format!("{}{endpoints}", policy(HEDGED)));
    for _ in 0..30 {
        assert_eq!(get(&mesh, "http://inventory/").await.expect("an answer"), StatusCode::OK);
    }
    assert!(slow.calls() > 0, "drawn at times");
    assert_eq!(quick.calls(), 30, "the second attempt never goes where the first is");
    assert!(seen(&mesh, "inventory").retries > 0);
    until("the losers are cancelled", || slow.in_flight() == 0).await;
}

#[tokio::test]
async fn over_http2_the_losers_stream_is_reset_and_the_connection_stays() {
    let slow = ScriptedEndpoint::http2(Reply::hang()).await;
    let quick = ScriptedEndpoint::http2(Reply::status(200)).await;
    let endpoints = service("inventory", &[slow.address(), quick.address()]);
    let mesh = mesh(&format!("{}{endpoints}", policy(&format!("protocol: Http2, {HEDGED}"))));
    for _ in 0..30 {
        assert_eq!(get(&mesh, "http://inventory/").await.expect("an answer"), StatusCode::OK);
    }
    let endpoints = seen(&mesh, "inventory").endpoints;
    assert!(endpoints.iter().all(|endpoint| endpoint.connections <= 1), "{endpoints:?}");
}

#[tokio::test]
async fn what_may_do_harm_twice_is_sent_once() {
    let slow = Reply::status(200).after(std::time::Duration::from_millis(100));
    let endpoints =
        [ScriptedEndpoint::http1(slow.clone()).await, ScriptedEndpoint::http1(slow).await];
    let documents = service("inventory", &addresses(&endpoints));
    let mesh = mesh(&format!("{}{documents}", policy(HEDGED)));
    for _ in 0..5 {
        let answer = call(&mesh, Method::POST, "http://inventory/", "order".into()).await;
        assert_eq!(answer.expect("an answer"), StatusCode::OK);
    }
    assert_eq!(endpoints.iter().map(ScriptedEndpoint::calls).sum::<u64>(), 5);
}
