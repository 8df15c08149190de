//! The embedded engine: one redb file on this machine.
//!
//! One thread writes. It takes every batch that waits, applies them one after another in one
//! transaction, and tells their callers when that transaction is on disk: many writers share one
//! `fsync`, and an acknowledged write survives `kill -9` and a power cut.
//!
//! A failed transaction (a full disk) fails the batches that were in it, and nothing else: the file
//! is opened anew, and the next batch is tried as any other. Whether a transaction whose last step
//! failed is there is seen then, and told as an update if it is.
//!
//! How the file is made, and what is refused at a start: [`file`].

mod file;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::thread;

use bytes::Bytes;
use redb::backends::InMemoryBackend;
use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition,
    WriteTransaction,
};
use tokio::sync::{mpsc, oneshot};

use super::{
    Batch, Change, Changed, Commit, Guard, Key, Opened, Record, Store, StoreError, StoreFuture,
    Table, Update,
};

/// Records: table byte and name → create index, modify index (8 bytes each, big-endian), value.
const RECORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");
/// `format` and `revision`.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Length of what stands before a value.
const INDEXES: usize = 16;
/// How records are laid out in the file.
const FORMAT: u64 = 1;
/// Batches in one transaction, at most: what one `fsync` is shared by.
const GROUP: usize = 512;
/// Batches that wait for the writer, and updates that wait for their reader.
const QUEUE: usize = 1_024;

/// The embedded engine: one redb file on this machine, or memory.
#[derive(Debug)]
pub struct Embedded {
    queue: mpsc::Sender<Job>,
}

#[derive(Debug)]
enum Job {
    Commit(Committing),
    Read(oneshot::Sender<Result<ReadTransaction, StoreError>>),
    Close(oneshot::Sender<()>),
}

#[derive(Debug)]
struct Committing {
    work: Work,
    answer: oneshot::Sender<Result<Commit, StoreError>>,
}

#[derive(Debug)]
enum Work {
    /// Apply it, if its guards hold.
    Batch(Batch),
    /// Put the records in the place of everything, above this revision.
    Replace(Vec<Record>, u64),
}

impl Embedded {
    async fn write(&self, work: Work) -> Result<Commit, StoreError> {
        let (answer, answered) = oneshot::channel();
        let sent = self.queue.send(Job::Commit(Committing { work, answer })).await;
        sent.map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)?
    }

    /// Opens the file, or makes it; the folder must be there. Its lock is a file beside it, which
    /// stays: `store.lock` for `store.redb`.
    ///
    /// # Errors
    /// [`StoreError::Open`] when it is in use or damaged, [`StoreError::Unreadable`] when it is of
    /// another version. Neither changes the file.
    pub fn open(path: impl Into<PathBuf>) -> Result<Opened, StoreError> {
        let path = path.into();
        let lock = file::lock(&path)?;
        let (database, held) = match file::check(&path)? {
            Some(held) => (file::open(&path)?, held),
            None => (file::make(&path)?, (0, Vec::new())),
        };
        Self::start(database, held, Some(Box::new(move || file::open(&path))), Some(lock))
    }

    /// A store that ends with the process.
    ///
    /// # Errors
    /// As [`Embedded::open`].
    pub fn in_memory() -> Result<Opened, StoreError> {
        let database = Database::builder().create_with_backend(InMemoryBackend::new());
        let database = database.map_err(|error| StoreError::Open(error.to_string()))?;
        prepare(&database).map_err(|error| StoreError::Open(error.to_string()))?;
        Self::start(database, (0, Vec::new()), None, None)
    }

    fn start(
        database: Database,
        (revision, records): (u64, Vec<Record>),
        reopen: Option<Reopen>,
        lock: Option<File>,
    ) -> Result<Opened, StoreError> {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let (tell, updates) = mpsc::channel(QUEUE);
        let database = Some(database);
        let writer = Writer { database, reopen, revision, unsure: Vec::new(), tell, _lock: lock };
        thread::Builder::new()
            .name("mesh-store".to_owned())
            .spawn(move || writer.run(jobs))
            .map_err(|error| StoreError::Open(format!("its thread does not start: {error}")))?;
        Ok(Opened { store: Box::new(Self { queue }), revision, records, updates })
    }
}

