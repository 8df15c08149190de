//! What the transport keeps per endpoint: one set of connections for each worker.
//!
//! A connection belongs to the runtime that opened it. A linked service has one; the proxy has
//! one per core, and its workers share nothing but the endpoint's counts.

use crate::connect::Connections;
use mesh_core::limit::{self, Limits};
use mesh_core::{Declared, Error, Timestamp};
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Index of a worker: 0 in a linked service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Worker(pub(crate) usize);

/// The connections of one endpoint, by worker, how often it was picked, and why it cannot be
/// reached if it cannot.
#[derive(Debug)]
pub(crate) struct Workers {
    connections: Box<[Arc<Connections>]>,
    /// Caps on the connections of all workers together.
    limits: Limits,
    attempts: AtomicU64,
    /// Why connecting failed last, while a task tries to reach it.
    cause: Mutex<Option<Error>>,
    /// What discovery says of it, and since when.
    declared: Mutex<(Declared, Timestamp)>,
    /// A task is asking whether it can be reached.
    asking: AtomicBool,
    /// A call is asking for its load report.
    probed: AtomicBool,
    /// Nanoseconds until which it is not asked for one.
    unasked: AtomicU64,
}

impl Workers {
    pub(crate) fn new(
        count: usize,
        declared: Declared,
        now: Timestamp,
        mut make: impl FnMut(&Limits) -> Connections,
    ) -> Self {
        let limits = Limits::new(&limit::Config::unlimited());
        let connections = (0..count.max(1)).map(|_| Arc::new(make(&limits))).collect();
        Self {
            connections,
            limits,
            attempts: AtomicU64::new(0),
            cause: Mutex::new(None),
            declared: Mutex::new((declared, now)),
            asking: AtomicBool::new(false),
            probed: AtomicBool::new(false),
            unasked: AtomicU64::new(0),
        }
    }

    /// Its limits of connections; none until they are reconfigured.
    pub(crate) const fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn attempted(&self) {
        self.attempts.fetch_add(1, Relaxed);
    }

    pub(crate) fn attempts(&self) -> u64 {
        self.attempts.load(Relaxed)
    }

    /// Notes that connecting failed. True if it had not before: the caller then sees to it.
    pub(crate) fn lost(&self, error: &Error) -> bool {
        self.cause.lock().replace(error.clone()).is_none()
    }

    /// Notes that it was reached again.
    pub(crate) fn found(&self) {
        *self.cause.lock() = None;
    }

    /// Notes what discovery says of it.
    pub(crate) fn declared(&self, declared: Declared, now: Timestamp) {
        let mut known = self.declared.lock();
        if known.0 != declared {
            *known = (declared, now);
        }
    }

    /// Since when discovery says of it what it says.
    pub(crate) fn declared_since(&self) -> Timestamp {
        self.declared.lock().1
    }

    /// Notes that the caller asks whether it can be reached; false if somebody does already.
    pub(crate) fn begin_asking(&self) -> bool {
        !self.asking.swap(true, Relaxed)
    }

    /// Notes that the answer is there.
    pub(crate) fn end_asking(&self) {
        self.asking.store(false, Relaxed);
    }

    /// Notes that the caller asks for its load report; false if somebody does already, or it has
    /// shown that it does not know the question.
    pub(crate) fn begin_probe(&self, now: Timestamp) -> bool {
        now >= Timestamp::from_nanos(self.unasked.load(Relaxed)) && !self.probed.swap(true, Relaxed)
    }

    /// Notes that nobody asks any more.
    pub(crate) fn end_probe(&self) {
        self.probed.store(false, Relaxed);
    }

    /// Notes that it is not to be asked until then.
    pub(crate) fn refuses_probes(&self, until: Timestamp) {
        self.unasked.store(until.as_nanos(), Relaxed);
    }

    /// Why it cannot be reached, if it cannot.
    pub(crate) fn cause(&self) -> Option<Error> {
        self.cause.lock().clone()
    }

    /// The connections of one worker; those of the first where the index is out of range.
    pub(crate) fn of(&self, worker: Worker) -> &Arc<Connections> {
        self.connections.get(worker.0).unwrap_or(&self.connections[0])
    }

    /// Where the endpoint listens, the preferred address first.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        self.connections[0].addresses()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Connections>> {
        self.connections.iter()
    }
}
