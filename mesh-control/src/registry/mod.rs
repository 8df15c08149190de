//! What the control plane knows, and how it changes.
//!
//! The [`View`] holds the store's records as typed tables in memory; one task applies the store's
//! updates to it, in order. A read looks at the view. A write reads it, makes a batch whose guards
//! name what it read, and commits; when somebody was faster, it reads again. Its answer waits until
//! the view holds it, so that everyone reads what they wrote.
//!
//! A blocking query waits for the [`Topic`]s that it read.

pub mod catalog;
mod draft;
pub mod entries;
pub mod events;
mod expiry;
pub mod id;
pub mod kv;
mod lock_delay;
pub mod session;
mod topics;
mod view;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::store::{Batch, Commit, Opened, Record, Store, StoreError};

pub use draft::{Cas, Draft, LockError};
use events::Events;
use expiry::Deadlines;
use lock_delay::LockDelays;
pub use topics::Topic;
use topics::Topics;
pub use view::View;

/// Times that a write reads again before it gives up: each time, another writer got through.
const TRIES: usize = 64;

/// See the [module docs](self).
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

struct Shared {
    store: Box<dyn Store>,
    view: RwLock<View>,
    topics: Topics,
    delays: LockDelays,
    deadlines: Deadlines,
    events: Events,
    /// Writes that lost to another once wait here for each other.
    lane: tokio::sync::Mutex<()>,
    /// The view's revision. Its sender is the task's that applies updates, and ends with it.
    applied: watch::Receiver<u64>,
}

/// A value, and the index by which a blocking query waits for the next.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Indexed<T> {
    /// The revision that changed it last. At least 1.
    pub index: u64,
    /// As it is at that revision.
    pub value: T,
}

impl<T> Indexed<T> {
    /// A value as of this index.
    pub fn new(index: u64, value: T) -> Self {
        // 0 would make a blocking query return at once, for ever.
        Self { index: index.max(1), value }
    }
}

/// How long a blocking query waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Wait {
    /// Until the index is above this one.
    pub index: u64,
    /// But no longer than this.
    pub timeout: Duration,
}

impl Wait {
    /// Until the index is above `index`, but no longer than `timeout`.
    #[must_use]
    pub const fn new(index: u64, timeout: Duration) -> Self {
        Self { index, timeout }
    }
}

/// What a write wants to do, and what it will answer.
#[derive(Debug)]
#[non_exhaustive]
pub struct Plan<T> {
    /// The change; an empty one is not committed.
    pub batch: Batch,
    /// The answer when it is applied.
    pub answer: T,
}

impl<T> Plan<T> {
    /// Answer this once the batch is applied.
    pub const fn new(batch: Batch, answer: T) -> Self {
        Self { batch, answer }
    }

    /// Answer this and change nothing.
    pub fn nothing(answer: T) -> Self {
        Self { batch: Batch::default(), answer }
    }
}

impl Registry {
    /// Takes over an opened store. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] when a record is not what its table holds.
    pub fn start(opened: Opened) -> Result<Self, StoreError> {
        let Opened { store, revision, records, mut updates } = opened;
        let view = View::of(revision, &records)?;
        let (applies, applied) = watch::channel(revision);
        let shared = Arc::new(Shared {
            store,
            view: RwLock::new(view),
            topics: Topics::default(),
            delays: LockDelays::default(),
            deadlines: Deadlines::default(),
            events: Events::default(),
            lane: tokio::sync::Mutex::default(),
            applied,
        });
        // Ends with the store, which ends with the last handle.
        let weak = Arc::downgrade(&shared);
        tokio::spawn(async move {
            while let Some(update) = updates.recv().await {
                let Some(shared) = weak.upgrade() else { break };
                let revision = update.revision;
                let touched = shared.view.write().apply(update);
                applies.send_replace(revision);
                touched.iter().for_each(|topic| shared.topics.wake(topic));
            }
        });
        Ok(Self { shared })
    }

