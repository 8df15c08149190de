//! Probes: endpoints that are asked how busy they are before a call is sent, on real sockets.

use super::{LIMIT, addresses, get, mesh, policy, service};
use axum::Router;
use http::{Method, StatusCode};
use mesh_tower::server::{Config, ServerLayer};
use mesh_tower::telemetry::Probed;
use mesh_tower::{Listener, Mesh};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use testkit::endpoint::{Reply, ScriptedEndpoint};
use tokio::time::timeout;

const WORK: Duration = Duration::from_millis(80);
const URL: &str = "http://inventory/";

/// A server under `mesh.server()`: its address, and the calls it has seen.
async fn server() -> (SocketAddr, Arc<AtomicU64>) {
    let layer = ServerLayer::new(Config::default());
    let listener = Listener::bind("127.0.0.1:0", None).await.expect("a free port");
    let (address, calls) = (listener.local_addr(), Arc::new(AtomicU64::new(0)));
    let seen = calls.clone();
    let handler = axum::routing::any(move || async move {
        seen.fetch_add(1, Relaxed);
        tokio::time::sleep(WORK).await;
    });
    let app = Router::new().fallback(handler).layer(layer);
    tokio::spawn(async move { axum::serve(listener, app).await });
    (address, calls)
}

/// One that says what it has in flight as ours do, and treats a probe as it likes.
async fn foreign(probed: impl Fn() -> Reply + Send + Sync + 'static) -> ScriptedEndpoint {
    let endpoint = ScriptedEndpoint::http1(Reply::status(200)).await;
    endpoint.plan(move |_, head| {
        let report = "TEXT named_metrics.mesh.in_flight=1,named_metrics.mesh.service_time=0.08";
        match head.method {
            Method::OPTIONS => probed(),
            _ => Reply::status(200).header("endpoint-load-metrics", report).after(WORK),
        }
    });
    endpoint
}

fn probes(mesh: &Mesh, how: Probed) -> u64 {
    let metrics = mesh.metrics().destination("inventory");
    metrics.probes().find_map(|(known, count)| (known == how).then_some(count)).expect("known")
}

fn total(mesh: &Mesh) -> u64 {
    mesh.metrics().destination("inventory").probes().map(|(_, count)| count).sum()
}

fn asked(endpoints: &[ScriptedEndpoint]) -> usize {
    let arrivals = endpoints.iter().flat_map(ScriptedEndpoint::arrivals);
    arrivals.filter(|seen| seen.method == Method::OPTIONS).count()
}

/// Calls until so many probes have ended so; says how many calls that took.
async fn until(mesh: &Mesh, how: Probed, count: u64) -> u64 {
    let calls = async {
        let mut calls = 0;
        while probes(mesh, how) < count {
            assert_eq!(get(mesh, URL).await.expect("an answer"), StatusCode::OK);
            calls += 1;
        }
        calls
    };
    timeout(LIMIT, calls).await.expect("probes are sent")
}

#[tokio::test]
async fn servers_that_report_are_asked_and_the_application_sees_nothing_of_it() {
    let servers = [server().await, server().await, server().await];
    let all = servers.each_ref().map(|(address, _)| *address);
    let mesh = mesh(&service("inventory", &all));
    let calls = until(&mesh, Probed::Answered, 3).await;
    let served: u64 = servers.iter().map(|(_, calls)| calls.load(Relaxed)).sum();
    assert_eq!(served, calls, "a probe is no call");
    assert!(total(&mesh) <= 3 * calls);
    let counts = mesh.metrics().destination("inventory").counts();
    assert_eq!((counts.picks, counts.succeeded), (calls, calls));
    assert_eq!(probes(&mesh, Probed::Refused), 0);
}

#[tokio::test]
async fn whoever_does_not_know_what_a_probe_is_is_asked_once() {
    let endpoints =
        [foreign(|| Reply::status(200)).await, foreign(|| Reply::status(404).body(3)).await];
    let mesh = mesh(&service("inventory", &addresses(&endpoints)));
    until(&mesh, Probed::Refused, 2).await;
    for _ in 0..10 {
        assert_eq!(get(&mesh, URL).await.expect("an answer"), StatusCode::OK);
    }
    assert_eq!((asked(&endpoints), total(&mesh)), (2, 2), "for five minutes");
}

#[tokio::test]
async fn a_probe_that_is_never_answered_fails_no_call() {
    let endpoints = [foreign(Reply::hang).await, foreign(Reply::reset).await];
    let mesh = mesh(&service("inventory", &addresses(&endpoints)));
    until(&mesh, Probed::Unanswered, 3).await;
    let counts = mesh.metrics().destination("inventory").counts();
    assert_eq!((counts.failed, counts.retries, counts.ejections), (0, 0, 0));
}

#[tokio::test]
async fn dropping_a_call_drops_its_probes() {
    let endpoints = [foreign(Reply::hang).await, foreign(Reply::hang).await];
    for endpoint in &endpoints {
        endpoint.plan(|_, head| match head.method {
            Method::OPTIONS => Reply::hang(),
            // So that a call waits for 50 ms.
            _ => Reply::status(200)
                .header("endpoint-load-metrics", "TEXT named_metrics.mesh.in_flight=1")
                .after(Duration::from_millis(500)),
        });
    }
    let mesh = mesh(&service("inventory", &addresses(&endpoints)));
    let dropped_while_asking = async {
        loop {
            let before = asked(&endpoints);
            tokio::select! {
                answer = get(&mesh, URL) => assert_eq!(answer.expect("an answer"), StatusCode::OK),
                () = testkit::until("a probe is there", || asked(&endpoints) > before) => break,
            }
        }
    };
    timeout(LIMIT, dropped_while_asking).await.expect("a call asks");
    testkit::until("nothing is left of it", || {
        endpoints.iter().all(|endpoint| endpoint.in_flight() == 0)
    })
    .await;
}

#[tokio::test]
async fn nobody_is_asked_who_has_not_said_that_it_runs_our_inbound_stack() {
    let report = "TEXT application_utilization=0.5,rps_fractional=10";
    let reply = || Reply::status(200).header("endpoint-load-metrics", report).after(WORK);
    let endpoints =
        [ScriptedEndpoint::http1(reply()).await, ScriptedEndpoint::http1(reply()).await];
    let mesh = mesh(&service("inventory", &addresses(&endpoints)));
    for _ in 0..10 {
        assert_eq!(get(&mesh, URL).await.expect("an answer"), StatusCode::OK);
    }
    assert_eq!((asked(&endpoints), total(&mesh)), (0, 0));
}

#[tokio::test]
async fn nobody_is_asked_where_probes_are_off_or_of_no_use() {
    for spec in ["pick: { probes: false }", "pick: { policy: LeastRequest }"] {
        let servers = [server().await, server().await];
        let all = servers.each_ref().map(|(address, _)| *address);
        let mesh = mesh(&format!("{}{}", policy(spec), service("inventory", &all)));
        for _ in 0..10 {
            assert_eq!(get(&mesh, URL).await.expect("an answer"), StatusCode::OK);
        }
        assert_eq!(total(&mesh), 0, "{spec}");
    }
}
