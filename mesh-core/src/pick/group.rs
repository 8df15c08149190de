//! Groups: the members that a policy picks from, and what it worked out for them beforehand.
//!
//! One file per policy: a struct that is built with the group, off the call path, and
//! `pick(&self, candidates, draw)`, which sees members only through [`Candidates::usable`].

use super::expected_wait::ExpectedWait;
use super::least_request::LeastRequest;
use super::levels::{Level, Levels};
use super::maglev::Maglev;
use super::members::{Members, Places};
use super::peak_ewma::PeakEwma;
use super::pick_first::PickFirst;
use super::prequal::Prequal;
use super::probes::Probes;
use super::random::Random;
use super::ring_hash::RingHash;
use super::round_robin::RoundRobin;
use super::weighted_round_robin::WeightedRoundRobin;
use super::{Caller, Config, PickArgs, Picker, Policy};
use crate::Draw;
use crate::endpoint::Member;
use crate::health::Standing;

/// Some members of a set, and how one of them is picked.
#[derive(Debug)]
pub(super) struct Group {
    places: Places,
    /// Its number among the localities of its level.
    part: u32,
    algorithm: Algorithm,
}

/// A policy, with what it worked out for the members of one group.
#[derive(Debug)]
enum Algorithm {
    ExpectedWait(ExpectedWait),
    PeakEwma(PeakEwma),
    LeastRequest(LeastRequest),
    RoundRobin(RoundRobin),
    WeightedRoundRobin(WeightedRoundRobin),
    Prequal(Prequal),
    Random(Random),
    PickFirst(PickFirst),
    RingHash(RingHash),
    Maglev(Maglev),
}

impl Algorithm {
    fn new<C>(members: Members<'_, C>, config: &Config, caller: &Caller) -> Self {
        match config.policy {
            Policy::ExpectedWait => Self::ExpectedWait(ExpectedWait::new(members, config)),
            Policy::PeakEwma => Self::PeakEwma(PeakEwma::new(members, config)),
            // Load that does not count leaves nothing to compare.
            Policy::LeastRequest if config.active_request_bias <= 0.0 => {
                Self::RoundRobin(RoundRobin::new(members))
            }
            Policy::LeastRequest => Self::LeastRequest(LeastRequest::new(members, config)),
            Policy::RoundRobin => Self::RoundRobin(RoundRobin::new(members)),
            Policy::WeightedRoundRobin => {
                let config = &config.weighted_round_robin;
                Self::WeightedRoundRobin(WeightedRoundRobin::new(members, config))
            }
            Policy::Prequal => Self::Prequal(Prequal::new(members, &config.prequal)),
            Policy::Random => Self::Random(Random::new(members)),
            Policy::PickFirst => {
                Self::PickFirst(PickFirst::new(members, &config.pick_first, caller))
            }
            Policy::RingHash => Self::RingHash(RingHash::new(members, &config.ring_hash)),
            Policy::Maglev => Self::Maglev(Maglev::new(members, &config.maglev)),
        }
    }
}

impl Group {
    /// Of these places of a set.
    pub(super) fn new<C>(
        set: &[Member<C>],
        places: Places,
        part: u32,
        config: &Config,
        caller: &Caller,
    ) -> Self {
        let algorithm = Algorithm::new(places.of(set), config, caller);
        Self { places, part, algorithm }
    }

    /// Its members, among those of its set.
    pub(super) fn members<'a, C>(&'a self, set: &'a [Member<C>]) -> Members<'a, C> {
        self.places.of(set)
    }

    /// Its number among the localities of its level.
    pub(super) const fn part(&self) -> u32 {
        self.part
    }

