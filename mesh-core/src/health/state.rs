//! What a person is told about an endpoint.

use crate::Timestamp;
use std::borrow::Cow;
use std::fmt;

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
