//! Cases of the seeded world (`testkit/src/world/cases.rs`) in small, through real sockets: four linked
//! meshes call eight endpoints over loopback, and the policies are in the same order as there.
//!
//! Endpoints have two slots and a FIFO queue, by timers: they need no processor. Times are 2.5 times
//! those of the world, so that a machine with other work is fast enough. All policies of a case run
//! at once, each with endpoints of its own, so that it is as busy for all of them. What is asserted
//! are shares of calls with wide margins, never a duration.
//!
//! `cargo test -p mesh-tower --test world -- --nocapture` prints the tables;
//! `MESH_WORLD_SECONDS` (6) is how long a case is measured.

use http::Request;
use http_body_util::BodyExt;
use mesh_tower::{Body, Channel, Mesh};
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use testkit::endpoint::{Reply, ScriptedEndpoint};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tower::ServiceExt;

const CLIENTS: usize = 4;
const ENDPOINTS: usize = 8;
const SLOTS: usize = 2;
/// Average of a call, lognormal with σ 0.7 as in the world.
const SERVICE: Duration = Duration::from_millis(100);
const SIGMA: f64 = 0.7;
const DEADLINE: Duration = Duration::from_millis(2500);
const WARM_UP: Duration = Duration::from_secs(3);
/// A call that took longer waited behind others for several of their times.
const LATE: Duration = Duration::from_millis(600);

fn measured() -> Duration {
    let seconds = std::env::var("MESH_WORLD_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(6))
}

/// What is wrong with the endpoints at the front of the set.
#[derive(Clone, Copy)]
enum Fault {
    Slow(f64),
    FailFast,
    BlackHole,
    /// So many times slower for about half of the time, two seconds on average.
    Antagonists(f64),
    /// The others cost 60 ms, of a hundred one 1.5 s.
    MixedCost,
}

struct Case {
    name: &'static str,
    fault: Fault,
    /// Endpoints that have it.
    faulty: usize,
    /// Calls per second.
    rate: f64,
}

/// What all endpoints could do, in calls per second.
fn capacity() -> f64 {
    (ENDPOINTS * SLOTS) as f64 / SERVICE.as_secs_f64()
}

/// How a column of the table picks. As in the world: ours with outlier detection, gRPC's round
/// robin without.
const COLUMNS: [(&str, &str); 5] = [
    ("default", "pick: { policy: ExpectedWait }"),
    ("peak EWMA", "pick: { policy: PeakEwma }"),
    ("least request", "pick: { policy: LeastRequest }"),
    ("random", "pick: { policy: Random }"),
    (
        "gRPC's round robin",
        "pick: { policy: RoundRobin }, outlier: { consecutive5xx: 0, consecutiveGatewayFailure: 0 }",
    ),
];

/// An endpoint's slots: when each is free again.
struct Slots {
    free: [Instant; SLOTS],
    rng: fastrand::Rng,
    slow_until: Instant,
    well_until: Instant,
}

impl Slots {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        let rng = fastrand::Rng::with_seed(seed);
        Self { free: [now; SLOTS], rng, slow_until: now, well_until: now }
    }

    /// How long a call that arrives now takes, its wait included.
    fn take(&mut self, cost: Duration) -> Duration {
        let now = Instant::now();
        let slot = self.free.iter_mut().min().expect("there are slots");
        *slot = (*slot).max(now) + cost;
        *slot - now
    }

    fn lognormal(&mut self, mean: Duration) -> Duration {
        let (one, other) = (self.rng.f64().max(1e-12), self.rng.f64());
        let normal = (-2.0 * one.ln()).sqrt() * (std::f64::consts::TAU * other).cos();
        mean.mul_f64((SIGMA * normal - SIGMA * SIGMA / 2.0).exp())
    }

    /// Whether an antagonist is at work.
    fn is_disturbed(&mut self) -> bool {
        let now = Instant::now();
        while self.well_until <= now {
            let mut span =
                |from| from + Duration::from_secs_f64(-2.0 * self.rng.f64().max(1e-9).ln());
            self.slow_until = span(self.well_until);
            self.well_until = span(self.slow_until);
        }
        now < self.slow_until
    }

    fn reply(&mut self, fault: Option<Fault>, is_dear: bool) -> Reply {
        let good = Reply::status(200);
        let cost = match fault {
            Some(Fault::FailFast) => return Reply::status(503).after(Duration::from_millis(1)),
            Some(Fault::BlackHole) => return Reply::hang(),
            Some(Fault::Slow(times)) => self.lognormal(SERVICE).mul_f64(times),
            Some(Fault::Antagonists(times)) if self.is_disturbed() => {
                self.lognormal(SERVICE).mul_f64(times)
            }
            Some(Fault::MixedCost) if is_dear => Duration::from_millis(1500),
            Some(Fault::MixedCost) => Duration::from_millis(60),
            _ => self.lognormal(SERVICE),
        };
        good.after(self.take(cost))
    }
}

