//! Health checks: asks each endpoint of a destination, again and again, whether it is well.
//!
//! What a check says and when the next follows is decided by [`mesh_core::health::check`]; here it
//! is asked:
//!
//! | check | asks | well |
//! |---|---|---|
//! | `http` | one request | an expected status, the whole answer within `timeout`; with `x-envoy-degraded`, degraded |
//! | `tcp` | a connection; the bytes of `send` | it opens; the blocks of `receive` come, in order |
//! | `grpc` | `grpc.health.v1.Health/Check` | SERVING |
//! | `grpc`, `watch: true` | `Health/Watch`, one call that stays open | the last message is SERVING |
//!
//! Checks go over connections of their own, with the TLS, identity and names of those that calls
//! use, to the same port unless `port` says another: they neither wait for calls nor count against limits of connections. With
//! `reuseConnection` there is one per endpoint that stays open.
//!
//! *No burst*: at most [`AT_ONCE`] checks of a destination are under way, further ones wait for
//! their turn, as watches do that have yet to hear something; and the wait after an endpoint's first check is cut to a random part, so that
//! endpoints that were found together are not checked together ever after. Where checks take so
//! long that the turns do not suffice, intervals stretch.
//!
//! *Bounded*: of an answer's body 64 KiB are read; the rest is cut off with the connection, and the
//! status counts. Of a TCP answer 1 MiB is looked at. Nothing takes longer than `timeout`.
//!
//! While a destination has never been called, `noTrafficInterval` holds; its first call ends that
//! within one `interval`.
//!
//! A check that succeeds also ends an ejection by outlier detection, unless
//! `outlier.successfulActiveHealthCheckUnejectHost` is false. An endpoint whose answer to a call
//! bears `x-envoy-immediate-health-check-fail` is out at once, until its checks pass; one that is
//! watched says so by its watch.
//!
//! Metrics: `mesh.health_check.results`, and `mesh.lb.endpoints` with the state `unhealthy`.
//! Source: Envoy "Health checking"; gRFC A17.

mod grpc;
mod http;
mod tcp;

use crate::clock;
use crate::connect::{Connections, Transport};
use crate::destination::{Destination, Endpoint};
use crate::workers::{Worker, Workers};
use ::http::uri::Authority;
use mesh_core::health::check::{Ask, Cause, Config, Grpc, Machine, Next, Transition, Watch};
use mesh_core::{EndpointSet, Error, ErrorKind, Member, Policy};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Checks of one destination that are under way at once.
const AT_ONCE: usize = 64;

/// On an answer: the endpoint takes itself out. Source: Envoy.
pub(crate) const IMMEDIATE_FAIL: &str = "x-envoy-immediate-health-check-fail";

/// On the answer to a check that succeeds: the endpoint is well, but others are to be preferred.
/// Source: Envoy, "Degraded endpoints".
const DEGRADED: &str = "x-envoy-degraded";

/// The checks of a destination's endpoints.
#[derive(Debug)]
pub(crate) struct Checks {
    /// By the place of the endpoint, which its task keeps.
    running: Mutex<HashMap<usize, AbortHandle>>,
    turns: Arc<Semaphore>,
    /// Told after each check.
    seen: Notify,
}

impl Default for Checks {
    fn default() -> Self {
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        Self { running: Mutex::default(), turns, seen: Notify::new() }
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        self.running.get_mut().values().for_each(AbortHandle::abort);
    }
}

impl Checks {
    /// Waits for the end of a check, counted from this call.
    pub(crate) fn seen(&self) -> Notified<'_> {
        self.seen.notified()
    }

    /// Checks from now on the endpoints of `set`, and no others, as `policy` says. Those that are
    /// new begin as not well. With `afresh` all tasks are replaced.
    pub(crate) fn follow(
        &self,
        destination: &Arc<Destination>,
        set: &EndpointSet<Workers>,
        policy: &Arc<Policy>,
        afresh: bool,
        is_new: impl Fn(&Member<Workers>) -> bool,
    ) {
        let mut running = self.running.lock();
        let mut old = std::mem::take(&mut *running);
        if afresh || policy.health_check.is_none() {
            old.drain().for_each(|(_, task)| task.abort());
        }
        let now = clock::now();
        for member in set.members() {
            let health = member.endpoint.health();
            if policy.health_check.is_none() {
                health.set_degraded(false);
                health.set_well(now);
                continue;
            }
            let place = Arc::as_ptr(&member.endpoint) as usize;
            let task = old.remove(&place).unwrap_or_else(|| {
                if is_new(member) {
                    health.set_not_well(now, Cause::Unchecked);
                }
                let checked = Checked::new(destination, member, policy, &self.turns);
                destination.runtime().spawn(checked.run()).abort_handle()
            });
            running.insert(place, task);
        }
        old.into_values().for_each(|task| task.abort());
    }
}

