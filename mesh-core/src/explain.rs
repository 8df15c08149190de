//! Explain: why a request goes where it goes, as a value and as text.
//!
//! The same decisions as those of a call, told instead of taken: the rule that matches and those
//! tried before it, every destination with its share, every value of the policy with its origin,
//! and every endpoint with the reason why it is in or out.

use crate::config::{Origin, Origins};
use crate::endpoint::{EndpointSet, EndpointSpec};
use crate::name::DestinationName;
use crate::pick::{PickArgs, Picker};
use crate::policy::Policy;
use crate::route::{self, Backend, RouteRequest, Rule, path};
use crate::snapshot::{DestinationConfig, EndpointSource, Snapshot, Unrouted};
use crate::time::Timestamp;
use serde::Serialize;
use std::fmt;

/// Why a request goes where it goes.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Explanation {
    /// The request in one line.
    pub request: String,
    /// The rule that matches.
    pub route: Option<RouteExplained>,
    /// What the rule does to it instead of sending it anywhere, in words.
    pub answered: Vec<String>,
    /// Why no rule takes it, if none does.
    pub unrouted: Option<String>,
    /// Why it is refused, if it is, whatever the rules say.
    pub refused: Option<String>,
    /// What depends on who receives it.
    pub notes: Vec<String>,
    /// The matches that were tried before, in order: the condition of each, which is not met.
    pub passed_over: Vec<RouteExplained>,
    /// Where it can go.
    pub destinations: Vec<DestinationExplained>,
}

/// A match and its rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct RouteExplained {
    /// Name of the rule.
    pub rule: String,
    /// The condition.
    pub condition: String,
    /// Where the rule is written.
    pub origin: Origin,
}

/// A destination of the rule.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct DestinationExplained {
    /// Its name.
    pub name: String,
    /// The share of requests that go there, in percent.
    pub percent: f64,
    /// Where its endpoints come from.
    pub endpoints: String,
    /// Whether its endpoints are spoken to by TLS.
    pub tls: bool,
    /// Where it is written.
    pub origin: Origin,
    /// What is done to requests that go there and to their responses, in words and in order.
    pub filters: Vec<String>,
    /// Its endpoints; empty if they are known at run time only.
    pub candidates: Vec<Candidate>,
    /// The policy of calls that go this way.
    pub policy: Vec<PolicyValue>,
}

/// An endpoint, and why it is in or out.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Candidate {
    /// Its id.
    pub endpoint: String,
    /// Whether a call can be sent to it now.
    pub included: bool,
    /// Why.
    pub reason: String,
    /// Its tier; 0 is used first.
    pub priority: u32,
    /// Its configured share.
    pub weight: u32,
    /// What the picker compares, in seconds; none from configuration alone.
    pub load: Option<f64>,
}

impl Candidate {
    /// What configuration alone says of an endpoint.
    #[must_use]
    pub fn configured(spec: &EndpointSpec) -> Self {
        let usable = spec.declared.is_usable();
        Self {
            endpoint: spec.id.to_string(),
            included: usable,
            reason: match usable {
                true if spec.weight == 1 => "ready".to_owned(),
                true => format!("ready, weight {}", spec.weight),
                false => format!("declared {:?}", spec.declared).to_lowercase(),
            },
            priority: spec.priority,
            weight: spec.weight,
            load: None,
        }
    }
}

/// One value of a policy.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct PolicyValue {
    /// Its path: `retry.attempts`.
    pub path: String,
    /// The value, as it would be written.
    pub value: serde_json::Value,
    /// Where it is written.
    pub origin: Origin,
}

