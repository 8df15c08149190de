//! Priority levels: which share of the calls each gets, and which is picked from as a whole.
//!
//! With `F = 1.4`: `health(P) = min(100, 100·F·healthy/total)`, `norm = min(100, Σ health)`,
//! `load(P) = min(100 − Σ earlier loads, health(P)·100/norm)`. What the healthy ones of all levels
//! leave goes to the degraded ones by the same rule; they count in `norm` too. A level panics when
//! `norm < 100` and less than the threshold of it is available, healthy or degraded. When nothing
//! is available anywhere, level 0 gets all.
//!
//! Within a level, calls are split among its groups by [`locality`](super::locality).
//!
//! Shares are counted again only after the health of an endpoint of the set has changed, by one
//! thread, while the others go by the last count. Source: Envoy "Priority levels", "Degraded
//! endpoints" and "Panic threshold".

use super::caller::Caller;
use super::group::Group;
use super::locality::{Census, Split};
use super::members::Places;
use super::{Config, failover};
use crate::Draw;
use crate::endpoint::{EndpointSet, Member};
use crate::health::Standing;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

/// Whole shares are counted in parts of this, so that rounding does not show.
pub(super) const WHOLE: u64 = 100_000;
/// Over-provisioning: a level or locality gets its full share while 1/1.4 of it is available.
const FACTOR: u64 = 140;

/// The levels of a set, or of a part of it.
#[derive(Debug)]
pub(super) struct Levels {
    levels: Box<[Level]>,
    split: Arc<Split>,
    members: usize,
    /// The count of changes at which shares were counted.
    counted: AtomicU64,
    counting: AtomicBool,
}

/// The members of one priority.
#[derive(Debug)]
pub(super) struct Level {
    priority: u32,
    /// Never empty; several if calls are split by locality.
    groups: Box<[Group]>,
    share: Shares,
    panics: AtomicBool,
    /// Of a level with several groups, the share of each.
    parts: Box<[Shares]>,
}

/// Shares of the calls up to and with a level or group, as they were counted last.
#[derive(Debug, Default)]
struct Shares {
    /// Of the healthy ones.
    healthy: AtomicU32,
    /// Of the degraded ones; of levels, on top of all healthy ones.
    degraded: AtomicU32,
}

impl Shares {
    const fn of(&self, standing: Standing) -> &AtomicU32 {
        match standing {
            Standing::Healthy => &self.healthy,
            Standing::Degraded => &self.degraded,
        }
    }
}

/// Shares of one level among all calls, from 0 to 1.
#[derive(Debug)]
pub(super) struct LevelShares {
    pub(super) healthy: f64,
    pub(super) degraded: f64,
    /// By group, of the healthy and of the degraded ones, among the calls of the level.
    pub(super) parts: Vec<[f64; 2]>,
}

/// Of a count of changes that was never made.
const NEVER: u64 = u64::MAX;

impl Level {
    fn new(priority: u32, groups: Vec<Group>) -> Self {
        let parts = if groups.len() > 1 { groups.len() } else { 0 };
        Self {
            priority,
            groups: groups.into(),
            share: Shares::default(),
            panics: AtomicBool::new(false),
            parts: (0..parts).map(|_| Shares::default()).collect(),
        }
    }

    pub(super) fn groups(&self) -> &[Group] {
        &self.groups
    }

    pub(super) const fn priority(&self) -> u32 {
        self.priority
    }
}

