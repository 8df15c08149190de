//! Endpoints: what discovery says of them, and what is known from calling them.
//!
//! An [`EndpointSet`] is immutable and replaced whole. An endpoint that stays in the set under the
//! same id and at the same addresses keeps its [`Endpoint`], so its connections and its history
//! outlive every such update. What discovery says (weight, priority, …) stands beside it in the [`Member`], because that may change
//! while the endpoint stays.

use crate::health::{Breaker, EndpointState, Health, Standing, StateKind, Tally};
use crate::limit::{self, Limits};
use crate::load::{Load, Recent};
use crate::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

/// Names one endpoint of a destination; by default its address, `127.0.0.1:8080`.
///
/// ```
/// use mesh_core::EndpointId;
///
/// let id = EndpointId::from("127.0.0.1:8080");
/// assert_eq!(id.as_str(), "127.0.0.1:8080");
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(Arc<str>);

impl EndpointId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for EndpointId {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<String> for EndpointId {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<&EndpointId> for Arc<str> {
    fn from(id: &EndpointId) -> Self {
        id.0.clone()
    }
}

impl From<SocketAddr> for EndpointId {
    fn from(address: SocketAddr) -> Self {
        Self(address.to_string().into())
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where an endpoint runs; empty parts are unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Locality {
    /// For example a cloud region.
    pub region: Arc<str>,
    /// A part of the region that fails on its own.
    pub zone: Arc<str>,
    /// A part of the zone, for example a rack.
    pub sub_zone: Arc<str>,
}

impl Locality {
    /// A locality by its three parts, any of which may be empty.
    pub fn new(
        region: impl Into<Arc<str>>,
        zone: impl Into<Arc<str>>,
        sub_zone: impl Into<Arc<str>>,
    ) -> Self {
        Self { region: region.into(), zone: zone.into(), sub_zone: sub_zone.into() }
    }
}

/// A text that is no locality.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidLocality(());

impl fmt::Display for InvalidLocality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a locality is written `region`, `region/zone` or `region/zone/subZone`")
    }
}

impl std::error::Error for InvalidLocality {}

impl FromStr for Locality {
    type Err = InvalidLocality;

    /// Reads `region`, `region/zone` or `region/zone/subZone`.
    fn from_str(text: &str) -> Result<Self, InvalidLocality> {
        let parts: Vec<&str> = text.split('/').map(str::trim).collect();
        match parts[..] {
            _ if parts.iter().any(|part| part.is_empty()) => Err(InvalidLocality(())),
            [region] => Ok(Self::new(region, "", "")),
            [region, zone] => Ok(Self::new(region, zone, "")),
            [region, zone, sub_zone] => Ok(Self::new(region, zone, sub_zone)),
            _ => Err(InvalidLocality(())),
        }
    }
}

/// What discovery says of an endpoint's health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub enum Declared {
    /// It may take calls.
    #[default]
    Healthy,
    /// It may take calls, but less well.
    Degraded,
    /// It finishes what runs, and takes nothing new.
    Draining,
    /// It must not be called.
    Unhealthy,
}

impl Declared {
    /// Whether an endpoint so declared may take a new call.
    #[must_use]
    pub const fn is_usable(self) -> bool {
        matches!(self, Self::Healthy | Self::Degraded)
    }
}

/// What discovery says of one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointSpec {
    /// Its identity across updates.
    pub id: EndpointId,
    /// Where it listens; at least one, the preferred one first (dual stack).
    pub addresses: Vec<SocketAddr>,
    /// The name it was found by or configured with, if any: what TLS asks for, and expects its
    /// certificate to bear, unless the destination says otherwise.
    pub hostname: Option<Arc<str>>,
    /// Where it runs.
    pub locality: Locality,
    /// Failover tier; 0 is used first.
    pub priority: u32,
    /// Configured share, at least 1.
    pub weight: u32,
    /// Labels, for subsets and pages.
    pub metadata: Arc<BTreeMap<String, String>>,
    /// Its health according to discovery.
    pub declared: Declared,
}

