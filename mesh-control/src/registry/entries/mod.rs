//! Config entries.
//!
//! All of them have one index: that of the newest change of any, deletions included. It is the
//! revision of a record of its own (`MARK`), which every change puts anew. That also puts changes
//! in a row: an entry is checked against the others as they are when it is committed.
//!
//! Names are kept as they were written, and found without regard to case.

mod fit;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::{Cas, Indexed, Plan, Registry, Topic, View};
use crate::store::{Batch, Key, Record, StoreError, Table};
use crate::types::{ConfigEntry, EntryKind};

/// The name of the record whose revision is the index.
const MARK: &str = "";
/// Times that a change is checked anew because others were faster.
const TRIES: usize = 64;

/// Why entries are not changed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// It makes no sense, by itself or beside the others.
    #[error("{0}")]
    Refused(String),
    /// The store does not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An entry with its history.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct KeptEntry {
    /// What it says.
    #[serde(flatten)]
    pub entry: ConfigEntry,
    /// The revision that made it.
    #[serde(rename = "CreateIndex")]
    pub create_index: u64,
    /// The revision that changed it last.
    #[serde(rename = "ModifyIndex")]
    pub modify_index: u64,
}

/// By kind, and name in small letters.
type Kept = BTreeMap<(EntryKind, String), Arc<KeptEntry>>;

/// All entries.
#[derive(Debug, Default)]
pub struct Entries {
    /// Shared with whoever checks a change, so that no lock is held meanwhile.
    kept: Arc<Kept>,
    /// The revision of the mark.
    mark: Option<u64>,
    /// That revision; where a store was restored since, the one of that.
    index: u64,
}

impl Entries {
    /// One entry.
    #[must_use]
    pub fn get(&self, kind: EntryKind, name: &str) -> Indexed<Option<Arc<KeptEntry>>> {
        let entry = self.kept.get(&(kind, name.to_lowercase())).cloned();
        Indexed::new(self.index, entry)
    }

    /// All of a kind, by name.
    #[must_use]
    pub fn of_kind(&self, kind: EntryKind) -> Indexed<Vec<Arc<KeptEntry>>> {
        let all = self.kept.range((kind, String::new())..);
        let all = all.take_while(|((of, _), _)| *of == kind).map(|(_, entry)| Arc::clone(entry));
        Indexed::new(self.index, all.collect())
    }

    /// Takes the revision of a store that was just read for the index, if none is told in it.
    pub(super) fn settle(&mut self, revision: u64) {
        if self.mark.is_none() {
            self.index = revision;
        }
    }

    pub(super) fn put(&mut self, record: &Record) -> Result<Vec<Topic>, StoreError> {
        self.index = self.index.max(record.modify_index);
        if record.key.name == MARK {
            self.mark = Some(record.modify_index);
            return Ok(vec![Topic::ConfigEntries]);
        }
        let entry =
            ConfigEntry::read_json(&record.value).map_err(|error| StoreError::Unreadable {
                what: format!("the config entry {:?}", record.key.name),
                why: error.to_string(),
            })?;
        let place = (entry.kind(), entry.name().to_lowercase());
        let (create_index, modify_index) = (record.create_index, record.modify_index);
        let kept = KeptEntry { entry, create_index, modify_index };
        Arc::make_mut(&mut self.kept).insert(place, Arc::new(kept));
        Ok(vec![Topic::ConfigEntries])
    }

    pub(super) fn delete(&mut self, name: &str, revision: u64) -> Vec<Topic> {
        self.index = revision;
        if name == MARK {
            self.mark = None;
        } else if let Some((kind, name)) = name.split_once(Key::SEPARATOR)
            && let Ok(kind) = EntryKind::parse(kind)
        {
            Arc::make_mut(&mut self.kept).remove(&(kind, name.to_owned()));
        }
        vec![Topic::ConfigEntries]
    }
}

/// The record of an entry.
fn key(kind: EntryKind, name: &str) -> Key {
    Key::pair(Table::ConfigEntry, kind.name(), &name.to_lowercase())
}

impl Registry {
    /// Puts an entry, if it is as `cas` says; whether it was. One that is there as it is keeps its
    /// revision.
    ///
    /// # Errors
    /// [`EntryError::Refused`] when it makes no sense, or others would not any more.
    pub async fn put_entry(&self, entry: &ConfigEntry, cas: Cas) -> Result<bool, EntryError> {
        fit::alone(entry).map_err(EntryError::Refused)?;
        let value = serde_json::to_vec(entry).expect("an entry's keys are texts");
        let (kind, name) = (entry.kind(), entry.name());
        let change = |kept: &Kept| {
            let there = kept.get(&(kind, name.to_lowercase()));
            let holds = match cas {
                Cas::Any => true,
                Cas::Absent => there.is_none(),
                Cas::Unchanged(index) => there.is_some_and(|there| there.modify_index == index),
            };
            if !holds || there.is_some_and(|there| there.entry == *entry) {
                return Change::None(holds);
            }
            let mut batch = Batch::default();
            batch.put(key(kind, name), value.clone());
            Change::To(batch)
        };
        self.change_entries(change, |entries| {
            entries.insert((kind, name.to_lowercase()), entry.clone());
        })
        .await
    }

    /// Removes an entry, if it is there and `index`, where given, changed it last; whether it was
    /// removed, or was not there and need not have been.
    ///
    /// # Errors
    /// [`EntryError::Refused`] when others would make no sense any more.
    pub async fn delete_entry(
        &self,
        kind: EntryKind,
        name: &str,
        index: Option<u64>,
    ) -> Result<bool, EntryError> {
        let place = (kind, name.to_lowercase());
        let change = |kept: &Kept| match (kept.get(&place), index) {
            (None, index) => Change::None(index.is_none()),
            (Some(there), Some(index)) if there.modify_index != index => Change::None(false),
            (Some(_), _) => {
                let mut batch = Batch::default();
                batch.delete(key(kind, name));
                Change::To(batch)
            }
        };
        self.change_entries(change, |entries| {
            entries.remove(&place);
        })
        .await
    }

    async fn change_entries(
        &self,
        change: impl Fn(&Kept) -> Change,
        edit: impl Fn(&mut BTreeMap<(EntryKind, String), ConfigEntry>),
    ) -> Result<bool, EntryError> {
        for _ in 0..TRIES {
            let (kept, mark) =
                self.read(|view| (Arc::clone(&view.entries().kept), view.entries().mark));
            let mut batch = match change(&kept) {
                Change::None(answer) => return Ok(answer),
                Change::To(batch) => batch,
            };
            let entries = kept.iter().map(|(place, kept)| (place.clone(), kept.entry.clone()));
            let before: BTreeMap<_, _> = entries.collect();
            let mut after = before.clone();
            edit(&mut after);
            fit::together(&before, &after).map_err(EntryError::Refused)?;
            let whole = Key::new(Table::ConfigEntry, MARK);
            batch.expect(whole.clone(), mark);
            // Never the same, so that a restored snapshot puts it anew, too.
            batch.put(whole, fastrand::u64(..).to_string());
            let written = self.write(|view: &View| {
                if view.entries().mark != mark {
                    return Ok(Plan::nothing(false));
                }
                Ok::<_, StoreError>(Plan::new(batch.clone(), true))
            });
            if written.await?.value {
                return Ok(true);
            }
        }
        let why = format!("others changed config entries {TRIES} times while this was checked");
        Err(StoreError::Write(why).into())
    }
}

/// What a change comes to.
enum Change {
    /// Nothing, and this is the answer.
    None(bool),
    /// This.
    To(Batch),
}

#[cfg(test)]
mod tests;
