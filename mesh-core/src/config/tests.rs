//! The sample of the reference, and what holds for every kind.

use super::kinds::{
    GrpcRouteSpec, HttpRouteSpec, ListenerSpec, ServiceSpec, TargetRef, TcpRouteSpec,
};
use super::source::Source;
use super::tree::{self, Node};
use super::{ServerPolicy, compile, de, parse, schema};
use crate::policy::Policy;
use crate::snapshot::Snapshot;
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::time::Duration;

/// The first YAML block of the reference.
fn sample() -> Source {
    let text = include_str!("../../../docs/configuration.md");
    let block = text.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next());
    Source::new("sample.yaml", block.expect("a sample"))
}

fn compiled(sources: &[Source]) -> Snapshot {
    let documents = parse(sources).unwrap_or_else(|errors| panic!("{errors}"));
    compile(&documents, 7).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn the_sample_of_the_first_page_compiles_without_a_warning() {
    let text = include_str!("../../../README.md");
    let block = text.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next());
    let snapshot = compiled(&[Source::new("README.md", block.expect("a sample"))]);
    assert_eq!((snapshot.warnings(), snapshot.destinations().len()), (&[][..], 1));
}

#[test]
fn the_sample_of_the_reference_compiles_without_a_warning() {
    let snapshot = compiled(&[sample()]);
    assert_eq!(snapshot.version, 7);
    assert_eq!(snapshot.warnings(), []);
    assert_eq!(snapshot.destinations().len(), 3);
    assert_eq!(snapshot.listeners().len(), 2);
    let inventory = snapshot.destination(&"inventory".parse().expect("name"));
    assert_eq!(snapshot.listeners()[0].destination, inventory);
    assert_eq!(snapshot.server_policy(&"any".parse().expect("name")).max_requests, Some(1000));
}

fn service(spec: &str) -> String {
    format!(
        "---\napiVersion: mesh/v1\nkind: Service\nmetadata: {{ name: a }}\n\
         spec: {{ endpoints: {{ static: ['127.0.0.1:1'] }}{spec} }}\n"
    )
}

fn policy(name: &str, target: &str, values: &str) -> String {
    format!(
        "---\napiVersion: mesh/v1\nkind: TrafficPolicy\nmetadata: {{ name: {name} }}\n\
         spec:\n  targetRef: {target}\n  {values}\n"
    )
}

#[test]
fn a_narrower_level_wins_value_by_value_and_keeps_its_origin() {
    let route = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
                 metadata: { name: r }\nspec:\n  parentRefs: [{ kind: Service, name: a }]\n  \
                 rules:\n  - backendRefs: [{ name: a }]\n    timeouts: { request: 4s }\n";
    let files = [
        Source::new(
            "mesh.yaml",
            policy(
                "m",
                "{ kind: Mesh }",
                "timeouts: { request: 1s, connect: 1ms, idle: 1m, streamIdle: 1m }",
            ),
        ),
        Source::new(
            "ns.yaml",
            policy(
                "n",
                "{ kind: Namespace, name: default }",
                "timeouts: { request: 2s, connect: 2ms, idle: 2m }",
            ),
        ),
        Source::new(
            "svc.yaml",
            policy("s", "{ kind: Service, name: a }", "timeouts: { request: 3s, connect: 3ms }"),
        ),
        Source::new("route.yaml", route),
        Source::new("a.yaml", service("")),
    ];
    let mut backwards = files.clone();
    backwards.reverse();
    for files in [files, backwards] {
        let snapshot = compiled(&files);
        let known = &snapshot.destinations()[0];
        assert_eq!(known.policy.timeouts.request, Duration::from_secs(3));
        let backend = &snapshot.own[0][0].rule.backends[0];
        let timeouts = &backend.policy.timeouts;
        for (value, expected, path, file) in [
            (timeouts.request, Duration::from_secs(4), "timeouts.request", "route.yaml:9"),
            (timeouts.connect, Duration::from_millis(3), "timeouts.connect", "svc.yaml:7"),
            (timeouts.idle, Duration::from_secs(120), "timeouts.idle", "ns.yaml:7"),
            (timeouts.stream_idle, Duration::from_secs(60), "timeouts.streamIdle", "mesh.yaml:7"),
        ] {
            assert_eq!((value, &*backend.origins.of(path).to_string()), (expected, file), "{path}");
        }
        assert!(timeouts.explicit);
        assert_eq!(backend.origins.of("retry.attempts").to_string(), "default");
    }
}