/// Explains a request, `https` or not. `live` tells the endpoints of a destination that is in use;
/// where it has none, those of the configuration are told.
///
/// The path is matched as the proxy spells it ([`path::normalize`]). A host that nobody configured
/// is told as what a linked mesh and an `Outbound` listener take it for: a DNS name.
#[must_use]
pub fn explain(
    snapshot: &Snapshot,
    request: &RouteRequest<'_>,
    https: bool,
    live: impl Fn(&DestinationName) -> Option<Vec<Candidate>>,
) -> Explanation {
    let query = request.query.map(|query| format!("?{query}")).unwrap_or_default();
    let mut told = Explanation {
        request: format!("{} {}{}{query}", request.method, request.authority, request.path),
        route: None,
        answered: Vec::new(),
        unrouted: None,
        refused: None,
        notes: Vec::new(),
        passed_over: Vec::new(),
        destinations: Vec::new(),
    };
    let normal = match path::normalize(request.path) {
        Ok(normal) => normal,
        Err(why) => {
            told.refused = Some(format!("a proxy answers 400: {why}"));
            return told;
        }
    };
    if let Some(normal) = &normal {
        told.notes.push(format!(
            "a proxy reads the path as {normal}, and so do we here; a linked mesh takes it as written"
        ));
    }
    let request = RouteRequest { path: normal.as_deref().unwrap_or(request.path), ..*request };
    let Some(entries) = snapshot.entries(request.authority) else {
        told.unrouted = Some(Unrouted::UnknownHost.to_string());
        told.unconfigured(snapshot, request.authority, https);
        return told;
    };
    let (passed, found) = route::tried(entries, &request);
    told.passed_over = passed.iter().map(RouteExplained::of).collect();
    told.notes.extend(passed.iter().filter(|entry| entry.matched.is_match(&request)).filter_map(
        |entry| {
            let share = entry.matched.fraction?;
            Some(format!("rule {} takes {share} of such requests first", entry.rule.name))
        },
    ));
    match found {
        None => {
            let host = route::canonical(request.authority).into();
            told.unrouted = Some(Unrouted::NoMatch { host }.to_string());
        }
        Some(entry) => {
            told.route = Some(RouteExplained::of(entry));
            told.answered = entry.rule.answer.as_ref().map_or_else(Vec::new, |f| f.describe());
            told.destinations = destinations(snapshot, &entry.rule, &live);
            if https {
                told.refused = in_plain_text(&told.destinations);
            }
        }
    }
    told
}

/// Whether `https` is asked of a destination without TLS, which is refused.
fn in_plain_text(destinations: &[DestinationExplained]) -> Option<String> {
    let bare = destinations.iter().find(|known| !known.tls && known.percent > 0.0)?;
    Some(format!(
        "the request says https, but Service {} has no `tls` section; add one, or call it with http",
        bare.name
    ))
}

impl RouteExplained {
    fn of(entry: &route::Entry) -> Self {
        Self {
            rule: entry.rule.name.to_string(),
            condition: entry.matched.to_string(),
            origin: entry.rule.origin.clone(),
        }
    }
}

impl Explanation {
    /// Whether a call can be sent somewhere, or its rule answers it.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        !self.answered.is_empty()
            || self.refused.is_none() && self.destinations.iter().any(|known| known.percent > 0.0)
    }

    /// Tells what becomes of a host that nobody configured.
    fn unconfigured(&mut self, snapshot: &Snapshot, authority: &str, https: bool) {
        let policy = snapshot.default_policy();
        match DestinationConfig::of_authority(authority, https, policy.clone()) {
            Some(plain) => {
                self.notes.push(
                    "a linked mesh and an Outbound listener without `service` take the host for a DNS name"
                        .to_owned(),
                );
                self.destinations.push(DestinationExplained {
                    name: authority.to_owned(),
                    percent: 100.0,
                    endpoints: plain.endpoints.to_string(),
                    tls: plain.tls.is_some(),
                    origin: plain.origin,
                    filters: Vec::new(),
                    candidates: Vec::new(),
                    policy: policy_values(policy, snapshot.default_origins()),
                });
            }
            None => {
                self.refused =
                    Some(format!("`{}` is not host or host:port", authority.escape_debug()));
            }
        }
        self.notes.push("an Inbound listener without `service` answers 404".to_owned());
    }
}

fn destinations(
    snapshot: &Snapshot,
    rule: &Rule,
    live: &impl Fn(&DestinationName) -> Option<Vec<Candidate>>,
) -> Vec<DestinationExplained> {
    let total: u64 = rule.backends.iter().map(|backend| u64::from(backend.weight)).sum();
    rule.backends
        .iter()
        .filter_map(|backend| {
            let known = snapshot.destinations().get(backend.destination.index())?;
            let candidates = live(&known.name).unwrap_or_else(|| configured(known, backend));
            Some(destination(known, backend, total, candidates))
        })
        .collect()
}

fn destination(
    known: &DestinationConfig,
    backend: &Backend,
    total: u64,
    candidates: Vec<Candidate>,
) -> DestinationExplained {
    DestinationExplained {
        name: known.name.to_string(),
        percent: f64::from(backend.weight) * 100.0 / (total.max(1) as f64),
        endpoints: known.endpoints.to_string(),
        tls: known.tls.is_some(),
        origin: known.origin.clone(),
        filters: backend.filters.as_ref().map_or_else(Vec::new, |filters| filters.describe()),
        candidates,
        policy: policy_values(&backend.policy, &backend.origins),
    }
}

