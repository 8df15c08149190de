//! Pick: chooses one endpoint of a set for one attempt.
//!
//! ```text
//! priority level ── by available share ──► draw a few ── skip what is out ──► least load
//! ```
//!
//! | policy | chooses |
//! |---|---|
//! | peak EWMA (default) | of `choiceCount` drawn endpoints, the one of least `E·(in flight + 1)` ([`load`]) |
//! | least request | of `choiceCount` drawn, the one of least `((in flight + 1)^bias − 1) / weight`; the first on ties |
//! | round robin | the next of a fixed rotation |
//! | random | one drawn |
//!
//! *Draws* are distinct. One that is out (ejected, unreachable, breaker open, or tried before by
//! this call) is drawn again, up to five times; then the level is searched from a random place.
//! With unequal weights, draws and rotation use a schedule made by earliest deadline first, so
//! that each endpoint comes up in proportion to its weight. `bias` 0 is round robin.
//!
//! *Priority levels*: with over-provisioning 1.4, the health of a level is
//! `min(100, 140 × available / total)` and a level gets what the ones before it leave, up to its
//! health; when the sum is below 100 all are scaled up (`pick/levels.rs`).
//!
//! *Panic threshold*: when that sum is below 100, a level of which less than `panicThreshold`
//! percent are available is picked from as a whole, because the few that are left would be
//! overrun. What discovery declared unusable stays out even then, and so does what cannot be
//! connected to: it would take no load from the others, only time from the calls.
//!
//! Endpoints that the call has tried are used only when nothing else is.
//!
//! Cost: no lock, no allocation, no look at more endpoints than are drawn, unless some are out.
//! Shares are recounted when the health of an endpoint changed since the last count.
//!
//! Source: Mitzenmacher, "The power of two choices"; Finagle `p2c` (five re-draws); Envoy "Load
//! balancing" (priority levels, panic threshold, previous hosts). Ours, against Envoy: draws are
//! without replacement, and least request with weights draws by weight instead of keeping a
//! queue that every pick would have to lock.

mod args;
mod choices;
mod group;
mod least_request;
mod levels;
mod peak_ewma;
mod random;
mod round_robin;
mod schedule;

pub use args::PickArgs;

use crate::config::percent;
use crate::endpoint::{EndpointSet, Member};
use crate::{Draw, Timestamp, load};
use choices::MAX_CHOICES;
use group::Candidates;
use levels::{Level, Levels};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub enum Policy {
    /// Least latency times attempts in flight.
    #[default]
    PeakEwma,
    /// Least attempts in flight.
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// By chance.
    Random,
}

/// Settings of a [`Picker`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Config {
    /// How an endpoint is chosen. `PeakEwma`.
    pub policy: Policy,
    /// Endpoints that are compared, 2 to 10; what is outside counts as the nearer end. 2.
    pub choice_count: u32,
    /// How much attempts in flight weigh in `LeastRequest`; 0 is round robin. 1.0.
    pub active_request_bias: f64,
    /// Percent of a level that must be available, lest it is picked from as a whole; 0 turns this
    /// off. 50.
    #[serde(deserialize_with = "percent::deserialize")]
    #[schemars(with = "percent::Number")]
    pub panic_threshold: u8,
    /// The latency estimate of `PeakEwma`.
    pub ewma: load::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            choice_count: 2,
            active_request_bias: 1.0,
            panic_threshold: 50,
            ewma: load::Config::default(),
        }
    }
}

impl Config {
    /// How many endpoints are compared.
    fn choices(&self) -> u32 {
        self.choice_count.clamp(2, MAX_CHOICES)
    }
}

/// Chooses among the endpoints of one set; replaced whole, with it.
#[derive(Debug)]
pub struct Picker<C = ()> {
    set: EndpointSet<C>,
    config: Config,
    levels: Levels,
}

