//! Proxy: workers, listeners and configuration, started, changed and ended.
//!
//! A configuration is applied whole or not at all: its listeners are bound and its certificates
//! loaded before anything changes, then the destinations are swapped, then the workers get the
//! new listeners and those that are gone close. A listener that stays is not touched.

use crate::access_log::AccessLog;
use crate::args::Args;
use crate::config::{self, Wanted};
use crate::connection::Limits;
use crate::counters::Counters;
use crate::drain::Draining;
use crate::http::Common;
use crate::inbound::Inbounds;
use crate::listener;
use crate::upstream::Upstream;
use crate::worker::{Socket, Worker};
use mesh_core::DestinationName;
use mesh_core::config::Errors;
use mesh_core::pick::Caller;
use mesh_discovery::config_files::ReadError;
use mesh_tower::{BuildError, Mesh};
use parking_lot::Mutex;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

/// A running proxy.
#[derive(Clone, Debug)]
pub struct Proxy(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    args: Args,
    mesh: Mesh,
    workers: Vec<Worker>,
    inbounds: Inbounds,
    counters: Arc<Counters>,
    log: Option<AccessLog>,
    listeners: tokio::sync::Mutex<Vec<Running>>,
    status: Mutex<Status>,
    /// Rung by `POST /drain`.
    drain: Notify,
    draining: Draining,
}

/// A listener in force, and what closes it.
#[derive(Debug)]
struct Running {
    wanted: Wanted,
    address: SocketAddr,
    _removals: Vec<oneshot::Sender<()>>,
}

/// What became of the configuration.
#[derive(Clone, Debug)]
pub(crate) struct Status {
    /// Of the configuration in force.
    pub(crate) version: u64,
    pub(crate) applied: SystemTime,
    /// Why the last one was refused, and when; `None` if it is the one in force.
    pub(crate) refused: Option<(SystemTime, String)>,
}

/// Why a proxy could not be started, or a configuration not be applied.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// The system refused: a file, an address, a thread.
    Io(io::Error),
    /// The configuration is wrong; each problem says how bad it is, and where.
    Config(String),
    /// There is nothing to do.
    NoListener,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Config(message) => f.write_str(message),
            Self::NoListener => f.write_str(
                "nothing to listen on: give --listen and --upstream, or a file with a Listener",
            ),
        }
    }
}

impl std::error::Error for StartError {}

