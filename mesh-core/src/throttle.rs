//! Throttle: a client that is refused much asks less.
//!
//! ```text
//! p(refused here) = max(0, (requests − K × accepts) / (requests + 1))
//! ```
//!
//! Both are counts over the last `window`, of one destination and one criticality: `requests` of
//! all calls that were to be made, those refused here included, `accepts` of those that the
//! destination took on. So while it refuses, it sees about K calls for each that it accepts, instead
//! of all of them: refusing costs it work too. Calls that are less critical and refused more do not
//! take the more critical ones with them.
//!
//! The window is kept as twelve slots, of which the oldest is forgotten as a whole.
//!
//! Source: "Site Reliability Engineering", chapter 21, "Client-Side Throttling": formula, K = 2,
//! 2 minutes, a count per criticality.

use crate::config::span;
use crate::criticality::Criticality;
use crate::{Draw, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

const SLOTS: usize = 12;
/// Bits of a count in the word of a slot.
const BITS: u32 = 22;
/// Highest count of a slot; what is beyond is not counted.
const MOST: u64 = (1 << BITS) - 1;

/// Settings of a [`Throttle`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Config {
    /// K: calls that are sent for each one accepted, while others are refused; from 1 to 1,000. 2.
    pub multiplier: f64,
    /// The span over which calls are counted, 1 s to 1 h. 2 min.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub window: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { multiplier: 2.0, window: Duration::from_secs(120) }
    }
}

/// Counts the calls to one destination, and refuses some.
///
/// ```
/// use mesh_core::Timestamp;
/// use mesh_core::criticality::Criticality;
/// use mesh_core::throttle::{Config, Throttle};
///
/// let throttle = Throttle::new(&Config::default());
/// let now = Timestamp::from_nanos(0);
/// let refused = (0..100).filter(|_| !throttle.ask(Criticality::Critical, now, &mut || 0u64));
/// assert_eq!(refused.count(), 99, "nothing was ever accepted, and the draw is the worst");
/// ```
#[derive(Debug)]
pub struct Throttle {
    /// Number of the slot, requests, accepts.
    levels: [[AtomicU64; SLOTS]; Criticality::ALL.len()],
    multiplier: f64,
    /// Nanoseconds.
    slot: u64,
}

impl Throttle {
    /// Nothing counted yet.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let window = config.window.clamp(Duration::from_secs(1), Duration::from_secs(3600));
        let multiplier = if config.multiplier.is_nan() { 2.0 } else { config.multiplier };
        Self {
            levels: Default::default(),
            multiplier: multiplier.clamp(1.0, 1_000.0),
            slot: window.as_nanos() as u64 / SLOTS as u64,
        }
    }

    /// A call is to be made: counts it, and says whether to send it.
    #[must_use]
    pub fn ask(&self, level: Criticality, now: Timestamp, draw: &mut impl Draw) -> bool {
        let refused = self.chance(level, now);
        self.count(level, now, 1 << BITS);
        refused <= 0.0 || draw.unit() >= refused
    }

    /// The destination took a call on, whatever came of it.
    pub fn accepted(&self, level: Criticality, now: Timestamp) {
        self.count(level, now, 1);
    }

    /// The share of calls that are refused here now, from 0 to 1.
    #[must_use]
    pub fn chance(&self, level: Criticality, now: Timestamp) -> f64 {
        let number = self.number(now);
        let (mut requests, mut accepts) = (0, 0);
        for slot in self.levels.get(level.index()).into_iter().flatten() {
            let word = slot.load(Relaxed);
            if number.wrapping_sub(word >> (2 * BITS)) & NUMBERS < SLOTS as u64 {
                requests += word >> BITS & MOST;
                accepts += word & MOST;
            }
        }
        let (requests, accepts) = (requests as f64, accepts as f64);
        ((requests - self.multiplier * accepts) / (requests + 1.0)).max(0.0)
    }

    fn number(&self, now: Timestamp) -> u64 {
        // Wraps after weeks at the shortest window; a slot of that age would count once more.
        (now.as_nanos() / self.slot.max(1)) & NUMBERS
    }

    fn count(&self, level: Criticality, now: Timestamp, one: u64) {
        let number = self.number(now);
        let slots = self.levels.get(level.index());
        let Some(slot) = slots.and_then(|slots| slots.get(number as usize % SLOTS)) else { return };
        // Always `Ok`: the closure never refuses.
        let _ = slot.fetch_update(Relaxed, Relaxed, |word| {
            let own = word >> (2 * BITS);
            // Another thread, whose clock was read later, may have opened the next slot here: it
            // counts there.
            if own != number && number.wrapping_sub(own) & NUMBERS <= NUMBERS / 2 {
                return Some(number << (2 * BITS) | one);
            }
            let full = if one == 1 { word & MOST } else { word >> BITS & MOST } == MOST;
            Some(if full { word } else { word + one })
        });
    }
}

