//! Peak EWMA: of a few drawn, the endpoint of least latency times attempts in flight.
//!
//! `E·(in flight + 1)`, with the estimate `E` of [`load`]. Source: Finagle `P2C` with `PeakEwma`.

use super::Config;
use super::choices::Choices;
use super::group::{Candidates, Found};
use super::members::Members;
use crate::{Draw, load};

#[derive(Debug)]
pub(super) struct PeakEwma {
    choices: Choices,
    estimate: load::Config,
}

impl PeakEwma {
    pub(super) fn new<C>(members: Members<'_, C>, config: &Config) -> Self {
        Self { choices: Choices::new(members, config.choices()), estimate: config.ewma.clone() }
    }

    pub(super) fn pick<'a, C>(
        &self,
        candidates: &Candidates<'a, '_, C>,
        draw: &mut impl Draw,
    ) -> Option<Found<'a, C>> {
        self.choices.least(candidates, draw, |member| {
            member.endpoint.load().peak_ewma(candidates.args.now, &self.estimate)
        })
    }
}
