//! Routes: rules with their matches and destinations, in the order in which they are tried.

use super::super::consul::ServiceRouter;
use super::super::de::Located;
use super::super::kinds::{AppProtocol, ParentRef};
use super::super::parse::{Object, Spec};
use super::super::source::Location;
use super::destinations::host_problem;
use super::merge::nothing;
use super::routers::Routed;
use super::rules::{Written, implicit};
use super::{Compiler, Problem};
use crate::route::{Entries, Entry, Match, PathMatch, Rule, covers};
use crate::snapshot::{DestinationId, Snapshot};
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// One match of one rule, with what orders it among others.
#[derive(Clone)]
pub(super) struct Candidate {
    pub(super) entry: Entry,
    pub(super) at: Location,
    /// Creation time, namespace and name of the route, number of the rule.
    age: (Option<String>, String, usize),
    /// Its number, if it is tried in the order in which it is written.
    rank: Option<usize>,
}

impl Candidate {
    fn order(&self, other: &Self) -> Ordering {
        // A route without a creation time comes from a file, which is as new as can be.
        let age = |this: &Self| (this.age.0.is_none(), this.age.clone());
        self.rank.cmp(&other.rank).then_with(|| {
            let precedence = self.entry.matched.precedence(&other.entry.matched);
            if self.rank.is_some() { Ordering::Equal } else { precedence }
                .then_with(|| age(self).cmp(&age(other)))
        })
    }
}

/// What a route says, whichever kind it is.
pub(super) struct Route<'a> {
    pub(super) object: &'a Object,
    pub(super) parents: &'a [Located<ParentRef>],
    pub(super) hostnames: &'a [Located<String>],
}

/// What routes attach to.
#[derive(Default)]
pub(super) struct Attached {
    services: HashMap<DestinationId, Vec<Candidate>>,
    hosts: BTreeMap<String, Vec<Candidate>>,
    /// Those of a router, and where it stands.
    routers: HashMap<DestinationId, (Vec<Candidate>, Location)>,
    pub(super) tcp: HashMap<DestinationId, (Arc<Rule>, Location)>,
    /// By Service, `None` being listeners without one, and by name.
    pub(super) tls: BTreeMap<(Option<DestinationId>, String), (Arc<Rule>, Location)>,
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
                Spec::Router(router) => self.attach_router(snapshot, &mut attached, object, router),
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
                rank: None,
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

    /// Compiles the routes of a router for its service.
    fn attach_router(
        &mut self,
        snapshot: &Snapshot,
        attached: &mut Attached,
        object: &Object,
        router: &ServiceRouter,
    ) {
        let at = router.name.at;
        let Some(id) = self.service(&router.name, &object.namespace) else { return };
        let known = snapshot.destinations.get(id.index());
        if known.is_some_and(|known| known.app_protocol == AppProtocol::Tcp) {
            let what = "a Service for bytes has no routes: requests have";
            self.problems.push(Problem::error(what).at(at));
            return;
        }
        let mut candidates = Vec::new();
        for (rank, Routed { matches, at, rule }) in
            self.router(snapshot, router, id).into_iter().enumerate()
        {
            candidates.extend(matches.into_iter().map(|matched| Candidate {
                entry: Entry { matched, rule: rule.clone() },
                at,
                age: (None, String::new(), 0),
                rank: Some(rank),
            }));
        }
        attached.routers.insert(id, (candidates, at));
    }

    /// The services that a route is attached to.
    pub(super) fn parents(&mut self, route: &Route<'_>) -> Vec<DestinationId> {
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
            let rest = Candidate {
                entry: Entry { matched: Match::any(), rule: implicit },
                at: Location::default(),
                age: (None, String::new(), 0),
                rank: None,
            };
            let mut candidates = match (attached.services.remove(&id), attached.routers.remove(&id))
            {
                (None, None) => vec![rest],
                (Some(routes), None) => routes,
                (None, Some((mut routes, _))) => {
                    routes.push(Candidate { rank: Some(usize::MAX), ..rest });
                    routes
                }
                (Some(routes), Some((_, at))) => {
                    let what = format!("Service `{}` has routes of two kinds", known.name);
                    let problem = Problem::error(what).at(at).help(
                        "calls to it are decided by routes attached to it or by a service-router",
                    );
                    let other = routes.first().map_or(at, |route| route.at);
                    self.problems.push(problem.other(other, "a route"));
                    continue;
                }
            };
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
}
