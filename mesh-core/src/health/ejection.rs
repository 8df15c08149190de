//! Ejection: how an endpoint is taken out by [`outlier`](super::outlier) detection, and put back.

use super::outlier::Reason;
use super::{DUE, EJECTED, EJECTION, Health, ON_PROBATION, PROBING, RETIRED};
use crate::Timestamp;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

impl Health {
    /// Takes it out for `span(n)`, `n` being its ejections so far with this one, unless `allowed`
    /// endpoints of its set are out already.
    pub(super) fn eject(
        &self,
        now: Timestamp,
        allowed: usize,
        reason: Reason,
        probation: bool,
        span: impl FnOnce(u32) -> Duration,
    ) -> Option<Duration> {
        if self.flags.load(Relaxed) & (EJECTED | RETIRED) != 0 || !self.tally.reserve(allowed) {
            return None;
        }
        let added = if probation { EJECTED | ON_PROBATION } else { EJECTED };
        let before = self.flags.fetch_update(Relaxed, Relaxed, |flags| {
            (flags & (EJECTED | RETIRED) == 0).then_some(flags | added)
        });
        let Ok(before) = before else {
            self.tally.release();
            return None;
        };
        let span = span(self.ejections.fetch_add(1, Relaxed).saturating_add(1));
        self.reason.store(reason.pack(), Relaxed);
        self.ejected_since.store(now.as_nanos(), Relaxed);
        self.ejected_until.store((now + span).as_nanos(), Relaxed);
        self.changed(before, before | added);
        Some(span)
    }

    /// Its probation failed; the end of the next ejection is set.
    pub(super) fn eject_again(&self, now: Timestamp, reason: Reason) {
        self.reason.store(reason.pack(), Relaxed);
        self.ejected_since.store(now.as_nanos(), Relaxed);
        let before = self.flags.fetch_and(!(DUE | PROBING), Relaxed);
        self.changed(before, before & !(DUE | PROBING));
    }

    pub(super) fn is_on_probation(&self) -> bool {
        self.flags.load(Relaxed) & ON_PROBATION != 0
    }

    /// From now on it counts as available.
    pub(super) fn set_due(&self) {
        let before = self.flags.fetch_or(DUE, Relaxed);
        self.changed(before, before | DUE);
    }

    /// Puts it back. True if it was out.
    pub(super) fn readmit(&self, now: Timestamp) -> bool {
        let before = self.flags.fetch_and(!EJECTION, Relaxed);
        if before & EJECTED == 0 {
            return false;
        }
        // Until the next ejection the sweep must not see the old end of time.
        self.ejected_until.store(u64::MAX, Relaxed);
        self.back_since.store(now.as_nanos(), Relaxed);
        self.tally.release();
        self.changed(before, before & !EJECTION);
        true
    }

    pub(super) fn ejected_until(&self) -> Timestamp {
        Timestamp::from_nanos(self.ejected_until.load(Relaxed))
    }

    /// Whether its ejection is over but for the call that decides.
    pub(super) fn is_tried(&self, flags: u32, now: Timestamp) -> bool {
        flags & ON_PROBATION != 0 && (flags & PROBING != 0 || self.ejected_until() <= now)
    }
}
