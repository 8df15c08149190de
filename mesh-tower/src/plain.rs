//! Plain: the destinations of authorities that nobody configured.
//!
//! Each is made at the first call that names it, as a DNS name under the policy of the mesh; where
//! names are Consul's, one without a port is a service in its catalog. It is forgotten, with its connections, its metrics and its questions to DNS or Consul, when no call has named
//! it for 5 minutes, or for 1 minute when there is no room, and nobody holds it: neither a call
//! in flight nor a service made by [`Mesh::balance`](crate::Mesh::balance). When it is called
//! again it is made again.
//!
//! There are at most 1,024. One more is refused as [`ErrorKind::NoDestination`], which
//! `mesh.shed` counts under `_OTHER`: a program that calls more names than this within a minute
//! calls what strangers wrote.
//!
//! A call costs one lookup, and at most once a second a note of the time.

use crate::clock;
use crate::destination::{Destination, Environment};
use crate::mesh::connect_settings;
use crate::telemetry::Metrics;
use mesh_core::{Error, ErrorKind, Policy, Swap, Timestamp};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::sleep;

/// Most of them at once.
const LIMIT: usize = 1024;
/// Unused for this long, one is forgotten.
const UNUSED: Duration = Duration::from_secs(300);
/// Unused for this long, one makes room for another.
const UNUSED_WHEN_FULL: Duration = Duration::from_secs(60);
/// How often unused ones are looked for.
const SWEEP: Duration = Duration::from_secs(60);
/// How exactly the last use is known.
const NOTE: Duration = Duration::from_secs(1);

type Table = HashMap<Box<str>, Arc<Entry>>;

/// See the [module docs](self).
pub(crate) struct Plain {
    /// By authority; `http://` first, `https://` second.
    known: [Swap<Table>; 2],
    /// Held while `known` is rebuilt: on the path of the first call to an authority, so never for
    /// as long as a configuration takes.
    state: Mutex<State>,
    environment: Environment,
    metrics: Metrics,
}

#[derive(Default)]
struct State {
    /// A task looks for unused ones.
    sweeping: bool,
    /// It was told that there is no room.
    told: bool,
}

struct Entry {
    destination: Arc<Destination>,
    /// When it was last named, in nanoseconds of [`Timestamp`].
    used: AtomicU64,
}

impl Entry {
    fn touch(&self, now: Timestamp) {
        if self.unused(now) >= NOTE {
            self.used.store(now.as_nanos(), Relaxed);
        }
    }

    fn unused(&self, now: Timestamp) -> Duration {
        now.since(Timestamp::from_nanos(self.used.load(Relaxed)))
    }
}

impl Plain {
    pub(crate) fn new(environment: Environment, metrics: Metrics) -> Arc<Self> {
        let state = Mutex::new(State::default());
        Arc::new(Self { known: Default::default(), state, environment, metrics })
    }

    /// The destination of an authority; `policy` is asked for when it is made.
    ///
    /// # Errors
    /// When the authority is none, or there is no room.
    pub(crate) fn destination(
        self: &Arc<Self>,
        authority: &str,
        https: bool,
        now: Timestamp,
        policy: impl FnOnce() -> Arc<Policy>,
    ) -> Result<Arc<Destination>, Error> {
        match self.known[usize::from(https)].load().get(authority) {
            Some(found) => {
                found.touch(now);
                Ok(found.destination.clone())
            }
            None => self.add(authority, https, now, policy),
        }
    }

