//! Routes: rules with their matches and destinations, in the order in which they are tried.

use super::super::de::Located;
use super::super::filters::RouteFilter;
use super::super::kinds::{BackendRef, HttpTimeouts, ParentRef, TcpRule};
use super::super::parse::{Object, Spec};
use super::super::source::{Location, Origin};
use super::super::span;
use super::super::tree::{Node, Value};
use super::chains::combine;
use super::destinations::host_problem;
use super::filters::Place;
use super::merge::{entry, join, nothing, overlay};
use super::{Compiler, Problem, destination};
use crate::name::{DEFAULT_NAMESPACE, DestinationName};
use crate::route::filter::{Answer, PathEdit};
use crate::route::{Backend, Entries, Entry, Match, PathMatch, Rule, covers};
use crate::snapshot::{DestinationConfig, DestinationId, RouteLimit, RouteLimitId, Snapshot};
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Largest weight (Gateway API).
const MAX_WEIGHT: u32 = 1_000_000;
/// Matches of one host up to which each is compared with each for those that are never reached.
const COMPARED: usize = 1_000;
/// From the keys of a rule (Gateway API) to those of a policy.
const INLINE: [(&str, &str, &[&str]); 3] = [
    ("timeouts", "request", &["timeouts", "request"]),
    ("timeouts", "backendRequest", &["retry", "perTryTimeout"]),
    ("retry", "attempts", &["retry", "attempts"]),
];

/// A rule states the least pause only; the longest is ten times as long (Envoy).
const BACKOFF_GROWTH: u32 = 10;

/// One match of one rule, with what orders it among others.
#[derive(Clone)]
struct Candidate {
    entry: Entry,
    at: Location,
    /// Creation time, namespace and name of the route, number of the rule.
    age: (Option<String>, String, usize),
}

impl Candidate {
    fn order(&self, other: &Self) -> Ordering {
        // A route without a creation time comes from a file, which is as new as can be.
        let age = |this: &Self| (this.age.0.is_none(), this.age.clone());
        self.entry.matched.precedence(&other.entry.matched).then_with(|| age(self).cmp(&age(other)))
    }
}

/// What a route says, whichever kind it is.
struct Route<'a> {
    object: &'a Object,
    parents: &'a [Located<ParentRef>],
    hostnames: &'a [Located<String>],
}

/// What routes attach to.
#[derive(Default)]
struct Attached {
    services: HashMap<DestinationId, Vec<Candidate>>,
    hosts: BTreeMap<String, Vec<Candidate>>,
    tcp: HashMap<DestinationId, (Arc<Rule>, Location)>,
    /// By Service, `None` being listeners without one, and by name.
    tls: BTreeMap<(Option<DestinationId>, String), (Arc<Rule>, Location)>,
}

