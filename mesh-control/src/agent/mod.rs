//! The agent: the services and checks of this node, and their way into the catalog.
//!
//! ```text
//! API, files ─► register ─► data directory ─► local state ─► anti-entropy ─► catalog
//!                                               ▲
//!                       runs of checks, TTLs ───┘
//! ```
//!
//! *Local truth*: what is registered here is what the catalog is to have. It is kept on disk before
//! it is acknowledged, stays while servers are away, and is brought to them again afterwards; what
//! the catalog has of this node beyond that is taken out of it.
//!
//! *Order of changes*: one at a time, each first on disk, then in memory. Results of checks are in
//! memory alone.
//!
//! *Critical for long*: a sweep every 30 s deregisters services with a check that has been critical
//! for longer than its `DeregisterCriticalServiceAfter`, 1 min at least.
//!
//! Source: Consul's agent API 1.8 and "Anti-Entropy"; where this agent differs, it is said there.

mod catalog;
mod disk;
mod error;
mod local;
mod register;
mod registry;
mod service;
mod sync;

#[cfg(test)]
pub(crate) mod scratch;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

pub use catalog::{Catalog, CatalogError, Deregistration, Gone, OfNode, Registration};
pub use error::AgentError;
pub use registry::OfRegistry;
pub use service::instance_id;

use crate::check::{CheckResult, Runner};
use crate::definition::SIDECAR_PORTS;
use crate::types::{
    CheckDefinition, CheckStatus, HealthCheck, Node, NodeService, ServiceDefinition, Token,
};
use disk::Disk;
use local::Local;

/// Time between two looks for services that have been critical for too long. Source: Consul's
/// `CheckReapInterval`.
const SWEEP: Duration = Duration::from_secs(30);

/// Which scripts a check may run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scripts {
    /// None.
    #[default]
    Off,
    /// Those of files (`enable_local_script_checks`).
    Local,
    /// Those of files and of the API (`enable_script_checks`).
    All,
}

/// Settings of an [`Agent`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The node that it speaks for.
    pub node: Node,
    /// Where it keeps what was registered; without, a restart forgets it.
    pub data_dir: Option<PathBuf>,
    /// Which scripts checks may run. None.
    pub scripts: Scripts,
    /// How long the catalog may have an old output of a check whose state is the same. 5 min; zero
    /// brings every output at once.
    pub check_update_interval: Duration,
    /// Bytes of a check's output kept at most; a check may say less. 4,096.
    pub check_output_max_size: usize,
    /// Ports that sidecars get where they say none. 21000–21255.
    pub sidecar_ports: RangeInclusive<u16>,
    /// Time between two comparisons with all that the catalog has. 1 min, and up to a fifth more.
    pub sync_interval: Duration,
}

impl Config {
    /// The defaults, for this node.
    #[must_use]
    pub const fn new(node: Node) -> Self {
        Self {
            node,
            data_dir: None,
            scripts: Scripts::Off,
            check_update_interval: Duration::from_secs(300),
            check_output_max_size: 4096,
            sidecar_ports: SIDECAR_PORTS,
            sync_interval: Duration::from_secs(60),
        }
    }
}

/// Where a registration came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// Somebody asked for it; it is kept over a restart.
    #[default]
    Api,
    /// It stands in a file, which is read again at the next start.
    File,
}

/// How something is registered.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Terms {
    /// Where it came from.
    pub source: Source,
    /// The token to bring it to the catalog with.
    pub token: Token,
    /// Whether the checks go that its service had and that are not among the new ones.
    pub replace_existing_checks: bool,
}

impl Terms {
    /// By the API, with this token.
    #[must_use]
    pub fn api(token: Token) -> Self {
        Self { token, ..Self::default() }
    }

    /// From a file.
    #[must_use]
    pub fn file() -> Self {
        Self { source: Source::File, ..Self::default() }
    }

