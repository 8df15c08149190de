//! Mesh: the configuration in force, and the destinations that calls have found.
//!
//! One value per process, cheap to clone. It owns the background tasks (discovery and the outlier
//! sweep, one task per destination), which end when the last clone is dropped.

mod configuring;
mod live;
mod routing;

pub(crate) use self::configuring::{Configured, connect_settings};
use self::live::Live;
pub(crate) use self::routing::{RoutedConnection, Stop};
use crate::balance::Balance;
use crate::builder::{BuildError, MeshBuilder};
use crate::caller;
use crate::channel::Channel;
use crate::clock;
use crate::destination::{Destination, DestinationState, Environment};
#[cfg(feature = "consul")]
use crate::entries::Following;
use crate::listen::{Drains, Listener};
use crate::mirror;
use crate::plain::Plain;
use crate::rate_limit::{Asker, Services};
use crate::server::{self, ServerLayer};
use crate::telemetry::Metrics;
use crate::tls;
use crate::workers::Worker;
use mesh_core::fault::Active;
use mesh_core::snapshot::Snapshot;
use mesh_core::{DestinationName, Swap};
use mesh_discovery::config_files;
#[cfg(feature = "consul")]
use mesh_discovery::consul::KvWatch;
use parking_lot::Mutex;
use std::fmt;
use std::io;
use std::sync::Arc;
#[cfg(feature = "consul")]
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::net::ToSocketAddrs;
use tokio::sync::Semaphore;

/// See the [module docs](self).
#[derive(Clone)]
pub struct Mesh {
    pub(crate) shared: Arc<Shared>,
    worker: Worker,
}

pub(crate) struct Shared {
    live: Swap<Live>,
    plain: Arc<Plain>,
    /// Held from the reading of a configuration until it is in force.
    pub(crate) configured: Mutex<Configured>,
    /// The task that follows configuration entries.
    #[cfg(feature = "consul")]
    pub(crate) following: OnceLock<Following>,
    version: AtomicU64,
    pub(crate) environment: Environment,
    metrics: Metrics,
    /// Calls that are delayed on purpose now.
    faults: Active,
    /// Whom rate limits may ask.
    services: Arc<Services>,
    /// Places for copies of requests.
    copies: Arc<Semaphore>,
    /// The handles of its listeners.
    drains: Arc<Drains>,
    server_tls: Option<Arc<tls::Server>>,
    /// Our own name among services.
    service: Option<DestinationName>,
}