impl EndpointSpec {
    /// A healthy endpoint of weight 1 and priority 0, named by its address.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self {
            id: address.into(),
            addresses: vec![address],
            hostname: None,
            locality: Locality::default(),
            priority: 0,
            weight: 1,
            metadata: Arc::default(),
            declared: Declared::Healthy,
        }
    }

    /// Names it otherwise than by its address.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<EndpointId>) -> Self {
        self.id = id.into();
        self
    }

    /// Adds an address that is used when those before do not connect.
    #[must_use]
    pub fn with_address(mut self, address: SocketAddr) -> Self {
        self.addresses.push(address);
        self
    }

    /// The name it was found by.
    #[must_use]
    pub fn with_hostname(mut self, hostname: impl Into<Arc<str>>) -> Self {
        self.hostname = Some(hostname.into());
        self
    }

    /// Where it runs.
    #[must_use]
    pub fn with_locality(mut self, locality: Locality) -> Self {
        self.locality = locality;
        self
    }

    /// Failover tier.
    #[must_use]
    pub const fn with_priority(mut self, priority: u32) -> Self {
        self.priority = priority;
        self
    }

    /// Configured share; 0 counts as 1.
    #[must_use]
    pub const fn with_weight(mut self, weight: u32) -> Self {
        self.weight = if weight == 0 { 1 } else { weight };
        self
    }

    /// Labels.
    #[must_use]
    pub fn with_metadata(mut self, metadata: BTreeMap<String, String>) -> Self {
        self.metadata = Arc::new(metadata);
        self
    }

    /// Its health according to discovery.
    #[must_use]
    pub const fn with_declared(mut self, declared: Declared) -> Self {
        self.declared = declared;
        self
    }

    /// Whether connections to the one serve for the other.
    fn is_reached_like(&self, other: &Self) -> bool {
        self.addresses == other.addresses && self.hostname == other.hostname
    }
}

/// One endpoint as it is known from calling it. `C` is what the transport keeps for it.
#[derive(Debug)]
pub struct Endpoint<C = ()> {
    /// The transport's own: connections.
    pub connections: C,
    id: EndpointId,
    load: Load,
    health: Health,
    breaker: Breaker,
    limits: Limits,
}

impl<C> Endpoint<C> {
    /// An endpoint outside of any set.
    pub fn new(id: EndpointId, connections: C) -> Self {
        Self::in_set(id, connections, &Tally::default(), &Arc::default())
    }

    fn in_set(id: EndpointId, connections: C, tally: &Tally, recent: &Arc<Recent>) -> Self {
        Self {
            connections,
            id,
            load: Load::in_set(recent.clone()),
            health: Health::new(tally.clone()),
            breaker: Breaker::new(tally.clone()),
            limits: Limits::new(&limit::Config::unlimited()),
        }
    }

    /// Its name.
    #[must_use]
    pub const fn id(&self) -> &EndpointId {
        &self.id
    }

    /// Attempts in flight and latency.
    #[must_use]
    pub const fn load(&self) -> &Load {
        &self.load
    }

    /// Reachable, ejected, declared.
    #[must_use]
    pub const fn health(&self) -> &Health {
        &self.health
    }

    /// Its breaker.
    #[must_use]
    pub const fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// Its limits; none until [`Limits::reconfigure`].
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether it can be picked without a look at the time: reachable, not ejected, declared
    /// usable, breaker closed. Two relaxed loads.
    #[must_use]
    pub fn is_selectable(&self) -> bool {
        self.health.is_selectable() && self.breaker.is_closed()
    }

    /// Like [`Endpoint::is_selectable`], or due to let one call through that decides: by its breaker, or on
    /// probation.
    #[must_use]
    pub fn is_selectable_at(&self, now: Timestamp) -> bool {
        self.health.is_selectable_at(now) && self.breaker.would_admit(now)
    }

    /// Like [`Endpoint::is_selectable_at`], and among which.
    pub(crate) fn standing_at(&self, now: Timestamp) -> Option<Standing> {
        self.health.standing_at(now).filter(|_| self.breaker.would_admit(now))
    }

