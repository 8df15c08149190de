//! What the endpoints of one set share of their health.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// What the endpoints of one set share: how often the choice among them changed, and how many are
/// ejected.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    changes: AtomicU64,
    ejected: AtomicUsize,
    degraded: AtomicUsize,
}

impl Tally {
    /// A number that differs whenever an endpoint of the set may have become selectable, or
    /// stopped being so.
    pub(crate) fn changes(&self) -> u64 {
        self.0.changes.load(Relaxed)
    }

    pub(super) fn changed(&self) {
        self.0.changes.fetch_add(1, Relaxed);
    }

    pub(crate) fn ejected(&self) -> usize {
        self.0.ejected.load(Relaxed)
    }

    /// Whether any endpoint is degraded.
    pub(crate) fn any_degraded(&self) -> bool {
        self.0.degraded.load(Relaxed) > 0
    }

    /// Counts one more as ejected, unless `allowed` already are.
    pub(super) fn reserve(&self, allowed: usize) -> bool {
        self.0
            .ejected
            .fetch_update(Relaxed, Relaxed, |ejected| (ejected < allowed).then(|| ejected + 1))
            .is_ok()
    }

    pub(super) fn release(&self) {
        self.0.ejected.fetch_sub(1, Relaxed);
    }

    /// One endpoint was degraded or not, and now is or is not.
    pub(super) fn degraded(&self, before: bool, after: bool) {
        match (before, after) {
            (false, true) => _ = self.0.degraded.fetch_add(1, Relaxed),
            (true, false) => _ = self.0.degraded.fetch_sub(1, Relaxed),
            _ => {}
        }
    }
}
