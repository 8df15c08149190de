//! A draft: what operations on keys make of the view, before anything is committed.
//!
//! Operations see what those before them did. Everything that was read is guarded, so that the
//! draft is committed only if it is still true. An entry whose `modify_index` is 0 was changed by
//! the draft; it gets its revision at commit.
//!
//! An operation that leaves an entry as it is changes nothing, its index included.
//!
//! Source: Consul's HTTP API, "KV Store", "Transactions", and answers of Consul 1.8.7.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::View;
use super::kv::KvEntry;
use super::lock_delay::LockDelays;
use crate::store::{Batch, Key, Table};

/// Length of a session's ID.
const UUID: usize = 36;

/// When a put is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cas {
    /// Always.
    #[default]
    Any,
    /// If there is no such key.
    Absent,
    /// If this revision changed it last.
    Unchanged(u64),
}

/// Why a key cannot be locked or unlocked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// None is named.
    #[error("missing session")]
    MissingSession,
    /// What is named cannot be one.
    #[error("failed session lookup: index error: UUID must be 36 characters")]
    NoSessionId,
    /// There is no such session.
    #[error("invalid session {0:?}")]
    InvalidSession(String),
}

/// Operations on keys that are not committed yet.
#[derive(Debug)]
pub struct Draft<'a> {
    view: &'a View,
    delays: &'a LockDelays,
    changed: BTreeMap<String, Option<KvEntry>>,
    /// Keys that were looked at, with their `modify_index`.
    read: BTreeMap<Key, Option<u64>>,
    /// Prefixes under which nothing may have come.
    settled: BTreeSet<String>,
}

impl<'a> Draft<'a> {
    pub(super) const fn new(view: &'a View, delays: &'a LockDelays) -> Self {
        Self {
            view,
            delays,
            changed: BTreeMap::new(),
            read: BTreeMap::new(),
            settled: BTreeSet::new(),
        }
    }

    /// One key.
    pub fn get(&mut self, key: &str) -> Option<KvEntry> {
        let there = self.view.kv().get(key).value;
        let modify_index = there.map(|entry| entry.modify_index);
        self.read.insert(Key::new(Table::Kv, key), modify_index);
        match self.changed.get(key) {
            Some(changed) => changed.clone(),
            None => there.cloned(),
        }
    }

    /// The keys that begin with `prefix`, in order.
    pub fn under(&mut self, prefix: &str) -> Vec<(String, KvEntry)> {
        let view = self.view;
        for (key, entry) in view.kv().under(prefix) {
            self.read.insert(Key::new(Table::Kv, key), Some(entry.modify_index));
        }
        self.merged(prefix)
    }

    /// As [`Draft::under`], but somebody else's deletions do not matter.
    fn merged(&mut self, prefix: &str) -> Vec<(String, KvEntry)> {
        self.settled.insert(prefix.to_owned());
        let mut all: BTreeMap<_, _> = self
            .view
            .kv()
            .under(prefix)
            .map(|(key, entry)| (key.to_owned(), entry.clone()))
            .collect();
        let from = self.changed.range(prefix.to_owned()..);
        for (key, changed) in from.take_while(|(key, _)| key.starts_with(prefix)) {
            match changed {
                Some(entry) => all.insert(key.clone(), entry.clone()),
                None => all.remove(key),
            };
        }
        all.into_iter().collect()
    }

    /// Puts a value; the entry as it is then, or `None` if the condition does not hold. Whoever
    /// holds its lock keeps it.
    pub fn set(&mut self, key: &str, value: &Bytes, flags: u64, cas: Cas) -> Option<KvEntry> {
        let there = self.get(key);
        let done = match cas {
            Cas::Any => true,
            Cas::Absent => there.is_none(),
            Cas::Unchanged(index) => is_at(there.as_ref(), index),
        };
        if !done {
            return None;
        }
        let (lock_index, session) =
            there.as_ref().map_or((0, None), |there| (there.lock_index, there.session.clone()));
        Some(self.put(key, there, KvEntry::new(value.clone(), flags, lock_index, session)))
    }