    /// The checks that the service had and that are not among the new ones go.
    #[must_use]
    pub const fn replacing_checks(mut self, yes: bool) -> Self {
        self.replace_existing_checks = yes;
        self
    }
}

/// A service of this agent, as the API tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LocalService {
    /// The instance.
    pub service: NodeService,
    /// Of all of it: `X-Consul-ContentHash`.
    pub content_hash: String,
}

/// How a service of this agent stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServiceHealth {
    /// The worst state among the checks.
    pub status: CheckStatus,
    /// The instance.
    pub service: NodeService,
    /// Its checks and those of the node.
    pub checks: Vec<HealthCheck>,
}

/// The agent of this node. A clone is the same agent; it ends with the last of them.
///
/// ```
/// # use mesh_control::agent::{Agent, Catalog, Config, Terms};
/// # use mesh_control::types::{Node, ServiceDefinition};
/// # use std::sync::Arc;
/// # async fn example(catalog: Arc<dyn Catalog>) -> Result<(), mesh_control::agent::AgentError> {
/// let mut node = Node::default();
/// node.name = "n1".to_owned();
/// let agent = Agent::start(Config::new(node), catalog).await?;
///
/// let mut web = ServiceDefinition::default();
/// web.name = "web".to_owned();
/// agent.register_service(web, Terms::default()).await?;
/// assert!(agent.services().contains_key("web"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Agent {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    tasks: [AbortHandle; 2],
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// What the agent's tasks share.
struct Shared {
    config: Config,
    local: Mutex<Local>,
    disk: Arc<tokio::sync::Mutex<Disk>>,
    runner: Runner,
    catalog: Arc<dyn Catalog>,
    /// Counts changes of the local state.
    changed: watch::Sender<u64>,
    /// There may be something to bring to the catalog.
    dirty: Notify,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Shared {
    /// Wakes whoever waits for a change.
    fn changed(&self) {
        self.changed.send_modify(|count| *count += 1);
        self.dirty.notify_one();
    }
}

impl Agent {
    /// Starts the agent: with what its data directory has, whose checks begin to run.
    ///
    /// # Errors
    ///
    /// The data directory cannot be made, read or written.
    pub async fn start(config: Config, catalog: Arc<dyn Catalog>) -> Result<Self, AgentError> {
        let root = config.data_dir.clone();
        let opening = tokio::task::spawn_blocking(move || Disk::open(root));
        let (disk, saved) = opening.await.map_err(|_| AgentError::Stopping)??;
        let shared = Arc::new_cyclic(|shared| Shared {
            local: Mutex::new(Local::new(config.node.clone())),
            disk: Arc::new(tokio::sync::Mutex::new(disk)),
            runner: Runner::new(
                config.check_output_max_size,
                Arc::new(register::Aliases::of(shared)),
            ),
            catalog,
            changed: watch::Sender::new(1),
            dirty: Notify::new(),
            config,
        });
        change(&shared, |shared, disk| shared.restore(disk, saved)).await?;
        let tasks = [
            tokio::spawn(sync::keep_in_sync(Arc::clone(&shared))).abort_handle(),
            tokio::spawn(sweep(Arc::clone(&shared))).abort_handle(),
        ];
        Ok(Self { inner: Arc::new(Inner { shared, tasks }) })
    }

