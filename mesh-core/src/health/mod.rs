//! Health of one endpoint, as seen from here.
//!
//! Four things take an endpoint out of the picker's choice, each with its own writer:
//!
//! | condition | writer | ends |
//! |---|---|---|
//! | unreachable | the connection task, when connecting fails | when a connection succeeds |
//! | not well | active health [checks](check), where they are configured | when they pass |
//! | ejected | [`outlier`] detection | at the first sweep after its time, or by a call that succeeds |
//! | declared draining or unhealthy | discovery | when discovery says otherwise |
//!
//! and the endpoint's [`breaker`], where one is configured. One that is in may be *degraded*, and is
//! picked for what the others leave: discovery declares it so, or its last health check that
//! succeeded said so (Envoy's `x-envoy-degraded`). The conditions are bits of one word,
//! so that the picker needs one relaxed load.

pub mod breaker;
pub mod check;
mod ejection;
mod invalid;
pub mod outlier;
mod state;
mod tally;

pub use breaker::Breaker;
pub use invalid::Invalid;
pub use state::{EndpointState, StateKind};
pub(crate) use tally::Tally;

use crate::Timestamp;
use crate::endpoint::Declared;
use check::Cause;
use outlier::Counts;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

const UNREACHABLE: u32 = 1;
const EJECTED: u32 = 1 << 1;
const DRAINING: u32 = 1 << 2;
const UNHEALTHY: u32 = 1 << 3;
/// No longer in any set: late outcomes must not count it as ejected again.
const RETIRED: u32 = 1 << 4;
/// It takes calls when those that are not degraded are too few: so discovery declares it.
const DECLARED_DEGRADED: u32 = 1 << 5;
/// The one that pick-first stays with.
const PREFERRED: u32 = 1 << 6;
/// Its last health checks have failed, or none has ended yet.
const NOT_WELL: u32 = 1 << 7;
/// Its ejection ends by a call that succeeds, not by time alone.
const ON_PROBATION: u32 = 1 << 8;
/// The time of its ejection is over, as a sweep has found: it counts as available.
const DUE: u32 = 1 << 9;
/// The call that decides about it is under way.
const PROBING: u32 = 1 << 10;
/// It takes calls when those that are not degraded are too few: so its health check says.
const CHECKED_DEGRADED: u32 = 1 << 11;
/// All that an ejection sets.
const EJECTION: u32 = EJECTED | ON_PROBATION | DUE | PROBING;
const DECLARED_OUT: u32 = DRAINING | UNHEALTHY;
const DECLARED: u32 = DECLARED_OUT | DECLARED_DEGRADED;
const DEGRADED: u32 = DECLARED_DEGRADED | CHECKED_DEGRADED;
const OUT: u32 = UNREACHABLE | EJECTED | DECLARED_OUT | NOT_WELL;

/// Stamp of an endpoint that joined its set, and that nobody has looked at since.
const UNSEEN: u64 = u64::MAX;

/// Among which an endpoint that can be picked counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Healthy,
    /// Picked for what the healthy ones leave.
    Degraded,
}

/// Whether flags allow a call, or the next one is to decide.
const fn is_in(flags: u32) -> bool {
    flags & OUT == 0 || flags & (OUT | DUE) == EJECTED | DUE
}

/// Health of one endpoint. All methods may be called from any thread.
#[derive(Debug)]
pub struct Health {
    flags: AtomicU32,
    tally: Tally,
    unreachable_since: AtomicU64,
    retry_at: AtomicU64,
    not_well_since: AtomicU64,
    /// Why it is not well: a packed [`Cause`].
    cause: AtomicU64,
    /// When it came back last, from being out for any of these; 0 if it was never out.
    back_since: AtomicU64,
    /// When it was first looked at after joining a set that was in use; 0 if it was there from
    /// the start.
    joined: AtomicU64,
    ejected_since: AtomicU64,
    ejected_until: AtomicU64,
    reason: AtomicU64,
    /// Ejections not yet made good: each lengthens the next.
    ejections: AtomicU32,
    counts: Counts,
}

