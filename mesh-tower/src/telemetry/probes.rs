//! How the probes of calls ended (see [`report`](crate::report)).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How a probe ended, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Probed {
    /// With a report, in time.
    Answered,
    /// Not in time, or the connection broke.
    Unanswered,
    /// With something else: the endpoint does not know what a probe is.
    Refused,
}

impl Probed {
    const ALL: [Self; 3] = [Self::Answered, Self::Unanswered, Self::Refused];

    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Unanswered => "unanswered",
            Self::Refused => "refused",
        }
    }
}

/// Probes by how they ended.
#[derive(Debug, Default)]
pub(super) struct ByResult([AtomicU64; Probed::ALL.len()]);

impl ByResult {
    pub(super) fn add(&self, how: Probed) {
        self.0[how as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn each(&self) -> [(Probed, u64); Probed::ALL.len()] {
        Probed::ALL.map(|how| (how, self.0[how as usize].load(Relaxed)))
    }
}
