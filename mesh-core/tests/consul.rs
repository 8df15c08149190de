//! Consul's routers, splitters and resolvers: from entries to routes and shares.

use mesh_core::config::{self, Source};
use mesh_core::pick::Policy as Pick;
use mesh_core::route::check_route;
use std::fmt::Write as _;

/// Services `a` to `f`, each with one endpoint, and subsets by version.
fn services() -> String {
    let mut text = "apiVersion: mesh/v1\nkind: TrafficPolicy\nmetadata: { name: all }\n\
         spec: { targetRef: { kind: Mesh }, pick: { subsets: { selectors: [{ keys: [version] }] } } }\n"
        .to_owned();
    for name in 'a'..='f' {
        let _ = write!(
            text,
            "---\napiVersion: mesh/v1\nkind: Service\nmetadata: {{ name: {name} }}\n\
             spec: {{ endpoints: {{ static: ['127.0.0.1:80'] }} }}\n"
        );
    }
    text
}

fn splitter(name: &str, splits: &str) -> String {
    format!("---\nKind: service-splitter\nName: {name}\nSplits: {splits}\n")
}

fn router(name: &str, routes: &str) -> String {
    format!("---\nKind: service-router\nName: {name}\nRoutes:\n{routes}\n")
}

fn resolver(name: &str, more: &str) -> String {
    format!("---\nKind: service-resolver\nName: {name}\n{more}\n")
}

/// Where the calls of a service go.
fn shares(config: &str, service: &str) -> Vec<(String, u32)> {
    let request = http::Request::get(format!("http://{service}/")).body(()).expect("a request");
    check_route(config, &request).unwrap_or_else(|error| panic!("{error}")).destinations
}

fn told(config: &str) -> String {
    let documents = match config::parse(&[Source::new("f", config)]) {
        Ok(documents) => documents,
        Err(errors) => return errors.to_string(),
    };
    config::compile(&documents, 1).expect_err("wrong").to_string()
}

#[test]
fn nested_splits_multiply() {
    let config = services()
        + &splitter("a", "[{ Weight: 90, Service: b }, { Weight: 10, Service: c }]")
        + &splitter("b", "[{ Weight: 99.5 }, { Weight: 0.5, Service: d }]")
        + &splitter("c", "[{ Weight: 50, Service: e }, { Weight: 50, Service: f }]");
    let of = |name: &str, weight| (name.to_owned(), weight);
    // 90 % of 99.5 % is 89.55 %, and so on.
    assert_eq!(shares(&config, "a"), [of("b", 1791), of("d", 9), of("e", 100), of("f", 100)]);
    assert_eq!(shares(&config, "b"), [of("b", 199), of("d", 1)]);
    let total: u32 = shares(&config, "a").iter().map(|(_, weight)| weight).sum();
    assert_eq!(total, 2000);
}

#[test]
fn what_a_route_sends_to_a_service_is_split_as_well() {
    let route = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: r }\n\
        spec:\n  parentRefs: [{ kind: Service, name: f }]\n  rules:\n  \
        - backendRefs: [{ name: a, weight: 3 }, { name: e }]\n";
    let config = services()
        + &splitter("a", "[{ Weight: 50, Service: b }, { Weight: 50, Service: c }]")
        + route;
    let of = |name: &str, weight| (name.to_owned(), weight);
    assert_eq!(shares(&config, "f"), [of("b", 3), of("c", 3), of("e", 2)]);
}

#[test]
fn a_resolver_redirects_and_a_share_for_a_subset_is_not_split_further() {
    let config = services()
        + &resolver("a", "Redirect: { Service: b }")
        + &resolver("b", "Redirect: { Service: c }")
        + &splitter("c", "[{ Weight: 100, Service: d }]")
        + &splitter("e", "[{ Weight: 100, Service: f, ServiceSubset: v2 }]")
        + &splitter("f", "[{ Weight: 100, Service: d }]")
        + &resolver("f", "Subsets: { v2: { Filter: 'Service.Meta.version == v2' } }");
    let of = |name: &str| [(name.to_owned(), 1)];
    assert_eq!(shares(&config, "a"), of("c"), "redirects lead to resolvers, past splitters");
    assert_eq!(shares(&config, "e"), of("f"));
    assert_eq!(shares(&config, "f"), of("d"));
}

