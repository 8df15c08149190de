//! Builds a [`Mesh`] by hand.

use crate::destination::Environment;
use crate::draws::Draws;
use crate::mesh::Mesh;
use crate::telemetry::Metrics;
use crate::tls;
use mesh_core::DestinationName;
use mesh_core::config::{self, Source};
use mesh_core::pick::Caller;
use mesh_core::retry::{IdempotentMethods, InvalidDescriptorSet};
#[cfg(feature = "consul")]
use mesh_discovery::Consul;
use mesh_discovery::config_files::{self, ReadError};
use mesh_discovery::{Dns, Sources};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::runtime::Handle;

/// Builds a [`Mesh`]. Nothing is required.
///
/// ```no_run
/// # fn example() -> Result<(), mesh_tower::BuildError> {
/// use mesh_tower::Mesh;
///
/// let mesh = Mesh::builder()
///     .config_file("mesh.yaml")
///     .config_text("inline", "apiVersion: mesh/v1\nkind: Service\nmetadata: {name: inventory}\nspec: {endpoints: {static: [{address: '127.0.0.1:8080'}]}}")
///     .build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct MeshBuilder {
    files: Vec<PathBuf>,
    texts: Vec<Source>,
    dns: Option<Dns>,
    #[cfg(feature = "consul")]
    consul: Option<Consul>,
    names_by_consul: bool,
    #[cfg(feature = "consul")]
    consul_entries: bool,
    workers: usize,
    server_tls: Option<ServerTls>,
    service: Option<DestinationName>,
    caller: Caller,
    seed: Option<u64>,
    descriptor_sets: Vec<Box<[u8]>>,
}

#[derive(Debug)]
struct ServerTls {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

impl MeshBuilder {
    /// Reads a configuration file when built. Several are read as one: the same object in two of
    /// them is an error that names both places.
    #[must_use]
    pub fn config_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.files.push(path.into());
        self
    }

    /// Configuration as text; `name` stands for the file in messages.
    #[must_use]
    pub fn config_text(mut self, name: &str, text: impl Into<Arc<str>>) -> Self {
        self.texts.push(Source::new(name, text));
        self
    }

    /// The DNS servers to ask. Default: the system's.
    #[must_use]
    pub fn dns(mut self, dns: Dns) -> Self {
        self.dns = Some(dns);
        self
    }

    /// The Consul of Services with `endpoints.consul`, of configuration entries and of
    /// [`Mesh::watch_kv`]. Default: the agent of this machine, 127.0.0.1:8500.
    #[cfg(feature = "consul")]
    #[must_use]
    pub fn consul(mut self, consul: Consul) -> Self {
        self.consul = Some(consul);
        self
    }

    /// Names without a port that nobody configured are services in Consul's catalog, in place of
    /// DNS names: `web`, and as in Consul's DNS `[TAG.]web.service[.DATACENTER].consul`. Names with
    /// other dots, names with a port, addresses and `localhost` stay with DNS. Off.
    #[cfg(feature = "consul")]
    #[must_use]
    pub const fn names_by_consul(mut self) -> Self {
        self.names_by_consul = true;
        self
    }

    /// Consul's configuration entries (`service-router`, `service-splitter`, `service-resolver`,
    /// `service-defaults`) are laid over the files, live ([`crate::entries`]). What is called
    /// before Consul has told them goes by the files alone. Off.
    #[cfg(feature = "consul")]
    #[must_use]
    pub const fn consul_entries(mut self) -> Self {
        self.consul_entries = true;
        self
    }

    /// As the environment says, by the variables that Consul's own programs read
    /// ([`mesh_discovery::consul::Config::from_env`]): with `CONSUL_HTTP_ADDR` that Consul is asked,
    /// names are its services, and its configuration entries are followed. Without, nothing changes.
    ///
    /// # Errors
    /// When a variable cannot be used.
    #[cfg(feature = "consul")]
    pub fn consul_from_env(self) -> Result<Self, BuildError> {
        match mesh_discovery::consul::Config::from_env() {
            Ok(Some(config)) => {
                Ok(self.consul(Consul::new(config)).names_by_consul().consul_entries())
            }
            Ok(None) => Ok(self),
            Err(error) => Err(BuildError::Variable { name: error.name, why: error.why }),
        }
    }

    /// How many runtimes will use the mesh, each with connections of its own. Default 1; see
    /// [`Mesh::worker`].
    #[must_use]
    pub const fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// Our own name: [`Mesh::server`] applies the `ServerPolicy` of this service. Without it, the
    /// mesh's own.
    #[must_use]
    pub fn service(mut self, name: DestinationName) -> Self {
        self.service = Some(name);
        self
    }

    /// Who calls: where we run, our labels, our number. Zone-aware routing, `failoverPriority` and
    /// subsetting go by it. Default: nobody in particular. A `seed` of 0 is drawn anew.
    #[must_use]
    pub fn caller(mut self, caller: Caller) -> Self {
        self.caller = caller;
        self
    }

