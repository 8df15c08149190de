//! Configuration entries of the discovery chain: `service-router`, `service-splitter`,
//! `service-resolver` and `service-defaults`, all of each kind, by a blocking query per kind.
//!
//! They are handed on as they are written, as JSON, without what only Consul reads
//! (`CreateIndex`, `ModifyIndex`, `Hash`) and without `null`. Whether they make sense is for whoever compiles
//! them to say. Nothing is told before all kinds have been read once; after that each answer is.
//!
//! Source: Consul, API "Config", list configurations.

use super::client::Reply;
use super::follow::{Hear, Query, follow};
use super::{Consul, failure};
use crate::Failure;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The kinds that are read.
const KINDS: [&str; 4] =
    ["service-defaults", "service-resolver", "service-router", "service-splitter"];

/// One configuration entry.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// `service-router`, `service-splitter`, `service-resolver` or `service-defaults`.
    pub kind: &'static str,
    /// The service that it is about.
    pub name: String,
    /// The entry as JSON, over several lines.
    pub text: Arc<str>,
    /// The same, to look into.
    pub value: Arc<Value>,
}

impl Entry {
    /// An entry of a kind about a service, as Consul's API tells it.
    #[must_use]
    pub fn new(kind: &'static str, name: &str, value: Value) -> Self {
        // With indentation, so that a message can show the line that is wrong.
        let text = format!("{value:#}").into();
        Self { kind, name: name.to_owned(), text, value: Arc::new(value) }
    }
}

/// News of an [`EntriesWatch`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum EntriesUpdate {
    /// All entries, by kind and name.
    Entries(Vec<Entry>),
    /// Consul cannot be read; the last entries stay.
    Failed(Failure),
}

/// Follows the configuration entries. Dropping it ends its tasks.
pub struct EntriesWatch {
    told: watch::Receiver<Told>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Told {
    kinds: BTreeMap<&'static str, Vec<Entry>>,
    failures: BTreeMap<&'static str, Failure>,
}

impl EntriesWatch {
    /// The next news. `None`: the runtime is shutting down. Dropping the future loses nothing.
    pub async fn changed(&mut self) -> Option<EntriesUpdate> {
        loop {
            self.told.changed().await.ok()?;
            if let Some(update) = self.told.borrow_and_update().update() {
                return Some(update);
            }
        }
    }

    /// News that is there already, in place of the one that was told last.
    pub fn pending(&mut self) -> Option<EntriesUpdate> {
        if !self.told.has_changed().unwrap_or(false) {
            return None;
        }
        self.told.borrow_and_update().update()
    }
}

impl Told {
    fn update(&self) -> Option<EntriesUpdate> {
        if let Some(failure) = self.failures.values().next() {
            return Some(EntriesUpdate::Failed(failure.clone()));
        }
        let all = || self.kinds.values().flatten().cloned().collect();
        (self.kinds.len() == KINDS.len()).then(|| EntriesUpdate::Entries(all()))
    }
}

impl fmt::Debug for EntriesWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EntriesWatch").finish_non_exhaustive()
    }
}

impl Consul {
    /// Starts to follow the configuration entries. To be called inside a tokio runtime.
    #[must_use]
    pub fn watch_entries(&self) -> EntriesWatch {
        let (teller, told) = watch::channel(Told::default());
        let teller = Arc::new(teller);
        let mut tasks = JoinSet::new();
        for kind in KINDS {
            let datacenter = self.inner.config.datacenter.as_ref();
            let parameters = datacenter.map(|datacenter| ("dc", datacenter.clone()));
            let query = Query {
                path: format!("/v1/config/{kind}"),
                parameters: parameters.into_iter().collect(),
            };
            let of_kind = OfKind { kind, teller: teller.clone() };
            tasks.spawn(follow(self.inner.clone(), query, of_kind));
        }
        EntriesWatch { told, _tasks: tasks }
    }
}

struct OfKind {
    kind: &'static str,
    teller: Arc<watch::Sender<Told>>,
}

impl Hear for OfKind {
    fn heard(&mut self, reply: &Reply) -> Result<(), String> {
        let entries = if reply.found { read(self.kind, &reply.body)? } else { Vec::new() };
        self.teller.send_if_modified(|told| {
            let over = told.failures.remove(self.kind).is_some();
            if told.kinds.get(self.kind) == Some(&entries) {
                return over;
            }
            told.kinds.insert(self.kind, entries);
            true
        });
        Ok(())
    }

    fn failed(&mut self, why: String) {
        let failure = failure(why);
        self.teller.send_if_modified(|told| {
            let before = told.failures.insert(self.kind, failure.clone());
            if before.as_ref() == Some(&failure) {
                return false;
            }
            tracing::warn!("{failure}");
            true
        });
    }
}

fn read(kind: &'static str, body: &[u8]) -> Result<Vec<Entry>, String> {
    let written: Option<Vec<Value>> = serde_json::from_slice(body)
        .map_err(|error| format!("its answer is no list of entries: {error}"))?;
    let mut entries = Vec::new();
    for mut value in written.unwrap_or_default() {
        without_null(&mut value);
        let Value::Object(object) = &mut value else {
            return Err("its answer is no list of entries: one is no object".to_owned());
        };
        for key in ["CreateIndex", "ModifyIndex", "Hash"] {
            object.remove(key);
        }
        if object.get("Kind").and_then(Value::as_str) != Some(kind) {
            return Err(format!("its answer has an entry that is no {kind}"));
        }
        let Some(name) = object.get("Name").and_then(Value::as_str).map(str::to_owned) else {
            return Err(format!("its answer has a {kind} without a name"));
        };
        entries.push(Entry::new(kind, &name, value));
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// Go writes what is not set as `null` at times.
fn without_null(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.retain(|_, value| !value.is_null());
            object.values_mut().for_each(without_null);
        }
        Value::Array(list) => list.iter_mut().for_each(without_null),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_handed_on_without_what_only_consul_reads() {
        let entries = read(
            "service-splitter",
            br#"[{"Kind":"service-splitter","Name":"web","Meta":null,"CreateIndex":7,
                  "Splits":[{"Weight":100,"Service":null}],"ModifyIndex":9},
                 {"Kind":"service-splitter","Name":"api","Splits":[]}]"#,
        );
        let entries = entries.expect("it can be read");
        let names: Vec<&str> = entries.iter().map(|entry| &*entry.name).collect();
        assert_eq!(names, ["api", "web"]);
        let text: String = entries[1].text.split_whitespace().collect();
        let wanted = r#"{"Kind":"service-splitter","Name":"web","Splits":[{"Weight":100}]}"#;
        assert_eq!(text, wanted);
    }

    #[test]
    fn what_is_no_list_of_entries_of_the_kind_is_refused_whole() {
        for body in [
            "",
            "{}",
            "[7]",
            r#"[{"Kind":"service-router"}]"#,
            r#"[{"Kind":"service-splitter"}]"#,
            r#"[{"Kind":"service-splitter","Name":7}]"#,
        ] {
            read("service-splitter", body.as_bytes()).expect_err(body);
        }
    }
}