impl Store for Embedded {
    fn commit(&self, batch: Batch) -> StoreFuture<'_, Commit> {
        Box::pin(self.write(Work::Batch(batch)))
    }

    fn read(&self) -> StoreFuture<'_, (u64, Vec<Record>)> {
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            self.queue.send(Job::Read(answer)).await.map_err(|_| StoreError::Closed)?;
            let read = answered.await.map_err(|_| StoreError::Closed)??;
            // Beside the writer: it sees the file as it was when the transaction began.
            let records = tokio::task::spawn_blocking(move || records(&read)).await;
            records.map_err(|error| StoreError::Open(error.to_string()))?
        })
    }

    fn replace(&self, records: Vec<Record>, above: u64) -> StoreFuture<'_, u64> {
        Box::pin(async move {
            match self.write(Work::Replace(records, above)).await? {
                Commit::Applied(revision) | Commit::Conflict(revision) => Ok(revision),
            }
        })
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            if self.queue.send(Job::Close(answer)).await.is_ok() {
                // Gone without an answer is closed, too.
                let _ = answered.await;
            }
            Ok(())
        })
    }
}

/// Makes the tables, so that reading never has to ask whether they are there.
fn prepare(database: &Database) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    write.open_table(RECORDS)?;
    write.open_table(META)?.insert("format", FORMAT)?;
    write.open_table(META)?.insert("revision", 0)?;
    write.commit()?;
    Ok(())
}

/// The revision of what is there.
fn revision(database: &Database) -> Result<u64, redb::Error> {
    let meta = database.begin_read()?.open_table(META)?;
    Ok(meta.get("revision")?.map_or(0, |revision| revision.value()))
}

fn records(read: &ReadTransaction) -> Result<(u64, Vec<Record>), StoreError> {
    let (format, revision, rows) =
        read_all(read).map_err(|error| StoreError::Open(error.to_string()))?;
    if format != FORMAT {
        return Err(StoreError::Unreadable {
            what: format!("a file of format {format}"),
            why: format!("it reads format {FORMAT}; use the version of mesh that wrote it"),
        });
    }
    let records = rows.into_iter().map(|(key, value)| decode(&key, &value));
    Ok((revision, records.collect::<Result<_, _>>()?))
}

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

fn read_all(read: &ReadTransaction) -> Result<(u64, u64, Rows), redb::Error> {
    let meta = read.open_table(META)?;
    let number = |name| Ok::<_, redb::Error>(meta.get(name)?.map_or(0, |number| number.value()));
    let mut rows = Vec::new();
    for row in read.open_table(RECORDS)?.iter()? {
        let (key, value) = row?;
        rows.push((key.value().to_vec(), value.value().to_vec()));
    }
    Ok((number("format")?, number("revision")?, rows))
}

/// Opens the file again.
type Reopen = Box<dyn Fn() -> Result<Database, StoreError> + Send>;

/// The thread that writes.
struct Writer {
    /// `None` after a failure, until it is opened anew.
    database: Option<Database>,
    /// `None` for what is in memory: it ends with the database.
    reopen: Option<Reopen>,
    revision: u64,
    /// What a transaction has changed of which nobody knows whether it is there.
    unsure: Vec<Update>,
    tell: mpsc::Sender<Update>,
    /// Let go of after the database.
    _lock: Option<File>,
}

