//! Priority levels: which share of the calls each gets, and which is picked from as a whole.
//!
//! With `F = 1.4`: `health(P) = min(100, 100·F·available/total)`, `norm = min(100, Σ health)`,
//! `load(P) = min(100 − Σ earlier loads, health(P)·100/norm)`. A level panics when `norm < 100` and
//! less than the threshold of it is available. When nothing is available anywhere, level 0
//! gets all.
//!
//! Shares are counted again only after the health of an endpoint of the set has changed. Source:
//! Envoy "Priority levels" and "Panic threshold".

use super::Config;
use super::group::Group;
use crate::Draw;
use crate::endpoint::{EndpointSet, Member};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Whole shares are counted in parts of this, so that rounding does not show.
const WHOLE: u64 = 100_000;

#[derive(Debug)]
pub(super) struct Levels(Box<[Level]>);

/// The members of one priority.
#[derive(Debug)]
pub(super) struct Level {
    group: Group,
    /// Count of changes (40 bits), share of the calls up to and with this level (23 bits),
    /// panic (1 bit).
    counted: AtomicU64,
}

impl Level {
    pub(super) const fn group(&self) -> &Group {
        &self.group
    }
}

/// No count of changes comes out as this.
const NEVER: u64 = u64::MAX;

const fn stamp(changes: u64) -> u64 {
    // Below the stamp of `NEVER`.
    (changes % ((1 << 40) - 1)) << 24
}

impl Levels {
    /// Of a set whose members are sorted by priority.
    pub(super) fn new<C>(set: &EndpointSet<C>, config: &Config) -> Self {
        let mut start = 0;
        let same = |a: &Member<C>, b: &Member<C>| a.spec.priority == b.spec.priority;
        let levels = set.members().chunk_by(same).map(|members| {
            let range = start..start + members.len();
            start = range.end;
            let group = Group::new(set.members(), range, config);
            Level { group, counted: AtomicU64::new(NEVER) }
        });
        Self(levels.collect())
    }

    pub(super) fn all(&self) -> &[Level] {
        &self.0
    }

    /// Draws a level by its share of the calls.
    pub(super) fn draw<C>(
        &self,
        set: &EndpointSet<C>,
        threshold: u8,
        draw: &mut impl Draw,
    ) -> usize {
        let ticket = draw.below(WHOLE as usize) as u64;
        let up_to = |level: &Level| self.counted(level, set, threshold) >> 1 & ((1 << 23) - 1);
        self.0.iter().position(|level| ticket < up_to(level)).unwrap_or(0)
    }

    /// Whether a level is to be picked from as a whole.
    pub(super) fn panics<C>(&self, level: &Level, set: &EndpointSet<C>, threshold: u8) -> bool {
        threshold > 0 && self.counted(level, set, threshold) & 1 == 1
    }

    fn counted<C>(&self, level: &Level, set: &EndpointSet<C>, threshold: u8) -> u64 {
        let changes = set.tally().changes();
        let counted = level.counted.load(Relaxed);
        if counted != NEVER && counted >> 24 << 24 == stamp(changes) {
            return counted;
        }
        self.count(set, threshold, changes);
        level.counted.load(Relaxed)
    }

    /// Counts all levels. Two threads that do so at once write the same.
    #[cold]
    fn count<C>(&self, set: &EndpointSet<C>, threshold: u8, changes: u64) {
        let members = |level: &Level| level.group.members(set.members());
        let available = |level: &Level| {
            members(level).iter().filter(|member| member.endpoint.is_selectable()).count() as u64
        };
        let health =
            |available: u64, total: u64| (WHOLE * 14 / 10 * available / total.max(1)).min(WHOLE);
        let sum: u64 =
            self.0.iter().map(|level| health(available(level), members(level).len() as u64)).sum();
        let norm = sum.min(WHOLE);
        let mut given = 0;
        for level in &self.0 {
            let (available, total) = (available(level), members(level).len() as u64);
            let share = (health(available, total) * WHOLE).checked_div(norm).unwrap_or(WHOLE);
            given = (given + share).min(WHOLE);
            let panics = norm < WHOLE && available * 100 < u64::from(threshold) * total;
            level.counted.store(stamp(changes) | given << 1 | u64::from(panics), Relaxed);
        }
    }
}

#[cfg(test)]
#[path = "levels_tests.rs"]
mod tests;