    /// Puts a value and takes the lock; `None` if somebody else has it, or had it until a moment
    /// ago and was cut off from it.
    ///
    /// # Errors
    /// When there is no such session.
    pub fn lock(
        &mut self,
        key: &str,
        value: &Bytes,
        flags: u64,
        session: &str,
    ) -> Result<Option<KvEntry>, LockError> {
        self.expect_session(session)?;
        if self.delays.is_active(key) {
            return Ok(None);
        }
        let there = self.get(key);
        let lock_index = match &there {
            None => 1,
            Some(KvEntry { session: None, lock_index, .. }) => lock_index + 1,
            Some(KvEntry { session: Some(holder), lock_index, .. }) if holder == session => {
                *lock_index
            }
            Some(_) => return Ok(None),
        };
        let entry = KvEntry::new(value.clone(), flags, lock_index, Some(session.to_owned()));
        Ok(Some(self.put(key, there, entry)))
    }

    /// Puts a value and gives the lock back; `None` if the session does not hold it.
    ///
    /// # Errors
    /// When no session is named.
    pub fn unlock(
        &mut self,
        key: &str,
        value: &Bytes,
        flags: u64,
        session: &str,
    ) -> Result<Option<KvEntry>, LockError> {
        if session.is_empty() {
            return Err(LockError::MissingSession);
        }
        let there = self.get(key).filter(|there| there.session.as_deref() == Some(session));
        Ok(there.map(|there| {
            let entry = KvEntry::new(value.clone(), flags, there.lock_index, None);
            self.put(key, Some(there), entry)
        }))
    }

    /// Deletes a key, if it is there.
    pub fn delete(&mut self, key: &str) {
        if self.get(key).is_some() {
            self.changed.insert(key.to_owned(), None);
        }
    }

    /// Deletes a key if this revision changed it last; whether that was so, or it is not there.
    pub fn delete_unchanged(&mut self, key: &str, index: u64) -> bool {
        let there = self.get(key);
        if there.is_none() {
            return true;
        }
        let done = is_at(there.as_ref(), index);
        if done {
            self.changed.insert(key.to_owned(), None);
        }
        done
    }

    /// Deletes the keys that begin with `prefix`.
    pub fn delete_under(&mut self, prefix: &str) {
        for (key, _) in self.merged(prefix) {
            self.changed.insert(key, None);
        }
    }

    /// What is to be committed.
    #[must_use]
    pub fn into_batch(self) -> Batch {
        let mut batch = Batch::default();
        for (key, changed) in self.changed {
            let name = Key::new(Table::Kv, key);
            match changed {
                Some(entry) => batch.put(name, entry.encode()),
                // What the draft itself made need not be there.
                None => batch.delete(name),
            }
        }
        if batch.is_empty() {
            return batch;
        }
        for (key, modify_index) in self.read {
            batch.expect(key, modify_index);
        }
        for prefix in self.settled {
            batch.expect_settled(Key::new(Table::Kv, prefix), self.view.revision());
        }
        batch
    }

    fn put(&mut self, key: &str, there: Option<KvEntry>, entry: KvEntry) -> KvEntry {
        if let Some(there) = there {
            if there.is_like(&entry) {
                return there;
            }
            let entry = KvEntry { create_index: there.create_index, ..entry };
            self.changed.insert(key.to_owned(), Some(entry.clone()));
            return entry;
        }
        self.changed.insert(key.to_owned(), Some(entry.clone()));
        entry
    }

    fn expect_session(&mut self, id: &str) -> Result<(), LockError> {
        if id.is_empty() {
            return Err(LockError::MissingSession);
        }
        if id.len() != UUID {
            return Err(LockError::NoSessionId);
        }
        let session = self.view.sessions().get(id);
        let session = session.ok_or_else(|| LockError::InvalidSession(id.to_owned()))?;
        // It must not end while its lock is taken.
        self.read.insert(Key::new(Table::Session, id), Some(session.modify_index));
        Ok(())
    }
}

/// Whether the entry is there, and of this revision. What the draft changed is of none yet.
fn is_at(there: Option<&KvEntry>, index: u64) -> bool {
    index > 0 && there.is_some_and(|there| there.modify_index == index)
}
