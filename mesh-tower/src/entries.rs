//! Entries: Consul's configuration entries, laid over the files and put in force live.
//!
//! ```text
//! wanted := all entries that Consul has
//! compile(files + services + wanted) ── fits ──► in force
//!      ▲                │ an entry is at fault
//!      └────────────────┘ it goes back to its last good form; without one it is left out
//! ```
//!
//! An entry is at fault when an error names a place in it. So a bad entry costs nobody else
//! anything, and each that is not in force says why ([`RefusedEntry`]); it is tried again with the next
//! change of anything. Errors in the files alone are nobody's fault here: they are told as ever, and
//! what is in force stays.
//!
//! A service that an entry of a chain is about or sends to, and that no file has, becomes a Service
//! with the instances of that name in Consul's catalog. Its `appProtocol` is that of its
//! `service-defaults`, which say nothing else here; `http` if there is none. Its resolver may have
//! subsets by any key. A Service of a file stands. An entry of a file goes when Consul has one of its
//! kind and name that fits, and is back as soon as Consul has none.

use crate::mesh::{Mesh, Shared};
use mesh_core::config::{self, Documents, Errors, Severity, Source};
use mesh_core::snapshot::Snapshot;
use mesh_core::{DEFAULT_NAMESPACE, DestinationName};
use mesh_discovery::consul::{EntriesUpdate, EntriesWatch, Entry};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::task::AbortHandle;

/// How long the answers on other kinds may take to follow: Consul wakes them all at once.
const TOGETHER: Duration = Duration::from_millis(20);

/// An entry by kind and name.
type Key = (&'static str, String);

/// Why an entry of Consul is not in force as it stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RefusedEntry {
    /// Its kind, such as `service-splitter`.
    pub kind: &'static str,
    /// The service that it is about.
    pub name: String,
    /// What is wrong with it, and where.
    pub why: String,
    /// Whether an earlier form of it is in force in its place.
    pub is_replaced: bool,
}

impl fmt::Display for RefusedEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instead = if self.is_replaced { "its last good form stays" } else { "it is left out" };
        write!(f, "{} `{}`: {instead}: {}", self.kind, self.name.escape_debug(), self.why)
    }
}

/// What Consul has, and what of it is in force.
#[derive(Default)]
pub(crate) struct Entries {
    pub(crate) wanted: Vec<Entry>,
    pub(crate) good: BTreeMap<Key, Entry>,
    pub(crate) refused: Vec<RefusedEntry>,
}

/// A configuration with the entries that fit.
pub(crate) struct Settled {
    pub(crate) snapshot: Snapshot,
    /// What it was compiled from.
    pub(crate) sources: Vec<Source>,
    pub(crate) good: BTreeMap<Key, Entry>,
    pub(crate) refused: Vec<RefusedEntry>,
}

impl Entries {
    /// Compiles files with the entries that are wanted.
    ///
    /// # Errors
    /// When something is wrong that no entry is at fault for.
    pub(crate) fn settle(&self, files: &[Source], version: u64) -> Result<Settled, Errors> {
        let known = known(&config::parse(files)?);
        let mut using: BTreeMap<Key, &Entry> =
            self.wanted.iter().map(|entry| (key(entry), entry)).collect();
        let mut refused: BTreeMap<Key, RefusedEntry> = BTreeMap::new();
        loop {
            let sources = laid_over(files, &known, using.values().copied());
            let compiled = config::parse(&sources)
                .and_then(|parsed| config::compile(&parsed.replaced_from(files.len()), version));
            let errors = match compiled {
                Ok(snapshot) => {
                    let good = using.into_iter().map(|(key, entry)| (key, entry.clone())).collect();
                    let refused = refused.into_values().collect();
                    return Ok(Settled { snapshot, sources, good, refused });
                }
                Err(errors) => errors,
            };
            let at_fault = at_fault(&errors, &using);
            if at_fault.is_empty() {
                return Err(errors);
            }
            // Each round takes a step with at least one entry: new, last good, none.
            for (key, why) in at_fault {
                let last = self.good.get(&key);
                let current = using.remove(&key);
                let last = last.filter(|last| current.is_some_and(|entry| entry != *last));
                let is_replaced = last.is_some();
                if let Some(last) = last {
                    using.insert(key.clone(), last);
                }
                let (kind, name) = key.clone();
                refused
                    .entry(key)
                    .and_modify(|told| told.is_replaced = is_replaced)
                    .or_insert(RefusedEntry { kind, name, why, is_replaced });
            }
        }
    }
}

