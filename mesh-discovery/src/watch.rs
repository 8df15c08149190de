//! What a source tells the destination: a slot that holds the newest news, and a nudge back.
//!
//! There is no queue. A source that is faster than its reader overwrites: only the newest set
//! and the newest failure after it are worth reading.

use mesh_core::{EndpointSpec, Error, ErrorKind};
use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// News about the endpoints of one destination.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Update {
    /// The whole set, which replaces the one before: no identity twice, ordered by priority, then as
    /// the source lists it; DNS lists by address. Comes when the set differs from the last one sent, and once, with whatever
    /// set holds then, when a reported failure is over.
    Endpoints(Vec<EndpointSpec>),
    /// The source could not be read; the last set stays. Comes once per distinct sentence, not
    /// once per failed try.
    Failed(Failure),
}

/// Why a source could not be read: one sentence that names what was read, whom we asked and what
/// came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    kind: ErrorKind,
    message: Arc<str>,
}

impl Failure {
    /// A failure of a kind, with its sentence, without a final full stop.
    pub fn new(kind: ErrorKind, message: impl Into<Arc<str>>) -> Self {
        Self { kind, message: message.into() }
    }

    /// The kind that a call fails with if there is no earlier set to fall back on.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The sentence.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::new(failure.kind, failure.message.to_string())
    }
}

#[derive(Default)]
struct Slot {
    endpoints: Option<Vec<EndpointSpec>>,
    /// Newer than `endpoints`.
    failure: Option<Failure>,
    ended: bool,
}

#[derive(Default)]
struct Shared {
    slot: Mutex<Slot>,
    changed: Notify,
    nudged: Notify,
}

impl Shared {
    /// A slot is whole at every instant, so a panic elsewhere while it was locked did not break it.
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One reader's view of a source. Dropping it ends the source's task.
pub struct Watch {
    shared: Arc<Shared>,
    task: Option<JoinHandle<()>>,
}

impl Watch {
    /// A watch that tells one set and ends.
    pub(crate) fn of_list(specs: Vec<EndpointSpec>) -> Self {
        let (mut publisher, shared) = channel();
        publisher.endpoints(specs);
        Self { shared, task: None }
    }

    /// A watch that tells one failure and ends.
    pub(crate) fn of_failure(failure: Failure) -> Self {
        let (mut publisher, shared) = channel();
        publisher.failed(failure);
        Self { shared, task: None }
    }

    /// A watch on a task of its own.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub(crate) fn spawn<F>(source: impl FnOnce(Publisher, Nudged) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (publisher, shared) = channel();
        let task = tokio::spawn(source(publisher, Nudged(shared.clone())));
        Self { shared, task: Some(task) }
    }

    /// The next news; the first comes as soon as the source has been read once.
    ///
    /// `None`: the source ended, the last set stays for good. Dropping the future loses nothing.
    pub async fn changed(&mut self) -> Option<Update> {
        loop {
            {
                let mut slot = self.shared.slot();
                if let Some(specs) = slot.endpoints.take() {
                    return Some(Update::Endpoints(specs));
                }
                if let Some(failure) = slot.failure.take() {
                    return Some(Update::Failed(failure));
                }
                if slot.ended {
                    return None;
                }
            }
            self.shared.changed.notified().await;
        }
    }

    /// Asks the source to look again now, because what it said seems stale: connections fail.
    ///
    /// Cheap, and safe to call once per failure: sources limit how often they follow (DNS: one
    /// query per second and name, and not while backing off; lists and files do not follow).
    pub fn nudge(&self) {
        self.shared.nudged.notify_one();
    }

    /// A handle that nudges while another task waits in [`changed`](Self::changed).
    #[must_use]
    pub fn nudger(&self) -> Nudge {
        Nudge(self.shared.clone())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

/// Nudges the source behind a [`Watch`]; does nothing once that is gone.
#[derive(Clone)]
pub struct Nudge(Arc<Shared>);

impl Nudge {
    /// As [`Watch::nudge`].
    pub fn nudge(&self) {
        self.0.nudged.notify_one();
    }
}

impl fmt::Debug for Nudge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nudge")
    }
}

/// The source's end of nudges.
pub(crate) struct Nudged(Arc<Shared>);

impl Nudged {
    /// Waits for a nudge; one that came since the last wait counts.
    pub(crate) async fn wait(&self) {
        self.0.nudged.notified().await;
    }
}

fn channel() -> (Publisher, Arc<Shared>) {
    let shared = Arc::new(Shared::default());
    (Publisher { shared: shared.clone(), sent: None, reported: None }, shared)
}

/// The source's end of a [`Watch`]: tells what differs from what it told before.
pub(crate) struct Publisher {
    shared: Arc<Shared>,
    sent: Option<Vec<EndpointSpec>>,
    reported: Option<Failure>,
}

impl Publisher {
    /// Tells a good set.
    pub(crate) fn endpoints(&mut self, specs: Vec<EndpointSpec>) {
        let specs = canonical(specs);
        if self.reported.take().is_none() && self.sent.as_ref() == Some(&specs) {
            return;
        }
        let mut slot = self.shared.slot();
        slot.endpoints = Some(specs.clone());
        slot.failure = None;
        drop(slot);
        self.sent = Some(specs);
        self.shared.changed.notify_one();
    }

    /// Tells that reading failed.
    pub(crate) fn failed(&mut self, failure: Failure) {
        if self.reported.as_ref() == Some(&failure) {
            return;
        }
        tracing::warn!(error.type = failure.kind().flag(), "{failure}");
        self.shared.slot().failure = Some(failure.clone());
        self.reported = Some(failure);
        self.shared.changed.notify_one();
    }

    /// Tells that there are no endpoints, and why. Repeats are silent.
    pub(crate) fn none(&mut self, why: Failure) {
        if self.sent.as_ref().is_none_or(|sent| !sent.is_empty()) {
            self.endpoints(Vec::new());
        }
        self.failed(why);
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.shared.slot().ended = true;
        self.shared.changed.notify_one();
    }
}

/// Removes later duplicates of an identity, then orders by priority. A list that somebody wrote keeps
/// its order besides: where one endpoint takes all calls, it is the first.
fn canonical(mut specs: Vec<EndpointSpec>) -> Vec<EndpointSpec> {
    let mut seen = HashSet::with_capacity(specs.len());
    specs.retain(|spec| seen.insert(spec.id.clone()));
    specs.sort_by_key(|spec| spec.priority);
    specs
}
