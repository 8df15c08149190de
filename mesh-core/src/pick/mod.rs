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

mod levels;
mod schedule;

use crate::config::percent;
use crate::endpoint::{EndpointId, EndpointSet, Member};
use crate::{Draw, Timestamp, load};
use levels::{Level, Levels};
use schedule::Schedule;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Most endpoints that are compared for one pick, whatever is configured.
const MAX_CHOICES: u32 = 10;
/// How often what is out is drawn again before the level is searched.
const REDRAWS: usize = 5;
const MAX_DRAWS: usize = MAX_CHOICES as usize + REDRAWS;

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

/// Chooses among the endpoints of one set; replaced whole, with it.
#[derive(Debug)]
pub struct Picker<C = ()> {
    set: EndpointSet<C>,
    config: Config,
    choices: usize,
    levels: Levels,
    /// Of the rotation.
    cursor: AtomicUsize,
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
        let levels = Levels::new(&set);
        let choices = config.choice_count.clamp(2, MAX_CHOICES) as usize;
        Self { set, config, choices, levels, cursor: AtomicUsize::new(0) }
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

    /// Chooses an endpoint, if possible none of `avoid` (those that the call has tried).
    ///
    /// # Errors
    /// When there are no endpoints, or all are out.
    pub fn pick(
        &self,
        now: Timestamp,
        avoid: &[EndpointId],
        draw: &mut impl Draw,
    ) -> Result<Picked<'_, C>, NoPick> {
        let levels = self.levels.all();
        let first = match levels {
            [] => return Err(NoPick::Empty),
            [_] => 0,
            _ => self.levels.draw(&self.set, self.config.panic_threshold, draw),
        };
        let mut search = Search { picker: self, now, avoid, allow_avoided: false };
        if let Some(picked) = levels.get(first).and_then(|level| search.level(level, draw)) {
            return Ok(picked);
        }
        // The level's share was counted before this attempt's own exclusions.
        for allow_avoided in [false, true] {
            if allow_avoided && avoid.is_empty() {
                break;
            }
            search.allow_avoided = allow_avoided;
            if let Some(picked) = levels.iter().find_map(|level| search.level(level, draw)) {
                return Ok(picked);
            }
        }
        Err(self.all_out(now))
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

/// One pick under way.
struct Search<'a, 'b, C> {
    picker: &'a Picker<C>,
    now: Timestamp,
    avoid: &'b [EndpointId],
    allow_avoided: bool,
}

impl<'a, C> Search<'a, '_, C> {
    fn level(&self, level: &Level, draw: &mut impl Draw) -> Option<Picked<'a, C>> {
        let members = self.picker.set.members().get(level.range())?;
        let rotates = match self.picker.config.policy {
            Policy::RoundRobin => true,
            Policy::LeastRequest => self.picker.config.active_request_bias <= 0.0,
            _ => false,
        };
        let found = if rotates {
            self.rotate(level, members, draw)
        } else {
            self.compare(level, members, draw)
        };
        let (member, panic) = match found {
            Some(found) => found,
            None => self.scan(level, members, draw)?,
        };
        let reason = if panic {
            Reason::Panic
        } else if self.allow_avoided && self.is_avoided(member) {
            Reason::Retried
        } else if members.len() == 1 {
            Reason::Only
        } else {
            Reason::Chosen
        };
        Some(Picked { member, reason })
    }

    /// Draws distinct endpoints, and takes the one of least load.
    fn compare(
        &self,
        level: &Level,
        members: &'a [Member<C>],
        draw: &mut impl Draw,
    ) -> Option<(&'a Member<C>, bool)> {
        let choices = match self.picker.config.policy {
            Policy::Random => 1,
            _ => self.picker.choices,
        };
        if let ([only], true) = (members, self.avoid.is_empty()) {
            return self.usable(level, only).map(|panic| (only, panic));
        }
        let mut drawn = Drawn::default();
        let mut best: Option<(&Member<C>, bool)> = None;
        let mut least = f64::INFINITY;
        let mut found = 0;
        for _ in 0..choices + REDRAWS {
            let Some(index) = drawn.next(level.schedule(), members.len(), draw) else { break };
            let Some(member) = members.get(index) else { continue };
            let Some(panic) = self.usable(level, member) else { continue };
            found += 1;
            if choices == 1 {
                return Some((member, panic));
            }
            let cost = self.cost(member);
            if best.is_none() || cost < least {
                (best, least) = (Some((member, panic)), cost);
            }
            if found == choices {
                break;
            }
        }
        best
    }

    /// Takes the next of the rotation.
    fn rotate(
        &self,
        level: &Level,
        members: &'a [Member<C>],
        draw: &mut impl Draw,
    ) -> Option<(&'a Member<C>, bool)> {
        for _ in 0..=REDRAWS {
            let mut turn = self.picker.cursor.fetch_add(1, Relaxed);
            if turn == 0 {
                // Clients that start together must not walk in step.
                turn = draw.bits() as usize >> 8;
                self.picker.cursor.store(turn.wrapping_add(1), Relaxed);
            }
            let index = match level.schedule() {
                Some(schedule) => schedule.at(turn),
                None => turn % members.len(),
            };
            if let Some(member) = members.get(index)
                && let Some(panic) = self.usable(level, member)
            {
                return Some((member, panic));
            }
        }
        None
    }

    /// Searches the whole level from a random place.
    #[cold]
    fn scan(
        &self,
        level: &Level,
        members: &'a [Member<C>],
        draw: &mut impl Draw,
    ) -> Option<(&'a Member<C>, bool)> {
        let (before, after) = members.split_at(draw.below(members.len()));
        after
            .iter()
            .chain(before)
            .find_map(|member| self.usable(level, member).map(|panic| (member, panic)))
    }

    /// Whether it can be picked, and if so whether only because of the panic threshold.
    fn usable(&self, level: &Level, member: &Member<C>) -> Option<bool> {
        if !self.avoid.is_empty() && !self.allow_avoided && self.is_avoided(member) {
            return None;
        }
        let endpoint = &*member.endpoint;
        if endpoint.is_selectable_at(self.now) {
            return Some(false);
        }
        let picker = self.picker;
        let health = endpoint.health();
        let panic = health.is_declared_usable()
            && !health.is_unreachable()
            && picker.levels.panics(level, &picker.set, picker.config.panic_threshold);
        panic.then_some(true)
    }

    fn is_avoided(&self, member: &Member<C>) -> bool {
        self.avoid.contains(member.endpoint.id())
    }

    fn cost(&self, member: &Member<C>) -> f64 {
        let config = &self.picker.config;
        let load = member.endpoint.load();
        match config.policy {
            Policy::LeastRequest => {
                let active = f64::from(load.in_flight());
                let biased = if config.active_request_bias == 1.0 {
                    active
                } else {
                    (active + 1.0).powf(config.active_request_bias) - 1.0
                };
                biased / f64::from(member.spec.weight.max(1))
            }
            _ => load.peak_ewma(self.now, &config.ewma),
        }
    }
}

