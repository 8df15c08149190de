//! One case under one policy: endpoints, clients, and what was seen.

use crate::endpoint::{COST, Endpoint, Fault, SLOTS};
use crate::service::{Cost, Service, exponential};
use http::Request;
use http_body_util::BodyExt;
use mesh_tower::{Body, Channel, Mesh};
use std::fmt::Write;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use testkit::endpoint::{Reply, ScriptedEndpoint, Slots};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tower::ServiceExt;

pub(crate) const ENDPOINTS: usize = 8;
/// Average of a call, unless a case says otherwise.
const SERVICE: Duration = Duration::from_millis(100);
const DEADLINE: Duration = Duration::from_millis(2500);
const WARM_UP: Duration = Duration::from_secs(3);
/// A call that took longer waited behind others for several of their times.
const LATE: Duration = Duration::from_millis(600);
/// How long an endpoint that restarts is down, how long it is slow after that, and how much.
const DOWN: Duration = Duration::from_millis(700);
const COLD: Duration = Duration::from_millis(1300);
const COLD_TIMES: f64 = 3.0;

/// How a column of the table picks.
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) spec: &'static str,
    /// Whether its endpoints run the inbound layer, so that they report and answer probes.
    pub(crate) reports: bool,
    /// Whether its endpoints bound their queues, and hear of cancellation.
    pub(crate) protected: bool,
}

/// What happens, and to whom.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) clients: usize,
    pub(crate) service: Service,
    /// Calls per second.
    pub(crate) rate: f64,
    /// What is wrong with the first endpoints, and with how many.
    pub(crate) fault: Option<(Fault, usize)>,
    /// Whether it is from the beginning, so that clients know of it when measuring begins.
    pub(crate) known: bool,
    /// Whether endpoints restart, one after another.
    pub(crate) restarts: bool,
    /// Within what is measured, so many times the calls are offered.
    pub(crate) surge: Option<(Range<Duration>, f64)>,
    /// More of the clients' policy.
    pub(crate) spec: &'static str,
    pub(crate) queue_limit: Option<usize>,
    pub(crate) measured: Duration,
}

impl Case {
    /// At this share of the capacity; no retry, and nothing is wrong.
    pub(crate) fn new(name: &'static str, load: f64) -> Self {
        Self {
            name,
            clients: 4,
            service: Service::Lognormal(SERVICE),
            rate: 0.0,
            fault: None,
            known: true,
            restarts: false,
            surge: None,
            spec: "retry: { attempts: 0 }",
            queue_limit: None,
            measured: measured(),
        }
        .at_load(load)
    }

    fn at_load(mut self, share: f64) -> Self {
        self.rate = share * (ENDPOINTS * SLOTS) as f64 / self.service.mean().as_secs_f64();
        self
    }

    /// With other calls, at this share of what can be served of them.
    pub(crate) fn of(mut self, service: Service, load: f64) -> Self {
        self.service = service;
        self.at_load(load)
    }

    /// The first `count` endpoints have it from the beginning.
    pub(crate) fn always(mut self, fault: Fault, count: usize) -> Self {
        self.fault = Some((fault, count));
        self
    }

    /// The first `count` endpoints have it as long as what is measured.
    pub(crate) fn meanwhile(mut self, fault: Fault, count: usize) -> Self {
        self.known = false;
        self.always(fault, count)
    }

    /// One retry, within a budget that leaves each client as many as in the world.
    pub(crate) fn with_a_retry(mut self) -> Self {
        self.spec = "retry: { attempts: 1 }, budget: { minRetriesPerSecond: 4 }";
        self
    }

    fn faulty(&self) -> usize {
        self.fault.map_or(0, |(_, count)| count)
    }
}

