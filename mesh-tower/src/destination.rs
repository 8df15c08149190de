//! A destination at run time: who serves it now, what is known of them, and its shared limits.
//!
//! | part | written by | read by |
//! |---|---|---|
//! | picker with its endpoint set | the destination's task, when discovery or policy changes | balance |
//! | load, health, breaker of an endpoint | tickets, the sweep, health checks | picker |
//! | retry budget, limits | retry, admit | the same |
//!
//! One task per destination follows discovery and runs the outlier sweep; it ends with the
//! destination. Losing the source changes nothing here: the last set stays.

mod discovery;
mod grace;
mod health;
mod outcomes;
mod pick;
mod state;
mod unreachable;

use self::discovery::Resolution;
use self::grace::Doubt;
pub(crate) use self::pick::Unpicked;
pub use self::state::{DestinationState, EndpointView};
use crate::call::{Call, Shared};
use crate::clock;
use crate::connect::{self, Protocol};
use crate::draws::{CallDraws, Draws};
use crate::guard::Guard;
use crate::health_check::Checks;
use crate::report::Listening;
use crate::telemetry::DestinationMetrics;
use crate::workers::Workers;
use mesh_core::health::outlier::Detector;
use mesh_core::limit::Limits;
use mesh_core::pick::{Caller, Picker};
use mesh_core::policy::ConnectionConfig;
use mesh_core::retry::IdempotentMethods;
use mesh_core::retry::budget::Budget;
use mesh_core::retry::throttling::Throttling;
use mesh_core::snapshot::{DestinationConfig, EndpointSource, TlsConfig};
use mesh_core::{EndpointSet, Loaded, Policy, Swap};
use mesh_discovery::Sources;
use parking_lot::Mutex;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

/// An endpoint with its connections.
pub(crate) type Endpoint = mesh_core::Endpoint<Workers>;

/// What destinations need from the mesh around them.
#[derive(Clone, Debug)]
pub(crate) struct Environment {
    pub(crate) sources: Sources,
    /// Whether a name that nobody configured is a service in Consul's catalog.
    pub(crate) names_by_consul: bool,
    pub(crate) runtime: Handle,
    pub(crate) workers: usize,
    /// Who picks.
    pub(crate) caller: Arc<Caller>,
    pub(crate) draws: Draws,
    /// The gRPC methods that are declared idempotent, whatever the destination.
    pub(crate) methods: Arc<IdempotentMethods>,
}

/// See the [module docs](self).
pub(crate) struct Destination {
    label: Arc<str>,
    environment: Environment,
    policy: Swap<Policy>,
    source: Mutex<Source>,
    picker: Swap<Picker<Workers>>,
    detector: Swap<Detector>,
    checks: Checks,
    listening: Listening,
    shared: Arc<Shared>,
    /// The gRPC methods that its own descriptors declare idempotent.
    methods: Swap<IdempotentMethods>,
    resolution: watch::Sender<Resolution>,
    ask_again: Arc<Notify>,
    /// One of its endpoints has answered over HTTP/2.
    http2: AtomicBool,
    /// Whether endpoints are compared by what they report, and there is more than one.
    reads_reports: AtomicBool,
    /// When outlier detection last compared its endpoints, in nanoseconds.
    swept: AtomicU64,
}

/// Where endpoints come from, and how they are connected to; what changes them restarts the task.
/// Its lock is held by whoever replaces the picker.
struct Source {
    endpoints: EndpointSource,
    tls: Option<TlsConfig>,
    connection: Connection,
    connect: Arc<connect::Settings>,
    task: Option<AbortHandle>,
    /// What discovery says and is not believed yet.
    doubted: Option<Doubt>,
    /// Whether endpoints come from elsewhere than the set in use.
    changed: bool,
    /// Number of the task: one that was replaced may be at work still, and must not be believed.
    generation: u64,
}

/// The part of a policy that connections are made by.
#[derive(PartialEq)]
struct Connection {
    connect: Duration,
    idle: Duration,
    http2_idle: Duration,
    config: ConnectionConfig,
}

impl Connection {
    const fn of(policy: &Policy) -> Self {
        let timeouts = &policy.timeouts;
        Self {
            connect: timeouts.connect,
            idle: timeouts.idle,
            http2_idle: timeouts.http2_idle,
            config: policy.connections,
        }
    }
}

impl Environment {
    /// What an authority without configuration gets, as [`DestinationConfig::of_authority`].
    pub(crate) fn of_authority(
        &self,
        authority: &str,
        https: bool,
        policy: Arc<Policy>,
    ) -> Option<DestinationConfig> {
        let config = DestinationConfig::of_authority(authority, https, policy)?;
        Some(if self.names_by_consul { config.found_by_consul(authority) } else { config })
    }
}

impl Destination {
    pub(crate) fn start(
        label: Arc<str>,
        config: &DestinationConfig,
        connect: Arc<connect::Settings>,
        environment: &Environment,
        metrics: Arc<DestinationMetrics>,
    ) -> Arc<Self> {
        let policy = &config.policy;
        let shared = Arc::new(Shared {
            budget: Budget::new(&policy.budget),
            throttling: Throttling::new(),
            limits: Limits::new(&policy.limits),
            latencies: OnceLock::new(),
            guard: Guard::new(policy),
            metrics,
        });
        let destination = Arc::new(Self {
            label,
            environment: environment.clone(),
            policy: Swap::from(policy.clone()),
            source: Mutex::new(Source {
                endpoints: config.endpoints.clone(),
                tls: config.tls.clone(),
                connection: Connection::of(policy),
                connect,
                task: None,
                doubted: None,
                changed: false,
                generation: 0,
            }),
            picker: Swap::new(Picker::new(EndpointSet::empty(), policy.pick.clone())),
            detector: Swap::new(Detector::new(policy.outlier.clone())),
            checks: Checks::default(),
            listening: Listening::default(),
            shared,
            methods: Swap::new(IdempotentMethods::default()),
            resolution: watch::Sender::new(Resolution::Waiting),
            ask_again: Arc::new(Notify::new()),
            http2: AtomicBool::new(false),
            reads_reports: AtomicBool::new(false),
            swept: AtomicU64::new(clock::now().as_nanos()),
        });
        let watched: Weak<Self> = Arc::downgrade(&destination);
        destination.shared.metrics.observed_by(watched);
        destination.restart(&mut destination.source.lock(), false);
        destination
    }