/// How well an endpoint is whose check succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Well {
    Fully,
    /// It is to take what others leave.
    Degraded,
}

/// Why a check failed, with what is known beyond the cause.
#[derive(Debug)]
struct Failed {
    cause: Cause,
    message: String,
}

impl Failed {
    fn new(cause: Cause, message: impl Into<String>) -> Self {
        Self { cause, message: message.into() }
    }
}

impl From<Cause> for Failed {
    fn from(cause: Cause) -> Self {
        Self::new(cause, cause.to_string())
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        use ErrorKind as K;
        let cause = match error.kind() {
            K::Connect | K::Tls | K::TlsIdentity | K::TlsExpired | K::TlsUntrusted => {
                Cause::Connect
            }
            K::EndpointProtocol => Cause::Garbage,
            _ => Cause::Reset,
        };
        Self::new(cause, error.message())
    }
}

/// The checks of one endpoint: a task.
struct Checked {
    destination: Weak<Destination>,
    endpoint: Arc<Endpoint>,
    policy: Arc<Policy>,
    turns: Arc<Semaphore>,
    connections: Arc<Connections>,
    /// The authority that is asked for where the check does not say one.
    host: Box<str>,
    /// A byte stream that the next check goes over.
    stream: Option<Transport>,
}

impl Checked {
    fn new(
        destination: &Arc<Destination>,
        member: &Member<Workers>,
        policy: &Arc<Policy>,
        turns: &Arc<Semaphore>,
    ) -> Self {
        let named = member.spec.hostname.as_ref().unwrap_or_else(|| destination.label());
        let check = policy.health_check.as_ref();
        let mut connections = member
            .endpoint
            .connections
            .of(Worker::default())
            .apart(check.map_or(Duration::MAX, |check| check.interval));
        if let Some(port) = check.and_then(|check| check.port) {
            connections = connections.at_port(port);
        }
        let host = match named.parse::<Authority>() {
            Ok(_) => (**named).into(),
            Err(_) => {
                connections.addresses().first().map_or_else(String::new, ToString::to_string).into()
            }
        };
        Self {
            destination: Arc::downgrade(destination),
            endpoint: member.endpoint.clone(),
            policy: policy.clone(),
            turns: turns.clone(),
            connections: Arc::new(connections),
            host,
            stream: None,
        }
    }

    async fn run(mut self) {
        let policy = self.policy.clone();
        let Some(config) = &policy.health_check else { return };
        if !config.initial_jitter.is_zero() {
            sleep(config.initial_jitter.mul_f64(fastrand::f64())).await;
        }
        match config.ask() {
            Some(Ask::Grpc(grpc)) if grpc.watch => self.watch(config, grpc).await,
            Some(ask) => self.repeat(config, ask).await,
            None => {}
        }
    }

    /// Asks, waits, and so on.
    async fn repeat(&mut self, config: &Config, ask: Ask<'_>) {
        let mut machine = Machine::new(self.endpoint.health().is_well());
        let mut first = true;
        loop {
            let seen = self.once(config, ask).await;
            let succeeded = seen.is_ok();
            if machine.is_healthy() && !self.endpoint.health().is_well() {
                machine.failed_meanwhile();
            }
            let verdict = seen.as_ref().map(drop).map_err(|failed| failed.cause);
            let transition = machine.record(verdict, config);
            if !self.told(&seen, machine.is_healthy()) {
                return;
            }
            let traffic = self.was_called();
            let draw = &mut || fastrand::u64(..);
            let mut wait = Machine::wait(succeeded, transition, traffic, config, draw);
            // A change that is pending wants its next check in time.
            if std::mem::take(&mut first) && transition != Transition::Pending {
                wait = wait.mul_f64(fastrand::f64());
            }
            self.rest(wait, config.interval).await;
        }
    }