/// The places drawn so far for one pick.
#[derive(Default)]
struct Drawn {
    /// Ascending.
    places: [usize; MAX_DRAWS],
    len: usize,
}

impl Drawn {
    /// A place that was not drawn before; none if all were, or by schedule if chance keeps
    /// naming the same.
    fn next(
        &mut self,
        schedule: Option<&Schedule>,
        places: usize,
        draw: &mut impl Draw,
    ) -> Option<usize> {
        if self.len >= places.min(MAX_DRAWS) {
            return None;
        }
        let Some(schedule) = schedule else {
            // Uniform among the places that are left: skip over each drawn one.
            let mut place = draw.below(places - self.len);
            let mut at = 0;
            for drawn in self.places.iter().take(self.len) {
                if place < *drawn {
                    break;
                }
                place += 1;
                at += 1;
            }
            self.insert(at, place);
            return Some(place);
        };
        for _ in 0..=REDRAWS {
            let place = schedule.at(draw.bits() as usize >> 8);
            let drawn = self.places.iter().take(self.len);
            match drawn.clone().position(|one| *one == place) {
                Some(_) => {}
                None => {
                    let at = drawn.take_while(|one| **one < place).count();
                    self.insert(at, place);
                    return Some(place);
                }
            }
        }
        None
    }

    fn insert(&mut self, at: usize, place: usize) {
        self.places.copy_within(at..self.len, at + 1);
        if let Some(slot) = self.places.get_mut(at) {
            *slot = place;
        }
        self.len += 1;
    }
}

#[cfg(test)]
mod tests;
