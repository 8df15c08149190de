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

mod grace;
mod health;
mod state;
mod unreachable;

pub use self::state::{DestinationState, EndpointView};
use crate::call::{Call, Shared};
use crate::clock;
use crate::connect::{self, Caps, Connections, Protocol};
use crate::draws::{CallDraws, Draws};
use crate::guard::Guard;
use crate::health_check::Checks;
use crate::report::Listening;
use crate::telemetry::{BreakerState, DestinationMetrics};
use crate::workers::Workers;
use mesh_core::health::breaker::{self, Admission, Transition};
use mesh_core::health::outlier::{Detector, Ejection};
use mesh_core::limit::Limits;
use mesh_core::pick::{Caller, Labels, NoPick, PickArgs, Picker, Reason};
use mesh_core::policy::ConnectionConfig;
use mesh_core::retry::IdempotentMethods;
use mesh_core::retry::budget::Budget;
use mesh_core::retry::throttling::Throttling;
use mesh_core::snapshot::{DestinationConfig, EndpointSource, TlsConfig};
use mesh_core::{
    Draw, EndpointSet, EndpointSpec, Error, ErrorKind, Loaded, Member, Outcome, Policy, Swap,
    Timestamp,
};
use mesh_discovery::{Dns, Failure, Update};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

/// An endpoint with its connections.
pub(crate) type Endpoint = mesh_core::Endpoint<Workers>;

/// What destinations need from the mesh around them.
#[derive(Clone, Debug)]
pub(crate) struct Environment {
    pub(crate) dns: Dns,
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
    /// Since when discovery names no endpoint, while those that were there stay in use.
    doubted: Option<Timestamp>,
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

/// What discovery has said so far.
#[derive(Clone, Debug)]
enum Resolution {
    /// Nothing yet.
    Waiting,
    /// A set of endpoints, perhaps an empty one.
    Known,
    /// No set so far, and the last attempt failed for this reason.
    Failed(Failure),
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

    /// Waits until discovery has spoken for the first time. Where health checks decide who may be
    /// picked, waits for the first of them as well.
    pub(crate) async fn resolved(&self) {
        let mut resolution = self.resolution.subscribe();
        // An error means that the sender is gone, and it lives in `self`.
        let _ = resolution.wait_for(|seen| !matches!(seen, Resolution::Waiting)).await;
        loop {
            let seen = self.checks.seen();
            if !self.awaits_check() {
                return;
            }
            seen.await;
        }
    }

    /// The draws of a call that nobody has routed.
    pub(crate) fn draws(&self) -> CallDraws {
        self.environment.draws.next_call()
    }

    /// Chooses an endpoint that this call has not tried, if there is one.
    pub(crate) fn pick(
        &self,
        args: &PickArgs<'_>,
        draw: &mut impl Draw,
    ) -> Result<(Arc<Endpoint>, Reason), Unpicked> {
        let picker = self.picker.load();
        match picker.pick(args, draw) {
            Ok(picked) => Ok((picked.member.endpoint.clone(), picked.reason)),
            Err(NoPick::AllOut { .. }) if self.awaits_check() => Err(Unpicked::Unresolved),
            Err(NoPick::AllOut { total, example, .. }) => {
                Err(Unpicked::Final(self.all_out(picker.set(), total, &example)))
            }
            Err(none @ (NoPick::NoSubset { .. } | NoPick::Session { .. })) => {
                Err(Unpicked::Final(self.error(ErrorKind::NoHealthyEndpoint, none.to_string())))
            }
            Err(_) => match &*self.resolution.borrow() {
                Resolution::Waiting => Err(Unpicked::Unresolved),
                Resolution::Known => Err(Unpicked::Final(
                    self.error(ErrorKind::NoHealthyEndpoint, "it has no endpoints".to_owned()),
                )),
                Resolution::Failed(failure) => {
                    Err(Unpicked::Final(self.error(failure.kind(), failure.message().to_owned())))
                }
            },
        }
    }

    /// Whether it has an endpoint that is up, of those with the labels; nothing known says yes.
    pub(crate) fn can_take(&self, subset: Option<&[Labels]>, now: Timestamp) -> bool {
        let args = PickArgs::new(now).with_subset(subset.unwrap_or_default());
        self.picker.load().can_take(&args)
            || matches!(*self.resolution.borrow(), Resolution::Waiting)
            || self.awaits_check()
    }

    fn picker_of(&self, set: EndpointSet<Workers>, policy: &Policy) -> Picker<Workers> {
        Picker::of(set, policy.pick.clone(), &self.environment.caller)
    }

