//! An endpoint: its slots, and what is wrong with it.

use crate::service::exponential;
use http::{Method, Request, Response, request};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use mesh_tower::server::{Config, ServerLayer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use testkit::endpoint::{Reply, Slots};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tower::{Layer, ServiceExt};

pub(crate) const SLOTS: usize = 2;
/// What a call costs where all is well, in microseconds.
pub(crate) const COST: &str = "x-cost";

/// What is wrong with an endpoint.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    Slow(f64),
    /// This share of calls gets 503 in 1 ms.
    FailFast(f64),
    BlackHole,
    /// So many times slower for about half of the time, two seconds on average.
    Antagonists(f64),
}

/// One endpoint.
#[derive(Clone)]
pub(crate) struct Endpoint {
    slots: Slots,
    nature: Arc<Mutex<Nature>>,
    arrived: Arc<AtomicU64>,
}

struct Nature {
    rng: fastrand::Rng,
    fault: Option<Fault>,
    slow_until: Instant,
    well_until: Instant,
}

impl Endpoint {
    pub(crate) fn new(seed: u64, slots: Slots) -> Self {
        let now = Instant::now();
        let rng = fastrand::Rng::with_seed(seed);
        let nature = Nature { rng, fault: None, slow_until: now, well_until: now };
        Self { slots, nature: Arc::new(Mutex::new(nature)), arrived: Arc::default() }
    }

    /// From now on.
    pub(crate) fn suffer(&self, fault: Option<Fault>) {
        self.nature.lock().unwrap_or_else(PoisonError::into_inner).fault = fault;
    }

    /// Attempts that arrived so far.
    pub(crate) fn arrived(&self) -> u64 {
        self.arrived.load(Relaxed)
    }

    pub(crate) fn reply(&self, head: &request::Parts) -> Reply {
        self.arrived.fetch_add(1, Relaxed);
        match self.cost(head) {
            Cost::Serves(span) => Reply::status(200).after(span).within(&self.slots),
            Cost::Fails => Reply::status(503).after(Duration::from_millis(1)),
            Cost::Hangs => Reply::hang(),
        }
    }

    fn cost(&self, head: &request::Parts) -> Cost {
        let mut nature = self.nature.lock().unwrap_or_else(PoisonError::into_inner);
        let fault = nature.fault;
        let times = match fault {
            Some(Fault::FailFast(share)) if nature.rng.f64() < share => return Cost::Fails,
            Some(Fault::BlackHole) => return Cost::Hangs,
            Some(Fault::Slow(times)) => times,
            Some(Fault::Antagonists(times)) if nature.is_disturbed() => times,
            _ => 1.0,
        };
        let cost = head.headers.get(COST).and_then(|cost| cost.to_str().ok()?.parse().ok());
        let cost = Duration::from_micros(cost.expect("each call says what it costs"));
        Cost::Serves(cost.mul_f64(times))
    }

    /// Serves under the inbound layer, which says how busy it is, to whoever asks as well.
    pub(crate) async fn serve_reporting(&self, tasks: &mut JoinSet<()>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let this = self.clone();
        let handler = tower::service_fn(move |request: Request<hyper::body::Incoming>| {
            let this = this.clone();
            async move { Ok::<_, Infallible>(this.handle(&request.into_parts().0).await) }
        });
        let service = ServerLayer::new(Config::default()).layer(handler);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let service = service.clone();
                let each =
                    hyper::service::service_fn(move |request| service.clone().oneshot(request));
                connections.spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), each),
                );
                while connections.try_join_next().is_some() {}
            }
        });
        address
    }

    async fn handle(&self, head: &request::Parts) -> Response<Empty<bytes::Bytes>> {
        debug_assert_ne!(head.method, Method::OPTIONS, "the layer answers who asks");
        self.arrived.fetch_add(1, Relaxed);
        let good = match self.cost(head) {
            Cost::Serves(span) => self.slots.serve(span).await,
            Cost::Fails => false,
            Cost::Hangs => std::future::pending().await,
        };
        let mut response = Response::new(Empty::new());
        if !good {
            *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
        }
        response
    }
}

enum Cost {
    Serves(Duration),
    Fails,
    Hangs,
}

impl Nature {
    /// Whether an antagonist is at work.
    fn is_disturbed(&mut self) -> bool {
        let now = Instant::now();
        while self.well_until <= now {
            let mut span = || Duration::from_secs_f64(2.0 * exponential(&mut self.rng));
            self.slow_until = self.well_until + span();
            self.well_until = self.slow_until + span();
        }
        now < self.slow_until
    }
}