    /// Takes over a new configuration. Endpoints, connections and history stay, unless TLS or how
    /// connections are made has changed.
    pub(crate) fn reconfigure(
        self: &Arc<Self>,
        config: &DestinationConfig,
        connect: Arc<connect::Settings>,
    ) {
        let mut source = self.source.lock();
        let interval = self.policy.get().outlier.interval;
        self.adopt(&config.policy);
        let connection = Connection::of(&config.policy);
        let reconnect = source.tls != config.tls || source.connection != connection;
        if reconnect || source.endpoints != config.endpoints {
            source.changed = source.endpoints != config.endpoints;
            source.endpoints = config.endpoints.clone();
            source.tls = config.tls.clone();
            source.connection = connection;
            source.connect = connect;
            self.restart(&mut source, reconnect);
        } else if interval != config.policy.outlier.interval {
            self.restart(&mut source, false);
        }
    }

    /// Puts a set in force. The caller holds `source`.
    fn put(&self, set: EndpointSet<Workers>, policy: &Policy) {
        let compares = set.members().len() > 1;
        self.reads_reports.store(compares && policy.pick.asks_with_calls(), Relaxed);
        let picker = self.picker_of(set, policy);
        // Sessions may be a route's own affair: then the first call of one has shown it.
        if policy.affinity.is_some() || self.picker.load().has_addresses() {
            picker.index_addresses();
        }
        self.picker.store(picker);
    }

    /// Takes over a policy. The caller holds `source`.
    fn adopt(self: &Arc<Self>, policy: &Arc<Policy>) {
        let old = self.policy.get();
        if *old == **policy {
            return;
        }
        self.policy.store_shared(policy.clone());
        if old.pick != policy.pick {
            let set = self.picker.load().set().clone();
            let afresh = old.pick.oob_reporting_period != policy.pick.oob_reporting_period;
            self.listening.follow(self, &set, policy, afresh);
            self.put(set, policy);
        }
        if old.outlier != policy.outlier {
            self.detector.store(Detector::new(policy.outlier.clone()));
        }
        let set = self.picker.load().set().clone();
        let unbroken = old.breaker.is_some() && policy.breaker.is_none();
        for member in set.members() {
            limit(&member.endpoint, policy);
            if unbroken {
                member.endpoint.breaker().close(clock::now());
            }
        }
        if old.health_check != policy.health_check || old.protocol != policy.protocol {
            // Who takes calls already does so until checks say otherwise.
            self.checks.follow(self, &set, policy, true, |_| false);
        }
        self.shared.guard.reconfigure(&old, policy);
        self.shared.limits.reconfigure(&policy.limits);
        self.shared.budget.reconfigure(&policy.budget);
    }
}

impl Destination {
    /// The name in labels and messages.
    pub(crate) fn label(&self) -> &Arc<str> {
        &self.label
    }

    pub(crate) fn policy(&self) -> Arc<Policy> {
        self.policy.get()
    }

    /// Takes over what its descriptors declare.
    pub(crate) fn declare(&self, methods: IdempotentMethods) {
        self.methods.store(methods);
    }

    /// Whether the gRPC method of a path is declared idempotent.
    pub(crate) fn declares(&self, path: &str) -> bool {
        self.environment.methods.contains(path) || self.methods.load().contains(path)
    }

    /// What layers above use of it.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Whether endpoints are to be asked for load reports.
    pub(crate) fn reads_reports(&self) -> bool {
        self.reads_reports.load(Relaxed)
    }

    /// Who is picked from, for a short look.
    pub(crate) fn picker(&self) -> Loaded<Picker<Workers>> {
        self.picker.load()
    }

    /// Notes that HTTP/2 is spoken.
    pub(crate) fn speaks_http2(&self) {
        if !self.http2.load(Relaxed) {
            self.http2.store(true, Relaxed);
        }
    }

    /// Whether HTTP/2 is sent only because the call looks like gRPC, and nobody has answered in it
    /// yet: then it says nothing about an endpoint that it does not understand.
    pub(crate) fn only_guesses(&self, call: &Call) -> bool {
        call.grpc && call.policy.protocol == Protocol::Auto && !self.http2.load(Relaxed)
    }

    /// The draws of a call that nobody has routed.
    pub(crate) fn draws(&self) -> CallDraws {
        self.environment.draws.next_call()
    }

    fn picker_of(&self, set: EndpointSet<Workers>, policy: &Policy) -> Picker<Workers> {
        Picker::of(set, policy.pick.clone(), &self.environment.caller)
    }
}

/// Puts an endpoint under the limits of a policy.
fn limit(endpoint: &Endpoint, policy: &Policy) {
    endpoint.limits().reconfigure(&policy.endpoint_limits);
    endpoint.connections.limits().reconfigure(&policy.endpoint_limits);
}

impl Drop for Destination {
    fn drop(&mut self) {
        if let Some(task) = self.source.get_mut().task.take() {
            task.abort();
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Destination").field("label", &self.label).finish_non_exhaustive()
    }
}