    /// Why none of `total` endpoints can be picked. If that is because their certificates are
    /// refused, or because the breaker of one that is well is open, the error is of that kind.
    #[cold]
    fn all_out(&self, set: &EndpointSet<Workers>, total: usize, example: &str) -> Error {
        let members = set.members();
        let unreachable = members.iter().all(|member| member.endpoint.health().is_unreachable());
        let cause = members.first().and_then(|member| member.endpoint.connections.cause());
        match cause.filter(|_| unreachable) {
            Some(cause) => self.unreached(members.len(), &cause),
            None => {
                let message = match total {
                    1 => format!("its only endpoint cannot take a call: {example}"),
                    total => format!("none of its {total} endpoints can take a call: {example}"),
                };
                let broken = |member: &Member<Workers>| {
                    member.endpoint.health().is_selectable()
                        && !member.endpoint.breaker().is_closed()
                };
                if !members.iter().any(broken) {
                    return self.error(ErrorKind::NoHealthyEndpoint, message);
                }
                self.shared.metrics.shed(ErrorKind::Overflow);
                self.error(ErrorKind::Overflow, message)
            }
        }
    }

    /// None of its endpoints can be reached, one of them because of `cause`.
    fn unreached(&self, total: usize, cause: &Error) -> Error {
        let kind = if is_tls(cause) { cause.kind() } else { ErrorKind::NoHealthyEndpoint };
        let cause_text = cause.message();
        let message = match total {
            1 => format!("its only endpoint cannot be reached: {cause_text}"),
            _ => format!("none of its {total} endpoints can be reached: {cause_text}"),
        };
        let error = self.error(kind, message).with_source(cause.clone());
        match cause.endpoint() {
            Some(endpoint) => error.with_endpoint(endpoint),
            None => error,
        }
    }

    fn error(&self, kind: ErrorKind, message: String) -> Error {
        Error::new(kind, message).with_destination(self.label.clone())
    }

    /// Hands the outcome of an attempt to outlier detection.
    pub(crate) fn record(&self, endpoint: &Endpoint, outcome: Outcome, now: Timestamp) {
        // Only a failure can eject, and only an ejection is bounded by the size of the set.
        let size = if outcome.is_failure() { self.picker.load().set().members().len() } else { 0 };
        let ejection =
            self.detector.load().record(endpoint, size, outcome, now, &mut || fastrand::u64(..));
        if let Some(ejection) = ejection {
            self.ejected(&ejection);
        }
    }

    /// Hands the outcome of an attempt to the endpoint's breaker.
    pub(crate) fn breaker_record(
        &self,
        endpoint: &Endpoint,
        admission: Admission,
        outcome: Outcome,
        now: Timestamp,
        config: &breaker::Config,
    ) {
        let draw = &mut || fastrand::u64(..);
        let to = match endpoint.breaker().record(admission, outcome, now, config, draw) {
            Some(Transition::Opened(span)) => {
                tracing::warn!(
                    "mesh.destination" = &*self.label,
                    "mesh.endpoint" = %endpoint.id(),
                    "breaker open for {span:?}",
                );
                BreakerState::Open
            }
            Some(_) => {
                tracing::info!(
                    "mesh.destination" = &*self.label,
                    "mesh.endpoint" = %endpoint.id(),
                    "breaker closed",
                );
                BreakerState::Closed
            }
            None => return,
        };
        self.shared.metrics.breaker_changed(to);
    }

    fn ejected(&self, ejection: &Ejection) {
        self.shared.metrics.ejected();
        tracing::warn!(
            "mesh.destination" = &*self.label,
            "mesh.endpoint" = %ejection.endpoint,
            "endpoint ejected: {}, returns in {:?}", ejection.reason, ejection.duration,
        );
    }

    /// What a failed connection says when there is no other endpoint that could be picked.
    pub(crate) fn down(&self, error: &Error) -> Option<Error> {
        let picker = self.picker.load();
        let members = picker.set().members();
        if members.iter().any(|member| member.endpoint.is_selectable()) {
            return None;
        }
        Some(self.unreached(members.len(), error))
    }

    /// Takes over what discovery says, if `generation` is the task in charge. With `afresh`,
    /// endpoints get new connections and lose their history.
    fn update(self: &Arc<Self>, generation: u64, afresh: bool, specs: Vec<EndpointSpec>) {
        let mut source = self.source.lock();
        if source.generation != generation
            || specs.is_empty() && !afresh && self.doubts(&mut source)
        {
            return;
        }
        source.doubted = None;
        let old = self.picker.get();
        let from = if afresh { EndpointSet::empty() } else { old.set().clone() };
        let (workers, now) = (self.environment.workers, clock::now());
        let (set, change) = from.update(specs, |spec| {
            Workers::new(workers, spec.declared, now, |limits| {
                let (addresses, hostname) = (spec.addresses.clone(), spec.hostname.clone());
                let destination = self.shared.limits.clone();
                Connections::new(addresses, hostname, source.connect.clone())
                    .capped(Caps { destination, endpoint: limits.clone() })
            })
        });
        let policy = self.policy.get();
        for member in set.members() {
            limit(&member.endpoint, &policy);
            member.endpoint.connections.declared(member.spec.declared, now);
        }
        self.check(&policy, old.set(), &set, afresh);
        let kept: HashSet<*const Endpoint> =
            set.members().iter().map(|member| Arc::as_ptr(&member.endpoint)).collect();
        self.listening.follow(self, &set, &policy, false);
        self.put(set, &policy);
        drop(source);
        self.resolution.send_replace(Resolution::Known);
        for member in old.set().members() {
            if !kept.contains(&Arc::as_ptr(&member.endpoint)) {
                member.endpoint.connections.all().for_each(|connections| connections.drain());
            }
        }
        if !change.is_empty() {
            tracing::debug!(
                "mesh.destination" = &*self.label,
                added = change.added.len(),
                changed = change.changed.len(),
                removed = change.removed.len(),
                "endpoints changed",
            );
        }
    }