    /// A change: alone, to its end, and away from the threads that serve.
    async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Shared>, &mut Disk) -> Result<T, AgentError> + Send + 'static,
    ) -> Result<T, AgentError> {
        change(&self.inner.shared, work).await
    }

    /// Registers a service with its checks and its sidecar, in place of the one that has its ID.
    ///
    /// Checks that stay keep how they stand.
    ///
    /// # Errors
    ///
    /// The definition is refused, or the data directory does not take it. Nothing has changed then.
    pub async fn register_service(
        &self,
        definition: ServiceDefinition,
        terms: Terms,
    ) -> Result<(), AgentError> {
        self.change(move |shared, disk| shared.register_service(disk, &definition, &terms)).await
    }

    /// Takes out a service with its checks and its sidecar. Whether there was one.
    ///
    /// # Errors
    ///
    /// The data directory does not take it.
    pub async fn deregister_service(&self, id: &str) -> Result<bool, AgentError> {
        let id = id.to_owned();
        self.change(move |shared, disk| shared.deregister_service(disk, &id)).await
    }

    /// Registers a check of the node, or of the service that it names, in place of the one that
    /// has its ID, whose state it takes over.
    ///
    /// # Errors
    ///
    /// The definition is refused, its service is not here, or the data directory does not take it.
    pub async fn register_check(
        &self,
        definition: CheckDefinition,
        terms: Terms,
    ) -> Result<(), AgentError> {
        self.change(move |shared, disk| shared.register_check(disk, definition, &terms)).await
    }

    /// Takes out a check. Whether there was one.
    ///
    /// # Errors
    ///
    /// The data directory does not take it.
    pub async fn deregister_check(&self, id: &str) -> Result<bool, AgentError> {
        let id = id.to_owned();
        self.change(move |shared, disk| shared.deregister_check(disk, &id)).await
    }

    /// What files have, in place of what they had before: all of it, or nothing where one
    /// definition is wrong. What came by the API stays, but gives way to a file of the same ID.
    ///
    /// # Errors
    ///
    /// A definition is refused; the text names it. Or the data directory does not take it.
    pub async fn reload(
        &self,
        services: Vec<ServiceDefinition>,
        checks: Vec<CheckDefinition>,
    ) -> Result<(), AgentError> {
        self.change(move |shared, disk| shared.reload(disk, &services, checks)).await
    }

    /// Says how a check stands that waits to be told, and starts its clock anew.
    ///
    /// # Errors
    ///
    /// There is no such check, or the data directory does not take it.
    pub async fn update_ttl(
        &self,
        check_id: &str,
        status: CheckStatus,
        output: &str,
    ) -> Result<(), AgentError> {
        let (id, result) = (check_id.to_owned(), CheckResult::new(status, output));
        self.change(move |shared, disk| shared.update_ttl(disk, &id, result)).await
    }

    /// Puts a service into maintenance: a critical check `_service_maintenance:<id>` with the
    /// reason, until [`end_service_maintenance`](Self::end_service_maintenance), also over a
    /// restart. A service that is in it keeps its first reason.
    ///
    /// # Errors
    ///
    /// There is no such service, or the data directory does not take it.
    pub async fn begin_service_maintenance(
        &self,
        id: &str,
        reason: &str,
        token: Token,
    ) -> Result<(), AgentError> {
        let (id, reason) = (id.to_owned(), reason.to_owned());
        self.change(move |shared, disk| shared.begin_maintenance(disk, &id, &reason, token)).await
    }

    /// Ends a service's maintenance, if it is in it.
    ///
    /// # Errors
    ///
    /// There is no such service, or the data directory does not take it.
    pub async fn end_service_maintenance(&self, id: &str) -> Result<(), AgentError> {
        let id = id.to_owned();
        self.change(move |shared, disk| shared.end_maintenance(disk, &id)).await
    }

    /// Puts the whole node into maintenance: `_node_maintenance`, as for a service.
    ///
    /// # Errors
    ///
    /// The data directory does not take it.
    pub async fn begin_node_maintenance(
        &self,
        reason: &str,
        token: Token,
    ) -> Result<(), AgentError> {
        let reason = reason.to_owned();
        self.change(move |shared, disk| shared.begin_maintenance(disk, "", &reason, token)).await
    }

    /// Ends the node's maintenance, if it is in it.
    ///
    /// # Errors
    ///
    /// The data directory does not take it.
    pub async fn end_node_maintenance(&self) -> Result<(), AgentError> {
        self.change(|shared, disk| shared.end_maintenance(disk, "")).await
    }

    /// The node that it speaks for.
    #[must_use]
    pub fn node(&self) -> Node {
        self.inner.shared.local.lock().node().clone()
    }

    /// The services by ID.
    #[must_use]
    pub fn services(&self) -> BTreeMap<String, LocalService> {
        let local = self.inner.shared.local.lock();
        local.services().iter().map(|(id, service)| (id.clone(), told(service))).collect()
    }

    /// One service.
    #[must_use]
    pub fn service(&self, id: &str) -> Option<LocalService> {
        self.inner.shared.local.lock().services().get(id).map(told)
    }

    /// One service, once its hash is another than `hash`, or `wait` is over. None as soon as it is
    /// not there.
    pub async fn service_other_than(
        &self,
        id: &str,
        hash: &str,
        wait: Duration,
    ) -> Option<LocalService> {
        let mut changes = self.changes();
        let differs = async {
            loop {
                match self.service(id) {
                    Some(service) if service.content_hash == hash => {}
                    other => return other,
                }
                if changes.changed().await.is_err() {
                    return None;
                }
            }
        };
        match tokio::time::timeout(wait, differs).await {
            Ok(service) => service,
            Err(_elapsed) => self.service(id),
        }
    }

    /// The checks by ID.
    #[must_use]
    pub fn checks(&self) -> BTreeMap<String, HealthCheck> {
        let local = self.inner.shared.local.lock();
        local.checks().iter().map(|(id, check)| (id.clone(), check.health.clone())).collect()
    }

    /// How the service of this ID stands.
    #[must_use]
    pub fn health_by_id(&self, id: &str) -> Option<ServiceHealth> {
        let local = self.inner.shared.local.lock();
        local.services().get(id).map(|service| health(&local, service))
    }

    /// How the instances of the service of this name stand, by ID.
    #[must_use]
    pub fn health_by_name(&self, name: &str) -> Vec<ServiceHealth> {
        let local = self.inner.shared.local.lock();
        let instances = local.services().values().filter(|service| service.instance.name == name);
        instances.map(|service| health(&local, service)).collect()
    }

    /// Counts changes of services and checks: for reads that wait.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.shared.changed.subscribe()
    }

    /// Whether the catalog has all that is here, but for outputs of checks that may wait.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.inner.shared.local.lock().is_synced()
    }
}