fn key(entry: &Entry) -> Key {
    (entry.kind, entry.name.clone())
}

/// What stands for an entry in messages.
fn source_name(kind: &str, name: &str) -> String {
    let name: String = name.chars().take(100).collect();
    format!("consul:{kind}/{}", name.escape_debug())
}

/// The entries that errors name a place in, with what the first error says of each.
fn at_fault(errors: &Errors, using: &BTreeMap<Key, &Entry>) -> BTreeMap<Key, String> {
    let names: BTreeMap<String, &Key> =
        using.keys().map(|key| (source_name(key.0, &key.1), key)).collect();
    let mut found = BTreeMap::new();
    let errors = errors.diagnostics().iter().filter(|told| told.severity == Severity::Error);
    for error in errors {
        // The first place is where the error is; others have to do with it.
        let place = error.places.iter().find_map(|place| names.get(&*place.file));
        if let Some(key) = place {
            found.entry((*key).clone()).or_insert_with(|| error.to_string());
            continue;
        }
        // In a service that is there for entries: all that need it.
        let needs = |name: &str, key: &Key, entry: &Entry| {
            let mut needed = BTreeSet::from([key.1.clone()]);
            services_of(&entry.value, &mut needed);
            needed.iter().any(|needed| source_name("service", needed) == name)
        };
        for (key, entry) in using {
            if error.places.iter().any(|place| needs(&place.file, key, entry)) {
                found.entry(key.clone()).or_insert_with(|| error.to_string());
            }
        }
    }
    found
}

/// The services of files, those in the default namespace.
fn known(files: &Documents) -> BTreeSet<String> {
    let services = files.services().filter(|(namespace, _)| *namespace == DEFAULT_NAMESPACE);
    services.map(|(_, name)| name.to_owned()).collect()
}

/// Files, the services that entries need beside those of files, and the entries.
fn laid_over<'a>(
    files: &[Source],
    known: &BTreeSet<String>,
    entries: impl Iterator<Item = &'a Entry> + Clone,
) -> Vec<Source> {
    let mut sources = files.to_vec();
    let (defaults, chains): (Vec<_>, Vec<_>) =
        entries.partition(|entry| entry.kind == "service-defaults");
    let mut needed = BTreeSet::new();
    for entry in &chains {
        needed.insert(entry.name.clone());
        services_of(&entry.value, &mut needed);
    }
    needed.retain(|name| {
        !known.contains(name) && DestinationName::new(DEFAULT_NAMESPACE, name).is_ok()
    });
    for name in &needed {
        let own = |entry: &&&Entry| entry.name == *name;
        let protocol = defaults.iter().find(own).and_then(|entry| entry.value["Protocol"].as_str());
        let resolver = chains.iter().filter(own).find(|entry| entry.kind == "service-resolver");
        let keys = resolver.map(|entry| subset_keys(&entry.value)).unwrap_or_default();
        sources.push(Source::new(source_name("service", name), service(name, protocol, &keys)));
    }
    for entry in chains {
        sources.push(Source::new(source_name(entry.kind, &entry.name), entry.text.clone()));
    }
    sources
}

/// The services that an entry sends to: the texts under `Service`, wherever they stand.
fn services_of(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::String(name) if key == "Service" && !name.is_empty() => {
                        found.insert(name.clone());
                    }
                    // Free texts of people and of fields, whose keys may be anything.
                    _ if matches!(key.as_str(), "Meta" | "RequestHeaders" | "ResponseHeaders") => {}
                    _ => services_of(value, found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| services_of(value, found)),
        _ => {}
    }
}