/// Objects of all levels, two of each, each with values of its own.
fn levels() -> Vec<(String, String)> {
    let targets = [
        ("m", "{ kind: Mesh }"),
        ("n", "{ kind: Namespace, name: default }"),
        ("s", "{ kind: Service, name: a }"),
        ("r", "{ kind: HTTPRoute, name: r }"),
    ];
    let mut objects = vec![
        ("a".to_owned(), service("")),
        (
            "r".to_owned(),
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
             metadata: { name: r }\nspec:\n  parentRefs: [{ kind: Service, name: a }]\n  \
             rules:\n  - backendRefs: [{ name: a }]\n"
                .to_owned(),
        ),
    ];
    for (width, (level, target)) in (1..).zip(targets) {
        let one = format!("timeouts: {{ request: {width}s }}");
        let other = format!("retry: {{ attempts: {width}, backoff: {{ base: {width}ms }} }}");
        for (half, values) in [("1", one), ("2", other)] {
            let name = format!("{level}{half}");
            objects.push((name.clone(), policy(&name, target, &values)));
        }
    }
    objects
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// However the objects are spread over files, and in whatever order both are read.
    #[test]
    fn what_is_merged_does_not_depend_on_the_order(
        objects in Just(levels()).prop_shuffle(),
        present in prop::collection::vec(prop::bool::weighted(0.8), 10),
    ) {
        // Some are left out, the same in both orders: others then have the last word.
        let kept = |(name, _): &&(String, String)| match levels().iter().position(|it| it.0 == *name) {
            Some(place) if place >= 2 => present[place],
            _ => true,
        };
        let shuffled: Vec<_> = objects.iter().filter(kept).cloned().collect();
        let mut sorted = shuffled.clone();
        sorted.sort();
        let apart: Vec<_> =
            sorted.iter().map(|(name, text)| Source::new(name.clone(), text.clone())).collect();
        let (left, right) = shuffled.split_at(shuffled.len() / 2);
        let joined = |part: &[(String, String)]| {
            part.iter().map(|(_, text)| text.as_str()).collect::<String>()
        };
        let together = [Source::new("f", joined(left)), Source::new("g", joined(right))];

        let (apart, together) = (compiled(&apart), compiled(&together));
        let policies = |snapshot: &Snapshot| {
            let backend = &snapshot.own[0][0].rule.backends[0];
            let known = &snapshot.destinations()[0];
            (snapshot.default_policy().clone(), known.policy.clone(), backend.policy.clone())
        };
        prop_assert_eq!(policies(&apart), policies(&together));
        // The narrowest that is there has the word.
        let narrowest = |half: &str| {
            let is_there = |level: &&&str| shuffled.iter().any(|(name, _)| *name == format!("{level}{half}"));
            ["r", "s", "n", "m"].iter().find(is_there).map(|level| {
                1 + ["m", "n", "s", "r"].iter().position(|one| one == level).unwrap_or_default()
            })
        };
        let backend = &apart.own[0][0].rule.backends[0].policy;
        if let Some(width) = narrowest("1") {
            prop_assert_eq!(backend.timeouts.request, Duration::from_secs(width as u64));
        }
        if let Some(width) = narrowest("2") {
            prop_assert_eq!(backend.retry.attempts as usize, width);
            prop_assert_eq!(backend.retry.backoff.base, Duration::from_millis(width as u64));
        }
    }
}

