//! Ring hash: a call goes to the endpoint that follows its hash on a ring of hashes (ketama).
//!
//! ```text
//! scale = min(⌈w_min · minimumRingSize⌉ / w_min, maximumRingSize)     w: weights that sum to 1
//! entries of endpoint i = scale · w_i, fractions carried on to the next
//! entry k of an endpoint stands at XXH64(key + "_" + k, seed 0)
//! ```
//!
//! The endpoint of the first entry at or after the call's hash is picked, past the end the first
//! one. Where that is out, the next that is not: an endpoint that goes takes its own calls with
//! it, spread over the others, and moves no other call. After 64 entries the endpoints are searched
//! from a place that the hash gives. When the set changes, `scale` does, so that the others have a few
//! entries more or fewer, as in Envoy: about as many calls move again as must; Maglev moves fewer. Keys: `pick/keys.rs`; bounded load: `pick/bounded.rs`.
//!
//! Cost: an index by the upper bits of the hash leads to the entry, so a pick does not grow with
//! the ring. An entry takes 24 bytes at most; 200 MB for the largest ring. Building sorts the ring.
//!
//! Source: Envoy "Ring hash", gRFC A42.

use super::bounded::{self, Bounded};
use super::group::{Candidates, Found};
use super::keys::{Keyed, keyed};
use super::members::Members;
use crate::Draw;
use crate::hash::xxh64;
use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt::Write;

/// The largest ring that may be asked for, in entries.
pub const MAX_SIZE: u32 = 8_388_608;

/// Entries that are looked at from where the hash points, before the endpoints are searched.
const WALK: usize = 64;

/// Settings of the ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Config {
    /// Entries that the ring has at least, 1 to 8,388,608: more of them share calls more evenly.
    /// 1,024.
    #[serde(deserialize_with = "ring_size")]
    #[schemars(range(min = 1, max = 8_388_608))]
    pub minimum_ring_size: u32,
    /// Entries that the ring has at most, 1 to 8,388,608, not below the minimum. With fewer entries
    /// than endpoints some get no calls. 8,388,608.
    #[serde(deserialize_with = "ring_size")]
    #[schemars(range(min = 1, max = 8_388_608))]
    pub maximum_ring_size: u32,
    /// Whether an endpoint is placed by its hostname, so that it keeps its calls at another address.
    /// No.
    pub use_hostname: bool,
    /// Percent of the mean load above which an endpoint is passed over, at least 100; none: calls
    /// stay however busy it is.
    #[serde(deserialize_with = "bounded::factor")]
    #[schemars(range(min = 100))]
    pub hash_balance_factor: Option<u32>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            minimum_ring_size: 1024,
            maximum_ring_size: MAX_SIZE,
            use_hostname: false,
            hash_balance_factor: None,
        }
    }
}

fn ring_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let number = u64::deserialize(deserializer)?;
    u32::try_from(number)
        .ok()
        .filter(|size| (1..=MAX_SIZE).contains(size))
        .ok_or_else(|| D::Error::custom(format!("{number} is not a size from 1 to {MAX_SIZE}")))
}

/// See the [module docs](self).
#[derive(Debug)]
pub(super) struct RingHash {
    ring: Ring,
    bounded: Option<Bounded>,
}

impl RingHash {
    pub(super) fn new<C>(members: Members<'_, C>, config: &Config) -> Self {
        Self {
            ring: Ring::new(&keyed(members, config.use_hostname), config),
            bounded: config.hash_balance_factor.map(|factor| Bounded::new(factor, members)),
        }
    }

    pub(super) fn pick<'a, C>(
        &self,
        candidates: &Candidates<'a, '_, C>,
        draw: &mut impl Draw,
    ) -> Option<Found<'a, C>> {
        let hash = candidates.args.hash.unwrap_or_else(|| draw.bits());
        let at = |hash| self.ring.walk(hash).find_map(|place| candidates.usable(place));
        match &self.bounded {
            None => at(hash),
            Some(bounded) => bounded.choose(hash, candidates, at),
        }
    }
}

/// The hashes of the endpoints, in their order.
#[derive(Debug)]
struct Ring {
    entries: Box<[Entry]>,
    /// For each value of the upper bits of a hash, the first entry that has it or a greater one;
    /// then the number of entries.
    starts: Box<[u32]>,
    /// By how many bits a hash is shifted to give its index in `starts`.
    shift: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    hash: u64,
    place: u32,
}

impl Ring {
    fn new(keyed: &[Keyed<'_>], config: &Config) -> Self {
        let mut entries = Vec::new();
        let mut text = String::new();
        for (one, count) in keyed.iter().zip(counts(keyed, config)) {
            text.clear();
            // Writing to a string does not fail, here and below.
            let _ = write!(text, "{}_", one.key);
            let stem = text.len();
            for number in 0..count {
                text.truncate(stem);
                let _ = write!(text, "{number}");
                entries.push(Entry { hash: xxh64(text.as_bytes()), place: one.place });
            }
        }
        entries.sort_unstable();
        Self::index(entries.into())
    }

    fn index(entries: Box<[Entry]>) -> Self {
        // One part per entry, rounded up to a power of two.
        let bits = entries.len().next_power_of_two().trailing_zeros().max(1);
        let shift = u64::BITS - bits;
        let mut starts = Vec::with_capacity((1 << bits) + 1);
        for (entry, index) in entries.iter().zip(0..) {
            while starts.len() <= (entry.hash >> shift) as usize {
                starts.push(index);
            }
        }
        starts.resize((1 << bits) + 1, entries.len() as u32);
        Self { entries, starts: starts.into(), shift }
    }

    /// The index of the first entry at or after a hash; their number if there is none.
    fn find(&self, hash: u64) -> usize {
        let part = (hash >> self.shift) as usize;
        let bound = |part: usize| self.starts.get(part).map_or(0, |start| *start as usize);
        let (from, to) = (bound(part), bound(part + 1));
        let within = self.entries.get(from..to).unwrap_or_default();
        from + within.partition_point(|entry| entry.hash < hash)
    }

    /// The places of the entries from a hash on, up to [`WALK`].
    fn walk(&self, hash: u64) -> impl Iterator<Item = usize> {
        let (before, after) = self.entries.split_at(self.find(hash).min(self.entries.len()));
        after.iter().chain(before).take(WALK).map(|entry| entry.place as usize)
    }
}

/// How many entries each endpoint gets.
fn counts(keyed: &[Keyed<'_>], config: &Config) -> Vec<u32> {
    let most = config.maximum_ring_size.clamp(1, MAX_SIZE);
    let fewest = config.minimum_ring_size.clamp(1, most);
    let weights = keyed.iter().map(|one| u128::from(one.weight));
    let total: u128 = weights.clone().sum();
    let Some(least) = weights.clone().min() else { return Vec::new() };
    // scale = times · total / over, so that nothing is rounded before the last step.
    let per_least = (least * u128::from(fewest)).div_ceil(total);
    let (times, over) = if per_least * total > u128::from(most) * least {
        (u128::from(most), total)
    } else {
        (per_least, least)
    };
    let mut weight_so_far = 0;
    let mut given = 0;
    let counts = weights.map(|weight| {
        weight_so_far += weight;
        let up_to_here = (times * weight_so_far).div_ceil(over);
        let count = up_to_here - given;
        given = up_to_here;
        // At most the size of the ring.
        u32::try_from(count).unwrap_or(MAX_SIZE)
    });
    counts.collect()
}

#[cfg(test)]
#[path = "ring_hash_tests.rs"]
mod tests;