fn measured() -> Duration {
    let seconds = std::env::var("MESH_WORLD_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(6))
}

/// A call that was measured.
struct Seen {
    /// When it began, from the begin of what is measured.
    at: Duration,
    took: Duration,
    good: bool,
    dear: bool,
}

/// What a run of one column was like.
pub(crate) struct Figures {
    seen: Vec<Seen>,
    /// Of good calls that are not dear.
    pub(crate) p99: Duration,
    pub(crate) failed: f64,
    /// Failed, or longer than [`LATE`]; dear calls do not count.
    pub(crate) late: f64,
    /// Of the attempts while it was measured, those at the endpoints with the fault.
    pub(crate) at_faulty: f64,
    /// Attempts per call.
    pub(crate) attempts: f64,
    /// Endpoints that were asked how busy they are, per call.
    probes: f64,
}

impl Figures {
    fn new(seen: Vec<Seen>, arrived: u64, at_faulty: u64, probes: f64) -> Self {
        let calls = seen.len().max(1) as f64;
        let share =
            |is: &dyn Fn(&Seen) -> bool| seen.iter().filter(|one| is(one)).count() as f64 / calls;
        let mut good: Vec<_> =
            seen.iter().filter(|one| one.good && !one.dear).map(|one| one.took).collect();
        good.sort_unstable();
        Self {
            p99: good.get(good.len() * 99 / 100).copied().unwrap_or_default(),
            failed: share(&|one| !one.good),
            late: share(&|one| !one.dear && (!one.good || one.took > LATE)),
            at_faulty: at_faulty as f64 / arrived.max(1) as f64,
            attempts: arrived as f64 / calls,
            probes,
            seen,
        }
    }

    /// Of the calls that began in these seconds, how many were good.
    pub(crate) fn good(&self, during: Range<Duration>) -> f64 {
        let began = || self.seen.iter().filter(|one| during.contains(&one.at));
        began().filter(|one| one.good).count() as f64 / began().count().max(1) as f64
    }

    pub(crate) fn row(&self, name: &str, row: &mut String) {
        let percent = |share: f64| 100.0 * share;
        write!(
            row,
            "\n    {name:<24} p99 {:>4} ms, failed {:>5.2} %, late {:>5.2} %, at the faulty {:>5.2} %, {:.2} attempts, {:.2} probes of {} calls",
            self.p99.as_millis(),
            percent(self.failed),
            percent(self.late),
            percent(self.at_faulty),
            self.attempts,
            self.probes,
            self.seen.len(),
        )
        .expect("text");
    }
}

/// Where an endpoint's calls arrive.
struct Site {
    endpoint: Endpoint,
    /// None if it reports: the inbound layer is before it.
    scripted: Option<ScriptedEndpoint>,
}

/// Lives through a case.
pub(crate) async fn run(case: &Case, column: &Column, seed: u64) -> Figures {
    let mut servers = JoinSet::new();
    let mut sites = Vec::new();
    let mut list = String::new();
    for number in 0..ENDPOINTS {
        let mut slots = Slots::new(SLOTS);
        match case.queue_limit {
            Some(limit) if column.protected => slots = slots.queue_limit(limit),
            _ if column.protected => {}
            _ => slots = slots.without_cancellation(),
        }
        let endpoint = Endpoint::new(seed + number as u64, slots);
        let (address, scripted) = if column.reports {
            (endpoint.serve_reporting(&mut servers).await, None)
        } else {
            let scripted = ScriptedEndpoint::http1(Reply::status(200)).await;
            let endpoint = endpoint.clone();
            scripted.plan(move |_, head| endpoint.reply(head));
            (scripted.address(), Some(scripted))
        };
        write!(list, "'{address}', ").expect("text");
        sites.push(Site { endpoint, scripted });
    }
    let suffer = |sites: &[Site]| {
        let Some((fault, count)) = case.fault else { return };
        sites[..count].iter().for_each(|site| site.endpoint.suffer(Some(fault)));
    };
    if case.known {
        suffer(&sites);
    }
    let config = format!(
        "apiVersion: mesh/v1\nkind: TrafficPolicy\nmetadata: {{ name: p }}\n\
         spec: {{ targetRef: {{ kind: Mesh }}, timeouts: {{ request: {}ms }}, {}, {} }}\n---\n\
         apiVersion: mesh/v1\nkind: Service\nmetadata: {{ name: app }}\nspec: {{ endpoints: {{ static: [{list}] }} }}\n",
        DEADLINE.as_millis(),
        case.spec,
        column.spec
    );
    let seen = Arc::new(Mutex::new(Vec::new()));
    let first = Instant::now() + WARM_UP;
    let mut clients = JoinSet::new();
    let mut meshes = Vec::new();
    for number in 0..case.clients {
        let mesh = Mesh::builder()
            .config_text("world", &*config)
            .seed(seed + number as u64)
            .build()
            .expect("a mesh");
        let rng = fastrand::Rng::with_seed(seed + 100 + number as u64);
        meshes.push(mesh.clone());
        clients.spawn(client(case.clone(), mesh, seen.clone(), rng, first));
    }
    // The clock would go on to the next timer, however far that is, while bytes are on their way.
    let ticks = tokio::spawn(async {
        loop {
            sleep(Duration::from_millis(1)).await;
        }
    });
    let faulty = case.faulty();
    let arrived = |sites: &[Site]| sites.iter().map(|site| site.endpoint.arrived()).sum::<u64>();
    sleep_until(first).await;
    let before = (arrived(&sites[..faulty]), arrived(&sites));
    if !case.known {
        suffer(&sites);
    }
    if case.restarts {
        restart(&mut sites, first + case.measured).await;
    }
    clients.join_all().await;
    ticks.abort();
    let after = (arrived(&sites[..faulty]), arrived(&sites));
    let (probes, picks) = meshes
        .iter()
        .map(|mesh| {
            let metrics = mesh.metrics().destination("app");
            (metrics.probes().map(|(_, count)| count).sum::<u64>(), metrics.counts().picks)
        })
        .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    let seen = std::mem::take(&mut *seen.lock().expect("not poisoned"));
    Figures::new(seen, after.1 - before.1, after.0 - before.0, probes as f64 / picks.max(1) as f64)
}

/// One after another goes down, comes back, and is slow for a while.
async fn restart(sites: &mut [Site], end: Instant) {
    for site in sites {
        if Instant::now() + DOWN + COLD > end {
            return;
        }
        if let Some(scripted) = &mut site.scripted {
            scripted.kill().await;
            sleep(DOWN).await;
            site.endpoint.suffer(Some(Fault::Slow(COLD_TIMES)));
            scripted.restart();
            sleep(COLD).await;
            site.endpoint.suffer(None);
        }
    }
}

/// Calls at random instants, whether or not the ones before are over.
async fn client(
    case: Case,
    mesh: Mesh,
    seen: Arc<Mutex<Vec<Seen>>>,
    mut rng: fastrand::Rng,
    first: Instant,
) {
    let (channel, mean) = (mesh.http(), case.clients as f64 / case.rate);
    let mut calls = JoinSet::new();
    let mut next = first - WARM_UP;
    loop {
        let at = next.saturating_duration_since(first);
        let times = match &case.surge {
            Some((during, times)) if during.contains(&at) && next >= first => *times,
            _ => 1.0,
        };
        next += Duration::from_secs_f64(exponential(&mut rng) * mean / times);
        if next >= first + case.measured {
            break;
        }
        sleep_until(next).await;
        let cost = case.service.draw(&mut rng);
        let (channel, seen) = (channel.clone(), seen.clone());
        calls.spawn(async move {
            let one = call(channel, cost, next.saturating_duration_since(first)).await;
            if next >= first {
                seen.lock().expect("not poisoned").push(one);
            }
        });
        while calls.try_join_next().is_some() {}
    }
    calls.join_all().await;
}

async fn call(channel: Channel, cost: Cost, at: Duration) -> Seen {
    let request = Request::get("http://app/").header(COST, cost.span.as_micros() as u64);
    let begin = Instant::now();
    let answer = channel.oneshot(request.body(Body::empty()).expect("a request")).await;
    let good = match answer {
        Ok(answer) => {
            answer.status() == http::StatusCode::OK && answer.into_body().collect().await.is_ok()
        }
        Err(_) => false,
    };
    Seen { at, took: begin.elapsed(), good, dear: cost.dear }
}
