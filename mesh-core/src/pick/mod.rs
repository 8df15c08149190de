//! Pick: chooses one endpoint of a set for one attempt.
//!
//! ```text
//! [subset] ──► priority level ── by available share ──► locality ── by share ──► endpoint
//!                                                                                 │ by policy:
//!                                           draw a few ── skip what is out ──► least load
//! ```
//!
//! | policy | chooses |
//! |---|---|
//! | expected wait (default) | of the last that answered and `choiceCount` drawn, the one of least `(in flight + 1) × service time + 1 s × error share` ([`load`]) |
//! | peak EWMA | of `choiceCount` drawn endpoints, the one of least `E·(in flight + 1)` ([`load`]) |
//! | least request | of `choiceCount` drawn, the one of least `((in flight + 1)^bias − 1) / weight`; the first on ties |
//! | round robin | the next of a fixed rotation |
//! | weighted round robin | the next of a rotation by the capacity that load reports give ([`weighted_round_robin`]) |
//! | Prequal | of those that answered a probe, the fast one that is not about to be full ([`prequal`]) |
//! | random | one drawn |
//! | ring hash | the one that follows the call's hash on a ring ([`ring_hash`]) |
//! | Maglev | the one in the slot of a table that the call's hash names ([`maglev`]) |
//! | pick first | one for all calls, until it is out |
//!
//! *Draws* are distinct. One that is out (ejected, unreachable, breaker open, or tried before by
//! this call) is drawn again, up to five times; then the level is searched from a random place.
//! With unequal weights each endpoint comes up in proportion to its weight: draws use a table of
//! aliases, rotation a schedule made by earliest deadline first. Shares converge to the weights
//! within 1 % of the calls with the policies that compare nothing; the others follow load first. The
//! expected wait gives endpoints that are equally fast their shares within 5 %. `bias` 0 is round robin.
//! Each policy has a file of its own, of that name.
//!
//! *Priority levels*: with over-provisioning 1.4, the health of a level is
//! `min(100, 140 × available / total)` and a level gets what the ones before it leave, up to its
//! health; when the sum is below 100 all are scaled up (`pick/levels.rs`). Endpoints that are
//! degraded take what the healthy ones of all levels leave.
//!
//! *Panic threshold*: when that sum is below 100, a level of which less than `panicThreshold`
//! percent are available is picked from as a whole, because the few that are left would be
//! overrun. What discovery declared unusable stays out even then, and so does what cannot be
//! connected to or has its breaker open: it would take no load from the others, only time from the
//! calls.
//!
//! Endpoints that the call has tried are used only when nothing else is: first another of the
//! group, then another locality, then another level.
//!
//! Which endpoints there are to choose from, before all this: [`subsetting`] of large sets, then
//! the [`subset`] that the call asks for. How [`locality`] splits the calls of a level, and how
//! [`slow_start`] spares new endpoints, is told there. *Who* picks is a [`Caller`].
//!
//! *Hashes*: where the policy goes by the call's hash, the level follows from it too, so that calls of
//! one hash stay together. *Sessions*: an endpoint that the call is pinned to goes before all
//! this, within the subset that the call names ([`affinity`](crate::affinity)).
//!
//! Cost: no lock, no allocation, no look at more endpoints than are drawn, unless some are out.
//! Shares are recounted, at the cost of a look at each endpoint, when the health of one has changed
//! since the last count; the pick of one thread pays for it. Sets of one level, with one locality
//! and nothing degraded, need no shares while enough is available.
//!
//! Source: Mitzenmacher, "The power of two choices"; Finagle `p2c` (five re-draws); Envoy "Load
//! balancing" (priority levels, panic threshold, previous hosts). Ours, against Envoy: draws are
//! without replacement, and least request with weights draws by weight instead of keeping a
//! queue that every pick would have to lock.

mod alias;
mod args;
mod bounded;
mod caller;
mod choices;
mod expected_wait;
mod explain;
mod failover;
mod group;
mod keys;
mod least_request;
mod levels;
pub mod locality;
pub mod maglev;
mod members;
mod peak_ewma;
pub mod pick_first;
mod pinned;
pub mod prequal;
mod probes;
mod random;
pub mod ring_hash;
mod round_robin;
mod schedule;
pub mod slow_start;
pub mod subset;
pub mod subsetting;
pub mod weighted_round_robin;

pub use args::{Looked, PickArgs};
pub use caller::Caller;
pub use pinned::Pinned;
pub use probes::{MAX_PROBES, Probes};
pub use subset::Labels;

use crate::config::{percent, span};
use crate::endpoint::{EndpointSet, Member};
use crate::hash::mix;
use crate::health::Standing;
use crate::load::{self, Load};
use crate::{Draw, Timestamp};
use choices::MAX_CHOICES;
use group::{Candidates, Group, Scope};
use levels::{Level, Levels};
use locality::Split;
use pinned::Addresses;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use subset::{Chosen, Subsets};