#[test]
fn a_share_edits_headers() {
    let config = services()
        + &splitter(
            "a",
            "[{ Weight: 100, Service: b, RequestHeaders: { Set: { x-share: one } } }]",
        )
        + &splitter("b", "[{ Weight: 100, RequestHeaders: { Add: { x-share: two } } }]");
    let request = http::Request::get("http://a/").body(()).expect("a request");
    let filters = check_route(&config, &request).expect("fine").filters;
    assert_eq!(filters, ["request headers: set x-share: one", "request headers: add x-share: two"]);
}

#[test]
fn loops_dangling_names_and_wrong_weights_are_told_where_they_stand() {
    for (entries, expected) in [
        (
            splitter("a", "[{ Weight: 100, Service: b }]")
                + &splitter("b", "[{ Weight: 100, Service: a }]"),
            "the splitter of `a` comes back to itself",
        ),
        (
            resolver("a", "Redirect: { Service: b }") + &resolver("b", "Redirect: { Service: a }"),
            "comes back to it",
        ),
        (resolver("a", "Redirect: { ServiceSubset: v1 }"), "this redirect names no `Service`"),
        (resolver("a", "Redirect: {}"), "this redirect names no `Service`"),
        (splitter("a", "[{ Weight: 100, Service: g }]"), "there is no Service `g`"),
        (splitter("g", "[{ Weight: 100, Service: a }]"), "there is no Service `g`"),
        (splitter("a", "[{ Weight: 50, Service: b }]"), "the weights sum up to 50, not to 100"),
        (splitter("a", "[{ Weight: 100.001, Service: b }]"), "100.001 is no weight"),
        (splitter("a", "[{ Weight: -1, Service: b }, { Weight: 101 }]"), "-1 is no weight"),
        (
            splitter("a", "[{ Weight: 100, ServiceSubset: v1 }]"),
            "no service-resolver with a subset `v1`",
        ),
        (
            resolver(
                "a",
                "DefaultSubset: v1\nSubsets: { v2: { Filter: 'Service.Meta.version == v2' } }",
            ),
            "service `a` has no subset `v1`",
        ),
        (
            resolver("a", "Subsets: { v2: { Filter: 'Service.ID != x' } }"),
            "such a filter is not supported",
        ),
        (
            resolver(
                "a",
                "DefaultSubset: v2\nSubsets: { v2: { Filter: 'Service.Meta.stage == x' } }",
            ),
            "Service a has no subsets by `stage`",
        ),
        (splitter("a", "[{ Weight: 100 }]") + &splitter("a", "[{ Weight: 100 }]"), "defined twice"),
    ] {
        let told = told(&(services() + &entries));
        assert!(told.contains(expected), "{expected} in\n{told}");
        assert!(told.contains("f:") && told.contains("error:"), "{told}");
    }
}

/// Each level doubles the shares: a thousand is enough.
#[test]
fn a_chain_does_not_grow_without_bound() {
    let mut config = String::new();
    for level in 0..16 {
        let _ = write!(
            config,
            "---\napiVersion: mesh/v1\nkind: Service\nmetadata: {{ name: s{level} }}\n\
             spec: {{ endpoints: {{ static: ['127.0.0.1:80'] }} }}\n"
        );
        if level < 15 {
            let next = level + 1;
            config += &splitter(
                &format!("s{level}"),
                &format!(
                    "[{{ Weight: 50, Service: s{next} }}, {{ Weight: 50, Service: s{next} }}]"
                ),
            );
        }
    }
    assert!(told(&config).contains("more than 1000 destinations"));
}