impl Levels {
    /// Of these places of a set, by default all, whose members are sorted by priority. `split` is
    /// that of the whole set.
    pub(super) fn new<C>(
        set: &EndpointSet<C>,
        places: Option<&[u32]>,
        config: &Config,
        caller: &Caller,
        split: &Arc<Split>,
    ) -> Self {
        let members = set.members();
        let labels = config.locality.as_ref().map_or(&[][..], |config| &config.failover_priority);
        let levels = if let (None, Split::None, []) = (places, &**split, labels) {
            by_priority(members, config, caller)
        } else {
            let spec = |place: u32| members.get(place as usize).map(|member| &member.spec);
            let all = 0..members.len() as u32;
            let priority = |place: u32| spec(place).map(|spec| spec.priority);
            let first = match places {
                None => priority(0),
                Some(places) => places.iter().copied().filter_map(priority).min(),
            };
            let first = first.unwrap_or(0);
            let key = |place: u32| {
                let spec = spec(place)?;
                let part = split.part(spec, spec.priority == first);
                Some((spec.priority, failover::rank(labels, spec, caller), part, place))
            };
            let mut keys: Vec<_> = match places {
                None => all.filter_map(key).collect(),
                Some(places) => places.iter().copied().filter_map(key).collect(),
            };
            keys.sort_unstable();
            let group = |part: &[(u32, u32, u32, u32)]| {
                let number = part.first().map_or(0, |(_, _, number, _)| *number);
                let places: Vec<u32> = part.iter().map(|(_, _, _, place)| *place).collect();
                Group::new(members, places.into(), number, config, caller)
            };
            keys.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1))
                .map(|level| {
                    let priority = level.first().map_or(0, |(priority, ..)| *priority);
                    Level::new(priority, level.chunk_by(|a, b| a.2 == b.2).map(group).collect())
                })
                .collect()
        };
        let members = places.map_or(members.len(), <[u32]>::len);
        let (counted, counting) = (AtomicU64::new(NEVER), AtomicBool::new(false));
        Self { levels, split: split.clone(), members, counted, counting }
    }

    pub(super) fn all(&self) -> &[Level] {
        &self.levels
    }

    /// How many endpoints they have together.
    pub(super) const fn members(&self) -> usize {
        self.members
    }

    /// Those of the tiers from `priority` on; all if there is none so high.
    pub(super) fn from(&self, priority: u32) -> &[Level] {
        let at = self.levels.partition_point(|level| level.priority < priority);
        self.levels.get(at..).filter(|levels| !levels.is_empty()).unwrap_or(&self.levels)
    }

    /// Draws a level by its share of the calls, and which of its endpoints are to take this one.
    pub(super) fn draw<C>(
        &self,
        set: &EndpointSet<C>,
        threshold: u8,
        draw: &mut impl Draw,
    ) -> (Option<&Level>, Standing) {
        let first = self.levels.first();
        if self.levels.len() == 1 && !set.tally().any_degraded() {
            return (first, Standing::Healthy);
        }
        self.recount(set, threshold);
        let ticket = draw.below(WHOLE as usize) as u32;
        for standing in [Standing::Healthy, Standing::Degraded] {
            let found =
                self.levels.iter().find(|level| ticket < level.share.of(standing).load(Relaxed));
            if found.is_some() {
                return (found, standing);
            }
        }
        (first, Standing::Healthy)
    }

    /// Draws a group of a level by its share of the calls of that level.
    pub(super) fn draw_group<'a, C>(
        &self,
        level: &'a Level,
        standing: Standing,
        set: &EndpointSet<C>,
        threshold: u8,
        draw: &mut impl Draw,
    ) -> Option<&'a Group> {
        if level.parts.is_empty() {
            return level.groups.first();
        }
        self.recount(set, threshold);
        let ticket = draw.below(WHOLE as usize) as u32;
        let at = level.parts.iter().position(|part| ticket < part.of(standing).load(Relaxed));
        level.groups.get(at.unwrap_or(0))
    }

    /// Whether a level is to be picked from as a whole.
    pub(super) fn panics<C>(&self, level: &Level, set: &EndpointSet<C>, threshold: u8) -> bool {
        if threshold == 0 {
            return false;
        }
        self.recount(set, threshold);
        level.panics.load(Relaxed)
    }

    /// The share of each level in calls that start at `priority`, for people.
    pub(super) fn shares<C>(
        &self,
        set: &EndpointSet<C>,
        threshold: u8,
        priority: u32,
    ) -> Vec<LevelShares> {
        self.recount(set, threshold);
        let fractions = |shares: &[&Shares], standing, mut before: u32| -> Vec<f64> {
            let fraction = |shares: &&Shares| {
                let up_to = shares.of(standing).load(Relaxed);
                let share = f64::from(up_to.saturating_sub(before)) / WHOLE as f64;
                before = up_to;
                share
            };
            shares.iter().map(fraction).collect()
        };
        let all: Vec<&Shares> = self.levels.iter().map(|level| &level.share).collect();
        let healthy = fractions(&all, Standing::Healthy, 0);
        let taken = all.last().map_or(0, |last| last.healthy.load(Relaxed));
        let degraded = fractions(&all, Standing::Degraded, taken);
        let start = self.from(priority).first().filter(|_| priority > 0);
        let levels = self.levels.iter().zip(healthy.into_iter().zip(degraded));
        levels
            .map(|(level, (healthy, degraded))| {
                let parts: Vec<&Shares> = level.parts.iter().collect();
                let [of_healthy, of_degraded] = [Standing::Healthy, Standing::Degraded]
                    .map(|standing| fractions(&parts, standing, 0));
                let parts = match parts.is_empty() {
                    true => vec![[1.0, 1.0]],
                    false => of_healthy.into_iter().zip(of_degraded).map(Into::into).collect(),
                };
                match start {
                    None => LevelShares { healthy, degraded, parts },
                    // Such a call goes to one level alone, and to its healthy ones first.
                    Some(start) => {
                        let healthy = if std::ptr::eq(start, level) { 1.0 } else { 0.0 };
                        LevelShares { healthy, degraded: 0.0, parts }
                    }
                }
            })
            .collect()
    }

    /// Counts anew if the health of an endpoint has changed since the last time.
    fn recount<C>(&self, set: &EndpointSet<C>, threshold: u8) {
        let (changes, counted) = (set.tally().changes(), self.counted.load(Acquire));
        if counted == changes {
            return;
        }
        // Without a count to go by, two threads that count at once write the same.
        if counted == NEVER || !self.counting.swap(true, Acquire) {
            self.count(set, threshold);
            self.counted.store(changes, Release);
            self.counting.store(false, Release);
        }
    }

    #[cold]
    fn count<C>(&self, set: &EndpointSet<C>, threshold: u8) {
        let census: Vec<Vec<Census>> = self
            .levels
            .iter()
            .map(|level| level.groups.iter().map(|group| census(group, set)).collect())
            .collect();
        let sums: Vec<Census> = census.iter().map(|level| level.iter().copied().sum()).collect();
        let health = |standing, census: &Census| {
            (WHOLE * FACTOR / 100 * census.of(standing) / census.total.max(1)).min(WHOLE)
        };
        let both = [Standing::Healthy, Standing::Degraded];
        let norm = sums
            .iter()
            .map(|census| both.into_iter().map(|standing| health(standing, census)).sum::<u64>())
            .sum::<u64>()
            .min(WHOLE);
        let panics = |census: &Census| {
            norm < WHOLE && census.available() * 100 < u64::from(threshold) * census.total
        };
        let mut given = 0;
        for standing in both {
            for (level, census) in self.levels.iter().zip(&sums) {
                // Nothing available anywhere: level 0 gets all.
                let share = (health(standing, census) * WHOLE).checked_div(norm).unwrap_or(WHOLE);
                given = (given + share).min(WHOLE);
                level.share.of(standing).store(given as u32, Relaxed);
            }
        }
        for ((level, groups), sum) in self.levels.iter().zip(&census).zip(&sums) {
            level.panics.store(panics(sum), Relaxed);
            for standing in both {
                let mut weights = self.split.weights(&level.groups, groups, standing, panics(sum));
                if weights.iter().sum::<f64>() <= 0.0 {
                    // What has no share takes calls when nothing else can.
                    weights = groups.iter().map(|group| group.of(standing) as f64).collect();
                }
                let total = weights.iter().sum::<f64>();
                let mut before = 0.0;
                for (part, weight) in level.parts.iter().zip(weights) {
                    before += weight;
                    let up_to = if total > 0.0 { before / total * WHOLE as f64 } else { 0.0 };
                    part.of(standing).store(up_to.round() as u32, Relaxed);
                }
            }
        }
    }
}

/// One group per priority, of members that stand side by side.
fn by_priority<C>(members: &[Member<C>], config: &Config, caller: &Caller) -> Box<[Level]> {
    let mut start = 0;
    members
        .chunk_by(|a, b| a.spec.priority == b.spec.priority)
        .map(|level| {
            let range = start..start + level.len();
            start = range.end;
            let group = Group::new(members, Places::Range(range), 0, config, caller);
            Level::new(level.first().map_or(0, |member| member.spec.priority), vec![group])
        })
        .collect()
}

fn census<C>(group: &Group, set: &EndpointSet<C>) -> Census {
    let mut census = Census::default();
    for member in group.members(set.members()).iter() {
        census.total += 1;
        if member.endpoint.breaker().is_closed() {
            match member.endpoint.health().standing() {
                Some(Standing::Healthy) => census.healthy += 1,
                Some(Standing::Degraded) => census.degraded += 1,
                None => {}
            }
        }
    }
    census
}

#[cfg(test)]
#[path = "levels_tests.rs"]
mod tests;