/// The increment of SplitMix64.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub enum Policy {
    /// Least expected wait: latency times attempts in flight, and what errors cost, by what was
    /// seen and by what endpoints report.
    #[default]
    ExpectedWait,
    /// Least latency times attempts in flight.
    PeakEwma,
    /// Least attempts in flight.
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// One after the other, each as often as its load reports say that it can take.
    WeightedRoundRobin,
    /// The fastest of those that answered a probe and are not about to be full.
    Prequal,
    /// By chance.
    Random,
    /// One for all calls, until it is out.
    PickFirst,
    /// The one that follows the call's hash on a ring.
    RingHash,
    /// The one in the slot of a table that the call's hash names.
    Maglev,
}

impl Policy {
    /// Whether it goes by the hash of a call.
    #[must_use]
    pub const fn is_by_hash(self) -> bool {
        matches!(self, Self::RingHash | Self::Maglev)
    }
}

/// Settings of a [`Picker`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Config {
    /// How an endpoint is chosen. `ExpectedWait`.
    pub policy: Policy,
    /// Endpoints that are compared, at least 2; more than 10 count as 10. 2.
    #[schemars(range(min = 2))]
    pub choice_count: u32,
    /// How much attempts in flight weigh in `LeastRequest`, 0 to 31; 0 is round robin. 1.0.
    #[schemars(range(min = 0.0, max = 31.0))]
    pub active_request_bias: f64,
    /// Percent of a level that must be available, lest it is picked from as a whole; 0 turns this
    /// off. 50.
    #[serde(deserialize_with = "percent::deserialize")]
    #[schemars(with = "percent::Number")]
    pub panic_threshold: u8,
    /// The latency estimate of `PeakEwma`.
    pub ewma: load::Config,
    /// Whether `ExpectedWait` asks endpoints how busy they are where their reports are stale, if
    /// they are known to report and the round trip is small against the latency. true.
    pub probes: bool,
    /// Whether endpoints are asked to report at intervals, on a stream of ORCA's `OpenRcaService`,
    /// where the policy reads reports; `WeightedRoundRobin` then asks for none with calls. false.
    pub out_of_band: bool,
    /// How often they are asked to, at least 1 s; they may report less often. 10 s.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub oob_reporting_period: Duration,
    /// Of `WeightedRoundRobin`.
    pub weighted_round_robin: weighted_round_robin::Config,
    /// Of `Prequal`.
    pub prequal: prequal::Config,
    /// The order of `PickFirst`.
    pub pick_first: pick_first::Config,
    /// How calls are split by where endpoints run. Not at all.
    pub locality: Option<locality::Config>,
    /// Endpoints that a call may ask for by labels. None.
    pub subsets: Option<subset::Config>,
    /// How many endpoints each caller uses. All.
    pub subsetting: Option<subsetting::Config>,
    /// New endpoints take fewer calls at first. Off.
    pub slow_start: Option<slow_start::Config>,
    /// The ring of `RingHash`.
    pub ring_hash: ring_hash::Config,
    /// The table of `Maglev`.
    pub maglev: maglev::Config,
    /// How long endpoints that still answer stay in use when discovery suddenly names none at all, or
    /// less than half as many as before; 0s: not at all. 5 min.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub empty_set_grace: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            choice_count: 2,
            active_request_bias: 1.0,
            panic_threshold: 50,
            ewma: load::Config::default(),
            probes: true,
            out_of_band: false,
            oob_reporting_period: Duration::from_secs(10),
            weighted_round_robin: weighted_round_robin::Config::default(),
            prequal: prequal::Config::default(),
            pick_first: pick_first::Config::default(),
            locality: None,
            subsets: None,
            subsetting: None,
            slow_start: None,
            ring_hash: ring_hash::Config::default(),
            maglev: maglev::Config::default(),
            empty_set_grace: Duration::from_secs(300),
        }
    }
}

impl Config {
    /// Enters a success into the load that the policy compares; costs nothing where it compares none.
    pub fn succeeded(&self, load: &Load, now: Timestamp, latency: Duration) {
        match self.policy {
            Policy::PeakEwma => load.observe(now, latency, &self.ewma),
            _ if self.expects_waits() => load.succeeded(now, latency),
            _ => {}
        }
    }

    /// As [`Config::succeeded`], for a failure. `delay` is for how long the server
    /// asks to be left alone, if it does.
    pub fn failed(&self, load: &Load, now: Timestamp, delay: Option<Duration>) {
        match self.policy {
            Policy::PeakEwma => {
                load.penalize(now, delay.unwrap_or(self.ewma.failure_penalty), &self.ewma);
            }
            _ if self.expects_waits() => load.failed(now, delay),
            _ => {}
        }
    }

