//! What a person is told about an endpoint.

use super::check::Cause;
use super::outlier::Reason;
use super::{
    CHECKED_DEGRADED, DEGRADED, DRAINING, EJECTED, Health, NOT_WELL, PROBING, UNHEALTHY,
    UNREACHABLE,
};
use crate::Timestamp;
use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The kind of an endpoint's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StateKind {
    /// It takes calls.
    Ready,
    /// Connecting failed.
    Unreachable,
    /// Outlier detection took it out.
    Ejected,
    /// Outlier detection took it out, and one call is to decide whether it returns.
    Probation,
    /// Discovery says that it must not be called, or health checks that it is not well.
    Unhealthy,
    /// Discovery says that it takes nothing new.
    Draining,
    /// Its breaker is open or half-open.
    BreakerOpen,
}

impl StateKind {
    /// The word for labels and pages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Unreachable => "unreachable",
            Self::Ejected => "ejected",
            Self::Probation => "probation",
            Self::Unhealthy => "unhealthy",
            Self::Draining => "draining",
            Self::BreakerOpen => "breaker open",
        }
    }
}

impl fmt::Display for StateKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// State of an endpoint at one instant, with its reason.
///
/// Displays as `ejected: 5 consecutive 5xx, returns in 28 s`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointState {
    /// Which.
    pub kind: StateKind,
    /// Since when. `None` for what discovery declares, whose time is for whoever follows discovery
    /// to know, and for an endpoint that was never out.
    pub since: Option<Timestamp>,
    /// Until when, where that is known.
    pub until: Option<Timestamp>,
    /// Why, in a few words; for ready, whether it is degraded, else empty.
    pub reason: Cow<'static, str>,
    /// The instant of the question.
    at: Timestamp,
}

impl EndpointState {
    pub(crate) const fn new(
        at: Timestamp,
        kind: StateKind,
        since: Option<Timestamp>,
        until: Option<Timestamp>,
        reason: Cow<'static, str>,
    ) -> Self {
        Self { kind, since, until, reason, at }
    }
}

impl fmt::Display for EndpointState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)?;
        if !self.reason.is_empty() {
            write!(f, ": {}", self.reason)?;
        }
        let Some(until) = self.until else {
            return Ok(());
        };
        let left = until.since(self.at);
        // Up to the next second: "in 0 s" would be a promise that is not kept.
        let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        match (self.kind, seconds) {
            (StateKind::Ejected, 0) => f.write_str(", returns at the next sweep"),
            (StateKind::Ejected, _) => write!(f, ", returns in {seconds} s"),
            (StateKind::BreakerOpen, 0) => f.write_str(", the next call is the probe"),
            (_, 0) => f.write_str(", trying now"),
            _ => write!(f, ", next try in {seconds} s"),
        }
    }
}

impl Health {
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
