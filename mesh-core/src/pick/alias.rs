//! Alias: draws a place in proportion to its weight, by one look at one slot.
//!
//! There are as many slots as places, and a draw names each equally often. Slot `i` keeps the
//! share `keep` of what falls to it for place `i`, and gives the rest to `other`: what a light
//! place does not need of its slot is filled up by one heavy place. 8 bytes per place; `n` steps
//! to build.
//!
//! Source: Vose, "A linear algorithm for generating random numbers with a given distribution"
//! (1991), in whole numbers.

use super::members::Members;

#[derive(Debug)]
pub(super) struct Alias {
    /// Never empty.
    slots: Box<[Slot]>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    /// In parts of 2^32.
    keep: u32,
    other: u32,
}

impl Alias {
    /// By the weights of these members; `None` if all are equal.
    pub(super) fn of_members<C>(members: Members<'_, C>) -> Option<Self> {
        let weights: Vec<u32> = members.iter().map(|member| member.spec.weight).collect();
        Self::new(&weights)
    }

    /// `None` if all weights are equal.
    pub(super) fn new(weights: &[u32]) -> Option<Self> {
        let first = *weights.first()?;
        if weights.iter().all(|weight| *weight == first) {
            return None;
        }
        let places = weights.len() as u64;
        // A slot is full at the sum of all weights, when each weight counts `places` times.
        let full: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        let mut left: Vec<u64> = weights.iter().map(|weight| u64::from(*weight) * places).collect();
        let mut slots: Vec<Slot> =
            (0..weights.len() as u32).map(|other| Slot { keep: u32::MAX, other }).collect();
        let (mut light, mut heavy): (Vec<u32>, Vec<u32>) =
            (0..weights.len() as u32).partition(|place| left[*place as usize] < full);
        while let (Some(small), Some(large)) = (light.pop(), heavy.last().copied()) {
            let (own, rest) = (left[small as usize], &mut left[large as usize]);
            let keep = (u128::from(own) << 32) / u128::from(full);
            slots[small as usize] = Slot { keep: keep as u32, other: large };
            *rest -= full - own;
            if *rest < full {
                heavy.pop();
                light.push(large);
            }
        }
        Some(Self { slots: slots.into() })
    }

    /// The place that 64 random bits name.
    pub(super) fn at(&self, bits: u64) -> usize {
        // The whole part of the product is the slot, what is behind the point decides within it.
        let product = u128::from(bits) * self.slots.len() as u128;
        let (place, within) = ((product >> 64) as usize, (product as u64 >> 32) as u32);
        match self.slots.get(place) {
            Some(slot) if within >= slot.keep => slot.other as usize,
            _ => place,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The exact share of each place: what its own slot keeps, and what others give it.
    fn shares(alias: &Alias) -> Vec<f64> {
        let mut shares = vec![0.0; alias.slots.len()];
        for (place, slot) in alias.slots.iter().enumerate() {
            let keep = f64::from(slot.keep) / f64::from(u32::MAX);
            shares[place] += keep;
            shares[slot.other as usize] += 1.0 - keep;
        }
        shares.iter().map(|share| share / alias.slots.len() as f64).collect()
    }

    #[test]
    fn equal_weights_need_none() {
        assert!(Alias::new(&[]).is_none());
        assert!(Alias::new(&[7, 7, 7]).is_none());
    }

    #[test]
    fn extreme_weights_do_not_overflow() {
        let mut weights = vec![u32::MAX; 1_000];
        weights.extend([1, 0]);
        let alias = Alias::new(&weights).expect("unequal");
        let shares = shares(&alias);
        assert!((shares[0] - 1e-3).abs() < 1e-6, "{}", shares[0]);
        assert!(shares[1_001] < 1e-9, "a weight of 0 is never drawn: {}", shares[1_001]);
    }

    #[test]
    fn a_draw_looks_at_the_slot_and_at_what_is_behind_the_point() {
        let alias = Alias::new(&[1, 3]).expect("unequal");
        assert_eq!(alias.at(0), 0, "the slot of the light one, its own half");
        assert_eq!(alias.at(u64::MAX / 4 + (1 << 40)), 1, "the other half of it");
        assert_eq!(alias.at(u64::MAX), 1);
    }

    proptest! {
        #[test]
        fn every_place_has_its_share(weights in prop::collection::vec(0u32..5_000, 2..200)) {
            let Some(alias) = Alias::new(&weights) else { return Ok(()) };
            let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
            for (share, weight) in shares(&alias).iter().zip(&weights) {
                prop_assert!((share - f64::from(*weight) / total).abs() < 1e-6);
            }
        }
    }
}