    /// Looks at the view. Not to be held on to: writers wait.
    pub fn read<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        look(&self.shared.view.read())
    }

    /// Reads, and with `wait` waits first until the index is above the caller's: for a change of
    /// one of `topics`, or until the time is over. A return does not imply a change.
    pub async fn blocking<T>(
        &self,
        wait: Option<Wait>,
        topics: &[Topic],
        read: impl Fn(&View) -> Indexed<T>,
    ) -> Indexed<T> {
        let Some(wait) = wait.filter(|wait| wait.index > 0) else { return self.read(read) };
        let expiry = Instant::now() + wait.timeout;
        let waiter = self.shared.topics.subscribe(topics);
        loop {
            let now = self.read(&read);
            if now.index > wait.index
                || waiter.is_over()
                || timeout_at(expiry, waiter.woken()).await.is_err()
            {
                return now;
            }
        }
    }

    /// How many wait for a change: blocking queries, and our own task that ends sessions.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.topics.waiting()
    }

    /// Ends all waiting: blocking queries answer with what there is, now and from now on.
    pub fn drain(&self) {
        self.shared.topics.end();
    }

    /// Ends the store, once what it was given is durable; no write is taken from then on.
    ///
    /// # Errors
    /// What the store says.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.shared.store.close().await
    }

    /// Writes what `plan` makes of the view. `plan` runs again whenever a guard did not hold.
    ///
    /// # Errors
    /// What `plan` refuses, as it is; [`StoreError`] when the store cannot be written.
    pub async fn write<T, E: From<StoreError>>(
        &self,
        plan: impl Fn(&View) -> Result<Plan<T>, E>,
    ) -> Result<Indexed<T>, E> {
        let mut lane = None;
        for _ in 0..TRIES {
            let (revision, plan) = self.read(|view| (view.revision(), plan(view)));
            let Plan { batch, answer } = plan?;
            if batch.is_empty() {
                return Ok(Indexed::new(revision, answer));
            }
            match self.shared.store.commit(batch).await? {
                Commit::Applied(revision) => {
                    self.reached(revision).await?;
                    return Ok(Indexed::new(revision, answer));
                }
                Commit::Conflict(revision) => {
                    self.reached(revision).await?;
                    // Many that write the same would else lose to each other again and again.
                    if lane.is_none() {
                        lane = Some(self.shared.lane.lock().await);
                    }
                }
            }
        }
        let why = format!("others changed the same {TRIES} times while this write was tried");
        Err(StoreError::Write(why).into())
    }

    /// Operations on keys, over this view.
    #[must_use]
    pub fn draft<'a>(&'a self, view: &'a View) -> Draft<'a> {
        Draft::new(view, &self.shared.delays)
    }

    /// Everything that the store holds, and the revision of it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn read_store(&self) -> Result<(u64, Vec<Record>), StoreError> {
        self.shared.store.read().await
    }

    /// Puts these records in the place of everything, at one revision that is above our own and
    /// `revision`, at which they were saved.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] when a record is not what its table holds; nothing is changed
    /// then, nor when the store cannot be written.
    pub async fn restore(&self, revision: u64, records: Vec<Record>) -> Result<(), StoreError> {
        View::of(revision, &records)?;
        let revision = self.shared.store.replace(records, revision).await?;
        self.reached(revision).await
    }

    /// Waits until the view is at least of this revision.
    async fn reached(&self, revision: u64) -> Result<(), StoreError> {
        let mut applied = self.shared.applied.clone();
        let reached = applied.wait_for(|applied| *applied >= revision).await;
        reached.map(drop).map_err(|_| StoreError::Closed)
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("revision", &*self.shared.applied.borrow()).finish()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::store::{Embedded, Key, Table};

    #[tokio::test]
    async fn a_write_that_the_view_never_gets_fails_and_does_not_wait_for_ever() {
        let mut opened = Embedded::in_memory().unwrap();
        opened.updates = mpsc::channel(1).1;
        let registry = Registry::start(opened).unwrap();
        let plan = |_: &View| {
            let mut batch = Batch::default();
            batch.put(Key::new(Table::Kv, "a"), "{}\n");
            Ok::<_, StoreError>(Plan::new(batch, ()))
        };
        assert!(matches!(registry.write(plan).await, Err(StoreError::Closed)));
    }
}
