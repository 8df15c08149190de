//! Keys and values, with check-and-set.
//!
//! In the store a value is a line of JSON (flags, lock) and then the bytes as they are.
//!
//! Source: Consul's HTTP API, "KV Store Endpoints".

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::{Indexed, Plan, Topic, View};
use crate::store::{Batch, Key, Record, StoreError, Table};

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
    fn encode(&self) -> Bytes {
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
        let from = self.entries.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        from.take_while(move |(key, _)| key.starts_with(prefix))
            .map(|(key, entry)| (key.as_str(), entry))
    }

    pub(super) fn put(&mut self, record: &Record) -> Result<Vec<Topic>, StoreError> {
        let entry = KvEntry::decode(record)?;
        self.index = self.index.max(entry.modify_index);
        self.entries.insert(record.key.name.clone(), entry);
        Ok(vec![Topic::Kv(record.key.name.clone())])
    }

    pub(super) fn delete(&mut self, key: &str, revision: u64) -> Vec<Topic> {
        self.index = revision;
        self.entries.remove(key);
        vec![Topic::Kv(key.to_owned())]
    }
}

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

/// Puts a value; the answer is whether it was done.
#[must_use]
pub fn put(view: &View, key: &str, value: &Bytes, flags: u64, cas: Cas) -> Plan<bool> {
    let there = view.kv().get(key).value;
    let modify_index = there.map(|entry| entry.modify_index);
    let matches = match cas {
        Cas::Any => true,
        Cas::Absent => there.is_none(),
        Cas::Unchanged(index) => modify_index == Some(index),
    };
    if !matches {
        return Plan::nothing(false);
    }
    let entry = KvEntry {
        value: value.clone(),
        flags,
        lock_index: there.map_or(0, |entry| entry.lock_index),
        session: there.and_then(|entry| entry.session.clone()),
        create_index: 0,
        modify_index: 0,
    };
    let name = Key::new(Table::Kv, key);
    let mut batch = Batch::default();
    // Without a condition, too: the lock that was read must not be put back over a newer one.
    batch.expect(name.clone(), modify_index);
    batch.put(name, entry.encode());
    Plan::new(batch, true)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Registry, Wait};
    use super::*;
    use crate::store::Embedded;

    async fn put_one(registry: &Registry, key: &str, value: &'static str, cas: Cas) -> bool {
        let value = Bytes::from_static(value.as_bytes());
        let plan = |view: &View| Ok::<_, StoreError>(put(view, key, &value, 7, cas));
        registry.write(plan).await.expect("writes").value
    }

    #[tokio::test]
    async fn check_and_set_needs_the_revision_that_it_names() {
        let registry = Registry::start(Embedded::in_memory().unwrap()).unwrap();
        assert!(put_one(&registry, "a", "1", Cas::Absent).await);
        assert!(!put_one(&registry, "a", "2", Cas::Absent).await);
        assert!(!put_one(&registry, "a", "2", Cas::Unchanged(9)).await);
        assert!(put_one(&registry, "a", "2", Cas::Unchanged(1)).await);
        registry.read(|view| {
            let entry = view.kv().get("a");
            assert_eq!(entry.index, 2);
            let entry = entry.value.expect("there");
            assert_eq!((&entry.value[..], entry.flags), (&b"2"[..], 7));
            assert_eq!((entry.create_index, entry.modify_index), (1, 2));
        });
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_blocking_read_sees_the_change_that_it_waited_for() {
        let registry = Registry::start(Embedded::in_memory().unwrap()).unwrap();
        put_one(&registry, "dir/a", "1", Cas::Any).await;
        let reader = registry.clone();
        let waits = tokio::spawn(async move {
            let wait = Wait::new(1, Duration::from_secs(60));
            let topics = [Topic::Kv("dir/".to_owned())];
            let read = |view: &View| {
                let keys = view.kv().under("dir/");
                let index = keys.map(|(_, entry)| entry.modify_index).max().unwrap_or(0);
                Indexed::new(index, view.kv().under("dir/").count())
            };
            reader.blocking(Some(wait), &topics, read).await
        });
        put_one(&registry, "other", "1", Cas::Any).await;
        put_one(&registry, "dir/b", "1", Cas::Any).await;
        assert_eq!(waits.await.unwrap(), Indexed::new(3, 2));
    }
}
