//! Least request: of a few drawn, the endpoint with the fewest attempts in flight for its weight.
//!
//! `((in flight + 1)^bias − 1) / weight`; the first drawn on ties. A bias of 0 or less leaves
//! nothing to compare: that is round robin.
//!
//! Source: Envoy "Weighted least request". Ours: with weights it draws by weight, instead of
//! keeping a queue that every pick would have to lock.

use super::Config;
use super::choices::Choices;
use super::group::{Candidates, Found};
use super::members::Members;
use crate::Draw;
use crate::endpoint::Member;

#[derive(Debug)]
pub(super) struct LeastRequest {
    choices: Choices,
    bias: f64,
}

impl LeastRequest {
    pub(super) fn new<C>(members: Members<'_, C>, config: &Config) -> Self {
        let choices = Choices::new(members, config.choices());
        Self { choices, bias: config.active_request_bias }
    }

    pub(super) fn pick<'a, C>(
        &self,
        candidates: &Candidates<'a, '_, C>,
        draw: &mut impl Draw,
    ) -> Option<Found<'a, C>> {
        self.choices.least(candidates, draw, |member| load(member, self.bias))
    }
}

/// What is compared.
#[inline]
pub(super) fn load<C>(member: &Member<C>, bias: f64) -> f64 {
    let active = f64::from(member.endpoint.load().in_flight());
    let biased = if bias == 1.0 { active } else { (active + 1.0).powf(bias) - 1.0 };
    biased / f64::from(member.spec.weight.max(1))
}
