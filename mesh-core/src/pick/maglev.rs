//! Maglev: a call goes to the endpoint in the slot of a table that its hash names.
//!
//! ```text
//! offset = XXH64(key, seed 0) mod M        skip = XXH64(key, seed 1) mod (M − 1) + 1
//! the j-th preference of an endpoint is slot (offset + j · skip) mod M
//! ```
//!
//! Endpoints take turns, in the order of their keys, in claiming the next slot of their preference
//! that is free, until the table is full. With weights an endpoint makes its first claim in turn 1,
//! so that everyone has a slot, and its k-th, one in a turn, not before turn
//! `⌈(k − 1) · w_max / w⌉`. A call goes to slot `hash mod M`. Where the endpoint of that slot is out,
//! further slots that follow from the hash are looked at, up to 64; then the endpoints are searched
//! from a place that the hash gives.
//!
//! A change of the set moves few calls beside those that it must: with M = 65,537 and 100
//! endpoints about 1 in 100 more. An endpoint that is out moves no call but its own. A table
//! that is smaller than the set would leave endpoints without calls: then it has 655,373 slots, or
//! 5,000,011.
//!
//! Cost: one look at the table, of 4 bytes per slot. Building claims each slot once; the number
//! of looks at taken ones grows with M ln M.
//!
//! Source: Eisenbud et al., "Maglev", NSDI 2016, §3.4; Envoy "Maglev" (weights, hashes).

use super::bounded::{self, Bounded};
use super::group::{Candidates, Found};
use super::keys::{Keyed, keyed};
use super::members::Members;
use crate::Draw;
use crate::hash::{mix, xxh64};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use twox_hash::XxHash64;

/// The largest table, in slots.
pub const MAX_SIZE: u32 = 5_000_011;

/// Primes that the table grows to where it is smaller than the set.
const GROWN: [u32; 2] = [655_373, MAX_SIZE];

/// Slots that are looked at before the endpoints are searched.
const LOOKS: u64 = 64;

/// Nobody's slot.
const FREE: u32 = u32::MAX;

/// Settings of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Config {
    /// Slots: a prime up to 5,000,011. A hundred times as many as endpoints share calls within
    /// 1 %. 65,537.
    #[serde(deserialize_with = "table_size")]
    #[schemars(with = "Size")]
    pub table_size: u32,
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
        Self { table_size: 65_537, use_hostname: false, hash_balance_factor: None }
    }
}

fn table_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let number = u64::deserialize(deserializer)?;
    u32::try_from(number).ok().filter(|size| *size <= MAX_SIZE && is_prime(*size)).ok_or_else(
        || D::Error::custom(format!("{number} is not a prime from 2 to {MAX_SIZE}, like 65537")),
    )
}

fn is_prime(number: u32) -> bool {
    let mut divisors = (2..).take_while(|divisor| divisor * divisor <= number);
    number >= 2 && divisors.all(|divisor| !number.is_multiple_of(divisor))
}

/// The schema of a table size.
struct Size;

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "TableSize".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 2, "maximum": MAX_SIZE })
    }
}

/// See the [module docs](self).
#[derive(Debug)]
pub(super) struct Maglev {
    table: Table,
    bounded: Option<Bounded>,
}

impl Maglev {
    pub(super) fn new<C>(members: Members<'_, C>, config: &Config) -> Self {
        Self {
            table: Table::new(&keyed(members, config.use_hostname), config.table_size),
            bounded: config.hash_balance_factor.map(|factor| Bounded::new(factor, members)),
        }
    }

    pub(super) fn pick<'a, C>(
        &self,
        candidates: &Candidates<'a, '_, C>,
        draw: &mut impl Draw,
    ) -> Option<Found<'a, C>> {
        let hash = candidates.args.hash.unwrap_or_else(|| draw.bits());
        let at = |hash: u64| {
            if let Some(found) = candidates.usable(self.table.at(hash)) {
                return Some(found);
            }
            (1..LOOKS)
                .find_map(|look| candidates.usable(self.table.at(mix(hash.wrapping_add(look)))))
        };
        match &self.bounded {
            None => at(hash),
            Some(bounded) => bounded.choose(hash, candidates, at),
        }
    }
}

/// To whom each slot belongs.
#[derive(Debug)]
struct Table {
    slots: Box<[u32]>,
}

impl Table {
    fn new(keyed: &[Keyed<'_>], size: u32) -> Self {
        if keyed.is_empty() {
            return Self { slots: Box::default() };
        }
        let size = std::iter::once(size)
            .chain(GROWN)
            .find(|size| is_prime(*size) && keyed.len() <= *size as usize)
            .unwrap_or(MAX_SIZE);
        let mut claims: Vec<Claim> = keyed.iter().map(|one| Claim::new(&one.key, size)).collect();
        let mut slots = vec![FREE; size as usize];
        let mut left = size;
        let mut claim = |rank: usize| {
            if let (Some(claim), Some(one)) = (claims.get_mut(rank), keyed.get(rank)) {
                claim.take(&mut slots, one.place);
            }
            left -= 1;
            left > 0
        };
        let heaviest = keyed.iter().map(|one| one.weight).max().unwrap_or(1);
        if keyed.iter().all(|one| one.weight == heaviest) {
            let mut ranks = (0..keyed.len()).cycle();
            while ranks.next().is_some_and(&mut claim) {}
        } else {
            let mut due: BinaryHeap<Reverse<Due>> =
                (0..keyed.len()).map(|rank| Reverse(Due { turn: 1, rank, made: 1 })).collect();
            while let Some(Reverse(Due { turn, rank, made })) = due.pop() {
                if !claim(rank) {
                    break;
                }
                let weight = keyed.get(rank).map_or(1, |one| one.weight);
                let earliest = (made * u64::from(heaviest)).div_ceil(u64::from(weight));
                due.push(Reverse(Due { turn: earliest.max(turn + 1), rank, made: made + 1 }));
            }
        }
        Self { slots: slots.into() }
    }

    /// The place of a hash.
    fn at(&self, hash: u64) -> usize {
        let slot = hash.checked_rem(self.slots.len() as u64).unwrap_or(0);
        self.slots.get(slot as usize).map_or(0, |place| *place as usize)
    }
}

/// When an endpoint may claim its next slot; in one turn, in the order of ranks.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    turn: u64,
    rank: usize,
    /// Claims made with that one.
    made: u64,
}

/// Where an endpoint is in its order of preference.
struct Claim {
    next: u32,
    skip: u32,
}

impl Claim {
    fn new(key: &str, size: u32) -> Self {
        let below = |hash: u64, bound: u32| (hash % u64::from(bound.max(1))) as u32;
        Self {
            next: below(xxh64(key.as_bytes()), size),
            skip: below(XxHash64::oneshot(1, key.as_bytes()), size - 1) + 1,
        }
    }

    /// Takes the next free slot; there is one, and a prime number of slots are all tried.
    fn take(&mut self, slots: &mut [u32], place: u32) {
        for _ in 0..slots.len() {
            let slot = self.next as usize;
            self.next += self.skip;
            if self.next as usize >= slots.len() {
                self.next -= slots.len() as u32;
            }
            if let Some(slot) = slots.get_mut(slot).filter(|slot| **slot == FREE) {
                *slot = place;
                return;
            }
        }
    }
}

#[cfg(test)]
#[path = "maglev_tests.rs"]
mod tests;
