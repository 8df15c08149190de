//! Keys and values.
//!
//! In the store a value is a line of JSON (flags, lock) and then the bytes as they are.
//!
//! The index of a prefix counts the deletions under it, so that a query that waits for it sees them,
//! and it never goes back. The newest 16,384 deletions are remembered by their key; of those before
//! only the newest revision is, which then is the least index of every prefix. So it is after a
//! start, too: a query may then be answered once without a change.
//!
//! Source: Consul's HTTP API, "KV Store Endpoints".

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::{Indexed, Topic};
use crate::store::{Record, StoreError};

/// Deletions that are remembered by their key.
const REMEMBERED: usize = 16_384;

/// One key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KvEntry {
    /// The value, as it was put.
    pub value: Bytes,
    /// Whatever its writer wants to say by a number.
    pub flags: u64,
    /// How often it was locked.
    pub lock_index: u64,
    /// The session that holds its lock.
    pub session: Option<String>,
    /// The revision that made it.
    pub create_index: u64,
    /// The revision that changed it last.
    pub modify_index: u64,
}

/// The first line of a value in the store.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Header {
    #[serde(skip_serializing_if = "is_zero")]
    flags: u64,
    #[serde(skip_serializing_if = "is_zero")]
    lock_index: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl KvEntry {
    /// An entry that no revision has made yet.
    pub(super) const fn new(
        value: Bytes,
        flags: u64,
        lock_index: u64,
        session: Option<String>,
    ) -> Self {
        Self { value, flags, lock_index, session, create_index: 0, modify_index: 0 }
    }

    /// Whether they are the same but for their revisions.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        (self.flags, self.lock_index) == (other.flags, other.lock_index)
            && self.session == other.session
            && self.value == other.value
    }

    fn decode(record: &Record) -> Result<Self, StoreError> {
        let unreadable = |why: String| StoreError::Unreadable {
            what: format!("the key {:?}", record.key.name),
            why,
        };
        let end = record.value.iter().position(|byte| *byte == b'\n');
        let end = end.ok_or_else(|| unreadable("its first line does not end".to_owned()))?;
        let header: Header = serde_json::from_slice(&record.value[..end])
            .map_err(|error| unreadable(error.to_string()))?;
        Ok(Self {
            value: record.value.slice(end + 1..),
            flags: header.flags,
            lock_index: header.lock_index,
            session: header.session,
            create_index: record.create_index,
            modify_index: record.modify_index,
        })
    }

    /// As it stands in the store.
    pub(super) fn encode(&self) -> Bytes {
        let header = Header {
            flags: self.flags,
            lock_index: self.lock_index,
            session: self.session.clone(),
        };
        let mut row = BytesMut::with_capacity(self.value.len() + 64).writer();
        serde_json::to_writer(&mut row, &header).expect("numbers and a text are always JSON");
        let mut row = row.into_inner();
        row.put_u8(b'\n');
        row.extend_from_slice(&self.value);
        row.freeze()
    }
}

/// All keys.
#[derive(Debug, Default)]
pub struct KvTable {
    entries: BTreeMap<String, KvEntry>,
    /// The revision of the newest change, deletions included.
    index: u64,
    deleted: Deleted,
    /// Keys by the session that holds their lock.
    held: HashMap<String, BTreeSet<String>>,
}

/// What is remembered of deletions.
#[derive(Debug, Default)]
struct Deleted {
    by_key: BTreeMap<String, u64>,
    /// In their order; a key that was put or deleted again since is there in vain.
    order: VecDeque<(u64, String)>,
    /// The newest of those that are not remembered.
    before: u64,
}

impl Deleted {
    fn remember(&mut self, key: &str, revision: u64) {
        self.by_key.insert(key.to_owned(), revision);
        self.order.push_back((revision, key.to_owned()));
        if self.order.len() > REMEMBERED
            && let Some((revision, key)) = self.order.pop_front()
        {
            self.before = self.before.max(revision);
            if self.by_key.get(&key) == Some(&revision) {
                self.by_key.remove(&key);
            }
        }
    }
}

impl KvTable {
    /// One key. Its index is that of its last change; without it, of the last change of any key.
    #[must_use]
    pub fn get(&self, key: &str) -> Indexed<Option<&KvEntry>> {
        let entry = self.entries.get(key);
        Indexed::new(entry.map_or(self.index, |entry| entry.modify_index), entry)
    }

    /// The keys that begin with `prefix`, in order.
    pub fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a KvEntry)> {
        beginning(&self.entries, prefix)
    }

    /// The revision of the newest change under `prefix`, deletions included; of any key, where
    /// nothing is known under it.
    #[must_use]
    pub fn index_under(&self, prefix: &str) -> u64 {
        let entries = self.under(prefix).map(|(_, entry)| entry.modify_index);
        let deleted = beginning(&self.deleted.by_key, prefix).map(|(_, revision)| *revision);
        entries
            .chain(deleted)
            .max()
            .map_or(self.index, |newest| newest.max(self.deleted.before))
            .max(1)
    }

    /// The keys whose lock this session holds.
    pub fn held_by(&self, session: &str) -> impl Iterator<Item = &str> {
        self.held.get(session).into_iter().flatten().map(String::as_str)
    }

    /// The sessions that hold locks.
    pub(super) fn holders(&self) -> impl Iterator<Item = &str> {
        self.held.keys().map(String::as_str)
    }

    /// Takes the revision of a store that was just read for that of what was deleted before.
    pub(super) fn settle(&mut self, revision: u64) {
        (self.index, self.deleted.before) = (revision, revision);
    }

    pub(super) fn put(&mut self, record: &Record) -> Result<Vec<Topic>, StoreError> {
        let entry = KvEntry::decode(record)?;
        let key = &record.key.name;
        self.index = self.index.max(entry.modify_index);
        self.deleted.by_key.remove(key);
        let before = self.entries.get(key).and_then(|before| before.session.clone());
        if before != entry.session {
            self.let_go(key, before.as_deref());
            if let Some(session) = &entry.session {
                self.held.entry(session.clone()).or_default().insert(key.clone());
            }
        }
        self.entries.insert(key.clone(), entry);
        Ok(vec![Topic::Kv(key.clone())])
    }

    pub(super) fn delete(&mut self, key: &str, revision: u64) -> Vec<Topic> {
        self.index = revision;
        if let Some(entry) = self.entries.remove(key) {
            self.let_go(key, entry.session.as_deref());
        }
        self.deleted.remember(key, revision);
        vec![Topic::Kv(key.to_owned())]
    }

    fn let_go(&mut self, key: &str, session: Option<&str>) {
        if let Some(session) = session
            && let Some(keys) = self.held.get_mut(session)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.held.remove(session);
            }
        }
    }
}

/// What a map has under keys that begin so.
fn beginning<'a, T>(
    map: &'a BTreeMap<String, T>,
    prefix: &'a str,
) -> impl Iterator<Item = (&'a str, &'a T)> {
    let from = map.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
    from.take_while(move |(key, _)| key.starts_with(prefix)).map(|(key, of)| (key.as_str(), of))
}

#[cfg(test)]
mod tests;
