//! Ring hash: a call goes to the endpoint that follows its hash on a ring of hashes (ketama).
//!
//! ```text
//! with a minimumRingSize (Envoy):                                 w: weights that sum to 1
//!     scale = min(⌈w_min · minimumRingSize⌉ / w_min, maximumRingSize)
//!     entries of endpoint i = scale · w_i, fractions carried on to the next
//! without:
//!     scale = min(256 / w_min, 16,384)
//!     entries of endpoint i = max(1, ⌊scale · w_i + f_i⌋),        f_i = XXH64(key) / 2^64
//! entry k of an endpoint stands at XXH64(key + "_" + k, seed 0)
//! ```
//!
//! The endpoint of the first entry at or after the call's hash is picked, past the end the first
//! one. Where that is out, the next that is not: an endpoint that goes takes its own calls with
//! it, spread over the others, and moves no other call. After 64 entries the endpoints are searched
//! from a place that the hash gives. Keys: `pick/keys.rs`; bounded load: `pick/bounded.rs`.
//!
//! *When the set changes* from `n` endpoints of equal weight, `1/n` of the calls have to move, and no
//! others do while each endpoint keeps the number of its entries: up to 64 of them without a
//! `minimumRingSize`. Beyond that the ring keeps its size, and what the new one gets it takes from
//! the others: another `1/n`, which is less than 1/64. The latter holds for a ring of Envoy's size
//! whatever `n` is, and where `w_min · minimumRingSize` is rounded to another number, all others have an
//! entry less at once: half of the calls move where that is 1 instead of 2. Unequal weights move
//! more where the least of them changes.
//!
//! Cost: an index by the upper bits of the hash leads to the entry, so a pick does not grow with
//! the ring. An entry takes 24 bytes at most; 200 MB for the largest ring. Building sorts the ring.
//!
//! Source: Envoy "Ring hash", gRFC A42. Ours: the ring without a `minimumRingSize`; that of
//! Envoy is 1,024.

use super::bounded::{self, Bounded};
use super::group::{Candidates, Found};
use super::keys::{Keyed, keyed};
use super::members::Members;
use crate::Draw;
use crate::hash::xxh64;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt::Write;

/// The largest ring that may be asked for, in entries.
pub const MAX_SIZE: u32 = 8_388_608;

/// Entries that are looked at from where the hash points, before the endpoints are searched.
const WALK: usize = 64;

/// Entries of a ring whose size nobody has written, while it has no more endpoints than that.
const STABLE_SIZE: u64 = 1 << 14;
/// Up to how many endpoints of equal weight each keeps its number of entries.
const STABLE_ENDPOINTS: u128 = 1 << 6;

/// Settings of the ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Config {
    /// Entries that the ring has at least, 1 to 8,388,608: more of them share calls more evenly. Envoy
    /// has 1,024; none: 256 per endpoint of equal weight, up to 16,384 and at least one for each, so
    /// that few calls move when an endpoint comes or goes.
    #[serde(deserialize_with = "optional_size")]
    #[schemars(range(min = 1, max = 8_388_608))]
    pub minimum_ring_size: Option<u32>,
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
            minimum_ring_size: None,
            maximum_ring_size: MAX_SIZE,
            use_hostname: false,
            hash_balance_factor: None,
        }
    }
}

fn ring_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    checked(u64::deserialize(deserializer)?)
}

fn optional_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    Option::<u64>::deserialize(deserializer)?.map(checked).transpose()
}

fn checked<E: serde::de::Error>(number: u64) -> Result<u32, E> {
    u32::try_from(number)
        .ok()
        .filter(|size| (1..=MAX_SIZE).contains(size))
        .ok_or_else(|| E::custom(format!("{number} is not a size from 1 to {MAX_SIZE}")))
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
    match config.minimum_ring_size {
        Some(fewest) => sized(keyed, fewest, most),
        // Rounding adds one for each at most, and each has one at least.
        None if STABLE_SIZE + 2 * keyed.len() as u64 <= u64::from(most) => stable(keyed),
        None => sized(keyed, STABLE_SIZE as u32, most),
    }
}

/// As Envoy: so many that the lightest has a whole number of them.
fn sized(keyed: &[Keyed<'_>], fewest: u32, most: u32) -> Vec<u32> {
    let fewest = fewest.clamp(1, most);
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

/// So many that those of one depend little on the others.
fn stable(keyed: &[Keyed<'_>]) -> Vec<u32> {
    let weights = keyed.iter().map(|one| u128::from(one.weight.max(1)));
    let total: u128 = weights.clone().sum();
    let least = weights.clone().min().unwrap_or(1);
    let size = u128::from(STABLE_SIZE);
    let (times, over) = if least * STABLE_ENDPOINTS >= total {
        (size / STABLE_ENDPOINTS, least)
    } else {
        (size, total)
    };
    let counts = weights.zip(keyed).map(|(weight, one)| {
        // In parts of 2^64, which leave room: 2^14 · 2^32 · 2^64. Each is rounded by a fraction of its
        // own, so that a smaller ring takes an entry from a few of them, not from all at once.
        let count = ((times * weight) << 64) / over + u128::from(xxh64(one.key.as_bytes()));
        u32::try_from(count >> 64).unwrap_or(MAX_SIZE).max(1)
    });
    counts.collect()
}

#[cfg(test)]
#[path = "ring_hash_tests.rs"]
mod tests;
