//! Choices: draws a few distinct members, and takes the one of least load.
//!
//! What is out is drawn again, up to five times. With unequal weights a member is drawn in
//! proportion to its weight.
//!
//! Source: Mitzenmacher, "The power of two choices"; Finagle `p2c` (five re-draws). Ours: draws
//! are without replacement.

use super::alias::Alias;
use super::group::{Candidates, Found};
use super::members::Members;
use crate::Draw;
use crate::endpoint::Member;

/// Most endpoints that are compared for one pick, whatever is configured.
pub(super) const MAX_CHOICES: u32 = 10;
/// How often what is out is drawn again before the group is searched.
pub(super) const REDRAWS: usize = 5;
const MAX_DRAWS: usize = MAX_CHOICES as usize + REDRAWS;

/// Draws from the members of one group.
#[derive(Debug)]
pub(super) struct Choices {
    /// How many are compared.
    count: usize,
    /// By weight; `None` if all are equal.
    alias: Option<Alias>,
}

impl Choices {
    /// `count` is clamped to 1 … [`MAX_CHOICES`].
    pub(super) fn new<C>(members: Members<'_, C>, count: u32) -> Self {
        let count = count.clamp(1, MAX_CHOICES) as usize;
        Self { count, alias: Alias::of_members(members) }
    }

    /// The drawn member of least load; the first drawn on ties.
    pub(super) fn least<'a, C>(
        &self,
        candidates: &Candidates<'a, '_, C>,
        draw: &mut impl Draw,
        load: impl Fn(&Member<C>) -> f64,
    ) -> Option<Found<'a, C>> {
        self.least_and_load(candidates, draw, load).map(|(found, _)| found)
    }

    /// As [`Choices::least`], and its load; 0 where there was nothing to compare.
    pub(super) fn least_and_load<'a, C>(
        &self,
        candidates: &Candidates<'a, '_, C>,
        draw: &mut impl Draw,
        load: impl Fn(&Member<C>) -> f64,
    ) -> Option<(Found<'a, C>, f64)> {
        if candidates.len() == 1 {
            return candidates.usable(0).map(|only| (only, 0.0));
        }
        let mut drawn = Drawn::default();
        let mut best: Option<Found<'a, C>> = None;
        let mut least = f64::INFINITY;
        let mut found = 0;
        // The best of those that are in slow start and not to be taken this time.
        let mut spare: Option<(Found<'a, C>, f64)> = None;
        for _ in 0..self.count + REDRAWS {
            let Some(place) = drawn.next(self.alias.as_ref(), candidates.len(), draw) else {
                break;
            };
            let Some(one) = candidates.usable(place) else { continue };
            if !candidates.is_warm(one.member, draw) {
                let cost = load(one.member);
                if spare.as_ref().is_none_or(|(_, least)| cost < *least) {
                    spare = Some((one, cost));
                }
                continue;
            }
            found += 1;
            if self.count == 1 {
                return Some((one, 0.0));
            }
            let cost = load(one.member);
            if best.is_none() || cost < least {
                (best, least) = (Some(one), cost);
            }
            if found == self.count {
                break;
            }
        }
        best.map(|best| (best, least)).or(spare)
    }
}

impl Choices {
    /// Draws one place.
    pub(super) fn place<C>(
        &self,
        candidates: &Candidates<'_, '_, C>,
        draw: &mut impl Draw,
    ) -> Option<usize> {
        Drawn::default().next(self.alias.as_ref(), candidates.len(), draw)
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
    /// A place that was not drawn before; none if all were, or by weight if chance keeps
    /// naming the same.
    fn next(
        &mut self,
        alias: Option<&Alias>,
        places: usize,
        draw: &mut impl Draw,
    ) -> Option<usize> {
        if self.len >= places.min(MAX_DRAWS) {
            return None;
        }
        let Some(alias) = alias else {
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
            let place = alias.at(draw.bits());
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
mod tests {
    use super::*;

    #[test]
    fn draws_are_distinct_and_fair() {
        let mut rng = fastrand::Rng::with_seed(12);
        let mut draw = || rng.u64(..);
        let mut seen = [0u32; 6];
        for _ in 0..6_000 {
            let mut drawn = Drawn::default();
            let places: Vec<_> = (0..4).filter_map(|_| drawn.next(None, 6, &mut draw)).collect();
            for (n, place) in places.iter().enumerate() {
                assert!(!places[..n].contains(place), "{places:?}");
                seen[*place] += 1;
            }
        }
        assert!(seen.iter().all(|count| (3_800..4_200).contains(count)), "{seen:?}");
    }
}