/// The chosen endpoint, and why it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Picked<'a, C = ()> {
    /// The endpoint.
    pub member: &'a Member<C>,
    /// Why it.
    pub reason: Reason,
}

/// Why an endpoint was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The policy chose it.
    Chosen,
    /// No other endpoint could be picked.
    Only,
    /// Too few are available: the level is picked from as a whole.
    Panic,
    /// The call has tried it before, and there is no other.
    Retried,
}

impl Reason {
    /// The word for spans and pages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chosen => "chosen",
            Self::Only => "only",
            Self::Panic => "panic",
            Self::Retried => "retried",
        }
    }
}

/// No endpoint can be picked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoPick {
    /// The set is empty.
    Empty,
    /// All are out.
    #[non_exhaustive]
    AllOut {
        /// How many there are.
        total: usize,
        /// One of them, with its state: `10.0.0.1:80 is unhealthy: discovery says so`.
        example: String,
    },
}

impl fmt::Display for NoPick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("there are no endpoints"),
            Self::AllOut { total, example } => {
                write!(f, "none of {total} endpoints can be picked; {example}")
            }
        }
    }
}

impl std::error::Error for NoPick {}

impl<C> Picker<C> {
    /// A picker over this set. Costs `n log n` when weights differ, otherwise little.
    #[must_use]
    pub fn new(set: EndpointSet<C>, config: Config) -> Self {
        let levels = Levels::new(&set, &config);
        Self { set, config, levels }
    }

    /// The endpoints it chooses from.
    #[must_use]
    pub const fn set(&self) -> &EndpointSet<C> {
        &self.set
    }

    /// Its settings.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Chooses an endpoint, if possible none that the call has tried.
    ///
    /// # Errors
    /// When there are no endpoints, or all are out.
    pub fn pick(&self, args: &PickArgs<'_>, draw: &mut impl Draw) -> Result<Picked<'_, C>, NoPick> {
        let levels = self.levels.all();
        let first = match levels {
            [] => return Err(NoPick::Empty),
            [_] => 0,
            _ => self.levels.draw(&self.set, self.config.panic_threshold, draw),
        };
        if let Some(level) = levels.get(first)
            && let Some(picked) = self.pick_from(level, args, false, draw)
        {
            return Ok(picked);
        }
        // The level's share was counted before this attempt's own exclusions.
        for allow_avoided in [false, true] {
            if allow_avoided && args.avoid.is_empty() {
                break;
            }
            let mut picks =
                levels.iter().map(|level| self.pick_from(level, args, allow_avoided, draw));
            if let Some(picked) = picks.find_map(|picked| picked) {
                return Ok(picked);
            }
        }
        Err(self.all_out(args.now))
    }

    fn pick_from(
        &self,
        level: &Level,
        args: &PickArgs<'_>,
        allow_avoided: bool,
        draw: &mut impl Draw,
    ) -> Option<Picked<'_, C>> {
        let group = level.group();
        let members = group.members(self.set.members());
        let candidates = Candidates { picker: self, level, members, args, allow_avoided };
        let found = group.pick(&candidates, draw)?;
        let reason = if found.panic {
            Reason::Panic
        } else if allow_avoided && candidates.is_avoided(found.member) {
            Reason::Retried
        } else if members.len() == 1 {
            Reason::Only
        } else {
            Reason::Chosen
        };
        Some(Picked { member: found.member, reason })
    }

    /// Whether a level is picked from as a whole.
    fn panics(&self, level: &Level) -> bool {
        self.levels.panics(level, &self.set, self.config.panic_threshold)
    }

    #[cold]
    fn all_out(&self, now: Timestamp) -> NoPick {
        let members = self.set.members();
        members.first().map_or(NoPick::Empty, |member| NoPick::AllOut {
            total: members.len(),
            example: format!("{} is {}", member.endpoint.id(), member.endpoint.state(now)),
        })
    }
}

#[cfg(test)]
mod tests;
