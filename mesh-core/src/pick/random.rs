//! Random: one drawn endpoint, in proportion to its weight.

use super::choices::Choices;
use super::group::{Candidates, Found};
use super::members::Members;
use crate::Draw;

#[derive(Debug)]
pub(super) struct Random(Choices);

impl Random {
    pub(super) fn new<C>(members: Members<'_, C>) -> Self {
        Self(Choices::new(members, 1))
    }

    pub(super) fn pick<'a, C>(
        &self,
        candidates: &Candidates<'a, '_, C>,
        draw: &mut impl Draw,
    ) -> Option<Found<'a, C>> {
        self.0.least(candidates, draw, |_| 0.0)
    }
}