#[test]
fn a_part_that_is_written_leaves_the_rest_at_the_default_of_its_place() {
    let text = policy("m", "{ kind: Mesh }", "endpointLimits: { maxRequests: 5 }");
    let snapshot = compiled(&[Source::new("f", text)]);
    let policy = snapshot.default_policy();
    assert_eq!(policy.endpoint_limits.max_requests, 5);
    let default = Policy::default();
    assert_eq!(policy.endpoint_limits.max_connections, default.endpoint_limits.max_connections);
    assert_ne!(policy.endpoint_limits.max_connections, policy.limits.max_connections);
    assert_eq!(**compiled(&[]).default_policy(), default, "nothing written is the default");
}

#[test]
fn a_rule_states_retries_in_the_words_of_gateway_api() {
    let text = service("")
        + "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
           metadata: { name: r }\nspec:\n  parentRefs: [{ kind: Service, name: a }]\n  rules:\n  \
           - backendRefs: [{ name: a }]\n    timeouts: { backendRequest: 1s }\n    \
           retry: { attempts: 3, codes: [500, 503], backoff: 1s }\n";
    let snapshot = compiled(&[Source::new("f", text)]);
    let retry = &snapshot.own[0][0].rule.backends[0].policy.retry;
    assert_eq!(retry.attempts, 3);
    assert_eq!(retry.per_try_timeout, Some(Duration::from_secs(1)));
    assert_eq!(
        serde_json::to_value(&retry.on).expect("JSON"),
        serde_json::json!(["connect-failure", "refused-stream", 500, 503]),
    );
    assert_eq!(retry.backoff.base, Duration::from_secs(1));
    assert_eq!(retry.backoff.max, Duration::from_secs(10));
}

/// Reads, writes and reads again.
fn round<T: DeserializeOwned + Serialize + PartialEq + Debug>(node: &Node) {
    let mut problems = Vec::new();
    let read: T = de::read(node, &mut problems).unwrap_or_else(|| panic!("{problems:?}"));
    let again: Option<T> = de::read(&Node::written_nowhere(&read), &mut problems);
    assert_eq!(again.as_ref(), Some(&read), "{problems:?}");
}

#[test]
fn what_is_read_writes_and_reads_back_the_same() {
    let tcp = "kind: TCPRoute\nspec:\n  parentRefs: [{ kind: Service, name: a }]\n  rules:\n  \
               - { name: x, backendRefs: [{ name: a, port: 5432, weight: 2 }] }\n";
    let mut seen = 0;
    for source in [sample(), Source::new("tcp", tcp)] {
        for object in tree::read(0, &source, &mut Vec::new()) {
            let spec = object.get("spec").expect("a spec");
            match object.get("kind").and_then(Node::text).expect("a kind") {
                "Service" => round::<ServiceSpec>(spec),
                "HTTPRoute" => round::<HttpRouteSpec>(spec),
                "GRPCRoute" => round::<GrpcRouteSpec>(spec),
                "TCPRoute" => round::<TcpRouteSpec>(spec),
                "Listener" => round::<ListenerSpec>(spec),
                _ => round::<TargetRef>(spec.get("targetRef").expect("a target")),
            }
            seen += 1;
        }
    }
    assert_eq!(seen, 11);
    round::<Policy>(&Node::written_nowhere(&Policy::default()));
    round::<ServerPolicy>(&Node::written_nowhere(&ServerPolicy::default()));
}

#[test]
fn every_reference_of_the_schema_is_defined() {
    fn references(value: &serde_json::Value, found: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(entries) => {
                for (key, value) in entries {
                    match value.as_str() {
                        Some(text) if key == "$ref" => found.push(text.to_owned()),
                        _ => references(value, found),
                    }
                }
            }
            serde_json::Value::Array(items) => items.iter().for_each(|i| references(i, found)),
            _ => {}
        }
    }
    let schema = schema();
    let mut found = Vec::new();
    references(&schema, &mut found);
    assert!(found.len() > 10, "{found:?}");
    for reference in found {
        let path = reference.strip_prefix('#').expect("a local reference");
        assert!(schema.pointer(path).is_some(), "{reference} is not defined");
    }
}
