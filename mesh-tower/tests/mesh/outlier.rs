//! Outlier detection, on real sockets: how an endpoint returns, and who is too slow.

use super::{LIMIT, addresses, get, mesh, policy, service, state};
use http::StatusCode;
use std::time::Duration;
use testkit::endpoint::{Reply, ScriptedEndpoint};
use testkit::until;
use tokio::task::JoinSet;
use tokio::time::timeout;

#[tokio::test]
async fn on_probation_one_call_at_a_time_decides_whether_an_endpoint_returns() {
    let bad = ScriptedEndpoint::http1(Reply::status(500)).await;
    let good = ScriptedEndpoint::http1(Reply::status(200)).await;
    let there = bad.address();
    let spec = "pick: { policy: RoundRobin, panicThreshold: 0 }, retry: { attempts: 0 }, \
                outlier: { probation: true, consecutive5xx: 2, interval: 10ms, \
                baseEjectionTime: 100ms, maxEjectionTime: 20s }";
    let service = service("inventory", &[there, good.address()]);
    let mesh = mesh(&format!("{}{service}", policy(spec)));
    let call = async || get(&mesh, "http://inventory/").await.expect("an answer");
    while bad.calls() < 2 {
        call().await;
    }
    assert!(state(&mesh, "inventory", there).starts_with("ejected: 2 consecutive 5xx"));

    // Each time it is due, one call finds out that it still fails.
    timeout(LIMIT, async {
        while bad.calls() < 4 {
            call().await;
        }
    })
    .await
    .expect("it is tried again");
    let told = state(&mesh, "inventory", there);
    assert!(told.starts_with("ejected: failed on probation"), "{told}");

    // It is well now, and takes its time to say so: meanwhile nobody else is sent there.
    bad.set(Reply::status(204).after(Duration::from_millis(300)));
    until("it is due", || state(&mesh, "inventory", there).starts_with("probation")).await;
    let before = bad.calls();
    let mut calls = JoinSet::new();
    for _ in 0..20 {
        let mesh = mesh.clone();
        calls.spawn(async move { get(&mesh, "http://inventory/").await.expect("an answer") });
    }
    let statuses = calls.join_all().await;
    assert_eq!(bad.calls() - before, 1, "one call decides");
    let slow = statuses.iter().filter(|status| **status == StatusCode::NO_CONTENT).count();
    assert_eq!((slow, state(&mesh, "inventory", there).as_str()), (1, "ready"));
    bad.set(Reply::status(204));
    call().await;
    call().await;
    assert!(bad.calls() > before + 1, "it takes calls again");
}

#[tokio::test]
async fn an_endpoint_much_slower_than_the_others_is_ejected() {
    let mut endpoints =
        vec![ScriptedEndpoint::http1(Reply::status(200).after(Duration::from_millis(400))).await];
    for _ in 0..4 {
        endpoints.push(ScriptedEndpoint::http1(Reply::status(200)).await);
    }
    let there = endpoints[0].address();
    let spec = "pick: { policy: RoundRobin }, \
                outlier: { enforcingLatency: 100, latencyRequestVolume: 3, latencyQuantile: 50, \
                interval: 3s }";
    let service = service("inventory", &addresses(&endpoints));
    let mesh = mesh(&format!("{}{service}", policy(spec)));
    timeout(LIMIT, async {
        while !state(&mesh, "inventory", there).starts_with("ejected: latency ") {
            assert_eq!(get(&mesh, "http://inventory/").await.expect("an answer"), StatusCode::OK);
        }
    })
    .await
    .expect("it is found out");
    for fast in &endpoints[1..] {
        assert_eq!(state(&mesh, "inventory", fast.address()), "ready");
    }
}
