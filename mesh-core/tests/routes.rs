//! Route tables by Gateway API's order of precedence, from YAML to decision.

use http::Request;
use mesh_core::config::{self, Source};
use mesh_core::route::{CheckError, RouteRequest, check_route};
use mesh_core::snapshot::{Snapshot, Unrouted};
use std::fmt::Write as _;

/// Services `a` to `h`, each with one endpoint.
fn services() -> String {
    ('a'..='h').fold(String::new(), |mut text, name| {
        let _ = write!(
            text,
            "---\napiVersion: mesh/v1\nkind: Service\nmetadata: {{ name: {name} }}\n\
             spec: {{ endpoints: {{ static: ['127.0.0.1:80'] }} }}\n"
        );
        text
    })
}

/// A route on service `a` whose rules are `(matches, destination)`.
fn route(name: &str, kind: &str, rules: &[(&str, &str)]) -> String {
    let mut text = format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{ name: {name} }}\n\
         spec:\n  parentRefs: [{{ kind: Service, name: a }}]\n  rules:\n"
    );
    for (matches, destination) in rules {
        let _ =
            writeln!(text, "  - matches: {matches}\n    backendRefs: [{{ name: {destination} }}]");
    }
    text
}

fn compile(text: &str) -> Snapshot {
    let documents =
        config::parse(&[Source::new("test.yaml", text)]).unwrap_or_else(|e| panic!("{e}"));
    config::compile(&documents, 1).unwrap_or_else(|e| panic!("{e}"))
}

fn decide(config: &str, request: http::request::Builder) -> Result<String, CheckError> {
    let request = request.body(()).expect("a request");
    check_route(config, &request).map(|checked| checked.destination().expect("one").to_owned())
}

#[test]
fn the_most_specific_match_decides_whatever_the_order() {
    let rules = [
        ("[{}]", "h"),
        ("[{ path: { value: /x } }]", "g"),
        ("[{ path: { value: /x }, queryParams: [{ name: q, value: '1' }] }]", "f"),
        ("[{ path: { value: /x }, headers: [{ name: X-H, value: '1' }] }]", "e"),
        ("[{ path: { value: /x }, method: GET }]", "d"),
        ("[{ path: { value: /x/y } }]", "c"),
        ("[{ path: { type: Exact, value: /x/y/z } }]", "b"),
    ];
    let mut backwards = rules;
    backwards.reverse();
    for rules in [rules, backwards] {
        let config = services() + &route("r", "HTTPRoute", &rules);
        for (uri, method, header, expected) in [
            ("http://a/", "GET", false, "h"),
            ("http://a/xx", "GET", false, "h"),
            ("http://a/x", "POST", false, "g"),
            ("http://a/x?q=1", "POST", false, "f"),
            ("http://a/x?q=1", "POST", true, "e"),
            ("http://a/x?q=1", "GET", true, "d"),
            ("http://a/x/y?q=1", "GET", true, "c"),
            ("http://a/x/y/z?q=1", "GET", true, "b"),
            ("http://a/x/y/z/", "GET", true, "c"),
        ] {
            let mut request = Request::builder().uri(uri).method(method);
            if header {
                request = request.header("x-h", "1");
            }
            assert_eq!(
                decide(&config, request).as_deref(),
                Ok(expected),
                "{method} {uri} {header}"
            );
        }
    }
}

#[test]
fn among_equal_matches_the_older_route_then_the_name_then_the_earlier_rule() {
    let stamped = |name: &str, created: &str, to: &str| {
        route(name, "HTTPRoute", &[("[{ path: { value: /x } }]", to)]).replace(
            "metadata: { name: ",
            &format!("metadata: {{ creationTimestamp: '{created}', name: "),
        )
    };
    let config = services()
        + &stamped("m", "2026-01-02T00:00:00Z", "b")
        + &stamped("n", "2026-01-01T00:00:00Z", "c")
        + &route("z", "HTTPRoute", &[("[{ path: { value: /y } }]", "d")])
        + &route(
            "k",
            "HTTPRoute",
            &[("[{ path: { value: /y } }]", "e"), ("[{ path: { value: /y } }]", "f")],
        );
    assert_eq!(decide(&config, Request::get("http://a/x")).as_deref(), Ok("c"));
    assert_eq!(decide(&config, Request::get("http://a/y")).as_deref(), Ok("e"));
    let warnings = compile(&config).warnings().len();
    assert_eq!(warnings, 3, "each match that is never reached is told");
}

