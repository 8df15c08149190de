//! Probation: after an ejection one real call at a time decides whether the endpoint returns.
//!
//! ```text
//!            time over           a call is picked for it            it succeeds
//! ejected ──────────────► due ───────────────────────────► deciding ───────────► in
//!    ▲                     ▲                                │  │
//!    │                     └──── its caller goes away, or ──┘  │ it fails: ejected again,
//!    │                           it takes too long             │ for longer
//!    └─────────────────────────────────────────────────────────┘
//! ```
//!
//! The state is the instant of the ejection's end: past, it is due; the call that moves it into the
//! future by one compare-and-swap is the one that decides, and the instant by which it must be over
//! tells it from the calls before and after it.
//!
//! Source: Finagle `FailureAccrualFactory` (one probe, and its failure is enough); Linkerd
//! "Circuit Breaking".

use super::{Detector, Ejection, Reason};
use crate::endpoint::Endpoint;
use crate::health::{EJECTED, Health, ON_PROBATION, PROBING};
use crate::{Draw, Outcome, Timestamp};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// The call that decides; to be handed back with its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe(u64);

/// What [`Detector::admit`] says of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a caller must handle all")]
pub enum Admitted {
    /// Nothing depends on it.
    Freely,
    /// It decides.
    OnProbation(Probe),
    /// Another call is deciding, or it is too early for one.
    No,
}

/// What a deciding call did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a caller must handle all")]
pub enum Probed {
    /// The endpoint is back.
    Readmitted,
    /// It is out again.
    Ejected(Ejection),
    /// Nothing: the next call decides, or another has decided.
    Undecided,
}

impl Health {
    fn swap_end(&self, from: u64, to: u64) -> bool {
        self.ejected_until.compare_exchange(from, to, Relaxed, Relaxed).is_ok()
    }
}

impl Detector {
    /// Asks for a call to be sent to an endpoint that was picked.
    pub fn admit<C>(&self, endpoint: &Endpoint<C>, now: Timestamp) -> Admitted {
        let health = endpoint.health();
        if health.flags.load(Relaxed) & (EJECTED | ON_PROBATION) != EJECTED | ON_PROBATION {
            return Admitted::Freely;
        }
        let due = health.ejected_until.load(Relaxed);
        if due > now.as_nanos() {
            return Admitted::No;
        }
        // The call may take as long as an ejection. A later instant tells it from the one before,
        // even when that was admitted at this same instant.
        let lease = self.config.max_ejection_time.max(self.config.base_ejection_time);
        let over = (now + lease).as_nanos().max(due.saturating_add(1));
        if !health.swap_end(due, over) {
            return Admitted::No;
        }
        health.flags.fetch_or(PROBING, Relaxed);
        Admitted::OnProbation(Probe(over))
    }

    /// Records how a deciding call ended. Each is to be recorded once; an abandoned one as
    /// [`Outcome::Cancelled`].
    pub fn probed<C>(
        &self,
        endpoint: &Endpoint<C>,
        probe: Probe,
        outcome: Outcome,
        now: Timestamp,
        draw: &mut impl Draw,
    ) -> Probed {
        let health = endpoint.health();
        match outcome {
            Outcome::Success if health.swap_end(probe.0, u64::MAX) => {
                health.counts.end_rows();
                health.readmit(now);
                Probed::Readmitted
            }
            Outcome::Failure(_) => {
                let ejections = health.ejections.load(Relaxed).saturating_add(1);
                let duration = self.config.ejection_time(ejections, draw);
                if !health.swap_end(probe.0, (now + duration).as_nanos()) {
                    return Probed::Undecided;
                }
                health.ejections.store(ejections, Relaxed);
                health.eject_again(now, Reason::Probation);
                let endpoint = endpoint.id().clone();
                Probed::Ejected(Ejection { endpoint, reason: Reason::Probation, duration })
            }
            Outcome::Cancelled if health.swap_end(probe.0, now.as_nanos()) => {
                health.flags.fetch_and(!PROBING, Relaxed);
                Probed::Undecided
            }
            _ => Probed::Undecided,
        }
    }
}

/// `half + unit × half`: Finagle's "equal jitter".
pub(super) fn equal_jitter(span: Duration, draw: &mut impl Draw) -> Duration {
    let half = span / 2;
    half.saturating_add(half.mul_f64(draw.unit()))
}
