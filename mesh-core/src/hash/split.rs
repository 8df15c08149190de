//! Split: a weighted choice by hash, which keeps to what it chose before.
//!
//! Each share gets a number `u` in (0, 1) from the hash of the call and its own name; the least
//! `−ln(u) / weight` wins. So a share is chosen in proportion to its weight, and
//!
//! - a share whose weight grows takes calls from the others and gives none away, and the reverse;
//! - the order of the shares means nothing;
//! - the choices of two splits with different names are independent: nested splits multiply.
//!
//! Cost: one logarithm per share. Source: weighted rendezvous hashing (Schindelhauer and Schomaker,
//! "Weighted distributed hash tables", the logarithmic method).

use super::{mix, xxh64};
use std::collections::HashMap;

/// The shares of a split.
///
/// ```
/// use mesh_core::hash::{Split, xxh64};
///
/// let split = Split::new("shop/cart", [("cart-v1", 90), ("cart-v2", 10)]);
/// let chosen = split.choose(xxh64(b"ada"));
/// assert!(chosen.is_some_and(|index| index < 2));
/// assert_eq!(split.choose(xxh64(b"ada")), chosen);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// Key and weight.
    shares: Box<[(u64, f64)]>,
}

impl Split {
    /// A split by its own name and the names and weights of its shares. A weight of 0 gets nothing.
    /// Shares of one name count as different ones, in their order.
    #[must_use]
    pub fn new<'a>(name: &str, shares: impl IntoIterator<Item = (&'a str, u32)>) -> Self {
        let own = xxh64(name.as_bytes());
        let mut seen: HashMap<&str, u64> = HashMap::new();
        let shares = shares.into_iter().map(|(name, weight)| {
            let times = seen.entry(name).or_default();
            let key = mix(own ^ mix(xxh64(name.as_bytes()).wrapping_add(*times)));
            *times += 1;
            (key, f64::from(weight))
        });
        Self { shares: shares.collect() }
    }

    /// The index of the share for a hash; `None` if no share has a weight.
    #[must_use]
    pub fn choose(&self, hash: u64) -> Option<usize> {
        let scores = self.shares.iter().map(|(key, weight)| {
            // The middle of one of 2^53 parts, so that neither 0 nor 1 comes out.
            let unit = ((mix(hash ^ key) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
            -unit.ln() / weight
        });
        let (index, least) = scores.enumerate().min_by(|(_, a), (_, b)| a.total_cmp(b))?;
        least.is_finite().then_some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: u64 = 200_000;

    fn chosen(split: &Split) -> Vec<usize> {
        (0..KEYS).map(|key| split.choose(xxh64(&key.to_le_bytes())).unwrap()).collect()
    }

    fn share(chosen: &[usize], index: usize) -> f64 {
        chosen.iter().filter(|one| **one == index).count() as f64 / KEYS as f64
    }

    #[test]
    fn shares_are_those_of_the_weights() {
        for weights in [&[1, 1][..], &[90, 10], &[5, 3, 2], &[999, 1], &[u32::MAX, u32::MAX, 0]] {
            let names = ["a", "b", "c"];
            let split = Split::new("s", names.into_iter().zip(weights.iter().copied()));
            let chosen = chosen(&split);
            let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
            for (index, weight) in weights.iter().enumerate() {
                let off = share(&chosen, index) - f64::from(*weight) / total;
                assert!(off.abs() < 0.005, "{weights:?} {index}: {off}");
            }
        }
    }

    #[test]
    fn a_changed_weight_moves_what_it_must_and_one_way_only() {
        let before = chosen(&Split::new("s", [("a", 90), ("b", 5), ("c", 5)]));
        let after = chosen(&Split::new("s", [("c", 5), ("b", 20), ("a", 90)]));
        let mut moved = 0;
        for (before, after) in before.iter().zip(&after) {
            if *before != 2 - after {
                assert_eq!(*after, 1, "only `b` gains");
                moved += 1;
            }
        }
        let gained = 20.0 / 115.0 - 5.0 / 100.0;
        assert!((f64::from(moved) / KEYS as f64 - gained).abs() < 0.005, "{moved}");
    }

    #[test]
    fn nested_splits_multiply() {
        let outer = chosen(&Split::new("outer", [("a", 1), ("b", 1)]));
        let inner = chosen(&Split::new("inner", [("a", 1), ("b", 1)]));
        let both = outer.iter().zip(&inner).filter(|pair| *pair == (&0, &0)).count();
        assert!((both as f64 / KEYS as f64 - 0.25).abs() < 0.005, "{both}");
    }

    #[test]
    fn shares_of_one_name_have_their_own_parts() {
        let chosen = chosen(&Split::new("s", [("a", 1), ("a", 3)]));
        assert!((share(&chosen, 0) - 0.25).abs() < 0.005);
    }

    #[test]
    fn without_weights_there_is_no_choice() {
        assert_eq!(Split::new("s", []).choose(1), None);
        assert_eq!(Split::new("s", [("a", 0), ("b", 0)]).choose(1), None);
        for hash in [0, 1, u64::MAX] {
            assert_eq!(Split::new("s", [("a", 0), ("b", 1)]).choose(hash), Some(1));
        }
    }
}
