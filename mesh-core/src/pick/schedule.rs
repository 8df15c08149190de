//! Earliest deadline first: an order in which each place comes up in proportion to its weight.
//!
//! A place of weight `w` is due every `1/w`; the order is that of the due times. It is worked out
//! once per endpoint set, as a cycle in which place `i` has `s_i` slots, so that a pick reads one
//! entry and needs no queue. `s_i = w_i / gcd` while the cycle stays within 16 slots per place
//! (at least 1,024, at most 2^18 in all); beyond that, rounded shares of such a cycle, at least 1.
//!
//! Source: Envoy's EDF scheduler, gRFC A58 (order by `1/w`).

use super::members::Members;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

const SLOTS_PER_PLACE: u64 = 16;
const MIN_CAP: u64 = 1 << 10;
const MAX_CAP: u64 = 1 << 18;

#[derive(Debug)]
pub(super) struct Schedule {
    /// Never empty.
    slots: Box<[u32]>,
}

impl Schedule {
    /// The schedule of the weights of these members; `None` if all are equal.
    pub(super) fn of_members<C>(members: Members<'_, C>) -> Option<Self> {
        let weights: Vec<u32> = members.iter().map(|member| member.spec.weight).collect();
        Self::new(&weights)
    }

    /// The schedule of these weights; `None` if all are equal, and rotation does.
    pub(super) fn new(weights: &[u32]) -> Option<Self> {
        let first = *weights.first()?;
        if weights.iter().all(|weight| *weight == first) {
            return None;
        }
        let slots = slots_of(weights);
        let mut due: BinaryHeap<_> = slots
            .iter()
            .zip(0..)
            .map(|(slots, place)| Reverse(Due { turn: 0, slots: *slots, place }))
            .collect();
        let total = slots.iter().sum::<u64>() as usize;
        let mut order = Vec::with_capacity(total);
        while order.len() < total {
            let Reverse(next) = due.pop()?;
            order.push(next.place);
            due.push(Reverse(Due { turn: next.turn + 1, ..next }));
        }
        Some(Self { slots: order.into() })
    }

    /// The place of a turn.
    pub(super) fn at(&self, turn: usize) -> usize {
        self.slots.get(turn % self.slots.len()).map_or(0, |place| *place as usize)
    }

    #[cfg(test)]
    pub(super) fn slots(&self) -> &[u32] {
        &self.slots
    }
}

/// How many slots of the cycle each weight gets.
fn slots_of(weights: &[u32]) -> Vec<u64> {
    let divisor = weights.iter().fold(0, |divisor, weight| gcd(divisor, *weight)).max(1);
    let total: u64 = weights.iter().map(|weight| u64::from(weight / divisor)).sum();
    let places = weights.len() as u64;
    let cap = (places * SLOTS_PER_PLACE).clamp(MIN_CAP, MAX_CAP.max(places));
    let share = |weight: u32| {
        let weight = u64::from(weight / divisor);
        if total <= cap { weight } else { (weight * cap + total / 2) / total }.max(1)
    };
    weights.iter().map(|weight| share(*weight)).collect()
}

const fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// When a place is due: at `(turn + ½) / slots` of the cycle. The half spreads the first turns
/// instead of bunching them at the start.
struct Due {
    turn: u64,
    slots: u64,
    place: u32,
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        // Cross-multiplied, so that no rounding changes the order; turn and slots are below 2^18.
        let left = (2 * self.turn + 1) * other.slots;
        let right = (2 * other.turn + 1) * self.slots;
        left.cmp(&right).then(self.place.cmp(&other.place))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Due {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn heavy_places_come_up_more_often_and_not_in_bursts() {
        let schedule = Schedule::new(&[5, 1, 1]).expect("unequal");
        assert_eq!(schedule.slots(), [0, 0, 0, 1, 2, 0, 0]);
        assert_eq!(Schedule::new(&[3, 1]).expect("unequal").slots(), [0, 0, 1, 0]);
    }

    #[test]
    fn equal_weights_need_none() {
        assert!(Schedule::new(&[]).is_none());
        assert!(Schedule::new(&[7, 7, 7]).is_none());
    }

    #[test]
    fn extreme_weights_stay_within_bounds() {
        let schedule = Schedule::new(&[u32::MAX, 1, 0]).expect("unequal");
        assert!(schedule.slots().len() <= 1 << 11);
        for place in 0..3 {
            assert!(schedule.slots().contains(&place));
        }
    }

    proptest! {
        #[test]
        fn every_place_has_its_share(weights in prop::collection::vec(1u32..50, 2..40)) {
            let Some(schedule) = Schedule::new(&weights) else { return Ok(()) };
            let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
            for (place, weight) in (0..).zip(&weights) {
                let slots = schedule.slots().iter().filter(|slot| **slot == place).count();
                let share = slots as f64 / schedule.slots().len() as f64;
                prop_assert!((share - f64::from(*weight) / total).abs() < 1e-3);
            }
        }
    }
}
