//! Bounded load: a busy endpoint gives calls away that its hashes would bring it.
//!
//! ```text
//! room of an endpoint = max(1, ⌈⌈(in flight of all + 1) · factor / 100⌉ · share of its weight⌉)
//! ```
//!
//! One with more than its room in flight is passed over. The call then goes where hashes that follow
//! from its own lead, up to 32 of them: to a place that is as good as any instead of the next
//! one, which would be overrun in turn. If all that were looked at have no room, to the one with
//! the least in flight for its room.
//!
//! What all have in flight is counted at most once per microsecond and endpoint, at least 100 µs
//! apart: counting costs a share of the time that does not grow with the set.
//!
//! Source: Envoy `hash_balance_factor`; Mirrokni et al., "Consistent hashing with bounded loads";
//! Chen et al., "Revisiting consistent hashing with bounded loads" (jumps instead of the next).

use super::group::{Candidates, Found};
use super::members::Members;
use crate::Timestamp;
use crate::endpoint::Member;
use crate::hash::mix;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// How many other places are looked at.
const JUMPS: u64 = 32;
/// Counts are this far apart, per endpoint and at least.
const PER_ENDPOINT: Duration = Duration::from_micros(1);
const LEAST: Duration = Duration::from_micros(100);

/// For serde: reads a factor in percent, at least 100.
pub(super) fn factor<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    match Option::<u32>::deserialize(deserializer)? {
        Some(percent @ ..100) => Err(D::Error::custom(format!(
            "{percent} % of the mean cannot hold all calls: at least 100, usually 120 to 200"
        ))),
        factor => Ok(factor),
    }
}

/// What bounds the load of the members of one group.
#[derive(Debug)]
pub(super) struct Bounded {
    /// In percent.
    factor: u32,
    /// Of all weights.
    weight: u64,
    interval: Duration,
    /// When all were counted last, in nanoseconds; 0: never.
    counted: AtomicU64,
    /// In flight at all of them.
    total: AtomicU64,
}

impl Bounded {
    pub(super) fn new<C>(factor: u32, members: Members<'_, C>) -> Self {
        let count = u32::try_from(members.len()).unwrap_or(u32::MAX);
        Self {
            factor: factor.max(100),
            weight: members.iter().map(|member| u64::from(member.spec.weight.max(1))).sum(),
            interval: PER_ENDPOINT.saturating_mul(count).max(LEAST),
            counted: AtomicU64::new(0),
            total: AtomicU64::new(0),
        }
    }

    /// The member that `at` finds for a hash, or else one that has room.
    pub(super) fn choose<'a, C>(
        &self,
        hash: u64,
        candidates: &Candidates<'a, '_, C>,
        at: impl Fn(u64) -> Option<Found<'a, C>>,
    ) -> Option<Found<'a, C>> {
        let total = self.in_flight(candidates);
        let mut best = at(hash)?;
        let mut least = self.fullness(best.member, total);
        for jump in 1..=JUMPS {
            if least <= 1.0 {
                break;
            }
            if let Some(other) = at(mix(hash ^ mix(jump))) {
                let fullness = self.fullness(other.member, total);
                if fullness < least {
                    (best, least) = (other, fullness);
                }
            }
        }
        Some(best)
    }

    /// What it has in flight, for its room; it is passed over above 1.
    fn fullness<C>(&self, member: &Member<C>, total: u64) -> f64 {
        let in_flight = member.endpoint.load().in_flight();
        f64::from(in_flight) / room(total, self.factor, member.spec.weight.max(1), self.weight)
    }

    fn in_flight<C>(&self, candidates: &Candidates<'_, '_, C>) -> u64 {
        let now = candidates.args.now.as_nanos().max(1);
        let counted = self.counted.load(Relaxed);
        let due = Timestamp::from_nanos(counted) + self.interval;
        if (counted == 0 || candidates.args.now >= due)
            // One of those that come at once counts; the others go by the last count.
            && self.counted.compare_exchange(counted, now, Relaxed, Relaxed).is_ok()
        {
            let each = candidates.members.iter().map(|member| member.endpoint.load().in_flight());
            self.total.store(each.map(u64::from).sum(), Relaxed);
        }
        self.total.load(Relaxed)
    }
}

/// How much a member may have in flight.
fn room(total: u64, factor: u32, weight: u32, weights: u64) -> f64 {
    let all = (u128::from(total) + 1) * u128::from(factor);
    let own = all.div_ceil(100) * u128::from(weight);
    own.div_ceil(u128::from(weights.max(1))).max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_the_share_of_the_bounded_total_and_at_least_one() {
        for (total, factor, weight, weights, expected) in [
            (0, 100, 1, 1, 1.0),
            (0, 150, 1, 10, 1.0),
            (9, 100, 1, 10, 1.0),
            (9, 150, 1, 10, 2.0),
            (99, 150, 1, 10, 15.0),
            (99, 150, 2, 10, 30.0),
            (99, 151, 1, 10, 16.0),
            (u64::MAX, u32::MAX, 1, u64::MAX, f64::from(u32::MAX / 100 + 1)),
        ] {
            assert_eq!(room(total, factor, weight, weights), expected, "{total} {factor}");
        }
    }

    #[test]
    fn a_factor_below_100_is_refused() {
        for (text, expected) in [
            ("null", Some(None)),
            ("100", Some(Some(100))),
            ("150", Some(Some(150))),
            ("99", None),
            ("0", None),
            ("-1", None),
        ] {
            let mut reader = serde_json::Deserializer::from_str(text);
            assert_eq!(factor(&mut reader).ok(), expected, "{text}");
        }
    }
}
