//! Route: from a request to the rule that decides on it, and to one of its destinations.
//!
//! Order of decision (Gateway API, `HTTPRouteSpec.rules.matches`): the most specific host; then
//! among all rules of that host exact path, expression, longest prefix, method, most headers,
//! most query parameters; then the older route, the name, the earlier rule. All of it is sorted
//! when the configuration is compiled: a request costs one hash and then one comparison per match
//! until the first that holds, without an allocation.

mod check;
mod field;
pub mod filter;
mod host;
mod matching;
pub mod path;
mod value;

pub use check::{CheckError, Checked, check_route};
pub(crate) use field::decoded as percent_decoded;
pub use field::{CookieMatch, HeaderMatch, QueryMatch};
pub(crate) use host::{HostTable, canonical, covers};
pub use matching::{Match, PathMatch};
pub use value::{Pattern, ValueMatch};

use self::filter::Filters;
use crate::config::{Origin, Origins};
use crate::draw::Draw;
use crate::hash::{self, Split};
use crate::pick::Labels;
use crate::policy::Policy;
use crate::snapshot::{DestinationId, RouteLimitId, Routed, Snapshot, Unrouted};
use http::{HeaderMap, Method};
use std::sync::Arc;

/// What of a request a route looks at.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RouteRequest<'a> {
    /// What the caller wrote as `host` or `host:port`.
    pub authority: &'a str,
    /// Its method.
    pub method: &'a Method,
    /// Its path, normalized by whoever received it.
    pub path: &'a str,
    /// Its query, without the question mark.
    pub query: Option<&'a str>,
    /// Its headers.
    pub headers: &'a HeaderMap,
}

impl<'a> RouteRequest<'a> {
    /// A request in parts.
    #[must_use]
    pub const fn new(
        authority: &'a str,
        method: &'a Method,
        path: &'a str,
        query: Option<&'a str>,
        headers: &'a HeaderMap,
    ) -> Self {
        Self { authority, method, path, query, headers }
    }
}

impl<'a> From<(&'a str, &'a http::request::Parts)> for RouteRequest<'a> {
    fn from((authority, parts): (&'a str, &'a http::request::Parts)) -> Self {
        Self::new(authority, &parts.method, parts.uri.path(), parts.uri.query(), &parts.headers)
    }
}

/// One rule of a route.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Rule {
    /// `route/index` or `route/name`: a label whose values come from configuration only.
    pub name: Arc<str>,
    /// Any of these selects the rule.
    pub matches: Vec<Match>,
    /// Where requests go, in proportion to weight.
    pub backends: Vec<Backend>,
    /// What answers them, where they go nowhere.
    pub answer: Option<Arc<Filters>>,
    /// Where it is written.
    pub origin: Origin,
    total_weight: u64,
    /// Chooses for calls that are to keep to a destination.
    split: Option<Split>,
}

impl Rule {
    pub(crate) fn new(
        name: Arc<str>,
        matches: Vec<Match>,
        backends: Vec<Backend>,
        origin: Origin,
    ) -> Self {
        let total_weight = backends.iter().map(|backend| u64::from(backend.weight)).sum();
        Self { name, matches, backends, answer: None, origin, total_weight, split: None }
    }

    /// The same, where calls of one hash keep to one destination. `names` are those of the
    /// destinations, in their order.
    pub(crate) fn kept<'a>(mut self, names: impl Iterator<Item = &'a str>) -> Self {
        let weights = self.backends.iter().map(|backend| backend.weight);
        self.split = Some(Split::new(&self.name, names.zip(weights)));
        self
    }

    /// By what calls are hashed that keep to a destination; `None`: each is drawn for itself.
    #[must_use]
    pub fn hashes(&self) -> Option<&[hash::Config]> {
        self.split.as_ref()?;
        self.backends.first().map(|backend| &backend.policy.hash[..])
    }

    /// The destination of a hash, in proportion to weight; the same for a hash each time, and a
    /// changed weight moves as few as it can. `None` if each call is drawn for itself.
    #[must_use]
    pub fn keep(&self, hash: u64) -> Option<&Backend> {
        self.backends.get(self.split.as_ref()?.choose(hash)?)
    }

    /// A rule that answers by itself.
    pub(crate) fn answering(
        name: Arc<str>,
        matches: Vec<Match>,
        answer: Filters,
        origin: Origin,
    ) -> Self {
        Self { answer: Some(Arc::new(answer)), ..Self::new(name, matches, Vec::new(), origin) }
    }

    /// One of the destinations, in proportion to weight; `None` if every weight is 0.
    #[must_use]
    pub fn choose(&self, draw: &mut impl Draw) -> Option<&Backend> {
        if let [only] = &self.backends[..] {
            return (only.weight > 0).then_some(only);
        }
        let mut ticket =
            u64::try_from(draw.below(usize::try_from(self.total_weight).ok()?)).ok()?;
        self.backends.iter().find(|backend| {
            let weight = u64::from(backend.weight);
            let found = ticket < weight;
            ticket = ticket.saturating_sub(weight);
            found
        })
    }
}

