//! Who picks: where it runs, and what tells it from the other callers of a destination.

use super::subset::Labels;
use crate::endpoint::{EndpointId, Locality};
use foldhash::quality::FixedState;
use std::hash::BuildHasher;

/// Who picks. Without one, nothing that depends on the caller has an effect.
///
/// ```
/// use mesh_core::pick::{Caller, Labels};
///
/// # fn example() -> Result<(), mesh_core::InvalidLocality> {
/// let caller = Caller::new("eu/eu-1".parse()?).with_labels(Labels::from_iter([("rack", "7")]));
/// assert_eq!(&*caller.locality.zone, "eu-1");
/// # Ok(())
/// # }
/// # assert!(example().is_ok());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Caller {
    /// Where it runs.
    pub locality: Locality,
    /// Its labels, for `failoverPriority`.
    pub labels: Labels,
    /// Its number among the callers, from 0, for deterministic subsetting.
    pub number: u64,
    /// Random; what is drawn by it stays as it is while the caller lives.
    pub seed: u64,
}

impl Caller {
    /// One that runs there.
    #[must_use]
    pub fn new(locality: Locality) -> Self {
        Self { locality, ..Self::default() }
    }

    /// Its labels.
    #[must_use]
    pub fn with_labels(mut self, labels: impl Into<Labels>) -> Self {
        self.labels = labels.into();
        self
    }

    /// Its number among the callers.
    #[must_use]
    pub const fn with_number(mut self, number: u64) -> Self {
        self.number = number;
        self
    }

    /// What tells it from the others.
    #[must_use]
    pub const fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// A number for an endpoint, by which each caller orders them otherwise.
    pub(super) fn hash(&self, id: &EndpointId) -> u64 {
        FixedState::with_seed(self.seed).hash_one(id)
    }
}
