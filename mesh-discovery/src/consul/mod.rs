//! Consul: instances and their health from its catalog, its configuration entries, and its
//! key-value store, by blocking queries (feature `consul`).
//!
//! Any server with the same HTTP API will do: Consul 1.4 or later, or another that speaks it.
//!
//! - **Instances**: [`Consul::service`]; what an instance's checks, weights and metadata make of an
//!   endpoint is told in `health.rs`.
//! - **Configuration entries**: [`Consul::watch_entries`]. **Key-value pairs**:
//!   [`Consul::watch_kv`].
//! - **When**: a blocking query per watch, each with a connection of its own, as `blocking.rs` says:
//!   a change arrives as soon as Consul has it. Nudges are not followed: what could be asked is
//!   being waited for already. An agent serves 200 connections per client address unless its
//!   `limits.http_max_conns_per_client` says otherwise.
//! - **What is believed**: an answer that is whole. An answer that is cut off, too large, of another
//!   form or an error changes nothing; it is told, and asked again with a back-off that spreads
//!   clients.
//! - **Secrets**: the token is in no message and no `Debug`.

mod blocking;
mod client;
mod config;
mod entries;
mod follow;
mod health;
mod kv;
mod tls;

pub use config::{Address, Config, InvalidAddress, InvalidToken, InvalidVariable, Token};
pub use entries::{EntriesUpdate, EntriesWatch, Entry};
pub use kv::{KvPair, KvPairs, KvUpdate, KvWatch};

use crate::{Failure, Resolve, Watch};
use follow::follow;
use health::Health;
use mesh_core::ErrorKind;
use mesh_core::snapshot::ConsulService;
use std::fmt;
use std::sync::Arc;

/// The way to Consul; cheap to clone, shared by all watches.
///
/// ```no_run
/// use mesh_core::snapshot::ConsulService;
/// use mesh_discovery::{Consul, Resolve, consul::Config};
///
/// # async fn example() {
/// let mut config = Config::default();
/// config.address = "consul.internal:8500".parse().expect("an address");
/// let mut web = Consul::new(config).service(ConsulService::new("web")).watch();
/// let update = web.changed().await;
/// # }
/// ```
#[derive(Clone)]
pub struct Consul {
    inner: Arc<Inner>,
}

struct Inner {
    config: Arc<Config>,
}

impl Inner {
    fn draws(&self) -> fastrand::Rng {
        match self.config.seed {
            Some(seed) => fastrand::Rng::with_seed(seed),
            None => fastrand::Rng::new(),
        }
    }
}

impl Consul {
    /// With these settings. Nothing is asked yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { inner: Arc::new(Inner { config: Arc::new(config) }) }
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// The source for the instances of one service.
    #[must_use]
    pub fn service(&self, service: ConsulService) -> ConsulName {
        ConsulName { consul: self.clone(), service }
    }
}

impl Default for Consul {
    /// The agent of this machine.
    fn default() -> Self {
        Self::new(Config::default())
    }
}

impl fmt::Debug for Consul {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consul").field("config", &self.inner.config).finish()
    }
}

/// One service in Consul's catalog as a source of endpoints.
#[derive(Clone, Debug)]
pub struct ConsulName {
    consul: Consul,
    service: ConsulService,
}

impl Resolve for ConsulName {
    fn watch(&self) -> Watch {
        let consul = self.consul.inner.clone();
        let query = health::query(&self.service, &consul);
        let service = shown(&self.service.service);
        Watch::spawn(|publisher, _| {
            follow(consul, query, Health { service, publisher, noted: None })
        })
    }
}

fn failure(message: String) -> Failure {
    Failure::new(ErrorKind::NoHealthyEndpoint, message)
}

/// What Consul said, for a person: short, too.
fn shown(text: &str) -> String {
    client::printable(&text.chars().take(100).collect::<String>())
}
