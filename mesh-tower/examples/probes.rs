//! What probes are worth, on loopback: eight servers with four slots and a queue each, and many clients
//! that know nothing of each other.
//!
//! ```text
//! cargo run --release -p mesh-tower --features axum --example probes -- [load %] [shortest ms] [longest ms] [seconds]
//! ```
//!
//! Prints for each policy the latencies, how many calls failed, and probes per call. Figures compare the
//! policies on one machine at one time; whatever else runs there is in them.

use axum::Router;
use mesh_tower::{Body, Listener, Mesh};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};
use tower::ServiceExt;

const SERVERS: usize = 8;
const SLOTS: usize = 4;
const CLIENTS: usize = 32;

/// What is measured, with its name.
const POLICIES: [(&str, &str); 4] = [
    ("expected wait, probes", "{}"),
    ("expected wait, no probes", "{ probes: false }"),
    ("least request", "{ policy: LeastRequest }"),
    ("round robin", "{ policy: RoundRobin }"),
];

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<f64>().expect("a number"));
    let mut next = |default| arguments.next().unwrap_or(default);
    let (load, shortest, longest, seconds) = (next(85.0), next(20.0), next(40.0), next(15.0));
    let capacity = (SERVERS * SLOTS) as f64 / ((shortest + longest) / 2e3);
    let rate = capacity * load / 100.0;
    println!("{load} % of {capacity:.0} calls/s; {shortest} to {longest} ms; {seconds} s each");
    println!("| policy | p50 | p99 | p99.9 | calls | failed | probes per call |");
    println!("|---|---|---|---|---|---|---|");
    for (name, pick) in POLICIES {
        let mut servers = Vec::new();
        for _ in 0..SERVERS {
            servers.push(server(shortest / 1e3, longest / 1e3).await);
        }
        println!("| {name} | {}", measure(&servers, pick, rate, seconds).await);
    }
}

/// A server whose calls wait in line for a slot.
async fn server(shortest: f64, longest: f64) -> SocketAddr {
    let mesh = Mesh::builder().build().expect("valid");
    let listener = Listener::bind("127.0.0.1:0", None).await.expect("a free port");
    let (address, slots) = (listener.local_addr(), Arc::new(Semaphore::new(SLOTS)));
    let handler = axum::routing::get(move || async move {
        let _slot = slots.acquire().await;
        let work = Duration::from_secs_f64(shortest + (longest - shortest) * fastrand::f64());
        tokio::time::sleep(work).await;
    });
    let app = Router::new().route("/", handler).layer(mesh.server());
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// A third of the time passes before anything is counted.
async fn measure(servers: &[SocketAddr], pick: &str, rate: f64, seconds: f64) -> String {
    let list = servers.iter().fold(String::new(), |mut list, address| {
        let _ = write!(list, "'{address}', ");
        list
    });
    let config = format!(
        "apiVersion: mesh/v1\nkind: Service\nmetadata: {{ name: work }}\n\
         spec: {{ endpoints: {{ static: [{list}] }} }}\n---\n\
         apiVersion: mesh/v1\nkind: TrafficPolicy\nmetadata: {{ name: all }}\n\
         spec: {{ targetRef: {{ kind: Mesh }}, pick: {pick} }}\n"
    );
    let seen = Arc::new(Mutex::new((Vec::new(), 0_u64)));
    let (start, span) = (Instant::now(), Duration::from_secs_f64(seconds));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| Mesh::builder().config_text("probes", &*config).build().expect("valid"))
        .collect();
    let mut callers = tokio::task::JoinSet::new();
    for mesh in clients.clone() {
        let seen = seen.clone();
        callers.spawn(async move {
            let mut at = start;
            let mut calls = tokio::task::JoinSet::new();
            while at < start + span {
                at +=
                    Duration::from_secs_f64(-(1.0 - fastrand::f64()).ln() * CLIENTS as f64 / rate);
                sleep_until(at).await;
                let (channel, seen) = (mesh.http(), seen.clone());
                calls.spawn(async move {
                    let request = http::Request::get("http://work/").body(Body::empty());
                    let answer = channel.oneshot(request.expect("valid")).await;
                    let took = at.elapsed();
                    if at >= start + span / 3 {
                        let mut seen = seen.lock().expect("nobody panics");
                        match answer.is_ok_and(|answer| answer.status().is_success()) {
                            true => seen.0.push(took),
                            false => seen.1 += 1,
                        }
                    }
                });
            }
            while calls.join_next().await.is_some() {}
        });
    }
    while callers.join_next().await.is_some() {}
    let counts = |mesh: &Mesh| {
        let metrics = mesh.metrics().destination("work");
        let probes = metrics.probes().map(|(_, count)| count).sum::<u64>();
        (probes, metrics.counts().picks)
    };
    let (probes, calls) =
        clients.iter().map(counts).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    let (mut latencies, failed) = std::mem::take(&mut *seen.lock().expect("nobody panics"));
    latencies.sort_unstable();
    let quantile = |share: f64| {
        let at = (latencies.len() as f64 * share) as usize;
        latencies.get(at).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
    };
    format!(
        "{:.0} | {:.0} | {:.0} | {} | {failed} | {:.2} |",
        quantile(0.5),
        quantile(0.99),
        quantile(0.999),
        latencies.len(),
        probes as f64 / calls.max(1) as f64
    )
}
