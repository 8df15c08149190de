//! Consul's splitters and resolvers: from entries to shares.

use mesh_core::config::{self, Source};
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
        (resolver("a", "Redirect: { ServiceSubset: v1 }"), "the redirect of `a` comes back to it"),
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
        (resolver("a", "Failover: {}"), "unknown key `Failover`"),
        (
            "---\nKind: service-router\nName: a\nRoutes: []\n".to_owned(),
            "`service-router` is not supported",
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