impl Writer {
    fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut group = Vec::with_capacity(GROUP);
        let mut close = None;
        while close.is_none()
            && let Some(job) = jobs.blocking_recv()
        {
            let mut next = Some(job);
            while let Some(job) = next {
                match job {
                    Job::Commit(committing) => group.push(committing),
                    Job::Read(answer) => {
                        // What came before it must be in it.
                        self.commit(&mut group);
                        let _ = answer.send(self.begin_read());
                    }
                    Job::Close(closed) => close = Some(closed),
                }
                let more = close.is_none() && group.len() < GROUP;
                next = if more { jobs.try_recv().ok() } else { None };
            }
            self.commit(&mut group);
        }
        // Before the answer, so that the file is free for the next one to open it.
        drop(self);
        if let Some(closed) = close {
            let _ = closed.send(());
        }
    }

    /// The database, opened anew after a failure.
    fn database(&mut self) -> Result<Database, StoreError> {
        if let Some(database) = self.database.take() {
            return Ok(database);
        }
        let reopen = self.reopen.as_ref().ok_or(StoreError::Closed)?;
        let database = reopen()?;
        let there = revision(&database).map_err(|error| StoreError::Open(error.to_string()))?;
        if there != self.revision {
            if self.unsure.last().is_none_or(|last| last.revision != there) {
                return Err(StoreError::Open(format!(
                    "it is at revision {there}, but {} was written; restore a snapshot",
                    self.revision
                )));
            }
            self.tell(&self.unsure);
            self.revision = there;
        }
        self.unsure.clear();
        Ok(database)
    }

    fn begin_read(&mut self) -> Result<ReadTransaction, StoreError> {
        let database = self.database()?;
        let read = database.begin_read();
        self.database = Some(database);
        read.map_err(|error| StoreError::Open(error.to_string()))
    }

    fn commit(&mut self, group: &mut Vec<Committing>) {
        if group.is_empty() {
            return;
        }
        let written = self.write(group);
        if let Ok((_, updates)) = &written {
            self.tell(updates);
        }
        let mut commits = written.map(|(commits, _)| commits.into_iter());
        for committing in group.drain(..) {
            let answer = match &mut commits {
                Ok(commits) => commits.next().ok_or(StoreError::Closed),
                Err(error) => Err(error.clone()),
            };
            let _ = committing.answer.send(answer);
        }
    }

    fn tell(&self, updates: &[Update]) {
        for update in updates {
            // Without a reader nobody is left to answer to.
            let _ = self.tell.blocking_send(update.clone());
        }
    }

    /// Applies the batches in one transaction.
    fn write(&mut self, group: &[Committing]) -> Result<(Vec<Commit>, Vec<Update>), StoreError> {
        let database = self.database()?;
        let error = match apply_all(&database, self.revision, group) {
            Ok(applied) => match applied.transaction.commit() {
                Ok(()) => {
                    self.revision = applied.revision;
                    self.database = Some(database);
                    return Ok((applied.commits, applied.updates));
                }
                Err(error) => {
                    self.unsure = applied.updates;
                    redb::Error::from(error)
                }
            },
            Err(error) => error,
        };
        // Without a file, better a refusal than an empty store.
        if self.reopen.is_none() {
            self.database = Some(database);
        }
        tracing::error!(%error, "the store cannot be written");
        Err(StoreError::Write(error.to_string()))
    }
}

/// A transaction that is not committed, and what is to be said when it is.
struct Applied {
    transaction: WriteTransaction,
    revision: u64,
    commits: Vec<Commit>,
    updates: Vec<Update>,
}

fn apply_all(database: &Database, from: u64, group: &[Committing]) -> Result<Applied, redb::Error> {
    let mut revision = from;
    let mut commits = Vec::with_capacity(group.len());
    let mut updates = Vec::with_capacity(group.len());
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    {
        let mut records = transaction.open_table(RECORDS)?;
        for job in group {
            let changes = match &job.work {
                Work::Batch(batch) if !hold(&records, &batch.guards)? => {
                    commits.push(Commit::Conflict(revision));
                    continue;
                }
                Work::Batch(batch) => {
                    revision += 1;
                    apply(&mut records, &batch.changes, revision)?
                }
                Work::Replace(with, above) => {
                    revision = revision.max(*above) + 1;
                    let changes = difference(&records, with)?;
                    apply(&mut records, &changes, revision)?
                }
            };
            commits.push(Commit::Applied(revision));
            updates.push(Update { revision, changes });
        }
        transaction.open_table(META)?.insert("revision", revision)?;
    }
    Ok(Applied { transaction, revision, commits, updates })
}