/// Which service takes a call to `a`.
fn taken(config: &str, method: &str, target: &str, headers: &[(&str, &str)]) -> String {
    let mut request = http::Request::builder().method(method).uri(format!("http://a{target}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let checked = check_route(config, &request.body(()).expect("a request"));
    let destinations = checked.unwrap_or_else(|error| panic!("{error}")).destinations;
    destinations.into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(" ")
}

#[test]
fn the_first_route_that_matches_decides_and_the_rest_goes_to_the_service() {
    let routes = "\
- { Match: { HTTP: { PathPrefix: /adm } }, Destination: { Service: b } }
- { Match: { HTTP: { PathExact: /admin/exact } }, Destination: { Service: c } }
- { Match: { HTTP: { PathExact: /Once, CaseInsensitive: true } }, Destination: { Service: c } }
- { Match: { HTTP: { PathPrefix: /Any/, CaseInsensitive: true } }, Destination: { Service: d } }
- { Match: { HTTP: { PathRegex: '/r[0-9]+' } }, Destination: { Service: c } }
- { Match: { HTTP: { PathPrefix: /write, Methods: [put, POST] } }, Destination: { Service: d } }
- { Match: { HTTP: { Header: [{ Name: x-debug, Exact: '1' }, { Name: x-no, Present: true, Invert: true }] } }, Destination: { Service: e } }
- { Match: { HTTP: { Header: [{ Name: x-debug, Prefix: 'a.' }] } }, Destination: { Service: b } }
- { Match: { HTTP: { Header: [{ Name: x-debug, Suffix: '.z' }] } }, Destination: { Service: c } }
- { Match: { HTTP: { Header: [{ Name: x-debug, Regex: '[0-9]{3}' }] } }, Destination: { Service: d } }
- { Match: { HTTP: { Header: [{ Name: x-debug, Exact: plain, Invert: true }] } }, Destination: { Service: f } }
- { Match: { HTTP: { QueryParam: [{ Name: v, Exact: '2' }, { Name: w, Present: true }] } }, Destination: { Service: e } }
- { Match: { HTTP: { QueryParam: [{ Name: v, Regex: '[a-c]' }] } }, Destination: { Service: f } }";
    let config = services() + &router("a", routes);
    let debug = |value| [("x-debug", value)];
    for (method, target, headers, expected) in [
        ("GET", "/adm", &[][..], "b"),
        ("GET", "/administrator", &[], "b"),
        ("GET", "/admin/exact", &[], "b"),
        ("GET", "/Adm", &[], "a"),
        ("GET", "/once", &[], "c"),
        ("GET", "/once/more", &[], "a"),
        ("GET", "/aNY/thing", &[], "d"),
        ("GET", "/any", &[], "a"),
        ("GET", "/r12", &[], "c"),
        ("GET", "/r12x", &[], "a"),
        ("GET", "/write", &[], "a"),
        ("PUT", "/write", &[], "d"),
        ("POST", "/writer", &[], "d"),
        ("GET", "/", &debug("1"), "e"),
        ("GET", "/", &[("x-debug", "1"), ("x-no", "")], "f"),
        ("GET", "/", &debug("a.b"), "b"),
        ("GET", "/", &debug("axb"), "f"),
        ("GET", "/", &debug("b.z"), "c"),
        ("GET", "/", &debug("123"), "d"),
        ("GET", "/", &debug("plain"), "a"),
        ("GET", "/?v=2&w", &[], "e"),
        ("GET", "/?v=2", &[], "a"),
        ("GET", "/?v=b", &[], "f"),
        ("GET", "/", &[], "a"),
    ] {
        assert_eq!(
            taken(&config, method, target, headers),
            expected,
            "{method} {target} {headers:?}"
        );
    }
}

#[test]
fn a_route_goes_on_by_splitters_and_resolvers_but_past_other_routers() {
    let config = services()
        + &router(
            "a",
            "- { Match: { HTTP: { PathPrefix: /b } }, Destination: { Service: b } }\n- { Match: { HTTP: { PathPrefix: /v2 } }, Destination: { Service: b, ServiceSubset: v2 } }",
        )
        + &router("b", "- { Destination: { Service: f } }")
        + &splitter("a", "[{ Weight: 75, Service: c }, { Weight: 25, Service: d }]")
        + &splitter("b", "[{ Weight: 50, Service: e }, { Weight: 50 }]")
        + &resolver("b", "Subsets: { v2: { Filter: 'Service.Meta.version == v2' } }");
    assert_eq!(taken(&config, "GET", "/b", &[]), "e b");
    assert_eq!(taken(&config, "GET", "/v2", &[]), "b", "a subset is not split");
    assert_eq!(taken(&config, "GET", "/", &[]), "c d", "what no route takes is split");
    assert_eq!(shares(&config, "b"), [("f".to_owned(), 1)]);
}

#[test]
fn a_route_rewrites_edits_and_says_how_calls_are_made() {
    let routes = "\
- Match: { HTTP: { PathPrefix: /api } }
  Destination:
    PrefixRewrite: /v1
    RequestTimeout: 1.5s
    IdleTimeout: 1m0s
    NumRetries: 4
    RetryOnConnectFailure: true
    RetryOn: [5xx, unavailable]
    RetryOnStatusCodes: [429]
    RequestHeaders: { Add: { x-a: '1' }, Set: { x-b: '2' }, Remove: [x-c] }
    ResponseHeaders: { Set: { x-d: '3' } }
- Match: { HTTP: { PathExact: /one } }
  Destination: { PrefixRewrite: /other, RetryOnConnectFailure: true, RequestTimeout: 0s }";
    let config = services() + &router("a", routes);
    let documents = config::parse(&[Source::new("f", config.as_str())]).expect("parsed");
    let snapshot = config::compile(&documents, 1).unwrap_or_else(|errors| panic!("{errors}"));
    let method = http::Method::GET;
    let headers = http::HeaderMap::new();
    let of = |path| {
        let request = mesh_core::route::RouteRequest::new("a", &method, path, None, &headers);
        let routed = snapshot.route(&request, &mut || 0).expect("routed");
        (routed.rule.name.to_string(), routed.backend.clone())
    };
    let (name, api) = of("/api/x");
    assert_eq!(name, "a/route-0");
    let timeouts = &api.policy.timeouts;
    assert_eq!((timeouts.request.as_millis(), timeouts.explicit), (1500, true));
    assert_eq!(timeouts.stream_idle.as_secs(), 60);
    let retry = &api.policy.retry;
    assert_eq!(retry.attempts, 4);
    let on = serde_json::to_value(&retry.on).expect("words");
    assert_eq!(on, serde_json::json!(["5xx", "unavailable", 429, "connect-failure"]));
    let filters = api.filters.expect("filters");
    assert_eq!(
        filters.describe(),
        [
            "request headers: set x-b: 2, add x-a: 1, remove x-c",
            "rewrite: the first 4 bytes of the path to /v1",
            "response headers: set x-d: 3"
        ]
    );
    let (_, one) = of("/one");
    assert_eq!(one.policy.retry.attempts, 1);
    // The flag has no place of its own: that of its destination, on the last lines.
    let line = config.lines().count() as u32;
    for value in ["retry.on", "retry.attempts"] {
        let origin = one.origins.of(value);
        let at = origin.line().map(|(_, at)| at);
        assert!(at.is_some_and(|at| line - at < 3), "{value}: {origin} of {line}");
    }
    assert!(!one.policy.timeouts.explicit, "0s is not stated");
    assert_eq!(one.filters.expect("filters").describe(), ["rewrite: path /other"]);
}

#[test]
fn what_is_wrong_in_a_router_is_told_where_it_stands() {
    let route = |text: &str| router("a", &format!("- {text}"));
    let matched = |http: &str| route(&format!("{{ Match: {{ HTTP: {{ {http} }} }} }}"));
    let to = |destination: &str| route(&format!("{{ Destination: {{ {destination} }} }}"));
    let path = |destination: &str| {
        route(&format!(
            "{{ Match: {{ HTTP: {{ PathPrefix: /x }} }}, Destination: {{ {destination} }} }}"
        ))
    };
    let bytes = "---\napiVersion: mesh/v1\nkind: Service\nmetadata: { name: t }\n\
        spec: { endpoints: { static: ['127.0.0.1:80'] }, appProtocol: tcp }\n";
    let http_route = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: r }\n\
        spec:\n  parentRefs: [{ kind: Service, name: a }]\n  rules: [{ backendRefs: [{ name: b }] }]\n";
    for (entries, expected) in [
        (to("Service: g"), "there is no Service `g`"),
        (router("g", "- {}"), "there is no Service `g`"),
        (to("Service: b, ServiceSubset: v1"), "no service-resolver with a subset `v1`"),
        (to("Service: b, Namespace: other"), "there is no Service `b` in namespace `other`"),
        (to("Service: b, Partition: other"), "unknown key `Partition`"),
        (matched("PathExact: /a, PathPrefix: /b"), "one of `PathExact`, `PathPrefix` and"),
        (matched("PathExact: a"), "`a` is not a path"),
        (matched("PathPrefix: /a/../b"), "is not a path"),
        (matched("PathRegex: '(a'"), "is no regular expression"),
        (matched("PathRegex: '(((a{100}){100}){100}'"), "is no regular expression"),
        (matched("Methods: [FETCH]"), "unknown method `FETCH`"),
        (matched("Methods: [get, GET]"), "method `GET` stands here twice"),
        (matched("Header: [{ Name: x }]"), "this needs one of `Present`, `Exact`"),
        (matched("Header: [{ Name: x, Present: true, Exact: a }]"), "this needs one of"),
        (matched("Header: [{ Name: 'x y', Present: true }]"), "`x y` is no header name"),
        (matched("Header: [{ Name: ':path', Present: true }]"), "`:path` is no header name"),
        (matched("QueryParam: [{ Name: v }]"), "this needs one of `Present`, `Exact` and `Regex`"),
        (to("PrefixRewrite: /x"), "`PrefixRewrite` needs `PathExact` or `PathPrefix`"),
        (path("PrefixRewrite: 'x'"), "`x` is not a path"),
        (path("PrefixRewrite: \"/x\\r\\ny\""), "is not a path"),
        (to("RequestTimeout: 5"), "put it in quotes"),
        (to("RequestTimeout: -5s"), "is no span of whole milliseconds"),
        (to("RetryOn: [http3]"), "`http3`"),
        (to("RetryOnStatusCodes: [200]"), "`200`"),
        (to("NumRetries: -1"), "found the number -1"),
        (
            to("RequestHeaders: { Set: { content-length: '5' } }"),
            "`content-length` cannot be edited",
        ),
        (to("ResponseHeaders: { Remove: [Transfer-Encoding] }"), "`transfer-encoding` cannot be"),
        (to("RequestHeaders: { Add: { Host: x } }"), "`host` cannot be edited"),
        (to("RequestHeaders: { Set: { ':path': /x } }"), "`:path` is no header name"),
        (to("RequestHeaders: { Set: { x: \"a\\r\\nb: c\" } }"), "no header can carry"),
        (bytes.to_owned() + &router("t", "- {}"), "a Service for bytes has no routes"),
        (bytes.to_owned() + &to("Service: t"), "Service `t` is for bytes, and this for requests"),
        (bytes.to_owned() + &resolver("a", "Redirect: { Service: t }"), "is for bytes, and this"),
        (
            bytes.to_owned() + &resolver("t", "Redirect: { Service: a }"),
            "is for requests, and this",
        ),
        (bytes.to_owned() + &splitter("a", "[{ Weight: 100, Service: t }]"), "is for bytes"),
        (http_route.to_owned() + &to("Service: b"), "Service `a` has routes of two kinds"),
        (to("Service: b") + &to("Service: c"), "defined twice"),
    ] {
        let told = told(&(services() + &entries));
        assert!(told.contains(expected), "{expected} in\n{told}");
        assert!(told.contains("f:") && told.contains("error:"), "{told}");
    }
}

const VERSIONS: &str = "Subsets: { v1: { Filter: 'Service.Meta.version == v1' }, v2: { Filter: 'Service.Meta.version == v2' }, all: { Filter: '' } }\n";

/// Where calls to a service go, and who stands in, with the labels of each.
fn chain(config: &str, service: &str) -> Vec<String> {
    let documents = config::parse(&[Source::new("f", config)]).expect("parsed");
    let snapshot = config::compile(&documents, 1).unwrap_or_else(|errors| panic!("{errors}"));
    let headers = http::HeaderMap::new();
    let request =
        mesh_core::route::RouteRequest::new(service, &http::Method::GET, "/", None, &headers);
    let routed = snapshot.route(&request, &mut || 0).expect("routed");
    let name = |backend: &mesh_core::route::Backend| {
        let name = snapshot.destinations()[backend.destination.index()].name.to_string();
        match backend.subset.as_deref() {
            Some([labels]) => format!("{name} {labels}"),
            _ => name,
        }
    };
    let failover = routed.backend.failover.as_deref().unwrap_or_default();
    std::iter::once(routed.backend).chain(failover).map(name).collect()
}

#[test]
fn a_failover_names_who_stands_in_by_subset() {
    let with = |more: &str| services() + &resolver("a", &format!("{VERSIONS}{more}"));
    for (config, expected) in [
        (with("Failover: { '*': { Service: b } }"), &["a", "b"][..]),
        (
            with("DefaultSubset: v1\nFailover: { v1: { ServiceSubset: v2 }, '*': { Service: b } }"),
            &["a version=v1", "a version=v2"],
        ),
        (
            with("DefaultSubset: v2\nFailover: { v1: { ServiceSubset: v2 }, '*': { Service: b } }"),
            &["a version=v2", "b"],
        ),
        (with("DefaultSubset: v2\nFailover: { v1: { ServiceSubset: v2 } }"), &["a version=v2"]),
        (with("DefaultSubset: all\nFailover: { all: { Service: b } }"), &["a", "b"]),
        (
            with(
                "DefaultSubset: v1\nFailover: { '*': { Targets: [{ ServiceSubset: v1 }, { ServiceSubset: v2 }, { Service: b }, { Service: b }, { Service: c }] } }",
            ),
            &["a version=v1", "a version=v2", "b", "c"],
        ),
        (
            with("Failover: { '*': { Service: b } }")
                + &resolver("b", "Failover: { '*': { Service: c } }"),
            &["a", "b"],
        ),
        (
            with("Failover: { '*': { Service: b } }") + &resolver("b", "Redirect: { Service: c }"),
            &["a", "c"],
        ),
        // Who stands in would be redirected to where the call is already.
        (
            with("Redirect: { Service: b }") + &resolver("b", "Failover: { '*': { Service: a } }"),
            &["b"],
        ),
    ] {
        assert_eq!(chain(&config, "a"), expected, "{config}");
    }
}

/// What a user's own test of the table sees.
#[test]
fn check_route_tells_who_stands_in() {
    let config = services()
        + &splitter("a", "[{ Weight: 60, ServiceSubset: v1 }, { Weight: 40, Service: b }]")
        + &resolver(
            "a",
            &format!(
                "{VERSIONS}Failover: {{ v1: {{ Targets: [{{ ServiceSubset: v2 }}, {{ Service: c }}] }} }}"
            ),
        );
    let request = http::Request::get("http://a/").body(()).expect("a request");
    let checked = check_route(&config, &request).unwrap_or_else(|error| panic!("{error}"));
    let names: Vec<&str> = checked.destinations.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(checked.failover, [vec!["a (version=v2)", "c"], vec![]]);
}

#[test]
fn a_resolver_is_a_policy_of_its_service() {
    let policy = |more: &str| {
        let config = services() + &resolver("a", more);
        let documents = config::parse(&[Source::new("f", &*config)]).expect("parsed");
        let snapshot = config::compile(&documents, 1).unwrap_or_else(|errors| panic!("{errors}"));
        snapshot.destinations()[0].policy.clone()
    };
    let timed = policy("ConnectTimeout: 250ms\nRequestTimeout: 3s");
    assert_eq!(timed.timeouts.connect.as_millis(), 250);
    assert_eq!((timed.timeouts.request.as_secs(), timed.timeouts.explicit), (3, true));
    let none = policy("ConnectTimeout: 0s\nRequestTimeout: 0s");
    assert_eq!(none.timeouts, mesh_core::policy::Timeouts::default());
    for (word, expected) in [
        ("random", Pick::Random),
        ("round_robin", Pick::RoundRobin),
        ("least_request", Pick::LeastRequest),
        ("ring_hash", Pick::RingHash),
        ("maglev", Pick::Maglev),
    ] {
        assert_eq!(policy(&format!("LoadBalancer: {{ Policy: {word} }}")).pick.policy, expected);
    }
    let least =
        policy("LoadBalancer: { Policy: least_request, LeastRequestConfig: { ChoiceCount: 5 } }");
    assert_eq!(least.pick.choice_count, 5);
    let ring = policy(
        "LoadBalancer:\n  Policy: ring_hash\n  RingHashConfig: { MinimumRingSize: 2048, MaximumRingSize: 4096 }\n  \
         HashPolicies:\n  - { Field: header, FieldValue: x-user, Terminal: true }\n  \
         - { Field: cookie, FieldValue: sid, CookieConfig: { TTL: 1m30s, Path: /p } }\n  \
         - { Field: cookie, FieldValue: once, CookieConfig: { Session: true } }\n  \
         - { Field: cookie, FieldValue: theirs }\n  - { Field: query_parameter, FieldValue: u }\n  \
         - { SourceIP: true }",
    );
    let (small, large) = (
        ring.pick.ring_hash.minimum_ring_size.unwrap_or_default(),
        ring.pick.ring_hash.maximum_ring_size,
    );
    assert_eq!((u64::from(small), u64::from(large)), (2048, 4096));
    assert_eq!(
        serde_json::to_value(&ring.hash).expect("a list"),
        serde_json::json!([
            { "header": "x-user", "terminal": true },
            { "cookie": { "name": "sid", "ttl": "1m30s", "path": "/p" } },
            { "cookie": { "name": "once", "ttl": "0s" } },
            { "cookie": { "name": "theirs" } },
            { "queryParameter": "u" },
            { "sourceAddress": true },
        ])
    );
}

#[test]
fn what_is_wrong_in_a_resolver_is_told_where_it_stands() {
    let balanced = |text: &str| resolver("a", &format!("LoadBalancer: {{ {text} }}"));
    let hashed = |text: &str| balanced(&format!("Policy: maglev, HashPolicies: [{{ {text} }}]"));
    let own = "---\napiVersion: mesh/v1\nkind: TrafficPolicy\nmetadata: { name: own }\n\
        spec: { targetRef: { kind: Service, name: a }, timeouts: { connect: 2s } }\n";
    for (entries, expected) in [
        (resolver("a", "Failover: { v9: { Service: b } }"), "service `a` has no subset `v9`"),
        (resolver("a", "Failover: { '*': {} }"), "this failover names nobody"),
        (resolver("a", "Failover: { '*': { Service: g } }"), "there is no Service `g`"),
        (
            resolver("a", "Failover: { '*': { Service: b, ServiceSubset: v1 } }"),
            "with a subset `v1`",
        ),
        (
            resolver("a", "Failover: { '*': { Service: b, Targets: [{ Service: c }] } }"),
            "`Targets` stands alone",
        ),
        (resolver("a", "Failover: { '*': { Datacenters: [dc2] } }"), "unknown key `Datacenters`"),
        (
            resolver("a", "Failover: { '*': { Service: b } }\nRedirect: { Service: c }"),
            "a resolver that redirects has no failover",
        ),
        (resolver("a", "Redirect: { Service: b, Peer: other }"), "unknown key `Peer`"),
        (
            resolver("a", "Subsets: { v1: { OnlyPassing: true } }"),
            "`OnlyPassing` is not supported yet",
        ),
        (resolver("a", "ConnectTimeout: 5"), "put it in quotes"),
        (resolver("a", "RequestTimeout: soon"), "`soon` is no span"),
        (resolver("a", "ConnectTimeout: 5s") + own, "`timeouts.connect` is set twice"),
        (balanced("Policy: fastest"), "`fastest`"),
        (
            balanced("Policy: maglev, RingHashConfig: {}"),
            "`RingHashConfig` has no effect without policy `ring_hash`",
        ),
        (balanced("LeastRequestConfig: {}"), "`LeastRequestConfig` has no effect without"),
        (
            balanced("Policy: random, HashPolicies: [{ SourceIP: true }]"),
            "`HashPolicies` has no effect without",
        ),
        (
            balanced(
                "Policy: ring_hash, RingHashConfig: { MinimumRingSize: 2048, MaximumRingSize: 1024 }",
            ),
            "exceeds `maximumRingSize`",
        ),
        (hashed("Field: header"), "a hash policy has `Field` and `FieldValue`, or `SourceIP`"),
        (hashed("Field: header, FieldValue: x, SourceIP: true"), "a hash policy has"),
        (hashed(""), "a hash policy has"),
        (hashed("Field: body, FieldValue: x"), "`body`"),
        (hashed("Field: header, FieldValue: 'x y'"), "is not the name of a header field"),
        (
            hashed("Field: header, FieldValue: x, CookieConfig: {}"),
            "`CookieConfig` is for a cookie",
        ),
        (
            hashed("Field: cookie, FieldValue: x, CookieConfig: { Session: true, TTL: 1s }"),
            "a cookie for a session has no `TTL`",
        ),
    ] {
        let told = told(&(services() + &entries));
        assert!(told.contains(expected), "{expected} in\n{told}");
        assert!(told.contains("f:") && told.contains("error:"), "{told}");
    }
}

/// Splitters that each lead twice to the next, and redirects one after the other: neither time nor
/// stack grows with what they would amount to.
#[test]
fn long_chains_are_refused() {
    let many = |count: usize, entry: &dyn Fn(usize) -> String| {
        let mut config = String::new();
        for number in 0..=count {
            let _ = write!(
                config,
                "---\napiVersion: mesh/v1\nkind: Service\nmetadata: {{ name: s{number} }}\n\
                 spec: {{ endpoints: {{ static: ['127.0.0.1:80'] }} }}\n"
            );
        }
        config + &(0..count).map(entry).collect::<String>()
    };
    let doubled = |number: usize| {
        let next = number + 1;
        splitter(
            &format!("s{number}"),
            &format!("[{{ Weight: 50, Service: s{next} }}, {{ Weight: 50, Service: s{next} }}]"),
        )
    };
    assert!(told(&many(60, &doubled)).contains("more than 1000 destinations"));
    let single = |number: usize| {
        splitter(&format!("s{number}"), &format!("[{{ Weight: 100, Service: s{} }}]", number + 1))
    };
    assert!(told(&many(200, &single)).contains("more than 64 splitters follow one another"));
    let redirect = |number: usize| {
        resolver(&format!("s{number}"), &format!("Redirect: {{ Service: s{} }}", number + 1))
    };
    assert!(told(&many(200, &redirect)).contains("more than 64 redirects follow one another"));
    let config = many(64, &single);
    assert_eq!(shares(&config, "s0"), [("s64".to_owned(), 1)]);
}

#[test]
fn an_object_of_a_later_source_replaces_its_namesake_whole() {
    let file = services() + &splitter("a", "[{ Weight: 100, Service: b }]");
    let sources = [
        Source::new("mesh.yaml", file + &splitter("c", "[{ Weight: 100, Service: d }]")),
        Source::new("later", splitter("a", "[{ Weight: 100, Service: e }]")),
    ];
    let documents = config::parse(&sources).expect("each is correct");
    let twice = config::compile(&documents, 1).map(|_| ()).expect_err("none is replaced yet");
    assert!(twice.to_string().contains("service-splitter `a` is defined twice"), "{twice}");
    let (before, documents) = (documents.len(), documents.replaced_from(1));
    assert_eq!(documents.len(), before - 1);
    config::compile(&documents, 1).expect("one of each name is left");
}