    /// The load that the policy keeps of an endpoint, in seconds; none if it does not go by latency.
    #[must_use]
    pub fn load(&self, load: &Load, now: Timestamp) -> Option<f64> {
        match self.policy {
            Policy::PeakEwma => Some(load.peak_ewma(now, &self.ewma)),
            _ => self.expects_waits().then(|| load.expected_wait(now)),
        }
    }

    /// Whether the policy goes by what waits were, or by their average over the set.
    const fn expects_waits(&self) -> bool {
        matches!(self.policy, Policy::ExpectedWait | Policy::Prequal)
    }

    /// Whether the policy compares endpoints by what they report of themselves.
    #[must_use]
    pub const fn reads_reports(&self) -> bool {
        matches!(self.policy, Policy::ExpectedWait | Policy::WeightedRoundRobin | Policy::Prequal)
    }

    /// Whether the policy may want endpoints to be asked for a report before a pick, or beside it:
    /// whether there is reason to call [`Picker::probes`].
    #[must_use]
    pub const fn may_probe(&self) -> bool {
        matches!(self.policy, Policy::ExpectedWait | Policy::Prequal)
    }

    /// Whether endpoints are to be asked for reports with each call: what comes at intervals is
    /// enough for weights, and too old to be compared by.
    #[must_use]
    pub const fn asks_with_calls(&self) -> bool {
        self.reads_reports()
            && !(self.out_of_band && matches!(self.policy, Policy::WeightedRoundRobin))
    }

    /// Whether endpoints are to be asked for reports at intervals.
    #[must_use]
    pub const fn listens(&self) -> bool {
        self.out_of_band && self.reads_reports()
    }

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
    subsets: Option<Subsets>,
    addresses: Addresses,
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
    /// The call's session is there.
    Session,
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
            Self::Session => "session",
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
    /// No endpoint has the labels that the call wants.
    #[non_exhaustive]
    NoSubset {
        /// The labels: `stage=canary, version=2`.
        labels: String,
    },
    /// The endpoint that the call's session is at cannot be picked, and no other will do.
    #[non_exhaustive]
    Session {
        /// Which one, and why not: `10.0.0.1:80 is unhealthy: discovery says so`.
        why: String,
    },
}

impl NoPick {
    #[cold]
    fn no_subset(wanted: &[Labels]) -> Self {
        // The last is what the call would have been content with.
        Self::NoSubset { labels: wanted.last().map(Labels::to_string).unwrap_or_default() }
    }
}

impl fmt::Display for NoPick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("there are no endpoints"),
            Self::AllOut { total, example } => {
                write!(f, "none of {total} endpoints can be picked; {example}")
            }
            Self::NoSubset { labels } if labels.is_empty() => {
                f.write_str("no endpoint has the labels of `defaultSubset`")
            }
            Self::NoSubset { labels } => write!(f, "there is no subset {labels}"),
            Self::Session { why } => write!(f, "the session cannot go on: {why}"),
        }
    }
}

impl std::error::Error for NoPick {}

impl<C> Picker<C> {
    /// A picker over this set, for nobody in particular.
    #[must_use]
    pub fn new(set: EndpointSet<C>, config: Config) -> Self {
        Self::of(set, config, &Caller::default())
    }

