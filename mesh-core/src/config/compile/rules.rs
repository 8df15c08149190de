//! Rules: from what a rule of a route writes to its destinations with their policies.

use super::super::de::Located;
use super::super::filters::RouteFilter;
use super::super::kinds::{BackendRef, HttpTimeouts, TcpRule};
use super::super::parse::Object;
use super::super::source::{Location, Origin, Origins};
use super::super::span;
use super::super::tree::{Node, Value};
use super::chains::{Leaf, combine};
use super::filters::Place;
use super::merge::{entry, join, nothing, overlay};
use super::{Compiler, Problem, destination};
use crate::name::{DEFAULT_NAMESPACE, DestinationName};
use crate::policy::Policy;
use crate::route::filter::Filters;
use crate::route::{Backend, Match, Rule};
use crate::snapshot::{DestinationConfig, DestinationId, RouteLimit, RouteLimitId, Snapshot};
use std::sync::Arc;

/// Largest weight (Gateway API).
const MAX_WEIGHT: u32 = 1_000_000;
/// From the keys of a rule (Gateway API) to those of a policy.
const INLINE: [(&str, &str, &[&str]); 3] = [
    ("timeouts", "request", &["timeouts", "request"]),
    ("timeouts", "backendRequest", &["retry", "perTryTimeout"]),
    ("retry", "attempts", &["retry", "attempts"]),
];

/// A rule states the least pause only; the longest is ten times as long (Envoy).
const BACKOFF_GROWTH: u32 = 10;

/// A rule as it is written.
pub(super) struct Written<'a> {
    pub(super) name: Option<&'a Located<String>>,
    pub(super) at: Location,
    pub(super) matches: Vec<(Match, Location)>,
    pub(super) filters: &'a [Located<RouteFilter>],
    pub(super) refs: &'a [Located<BackendRef>],
    /// The values of a policy that it states itself.
    pub(super) inline: Node,
}

impl<'a> Written<'a> {
    /// The rule of a route that decides on connections.
    pub(super) const fn of_connections(rule: &'a Located<TcpRule>) -> Self {
        Self {
            name: rule.value.name.as_ref(),
            at: rule.at,
            matches: Vec::new(),
            filters: &[],
            refs: rule.value.backend_refs.as_slice(),
            inline: nothing(),
        }
    }
}

