//! Puts a configuration in force: whole or not at all, and what stays keeps what is known of it.

use super::live::Live;
use super::{Mesh, Shared};
use crate::builder::BuildError;
use crate::connect;
use crate::descriptors;
use crate::destination::Destination;
#[cfg(feature = "consul")]
use crate::entries::Entries;
use crate::tls;
#[cfg(not(feature = "consul"))]
use mesh_core::config;
use mesh_core::config::{Diagnostic, Source};
use mesh_core::snapshot::{DestinationConfig, Snapshot};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Mesh {
    /// Puts a configuration in force, whole or not at all.
    ///
    /// Destinations that stay keep their endpoints, connections and what is known of them.
    ///
    /// # Errors
    /// When a document is wrong or a certificate cannot be read; the configuration in force stays.
    pub fn configure(&self, sources: &[Source]) -> Result<u64, BuildError> {
        let mut configured = self.shared.configured.lock();
        let version = self.shared.put(&mut configured, sources)?;
        configured.files = sources.to_vec();
        Ok(version)
    }
}

/// What the configuration in force was made of.
#[derive(Default)]
pub(crate) struct Configured {
    pub(crate) files: Vec<Source>,
    #[cfg(feature = "consul")]
    pub(crate) entries: Entries,
}

impl Shared {
    /// Puts files in force, with what of Consul's entries fits, whole or not at all.
    pub(crate) fn put(
        &self,
        configured: &mut Configured,
        files: &[Source],
    ) -> Result<u64, BuildError> {
        let version = self.version.load(Ordering::Relaxed) + 1;
        #[cfg(feature = "consul")]
        {
            let settled = configured.entries.settle(files, version).map_err(BuildError::Config)?;
            self.apply(settled.snapshot, &settled.sources)?;
            configured.entries.good = settled.good;
            configured.entries.refused = settled.refused;
        }
        #[cfg(not(feature = "consul"))]
        {
            let _ = configured;
            let documents = config::parse(files).map_err(BuildError::Config)?;
            let snapshot = config::compile(&documents, version).map_err(BuildError::Config)?;
            self.apply(snapshot, files)?;
        }
        self.version.store(version, Ordering::Relaxed);
        Ok(version)
    }

    /// Builds the destinations of a snapshot, those of the same name from the ones in force, and
    /// swaps both in. The caller holds `configured`.
    fn apply(&self, snapshot: Snapshot, sources: &[Source]) -> Result<(), BuildError> {
        // All that can fail comes first, so that nothing is changed by halves.
        let mut wrong = Vec::new();
        let mut connects = Vec::with_capacity(snapshot.destinations().len());
        let mut methods = Vec::with_capacity(snapshot.destinations().len());
        for config in snapshot.destinations() {
            match connect_settings(config) {
                Ok(connect) => connects.push(connect),
                Err(error) => wrong.push(located(config, &error, sources)),
            }
            match config.descriptor_set.as_deref().map(descriptors::read).transpose() {
                Ok(read) => methods.push(read.unwrap_or_default()),
                Err(why) => {
                    let origin = config.origins.of("descriptorSet");
                    let what = format!(
                        "`descriptorSet` of Service `{}` cannot be used: {why}",
                        config.name
                    );
                    wrong.push(Diagnostic::at(sources, &origin, what).with_help(descriptors::HELP));
                }
            }
        }
        if !wrong.is_empty() {
            return Err(BuildError::Config(wrong.into()));
        }
        let old = self.live.get();
        let known: HashMap<&str, &Arc<Destination>> = old
            .destinations
            .iter()
            .map(|destination| (&**destination.label(), destination))
            .collect();
        let destinations: Vec<_> = snapshot
            .destinations()
            .iter()
            .zip(connects)
            .zip(methods)
            .map(|((config, connect), methods)| {
                let name = config.name.to_string();
                let destination = match known.get(&*name) {
                    Some(destination) => {
                        destination.reconfigure(config, connect);
                        (*destination).clone()
                    }
                    None => {
                        let metrics = self.metrics.destination(&name);
                        Destination::start(name.into(), config, connect, &self.environment, metrics)
                    }
                };
                destination.declare(methods);
                destination
            })
            .collect();
        let policy = snapshot.default_policy().clone();
        let limits = old.limits_of(&snapshot);
        let named = snapshot.destinations().iter().map(|config| &config.name);
        self.services.replace(named.zip(&destinations));
        self.live.store(Live { snapshot: Arc::new(snapshot), destinations, limits });
        self.plain.reconfigure(&policy);
        Ok(())
    }
}

/// How to connect to the endpoints of a destination.
pub(crate) fn connect_settings(
    config: &DestinationConfig,
) -> Result<Arc<connect::Settings>, tls::LoadError> {
    let tls = match &config.tls {
        Some(tls) => Some(Arc::new(tls::Client::new(tls.into())?)),
        None => None,
    };
    Ok(Arc::new(connect::Settings::new(&config.policy, tls)))
}

/// What to say of a destination whose TLS settings cannot be used, and where they are written.
fn located(config: &DestinationConfig, error: &tls::LoadError, sources: &[Source]) -> Diagnostic {
    let setting = format!("tls.{}", error.setting());
    let what =
        format!("`{setting}` of Service `{}` cannot be used: {}", config.name, error.reason());
    Diagnostic::at(sources, &config.origins.of(&setting), what).with_help(error.help())
}
