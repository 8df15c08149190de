//! The store: a durable, ordered map of records under one revision.
//!
//! Everything that the control plane knows is a [`Record`] in a [`Table`]. A [`Batch`] is applied
//! whole, at one revision, if all its guards hold, and not at all otherwise; what was applied is
//! told as an [`Update`], in the order of the revisions. That is what both engines have in common:
//! a file on this machine ([`Embedded`]), and etcd.
//!
//! A revision only grows, and is what Consul calls an index: `CreateIndex` and `ModifyIndex` of a
//! record are the revisions that made it and changed it last.

mod embedded;

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use tokio::sync::mpsc;

pub use embedded::Embedded;

/// What a record is of. The number is its first byte on disk, and stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Table {
    /// Key and value pairs.
    Kv = 1,
    /// Sessions by ID.
    Session = 2,
    /// Nodes by name.
    Node = 3,
    /// Instances of services by node and ID.
    Service = 4,
    /// Checks by node and ID.
    Check = 5,
    /// Config entries by kind and name.
    ConfigEntry = 6,
    /// Prepared queries by ID.
    PreparedQuery = 7,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Kv,
        Self::Session,
        Self::Node,
        Self::Service,
        Self::Check,
        Self::ConfigEntry,
        Self::PreparedQuery,
    ];

    /// The table whose first byte this is.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|table| *table as u8 == byte)
    }
}

/// A record's place: a table, and a name in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Key {
    /// What it is of.
    pub table: Table,
    /// Unique in the table. Parts of a name are joined by [`Key::SEPARATOR`].
    pub name: String,
}

impl Key {
    /// Between the parts of a name. No part may hold it.
    pub const SEPARATOR: char = '\0';

    /// A key of one part.
    #[must_use]
    pub fn new(table: Table, name: impl Into<String>) -> Self {
        Self { table, name: name.into() }
    }

    /// A key of two parts.
    #[must_use]
    pub fn pair(table: Table, first: &str, second: &str) -> Self {
        Self { table, name: format!("{first}{}{second}", Self::SEPARATOR) }
    }
}

/// A value and its history.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// Where it is.
    pub key: Key,
    /// What it is.
    pub value: Bytes,
    /// The revision that made it.
    pub create_index: u64,
    /// The revision that changed it last.
    pub modify_index: u64,
}

/// What must hold for a batch to be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Guard {
    /// There is no such record.
    Absent(Key),
    /// The record is still the one of this revision.
    Unchanged {
        /// Which record.
        key: Key,
        /// The revision that changed it last.
        modify_index: u64,
    },
    /// No record whose name begins so was made or changed after this revision. It does not see
    /// deletions.
    Settled {
        /// The table, and the beginning of the names.
        under: Key,
        /// The newest revision that is known.
        revision: u64,
    },
}

/// One change of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// Make or replace it.
    Put {
        /// Which record.
        key: Key,
        /// What it becomes.
        value: Bytes,
    },
    /// Remove it; fine where there is none.
    Delete(Key),
}

impl Change {
    /// The record that it changes.
    #[must_use]
    pub const fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete(key) => key,
        }
    }
}

/// Changes that are applied together, or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Batch {
    /// What must hold.
    pub guards: Vec<Guard>,
    /// What is changed, in this order; one change for each key.
    pub changes: Vec<Change>,
}

impl Batch {
    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Adds a guard: the record is as it was read, or was not there.
    pub fn expect(&mut self, key: Key, modify_index: Option<u64>) {
        self.guards.push(match modify_index {
            Some(modify_index) => Guard::Unchanged { key, modify_index },
            None => Guard::Absent(key),
        });
    }

    /// Adds a guard: nothing that begins so was made or changed after `revision`.
    pub fn expect_settled(&mut self, under: Key, revision: u64) {
        self.guards.push(Guard::Settled { under, revision });
    }

    /// Adds a change: the record becomes this.
    pub fn put(&mut self, key: Key, value: impl Into<Bytes>) {
        self.changes.push(Change::Put { key, value: value.into() });
    }

    /// Adds a change: the record is no more.
    pub fn delete(&mut self, key: Key) {
        self.changes.push(Change::Delete(key));
    }
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Commit {
    /// It is durable, at this revision.
    Applied(u64),
    /// A guard did not hold; what it saw differently is known by this revision.
    Conflict(u64),
}

/// What a batch changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Update {
    /// The revision that it made.
    pub revision: u64,
    /// The records, as they are now.
    pub changes: Vec<Changed>,
}

/// One changed record.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Changed {
    /// It was made or replaced.
    Put(Record),
    /// It is no more.
    Deleted(Key),
}

/// A store that was opened, with what it holds.
#[non_exhaustive]
pub struct Opened {
    /// To write to.
    pub store: Box<dyn Store>,
    /// The revision of `records`.
    pub revision: u64,
    /// Everything, in the order of the keys.
    pub records: Vec<Record>,
    /// What is applied from then on, in order. An engine waits for its reader: keep reading.
    pub updates: mpsc::Receiver<Update>,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened")
            .field("revision", &self.revision)
            .field("records", &self.records.len())
            .finish_non_exhaustive()
    }
}

/// A future that an engine gives back.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// An engine.
pub trait Store: Send + Sync + 'static {
    /// Applies a batch. When it says so, the batch is durable, and its [`Update`] was told.
    fn commit(&self, batch: Batch) -> StoreFuture<'_, Commit>;

    /// Everything that it holds, in the order of the keys, and the revision of that.
    fn read(&self) -> StoreFuture<'_, (u64, Vec<Record>)>;

    /// Puts these records in the place of everything, at one revision above its own and `above`,
    /// and tells that as an [`Update`] of what is different. What is the same keeps its indexes.
    fn replace(&self, records: Vec<Record>, above: u64) -> StoreFuture<'_, u64>;

    /// Ends it: finishes what it was given, lets go of files and connections, and refuses whatever
    /// comes later as [`StoreError::Closed`].
    fn close(&self) -> StoreFuture<'_, ()>;
}

/// Why the store did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It could not be written. Nothing of the batch is there, or, when the disk failed as it was to
    /// confirm it, all of it is told later as an [`Update`]. Reads go on, and so do writes once the
    /// cause is gone.
    #[error("the store cannot be written: {0}")]
    Write(String),
    /// It cannot be opened as it is.
    #[error("the store cannot be opened: {0}")]
    Open(String),
    /// It holds what this version cannot read.
    #[error("the store holds {what}, which this version cannot read: {why}")]
    Unreadable {
        /// Which record, or the file.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// It is being shut down.
    #[error("the store is shutting down")]
    Closed,
}