/// What a run of one column was like.
#[derive(Default)]
struct Seen {
    /// Of good calls that are not dear.
    latencies: Mutex<Vec<Duration>>,
    failed: AtomicU64,
    /// Failed, or longer than [`LATE`]; dear calls do not count.
    late: AtomicU64,
    calls: AtomicU64,
}

struct Figures {
    p99: Duration,
    failed: f64,
    late: f64,
    /// Of the calls that were measured, at the endpoints with the fault.
    at_faulty: f64,
    calls: u64,
}

async fn run(case: &'static Case, column: usize) -> Figures {
    let seed = 1_000 * column as u64;
    let mut endpoints = Vec::new();
    let mut list = String::new();
    for number in 0..ENDPOINTS {
        let endpoint = ScriptedEndpoint::http1(Reply::status(200)).await;
        let slots = Mutex::new(Slots::new(seed + number as u64));
        let fault = (number < case.faulty).then_some(case.fault);
        endpoint.plan(move |_, head| {
            let is_dear = head.headers.contains_key("x-dear");
            slots.lock().expect("not poisoned").reply(fault, is_dear)
        });
        write!(list, "'{}', ", endpoint.address()).expect("text");
        endpoints.push(endpoint);
    }
    let config = format!(
        "apiVersion: mesh/v1\nkind: TrafficPolicy\nmetadata: {{ name: p }}\n\
         spec: {{ targetRef: {{ kind: Mesh }}, retry: {{ attempts: 0 }}, timeouts: {{ request: {}ms }}, {} }}\n---\n\
         apiVersion: mesh/v1\nkind: Service\nmetadata: {{ name: app }}\nspec: {{ endpoints: {{ static: [{list}] }} }}\n",
        DEADLINE.as_millis(),
        COLUMNS[column].1
    );
    let seen = Arc::new(Seen::default());
    let begin = Instant::now();
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let mesh = Mesh::builder().config_text("world", &*config).build().expect("a mesh");
        let rng = fastrand::Rng::with_seed(seed + 100 + number as u64);
        clients.spawn(client(case, mesh, seen.clone(), rng, begin));
    }
    let faulty = || endpoints[..case.faulty].iter().map(ScriptedEndpoint::calls).sum::<u64>();
    let all = || endpoints.iter().map(ScriptedEndpoint::calls).sum::<u64>();
    sleep(WARM_UP).await;
    let before = (faulty(), all());
    clients.join_all().await;
    let after = (faulty(), all());

    let mut latencies = std::mem::take(&mut *seen.latencies.lock().expect("not poisoned"));
    latencies.sort_unstable();
    let calls = seen.calls.load(Relaxed);
    let share = |count: &AtomicU64| count.load(Relaxed) as f64 / calls as f64;
    Figures {
        p99: latencies.get(latencies.len() * 99 / 100).copied().unwrap_or_default(),
        failed: share(&seen.failed),
        late: share(&seen.late),
        at_faulty: (after.0 - before.0) as f64 / (after.1 - before.1) as f64,
        calls,
    }
}

/// Calls at random instants, whether or not the ones before are over.
async fn client(case: &Case, mesh: Mesh, seen: Arc<Seen>, mut rng: fastrand::Rng, begin: Instant) {
    let (channel, mean) = (mesh.http(), CLIENTS as f64 / case.rate);
    let (first, end) = (begin + WARM_UP, begin + WARM_UP + measured());
    let mut calls = JoinSet::new();
    let mut next = begin;
    loop {
        next += Duration::from_secs_f64(-rng.f64().max(1e-12).ln() * mean);
        if next >= end {
            break;
        }
        tokio::time::sleep_until(next).await;
        let is_dear = matches!(case.fault, Fault::MixedCost) && rng.u32(..100) == 0;
        let seen = (next >= first).then(|| seen.clone());
        calls.spawn(call(channel.clone(), is_dear, seen));
        while calls.try_join_next().is_some() {}
    }
    calls.join_all().await;
}