    /// One check, once it is its turn.
    async fn once(&mut self, config: &Config, ask: Ask<'_>) -> Result<Well, Failed> {
        let turns = self.turns.clone();
        // The semaphore is never closed.
        let _turn = turns.acquire().await;
        // Boxed, so that an endpoint that waits for its next check takes little room.
        let asking = Box::pin(async {
            match ask {
                Ask::Http(http) => {
                    http::ask(&self.connections, http, &self.host, self.policy.protocol).await
                }
                Ask::Tcp(tcp) => {
                    tcp::ask(&self.connections, tcp, &mut self.stream, config.reuse_connection)
                        .await
                        .map(|()| Well::Fully)
                }
                Ask::Grpc(grpc) => grpc::check(&self.connections, grpc, &self.host, config.timeout)
                    .await
                    .map(|()| Well::Fully),
                _ => Ok(Well::Fully),
            }
        });
        let seen = timeout(config.timeout, asking).await.unwrap_or_else(|_elapsed| {
            let message = format!("health check: no answer within {:?}", config.timeout);
            Err(Failed::new(Cause::Timeout, message))
        });
        if !config.reuse_connection {
            self.connections.drain();
        }
        seen
    }

    /// Lets the endpoint say how it is.
    async fn watch(&mut self, config: &Config, grpc: &Grpc) {
        let turns = self.turns.clone();
        let mut watch = Watch::new();
        let mut stream = None;
        loop {
            let listening =
                Box::pin(grpc::listen(&mut stream, &self.connections, grpc, &self.host));
            let heard = match watch.has_heard() {
                true => listening.await,
                false => {
                    // The semaphore is never closed.
                    let _turn = turns.acquire().await;
                    timeout(config.timeout, listening)
                        .await
                        .unwrap_or_else(|_elapsed| grpc::Told::silent(config.timeout))
                }
            };
            let draw = &mut || fastrand::u64(..);
            let (verdict, next) = watch.record(heard.heard, config.interval, draw);
            let well = verdict.is_ok();
            let seen =
                verdict.map(|()| Well::Fully).map_err(|cause| Failed::new(cause, heard.message));
            if !self.told(&seen, well) {
                return;
            }
            match next {
                Next::Listen => {}
                Next::AskAfter(wait) => {
                    stream = None;
                    sleep(wait).await;
                }
                _ => return,
            }
        }
    }

    /// Takes over what was seen; false if the destination is gone.
    fn told(&self, seen: &Result<Well, Failed>, well: bool) -> bool {
        let Some(destination) = self.destination.upgrade() else { return false };
        let (health, now) = (self.endpoint.health(), clock::now());
        let label = &**destination.label();
        // Before it is well: it must not come in as what it is not.
        if let Ok(how) = seen
            && health.set_degraded(*how == Well::Degraded)
        {
            let degraded = *how == Well::Degraded;
            tracing::info!("mesh.destination" = label, "mesh.endpoint" = %self.endpoint.id(), degraded, "endpoint says whether it is degraded");
        }
        match seen {
            Ok(_) if well => {
                if health.set_well(now) {
                    tracing::info!("mesh.destination" = label, "mesh.endpoint" = %self.endpoint.id(), "endpoint healthy");
                }
            }
            Err(failed) if !well => {
                if health.set_not_well(now, failed.cause) {
                    tracing::warn!("mesh.destination" = label, "mesh.endpoint" = %self.endpoint.id(), "endpoint unhealthy: {}", failed.message);
                }
            }
            Ok(_) => {}
            Err(failed) => {
                tracing::debug!("mesh.destination" = label, "mesh.endpoint" = %self.endpoint.id(), "health check failed: {}", failed.message);
            }
        }
        let verdict = seen.as_ref().map(drop).map_err(|failed| failed.cause);
        destination.checked(&self.endpoint, verdict, now);
        destination.checks().seen.notify_waiters();
        true
    }

    fn was_called(&self) -> bool {
        self.destination.upgrade().is_some_and(|destination| destination.was_called())
    }

    /// Waits; while the destination is never called, looks once per `interval` whether it was.
    async fn rest(&mut self, wait: Duration, interval: Duration) {
        let begin = Instant::now();
        let mut called = self.was_called();
        while !called && begin.elapsed() + interval < wait {
            sleep(interval).await;
            called = self.was_called();
            if called {
                return;
            }
        }
        sleep_until(begin + wait).await;
    }
}

#[cfg(test)]
mod tests;
