//! The store's records as typed tables in memory.

use crate::store::{Changed, Key, Record, StoreError, Table, Update};

use super::Topic;
use super::catalog::Catalog;
use super::entries::Entries;
use super::kv::KvTable;
use super::session::Sessions;

/// Everything that the control plane knows, as of one revision.
#[derive(Debug, Default)]
pub struct View {
    revision: u64,
    kv: KvTable,
    sessions: Sessions,
    catalog: Catalog,
    entries: Entries,
}

impl View {
    /// What a store held when it was opened.
    pub(super) fn of(revision: u64, records: &[Record]) -> Result<Self, StoreError> {
        let mut view = Self { revision, ..Self::default() };
        for record in records {
            view.put(record)?;
        }
        view.kv.settle(revision);
        view.sessions.settle(revision);
        view.catalog.settle(revision);
        view.entries.settle(revision);
        Ok(view)
    }

    /// The revision of the newest change that it holds.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// Keys and values.
    #[must_use]
    pub const fn kv(&self) -> &KvTable {
        &self.kv
    }

    /// Nodes, services and checks.
    #[must_use]
    pub const fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Config entries.
    #[must_use]
    pub const fn entries(&self) -> &Entries {
        &self.entries
    }

    /// Who holds locks.
    #[must_use]
    pub const fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Takes an update in, and says which topics it touches. A record that cannot be read is told
    /// in the log and left out: whoever wrote it is of another version.
    pub(super) fn apply(&mut self, update: Update) -> Vec<Topic> {
        self.revision = update.revision;
        let mut touched = Vec::with_capacity(update.changes.len());
        for change in update.changes {
            match change {
                Changed::Put(record) => match self.put(&record) {
                    Ok(topics) => touched.extend(topics),
                    Err(error) => tracing::error!(%error, "an update of the store is left out"),
                },
                Changed::Deleted(key) => touched.extend(self.delete(&key)),
            }
        }
        touched
    }

    fn put(&mut self, record: &Record) -> Result<Vec<Topic>, StoreError> {
        match record.key.table {
            Table::Kv => self.kv.put(record),
            Table::Session => self.sessions.put(record),
            Table::Node | Table::Service | Table::Check => self.catalog.put(record),
            Table::ConfigEntry => self.entries.put(record),
            _ => Ok(Vec::new()),
        }
    }

    fn delete(&mut self, key: &Key) -> Vec<Topic> {
        match key.table {
            Table::Kv => self.kv.delete(&key.name, self.revision),
            Table::Session => self.sessions.delete(&key.name, self.revision),
            Table::Node | Table::Service | Table::Check => self.catalog.delete(key, self.revision),
            Table::ConfigEntry => self.entries.delete(&key.name, self.revision),
            _ => Vec::new(),
        }
    }
}