    fn add(
        self: &Arc<Self>,
        authority: &str,
        https: bool,
        now: Timestamp,
        policy: impl FnOnce() -> Arc<Policy>,
    ) -> Result<Arc<Destination>, Error> {
        let mut state = self.state.lock();
        let table = &self.known[usize::from(https)];
        if let Some(found) = table.load().get(authority) {
            found.touch(now);
            return Ok(found.destination.clone());
        }
        let Some(config) = self.environment.of_authority(authority, https, policy()) else {
            let reason = format!("`{}` is not host or host:port", authority.escape_debug());
            return Err(Error::new(ErrorKind::NoRoute, reason));
        };
        if self.len() >= LIMIT {
            self.forget(now, UNUSED_WHEN_FULL);
        }
        if self.len() >= LIMIT {
            self.metrics.other().shed(ErrorKind::NoDestination);
            let reason = format!(
                "{LIMIT} authorities without configuration are in use already; configure the ones you need"
            );
            if !std::mem::replace(&mut state.told, true) {
                tracing::warn!("further ones are refused: {reason}");
            }
            return Err(Error::new(ErrorKind::NoDestination, reason).with_destination(authority));
        }
        state.told = false;
        let connect = connect_settings(&config).map_err(|error| {
            Error::new(ErrorKind::Tls, error.to_string()).with_destination(authority)
        })?;
        let metrics = self.metrics.destination(authority);
        let made =
            Destination::start(authority.into(), &config, connect, &self.environment, metrics);
        let entry = Entry { destination: made.clone(), used: AtomicU64::new(now.as_nanos()) };
        let mut all = Table::clone(&table.load());
        all.insert(authority.into(), Arc::new(entry));
        table.store(all);
        if !std::mem::replace(&mut state.sweeping, true) {
            self.environment.runtime.spawn(sweep(Arc::downgrade(self)));
        }
        Ok(made)
    }

    fn len(&self) -> usize {
        self.known.iter().map(|known| known.load().len()).sum()
    }

    /// Forgets what nobody holds and no call has named for so long. The caller holds `state`.
    fn forget(&self, now: Timestamp, unused: Duration) {
        for known in &self.known {
            let table = known.get();
            let stays = |entry: &Entry| {
                entry.unused(now) < unused || Arc::strong_count(&entry.destination) > 1
            };
            let (kept, gone): (Vec<_>, Vec<_>) = table.iter().partition(|(_, entry)| stays(entry));
            if gone.is_empty() {
                continue;
            }
            known.store(
                kept.into_iter().map(|(name, entry)| (name.clone(), entry.clone())).collect(),
            );
            let names: Vec<Box<str>> = gone.into_iter().map(|(name, _)| name.clone()).collect();
            // With the last table that holds them the destinations end, and let go of their metrics.
            drop(table);
            names.iter().for_each(|name| self.metrics.forget(name));
            tracing::debug!("{} unused authorities without configuration forgotten", names.len());
        }
    }

    /// Puts all under a policy. One that is added meanwhile has it already: `policy` is in force.
    pub(crate) fn reconfigure(&self, policy: &Arc<Policy>) {
        let _state = self.state.lock();
        for (https, known) in [false, true].into_iter().zip(&self.known) {
            for (authority, entry) in known.load().iter() {
                if *entry.destination.policy() == **policy {
                    continue;
                }
                let config = self.environment.of_authority(authority, https, policy.clone());
                let Some(config) = config else { continue };
                match connect_settings(&config) {
                    Ok(connect) => entry.destination.reconfigure(&config, connect),
                    Err(error) => tracing::warn!(
                        "mesh.destination" = &**authority,
                        "the destination keeps its policy: {error}",
                    ),
                }
            }
        }
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Arc<Destination>> {
        let each = |known: &Swap<Table>| -> Vec<_> {
            known.load().values().map(|entry| entry.destination.clone()).collect()
        };
        self.known.iter().flat_map(each).collect()
    }
}

/// Forgets unused ones until none is left.
async fn sweep(plain: Weak<Plain>) {
    loop {
        sleep(SWEEP).await;
        let Some(plain) = plain.upgrade() else { return };
        let mut state = plain.state.lock();
        plain.forget(clock::now(), UNUSED);
        if plain.len() == 0 {
            state.sweeping = false;
            return;
        }
    }
}
