//! Routers: Consul's `service-router`, compiled to rules that are tried in their order.
//!
//! ```text
//! router ── first route that matches ──► splitter ──► resolver        (`super::chains`)
//!        └─ none ──► the service itself, by its own splitter and resolver
//! ```
//!
//! A router decides on calls that name its service; what other services' splitters and routers send
//! there goes past it. A path's beginning is a text, not whole segments. Times, retries and headers
//! become those of the rule; a share that edits headers does so after its route.
//!
//! Source: Consul, configuration entry `service-router`; Envoy `HeaderMatcher`, `prefix_rewrite`.

use super::super::consul::{
    ConsulDestination, ConsulHeader, ConsulHttpMatch, ConsulQuery, ConsulRoute, ServiceRouter,
};
use super::super::de::Located;
use super::super::source::{Location, Origin};
use super::super::span;
use super::super::tree::{Node, Value};
use super::chains::Leaf;
use super::matches::{METHODS, is_path};
use super::merge::nothing;
use super::resolvers::set;
use super::{Compiler, Problem};
use crate::retry::Condition;
use crate::route::filter::{Filters, PathEdit, Rewrite};
use crate::route::{HeaderMatch, Match, PathMatch, QueryMatch, Rule, ValueMatch};
use crate::snapshot::{DestinationId, Snapshot};
use http::{HeaderName, Method};
use std::sync::Arc;

/// What a route becomes.
pub(super) struct Routed {
    pub(super) matches: Vec<Match>,
    pub(super) at: Location,
    pub(super) rule: Arc<Rule>,
}