    /// Its state with reason and times.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> EndpointState {
        let mut state = self.health.state(now);
        if state.kind != StateKind::Ready {
            return state;
        }
        state.since = state.since.max(self.breaker.changed_at());
        self.breaker.state(now).unwrap_or(state)
    }
}

/// An endpoint in a set, with what discovery says of it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Member<C = ()> {
    /// What is known from calling it.
    pub endpoint: Arc<Endpoint<C>>,
    /// What discovery says.
    pub spec: Arc<EndpointSpec>,
}

// By hand: a derived `Clone` would ask for `C: Clone`.
impl<C> Clone for Member<C> {
    fn clone(&self) -> Self {
        Self { endpoint: self.endpoint.clone(), spec: self.spec.clone() }
    }
}

/// The endpoints of a destination: an immutable value that is replaced whole.
#[derive(Debug)]
pub struct EndpointSet<C = ()> {
    members: Arc<[Member<C>]>,
    tally: Tally,
    recent: Arc<Recent>,
}

impl<C> Clone for EndpointSet<C> {
    fn clone(&self) -> Self {
        Self {
            members: self.members.clone(),
            tally: self.tally.clone(),
            recent: self.recent.clone(),
        }
    }
}

impl<C> Default for EndpointSet<C> {
    fn default() -> Self {
        Self::empty()
    }
}

impl<C> EndpointSet<C> {
    /// A set without endpoints.
    #[must_use]
    pub fn empty() -> Self {
        Self { members: Arc::new([]), tally: Tally::default(), recent: Arc::default() }
    }

    /// The endpoints, lowest priority number first, otherwise as discovery gave them.
    #[must_use]
    pub fn members(&self) -> &[Member<C>] {
        &self.members
    }

    /// How many of its endpoints are ejected now.
    #[must_use]
    pub fn ejected(&self) -> usize {
        self.tally.ejected()
    }

    pub(crate) const fn tally(&self) -> &Tally {
        &self.tally
    }

    pub(crate) const fn recent(&self) -> &Arc<Recent> {
        &self.recent
    }

    /// The set after discovery has spoken. `make` is called for each added endpoint, and for each
    /// whose addresses or hostname changed: that is another server, and begins without history.
    /// Of several specs with one id, the first counts. Removed endpoints no longer count as
    /// ejected.
    pub fn update(
        &self,
        specs: Vec<EndpointSpec>,
        mut make: impl FnMut(&EndpointSpec) -> C,
    ) -> (Self, Change) {
        let mut change = Change::default();
        // The same endpoints in the same order, as after most changes, need no look-up.
        let same = specs.len() == self.members.len()
            && specs.iter().zip(&*self.members).all(|(spec, member)| spec.id == member.spec.id);
        let named = self.members.iter().filter(|_| !same);
        let old: HashMap<&EndpointId, &Member<C>> =
            named.map(|member| (&member.spec.id, member)).collect();
        let mut seen: HashSet<EndpointId> = HashSet::new();
        let mut members: Vec<Member<C>> = Vec::with_capacity(specs.len());
        let in_use = !self.members.is_empty();
        for (place, spec) in specs.into_iter().enumerate() {
            if !same && !seen.insert(spec.id.clone()) {
                continue;
            }
            let fresh = |spec: &EndpointSpec, connections| {
                let (tally, recent) = (&self.tally, &self.recent);
                let endpoint = Endpoint::in_set(spec.id.clone(), connections, tally, recent);
                if in_use {
                    endpoint.health.set_joined();
                }
                Arc::new(endpoint)
            };
            let known = if same { self.members.get(place) } else { old.get(&spec.id).copied() };
            let endpoint = match known {
                Some(member) => {
                    if *member.spec == spec {
                        member.endpoint.health.set_declared(spec.declared);
                        members.push(member.clone());
                        continue;
                    }
                    change.changed.push(spec.id.clone());
                    if member.spec.is_reached_like(&spec) {
                        member.endpoint.clone()
                    } else {
                        member.endpoint.health.retire();
                        fresh(&spec, make(&spec))
                    }
                }
                None => {
                    change.added.push(spec.id.clone());
                    fresh(&spec, make(&spec))
                }
            };
            endpoint.health.set_declared(spec.declared);
            members.push(Member { endpoint, spec: Arc::new(spec) });
        }
        let gone = |member: &&Member<C>| !same && !seen.contains(&member.spec.id);
        for member in self.members.iter().filter(gone) {
            member.endpoint.health.retire();
            change.removed.push(member.spec.id.clone());
        }
        members.sort_by_key(|member| member.spec.priority);
        let (tally, recent) = (self.tally.clone(), self.recent.clone());
        (Self { members: members.into(), tally, recent }, change)
    }
}

