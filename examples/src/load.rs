//! Steady load on the dashboard, and what came back.

use crate::processes::Processes;
use bytes::Bytes;
use hdrhistogram::Histogram;
use http::Request;
use http_body_util::BodyExt;
use mesh_tower::Body;
use mesh_tower::connect::{Connections, Protocol, Settings};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Longest a user of the dashboard waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// Calls of one kind since the last [`Tally::take`].
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    pub(crate) calls: u64,
    pub(crate) failed: u64,
    /// Latency in microseconds.
    pub(crate) latency: Histogram<u32>,
    pub(crate) last_error: Option<String>,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            calls: 0,
            failed: 0,
            latency: Histogram::new(3).expect("3 significant digits are allowed"),
            last_error: None,
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.failed += other.failed;
        // Both grow on demand and have the same precision.
        let _ = self.latency.add(&other.latency);
        if other.last_error.is_some() {
            self.last_error.clone_from(&other.last_error);
        }
    }

    /// Share of calls that succeeded, in percent; 100 without calls.
    pub(crate) fn success(&self) -> f64 {
        if self.calls == 0 {
            100.0
        } else {
            100.0 * (self.calls - self.failed) as f64 / self.calls as f64
        }
    }

    pub(crate) fn ms(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1000.0
    }

    fn record(&mut self, took: Duration, error: Option<String>) {
        self.calls += 1;
        // The histogram grows on demand: what it cannot hold is longer than 50 days.
        let _ = self.latency.record(took.as_micros() as u64);
        if error.is_some() {
            self.failed += 1;
            self.last_error = error;
        }
    }
}

/// One open loop: a call is due at a fixed rate, whatever became of those before.
pub(crate) struct Load {
    tally: Arc<Mutex<Tally>>,
    task: AbortHandle,
}

impl Load {
    pub(crate) fn start(processes: &Processes, path: &'static str, rate: u32) -> Self {
        let tally = Arc::new(Mutex::new(Tally::new()));
        let task =
            tokio::spawn(drive(processes.dashboard, path, rate, tally.clone())).abort_handle();
        Self { tally, task }
    }

    /// What came since the last time.
    pub(crate) fn take(&self) -> Tally {
        std::mem::replace(
            &mut *self.tally.lock().unwrap_or_else(PoisonError::into_inner),
            Tally::new(),
        )
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn drive(dashboard: SocketAddr, path: &'static str, rate: u32, tally: Arc<Mutex<Tally>>) {
    let connections =
        Arc::new(Connections::new(vec![dashboard], None, Arc::new(Settings::default())));
    let mut due = interval(Duration::from_secs(1) / rate);
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut calls = JoinSet::new();
    loop {
        let start = due.tick().await;
        while calls.try_join_next().is_some() {}
        let (connections, tally) = (connections.clone(), tally.clone());
        calls.spawn(async move {
            let error = match tokio::time::timeout(PATIENCE, get(&connections, path)).await {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(error),
                Err(_) => Some(format!("no answer within {PATIENCE:?}")),
            };
            tally
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .record(Instant::now() - start, error);
        });
    }
}

/// One GET; anything but 200 is an error.
pub(crate) async fn get(connections: &Arc<Connections>, path: &str) -> Result<Bytes, String> {
    let request = Request::get(format!("http://dashboard{path}"))
        .body(Body::empty())
        .map_err(|error| error.to_string())?;
    let response = connections
        .send(request, Protocol::Http1)
        .await
        .map_err(|failed| failed.error.to_string())?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
    if status == http::StatusCode::OK {
        Ok(body)
    } else {
        Err(format!("{status}: {}", String::from_utf8_lossy(&body)))
    }
}
