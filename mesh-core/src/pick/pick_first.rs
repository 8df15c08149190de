//! Pick first: one endpoint takes all calls until it is out.
//!
//! The first in order that can be picked, by the order in which discovery gave them or, with
//! `shuffle`, by one that is drawn once per caller. It stays the one, also across updates of the
//! set, until it is out; then the search begins at the first again. A call that has tried it goes
//! on to the next in order, and moves nobody else. Weights do not count.
//!
//! Source: gRPC `pick_first`, gRFC A61 and A62 (`shuffleAddressList`). Several addresses of one
//! endpoint are tried by Happy Eyeballs when it is connected to.

use super::caller::Caller;
use super::group::{Candidates, Found};
use super::members::Members;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Settings of `PickFirst`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Config {
    /// Whether each caller goes by an order of its own, so that not all use the same endpoint.
    /// false.
    pub shuffle: bool,
}

#[derive(Debug)]
pub(super) struct PickFirst {
    /// `None`: as they stand.
    order: Option<Box<[u32]>>,
    /// Place of the one that takes all.
    current: AtomicUsize,
}

impl PickFirst {
    pub(super) fn new<C>(members: Members<'_, C>, config: &Config, caller: &Caller) -> Self {
        let current = members.iter().position(|member| member.endpoint.health().is_preferred());
        let order: Option<Box<[u32]>> = config.shuffle.then(|| {
            let mut keyed: Vec<(u64, u32)> = members
                .iter()
                .zip(0..)
                .map(|(member, place)| (caller.hash(member.endpoint.id()), place))
                .collect();
            keyed.sort_unstable();
            keyed.into_iter().map(|(_, place)| place).collect()
        });
        let place = |rank| match &order {
            None => rank,
            Some(order) => order.get(rank).map_or(0, |place| *place as usize),
        };
        let current = AtomicUsize::new(current.unwrap_or_else(|| place(0)));
        Self { order, current }
    }

    pub(super) fn pick<'a, C>(&self, candidates: &Candidates<'a, '_, C>) -> Option<Found<'a, C>> {
        let current = self.current.load(Relaxed);
        if let Some(found) = candidates.usable(current) {
            let health = found.member.endpoint.health();
            if !health.is_preferred() {
                health.set_preferred(true);
            }
            return Some(found);
        }
        let mut places = 0..candidates.len();
        let (place, found) = match &self.order {
            None => places.find_map(|place| Some((place, candidates.usable(place)?))),
            Some(order) => order.iter().find_map(|place| {
                let place = *place as usize;
                Some((place, candidates.usable(place)?))
            }),
        }?;
        let now = candidates.args.now;
        let old = candidates.members.get(current);
        if old.is_none_or(|old| !old.endpoint.is_selectable_at(now)) {
            if let Some(old) = old {
                old.endpoint.health().set_preferred(false);
            }
            found.member.endpoint.health().set_preferred(true);
            self.current.store(place, Relaxed);
        }
        Some(found)
    }
}