/// What an update did to a set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// Endpoints that were not there.
    pub added: Vec<EndpointId>,
    /// Endpoints of which discovery now says something else.
    pub changed: Vec<EndpointId>,
    /// Endpoints that are gone.
    pub removed: Vec<EndpointId>,
}

impl Change {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(port: u16) -> EndpointSpec {
        EndpointSpec::new(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    #[test]
    fn the_same_id_keeps_its_endpoint() {
        let (first, _) = EndpointSet::empty().update(vec![spec(1), spec(2)], |_| ());
        first.members()[0].endpoint.load().begin();
        let (second, change) = first.update(vec![spec(3), spec(1).with_weight(5)], |_| ());

        let kept = &second.members()[1];
        assert!(Arc::ptr_eq(&kept.endpoint, &first.members()[0].endpoint));
        assert_eq!(kept.endpoint.load().in_flight(), 1);
        assert_eq!(kept.spec.weight, 5);
        assert_eq!(change.added, [spec(3).id]);
        assert_eq!(change.changed, [spec(1).id]);
        assert_eq!(change.removed, [spec(2).id]);
    }

    #[test]
    fn other_addresses_or_another_hostname_make_another_endpoint() {
        let (first, _) = EndpointSet::empty().update(vec![spec(1)], |spec| spec.clone());
        let dual = spec(1).with_address(SocketAddr::from(([127, 0, 0, 2], 1)));
        for next in [dual, spec(1).with_hostname("inventory.example")] {
            let (second, change) = first.update(vec![next.clone()], |spec| spec.clone());
            let endpoint = &second.members()[0].endpoint;
            assert!(!Arc::ptr_eq(endpoint, &first.members()[0].endpoint));
            assert_eq!(endpoint.connections, next, "made from what discovery says now");
            assert_eq!(change.changed, [spec(1).id]);
            assert!(change.added.is_empty() && change.removed.is_empty());
        }
    }

    #[test]
    fn of_two_specs_with_one_id_the_first_counts() {
        let (set, change) =
            EndpointSet::<()>::empty().update(vec![spec(1).with_weight(2), spec(1)], |_| ());
        assert_eq!(set.members().len(), 1);
        assert_eq!(set.members()[0].spec.weight, 2);
        assert_eq!(change.added.len(), 1);
    }

    #[test]
    fn what_discovery_declares_unusable_cannot_be_picked() {
        let (set, _) = EndpointSet::<()>::empty().update(vec![spec(1)], |_| ());
        for (declared, selectable) in [
            (Declared::Healthy, true),
            (Declared::Degraded, true),
            (Declared::Draining, false),
            (Declared::Unhealthy, false),
        ] {
            let (set, _) = set.update(vec![spec(1).with_declared(declared)], |_| ());
            assert_eq!(set.members()[0].endpoint.is_selectable(), selectable, "{declared:?}");
        }
    }

    #[test]
    fn a_locality_is_read_by_its_parts() {
        assert_eq!("eu".parse(), Ok(Locality::new("eu", "", "")));
        assert_eq!("eu/eu-1/rack 7".parse(), Ok(Locality::new("eu", "eu-1", "rack 7")));
        for wrong in ["", "/zone", "a//b", "a/b/c/d"] {
            assert_eq!(wrong.parse::<Locality>(), Err(InvalidLocality(())), "{wrong}");
        }
    }

    #[test]
    fn the_same_specs_change_nothing() {
        let (set, _) = EndpointSet::<()>::empty().update(vec![spec(1), spec(2)], |_| ());
        assert!(set.update(vec![spec(1), spec(2)], |_| ()).1.is_empty());
    }
}