/// What configuration alone says of the endpoints; who calls is not known.
fn configured(known: &DestinationConfig, backend: &Backend) -> Vec<Candidate> {
    let EndpointSource::Static(specs) = &known.endpoints else { return Vec::new() };
    let (set, _) = EndpointSet::<()>::empty().update(specs.clone(), |_| ());
    let picker = Picker::new(set, known.policy.pick.clone());
    let args =
        PickArgs::new(Timestamp::ZERO).with_subset(backend.subset.as_deref().unwrap_or_default());
    let mut told = picker.explain(&args);
    told.iter_mut().for_each(|candidate| candidate.load = None);
    told
}

/// Every value of a policy with its origin, in the order of the reference.
#[must_use]
pub fn policy_values(policy: &Policy, origins: &Origins) -> Vec<PolicyValue> {
    values(policy, origins)
}

/// Every value of something that can be written as configuration, with its origin.
fn values(value: &impl Serialize, origins: &Origins) -> Vec<PolicyValue> {
    fn walk(
        value: serde_json::Value,
        path: &mut String,
        origins: &Origins,
        out: &mut Vec<PolicyValue>,
    ) {
        match value {
            serde_json::Value::Object(entries) if !entries.is_empty() => {
                for (key, value) in entries {
                    let outer = path.len();
                    if outer > 0 {
                        path.push('.');
                    }
                    path.push_str(&key);
                    walk(value, path, origins, out);
                    path.truncate(outer);
                }
            }
            value => {
                out.push(PolicyValue { path: path.clone(), value, origin: origins.of(path) });
            }
        }
    }
    let mut out = Vec::new();
    // A policy serializes to maps with text keys, which cannot fail.
    let value = serde_json::to_value(value).unwrap_or_default();
    walk(value, &mut String::new(), origins, &mut out);
    out
}

