//! What is told from configuration alone.

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
    explain(&snapshot, &Asked::new(request).https(https), |_, _| None)
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
    assert_eq!(candidates, [(true, "ready"), (false, "priority 1, while priority 0 can be used")]);
    let text = told.to_string();
    for part in ["r/1 (f.yaml:17)", "100.0 % of requests", "out  127.0.0.1:2", "f.yaml:18"] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
}

#[test]
fn the_text_has_what_is_written_and_its_long_form_the_defaults_too() {
    let told = told("a:80", "/y/z");
    let policy = &told.destinations[0].policy;
    let lines = |text: &str| {
        let values =
            text.lines().filter(|line| policy.iter().any(|v| line.trim().starts_with(&v.path)));
        values.count()
    };
    let written = policy.iter().filter(|value| value.origin.line().is_some()).count();
    let short = told.to_string();
    assert_eq!(lines(&short), written, "{short}");
    let left = format!(
        "  {} defaults, which `mesh explain --all` and JSON tell\n",
        policy.len() - written
    );
    assert!(short.ends_with(&left), "{short}");
    let long = format!("{told:#}");
    assert_eq!(lines(&long), policy.len(), "{long}");
    assert!(!long.contains("--all"), "{long}");
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
fn tells_who_stands_in() {
    let config = format!(
        "{CONFIG}---\napiVersion: mesh/v1\nkind: Service\nmetadata: {{ name: b }}\n\
         spec: {{ endpoints: {{ static: ['127.0.0.1:3'] }} }}\n\
         ---\nKind: service-resolver\nName: a\nFailover: {{ '*': {{ Service: b }} }}\n"
    );
    let documents = config::parse(&[Source::new("f.yaml", config.as_str())]).expect("valid");
    let snapshot = config::compile(&documents, 1).expect("valid");
    let headers = HeaderMap::new();
    let request = RouteRequest::new("a", &Method::GET, "/x", None, &headers);
    let told = explain(&snapshot, &Asked::new(request), |_, _| None);
    let [a] = &told.destinations[..] else { panic!("{told}") };
    let [b] = &a.failover[..] else { panic!("{told}") };
    assert_eq!((&*b.name, &*b.candidates[0].endpoint), ("b", "127.0.0.1:3"));
    let text = told.to_string();
    let failover = text.find("failover     b (").expect("told");
    assert!(text.find("127.0.0.1:3").is_some_and(|at| at > failover), "{text}");
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
