//! Draws: where the random decisions of calls come from.
//!
//! Without a seed, from the generator of the thread. With one ([`MeshBuilder::seed`]), those of the
//! n-th call of a mesh follow from the seed, from n, and from what is decided:
//!
//! ```text
//! state = seed + n · 2^64/φ + number of the decision · odd constant
//! ```
//!
//! so that neither other calls nor other decisions of the same call change them: two meshes of one
//! seed and one configuration that get the same calls in the same order split, hash, fail, pick and
//! wait alike, in process and behind the proxy. What compares loads or latencies depends on
//! measured time all the same; what runs in the background (discovery, checks, reconnecting) draws
//! from its thread.
//!
//! A seed is for tests: who knows it can foretell the cookies that are made up for calls.
//!
//! Cost: one branch per call and per draw where there is no seed.
//!
//! [`MeshBuilder::seed`]: crate::MeshBuilder::seed

use fastrand::Rng;
use mesh_core::Draw;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
/// Keeps the decisions of one call apart.
const APART: u64 = 0xd1b5_4a32_d192_ed03;

/// The draws of a mesh.
#[derive(Clone, Debug, Default)]
pub(crate) struct Draws(Option<Arc<Seeded>>);

#[derive(Debug)]
struct Seeded {
    seed: u64,
    /// Calls so far.
    calls: AtomicU64,
}

impl Draws {
    /// Those that follow from a seed, if there is one.
    pub(crate) fn new(seed: Option<u64>) -> Self {
        Self(seed.map(|seed| Arc::new(Seeded { seed, calls: AtomicU64::new(0) })))
    }

    /// Those that the next call will have.
    pub(crate) fn peek(&self) -> CallDraws {
        match &self.0 {
            None => CallDraws::OF_THREAD,
            Some(seeded) => seeded.call(seeded.calls.load(Relaxed)),
        }
    }

    /// Those of the next call.
    pub(crate) fn next_call(&self) -> CallDraws {
        match &self.0 {
            None => CallDraws::OF_THREAD,
            Some(seeded) => seeded.call(seeded.calls.fetch_add(1, Relaxed)),
        }
    }
}

impl Seeded {
    fn call(&self, number: u64) -> CallDraws {
        let state = self.seed.wrapping_add(number.wrapping_add(1).wrapping_mul(GOLDEN));
        CallDraws(Some(NonZeroU64::new(state).unwrap_or(NonZeroU64::MIN)))
    }
}

/// The draws of one call; by default from the generator of the thread.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CallDraws(Option<NonZeroU64>);

/// What is decided.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Decision {
    /// Rule and destination.
    Route,
    /// A cookie to hash by.
    Hash,
    Fault,
    Mirror,
    RateLimit,
    Throttle,
    /// Whom to ask before the first pick.
    Probes,
    /// The endpoint of an attempt that comes after so many others.
    Pick(usize),
    /// The wait before a retry, by its number.
    Backoff(u32),
}

impl Decision {
    const fn number(self) -> u64 {
        match self {
            Self::Route => 0,
            Self::Hash => 1,
            Self::Fault => 2,
            Self::Mirror => 3,
            Self::RateLimit => 4,
            Self::Throttle => 5,
            Self::Probes => 6,
            Self::Pick(tried) => 1 << 32 | tried as u64,
            Self::Backoff(number) => 2 << 32 | number as u64,
        }
    }
}

impl CallDraws {
    /// Those of the thread.
    pub(crate) const OF_THREAD: Self = Self(None);

    /// The draws of one decision; the same each time if there is a seed.
    pub(crate) fn of(self, decision: Decision) -> DecisionDraw {
        let rng = self.0.map(|state| {
            let own = decision.number().wrapping_mul(APART);
            Rng::with_seed(state.get().wrapping_add(own))
        });
        DecisionDraw { rng, last: 0 }
    }
}

/// The draws of one decision.
#[derive(Debug)]
pub(crate) struct DecisionDraw {
    rng: Option<Rng>,
    last: u64,
}

impl DecisionDraw {
    /// What was drawn last.
    pub(crate) const fn last(&self) -> u64 {
        self.last
    }
}

impl Draw for DecisionDraw {
    fn bits(&mut self) -> u64 {
        self.last = match &mut self.rng {
            None => fastrand::u64(..),
            Some(rng) => rng.u64(..),
        };
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const DECISIONS: [Decision; 4] =
        [Decision::Route, Decision::Hash, Decision::Pick(0), Decision::Backoff(1)];

    /// The first draw of some decisions of some calls.
    fn drawn(seed: u64) -> Vec<u64> {
        let draws = Draws::new(Some(seed));
        let calls = (0..100).map(|_| draws.next_call());
        calls.flat_map(|call| DECISIONS.map(|what| call.of(what).bits())).collect()
    }

    #[test]
    fn a_seed_repeats_every_decision_and_no_two_are_the_same() {
        assert_eq!(drawn(7), drawn(7));
        let distinct: HashSet<u64> = [drawn(7), drawn(8)].concat().into_iter().collect();
        assert_eq!(distinct.len(), 2 * 100 * DECISIONS.len());
    }

    #[test]
    fn a_decision_does_not_depend_on_those_before_it() {
        let call = Draws::new(Some(1)).next_call();
        let mut route = call.of(Decision::Route);
        let alone = call.of(Decision::Fault).bits();
        let _ = (route.bits(), route.bits());
        assert_eq!(call.of(Decision::Fault).bits(), alone);
    }

    #[test]
    fn calls_of_one_seed_split_in_proportion() {
        let draws = Draws::new(Some(3));
        let taken =
            (0..10_000).filter(|_| draws.next_call().of(Decision::Route).below(100) < 30).count();
        assert!((2_800..3_200).contains(&taken), "{taken}");
    }

    #[test]
    fn without_a_seed_draws_are_those_of_the_thread() {
        let call = Draws::default().next_call();
        fastrand::seed(5);
        let thread = call.of(Decision::Route).bits();
        fastrand::seed(5);
        assert_eq!(thread, fastrand::u64(..));
    }
}