impl Compiler<'_> {
    /// The routes of a router, in their order.
    pub(super) fn router(
        &mut self,
        snapshot: &Snapshot,
        router: &ServiceRouter,
        id: DestinationId,
    ) -> Vec<Routed> {
        let routes = router.routes.iter().enumerate();
        routes
            .filter_map(|(index, route)| self.consul_route(snapshot, router, id, index, route))
            .collect()
    }

    fn consul_route(
        &mut self,
        snapshot: &Snapshot,
        router: &ServiceRouter,
        id: DestinationId,
        index: usize,
        route: &Located<ConsulRoute>,
    ) -> Option<Routed> {
        let http = route.matched.as_ref().and_then(|matched| matched.http.as_ref());
        let matches = http.map_or_else(|| Some(vec![Match::any()]), |http| self.consul_match(http));
        let default = Located { value: ConsulDestination::default(), at: route.at };
        let to = route.destination.as_ref().unwrap_or(&default);
        let mut filters = Filters::default();
        filters.request_headers.extend(self.modifiers(to.request_headers.as_ref()));
        filters.response_headers.extend(self.modifiers(to.response_headers.as_ref()));
        if let Some(rewrite) = &to.prefix_rewrite {
            filters.rewrite = self.prefix_rewrite(rewrite, http);
        }
        let overlaid = self.consul_policy(to);
        let leaves = self.consul_target(router, id, to);
        let (matches, leaves) = (matches?, leaves?);
        let backends = self.ends(snapshot, leaves, &filters, &overlaid);
        let backends = self.spread(vec![(1, backends)], route.at);
        let label = format!("{}/route-{index}", snapshot.destinations.get(id.index())?.name);
        let origin = Origin::new(&self.documents.sources, route.at);
        let rule = Arc::new(Rule::new(label.into(), matches.clone(), backends, origin));
        Some(Routed { matches, at: route.at, rule })
    }

    fn consul_target(
        &mut self,
        router: &ServiceRouter,
        id: DestinationId,
        to: &ConsulDestination,
    ) -> Option<Vec<(u64, Leaf)>> {
        let namespace = to.namespace.as_ref().or(router.namespace.as_ref());
        let target = match &to.service {
            Some(name) => self.next_hop(name, namespace, id)?,
            None => id,
        };
        match &to.service_subset {
            None => self.split(target, &mut Vec::new()),
            subset => Some(vec![(1, self.resolved(target, subset.as_ref(), &mut Vec::new())?)]),
        }
    }

    /// The conditions of a route: one match for each method.
    fn consul_match(&mut self, written: &Located<ConsulHttpMatch>) -> Option<Vec<Match>> {
        let before = self.problems.len();
        let path = self.consul_path(written);
        let mut headers = Vec::new();
        for header in &written.header {
            headers.extend(self.consul_header(header));
        }
        let mut query = Vec::new();
        for parameter in &written.query_param {
            query.extend(self.consul_query(parameter));
        }
        let mut methods: Vec<Option<Method>> = Vec::new();
        for method in &written.methods {
            let upper = method.to_ascii_uppercase();
            let known = METHODS.contains(&&*upper).then(|| upper.parse().ok()).flatten();
            if known.is_none() {
                let what = format!("unknown method `{}`", method.escape_debug());
                self.problems.push(Problem::error(what).at(method.at).suggest(&upper, METHODS));
            } else if methods.contains(&known) {
                let what = format!("method `{upper}` stands here twice");
                self.problems.push(Problem::error(what).at(method.at));
            }
            methods.push(known);
        }
        if methods.is_empty() {
            methods.push(None);
        }
        if self.problems.len() > before {
            return None;
        }
        let whole = Match { path: path?, headers, query, ..Match::any() };
        Some(methods.into_iter().map(|method| Match { method, ..whole.clone() }).collect())
    }

    fn consul_path(&mut self, written: &Located<ConsulHttpMatch>) -> Option<PathMatch> {
        let given = [&written.path_exact, &written.path_prefix, &written.path_regex];
        let mut given = given.into_iter().flatten();
        let Some(text) = given.next() else { return Some(PathMatch::any()) };
        if let Some(second) = given.next() {
            let what = "a route has one of `PathExact`, `PathPrefix` and `PathRegex`";
            self.problems.push(Problem::error(what).at(second.at).other(text.at, "and this"));
            return None;
        }
        if written.path_regex.is_some() {
            return Some(PathMatch::RegularExpression(self.pattern(text, text.at)?));
        }
        if !is_path(text) {
            self.problems.push(
                Problem::error(format!("`{}` is not a path", text.escape_debug()))
                    .at(text.at)
                    .help("it starts with `/`, and has neither `//`, `.` or `..` as a segment, nor a query"),
            );
            return None;
        }
        let case = if written.case_insensitive { "i" } else { "" };
        let rest = if written.path_prefix.is_some() { "(?s:.*)" } else { "" };
        match (case, rest) {
            ("", "") => return Some(PathMatch::Exact(text.as_str().into())),
            ("", _) if ***text == *"/" => return Some(PathMatch::any()),
            _ => {}
        }
        let escaped = regex::escape(text);
        let whole = format!("(?{case}:{escaped}){rest}");
        Some(PathMatch::RegularExpression(self.pattern(&whole, text.at)?))
    }

    /// The one condition among those that may stand at a place.
    fn only_one(&mut self, given: &[bool], words: &str, at: Location) -> Option<()> {
        if given.iter().filter(|given| **given).count() == 1 {
            return Some(());
        }
        self.problems.push(Problem::error(format!("this needs one of {words}")).at(at));
        None
    }

    fn consul_header(&mut self, written: &Located<ConsulHeader>) -> Option<HeaderMatch> {
        let ConsulHeader { name, present, exact, prefix, suffix, regex, invert } = &written.value;
        let texts = [exact, prefix, suffix, regex].map(Option::is_some);
        let given = [*present, texts[0], texts[1], texts[2], texts[3]];
        self.only_one(&given, "`Present`, `Exact`, `Prefix`, `Suffix` and `Regex`", written.at)?;
        let Ok(parsed) = name.parse::<HeaderName>() else {
            let what = format!("`{}` is no header name", name.escape_debug());
            self.problems.push(Problem::error(what).at(name.at));
            return None;
        };
        let pattern = if let Some(text) = exact {
            return Some(inverted(parsed, ValueMatch::Exact(text.as_str().into()), *invert));
        } else if let Some(text) = prefix {
            self.pattern(&format!("{}(?s:.*)", regex::escape(text)), text.at)?
        } else if let Some(text) = suffix {
            self.pattern(&format!("(?s:.*){}", regex::escape(text)), text.at)?
        } else if let Some(text) = regex {
            self.pattern(text, text.at)?
        } else {
            return Some(inverted(parsed, ValueMatch::Any, *invert));
        };
        Some(inverted(parsed, ValueMatch::RegularExpression(pattern), *invert))
    }

    fn consul_query(&mut self, written: &Located<ConsulQuery>) -> Option<QueryMatch> {
        let ConsulQuery { name, present, exact, regex } = &written.value;
        let given = [*present, exact.is_some(), regex.is_some()];
        self.only_one(&given, "`Present`, `Exact` and `Regex`", written.at)?;
        let value = if let Some(text) = exact {
            ValueMatch::Exact(text.as_str().into())
        } else if let Some(text) = regex {
            ValueMatch::RegularExpression(self.pattern(text, text.at)?)
        } else {
            ValueMatch::Any
        };
        Some(QueryMatch::new(name, value))
    }

    fn prefix_rewrite(
        &mut self,
        written: &Located<String>,
        http: Option<&Located<ConsulHttpMatch>>,
    ) -> Option<Rewrite> {
        if !is_path(written) || written.parse::<http::Uri>().is_err() {
            let what = format!("`{}` is not a path", written.escape_debug());
            self.problems.push(Problem::error(what).at(written.at).help(
                "it starts with `/`, and has neither `//`, `.` or `..` as a segment, nor a query",
            ));
            return None;
        }
        let http = http.map(|http| &http.value);
        let path = match http.map(|http| (&http.path_exact, &http.path_prefix)) {
            Some((Some(_), None)) => PathEdit::Full(written.as_str().into()),
            Some((None, Some(prefix))) => {
                PathEdit::Start { matched: prefix.len(), replacement: written.as_str().into() }
            }
            _ => {
                let what = "`PrefixRewrite` needs `PathExact` or `PathPrefix`";
                self.problems.push(
                    Problem::error(what).at(written.at).help("it is that part which is replaced"),
                );
                return None;
            }
        };
        Some(Rewrite { path: Some(path), ..Rewrite::default() })
    }

    /// The values of a policy that a destination states itself.
    fn consul_policy(&mut self, to: &Located<ConsulDestination>) -> Node {
        let mut policy = nothing();
        for (key, written) in [("request", &to.request_timeout), ("streamIdle", &to.idle_timeout)] {
            if let Some(written) = written
                && let Some(timeout) = written.value.0
            {
                set(
                    &mut policy,
                    &["timeouts", key],
                    written.at,
                    Value::Text(span::format(timeout)),
                );
            }
        }
        let (on, at) = self.consul_conditions(to);
        match &to.num_retries {
            Some(number) if number.value > 0 => {
                set(
                    &mut policy,
                    &["retry", "attempts"],
                    number.at,
                    Value::Unsigned(number.value.into()),
                );
            }
            _ if !on.is_empty() => set(&mut policy, &["retry", "attempts"], at, Value::Unsigned(1)),
            _ => {}
        }
        if !on.is_empty() {
            set(&mut policy, &["retry", "on"], at, Value::List(on));
        }
        policy
    }

    /// The conditions of retries, with the place of the first.
    fn consul_conditions(&mut self, to: &Located<ConsulDestination>) -> (Vec<Node>, Location) {
        let words = to.retry_on.iter().map(|word| (word.value.clone(), word.at));
        let codes = to.retry_on_status_codes.iter().map(|code| (code.value.to_string(), code.at));
        let mut on = Vec::new();
        for (word, at) in words.chain(codes) {
            match word.parse::<Condition>() {
                Ok(_) => on.push(Node { at, value: Value::Text(word) }),
                Err(invalid) => self.problems.push(Problem::error(invalid.to_string()).at(at)),
            }
        }
        // A flag has no place of its own.
        let at = on.first().map(|first| first.at);
        if to.retry_on_connect_failure {
            let at = at.unwrap_or(to.at);
            on.push(Node { at, value: Value::Text("connect-failure".to_owned()) });
        }
        (on, at.unwrap_or(to.at))
    }
}

fn inverted(name: HeaderName, value: ValueMatch, invert: bool) -> HeaderMatch {
    let header = HeaderMatch::new(name, value);
    if invert { header.inverted() } else { header }
}