impl fmt::Display for PolicyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = match &self.value {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Null => "none".to_owned(),
            serde_json::Value::Array(items) => {
                let items = items.iter().map(|item| match item {
                    serde_json::Value::String(text) => text.clone(),
                    other => other.to_string(),
                });
                format!("[{}]", items.collect::<Vec<_>>().join(", "))
            }
            other => other.to_string(),
        };
        write!(f, "{:<40} {value:<16} {}", self.path, self.origin)
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "request      {}", self.request.escape_debug())?;
        for passed in &self.passed_over {
            writeln!(f, "passed over  {}: not {}", passed.rule, passed.condition)?;
        }
        if let Some(route) = &self.route {
            writeln!(f, "route        {} ({}): {}", route.rule, route.origin, route.condition)?;
        }
        for what in &self.answered {
            writeln!(f, "filter       {}", what.escape_debug())?;
        }
        if let Some(why) = &self.unrouted {
            writeln!(f, "route        none: {why}")?;
        }
        if let Some(why) = &self.refused {
            writeln!(f, "refused      {}", why.escape_debug())?;
        }
        for note in &self.notes {
            writeln!(f, "note         {}", note.escape_debug())?;
        }
        for destination in &self.destinations {
            writeln!(f)?;
            destination.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for DestinationExplained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let security = if self.tls { "TLS" } else { "plain text" };
        writeln!(
            f,
            "destination  {} ({}), {:.1} % of requests, {security}",
            self.name, self.origin, self.percent
        )?;
        for filter in &self.filters {
            writeln!(f, "filter       {}", filter.escape_debug())?;
        }
        writeln!(f, "endpoints    {}", self.endpoints)?;
        if self.candidates.is_empty() {
            writeln!(f, "  known at run time only")?;
        }
        for candidate in &self.candidates {
            let word = if candidate.included { "in " } else { "out" };
            writeln!(f, "  {word}  {:<24} {}", candidate.endpoint, candidate.reason)?;
        }
        writeln!(f, "policy")?;
        for value in &self.policy {
            writeln!(f, "  {value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Source};
    use http::{HeaderMap, Method};

    const CONFIG: &str = "\
apiVersion: mesh/v1
kind: Service
metadata: { name: a }
spec:
  appProtocol: grpc
  endpoints:
    static: ['127.0.0.1:1', { address: '127.0.0.1:2', priority: 1 }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: r }
spec:
  parentRefs: [{ kind: Service, name: a }]
  rules:
  - matches: [{ path: { type: Exact, value: /x } }]
    backendRefs: [{ name: a }]
  - matches: [{ path: { value: /y } }]
    timeouts: { request: 2s }
    backendRefs: [{ name: a }]
  - matches: [{ path: { value: /f } }]
    filters:
    - type: URLRewrite
      urlRewrite: { path: { type: ReplacePrefixMatch, replacePrefixMatch: /v2 } }
    - type: RequestHeaderModifier
      requestHeaderModifier: { remove: [x-a] }
    backendRefs: [{ name: a }]
  - matches: [{ path: { value: /e } }]
    filters: [{ type: RequestRedirect, requestRedirect: { scheme: https } }]
";

    fn told(authority: &str, path: &str) -> Explanation {
        by(false, authority, path)
    }

    fn by(https: bool, authority: &str, path: &str) -> Explanation {
        let documents = config::parse(&[Source::new("f.yaml", CONFIG)]).expect("valid");
        let snapshot = config::compile(&documents, 1).expect("valid");
        let headers = HeaderMap::new();
        let request = RouteRequest::new(authority, &Method::GET, path, None, &headers);
        explain(&snapshot, &request, https, |_| None)
    }

    #[test]
    fn tells_rule_destination_origins_and_candidates() {
        let told = told("a:80", "/y/z");
        let route = told.route.as_ref().expect("a route");
        assert_eq!((&*route.rule, &*route.origin.to_string()), ("r/1", "f.yaml:17"));
        assert_eq!(told.passed_over.len(), 1);
        let destination = &told.destinations[0];
        let origin = |path: &str| {
            let value = destination.policy.iter().find(|value| value.path == path).expect(path);
            (value.value.to_string(), value.origin.to_string())
        };
        assert_eq!(origin("timeouts.request"), ("\"2s\"".to_owned(), "f.yaml:18".to_owned()));
        assert_eq!(origin("timeouts.connect"), ("\"1s\"".to_owned(), "default".to_owned()));
        assert_eq!(origin("protocol"), ("\"Http2\"".to_owned(), "f.yaml:5".to_owned()));
        let candidates: Vec<_> =
            destination.candidates.iter().map(|c| (c.included, &*c.reason)).collect();
        assert_eq!(
            candidates,
            [(true, "ready"), (false, "priority 1, while priority 0 can be used")]
        );
        let text = told.to_string();
        for part in ["r/1 (f.yaml:17)", "100.0 % of requests", "out  127.0.0.1:2", "f.yaml:18"] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
    }

    #[test]
    fn tells_filters_in_the_order_in_which_they_act() {
        let told = told("a", "/f");
        let lines = "filter       request headers: remove x-a\n\
                     filter       rewrite: path /f/… to /v2/…\nendpoints";
        assert!(told.to_string().contains(lines), "{told}");
    }

    #[test]
    fn tells_what_a_rule_answers_by_itself() {
        let told = told("a", "/e");
        assert!(told.to_string().contains("filter       redirect: 302, scheme https\n"), "{told}");
        assert!(told.is_sent() && told.destinations.is_empty());
    }

    #[test]
    fn tells_why_there_is_no_route() {
        let told = told("a", "/z");
        assert!(told.to_string().contains("none: no rule of host `a` matches"));
        assert!(!told.is_sent());
    }

    #[test]
    fn a_host_that_nobody_configured_is_a_dns_name_with_the_default_policy() {
        let told = told("b:8080", "/");
        assert!(told.is_sent() && told.route.is_none());
        let [plain] = &told.destinations[..] else { panic!("{told}") };
        assert_eq!((&*plain.name, &*plain.endpoints, plain.tls), ("b:8080", "dns://b:8080", false));
        let value = plain.policy.iter().find(|value| value.path == "timeouts.request");
        assert_eq!(value.map(|value| value.value.to_string()).as_deref(), Some("\"15s\""));
        let text = told.to_string();
        for part in [
            "none: nothing is configured for this host",
            "an Outbound listener without `service` take the host for a DNS name",
            "an Inbound listener without `service` answers 404",
            "destination  b:8080 (default), 100.0 % of requests, plain text",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        let secure = by(true, "b", "/");
        let [plain] = &secure.destinations[..] else { panic!("{secure}") };
        assert_eq!((&*plain.endpoints, plain.tls), ("dns://b:443", true));
        assert!(!by(false, "user@b", "/").is_sent());
    }

    #[test]
    fn https_to_a_service_without_tls_is_refused_as_by_a_call() {
        let told = by(true, "a", "/x");
        assert!(!told.is_sent());
        assert!(told.to_string().contains("refused      the request says https"), "{told}");
        assert!(by(false, "a", "/x").is_sent());
    }

    #[test]
    fn the_path_is_matched_as_the_proxy_spells_it() {
        let told = told("a", "/z/%2e%2e//y/./%7a");
        assert_eq!(told.route.as_ref().map(|route| &*route.rule), Some("r/1"), "{told}");
        assert!(told.to_string().contains("a proxy reads the path as /y/z"), "{told}");
        assert_eq!(self::told("a", "/y/z").notes, <[String; 0]>::default());
        let refused = self::told("a", "/y%2fz");
        assert!(refused.route.is_none() && !refused.is_sent());
        assert!(refused.to_string().contains("a proxy answers 400: the path has"), "{refused}");
    }
}