    fn failed(&self, failure: Failure) {
        tracing::warn!("mesh.destination" = &*self.label, "discovery failed: {failure}");
        self.resolution.send_if_modified(|seen| {
            if matches!(seen, Resolution::Known) {
                return false;
            }
            *seen = Resolution::Failed(failure);
            true
        });
    }

    fn sweep(&self) {
        let now = clock::now();
        self.swept.store(now.as_nanos(), Relaxed);
        let picker = self.picker.get();
        let sweep = self.detector.load().sweep(picker.set(), now, &mut || fastrand::u64(..));
        sweep.ejected.iter().for_each(|ejection| self.ejected(ejection));
        for endpoint in sweep.readmitted {
            tracing::info!("mesh.destination" = &*self.label, "mesh.endpoint" = %endpoint, "endpoint readmitted");
        }
    }
}

/// Puts an endpoint under the limits of a policy.
fn limit(endpoint: &Endpoint, policy: &Policy) {
    endpoint.limits().reconfigure(&policy.endpoint_limits);
    endpoint.connections.limits().reconfigure(&policy.endpoint_limits);
}

/// Whether a connection failed because of certificates or the handshake.
fn is_tls(error: &Error) -> bool {
    use ErrorKind as K;
    matches!(error.kind(), K::Tls | K::TlsIdentity | K::TlsExpired | K::TlsUntrusted)
}

/// Why there is no endpoint for an attempt.
pub(crate) enum Unpicked {
    /// Discovery has not spoken yet, or no check has ended: worth waiting for.
    Unresolved,
    /// There is none.
    Final(Error),
}

impl Drop for Destination {
    fn drop(&mut self) {
        if let Some(task) = self.source.get_mut().task.take() {
            task.abort();
        }
    }
}

impl Destination {
    /// Starts the task that follows discovery, in place of the one before. With `afresh`,
    /// endpoints get new connections and lose their history at its first update.
    fn restart(self: &Arc<Self>, source: &mut Source, afresh: bool) {
        source.generation += 1;
        source.doubted = None;
        let follow = Follow {
            destination: Arc::downgrade(self),
            ask_again: self.ask_again.clone(),
            dns: self.environment.dns.clone(),
            endpoints: source.endpoints.clone(),
            generation: source.generation,
            afresh,
        };
        let task = self.environment.runtime.spawn(follow.run(self.next_sweep())).abort_handle();
        if let Some(old) = source.task.replace(task) {
            old.abort();
        }
    }
}

/// The destination's task.
struct Follow {
    destination: Weak<Destination>,
    ask_again: Arc<Notify>,
    dns: Dns,
    endpoints: EndpointSource,
    generation: u64,
    afresh: bool,
}

impl Destination {
    /// When outlier detection is to compare its endpoints, whatever task does it.
    fn next_sweep(&self) -> Instant {
        let swept = Timestamp::from_nanos(self.swept.load(Relaxed));
        clock::instant(swept + self.policy.load().outlier.interval)
    }
}

impl Follow {
    async fn run(self, mut next_sweep: Instant) {
        let mut watch = mesh_discovery::resolver(&self.endpoints, &self.dns).watch();
        let mut afresh = self.afresh;
        let mut ended = false;
        loop {
            tokio::select! {
                update = watch.changed(), if !ended => {
                    let Some(destination) = self.destination.upgrade() else { return };
                    match update {
                        Some(Update::Endpoints(specs)) => {
                            destination.update(self.generation, afresh, specs);
                            afresh = false;
                        }
                        Some(Update::Failed(failure)) => destination.failed(failure),
                        Some(_) => {}
                        None => ended = true,
                    }
                }
                () = self.ask_again.notified() => watch.nudge(),
                () = sleep_until(next_sweep) => {
                    let Some(destination) = self.destination.upgrade() else { return };
                    destination.sweep();
                    next_sweep = destination.next_sweep();
                    destination.doubt_again(self.generation);
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "destination_tests.rs"]
pub(crate) mod tests;

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Destination").field("label", &self.label).finish_non_exhaustive()
    }
}
