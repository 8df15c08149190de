//! Many GETs through the proxy's process while endpoints are killed and come back.

mod common;

use common::listener;
use common::process::{PATIENCE, Process, folder};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use testkit::endpoint::{Reply, ScriptedEndpoint};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// Longer than a part of the load takes, however many calls it is raised to.
const LONG: Duration = Duration::from_secs(300);

/// Calls of the test; `MESH_TEST_CALLS` raises it.
fn wanted_calls() -> u64 {
    std::env::var("MESH_TEST_CALLS").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000)
}

/// How many GETs were begun and are over.
#[derive(Default)]
struct Calls {
    begun: AtomicU64,
    over: AtomicU64,
}

/// Makes GETs one after the other until all clients together have begun `total`. It repeats none,
/// and keeps its connection until one fails; returns what it got for those that did.
async fn client(proxy: SocketAddr, calls: Arc<Calls>, total: u64) -> Vec<String> {
    let mut failed = Vec::new();
    let mut open = None;
    while calls.begun.fetch_add(1, SeqCst) < total {
        let mut stream = match open.take() {
            Some(stream) => stream,
            None => TcpStream::connect(proxy).await.unwrap(),
        };
        match get(&mut stream).await {
            Ok(()) => open = Some(stream),
            Err(answer) => failed.push(answer),
        }
        calls.over.fetch_add(1, SeqCst);
    }
    failed
}

/// One GET; all that came back where that is not what the endpoints answer.
async fn get(stream: &mut TcpStream) -> Result<(), String> {
    let mut answer = Vec::new();
    let sent = stream.write_all(b"GET / HTTP/1.1\r\nHost: app\r\n\r\n").await;
    while sent.is_ok() && !answer.ends_with(b"\r\n\r\nhello") {
        let ended = !matches!(stream.read_buf(&mut answer).await, Ok(1..));
        if ended || (answer.len() > 12 && !answer.starts_with(b"HTTP/1.1 200 ")) {
            return Err(answer.escape_ascii().to_string());
        }
    }
    sent.map_err(|error| error.to_string())
}

async fn reach(calls: &Calls, count: u64) {
    let reached = async {
        while calls.over.load(SeqCst) < count {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LONG, reached).await.expect("the load goes on");
}

#[tokio::test]
async fn killed_endpoints_cost_no_get_through_the_proxy() {
    let mut endpoints = Vec::new();
    for _ in 0..3 {
        endpoints.push(ScriptedEndpoint::http1(Reply::status(200).content("hello")).await);
    }
    let addresses: Vec<_> = endpoints.iter().map(|one| one.address().to_string()).collect();
    // The calls in flight on the killed one may be enough to eject it, which is to be over soon.
    let yaml = format!(
        "apiVersion: mesh/v1\nkind: TrafficPolicy\nmetadata: {{ name: everywhere }}\n\
         spec: {{ targetRef: {{ kind: Mesh }}, outlier: {{ interval: 100ms, baseEjectionTime: 200ms }} }}\n---\n\
         apiVersion: mesh/v1\nkind: Service\nmetadata: {{ name: app }}\n\
         spec: {{ endpoints: {{ static: {addresses:?} }} }}\n{}",
        listener("main", "auto", "app")
    );
    let folder = folder("kills");
    let path = folder.join("mesh.yaml");
    std::fs::write(&path, yaml).unwrap();
    let process = Process::start(&["--config", path.to_str().unwrap()]);
    let (total, calls) = (wanted_calls(), Arc::new(Calls::default()));
    let mut clients = JoinSet::new();
    for _ in 0..16 {
        clients.spawn(client(process.proxy, Arc::clone(&calls), total));
    }

    reach(&calls, total / 4).await;
    endpoints[0].kill().await;
    reach(&calls, total / 2).await;
    endpoints[0].restart();
    // Before the next one dies the first can be picked again, by itself.
    let ready = format!("  {:<24} ready, ", addresses[0]);
    let until = Instant::now() + PATIENCE;
    loop {
        let (_, page) = process.admin("GET", "/endpoints").await;
        if page.contains(&ready) {
            break;
        }
        assert!(Instant::now() < until, "never ready again: {page}");
        sleep(Duration::from_millis(20)).await;
    }
    reach(&calls, total * 3 / 4).await;
    endpoints[1].kill().await;
    assert!(calls.over.load(SeqCst) < total, "killed under load");

    let failed = clients.join_all().await.concat();
    let answered: Vec<_> = endpoints.iter().map(ScriptedEndpoint::calls).collect();
    println!("{} of {total} GETs failed; endpoints saw {answered:?}", failed.len());
    assert_eq!(failed, Vec::<String>::new());
    assert!(answered.iter().sum::<u64>() >= total);
    std::fs::remove_dir_all(folder).unwrap();
}