impl Compiler<'_> {
    /// Compiles one rule.
    pub(super) fn rule(
        &mut self,
        snapshot: &Snapshot,
        object: &Object,
        index: usize,
        written: Written<'_>,
    ) -> Option<Arc<Rule>> {
        let Written { name, at, matches, filters, refs, inline } = written;
        let part = name.map_or_else(|| index.to_string(), |name| name.value.clone());
        let label = if object.namespace == DEFAULT_NAMESPACE {
            format!("{}/{part}", object.name.value)
        } else {
            format!("{}.{}/{part}", object.name.value, object.namespace)
        };
        let origin = Origin::new(&self.documents.sources, at);
        let place = Place { snapshot, object, matches: &matches, backend: false };
        let filters = self.filters(filters, place);
        let conditions: Vec<Match> = matches.iter().map(|(matched, _)| matched.clone()).collect();
        if filters.answer.is_some() {
            if let Some(first) = refs.first() {
                self.problems.push(
                    Problem::error(
                        "this rule answers by itself, and sends nothing to `backendRefs`",
                    )
                    .at(first.at),
                );
            }
            return Some(Arc::new(Rule::answering(label.into(), conditions, filters, origin)));
        }
        if refs.is_empty() {
            self.problems.push(
                Problem::error("this rule sends requests nowhere: `backendRefs` is empty").at(at),
            );
        }
        let mut overlaid = self.levels.of_route(object).cloned().unwrap_or_else(nothing);
        join(&mut overlaid, &inline, &mut self.problems);
        let mut shares: Vec<(u64, Vec<(u64, Backend)>)> = Vec::new();
        for written in refs {
            let Some(mut backend) = self.backend(snapshot, object, written, &overlaid) else {
                continue;
            };
            let own = self.filters(&written.filters, Place { backend: true, ..place });
            let both = filters.clone().with(own);
            backend.filters = (!both.is_empty()).then(|| Arc::new(both));
            let weight = u64::from(backend.weight);
            shares.push((weight, self.behind(snapshot, backend, &overlaid)));
        }
        let told = shares.len();
        let mut backends = self.spread(shares, at);
        if overlaid.get("rateLimit").is_some() {
            backends.iter_mut().for_each(|backend| self.limited(object, backend));
        }
        if told < refs.len() || refs.is_empty() {
            return None;
        }
        if backends.iter().all(|backend| backend.weight == 0) {
            self.problems.push(
                Problem::error("all weights of this rule are 0: it sends requests nowhere").at(at),
            );
            return None;
        }
        let keeps = backends.len() > 1 && overlaid.get("hash").is_some();
        if keeps {
            self.hash_is_used(&overlaid);
        }
        let destinations: Vec<DestinationId> =
            backends.iter().map(|backend| backend.destination).collect();
        let rule = Rule::new(label.into(), conditions, backends, origin);
        if !keeps {
            return Some(Arc::new(rule));
        }
        let names: Vec<String> = destinations
            .iter()
            .filter_map(|id| snapshot.destinations.get(id.index()))
            .map(|known| known.name.to_string())
            .collect();
        Some(Arc::new(rule.kept(names.iter().map(String::as_str))))
    }

    /// The destination that a reference of a route names, or a problem at the reference.
    pub(super) fn referred(
        &mut self,
        object: &Object,
        written: &Located<BackendRef>,
    ) -> Option<DestinationId> {
        let kind = written.kind.as_ref().map_or("Service", |kind| &***kind);
        let group = written.group.as_ref().map_or("", |group| &***group);
        if kind != "Service" || !matches!(group, "" | "core") {
            let at = written.kind.as_ref().or(written.group.as_ref()).map_or(written.at, |k| k.at);
            self.problems.push(
                Problem::not_supported(&format!("a backend of kind `{}`", kind.escape_debug()))
                    .at(at),
            );
            return None;
        }
        let namespace = written.namespace.as_ref().map_or(&*object.namespace, |ns| &***ns);
        self.service(&written.name, namespace)
    }

    fn backend(
        &mut self,
        snapshot: &Snapshot,
        object: &Object,
        written: &Located<BackendRef>,
        overlaid: &Node,
    ) -> Option<Backend> {
        let id = self.referred(object, written)?;
        let weight = written.weight.as_ref();
        if let Some(weight) = weight.filter(|weight| weight.value > MAX_WEIGHT) {
            self.problems.push(
                Problem::error(format!("weight {} is above {MAX_WEIGHT}", weight.value))
                    .at(weight.at),
            );
        }
        let weight = weight.map_or(1, |weight| weight.value);
        let target = destination(snapshot, id)?;
        let subset = self.subset(&written.subsets, target);
        let backend = self.backend_at(target, id, overlaid);
        Some(Backend { weight, subset, ..backend })
    }

    /// A destination of a rule, with the policy of calls that go there.
    pub(super) fn backend_at(
        &mut self,
        target: &DestinationConfig,
        id: DestinationId,
        overlaid: &Node,
    ) -> Backend {
        let (weight, filters, subset, failover) = (1, None, None, None);
        if matches!(&overlaid.value, Value::Map(entries) if entries.is_empty()) {
            let (policy, origins) = (target.policy.clone(), target.origins.clone());
            let rate_limit = None;
            return Backend {
                destination: id,
                weight,
                policy,
                origins,
                filters,
                subset,
                rate_limit,
                failover,
            };
        }
        let mut merged = self.levels.of_destination(&target.name);
        overlay(&mut merged, overlaid);
        let (mut policy, mut origins) = self.policy(&merged);
        // What `appProtocol` decided is no value that is merged.
        Arc::make_mut(&mut policy).protocol = target.policy.protocol;
        Arc::make_mut(&mut origins).insert("protocol".to_owned(), target.origins.of("protocol"));
        let rate_limit = None;
        Backend { destination: id, weight, policy, origins, filters, subset, rate_limit, failover }
    }

    /// What a destination of a rule is in the end, by the chain behind it.
    pub(super) fn behind(
        &mut self,
        snapshot: &Snapshot,
        backend: Backend,
        overlaid: &Node,
    ) -> Vec<(u64, Backend)> {
        let chain = self.chain(backend.destination).filter(|_| backend.subset.is_none());
        let Some(leaves) = chain else { return vec![(1, backend)] };
        let around = backend.filters.as_deref().cloned().unwrap_or_default();
        self.ends(snapshot, leaves, &around, overlaid)
    }

    /// The destinations at the ends of a chain, with what is done around it.
    pub(super) fn ends(
        &mut self,
        snapshot: &Snapshot,
        leaves: Vec<(u64, Leaf)>,
        around: &Filters,
        overlaid: &Node,
    ) -> Vec<(u64, Backend)> {
        let leaves = leaves.into_iter().filter_map(|(share, leaf)| {
            let target = destination(snapshot, leaf.destination)?;
            let subset = self.subset(leaf.labels.as_slice(), target);
            let filters = around.clone().with(leaf.filters);
            let next = leaf.failover.into_iter().map(|next| (1, next)).collect();
            let next = self.ends(snapshot, next, &filters, overlaid);
            let failover: Arc<[Backend]> = next.into_iter().map(|(_, next)| next).collect();
            let failover = (!failover.is_empty()).then_some(failover);
            let filters = (!filters.is_empty()).then(|| Arc::new(filters));
            let backend = self.backend_at(target, leaf.destination, overlaid);
            Some((share, Backend { subset, filters, failover, ..backend }))
        });
        leaves.collect()
    }

    /// Gives a destination of a rule the rate limit of its route, which all with the same settings
    /// share.
    fn limited(&mut self, object: &Object, backend: &mut Backend) {
        let Some(config) = &backend.policy.rate_limit else { return };
        let route = format!("{} {}/{}", object.kind.name(), object.namespace, object.name.value);
        let limit = RouteLimit { route: route.into(), config: config.clone() };
        let known = self.route_limits.iter().position(|known| *known == limit);
        let index = known.unwrap_or(self.route_limits.len());
        if known.is_none() {
            self.route_limits.push(limit);
        }
        backend.rate_limit = u32::try_from(index).ok().map(RouteLimitId);
        if let Some(failover) = &backend.failover {
            let mut standing_in = failover.to_vec();
            standing_in.iter_mut().for_each(|next| self.limited(object, next));
            backend.failover = Some(standing_in.into());
        }
    }

    /// The destinations of a rule with their weights: as they are written where nothing is behind
    /// them, and else in the smallest numbers.
    pub(super) fn spread(
        &mut self,
        shares: Vec<(u64, Vec<(u64, Backend)>)>,
        at: Location,
    ) -> Vec<Backend> {
        let alone = |(_, behind): &(u64, Vec<(u64, Backend)>)| matches!(&behind[..], [(1, _)]);
        if shares.iter().all(alone) {
            let all = shares.into_iter().flat_map(|(weight, behind)| {
                behind.into_iter().map(move |(_, backend)| (weight, backend))
            });
            return all.map(weighted).collect();
        }
        let combined = combine(shares).unwrap_or_else(|| {
            let what =
                "the shares of this rule and of the splitters behind it are too fine to count";
            self.problems.push(Problem::error(what).at(at));
            Vec::new()
        });
        combined.into_iter().map(weighted).collect()
    }

    pub(super) fn timeouts(&mut self, timeouts: Option<&HttpTimeouts>, at: Location) {
        if let Some(HttpTimeouts { request: Some(request), backend_request: Some(each) }) = timeouts
            && each > request
        {
            self.problems.push(
                Problem::error(
                    "`backendRequest` is longer than `request`, which bounds all attempts",
                )
                .at(at),
            );
        }
    }

    /// The values of a policy that an HTTP rule states itself.
    pub(super) fn inline(&mut self, object: &Object, index: usize) -> Node {
        let mut policy = nothing();
        let rule = object.node.get("rules").and_then(|rules| match &rules.value {
            Value::List(rules) => rules.get(index),
            _ => None,
        });
        let mut set = |path: &[&str], value: Node| {
            let at = value.at;
            let nested = path.iter().rev().fold(value, |node, key| entry(key, at, node));
            join(&mut policy, &nested, &mut self.problems);
        };
        for (outer, inner, path) in INLINE {
            if let Some(value) = rule.and_then(|rule| rule.get(outer)?.get(inner)) {
                set(path, value.clone());
            }
        }
        let retry = rule.and_then(|rule| rule.get("retry"));
        if let Some(codes) = retry.and_then(|retry| retry.get("codes")) {
            set(&["retry", "on"], conditions(codes));
        }
        if let Some(backoff) = retry.and_then(|retry| retry.get("backoff"))
            && let Ok(base) = span::parse(backoff.text().unwrap_or_default())
        {
            set(&["retry", "backoff", "base"], backoff.clone());
            let max = Value::Text(span::format(base.saturating_mul(BACKOFF_GROWTH)));
            set(&["retry", "backoff", "max"], Node { at: backoff.at, value: max });
        }
        policy
    }
}

