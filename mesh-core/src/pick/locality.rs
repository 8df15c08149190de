//! Localities: how the calls of a priority level are split among the places where its endpoints
//! run.
//!
//! *By weight*: `available(L) = min(100, 140·available/total)` and `eff(L) = weight·available(L)`;
//! a locality gets `eff(L) / Σ eff`. What matches no pattern gets calls only when nothing else
//! can take them.
//!
//! *Zone-aware*, of the first priority only: `up_i` is the share of the endpoints available that
//! run in zone `i`, `lo_i` that of all callers, those in zones without endpoints included. While `up_0 ≥ lo_0` for the caller's own zone,
//! calls stay in it. Otherwise `up_0 / lo_0` of them do; the rest goes to the zones that have more
//! than their callers need, in proportion to `max(0, up_i − lo_i)`. Off, so that endpoints count
//! alike, when the level panics, has fewer than `minClusterSize` endpoints, or none in the zone.
//!
//! Source: Envoy "Locality weighted load balancing" and "Zone aware routing". Ours: callers are
//! told (`callers`) or taken to be spread evenly over the zones of the endpoints, because a mesh in
//! process does not always know its own service; patterns for weights are Istio's `distribute.to`.

use super::caller::Caller;
use super::group::Group;
use crate::endpoint::{EndpointSpec, Locality};
use crate::health::Standing;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::iter::Sum;
use std::sync::Arc;

/// How calls are split by where endpoints run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Config {
    /// Share of each place, by `region`, `region/zone` or `region/zone/subZone`, in which `*`
    /// stands for any; of several that match the most exact counts. None.
    pub weights: BTreeMap<String, u32>,
    /// Stays in the caller's own zone as far as that can be afforded. Off. Not together with
    /// `weights` or `failoverPriority`.
    pub zone_aware: Option<ZoneAware>,
    /// Labels, by which endpoints that are like the caller are used first. None.
    pub failover_priority: Vec<String>,
}

/// Settings of zone-aware routing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct ZoneAware {
    /// Endpoints of the first priority below which all zones are alike. 6.
    pub min_cluster_size: u32,
    /// How many callers there are in each zone, with endpoints or without; empty: as many in every
    /// zone that has endpoints.
    pub callers: BTreeMap<String, u32>,
}

impl Default for ZoneAware {
    fn default() -> Self {
        Self { min_cluster_size: 6, callers: BTreeMap::new() }
    }
}

/// How many endpoints of a group there are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Census {
    pub(super) total: u64,
    pub(super) healthy: u64,
    pub(super) degraded: u64,
}

impl Census {
    pub(super) const fn of(&self, standing: Standing) -> u64 {
        match standing {
            Standing::Healthy => self.healthy,
            Standing::Degraded => self.degraded,
        }
    }

    pub(super) const fn available(&self) -> u64 {
        self.healthy + self.degraded
    }
}

impl Sum for Census {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            total: sum.total + one.total,
            healthy: sum.healthy + one.healthy,
            degraded: sum.degraded + one.degraded,
        })
    }
}

/// How the levels of a set are split into groups.
#[derive(Debug)]
pub(super) enum Split {
    None,
    ByWeight(Vec<(Pattern, u32)>),
    ZoneAware(Zones),
}

/// `region/zone/subZone`; `None` stands for any.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pattern([Option<Box<str>>; 3]);

/// Whether `text` names a place, as a key of `weights`.
pub(crate) fn check_place(text: &str) -> Result<(), &'static str> {
    Pattern::parse(text).map(drop)
}

impl Pattern {
    /// Reads `region`, `region/zone` or `region/zone/subZone`.
    ///
    /// # Errors
    /// Says what is wrong.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let mut parts = [None, None, None];
        for (n, part) in text.split('/').enumerate() {
            let Some(slot) = parts.get_mut(n) else {
                return Err("a place has at most three parts, `region/zone/subZone`");
            };
            match part {
                "" => return Err("a part of a place is empty; `*` stands for any"),
                "*" => {}
                _ => *slot = Some(part.into()),
            }
        }
        Ok(Self(parts))
    }

    fn matches(&self, locality: &Locality) -> bool {
        let parts = [&locality.region, &locality.zone, &locality.sub_zone];
        self.0.iter().zip(parts).all(|(own, part)| own.as_deref().is_none_or(|own| *own == **part))
    }

    fn exactness(&self) -> usize {
        self.0.iter().flatten().count()
    }
}

/// Zones by number; that of the caller is 0.
#[derive(Debug)]
pub(super) struct Zones {
    numbers: HashMap<(Arc<str>, Arc<str>), u32>,
    /// Share of all callers in each.
    callers: Vec<f64>,
    min: u64,
}