impl Mesh {
    /// A mesh from the environment: the configuration files that `MESH_CONFIG` names, else the one
    /// that stands in a usual place, else none ([`mesh_discovery::config_files`] tells the rule,
    /// which is that of the proxy). With none, authorities are plain DNS names and the default
    /// policy applies. `MESH_LOCALITY`, `MESH_LABELS` and `MESH_CALLER_NUMBER` say who calls
    /// ([`MeshBuilder::caller`]). With feature `consul`, `CONSUL_HTTP_ADDR` makes names those of
    /// that Consul and follows its configuration entries (`MeshBuilder::consul_from_env`).
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), mesh_tower::BuildError> {
    /// let mesh = mesh_tower::Mesh::from_env()?;
    /// let channel = mesh.channel("greeter");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`MeshBuilder::build`].
    pub fn from_env() -> Result<Self, BuildError> {
        let files = config_files::find(&[]);
        let builder = Self::builder().caller(caller::from_env()?);
        #[cfg(feature = "consul")]
        let builder = builder.consul_from_env()?;
        files.into_iter().fold(builder, MeshBuilder::config_file).build()
    }

    /// A mesh made by hand.
    #[must_use]
    pub fn builder() -> MeshBuilder {
        MeshBuilder::default()
    }

    /// A channel to a destination: the transport of a tonic client, or an HTTP client for requests
    /// without an authority.
    #[must_use]
    pub fn channel(&self, name: &str) -> Channel {
        Channel::named(self, name)
    }

    /// A channel whose destination is each request's own authority.
    #[must_use]
    pub fn http(&self) -> Channel {
        Channel::by_request(self)
    }

    /// As [`Mesh::http`], but to configured hosts only: for requests that strangers wrote, such as
    /// those of an inbound proxy. Another host is refused as `no_route_found`.
    #[must_use]
    pub fn http_configured(&self) -> Channel {
        Channel::by_configured_request(self)
    }

    /// A channel to a configured destination by the routes attached to it, whatever authority a
    /// request has: for a listener of that destination. What no rule takes fails with
    /// [`ErrorKind::NoRoute`](crate::ErrorKind::NoRoute); routes of other hosts, wildcards too, have no say.
    #[must_use]
    pub fn channel_to(&self, destination: &DestinationName) -> Channel {
        Channel::to(self, destination)
    }

    /// The lowest part of the stack alone, for a stack made by hand: picks an endpoint of the
    /// destination and sends.
    ///
    /// ```no_run
    /// # fn example(mesh: mesh_tower::Mesh) {
    /// use mesh_tower::deadline::DeadlineLayer;
    /// use mesh_tower::retry::RetryLayer;
    /// use std::time::Duration;
    /// use tower::ServiceBuilder;
    ///
    /// let channel = ServiceBuilder::new()
    ///     .layer(DeadlineLayer::new(Duration::from_secs(2)))
    ///     .layer(RetryLayer::new())
    ///     .service(mesh.balance("inventory"));
    /// # let _ = channel;
    /// # }
    /// ```
    #[must_use]
    pub fn balance(&self, name: &str) -> Balance {
        match self.destination(name) {
            Ok(destination) => Balance::fixed(destination, self.worker),
            Err(error) => Balance::invalid(error, self.worker),
        }
    }

    /// The inbound layer, for an axum router or a tonic server, with the `ServerPolicy` in force for
    /// the service that [`MeshBuilder::service`] named, else the mesh's own. The policy is read
    /// here, once: a later configuration does not change a layer that is already made.
    #[must_use]
    pub fn server(&self) -> ServerLayer {
        let snapshot = self.snapshot();
        let policy = match &self.shared.service {
            Some(name) => snapshot.server_policy(name),
            None => snapshot.default_server_policy(),
        };
        let shared = &self.shared;
        let config = server::Config::clone(policy);
        ServerLayer::of(config, &shared.metrics, shared.drains.clone()).asked_by(self.asker())
    }

    /// Listens for callers, with TLS where the builder was given certificates.
    ///
    /// # Errors
    /// When the address cannot be bound; the message names it.
    pub async fn listen(&self, address: impl ToSocketAddrs + fmt::Debug) -> io::Result<Listener> {
        let listener = Listener::bind(address, self.shared.server_tls.clone()).await?;
        self.shared.drains.add(listener.drain());
        Ok(listener.counted(Arc::clone(self.metrics().server())))
    }

    /// The configuration in force.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.live.load().snapshot.clone()
    }

    /// Every destination with its endpoints and their states.
    #[must_use]
    pub fn destinations(&self) -> Vec<DestinationState> {
        let now = clock::now();
        let live = self.shared.live.load();
        let plain = self.shared.plain.all();
        live.destinations.iter().chain(&plain).map(|destination| destination.state(now)).collect()
    }

    /// What the mesh has counted.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// The same mesh as another worker sees it: its channels use that worker's connections.
    /// `index` counts from 0 to one less than [`MeshBuilder::workers`].
    #[must_use]
    pub fn worker(&self, index: usize) -> Self {
        Self { shared: self.shared.clone(), worker: Worker(index) }
    }

    /// Who asks rate limit services, as this worker.
    #[must_use]
    pub fn asker(&self) -> Asker {
        Asker { worker: self.worker, services: self.shared.services.clone() }
    }

    pub(crate) const fn own_worker(&self) -> Worker {
        self.worker
    }

    /// Follows the keys of Consul's store that begin with `prefix`, one consistent version at a
    /// time; of the Consul that [`MeshBuilder::consul`](crate::MeshBuilder::consul) or the
    /// environment names. To be called inside a tokio runtime.
    ///
    /// ```no_run
    /// # async fn example(mesh: mesh_tower::Mesh) {
    /// use mesh_discovery::consul::KvUpdate;
    ///
    /// let mut config = mesh.watch_kv("redis/config/");
    /// while let Some(update) = config.changed().await {
    ///     match update {
    ///         KvUpdate::Pairs(version) => println!("{:?}", version.get("redis/config/devops")),
    ///         KvUpdate::Failed(why) => eprintln!("{why}; what was read last stays"),
    ///         _ => {}
    ///     }
    /// }
    /// # }
    /// ```
    #[cfg(feature = "consul")]
    #[must_use]
    pub fn watch_kv(&self, prefix: &str) -> KvWatch {
        self.shared.environment.sources.consul.watch_kv(prefix)
    }

    /// The calls that are delayed on purpose now.
    pub(crate) fn faults(&self) -> &Active {
        &self.shared.faults
    }

    /// Places for the copies of requests that are under way.
    pub(crate) fn copies(&self) -> &Arc<Semaphore> {
        &self.shared.copies
    }

    /// A destination of the configuration in force.
    pub(crate) fn known(&self, name: &DestinationName) -> Option<Arc<Destination>> {
        let live = self.shared.live.load();
        live.at(live.snapshot.destination(name)?).cloned()
    }

    pub(crate) fn start(
        environment: Environment,
        metrics: Metrics,
        server_tls: Option<Arc<tls::Server>>,
        service: Option<DestinationName>,
    ) -> Self {
        let live = Live {
            snapshot: Arc::new(Snapshot::empty()),
            destinations: Vec::new(),
            limits: Vec::new(),
        };
        let shared = Shared {
            live: Swap::new(live),
            plain: Plain::new(environment.clone(), metrics.clone()),
            configured: Mutex::default(),
            #[cfg(feature = "consul")]
            following: OnceLock::new(),
            version: AtomicU64::new(0),
            environment,
            metrics,
            faults: Active::default(),
            services: Arc::new(Services::new(service.as_ref())),
            copies: Arc::new(Semaphore::new(mirror::MOST)),
            drains: Arc::default(),
            server_tls,
            service,
        };
        Self { shared: Arc::new(shared), worker: Worker::default() }
    }
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh")
            .field("version", &self.shared.version.load(Ordering::Relaxed))
            .field("destinations", &self.shared.live.load().destinations.len())
            .finish_non_exhaustive()
    }
}