    /// Makes random decisions repeatable, for tests: those of the n-th call (split, fault, pick,
    /// back-off) then follow from the seed and n, in process and in the proxy (`--seed`) alike.
    /// Default: none. Picks by load or latency depend on measured time all the same.
    #[must_use]
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// The descriptors of gRPC services that are called, as an encoded `FileDescriptorSet`: methods
    /// that they declare idempotent (`idempotency_level`) may be sent again, whatever destination
    /// serves them ([`IdempotentMethods`] tells what else counts). Several add up.
    ///
    /// tonic's build script writes them with `file_descriptor_set_path`, and its macro
    /// `include_file_descriptor_set!` reads them.
    ///
    /// ```no_run
    /// # fn example(greeter: &[u8]) -> Result<(), mesh_tower::BuildError> {
    /// let mesh = mesh_tower::Mesh::builder().descriptor_set(greeter).build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn descriptor_set(mut self, encoded: &[u8]) -> Self {
        self.descriptor_sets.push(encoded.into());
        self
    }

    /// Certificate and key for [`Mesh::listen`], as PEM files that are read again when they change.
    /// With `client_ca`, callers must present a certificate signed by it (mTLS).
    #[must_use]
    pub fn server_tls(
        mut self,
        cert: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
        client_ca: Option<PathBuf>,
    ) -> Self {
        self.server_tls = Some(ServerTls { cert: cert.into(), key: key.into(), client_ca });
        self
    }

    /// Reads the configuration and starts discovery. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// When there is no runtime, a file cannot be read, a document is wrong, certificates do not
    /// fit, or a set of descriptors is none.
    pub fn build(self) -> Result<Mesh, BuildError> {
        let runtime = Handle::try_current().map_err(|_| BuildError::NoRuntime)?;
        let mut sources = self.texts;
        sources.extend(config_files::read(&self.files)?);
        #[cfg_attr(not(feature = "consul"), expect(unused_mut, reason = "nothing to replace"))]
        let mut discovery = Sources::new(self.dns.unwrap_or_else(Dns::system));
        #[cfg(feature = "consul")]
        if let Some(consul) = self.consul {
            discovery.consul = consul;
        }
        let server_tls = match self.server_tls {
            Some(ServerTls { cert, key, client_ca }) => Some(
                tls::Server::from_files(cert, key, client_ca)
                    .map(Arc::new)
                    .map_err(BuildError::Tls)?,
            ),
            None => None,
        };
        let mut methods = IdempotentMethods::default();
        for encoded in self.descriptor_sets {
            let read = IdempotentMethods::from_descriptor_set(&encoded);
            read.and_then(|read| methods.extend(read)).map_err(BuildError::DescriptorSet)?;
        }
        let mut caller = self.caller;
        if caller.seed == 0 {
            caller.seed = self.seed.map_or_else(|| fastrand::u64(1..), |seed| seed | 1);
        }
        let (workers, caller) = (self.workers.max(1), Arc::new(caller));
        let draws = Draws::new(self.seed);
        let methods = Arc::new(methods);
        let environment = Environment {
            sources: discovery,
            names_by_consul: self.names_by_consul,
            runtime,
            workers,
            caller,
            methods,
            draws,
        };
        let mesh = Mesh::start(environment, Metrics::new(), server_tls, self.service);
        if !sources.is_empty() {
            mesh.configure(&sources)?;
        }
        #[cfg(feature = "consul")]
        if self.consul_entries {
            mesh.follow_entries();
        }
        Ok(mesh)
    }
}

impl From<ReadError> for BuildError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NotText(errors) => Self::Config(errors),
            other => Self::Read(other),
        }
    }
}

/// Why a mesh could not be built, or a configuration not be put in force.
#[derive(Debug)]
#[non_exhaustive]
pub enum BuildError {
    /// [`MeshBuilder::build`] was called outside of a tokio runtime.
    NoRuntime,
    /// A configuration file could not be read.
    Read(ReadError),
    /// The configuration is wrong; each error says where.
    Config(config::Errors),
    /// A variable of the environment cannot be read.
    #[non_exhaustive]
    Variable {
        /// Its name.
        name: &'static str,
        /// Why not.
        why: String,
    },
    /// A file that [`MeshBuilder::server_tls`] names cannot be used.
    Tls(tls::LoadError),
    /// What [`MeshBuilder::descriptor_set`] got is no set of descriptors.
    DescriptorSet(InvalidDescriptorSet),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRuntime => {
                f.write_str("a mesh is built inside a tokio runtime, and there is none here")
            }
            Self::Read(error) => error.fmt(f),
            Self::Config(errors) => errors.fmt(f),
            Self::Variable { name, why } => write!(f, "{name} cannot be read: {why}"),
            Self::DescriptorSet(error) => write!(f, "`descriptor_set` cannot be used: {error}"),
            Self::Tls(error) => {
                write!(f, "`server_tls` cannot be used: {error}; {}", error.help())
            }
        }
    }
}

impl std::error::Error for BuildError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NoRuntime | Self::Variable { .. } => None,
            Self::Read(error) => Some(error),
            Self::Config(errors) => Some(errors),
            Self::Tls(error) => Some(error),
            Self::DescriptorSet(error) => Some(error),
        }
    }
}
