//! Active health checks by the proxy, as its endpoints, its callers and its pages see them.

mod common;

use common::process::{Process, folder};
use common::{SOON, exchange, listener, statuses};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::SeqCst};
use testkit::endpoint::{Reply, ScriptedEndpoint};
use tokio::time::{Instant, sleep};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n";

/// Asks a page until it says so.
async fn page_says(process: &Process, page: &str, words: &str) {
    let until = Instant::now() + SOON;
    loop {
        let (_, said) = process.admin("GET", page).await;
        if said.contains(words) {
            return;
        }
        assert!(Instant::now() < until, "`{words}` is not in\n{said}");
        sleep(std::time::Duration::from_millis(10)).await;
    }
}

fn calls(endpoint: &ScriptedEndpoint) -> usize {
    endpoint.arrivals().iter().filter(|one| one.uri.path() == "/").count()
}

#[tokio::test]
async fn an_endpoint_that_fails_its_check_is_shown_gets_no_calls_and_comes_back() {
    let health = Arc::new(AtomicU16::new(200));
    let sick = ScriptedEndpoint::http1(Reply::status(200)).await;
    let status = health.clone();
    sick.plan(move |_, request| match request.uri.path() {
        "/healthz" => Reply::status(status.load(SeqCst)),
        _ => Reply::status(200),
    });
    let others = [
        ScriptedEndpoint::http1(Reply::status(200)).await,
        ScriptedEndpoint::http1(Reply::status(200)).await,
    ];
    let all: Vec<SocketAddr> =
        [&sick, &others[0], &others[1]].into_iter().map(ScriptedEndpoint::address).collect();
    let list = all.iter().map(|one| format!("'{one}'")).collect::<Vec<_>>().join(", ");
    let folder = folder("health");
    let path = folder.join("mesh.yaml");
    let yaml = format!(
        "apiVersion: mesh/v1\nkind: Service\nmetadata: {{ name: app }}\n\
         spec: {{ endpoints: {{ static: [{list}] }} }}\n\
         ---\napiVersion: mesh/v1\nkind: TrafficPolicy\nmetadata: {{ name: app }}\n\
         spec:\n  targetRef: {{ kind: Service, name: app }}\n  pick: {{ policy: RoundRobin }}\n  \
         healthCheck: {{ interval: 20ms, noTrafficInterval: 20ms, timeout: 5s, \
         http: {{ path: /healthz }} }}\n{}",
        listener("app", "http", "app")
    );
    std::fs::write(&path, yaml).unwrap();
    let process = Process::start(&["--config", path.to_str().unwrap()]);
    let proxy = process.proxy;
    let name = sick.address().to_string();

    page_says(
        &process,
        "/metrics",
        "mesh_lb_endpoints{mesh_destination=\"app\",state=\"ready\"} 3",
    )
    .await;
    health.store(503, SeqCst);
    page_says(&process, "/endpoints", "health check: HTTP 503").await;
    let unhealthy = "mesh_lb_endpoints{mesh_destination=\"app\",state=\"unhealthy\"} 1";
    page_says(&process, "/metrics", unhealthy).await;
    page_says(
        &process,
        "/metrics",
        "mesh_health_check_results_total{mesh_destination=\"app\",result=\"status\"}",
    )
    .await;
    let before = calls(&sick);
    for _ in 0..30 {
        assert_eq!(statuses(&exchange(proxy, GET).await), [200]);
    }
    assert_eq!(calls(&sick), before, "{name} takes no call");

    health.store(200, SeqCst);
    page_says(
        &process,
        "/metrics",
        "mesh_lb_endpoints{mesh_destination=\"app\",state=\"ready\"} 3",
    )
    .await;
    for _ in 0..6 {
        assert_eq!(statuses(&exchange(proxy, GET).await), [200]);
    }
    assert!(calls(&sick) > before, "it takes its share again");
    drop(process);
    std::fs::remove_dir_all(folder).unwrap();
}