/// A destination with this weight, which fits.
fn weighted((weight, backend): (u64, Backend)) -> Backend {
    Backend { weight: u32::try_from(weight).unwrap_or(u32::MAX), ..backend }
}

/// The rule of a service without routes: everything goes to itself.
pub(super) fn implicit(
    id: DestinationId,
    name: &DestinationName,
    policy: &Arc<Policy>,
    origins: &Arc<Origins>,
    origin: &Origin,
) -> Arc<Rule> {
    let (policy, origins) = (policy.clone(), origins.clone());
    let (filters, subset, rate_limit, failover) = (None, None, None, None);
    let (destination, weight) = (id, 1);
    let backend =
        Backend { destination, weight, policy, origins, filters, subset, rate_limit, failover };
    let label = format!("{name}/default");
    Arc::new(Rule::new(label.into(), vec![Match::any()], vec![backend], origin.clone()))
}

/// The conditions that a list of statuses stands for: those, and a connection that failed before
/// the request was sent, which Gateway API wants retried whenever anything is (GEP-1731).
fn conditions(codes: &Node) -> Node {
    let at = codes.at;
    let word = |text: &str| Node { at, value: Value::Text(text.to_owned()) };
    let mut all = vec![word("connect-failure"), word("refused-stream")];
    if let Value::List(codes) = &codes.value {
        all.extend(codes.iter().cloned());
    }
    Node { at, value: Value::List(all) }
}