impl From<ReadError> for StartError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NotText(errors) => Self::Config(errors.to_string()),
            other => Self::Config(format!("error: {other}")),
        }
    }
}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Proxy {
    /// Starts workers and listeners, inside a tokio runtime that lives as long as the proxy.
    ///
    /// # Errors
    /// When the configuration is wrong or names no listener, an address cannot be bound, or a
    /// thread cannot be started.
    pub async fn start(mut args: Args) -> Result<Self, StartError> {
        // Found once: a file that is away for a moment is not replaced by one from another place.
        args.config = config::files(&args);
        let count = match args.workers {
            Some(count) => count.get(),
            None => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
        };
        let log = match args.access_log {
            Some(format) => Some(AccessLog::start(format, io::stdout())?),
            None => None,
        };
        let caller = Caller::new(args.locality.clone().unwrap_or_default())
            .with_labels(args.labels.clone().unwrap_or_default())
            .with_number(args.caller_number);
        let wrong = |error: BuildError| StartError::Config(format!("error: {error}"));
        let builder = Mesh::builder().workers(count).caller(caller);
        let builder = builder.consul_from_env().map_err(wrong)?;
        let builder = match args.seed {
            Some(seed) => builder.seed(seed),
            None => builder,
        };
        let mesh = builder.build().map_err(wrong)?;
        let counters = Arc::new(Counters::default());
        let mut workers = Vec::with_capacity(count);
        for index in 0..count {
            let common = Common {
                log: log.clone(),
                counters: Arc::clone(&counters),
                metrics: Arc::clone(mesh.metrics().server()),
                draining: Draining::default(),
            };
            workers.push(Worker::start(index, common, Limits::default())?);
        }
        let inbounds = Inbounds::new(Arc::clone(mesh.metrics().server()));
        let proxy = Self(Arc::new(Inner {
            args,
            mesh,
            workers,
            inbounds,
            counters,
            log,
            listeners: tokio::sync::Mutex::new(Vec::new()),
            status: Mutex::new(Status { version: 0, applied: wall_clock(), refused: None }),
            drain: Notify::new(),
            draining: Draining::default(),
        }));
        proxy.apply().await?;
        if proxy.0.listeners.lock().await.is_empty() {
            return Err(StartError::NoListener);
        }
        Ok(proxy)
    }

    /// Reads the configuration again and applies it. A broken one changes nothing, and says why.
    ///
    /// # Errors
    /// When it is wrong, or what it asks for cannot be had.
    pub async fn reload(&self) -> Result<(), StartError> {
        let result = self.apply().await;
        if let Err(error) = &result {
            self.0.status.lock().refused = Some((wall_clock(), error.to_string()));
        }
        result
    }

    async fn apply(&self) -> Result<(), StartError> {
        let inner = &*self.0;
        let sources = config::sources(&inner.args)?;
        let snapshot =
            config::snapshot(&sources).map_err(|errors| StartError::Config(errors.to_string()))?;
        let wanted = config::listeners(&snapshot);
        let mut running = inner.listeners.lock().await;

        // All that can fail comes first, and nothing listens before all of it has gone well.
        let mut secured = Vec::new();
        let mut wrong = Vec::new();
        for (wanted, listener) in wanted.iter().zip(snapshot.listeners()) {
            if running.iter().any(|known| known.wanted == *wanted) {
                continue;
            }
            match config::server_tls(listener, &sources) {
                Ok(tls) => secured.push((wanted, tls)),
                Err(diagnostic) => wrong.push(diagnostic),
            }
        }
        if !wrong.is_empty() {
            return Err(StartError::Config(Errors::from(wrong).to_string()));
        }
        let mut fresh = Vec::new();
        for (wanted, tls) in secured {
            let own = running.iter().any(|known| known.address == wanted.address);
            let sockets = listener::bind(wanted.address, inner.workers.len(), own)?;
            fresh.push((wanted.clone(), sockets, tls));
        }
        let version = inner
            .mesh
            .configure(&sources)
            .map_err(|error| StartError::Config(error.to_string()))?;
        inner.inbounds.apply(&snapshot, &wanted);

        // Dropping what closes a listener closes it.
        running.retain(|known| wanted.contains(&known.wanted));
        for (wanted, sockets, tls) in fresh {
            let mut address = wanted.address;
            let mut removals = Vec::with_capacity(sockets.len());
            for (index, (worker, socket)) in inner.workers.iter().zip(sockets).enumerate() {
                let socket = listener::listen(socket)?;
                address = socket.local_addr()?;
                let (removal, removed) = oneshot::channel();
                removals.push(removal);
                let mesh = inner.mesh.worker(index);
                let socket = Socket {
                    listener: socket,
                    takes: wanted.takes,
                    tls: tls.clone(),
                    upstream: Upstream::new(mesh, wanted.destination.clone(), wanted.inbound),
                    inbound: inner.inbounds.of(&wanted),
                    removed,
                };
                worker.listen(socket).await?;
            }
            tracing::info!("{} listens on {address}", wanted.name);
            running.push(Running { wanted, address, _removals: removals });
        }
        *inner.status.lock() = Status { version, applied: wall_clock(), refused: None };
        Ok(())
    }

    /// Where it listens, in the order of the configuration.
    pub async fn addresses(&self) -> Vec<SocketAddr> {
        self.0.listeners.lock().await.iter().map(|running| running.address).collect()
    }

    /// How long a drain may take: what the flag says, else the longest `drainTimeout` of the server
    /// policies in force for the inbound listeners, else 30 s.
    #[must_use]
    pub fn drain_timeout(&self) -> Duration {
        self.0.args.drain_timeout.unwrap_or_else(|| self.0.inbounds.drain_timeout())
    }

    /// Takes nothing new, and lets what runs finish for at most `limit`; says whether all did.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.0.draining.start();
        self.0.workers.iter().for_each(Worker::drain);
        let all = async {
            for worker in &self.0.workers {
                worker.ended().await;
            }
        };
        timeout(limit, all).await.is_ok()
    }

    /// Asks whoever runs the proxy to drain and end it.
    pub(crate) fn ask_to_drain(&self) {
        self.0.drain.notify_one();
    }

    /// Resolves when draining was asked for.
    pub(crate) async fn asked_to_drain(&self) {
        self.0.drain.notified().await;
    }

    /// Whether new connections are welcome.
    pub(crate) fn is_ready(&self) -> bool {
        !self.0.draining.has_started()
    }

    pub(crate) fn status(&self) -> Status {
        self.0.status.lock().clone()
    }

    pub(crate) fn mesh(&self) -> &Mesh {
        &self.0.mesh
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// Lines of the access log that could not be written in time.
    pub(crate) fn log_lines_dropped(&self) -> u64 {
        self.0.log.as_ref().map_or(0, AccessLog::dropped)
    }

    /// Each listener's name, address, and destination if it has one of its own.
    pub(crate) async fn listeners(&self) -> Vec<(Arc<str>, SocketAddr, Option<Arc<str>>)> {
        let running = self.0.listeners.lock().await;
        let row = |r: &Running| {
            (r.wanted.name.clone(), r.address, r.wanted.destination.as_ref().map(text))
        };
        running.iter().map(row).collect()
    }
}

fn text(name: &DestinationName) -> Arc<str> {
    name.to_string().into()
}

#[expect(clippy::disallowed_methods, reason = "people read when a configuration was applied")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}
