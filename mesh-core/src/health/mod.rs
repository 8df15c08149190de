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
mod invalid;
pub mod outlier;
mod state;

pub use breaker::Breaker;
pub use invalid::Invalid;
pub use state::{EndpointState, StateKind};

use crate::Timestamp;
use crate::endpoint::Declared;
use check::Cause;
use outlier::{Counts, Reason};
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};

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

    fn changed(&self) {
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
    fn reserve(&self, allowed: usize) -> bool {
        self.0
            .ejected
            .fetch_update(Relaxed, Relaxed, |ejected| (ejected < allowed).then(|| ejected + 1))
            .is_ok()
    }

    fn release(&self) {
        self.0.ejected.fetch_sub(1, Relaxed);
    }
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

    /// Takes it out for `span(n)`, `n` being its ejections so far with this one, unless `allowed`
    /// endpoints of its set are out already.
    fn eject(
        &self,
        now: Timestamp,
        allowed: usize,
        reason: Reason,
        probation: bool,
        span: impl FnOnce(u32) -> std::time::Duration,
    ) -> Option<std::time::Duration> {
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
    fn eject_again(&self, now: Timestamp, reason: Reason) {
        self.reason.store(reason.pack(), Relaxed);
        self.ejected_since.store(now.as_nanos(), Relaxed);
        let before = self.flags.fetch_and(!(DUE | PROBING), Relaxed);
        self.changed(before, before & !(DUE | PROBING));
    }

    fn is_on_probation(&self) -> bool {
        self.flags.load(Relaxed) & ON_PROBATION != 0
    }

    /// From now on it counts as available.
    fn set_due(&self) {
        let before = self.flags.fetch_or(DUE, Relaxed);
        self.changed(before, before | DUE);
    }

    /// Puts it back. True if it was out.
    fn readmit(&self, now: Timestamp) -> bool {
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

    fn ejected_until(&self) -> Timestamp {
        Timestamp::from_nanos(self.ejected_until.load(Relaxed))
    }

    fn changed(&self, before: u32, after: u32) {
        match (before & DEGRADED != 0, after & DEGRADED != 0) {
            (false, true) => _ = self.tally.0.degraded.fetch_add(1, Relaxed),
            (true, false) => _ = self.tally.0.degraded.fetch_sub(1, Relaxed),
            _ => {}
        }
        if before & (OUT | DEGRADED | DUE) != after & (OUT | DEGRADED | DUE) {
            self.tally.changed();
        }
    }

    /// Whether its ejection is over but for the call that decides.
    fn is_tried(&self, flags: u32, now: Timestamp) -> bool {
        flags & ON_PROBATION != 0 && (flags & PROBING != 0 || self.ejected_until() <= now)
    }

    /// Its state with reason and times; the breaker is not looked at.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> EndpointState {
        let flags = self.flags.load(Relaxed);
        let stamp = |word: &AtomicU64| Timestamp::from_nanos(word.load(Relaxed));
        let state = |kind, since, until, reason: Cow<'static, str>| {
            EndpointState::new(now, kind, since, until, reason)
        };
        if flags & UNHEALTHY != 0 {
            state(StateKind::Unhealthy, None, None, "discovery says so".into())
        } else if flags & DRAINING != 0 {
            state(StateKind::Draining, None, None, "discovery says so".into())
        } else if flags & (NOT_WELL | UNREACHABLE) == NOT_WELL {
            // Why it cannot be reached says more than that its check found no connection.
            let cause = Cause::unpack(self.cause.load(Relaxed));
            let since = Some(stamp(&self.not_well_since));
            state(StateKind::Unhealthy, since, None, cause.to_string().into())
        } else if flags & EJECTED != 0 && self.is_tried(flags, now) {
            let decides = match flags & PROBING {
                0 => "the next call decides",
                _ => "a call is deciding",
            };
            let reason = Reason::unpack(self.reason.load(Relaxed));
            let since = Some(stamp(&self.ejected_since));
            state(StateKind::Probation, since, None, format!("{reason}, {decides}").into())
        } else if flags & EJECTED != 0 {
            state(
                StateKind::Ejected,
                Some(stamp(&self.ejected_since)),
                Some(stamp(&self.ejected_until)),
                Reason::unpack(self.reason.load(Relaxed)).to_string().into(),
            )
        } else if flags & UNREACHABLE != 0 {
            state(
                StateKind::Unreachable,
                Some(stamp(&self.unreachable_since)),
                Some(stamp(&self.retry_at)),
                "no connection".into(),
            )
        } else {
            let back = Some(stamp(&self.back_since)).filter(|back| *back > Timestamp::ZERO);
            let reason = match flags & DEGRADED {
                0 => "",
                CHECKED_DEGRADED => "degraded, its health check says so",
                _ => "degraded, discovery says so",
            };
            state(StateKind::Ready, back, None, reason.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn a_state_says_why_and_for_how_long() {
        let health = Health::new(Tally::default());
        let text = |now| health.state(at(now)).to_string();
        assert_eq!(text(0), "ready");

        assert_eq!(health.state(at(0)).since, None, "it was never out");

        assert!(health.set_unreachable(at(5), at(7)));
        assert!(!health.set_unreachable(at(6), at(9)), "it was out already");
        assert_eq!(text(6), "unreachable: no connection, next try in 3 s");
        assert_eq!(health.state(at(6)).since, Some(at(5)));

        let reason = Reason::Consecutive5xx(5);
        let thirty = |_| Duration::from_secs(30);
        assert_eq!(health.eject(at(8), 1, reason, false, thirty), Some(Duration::from_secs(30)));
        assert_eq!(text(10), "ejected: 5 consecutive 5xx, returns in 28 s");
        assert_eq!(text(39), "ejected: 5 consecutive 5xx, returns at the next sweep");

        health.set_declared(Declared::Draining);
        assert_eq!(text(10), "draining: discovery says so");
        health.set_declared(Declared::Healthy);
        assert!(health.readmit(at(40)));
        assert!(!health.readmit(at(41)));
        assert!(health.set_reachable(at(42)));
        assert!(!health.set_reachable(at(43)));
        assert_eq!(text(44), "ready");
        assert_eq!(health.state(at(44)).since, Some(at(42)));
        assert!(health.is_selectable());
    }

    #[test]
    fn an_endpoint_that_is_not_well_says_why_and_since_when() {
        let health = Health::new(Tally::default());
        let text = |now| health.state(at(now)).to_string();
        assert!(health.is_well());
        assert!(health.set_not_well(at(1), Cause::Unchecked));
        assert_eq!(text(2), "unhealthy: no health check has ended yet");
        assert!(!health.is_selectable() && health.is_declared_usable());

        assert!(!health.set_not_well(at(3), Cause::Status(503)), "it was out already");
        assert_eq!(text(4), "unhealthy: health check: HTTP 503");
        assert_eq!(health.state(at(4)).since, Some(at(1)));

        health.set_unreachable(at(5), at(6));
        assert_eq!(text(5), "unreachable: no connection, next try in 1 s");
        health.set_reachable(at(7));
        assert!(health.set_well(at(8)));
        assert!(!health.set_well(at(9)));
        assert_eq!(text(9), "ready");
        assert_eq!(health.state(at(9)).since, Some(at(8)));
        assert!(health.is_selectable());
    }

    #[test]
    fn only_changes_of_the_choice_count_as_changes() {
        let tally = Tally::default();
        let health = Health::new(tally.clone());
        let before = tally.changes();
        health.set_declared(Declared::Healthy);
        health.set_reachable(at(0));
        assert_eq!(tally.changes(), before);
        health.set_unreachable(at(1), at(2));
        assert_ne!(tally.changes(), before);
    }

    #[test]
    fn degraded_endpoints_are_counted_until_they_are_gone() {
        let tally = Tally::default();
        let health = Health::new(tally.clone());
        health.set_declared(Declared::Degraded);
        assert_eq!(health.standing(), Some(Standing::Degraded));
        health.set_declared(Declared::Degraded);
        assert!(tally.any_degraded());
        health.set_declared(Declared::Healthy);
        assert!(!tally.any_degraded());
        health.set_declared(Declared::Degraded);
        health.retire();
        assert!(!tally.any_degraded());
    }

    #[test]
    fn discovery_and_checks_say_degraded_independently_and_either_suffices() {
        let tally = Tally::default();
        let health = Health::new(tally.clone());
        let text = || health.state(at(1)).to_string();
        let standings = || {
            let [now, later] = [health.standing(), health.standing_at(at(1))];
            assert_eq!(now, later);
            now
        };
        let before = tally.changes();
        assert!(!health.set_degraded(false), "no check has said otherwise");
        assert_eq!(tally.changes(), before);

        assert!(health.set_degraded(true) && !health.set_degraded(true));
        assert_ne!(tally.changes(), before);
        assert_eq!((standings(), health.is_degraded()), (Some(Standing::Degraded), true));
        assert_eq!(text(), "ready: degraded, its health check says so");

        health.set_declared(Declared::Degraded);
        assert_eq!(text(), "ready: degraded, discovery says so");
        assert!(health.set_degraded(false));
        assert_eq!(standings(), Some(Standing::Degraded), "discovery still says so");
        assert!(tally.any_degraded());
        health.set_degraded(true);
        health.set_declared(Declared::Healthy);
        assert_eq!(standings(), Some(Standing::Degraded), "the check still says so");

        health.set_not_well(at(2), Cause::Status(503));
        assert_eq!(standings(), None);
        health.set_well(at(3));
        assert_eq!(standings(), Some(Standing::Degraded), "nothing has said otherwise");
        let minute = |_| Duration::from_secs(60);
        assert!(health.eject(at(4), 1, Reason::Consecutive5xx(5), true, minute).is_some());
        assert_eq!(health.standing_at(at(5)), None);
        assert_eq!(health.standing_at(at(64)), Some(Standing::Degraded), "probation is due");

        health.retire();
        assert!(!tally.any_degraded());
        assert!(!health.set_degraded(true) && !tally.any_degraded(), "a check that ends late");
    }

    #[test]
    fn what_joins_is_new_from_the_first_look_on() {
        let health = Health::new(Tally::default());
        assert_eq!(health.new_since(at(5)), None, "there from the start");
        health.set_joined();
        assert_eq!(health.new_since(at(7)), Some(at(7)));
        assert_eq!(health.new_since(at(9)), Some(at(7)));
        health.set_unreachable(at(10), at(11));
        health.set_reachable(at(12));
        assert_eq!(health.new_since(at(13)), Some(at(12)), "it came back");
    }

    #[test]
    fn a_retired_endpoint_is_not_counted_as_ejected() {
        let tally = Tally::default();
        let health = Health::new(tally.clone());
        let minute = |_| Duration::from_secs(60);
        assert!(health.eject(at(1), 1, Reason::Consecutive5xx(5), false, minute).is_some());
        assert_eq!(tally.ejected(), 1);
        health.retire();
        assert_eq!(tally.ejected(), 0);
        assert!(health.eject(at(1), 1, Reason::Consecutive5xx(5), false, minute).is_none());
        assert_eq!(tally.ejected(), 0);
    }
}