#[test]
fn a_grpc_route_takes_grpc_calls_by_service_and_method() {
    let config = services()
        + &route(
            "g",
            "GRPCRoute",
            &[
                ("[{}]", "b"),
                ("[{ method: { service: p.S } }]", "c"),
                ("[{ method: { service: p.S, method: M } }]", "d"),
                (
                    "[{ method: { service: p.S, method: M }, headers: [{ name: x, value: '1' }] }]",
                    "e",
                ),
            ],
        )
        + &route("h", "HTTPRoute", &[("[{ path: { type: Exact, value: /p.S/M } }]", "f")]);
    let grpc = |path: &str| {
        Request::post(format!("http://a{path}")).header("content-type", "application/grpc")
    };
    assert_eq!(decide(&config, grpc("/p.T/M")).as_deref(), Ok("b"));
    assert_eq!(decide(&config, grpc("/p.S/N")).as_deref(), Ok("c"));
    assert_eq!(decide(&config, grpc("/p.S/M")).as_deref(), Ok("d"));
    assert_eq!(decide(&config, grpc("/p.S/M").header("x", "1")).as_deref(), Ok("e"));
    assert_eq!(decide(&config, Request::post("http://a/p.S/M")).as_deref(), Ok("f"));
    assert!(decide(&config, Request::post("http://a/p.S/N")).is_err(), "no rule is left: 404");
}

#[test]
fn hosts_exact_then_longest_wildcard_and_what_they_leave_goes_to_the_wider() {
    let hosted = |name: &str, host: &str, path: &str, to: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
             metadata: {{ name: {name} }}\nspec:\n  hostnames: ['{host}']\n  rules:\n  \
             - matches: [{{ path: {{ value: {path} }} }}]\n    backendRefs: [{{ name: {to} }}]\n"
        )
    };
    let config = services()
        + &hosted("any", "*", "/", "b")
        + &hosted("wide", "*.example.com", "/w", "c")
        + &hosted("long", "*.shop.example.com", "/", "d")
        + &hosted("exact", "a.shop.example.com", "/e", "e");
    for (uri, expected) in [
        ("http://nowhere/", "b"),
        ("http://example.com/w", "b"),
        ("http://x.example.com/w", "c"),
        ("http://x.example.com/", "b"),
        ("http://y.x.shop.example.com/w", "d"),
        ("http://a.shop.example.com/e", "e"),
        ("http://A.Shop.Example.COM:8080/e", "e"),
        ("http://a.shop.example.com./e", "e"),
        ("http://a.shop.example.com/", "d"),
        ("http://a/", "a"),
        ("http://a.default:81/", "a"),
    ] {
        assert_eq!(decide(&config, Request::get(uri)).as_deref(), Ok(expected), "{uri}");
    }
}

#[test]
fn a_host_without_rule_differs_from_an_unknown_one() {
    let config = services() + &route("r", "HTTPRoute", &[("[{ path: { value: /x } }]", "b")]);
    let unrouted = |uri: &str| decide(&config, Request::get(uri)).unwrap_err();
    assert_eq!(unrouted("http://a/"), CheckError::Unrouted(Unrouted::NoMatch { host: "a".into() }),);
    assert_eq!(unrouted("http://elsewhere/"), CheckError::Unrouted(Unrouted::UnknownHost));
    assert_eq!(unrouted("/x"), CheckError::NoHost);
}

#[test]
fn requests_spread_in_proportion_to_weight() {
    let config = services()
        + "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
           metadata: { name: split }\nspec:\n  parentRefs: [{ kind: Service, name: a }]\n  rules:\n  \
           - backendRefs: [{ name: b, weight: 9 }, { name: c }, { name: d, weight: 0 }]\n";
    let snapshot = compile(&config);
    let (method, headers) = (http::Method::GET, http::HeaderMap::new());
    let request = RouteRequest::new("a", &method, "/", None, &headers);
    // Draws that cover the range evenly need no tolerance.
    let mut counts = [0; 8];
    for step in 0..1000u64 {
        let mut draw = || (u64::MAX / 1000) * step + u64::MAX / 2000;
        let routed = snapshot.route(&request, &mut draw).expect("a rule");
        counts[routed.backend.destination.index()] += 1;
    }
    assert_eq!(counts, [0, 900, 100, 0, 0, 0, 0, 0]);
}

#[test]
fn a_service_known_by_name_keeps_its_rules_under_any_authority() {
    let config = services() + &route("r", "HTTPRoute", &[("[{ path: { value: /x } }]", "b")]);
    let snapshot = compile(&config);
    let a = snapshot.destination(&"a".parse().expect("name")).expect("known");
    let (method, headers) = (http::Method::GET, http::HeaderMap::new());
    let request = RouteRequest::new("localhost:15001", &method, "/x", None, &headers);
    let routed = snapshot.route_to(a, &request, &mut || 0u64).expect("a rule");
    assert_eq!(snapshot.destinations()[routed.backend.destination.index()].name.to_string(), "b");
    let routed = snapshot.route_connection(a, &mut || 0u64).expect("a rule");
    assert_eq!(routed.backend.destination, a, "HTTP routes say nothing of connections");
}