/// Numbers of slots are counted in what the counts leave of a word.
const NUMBERS: u64 = (1 << (64 - 2 * BITS)) - 1;

#[cfg(test)]
mod tests {
    use super::*;
    use Criticality::{Critical, Sheddable};

    fn at(seconds: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_secs(3600 + seconds)
    }

    /// A throttle that has seen so many calls, of which so many were accepted.
    fn seen(requests: u32, accepts: u32) -> Throttle {
        let throttle = Throttle::new(&Config::default());
        for _ in 0..requests {
            let _ = throttle.ask(Critical, at(0), &mut || u64::MAX);
        }
        (0..accepts).for_each(|_| throttle.accepted(Critical, at(0)));
        throttle
    }

    #[test]
    fn the_chance_follows_the_formula() {
        for (requests, accepts, chance) in [
            (0, 0, 0.0),
            (100, 100, 0.0),
            (100, 50, 0.0),
            (100, 49, 2.0 / 101.0),
            (100, 25, 50.0 / 101.0),
            (100, 0, 100.0 / 101.0),
            (1, 0, 0.5),
        ] {
            let throttle = seen(requests, accepts);
            assert!(
                (throttle.chance(Critical, at(0)) - chance).abs() < 1e-9,
                "{requests} {accepts}"
            );
            assert_eq!(throttle.chance(Sheddable, at(0)), 0.0, "each level by itself");
        }
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let throttle = seen(100, 0);
        assert!(throttle.chance(Critical, at(109)) > 0.9);
        assert_eq!(throttle.chance(Critical, at(120)), 0.0);
    }

    #[test]
    fn a_destination_that_takes_a_part_sees_about_twice_that() {
        for seed in 0..20 {
            let mut random = fastrand::Rng::with_seed(seed);
            let throttle = Throttle::new(&Config::default());
            let (mut sent, mut accepted) = (0, 0);
            for second in 0..600 {
                let mut room = 10;
                for _ in 0..100 {
                    if throttle.ask(Critical, at(second), &mut || random.u64(..)) {
                        sent += u32::from(second >= 300);
                        if room > 0 {
                            room -= 1;
                            accepted += u32::from(second >= 300);
                            throttle.accepted(Critical, at(second));
                        }
                    }
                }
            }
            let ratio = f64::from(sent) / f64::from(accepted);
            assert!((1.7..2.3).contains(&ratio), "seed {seed}: {sent} sent, {accepted} accepted");
            assert!(accepted > 2_700, "seed {seed}: {accepted} of 3,000 that it could take");
        }
    }

    #[test]
    fn absurd_settings_and_times_keep_the_chance_between_none_and_all() {
        for multiplier in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 0.0, 1e300] {
            for window in [Duration::ZERO, Duration::MAX] {
                let throttle = Throttle::new(&Config { multiplier, window });
                for now in [Timestamp::ZERO, at(0), Timestamp::MAX] {
                    for _ in 0..3 {
                        let _ = throttle.ask(Critical, now, &mut || 0);
                        throttle.accepted(Sheddable, now);
                        let chance = throttle.chance(Critical, now);
                        assert!((0.0..1.0).contains(&chance), "{multiplier} {window:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_count_that_is_full_stays() {
        let throttle = Throttle::new(&Config::default());
        let slot = throttle.number(at(0));
        let full = slot << (2 * BITS) | MOST << BITS | MOST;
        throttle.levels[Critical.index()][slot as usize % SLOTS].store(full, Relaxed);
        throttle.accepted(Critical, at(0));
        let _ = throttle.ask(Critical, at(0), &mut || 0);
        assert_eq!(throttle.levels[Critical.index()][slot as usize % SLOTS].load(Relaxed), full);
    }
}