impl Zones {
    fn new<'a>(
        config: &ZoneAware,
        own: &Locality,
        localities: impl Iterator<Item = &'a Locality>,
    ) -> Self {
        let zone = |locality: &Locality| (locality.region.clone(), locality.zone.clone());
        let others: BTreeSet<_> =
            localities.map(zone).filter(|other| *other != zone(own)).collect();
        let zones = || std::iter::once(zone(own)).chain(others.iter().cloned());
        let count = |name: &str| match config.callers.is_empty() {
            true => 1.0,
            false => config.callers.get(name).map_or(0.0, |count| f64::from(*count)),
        };
        let counts: Vec<f64> = zones().map(|(_, name)| count(&name)).collect();
        // Callers in zones without endpoints need room elsewhere.
        let total: f64 = match config.callers.is_empty() {
            true => counts.iter().sum(),
            false => config.callers.values().copied().map(f64::from).sum(),
        };
        Self {
            numbers: zones().zip(0..).collect(),
            callers: counts.iter().map(|count| count / total.max(1.0)).collect(),
            min: config.min_cluster_size.into(),
        }
    }

    fn weights(&self, groups: &[Group], census: &[Census], standing: Standing) -> Vec<f64> {
        let available: Vec<f64> = census.iter().map(|zone| zone.of(standing) as f64).collect();
        let total: f64 = available.iter().sum();
        let size: u64 = census.iter().map(|zone| zone.total).sum();
        let own = groups.first().filter(|group| group.part() == 0).zip(available.first());
        let Some((_, own)) = own.filter(|(_, own)| **own > 0.0 && size >= self.min) else {
            return available;
        };
        let callers =
            |group: &Group| self.callers.get(group.part() as usize).copied().unwrap_or(0.0);
        let (up, low) = (own / total, groups.first().map_or(0.0, callers));
        let stay = if up >= low { 1.0 } else { up / low };
        let spare: Vec<f64> = groups
            .iter()
            .zip(&available)
            .map(|(group, available)| match group.part() {
                0 => 0.0,
                _ => (available / total - callers(group)).max(0.0),
            })
            .collect();
        let all_spare: f64 = spare.iter().sum();
        let others = (groups.len() - 1).max(1) as f64;
        groups
            .iter()
            .zip(spare)
            .map(|(group, spare)| match group.part() {
                0 => stay,
                _ if all_spare > 0.0 => (1.0 - stay) * spare / all_spare,
                _ => (1.0 - stay) / others,
            })
            .collect()
    }
}

impl Split {
    pub(super) fn new<'a>(
        config: Option<&Config>,
        caller: &Caller,
        localities: impl Iterator<Item = &'a Locality>,
    ) -> Self {
        let Some(config) = config else { return Self::None };
        if let Some(zones) = &config.zone_aware {
            // A caller that does not know where it runs has no own zone.
            return match caller.locality.zone.is_empty() {
                true => Self::None,
                false => Self::ZoneAware(Zones::new(zones, &caller.locality, localities)),
            };
        }
        // What does not parse is refused when configuration is read.
        let mut patterns: Vec<(Pattern, u32)> = config
            .weights
            .iter()
            .filter_map(|(text, weight)| Some((Pattern::parse(text).ok()?, *weight)))
            .collect();
        if patterns.is_empty() {
            return Self::None;
        }
        patterns.sort_by_key(|(pattern, _)| Reverse(pattern.exactness()));
        Self::ByWeight(patterns)
    }

    /// The number of the group that an endpoint belongs to within its level.
    pub(super) fn part(&self, spec: &EndpointSpec, first_priority: bool) -> u32 {
        let locality = &spec.locality;
        match self {
            Self::None => 0,
            Self::ByWeight(patterns) => patterns
                .iter()
                .position(|(pattern, _)| pattern.matches(locality))
                .unwrap_or(patterns.len()) as u32,
            Self::ZoneAware(zones) if first_priority => {
                let zone = (locality.region.clone(), locality.zone.clone());
                zones.numbers.get(&zone).copied().unwrap_or(0)
            }
            Self::ZoneAware(_) => 0,
        }
    }

    /// The shares of the groups of one level, in any unit.
    pub(super) fn weights(
        &self,
        groups: &[Group],
        census: &[Census],
        standing: Standing,
        panics: bool,
    ) -> Vec<f64> {
        match self {
            _ if panics => census.iter().map(|group| group.total as f64).collect(),
            Self::None => census.iter().map(|group| group.of(standing) as f64).collect(),
            Self::ZoneAware(zones) => zones.weights(groups, census, standing),
            Self::ByWeight(patterns) => {
                let weight = |group: &Group, census: &Census| {
                    let pattern = patterns.get(group.part() as usize);
                    let weight = pattern.map_or(0.0, |(_, weight)| f64::from(*weight));
                    let total = census.total.max(1) as f64;
                    weight * (1.4 * census.of(standing) as f64 / total).min(1.0)
                };
                groups.iter().zip(census).map(|(group, census)| weight(group, census)).collect()
            }
        }
    }
}

#[cfg(test)]
#[path = "locality_tests.rs"]
mod tests;