    /// A picker over this set for a caller. Costs a look at each endpoint; `n log n` with
    /// localities, subsetting, or round robin by unequal weights; with subsets, a look at each
    /// endpoint for each selector.
    #[must_use]
    pub fn of(set: EndpointSet<C>, config: Config, caller: &Caller) -> Self {
        let kept = config
            .subsetting
            .as_ref()
            .and_then(|config| subsetting::kept(set.members(), config, caller));
        let localities = set.members().iter().map(|member| &member.spec.locality);
        let split = Arc::new(Split::new(config.locality.as_ref(), caller, localities));
        let levels = Levels::new(&set, kept.as_deref(), &config, caller, &split);
        let subsets = Subsets::new(&set, kept.as_deref(), &config, caller, &split);
        Self { set, config, levels, subsets, addresses: Addresses::default() }
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
    /// When there are no endpoints, all are out, or none has the labels that the call wants.
    pub fn pick(&self, args: &PickArgs<'_>, draw: &mut impl Draw) -> Result<Picked<'_, C>, NoPick> {
        if self.set.members().is_empty() {
            return Err(NoPick::Empty);
        }
        if let Some(pinned) = &args.pinned
            && let Some(picked) = self.pick_pinned(pinned, args)
        {
            return picked;
        }
        if !self.config.policy.is_by_hash() {
            return self.pick_by_policy(args, draw);
        }
        let hash = args.hash.unwrap_or_else(|| draw.bits());
        // What is drawn follows from the hash: the level, and where a search begins.
        let mut state = hash;
        let mut from_hash = || {
            state = state.wrapping_add(GOLDEN);
            mix(state)
        };
        self.pick_by_policy(&args.with_hash(hash), &mut from_hash)
    }

    /// Whether an endpoint that the call may go to is up: neither panic nor what the call has tried
    /// counts. Looks at endpoints until the first that is.
    #[must_use]
    pub fn can_take(&self, args: &PickArgs<'_>) -> bool {
        let Ok(levels) = self.levels_for(args) else { return false };
        let mut groups = levels.all().iter().flat_map(|level| level.groups());
        groups.any(|group| {
            let members = group.members(self.set.members());
            let mut all = (0..members.len()).filter_map(|place| members.get(place));
            all.any(|member| member.endpoint.is_selectable_at(args.now))
        })
    }

    fn pick_by_policy(
        &self,
        args: &PickArgs<'_>,
        draw: &mut impl Draw,
    ) -> Result<Picked<'_, C>, NoPick> {
        let levels = self.levels_for(args)?;
        let threshold = self.config.panic_threshold;
        let (level, standing) = match args.priority {
            0 => levels.draw(&self.set, threshold, draw),
            priority => (levels.from(priority).first(), Standing::Healthy),
        };
        let Some(level) = level else { return Err(NoPick::Empty) };
        let group = levels.draw_group(level, standing, &self.set, threshold, draw);
        let scope = Scope { levels, level, standing, allow_avoided: false };
        if let Some(picked) = group.and_then(|group| self.pick_from(group, scope, args, draw)) {
            return Ok(picked);
        }
        self.pick_anywhere(levels, args, draw).ok_or_else(|| self.all_out(levels, args.now))
    }

    /// The levels of the endpoints that the call may go to.
    fn levels_for(&self, args: &PickArgs<'_>) -> Result<&Levels, NoPick> {
        let Some(subsets) = &self.subsets else {
            // Without selectors no labels name anything.
            return match args.subset {
                [] => Ok(&self.levels),
                _ if self.set.members().is_empty() => Err(NoPick::Empty),
                wanted => Err(NoPick::no_subset(wanted)),
            };
        };
        match subsets.choose(args.subset) {
            Chosen::Any => Ok(&self.levels),
            Chosen::Subset(levels) => Ok(levels),
            Chosen::None if self.set.members().is_empty() => Err(NoPick::Empty),
            Chosen::None => Err(NoPick::no_subset(args.subset)),
        }
    }

    /// Goes through levels and groups in order: shares were counted before this attempt's own
    /// exclusions, and say nothing to a call that starts at a later priority.
    #[cold]
    fn pick_anywhere<'a>(
        &'a self,
        levels: &'a Levels,
        args: &PickArgs<'_>,
        draw: &mut impl Draw,
    ) -> Option<Picked<'a, C>> {
        let later = levels.from(args.priority);
        let earlier = levels.all().len() - later.len();
        let order = later.iter().chain(levels.all().get(..earlier).unwrap_or_default());
        for allow_avoided in [false, true] {
            if allow_avoided && args.avoid.is_empty() {
                break;
            }
            for level in order.clone() {
                for standing in [Standing::Healthy, Standing::Degraded] {
                    let scope = Scope { levels, level, standing, allow_avoided };
                    let mut groups = level.groups().iter();
                    let picked = groups.find_map(|group| self.pick_from(group, scope, args, draw));
                    if picked.is_some() {
                        return picked;
                    }
                }
            }
        }
        None
    }

    fn pick_from<'a>(
        &'a self,
        group: &'a Group,
        scope: Scope<'a>,
        args: &PickArgs<'_>,
        draw: &mut impl Draw,
    ) -> Option<Picked<'a, C>> {
        let members = group.members(self.set.members());
        let candidates = Candidates { picker: self, scope, members, args };
        let found = group.pick(&candidates, draw)?;
        let reason = if found.panic {
            Reason::Panic
        } else if scope.allow_avoided && candidates.is_avoided(found.member) {
            Reason::Retried
        } else if members.len() == 1 {
            Reason::Only
        } else {
            Reason::Chosen
        };
        Some(Picked { member: found.member, reason })
    }

    #[cold]
    fn all_out(&self, levels: &Levels, now: Timestamp) -> NoPick {
        let groups = levels.all().iter().flat_map(Level::groups);
        let mut members = groups.filter_map(|group| group.members(self.set.members()).get(0));
        members.next().map_or(NoPick::Empty, |member| NoPick::AllOut {
            total: levels.members(),
            example: format!("{} is {}", member.endpoint.id(), member.endpoint.state(now)),
        })
    }
}

#[cfg(test)]
mod by_hash_tests;
#[cfg(test)]
mod tests;