impl Compiler<'_> {
    pub(super) fn routes(&mut self, snapshot: &mut Snapshot) {
        let mut attached = Attached::default();
        for object in &self.documents.objects {
            match &object.spec {
                Spec::Http(spec) => {
                    let route =
                        Route { object, parents: &spec.parent_refs, hostnames: &spec.hostnames };
                    let rules = spec.rules.iter().enumerate().map(|(index, rule)| {
                        self.timeouts(rule.timeouts.as_ref(), rule.at);
                        let matches = rule
                            .matches
                            .iter()
                            .filter_map(|written| Some((self.http_match(written)?, written.at)))
                            .collect();
                        Written {
                            name: rule.name.as_ref(),
                            at: rule.at,
                            matches,
                            filters: &rule.filters,
                            refs: &rule.backend_refs,
                            inline: self.inline(object, index),
                        }
                    });
                    let rules: Vec<_> = rules.collect();
                    self.attach(snapshot, &mut attached, &route, &Match::any(), rules);
                }
                Spec::Grpc(spec) => {
                    let route =
                        Route { object, parents: &spec.parent_refs, hostnames: &spec.hostnames };
                    let rules = spec.rules.iter().map(|rule| {
                        let matches = rule
                            .matches
                            .iter()
                            .filter_map(|written| Some((self.grpc_match(written)?, written.at)))
                            .collect();
                        Written {
                            name: rule.name.as_ref(),
                            at: rule.at,
                            matches,
                            filters: &rule.filters,
                            refs: &rule.backend_refs,
                            inline: nothing(),
                        }
                    });
                    let rules: Vec<_> = rules.collect();
                    let any = Match {
                        path: PathMatch::Grpc { service: None, method: None },
                        ..Match::any()
                    };
                    self.attach(snapshot, &mut attached, &route, &any, rules);
                }
                Spec::Tcp(spec) => {
                    let route = Route { object, parents: &spec.parent_refs, hostnames: &[] };
                    let rules = spec.rules.iter().map(Written::of_connections).collect();
                    self.attach_tcp(snapshot, &mut attached, &route, rules);
                }
                Spec::Tls(spec) => {
                    let route =
                        Route { object, parents: &spec.parent_refs, hostnames: &spec.hostnames };
                    let rules = spec.rules.iter().map(Written::of_connections).collect();
                    self.attach_tls(snapshot, &mut attached, &route, rules);
                }
                _ => {}
            }
        }
        self.assemble(snapshot, attached);
    }

    /// Compiles the rules of a route, and adds them to everything it is attached to.
    fn attach(
        &mut self,
        snapshot: &Snapshot,
        attached: &mut Attached,
        route: &Route<'_>,
        any: &Match,
        rules: Vec<Written<'_>>,
    ) {
        let mut candidates = Vec::new();
        for (index, written) in rules.into_iter().enumerate() {
            let mut matches = written.matches.clone();
            if matches.is_empty() {
                matches.push((any.clone(), written.at));
            }
            let Some(rule) = self.rule(snapshot, route.object, index, written) else {
                continue;
            };
            let object = route.object;
            let name = format!("{}/{}", object.namespace, object.name.value);
            candidates.extend(matches.into_iter().map(|(matched, at)| Candidate {
                entry: Entry { matched, rule: rule.clone() },
                at,
                age: (object.created.clone(), name.clone(), index),
            }));
        }
        for id in self.parents(route) {
            attached.services.entry(id).or_default().extend(candidates.iter().cloned());
        }
        for host in route.hostnames {
            match host_problem(host, true) {
                Some(why) => self.problems.push(
                    Problem::error(format!("`{}` is not a host name: {why}", host.escape_debug()))
                        .at(host.at),
                ),
                None => attached
                    .hosts
                    .entry(host.value.clone())
                    .or_default()
                    .extend(candidates.iter().cloned()),
            }
        }
    }

    fn attach_tcp(
        &mut self,
        snapshot: &Snapshot,
        attached: &mut Attached,
        route: &Route<'_>,
        mut rules: Vec<Written<'_>>,
    ) {
        let at = route.object.name.at;
        if rules.len() != 1 {
            self.problems.push(
                Problem::error(format!(
                    "a TCPRoute has exactly one rule, this has {}",
                    rules.len()
                ))
                .at(at)
                .help("bytes carry nothing to tell rules apart by"),
            );
        }
        let rule = rules.pop().and_then(|rule| self.rule(snapshot, route.object, 0, rule));
        let parents = self.parents(route);
        let Some(rule) = rule else { return };
        for id in parents {
            if let Some((_, first)) = attached.tcp.insert(id, (rule.clone(), at)) {
                self.problems.push(
                    Problem::error("two TCPRoutes are attached to one Service")
                        .at(at)
                        .other(first, "the other one"),
                );
            }
        }
    }

    fn attach_tls(
        &mut self,
        snapshot: &Snapshot,
        attached: &mut Attached,
        route: &Route<'_>,
        mut rules: Vec<Written<'_>>,
    ) {
        let at = route.object.name.at;
        if rules.len() != 1 {
            let what = format!("a TLSRoute has exactly one rule, this has {}", rules.len());
            self.problems.push(Problem::error(what).at(at));
        }
        if route.hostnames.is_empty() {
            self.problems
                .push(Problem::error("this route is for no name: `hostnames` is empty").at(at));
        }
        let rule = rules.pop().and_then(|rule| self.rule(snapshot, route.object, 0, rule));
        let parents = self.parents(route);
        let Some(rule) = rule else { return };
        for host in route.hostnames {
            if let Some(why) = host_problem(host, true) {
                let what = format!("`{}` is not a host name: {why}", host.escape_debug());
                self.problems.push(Problem::error(what).at(host.at));
                continue;
            }
            for parent in parents.iter().copied().map(Some).chain([None]) {
                let key = (parent, host.value.clone());
                if let Some((_, first)) = attached.tls.insert(key, (rule.clone(), host.at))
                    && self.warned.insert(host.at)
                {
                    let what = format!("two TLSRoutes are for `{}`", host.value);
                    self.problems
                        .push(Problem::error(what).at(host.at).other(first, "the other one"));
                }
            }
        }
    }

    /// The services that a route is attached to.
    fn parents(&mut self, route: &Route<'_>) -> Vec<DestinationId> {
        if route.parents.is_empty() && route.hostnames.is_empty() {
            self.problems.push(
                Problem::error("this route is attached to nothing")
                    .at(route.object.name.at)
                    .help("name a Service in `parentRefs`, or hosts in `hostnames`"),
            );
        }
        let mut ids = Vec::new();
        for parent in route.parents {
            let kind = parent.kind.as_ref().map_or("Gateway", |kind| &***kind);
            let group = parent.group.as_ref().map_or("", |group| &***group);
            if kind != "Service" || !matches!(group, "" | "core") {
                let at = parent.kind.as_ref().or(parent.group.as_ref()).map_or(parent.at, |k| k.at);
                self.problems.push(
                    Problem::not_supported(&format!("a parent of kind `{}`", kind.escape_debug()))
                        .at(at)
                        .help("write `kind: Service` and `group: \"\"`"),
                );
                continue;
            }
            let namespace = parent.namespace.as_ref();
            if let Some(other) = namespace.filter(|ns| ***ns != route.object.namespace) {
                self.problems.push(
                    Problem::not_supported("a parent in another namespace (a consumer route)")
                        .at(other.at),
                );
                continue;
            }
            ids.extend(self.service(&parent.name, &route.object.namespace));
        }
        ids
    }

    /// Compiles one rule.
    fn rule(
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
    fn backend_at(
        &mut self,
        target: &DestinationConfig,
        id: DestinationId,
        overlaid: &Node,
    ) -> Backend {
        let (weight, filters, subset) = (1, None, None);
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
            };
        }
        let mut merged = self.levels.of_destination(&target.name);
        overlay(&mut merged, overlaid);
        let (mut policy, mut origins) = self.policy(&merged);
        // What `appProtocol` decided is no value that is merged.
        Arc::make_mut(&mut policy).protocol = target.policy.protocol;
        Arc::make_mut(&mut origins).insert("protocol".to_owned(), target.origins.of("protocol"));
        let rate_limit = None;
        Backend { destination: id, weight, policy, origins, filters, subset, rate_limit }
    }

    /// What a destination of a rule is in the end, by the chain behind it.
    fn behind(
        &mut self,
        snapshot: &Snapshot,
        backend: Backend,
        overlaid: &Node,
    ) -> Vec<(u64, Backend)> {
        let chain = self.chain(backend.destination).filter(|_| backend.subset.is_none());
        let Some(leaves) = chain else { return vec![(1, backend)] };
        let around = backend.filters.as_deref().cloned().unwrap_or_default();
        let leaves = leaves.into_iter().filter_map(|(share, leaf)| {
            let target = destination(snapshot, leaf.destination)?;
            let subset = self.subset(leaf.labels.as_slice(), target);
            let filters = around.clone().with(leaf.filters);
            let filters = (!filters.is_empty()).then(|| Arc::new(filters));
            let backend = self.backend_at(target, leaf.destination, overlaid);
            Some((share, Backend { subset, filters, ..backend }))
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
    }

    /// The destinations of a rule with their weights: as they are written where nothing is behind
    /// them, and else in the smallest numbers.
    fn spread(&mut self, shares: Vec<(u64, Vec<(u64, Backend)>)>, at: Location) -> Vec<Backend> {
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

    fn timeouts(&mut self, timeouts: Option<&HttpTimeouts>, at: Location) {
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
    fn inline(&mut self, object: &Object, index: usize) -> Node {
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

    /// Sorts what is attached, and puts it into the host table.
    fn assemble(&mut self, snapshot: &mut Snapshot, mut attached: Attached) {
        for (index, known) in (0..).zip(snapshot.destinations.clone()) {
            let id = DestinationId(index);
            let implicit = implicit(id, &known.name, &known.policy, &known.origins, &known.origin);
            let implicit = match self.chain(id) {
                None => implicit,
                Some(_) => {
                    let whole = self.backend_at(&known, id, &nothing());
                    let behind = self.behind(snapshot, whole, &nothing());
                    let backends = self.spread(vec![(1, behind)], Location::default());
                    let Rule { name, matches, origin, .. } = &*implicit;
                    Arc::new(Rule::new(name.clone(), matches.clone(), backends, origin.clone()))
                }
            };
            let tcp = match attached.tcp.remove(&id) {
                Some((rule, _)) => {
                    snapshot.tcp_routed.insert(id);
                    rule
                }
                None => implicit.clone(),
            };
            snapshot.tcp.push(tcp);
            let mut candidates = attached.services.remove(&id).unwrap_or_else(|| {
                vec![Candidate {
                    entry: Entry { matched: Match::any(), rule: implicit },
                    at: Location::default(),
                    age: (None, String::new(), 0),
                }]
            });
            candidates.sort_by(Candidate::order);
            self.unreachable(&candidates);
            self.loops(&candidates);
            snapshot.own.push(candidates.iter().map(|c| c.entry.clone()).collect());
            for host in &known.hosts {
                attached
                    .hosts
                    .entry(host.to_string())
                    .or_default()
                    .extend(candidates.iter().cloned());
            }
        }
        for ((parent, host), (rule, _)) in attached.tls {
            snapshot.tls.entry(parent).or_default().insert(&host, rule);
        }
        let mut sorted: BTreeMap<String, Vec<Candidate>> = attached.hosts;
        for candidates in sorted.values_mut() {
            candidates.sort_by(Candidate::order);
        }
        let wildcards: Vec<&String> = sorted.keys().filter(|host| host.starts_with('*')).collect();
        for (host, candidates) in &sorted {
            if candidates.iter().any(|c| c.at != Location::default()) {
                self.unreachable(candidates);
                self.loops(candidates);
            }
            let mut wider: Vec<&String> =
                wildcards.iter().copied().filter(|known| covers(known, host)).collect();
            wider.sort_by_key(|known| std::cmp::Reverse(known.len()));
            let entries: Entries = candidates
                .iter()
                .chain(wider.into_iter().flat_map(|known| &sorted[known]))
                .map(|candidate| candidate.entry.clone())
                .collect();
            snapshot.hosts.insert(host, entries);
        }
    }

    /// Tells of redirects whose callers come back to the same rule, for ever.
    fn loops(&mut self, candidates: &[Candidate]) {
        for candidate in candidates {
            let Some(then) = followed(candidate) else { continue };
            let first = candidates.iter().find(|next| next.entry.matched.covers(&then));
            if first.is_some_and(|next| Arc::ptr_eq(&next.entry.rule, &candidate.entry.rule))
                && self.warned.insert(candidate.at)
            {
                self.problems.push(
                    Problem::error(
                        "this redirect is a loop: who follows it comes back to this match",
                    )
                    .at(candidate.at),
                );
            }
        }
    }

    /// Warns of matches that an earlier one always takes.
    fn unreachable(&mut self, candidates: &[Candidate]) {
        if candidates.len() > COMPARED {
            return;
        }
        for (index, late) in candidates.iter().enumerate() {
            let earlier = candidates[..index].iter().find(|early| {
                early.entry.matched.covers(&late.entry.matched) && early.at != late.at
            });
            if let Some(early) = earlier
                && late.at != Location::default()
                && self.warned.insert(late.at)
            {
                let problem = Problem::warning(format!(
                    "this match is never reached: rule `{}` takes every such request first",
                    early.entry.rule.name
                ));
                let problem = problem.at(late.at);
                self.problems.push(if early.at == Location::default() {
                    problem
                } else {
                    problem.other(early.at, "taken here")
                });
            }
        }
    }
}

/// The match that holds for a caller who followed a redirect, if it comes back to the same host.
fn followed(candidate: &Candidate) -> Option<Match> {
    let filters = candidate.entry.rule.answer.as_deref()?;
    let Some(Answer::Redirect(redirect)) = &filters.answer else { return None };
    if redirect.scheme.is_some() || redirect.host.is_some() || redirect.port.is_some() {
        return None;
    }
    let matched = candidate.entry.matched.clone();
    let path = match &redirect.path {
        None => return Some(matched),
        Some(PathEdit::Full(path)) => PathMatch::Exact(path.clone()),
        Some(PathEdit::Prefix { replacement, .. }) => PathMatch::Prefix(replacement.clone()),
    };
    Some(Match { path, ..matched })
}

/// A destination with this weight, which fits.
fn weighted((weight, backend): (u64, Backend)) -> Backend {
    Backend { weight: u32::try_from(weight).unwrap_or(u32::MAX), ..backend }
}

/// A rule as it is written.
struct Written<'a> {
    name: Option<&'a Located<String>>,
    at: Location,
    matches: Vec<(Match, Location)>,
    filters: &'a [Located<RouteFilter>],
    refs: &'a [Located<BackendRef>],
    /// The values of a policy that it states itself.
    inline: Node,
}

impl<'a> Written<'a> {
    /// The rule of a route that decides on connections.
    const fn of_connections(rule: &'a Located<TcpRule>) -> Self {
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

/// The rule of a service without routes: everything goes to itself.
fn implicit(
    id: DestinationId,
    name: &DestinationName,
    policy: &Arc<crate::policy::Policy>,
    origins: &Arc<super::super::source::Origins>,
    origin: &Origin,
) -> Arc<Rule> {
    let (policy, origins) = (policy.clone(), origins.clone());
    let (filters, subset, rate_limit) = (None, None, None);
    let backend =
        Backend { destination: id, weight: 1, policy, origins, filters, subset, rate_limit };
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
