//! Steady load on the dashboard, and what came back.

use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use mesh_tower::Body;
use mesh_tower::connect::{Connections, Protocol, Settings};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Longest a user of the dashboard waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// Calls that came to their end.
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

    fn record(&mut self, took: Duration, error: Option<&str>) {
        self.calls += 1;
        // The histogram grows on demand: what it cannot hold is longer than 50 days.
        let _ = self.latency.record(took.as_micros() as u64);
        if let Some(error) = error {
            self.failed += 1;
            self.last_error = Some(error.to_owned());
        }
    }
}

/// Tallies are shared between the calls under way and whoever looks.
#[derive(Clone, Debug)]
pub(crate) struct Shared(Arc<Mutex<Tally>>);

impl Shared {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Tally::new())))
    }

    /// What is counted so far.
    pub(crate) fn tally(&self) -> Tally {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn take(&self) -> Tally {
        std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), Tally::new())
    }

    pub(crate) fn record(&self, took: Duration, error: Option<&str>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).record(took, error);
    }
}

/// One open loop: a call is due at a fixed rate, whatever became of those before.
#[derive(Debug)]
pub(crate) struct Load {
    recent: Shared,
    phase: watch::Sender<Shared>,
    task: JoinHandle<()>,
}

impl Load {
    pub(crate) fn start(dashboard: SocketAddr, path: &'static str, rate: u32) -> Self {
        let recent = Shared::new();
        let (phase, phases) = watch::channel(Shared::new());
        let task = tokio::spawn(drive(dashboard, path, rate, recent.clone(), phases));
        Self { recent, phase, task }
    }

    /// Begins a phase. A call counts where it began, so that a fault is not held against the
    /// phase after it.
    pub(crate) fn phase(&self) -> Shared {
        let tally = Shared::new();
        self.phase.send_replace(tally.clone());
        tally
    }

    /// What came to its end since the last time.
    pub(crate) fn take_recent(&self) -> Tally {
        self.recent.take()
    }

    /// Begins no more calls, and waits for those under way.
    pub(crate) async fn finish(self) {
        drop(self.phase);
        // It fails only if it panicked, which is on the screen already.
        let _ = self.task.await;
    }
}

async fn drive(
    dashboard: SocketAddr,
    path: &'static str,
    rate: u32,
    recent: Shared,
    phases: watch::Receiver<Shared>,
) {
    let connections =
        Arc::new(Connections::new(vec![dashboard], None, Arc::new(Settings::default())));
    let mut due = interval(Duration::from_secs(1) / rate);
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut calls = JoinSet::new();
    // The sender is gone when the load is to end.
    while phases.has_changed().is_ok() {
        let start = due.tick().await;
        while calls.try_join_next().is_some() {}
        let (connections, recent) = (connections.clone(), recent.clone());
        let phase = phases.borrow().clone();
        calls.spawn(async move {
            let error = get(&connections, path).await.err();
            let took = start.elapsed();
            phase.record(took, error.as_deref());
            recent.record(took, error.as_deref());
        });
    }
    while calls.join_next().await.is_some() {}
}

/// One GET; anything but 200 is an error, and so is a wait that is too long.
pub(crate) async fn get(connections: &Arc<Connections>, path: &str) -> Result<Bytes, String> {
    let answer = async {
        let request = Request::get(format!("http://dashboard{path}"))
            .body(Body::empty())
            .map_err(|error| error.to_string())?;
        let response = connections
            .send(request, Protocol::Http1)
            .await
            .map_err(|failed| failed.error.to_string())?;
        let status = response.status();
        let body =
            response.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
        if status == StatusCode::OK {
            Ok(body)
        } else {
            Err(format!("{status}: {}", String::from_utf8_lossy(&body)))
        }
    };
    timeout(PATIENCE, answer)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_counts_and_adds() {
        let (mut one, mut other) = (Tally::new(), Tally::new());
        for ms in 1..=99 {
            one.record(Duration::from_millis(ms), None);
        }
        other.record(Duration::from_secs(2), Some("503"));
        one.add(&other);
        assert_eq!((one.calls, one.failed, one.last_error.as_deref()), (100, 1, Some("503")));
        assert!((one.success() - 99.0).abs() < 1e-9);
        assert!((one.ms(0.5) - 50.0).abs() < 0.5, "{}", one.ms(0.5));
        assert!((one.ms(1.0) - 2000.0).abs() < 20.0, "{}", one.ms(1.0));
        assert!((Tally::new().success() - 100.0).abs() < 1e-9);
    }

    #[tokio::test]
    async fn a_call_counts_in_the_phase_in_which_it_began() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (accepted, mut waiting) = tokio::sync::mpsc::channel(1);
        let address = listener.local_addr().unwrap();
        // Takes connections and answers none of them until the test says so.
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if accepted.send(stream).await.is_err() {
                    return;
                }
            }
        });
        let load = Load::start(address, "/", 10);
        let first = load.phase();
        let stream = waiting.recv().await.unwrap();
        let second = load.phase();
        // Closed without an answer: the call failed.
        drop((stream, waiting));
        load.finish().await;
        assert_eq!(first.tally().failed, 1);
        assert_eq!(second.tally().calls, second.tally().failed);
    }
}