fn hold(
    records: &impl ReadableTable<&'static [u8], &'static [u8]>,
    guards: &[Guard],
) -> Result<bool, redb::Error> {
    for guard in guards {
        let (key, wanted) = match guard {
            Guard::Absent(key) => (key, None),
            Guard::Unchanged { key, modify_index } => (key, Some(*modify_index)),
            Guard::Settled { under, revision } => {
                if !settled(records, under, *revision)? {
                    return Ok(false);
                }
                continue;
            }
        };
        let there = records.get(encode_key(key).as_slice())?;
        if there.and_then(|there| indexes(there.value())).map(|(_, modified)| modified) != wanted {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether nothing that begins like `under` is newer than `revision`.
fn settled(
    records: &impl ReadableTable<&'static [u8], &'static [u8]>,
    under: &Key,
    revision: u64,
) -> Result<bool, redb::Error> {
    let prefix = encode_key(under);
    for row in records.range(prefix.as_slice()..)? {
        let (key, value) = row?;
        if !key.value().starts_with(&prefix) {
            break;
        }
        if indexes(value.value()).is_none_or(|(_, modified)| modified > revision) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn apply(
    records: &mut redb::Table<'_, &'static [u8], &'static [u8]>,
    changes: &[Change],
    revision: u64,
) -> Result<Vec<Changed>, redb::Error> {
    let mut changed = Vec::with_capacity(changes.len());
    for change in changes {
        match change {
            Change::Put { key, value } => {
                let name = encode_key(key);
                let made = records.get(name.as_slice())?.and_then(|there| indexes(there.value()));
                let create_index = made.map_or(revision, |(created, _)| created);
                let mut row = Vec::with_capacity(INDEXES + value.len());
                row.extend_from_slice(&create_index.to_be_bytes());
                row.extend_from_slice(&revision.to_be_bytes());
                row.extend_from_slice(value);
                records.insert(name.as_slice(), row.as_slice())?;
                changed.push(Changed::Put(Record {
                    key: key.clone(),
                    value: value.clone(),
                    create_index,
                    modify_index: revision,
                }));
            }
            Change::Delete(key) => {
                if records.remove(encode_key(key).as_slice())?.is_some() {
                    changed.push(Changed::Deleted(key.clone()));
                }
            }
        }
    }
    Ok(changed)
}

/// What makes these records of what there is.
fn difference(
    records: &impl ReadableTable<&'static [u8], &'static [u8]>,
    with: &[Record],
) -> Result<Vec<Change>, redb::Error> {
    let mut wanted: BTreeMap<Vec<u8>, &Record> =
        with.iter().map(|record| (encode_key(&record.key), record)).collect();
    let mut changes = Vec::new();
    for row in records.iter()? {
        let (key, value) = row?;
        match wanted.get(key.value()) {
            Some(record) if value.value().get(INDEXES..) == Some(&record.value[..]) => {
                wanted.remove(key.value());
            }
            Some(_) => {}
            None => {
                if let Ok(record) = decode(key.value(), value.value()) {
                    changes.push(Change::Delete(record.key));
                }
            }
        }
    }
    let puts = wanted.into_values();
    changes.extend(
        puts.map(|record| Change::Put { key: record.key.clone(), value: record.value.clone() }),
    );
    Ok(changes)
}

fn encode_key(key: &Key) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + key.name.len());
    bytes.push(key.table as u8);
    bytes.extend_from_slice(key.name.as_bytes());
    bytes
}

fn indexes(row: &[u8]) -> Option<(u64, u64)> {
    let (created, rest) = row.split_first_chunk::<8>()?;
    let (modified, _) = rest.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*created), u64::from_be_bytes(*modified)))
}

fn decode(key: &[u8], row: &[u8]) -> Result<Record, StoreError> {
    let unreadable = |why: &str| StoreError::Unreadable {
        what: format!("the record {}", key.escape_ascii()),
        why: why.to_owned(),
    };
    let (table, name) = key.split_first().ok_or_else(|| unreadable("it has no name"))?;
    let table = Table::from_byte(*table)
        .ok_or_else(|| unreadable("its table is unknown; use the version of mesh that wrote it"))?;
    let name = str::from_utf8(name).map_err(|_| unreadable("its name is not UTF-8"))?;
    let (create_index, modify_index) =
        indexes(row).ok_or_else(|| unreadable("it is cut off; restore a snapshot"))?;
    let value = Bytes::copy_from_slice(&row[INDEXES..]);
    Ok(Record { key: Key::new(table, name), value, create_index, modify_index })
}