impl Health {
    pub(crate) fn new(tally: Tally) -> Self {
        Self {
            flags: AtomicU32::new(0),
            tally,
            unreachable_since: AtomicU64::new(0),
            retry_at: AtomicU64::new(0),
            not_well_since: AtomicU64::new(0),
            cause: AtomicU64::new(Cause::Unchecked.pack()),
            back_since: AtomicU64::new(0),
            joined: AtomicU64::new(0),
            ejected_since: AtomicU64::new(0),
            ejected_until: AtomicU64::new(u64::MAX),
            reason: AtomicU64::new(0),
            ejections: AtomicU32::new(0),
            counts: Counts::default(),
        }
    }

    /// Whether nothing recorded here takes it out of the choice. One that a sweep has found to be
    /// due for its probation counts as in.
    #[must_use]
    pub fn is_selectable(&self) -> bool {
        is_in(self.flags.load(Relaxed))
    }

    /// Whether a call can be sent to it now, the one that decides about its probation included.
    #[must_use]
    pub fn is_selectable_at(&self, now: Timestamp) -> bool {
        self.standing_at(now).is_some()
    }

    /// Among which it counts; `None` if something recorded here takes it out.
    pub(crate) fn standing(&self) -> Option<Standing> {
        let flags = self.flags.load(Relaxed);
        match flags & DEGRADED {
            _ if !is_in(flags) => None,
            0 => Some(Standing::Healthy),
            _ => Some(Standing::Degraded),
        }
    }

    /// The same at an instant: one whose probation is due counts, until a call begins to decide.
    pub(crate) fn standing_at(&self, now: Timestamp) -> Option<Standing> {
        let flags = self.flags.load(Relaxed);
        let standing = match flags & DEGRADED {
            0 => Standing::Healthy,
            _ => Standing::Degraded,
        };
        match flags & OUT {
            0 => Some(standing),
            EJECTED if self.is_due(flags, now) => Some(standing),
            _ => None,
        }
    }

    #[cold]
    fn is_due(&self, flags: u32, now: Timestamp) -> bool {
        flags & ON_PROBATION != 0 && self.ejected_until() <= now
    }

    /// It joins a set that is in use already.
    pub(crate) fn set_joined(&self) {
        self.joined.store(UNSEEN, Relaxed);
    }

    /// Since when it has been taking calls, if it was not from the start of its set: since it
    /// joined, or came back from being out. The first look at one that joined is that moment.
    pub(crate) fn new_since(&self, now: Timestamp) -> Option<Timestamp> {
        let mut joined = self.joined.load(Relaxed);
        if joined == UNSEEN {
            joined = now.as_nanos().max(1);
            self.joined.store(joined, Relaxed);
        }
        let since = joined.max(self.back_since.load(Relaxed));
        (since > 0).then(|| Timestamp::from_nanos(since))
    }

    /// Whether pick-first stays with it.
    pub(crate) fn is_preferred(&self) -> bool {
        self.flags.load(Relaxed) & PREFERRED != 0
    }

    pub(crate) fn set_preferred(&self, preferred: bool) {
        if preferred {
            self.flags.fetch_or(PREFERRED, Relaxed);
        } else {
            self.flags.fetch_and(!PREFERRED, Relaxed);
        }
    }

    /// Whether nothing takes it out of the choice but that it is to take nothing new.
    pub(crate) fn is_selectable_or_draining(&self) -> bool {
        self.flags.load(Relaxed) & OUT & !DRAINING == 0
    }

    /// Whether discovery allows it to be called, however it fares.
    #[must_use]
    pub fn is_declared_usable(&self) -> bool {
        self.flags.load(Relaxed) & DECLARED_OUT == 0
    }

    /// Whether outlier detection has taken it out.
    #[must_use]
    pub fn is_ejected(&self) -> bool {
        self.flags.load(Relaxed) & EJECTED != 0
    }