/// The keys of metadata that each subset of a resolver asks for.
fn subset_keys(resolver: &Value) -> BTreeSet<Vec<String>> {
    let subsets = resolver["Subsets"].as_object().into_iter().flatten();
    let filters = subsets.filter_map(|(_, subset)| subset["Filter"].as_str());
    let keys = filters.map(|filter| {
        let keys = filter.split(" and ").filter_map(|condition| {
            let (selector, _) = condition.split_once("==")?;
            Some(selector.trim().strip_prefix("Service.Meta.")?.to_owned())
        });
        keys.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    });
    keys.filter(|keys| !keys.is_empty()).collect()
}

/// A service of the catalog, as a file would have it.
fn service(name: &str, protocol: Option<&str>, subset_keys: &BTreeSet<Vec<String>>) -> String {
    let known = |protocol: &&str| matches!(*protocol, "tcp" | "http2" | "grpc");
    let protocol = protocol.filter(known).unwrap_or("http");
    let service = json!({
        "apiVersion": "mesh/v1",
        "kind": "Service",
        "metadata": { "name": name },
        "spec": { "endpoints": { "consul": { "service": name } }, "appProtocol": protocol },
    });
    if subset_keys.is_empty() {
        return service.to_string();
    }
    let selectors: Vec<Value> = subset_keys.iter().map(|keys| json!({ "keys": keys })).collect();
    let policy = json!({
        "apiVersion": "mesh/v1",
        "kind": "TrafficPolicy",
        "metadata": { "name": format!("consul-{name}") },
        "spec": {
            "targetRef": { "kind": "Service", "name": name },
            "pick": { "subsets": { "selectors": selectors } },
        },
    });
    format!("{service}\n---\n{policy}\n")
}

impl Mesh {
    /// The configuration entries of Consul that are not in force as they stand there, by kind and
    /// name.
    #[must_use]
    pub fn refused_entries(&self) -> Vec<RefusedEntry> {
        self.shared.configured.lock().entries.refused.clone()
    }

    pub(crate) fn follow_entries(&self) {
        let environment = &self.shared.environment;
        let _in_runtime = environment.runtime.enter();
        let watch = environment.sources.consul.watch_entries();
        let task = environment.runtime.spawn(follow(watch, Arc::downgrade(&self.shared)));
        // It is built once, so nobody follows yet.
        let _ = self.shared.following.set(Following(task.abort_handle()));
    }
}

impl Shared {
    fn entries(&self, wanted: Vec<Entry>) {
        let mut configured = self.configured.lock();
        if configured.entries.wanted == wanted {
            return;
        }
        configured.entries.wanted = wanted;
        let files = std::mem::take(&mut configured.files);
        let before = configured.entries.refused.clone();
        let put = self.put(&mut configured, &files);
        configured.files = files;
        match put {
            Ok(_) => {
                let refused = &configured.entries.refused;
                for refused in refused.iter().filter(|refused| !before.contains(refused)) {
                    tracing::warn!("Consul's {refused}");
                }
            }
            Err(error) => {
                tracing::warn!("Consul's configuration entries are not put in force: {error}")
            }
        }
    }
}

/// Ends the task with the mesh.
#[derive(Debug)]
pub(crate) struct Following(AbortHandle);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Puts in force what Consul says, until the mesh is gone.
async fn follow(mut watch: EntriesWatch, mesh: Weak<Shared>) {
    while let Some(update) = watch.changed().await {
        let EntriesUpdate::Entries(mut entries) = update else { continue };
        tokio::time::sleep(TOGETHER).await;
        if let Some(EntriesUpdate::Entries(newer)) = watch.pending() {
            entries = newer;
        }
        let Some(mesh) = mesh.upgrade() else { return };
        mesh.entries(entries);
    }
}

#[cfg(test)]
#[path = "entries_tests.rs"]
mod tests;
