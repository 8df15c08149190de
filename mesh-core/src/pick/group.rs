//! Groups: the members that a policy picks from, and what it worked out for them beforehand.
//!
//! One file per policy: a struct that is built with the group, off the call path, and
//! `pick(&self, candidates, draw)`, which sees members only through [`Candidates::usable`].

use super::least_request::LeastRequest;
use super::levels::Level;
use super::peak_ewma::PeakEwma;
use super::random::Random;
use super::round_robin::RoundRobin;
use super::{Config, PickArgs, Picker, Policy};
use crate::Draw;
use crate::endpoint::Member;
use std::ops::Range;

/// Some members of a set, and how one of them is picked.
#[derive(Debug)]
pub(super) struct Group {
    start: usize,
    end: usize,
    algorithm: Algorithm,
}

/// A policy, with what it worked out for the members of one group.
#[derive(Debug)]
enum Algorithm {
    PeakEwma(PeakEwma),
    LeastRequest(LeastRequest),
    RoundRobin(RoundRobin),
    Random(Random),
}

impl Algorithm {
    fn new<C>(members: &[Member<C>], config: &Config) -> Self {
        match config.policy {
            Policy::PeakEwma => Self::PeakEwma(PeakEwma::new(members, config)),
            // Load that does not count leaves nothing to compare.
            Policy::LeastRequest if config.active_request_bias <= 0.0 => {
                Self::RoundRobin(RoundRobin::new(members))
            }
            Policy::LeastRequest => Self::LeastRequest(LeastRequest::new(members, config)),
            Policy::RoundRobin => Self::RoundRobin(RoundRobin::new(members)),
            Policy::Random => Self::Random(Random::new(members)),
        }
    }
}

impl Group {
    /// Of the members in `range`.
    pub(super) fn new<C>(members: &[Member<C>], range: Range<usize>, config: &Config) -> Self {
        let own = members.get(range.clone()).unwrap_or_default();
        Self { start: range.start, end: range.end, algorithm: Algorithm::new(own, config) }
    }

    /// Its part of the members of the set.
    pub(super) fn members<'a, C>(&self, of: &'a [Member<C>]) -> &'a [Member<C>] {
        of.get(self.start..self.end).unwrap_or_default()
    }

    /// Picks one of the candidates, which are its own.
    pub(super) fn pick<'a, C>(
        &self,
        candidates: &Candidates<'a, '_, C>,
        draw: &mut impl Draw,
    ) -> Option<Found<'a, C>> {
        let found = match &self.algorithm {
            Algorithm::PeakEwma(policy) => policy.pick(candidates, draw),
            Algorithm::LeastRequest(policy) => policy.pick(candidates, draw),
            Algorithm::RoundRobin(policy) => policy.pick(candidates, draw),
            Algorithm::Random(policy) => policy.pick(candidates, draw),
        };
        found.or_else(|| candidates.search(draw))
    }
}

/// The members of a group, as one attempt may pick them.
pub(super) struct Candidates<'a, 'b, C> {
    pub(super) picker: &'a Picker<C>,
    pub(super) level: &'b Level,
    pub(super) members: &'a [Member<C>],
    pub(super) args: &'b PickArgs<'b>,
    /// Whether the call may try again what it has tried.
    pub(super) allow_avoided: bool,
}

/// A member that can be picked.
#[derive(Debug)]
pub(super) struct Found<'a, C> {
    pub(super) member: &'a Member<C>,
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
        self.can_be_picked(self.members.get(place)?)
    }

    fn can_be_picked(&self, member: &'a Member<C>) -> Option<Found<'a, C>> {
        if !self.args.avoid.is_empty() && !self.allow_avoided && self.is_avoided(member) {
            return None;
        }
        let endpoint = &*member.endpoint;
        if endpoint.is_selectable_at(self.args.now) {
            return Some(Found { member, panic: false });
        }
        let health = endpoint.health();
        let panic = health.is_declared_usable()
            && !health.is_unreachable()
            && self.picker.panics(self.level);
        panic.then_some(Found { member, panic })
    }

    /// Whether the call has tried this member.
    pub(super) fn is_avoided(&self, member: &Member<C>) -> bool {
        self.args.avoid.contains(member.endpoint.id())
    }

    /// Searches all from a random place.
    #[cold]
    fn search(&self, draw: &mut impl Draw) -> Option<Found<'a, C>> {
        let (before, after) = self.members.split_at(draw.below(self.members.len()));
        after.iter().chain(before).find_map(|member| self.can_be_picked(member))
    }
}