    /// Whether connecting to it failed, and has not succeeded since.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        self.flags.load(Relaxed) & UNREACHABLE != 0
    }

    /// Connecting failed; the next try is at `retry_at`. True if it was reachable before.
    pub fn set_unreachable(&self, now: Timestamp, retry_at: Timestamp) -> bool {
        self.retry_at.store(retry_at.as_nanos(), Relaxed);
        if self.is_unreachable() {
            return false;
        }
        self.unreachable_since.store(now.as_nanos(), Relaxed);
        let before = self.flags.fetch_or(UNREACHABLE, Relaxed);
        self.changed(before, before | UNREACHABLE);
        before & UNREACHABLE == 0
    }

    /// A connection exists. True if it was unreachable before.
    pub fn set_reachable(&self, now: Timestamp) -> bool {
        if !self.is_unreachable() {
            return false;
        }
        let before = self.flags.fetch_and(!UNREACHABLE, Relaxed);
        self.back_since.store(now.as_nanos(), Relaxed);
        self.changed(before, before & !UNREACHABLE);
        before & UNREACHABLE != 0
    }

    /// Whether health checks have found it well, or there are none.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.flags.load(Relaxed) & NOT_WELL == 0
    }

    /// Whether it is not well because no health check has passed or failed yet.
    #[must_use]
    pub fn is_unchecked(&self) -> bool {
        !self.is_well() && self.cause.load(Relaxed) == Cause::Unchecked.pack()
    }

    /// It is not well, as far as health checks know: by [`Cause::Unchecked`] until the first one
    /// has passed. True if it was well before.
    pub fn set_not_well(&self, now: Timestamp, cause: Cause) -> bool {
        self.cause.store(cause.pack(), Relaxed);
        if !self.is_well() {
            return false;
        }
        self.not_well_since.store(now.as_nanos(), Relaxed);
        let before = self.flags.fetch_or(NOT_WELL, Relaxed);
        self.changed(before, before | NOT_WELL);
        before & NOT_WELL == 0
    }

    /// Health checks have passed, or are over for good. True if it was not well before.
    pub fn set_well(&self, now: Timestamp) -> bool {
        if self.is_well() {
            return false;
        }
        let before = self.flags.fetch_and(!NOT_WELL, Relaxed);
        self.back_since.store(now.as_nanos(), Relaxed);
        self.changed(before, before & !NOT_WELL);
        before & NOT_WELL != 0
    }

    /// Whether it is picked only for what others leave: discovery says so, or its health check.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        self.flags.load(Relaxed) & DEGRADED != 0
    }

    /// Takes over what a health check that succeeded said: whether the endpoint is degraded. True
    /// if the one before said otherwise.
    pub fn set_degraded(&self, degraded: bool) -> bool {
        let bit = if degraded { CHECKED_DEGRADED } else { 0 };
        let changed = self.flags.fetch_update(Relaxed, Relaxed, |flags| {
            let told = flags & CHECKED_DEGRADED != bit && flags & RETIRED == 0;
            told.then_some(flags & !CHECKED_DEGRADED | bit)
        });
        if let Ok(before) = changed {
            self.changed(before, before & !CHECKED_DEGRADED | bit);
        }
        changed.is_ok()
    }

    /// Takes over what discovery says.
    pub fn set_declared(&self, declared: Declared) {
        let bits = match declared {
            Declared::Healthy => 0,
            Declared::Degraded => DECLARED_DEGRADED,
            Declared::Draining => DRAINING,
            Declared::Unhealthy => UNHEALTHY,
        };
        if self.flags.load(Relaxed) & (DECLARED | RETIRED) == bits {
            return;
        }
        // Always `Ok`: the closure never refuses. Removal is undone by being in a set again.
        if let Ok(before) = self
            .flags
            .fetch_update(Relaxed, Relaxed, |flags| Some(flags & !(DECLARED | RETIRED) | bits))
        {
            self.changed(before, before & !DECLARED | bits);
        }
    }

    /// It left its set.
    pub(crate) fn retire(&self) {
        let before = self
            .flags
            .fetch_update(Relaxed, Relaxed, |flags| {
                Some(flags & !(EJECTION | DEGRADED | PREFERRED) | RETIRED)
            })
            .unwrap_or(RETIRED);
        if before & EJECTED != 0 {
            self.tally.release();
        }
        self.changed(before & DEGRADED, 0);
    }

    fn changed(&self, before: u32, after: u32) {
        self.tally.degraded(before & DEGRADED != 0, after & DEGRADED != 0);
        if before & (OUT | DEGRADED | DUE) != after & (OUT | DEGRADED | DUE) {
            self.tally.changed();
        }
    }
}

#[cfg(test)]
mod tests;