fn told(service: &local::Service) -> LocalService {
    LocalService { service: service.instance.clone(), content_hash: service.hash().to_owned() }
}

fn health(local: &Local, service: &local::Service) -> ServiceHealth {
    let checks = local.checks_of(&service.instance.id).chain(local.checks_of(""));
    let checks: Vec<_> = checks.map(|(_, check)| check).collect();
    ServiceHealth {
        status: Local::worst(checks.iter().copied()),
        service: service.instance.clone(),
        checks: checks.into_iter().map(|check| check.health.clone()).collect(),
    }
}

/// See [`Agent::change`].
async fn change<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&Arc<Shared>, &mut Disk) -> Result<T, AgentError> + Send + 'static,
) -> Result<T, AgentError> {
    let shared = Arc::clone(shared);
    let mut disk = Arc::clone(&shared.disk).lock_owned().await;
    let working = tokio::task::spawn_blocking(move || work(&shared, &mut disk));
    working.await.map_err(|_| AgentError::Stopping)?
}

/// Takes out what has been critical for too long, for as long as the agent runs.
async fn sweep(shared: Arc<Shared>) {
    let mut ticks = interval(SWEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let over = shared.local.lock().critical_for_too_long(Instant::now());
        for id in over {
            tracing::warn!(service = id, "critical for too long: deregistered");
            let gone = id.clone();
            let done =
                change(&shared, move |shared, disk| shared.deregister_service(disk, &gone)).await;
            if let Err(error) = done {
                tracing::error!(service = id, %error, "cannot deregister what is critical");
            }
        }
    }
}