#[test]
fn a_cookie_or_a_header_chooses_a_side_of_a_test() {
    let rules = [
        (
            "[{ cookies: [{ name: group, value: next }] }, { headers: [{ name: x-group, value: next }] }]",
            "b",
        ),
        ("[{}]", "c"),
    ];
    let config = services() + &route("r", "HTTPRoute", &rules);
    let get = || Request::get("http://a/");
    assert_eq!(decide(&config, get().header("cookie", "a=1; group=next")).as_deref(), Ok("b"));
    assert_eq!(decide(&config, get().header("x-group", "next")).as_deref(), Ok("b"));
    assert_eq!(decide(&config, get().header("cookie", "group=now")).as_deref(), Ok("c"));
    assert_eq!(decide(&config, get()).as_deref(), Ok("c"));
}

#[test]
fn a_match_takes_its_share_and_leaves_the_rest_to_the_next() {
    let rules = [
        ("[{ path: { value: /x }, fraction: { numerator: 3 } }]", "b"),
        ("[{ path: { value: /x }, fraction: { numerator: 1, denominator: 2 } }]", "c"),
        ("[{}]", "d"),
    ];
    let snapshot = compile(&(services() + &route("r", "HTTPRoute", &rules)));
    assert!(snapshot.warnings().is_empty(), "a share hides nothing behind it");
    let (method, headers) = (http::Method::GET, http::HeaderMap::new());
    let request = RouteRequest::new("a", &method, "/x", None, &headers);
    let mut counts = [0; 8];
    // Both draws cover their range evenly: 100 by 100.
    for step in 0..10_000u64 {
        let mut draws = [step / 100, step % 100].into_iter();
        let mut draw = || u64::MAX / 100 * draws.next().expect("two draws") + u64::MAX / 200;
        let routed = snapshot.route(&request, &mut draw).expect("a rule");
        counts[routed.backend.destination.index()] += 1;
    }
    assert_eq!(counts, [0, 300, 4850, 4850, 0, 0, 0, 0]);
}

/// What a stranger sends costs no more than one pass over it per condition.
#[test]
fn a_mebibyte_of_headers_is_matched_in_bounded_time() {
    let rules = [
        ("[{ headers: [{ name: x-a, type: RegularExpression, value: '(a|aa)+b' }] }]", "b"),
        (
            "[{ headers: [{ name: x-a, value: nothing }], cookies: [{ name: none, value: x }] }]",
            "c",
        ),
        ("[{ cookies: [{ name: last, value: found }] }]", "d"),
        ("[{}]", "e"),
    ];
    let config = services() + &route("r", "HTTPRoute", &rules);
    let mut request = Request::get("http://a/");
    for _ in 0..64 {
        request =
            request.header("x-a", "a".repeat(8 << 10)).header("cookie", "a=b; ".repeat(1 << 10));
    }
    let request = request.header("cookie", "last=found");
    let before = spent();
    assert_eq!(decide(&config, request).as_deref(), Ok("d"));
    let took = spent() - before;
    // Some milliseconds in a release build; this is one without optimization.
    assert!(took < std::time::Duration::from_secs(5), "{took:?}");
}

/// Processor time of this thread: other work on the machine does not count.
fn spent() -> std::time::Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = stat.split(' ').next().and_then(|nanos| nanos.parse().ok());
    std::time::Duration::from_nanos(nanos.unwrap_or_default())
}

/// More than a file may hold is refused, and what it may hold is loaded without comparing each match
/// with each.
#[test]
fn as_many_routes_as_a_file_may_hold_are_loaded_in_bounded_time() {
    let many = |count: usize| {
        let mut text = services()
            + "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: r }\n\
               spec:\n  parentRefs: [{ kind: Service, name: a }]\n  rules:\n  - backendRefs: [{ name: b }]\n    matches:\n";
        for number in 0..count {
            let _ = writeln!(text, "    - path: {{ value: /p{number} }}");
        }
        text
    };
    let before = spent();
    let refused = config::parse(&[Source::new("f", many(100_000))]).expect_err("too many values");
    assert!(refused.to_string().contains("f:"), "it is told where: {refused}");
    let config = many(30_000);
    let snapshot = compile(&config);
    let (method, headers) = (http::Method::GET, http::HeaderMap::new());
    let request = RouteRequest::new("a", &method, "/p29999/x", None, &headers);
    assert!(snapshot.route(&request, &mut || 0u64).is_ok());
    let took = spent() - before;
    assert!(took < std::time::Duration::from_secs(60), "{took:?}");
}