async fn call(channel: Channel, is_dear: bool, seen: Option<Arc<Seen>>) {
    let mut request = Request::get("http://app/");
    if is_dear {
        request = request.header("x-dear", "1");
    }
    let begin = Instant::now();
    let answer = channel.oneshot(request.body(Body::empty()).expect("a request")).await;
    let good = match answer {
        Ok(answer) => {
            answer.status() == http::StatusCode::OK && answer.into_body().collect().await.is_ok()
        }
        Err(_) => false,
    };
    let took = begin.elapsed();
    let Some(seen) = seen else { return };
    seen.calls.fetch_add(1, Relaxed);
    seen.failed.fetch_add(u64::from(!good), Relaxed);
    if !is_dear {
        seen.late.fetch_add(u64::from(!good || took > LATE), Relaxed);
    }
    if good && !is_dear {
        seen.latencies.lock().expect("not poisoned").push(took);
    }
}

/// Runs all columns of a case at once, and prints its row.
async fn compare(case: &'static Case) -> [Figures; COLUMNS.len()] {
    let runs =
        std::array::from_fn::<_, { COLUMNS.len() }, _>(|column| tokio::spawn(run(case, column)));
    let mut figures = Vec::new();
    for run in runs {
        figures.push(run.await.expect("no panic"));
    }
    let mut row = String::new();
    for ((name, _), one) in COLUMNS.iter().zip(&figures) {
        let percent = |share: f64| 100.0 * share;
        write!(
            row,
            "\n    {name:<18} p99 {:>4} ms, failed {:>5.2} %, late {:>5.2} %, at the faulty {:>5.2} % of {} calls",
            one.p99.as_millis(),
            percent(one.failed),
            percent(one.late),
            percent(one.at_faulty),
            one.calls,
        )
        .expect("text");
    }
    testkit::figure(&format!("world through sockets, {}", case.name), &row);
    figures.try_into().unwrap_or_else(|_| unreachable!("one for each column"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_are_in_the_same_order_as_in_the_seeded_world() {
    let leaked = |case| -> &'static Case { Box::leak(Box::new(case)) };
    let case =
        |name, fault, faulty, load| leaked(Case { name, fault, faulty, rate: load * capacity() });

    // Half of the endpoints at half the speed, three quarters of what that leaves.
    let [default, ewma, _, random, robin] =
        compare(case("S3 two speeds", Fault::Slow(2.0), ENDPOINTS / 2, 0.75 * 0.75)).await;
    assert!(default.at_faulty + 0.04 < robin.at_faulty && ewma.at_faulty + 0.03 < robin.at_faulty);
    // Random has more than a third there at first; then calls time out, and outlier detection acts.
    assert!(robin.at_faulty > 0.48 && default.at_faulty < random.at_faulty);

    let [default, _, _, _, robin] = compare(case("S4 brown-out", Fault::Slow(10.0), 1, 0.7)).await;
    assert!(default.at_faulty < 0.06 && robin.at_faulty > 0.11);
    assert!(default.failed + 0.04 < robin.failed);

    let [default, _, _, _, robin] =
        compare(case("S5a fast failure", Fault::FailFast, 1, 0.7)).await;
    assert!(default.failed + 0.05 < robin.failed);

    let [default, _, _, _, robin] = compare(case("S6 black hole", Fault::BlackHole, 1, 0.7)).await;
    assert!(default.failed + 0.04 < robin.failed);

    let [default, _, _, random, robin] =
        compare(case("S8 antagonists", Fault::Antagonists(3.0), ENDPOINTS, 0.8 * 2.0 / 3.0)).await;
    assert!(default.failed + 0.04 < random.failed && default.failed + 0.04 < robin.failed);

    let mixed = 0.6 * (ENDPOINTS * SLOTS) as f64 / (0.99 * 0.06 + 0.01 * 1.5);
    let mixed = leaked(Case {
        name: "S11 mixed cost",
        fault: Fault::MixedCost,
        faulty: ENDPOINTS,
        rate: mixed,
    });
    // Of the 750 calls of some seconds a handful is late under any policy: the order is that of a longer run.
    let [default, ..] = compare(mixed).await;
    assert!(default.failed < 0.01);
}
