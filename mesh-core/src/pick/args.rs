//! What a call brings to a pick.

use super::Pinned;
use super::subset::Labels;
use crate::Timestamp;
use crate::endpoint::EndpointId;
use std::sync::{Mutex, PoisonError};

/// What a call brings to a pick.
///
/// ```
/// use mesh_core::pick::PickArgs;
/// use mesh_core::{EndpointId, Timestamp};
///
/// let tried = [EndpointId::from("127.0.0.1:8080")];
/// let args = PickArgs::new(Timestamp::ZERO).with_avoid(&tried);
/// assert_eq!(args.avoid, tried);
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PickArgs<'a> {
    /// The time of the attempt.
    pub now: Timestamp,
    /// Endpoints that are picked only if there is no other: those that the call has tried.
    pub avoid: &'a [EndpointId],
    /// Hash of the call, for the policies that send calls of one hash to one endpoint.
    pub hash: Option<u64>,
    /// Labels of the endpoints that it wants, the preferred first; none: any endpoint.
    pub subset: &'a [Labels],
    /// The priority at which it starts; those before it are used only when no other can be.
    pub priority: u32,
    /// The endpoint that the call's session is at.
    pub pinned: Option<Pinned<'a>>,
    /// Where the pick notes which endpoints it looks at, for who asks.
    pub looked: Option<&'a Looked>,
}

/// The endpoints that a pick has looked at.
#[derive(Debug, Default)]
pub struct Looked(Mutex<Vec<EndpointId>>);

impl Looked {
    #[cold]
    pub(super) fn note(&self, endpoint: &EndpointId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(endpoint.clone());
    }

    /// Them, in the order in which they were looked at; one that was looked at twice is there twice.
    #[must_use]
    pub fn endpoints(self) -> Vec<EndpointId> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> PickArgs<'a> {
    /// Those of a first attempt at `now`, which asks for nothing.
    #[must_use]
    pub const fn new(now: Timestamp) -> Self {
        Self { now, avoid: &[], hash: None, subset: &[], priority: 0, pinned: None, looked: None }
    }

    /// The endpoints that the call has tried.
    #[must_use]
    pub const fn with_avoid(mut self, avoid: &'a [EndpointId]) -> Self {
        self.avoid = avoid;
        self
    }

    /// The hash of the call.
    #[must_use]
    pub const fn with_hash(mut self, hash: u64) -> Self {
        self.hash = Some(hash);
        self
    }

    /// Labels of the endpoints that it wants, the preferred first.
    #[must_use]
    pub const fn with_subset(mut self, subset: &'a [Labels]) -> Self {
        self.subset = subset;
        self
    }

    /// The priority at which it starts.
    #[must_use]
    pub const fn with_priority(mut self, priority: u32) -> Self {
        self.priority = priority;
        self
    }

    /// The endpoint that the call's session is at.
    #[must_use]
    pub const fn with_pinned(mut self, pinned: Pinned<'a>) -> Self {
        self.pinned = Some(pinned);
        self
    }

    /// Where the pick notes which endpoints it looks at.
    #[must_use]
    pub const fn with_looked(mut self, looked: &'a Looked) -> Self {
        self.looked = Some(looked);
        self
    }
}
