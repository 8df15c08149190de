//! Many calls, one endpoint of which is bad.

use super::{addresses, get, mesh, policy, seen, service, state};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use mesh_tower::{Body, Channel, ErrorKind, Mesh};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use testkit::endpoint::{Reply, ScriptedEndpoint};
use testkit::until;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceExt;

/// Longer than a part of the load takes, however many calls it is raised to.
const PATIENCE: Duration = Duration::from_secs(300);

/// Calls of the load test; `MESH_TEST_CALLS` raises it.
pub(super) fn wanted_calls() -> u64 {
    std::env::var("MESH_TEST_CALLS").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000)
}

/// Makes calls from several tasks until `total` are made; says what failed.
pub(super) struct Load {
    tasks: JoinSet<()>,
    pub(super) made: Arc<AtomicU64>,
    failed: Arc<std::sync::Mutex<Vec<String>>>,
}

impl Load {
    /// GETs of one URL, their bodies read to the end.
    pub(super) fn start(channel: &Channel, url: &'static str, total: u64) -> Self {
        let channel = channel.clone();
        Self::of(total, move || one(channel.clone(), url))
    }

    /// Calls of any kind.
    pub(super) fn of<C>(total: u64, call: impl Fn() -> C + Clone + Send + 'static) -> Self
    where
        C: Future<Output = Result<(), String>> + Send,
    {
        let made = Arc::new(AtomicU64::new(0));
        let failed = Arc::new(std::sync::Mutex::new(Vec::new()));
        let started = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for _ in 0..16 {
            let (call, started) = (call.clone(), started.clone());
            let (made, failed) = (made.clone(), failed.clone());
            tasks.spawn(async move {
                while started.fetch_add(1, SeqCst) < total {
                    if let Err(why) = call().await {
                        failed.lock().expect("not poisoned").push(why);
                    }
                    made.fetch_add(1, SeqCst);
                }
            });
        }
        Self { tasks, made, failed }
    }

    pub(super) async fn reach(&self, calls: u64) {
        let reached = async {
            while self.made.load(SeqCst) < calls {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, reached).await.expect("the load goes on");
    }

    /// Waits for the end, and returns what failed.
    pub(super) async fn end(mut self) -> Vec<String> {
        while let Some(task) = self.tasks.join_next().await {
            task.expect("does not panic");
        }
        std::mem::take(&mut *self.failed.lock().expect("not poisoned"))
    }
}

async fn one(channel: Channel, url: &str) -> Result<(), String> {
    let request = Request::get(url).body(Body::empty()).expect("valid");
    let response = channel.oneshot(request).await.map_err(|error| error.to_string())?;
    if response.status() != StatusCode::OK {
        return Err(response.status().to_string());
    }
    response.into_body().collect().await.map_err(|error| error.to_string())?;
    Ok(())
}

async fn three(reply: Reply) -> (Vec<ScriptedEndpoint>, Mesh) {
    let mut endpoints = Vec::new();
    for _ in 0..3 {
        endpoints.push(ScriptedEndpoint::http1(reply.clone()).await);
    }
    let mesh = mesh(&service("inventory", &addresses(&endpoints)));
    (endpoints, mesh)
}

#[tokio::test]
async fn an_endpoint_that_fails_fast_does_not_attract_calls() {
    let (endpoints, _) = three(Reply::status(200).after(Duration::from_millis(2))).await;
    endpoints[0].set(Reply::status(503));
    // Nothing takes it out: it is the penalty that turns calls away.
    let kept = policy("outlier: { consecutive5xx: 0 }");
    let mesh = mesh(&format!("{kept}{}", service("inventory", &addresses(&endpoints))));

    let mut failed = 0;
    for _ in 0..2_000 {
        failed += u32::from(
            get(&mesh, "http://inventory/").await.map_or(true, |status| status != StatusCode::OK),
        );
    }

    let attempts = seen(&mesh, "inventory").attempts;
    let fair = attempts / 3;
    assert!(endpoints[0].calls() <= fair, "{} of {attempts}", endpoints[0].calls());
    println!("attempts at the failing endpoint: {} of {attempts}", endpoints[0].calls());
    assert_eq!(failed, 0, "each is answered by another endpoint");
    assert_eq!(seen(&mesh, "inventory").ejections, 0);
    assert_eq!(state(&mesh, "inventory", endpoints[0].address()), "ready");
}

#[tokio::test]
async fn an_endpoint_that_hangs_is_learnt_of_and_ejected() {
    for balance in ["PeakEwma", "RoundRobin"] {
        let endpoints = [
            ScriptedEndpoint::http1(Reply::hang()).await,
            ScriptedEndpoint::http1(Reply::status(200)).await,
        ];
        let limits = format!("timeouts: {{ request: 50ms }}, pick: {{ policy: {balance} }}");
        let mesh =
            mesh(&format!("{}{}", policy(&limits), service("inventory", &addresses(&endpoints))));
        for _ in 0..40 {
            match get(&mesh, "http://inventory/").await {
                Ok(status) => assert_eq!(status, StatusCode::OK),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Deadline, "{error}"),
            }
        }
        // By its own count: on a busy machine, a call to the other may run out of time, too.
        let sent = endpoints[0].calls();
        assert!((1..=5).contains(&sent), "{balance}: {sent} of 40 calls went to what hangs");
    }
}

#[tokio::test]
async fn what_a_caller_calls_grpc_does_not_eject_those_that_speak_http1() {
    let (endpoints, mesh) = three(Reply::status(200)).await;
    for _ in 0..30 {
        let request = Request::post("http://inventory/")
            .header("content-type", "application/grpc")
            .body(Body::empty())
            .expect("valid");
        mesh.http().oneshot(request).await.expect_err("they do not speak HTTP/2");
    }
    for endpoint in &endpoints {
        assert_eq!(state(&mesh, "inventory", endpoint.address()), "ready");
    }
    let web = Request::post("http://inventory/").header("content-type", "application/grpc-web");
    let web = web.body(Body::empty()).expect("valid");
    assert_eq!(mesh.http().oneshot(web).await.expect("an answer").status(), StatusCode::OK);
}

#[tokio::test]
async fn an_endpoint_that_only_fails_is_ejected() {
    let (endpoints, _) = three(Reply::status(200)).await;
    endpoints[0].set(Reply::status(503));
    let service = service("inventory", &addresses(&endpoints));
    let mesh = mesh(&format!("{}{service}", policy("pick: { policy: RoundRobin }")));

    for _ in 0..100 {
        assert_eq!(get(&mesh, "http://inventory/").await.expect("an answer"), StatusCode::OK);
    }

    assert_eq!(endpoints[0].calls(), 5, "the fifth failure ejects");
    assert_eq!(seen(&mesh, "inventory").ejections, 1);
    let state = state(&mesh, "inventory", endpoints[0].address());
    assert!(state.starts_with("ejected: 5 consecutive 5xx, returns in "), "{state}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_endpoint_costs_no_get() {
    let (mut endpoints, _) = three(Reply::status(200).body(100)).await;
    // The calls in flight on the killed one may be enough to eject it, which is to be over soon.
    let short = policy("outlier: { interval: 100ms, baseEjectionTime: 200ms }");
    let mesh = mesh(&format!("{short}{}", service("inventory", &addresses(&endpoints))));
    let total = wanted_calls();
    let begin = Instant::now();
    let load = Load::start(&mesh.http(), "http://inventory/", total);

    load.reach(total / 4).await;
    endpoints[0].kill().await;
    load.reach(total / 2).await;
    endpoints[0].restart();
    // Before the next one dies the first can be picked again, by itself.
    let first = endpoints[0].address();
    until("the one that came back is ready", || state(&mesh, "inventory", first) == "ready").await;
    load.reach(total * 3 / 4).await;
    endpoints[1].kill().await;
    assert!(load.made.load(SeqCst) < total, "killed under load");

    let failed = load.end().await;
    println!(
        "{} of {total} calls failed, {} retries, in {:?}",
        failed.len(),
        seen(&mesh, "inventory").retries,
        begin.elapsed()
    );
    assert_eq!(failed, Vec::<String>::new());
}