/// One destination of a rule.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Backend {
    /// Index into the snapshot's destinations.
    pub destination: DestinationId,
    /// Its share: weight over the sum of weights.
    pub weight: u32,
    /// The policy of calls that take this way: the destination's, overlaid with the route's.
    pub policy: Arc<Policy>,
    /// Where each value of the policy comes from.
    pub origins: Arc<Origins>,
    /// What is done to requests that go this way and to their responses; `None` is nothing.
    pub filters: Option<Arc<Filters>>,
    /// Labels of the endpoints that take the calls, the preferred first; `None`: any endpoint.
    pub subset: Option<Arc<[Labels]>>,
    /// The rate limit of the route, where it has one of its own: in place of the destination's.
    pub rate_limit: Option<RouteLimitId>,
    /// Who gets the calls while no endpoint of this can take one, the preferred first; `None`:
    /// nobody.
    pub failover: Option<Arc<[Self]>>,
}

impl Backend {
    /// The destination's name, with the labels of a subset behind it: `inventory (version=2)`.
    #[must_use]
    pub fn label(&self, snapshot: &Snapshot) -> Option<String> {
        let name = &snapshot.destinations().get(self.destination.index())?.name;
        // The last labels are what a call would be content with.
        let labels = self.subset.as_ref().and_then(|labels| labels.last());
        Some(labels.map_or_else(|| name.to_string(), |labels| format!("{name} ({labels})")))
    }
}

/// A match with the rule it selects.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) matched: Match,
    pub(crate) rule: Arc<Rule>,
}

/// What is configured for one host, in the order in which it is tried.
pub(crate) type Entries = Arc<[Entry]>;

/// What is tried for a request, in order, with the first that takes every such request.
pub(crate) fn tried<'a>(
    entries: &'a [Entry],
    request: &RouteRequest<'_>,
) -> (&'a [Entry], Option<&'a Entry>) {
    let takes = |entry: &Entry| entry.matched.fraction.is_none() && entry.matched.is_match(request);
    match entries.iter().position(takes) {
        Some(index) => (&entries[..index], entries.get(index)),
        None => (entries, None),
    }
}

/// What was tried for a request that this rule has taken; `None` if it cannot have.
pub(crate) fn taken<'a>(
    entries: &'a [Entry],
    request: &RouteRequest<'_>,
    rule: &Rule,
) -> Option<(&'a [Entry], &'a Entry)> {
    let takes = |entry: &Entry| std::ptr::eq(&*entry.rule, rule) && entry.matched.is_match(request);
    let index = entries.iter().position(takes)?;
    Some((entries.get(..index)?, entries.get(index)?))
}

/// The first rule that matches, and one of its destinations.
pub(crate) fn first<'a>(
    entries: &'a [Entry],
    request: &RouteRequest<'_>,
    draw: &mut impl Draw,
) -> Result<Routed<'a>, Unrouted> {
    let Some(entry) = entries.iter().find(|entry| entry.matched.takes(request, draw)) else {
        return Err(Unrouted::NoMatch { host: canonical(request.authority).into() });
    };
    match entry.rule.choose(draw) {
        Some(backend) => Ok(Routed { rule: &entry.rule, backend }),
        None => Err(nowhere(&entry.rule)),
    }
}

/// Why a rule sends a request nowhere.
fn nowhere(rule: &Rule) -> Unrouted {
    match &rule.answer {
        Some(filters) => Unrouted::Answered { rule: rule.name.clone(), filters: filters.clone() },
        None => Unrouted::NoBackend { rule: rule.name.clone() },
    }
}