    /// Picks one of the candidates, which are its own.
    pub(super) fn pick<'a, C>(
        &self,
        candidates: &Candidates<'a, '_, C>,
        draw: &mut impl Draw,
    ) -> Option<Found<'a, C>> {
        let found = match &self.algorithm {
            Algorithm::ExpectedWait(policy) => policy.pick(candidates, draw),
            Algorithm::PeakEwma(policy) => policy.pick(candidates, draw),
            Algorithm::LeastRequest(policy) => policy.pick(candidates, draw),
            Algorithm::RoundRobin(policy) => policy.pick(candidates, draw),
            Algorithm::WeightedRoundRobin(policy) => policy.pick(candidates, draw),
            Algorithm::Prequal(policy) => policy.pick(candidates, draw),
            Algorithm::Random(policy) => policy.pick(candidates, draw),
            Algorithm::PickFirst(policy) => policy.pick(candidates),
            Algorithm::RingHash(policy) => policy.pick(candidates, draw),
            Algorithm::Maglev(policy) => policy.pick(candidates, draw),
        };
        found.or_else(|| candidates.search(draw))
    }

    /// Members to ask for a report before one is picked; none if the policy does not ask, or has
    /// no need to.
    pub(super) fn probes<'a, C>(
        &self,
        candidates: &Candidates<'a, '_, C>,
        draw: &mut impl Draw,
    ) -> Probes<'a, C> {
        match &self.algorithm {
            Algorithm::ExpectedWait(policy) => policy.probes(candidates, draw),
            Algorithm::Prequal(policy) => policy.probes(candidates, draw),
            _ => Probes::default(),
        }
    }
}

/// The members of a group, as one attempt may pick them.
pub(super) struct Candidates<'a, 'b, C> {
    pub(super) picker: &'a Picker<C>,
    pub(super) scope: Scope<'a>,
    pub(super) members: Members<'a, C>,
    pub(super) args: &'b PickArgs<'b>,
}

/// Which members may be picked.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) levels: &'a Levels,
    pub(super) level: &'a Level,
    /// Whether the healthy or the degraded ones are to take this call.
    pub(super) standing: Standing,
    /// Whether the call may try again what it has tried.
    pub(super) allow_avoided: bool,
}

/// A member that can be picked.
#[derive(Debug)]
pub(super) struct Found<'a, C> {
    pub(super) member: &'a Member<C>,
    /// Its place in the group.
    pub(super) place: usize,
    /// It is out, and can be picked only because too few are in.
    pub(super) panic: bool,
}

impl<'a, C> Candidates<'a, '_, C> {
    /// How many members there are, usable or not. Places are below it.
    pub(super) const fn len(&self) -> usize {
        self.members.len()
    }

    /// The member at a place, if it can be picked.
    pub(super) fn usable(&self, place: usize) -> Option<Found<'a, C>> {
        let member = self.members.get(place)?;
        if let Some(looked) = self.args.looked {
            looked.note(member.endpoint.id());
        }
        if !self.args.avoid.is_empty() && !self.scope.allow_avoided && self.is_avoided(member) {
            return None;
        }
        let endpoint = &*member.endpoint;
        match endpoint.standing_at(self.args.now) {
            Some(standing) if standing == self.scope.standing || self.panics() => {
                Some(Found { member, place, panic: false })
            }
            Some(_) => None,
            None => {
                let health = endpoint.health();
                let panic = health.is_declared_usable()
                    && !health.is_unreachable()
                    && endpoint.breaker().would_admit(self.args.now)
                    && self.panics();
                panic.then_some(Found { member, place, panic })
            }
        }
    }

    fn panics(&self) -> bool {
        let picker = self.picker;
        self.scope.levels.panics(self.scope.level, &picker.set, picker.config.panic_threshold)
    }

    /// Whether the call has tried this member.
    pub(super) fn is_avoided(&self, member: &Member<C>) -> bool {
        self.args.avoid.contains(member.endpoint.id())
    }

    /// Whether a member takes this call, as far as slow start goes.
    pub(super) fn is_warm(&self, member: &Member<C>, draw: &mut impl Draw) -> bool {
        match &self.picker.config.slow_start {
            None => true,
            Some(config) => {
                let now = self.args.now;
                let since = member.endpoint.health().new_since(now);
                since.is_none_or(|since| config.admits(now.since(since), draw))
            }
        }
    }

    /// Searches all from a random place.
    #[cold]
    fn search(&self, draw: &mut impl Draw) -> Option<Found<'a, C>> {
        let start = draw.below(self.len());
        (start..self.len()).chain(0..start).find_map(|place| self.usable(place))
    }
}
