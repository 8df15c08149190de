//! A configuration that changes while calls are made.

use super::load::Load;
use super::{addresses, attempts, get, mesh, policy, seen, service};
use http::StatusCode;
use mesh_core::config::Source;
use mesh_tower::Mesh;
use testkit::endpoint::{Reply, ScriptedEndpoint};
use testkit::until;

fn configure(mesh: &Mesh, config: &str) -> u64 {
    match mesh.configure(&[Source::new("next", config)]) {
        Ok(version) => version,
        Err(error) => panic!("{error}"),
    }
}

/// Waits until discovery has named so many endpoints.
async fn settled(mesh: &Mesh, endpoints: usize) {
    until("the endpoints are known", || seen(mesh, "inventory").endpoints.len() == endpoints).await;
}

#[tokio::test]
async fn a_broken_document_keeps_the_old_configuration() {
    let endpoint = ScriptedEndpoint::http1(Reply::status(200)).await;
    let good = service("inventory", &[endpoint.address()]);
    let mesh = mesh(&good);
    assert_eq!(get(&mesh, "http://inventory/").await.expect("an answer"), StatusCode::OK);

    for (broken, place) in [
        (good.replace("static", "statik"), "mesh.yaml:4:"),
        (good.replace("kind: Service", "kind: Sevrice"), "mesh.yaml:2:"),
        (format!("{good}{good}"), "mesh.yaml:8:"),
        (format!("{good}\n{{"), "mesh.yaml:"),
        (good.replace("spec: {", "spec: { tls: { ca: /does/not/exist.pem },"), "exist.pem"),
    ] {
        let error = mesh.configure(&[Source::new("mesh.yaml", broken)]).expect_err("broken");
        assert!(error.to_string().contains(place), "{error}");
        assert_eq!(mesh.snapshot().version, 1);
        assert_eq!(get(&mesh, "http://inventory/").await.expect("an answer"), StatusCode::OK);
    }
    assert_eq!(endpoint.connections(), 1, "nothing was touched");
    assert_eq!(configure(&mesh, &good), 2);
}

#[tokio::test]
async fn tls_files_that_cannot_be_used_are_told_where_they_are_written_and_are_no_failed_calls() {
    let config = "\
apiVersion: mesh/v1
kind: Service
metadata: { name: one }
spec:
  endpoints: { static: ['127.0.0.1:1'] }
  tls:
    ca: /does/not/exist.pem
---
apiVersion: mesh/v1
kind: Service
metadata: { name: two }
spec:
  endpoints: { static: ['127.0.0.1:1'] }
  tls: { cert: /dev/null, key: /dev/null }
";
    let error = mesh("").configure(&[Source::new("mesh.yaml", config)]).expect_err("no files");
    let text = error.to_string();
    let ca = "\
error: `tls.ca` of Service `one` cannot be used: /does/not/exist.pem: No such file or directory (os error 2)
 --> mesh.yaml:7:9
  |
7 |     ca: /does/not/exist.pem
  |         ^^^^^^^^^^^^^^^^^^^
  = name a readable PEM file with the certificates (BEGIN CERTIFICATE) of the authorities to trust
";
    assert!(text.starts_with(ca), "{text}");
    let cert = "`tls.cert` of Service `two` cannot be used: /dev/null: it holds no certificate\n  --> mesh.yaml:14:16\n";
    assert!(text.contains(cert), "{text}");
    assert!(!text.contains("call to") && !text.contains("handshake"), "{text}");
}

#[tokio::test]
async fn files_of_our_own_certificate_are_named_when_they_cannot_be_used() {
    let built = Mesh::builder().server_tls("/does/not/exist.pem", "/dev/null", None).build();
    let text = built.expect_err("no file").to_string();
    assert!(
        text.starts_with(
            "`server_tls` cannot be used: cert: /does/not/exist.pem: No such file or directory (os error 2); name a readable PEM file"
        ),
        "{text}"
    );
}

#[tokio::test]
async fn endpoints_keep_identity_connections_and_history() {
    let mut endpoints = Vec::new();
    for _ in 0..2 {
        endpoints.push(ScriptedEndpoint::http1(Reply::status(200)).await);
    }
    let all = addresses(&endpoints);
    let in_turn = "pick: { policy: RoundRobin }";
    let mesh = mesh(&format!("{}{}", policy(in_turn), service("inventory", &all[..1])));
    for _ in 0..10 {
        get(&mesh, "http://inventory/").await.expect("an answer");
    }
    let before = attempts(&mesh, "inventory", all[0]);
    assert_eq!((before, endpoints[0].connections()), (10, 1));

    let other = format!("{in_turn}, timeouts: {{ request: 7s }}, outlier: {{ interval: 3s }}");
    configure(&mesh, &format!("{}{}", policy(&other), service("inventory", &all)));
    settled(&mesh, 2).await;
    for _ in 0..10 {
        get(&mesh, "http://inventory/").await.expect("an answer");
    }
    assert_eq!(attempts(&mesh, "inventory", all[0]), 15, "its history goes on");
    assert_eq!(endpoints[0].connections(), 1, "and so does its connection");
    assert_eq!(endpoints[1].calls(), 5);

    configure(&mesh, &format!("{}{}", policy(&other), service("inventory", &all[1..])));
    settled(&mesh, 1).await;
    until("connections to what was removed are closed", || endpoints[0].open_connections() == 0)
        .await;
    get(&mesh, "http://inventory/").await.expect("an answer");
    assert_eq!((endpoints[0].calls(), endpoints[1].connections()), (15, 1));
}

#[tokio::test]
async fn a_change_of_how_connections_are_made_makes_new_ones() {
    let endpoint = ScriptedEndpoint::http1(Reply::status(200)).await;
    let service = service("inventory", &[endpoint.address()]);
    let mesh = mesh(&service);
    get(&mesh, "http://inventory/").await.expect("an answer");
    configure(&mesh, &format!("{}{service}", policy("timeouts: { connect: 3s }")));
    until("the old connection is closed", || endpoint.open_connections() == 0).await;
    get(&mesh, "http://inventory/").await.expect("an answer");
    assert_eq!(endpoint.connections(), 2);
}

#[tokio::test]
async fn a_changed_policy_decides_the_next_call() {
    let endpoint = ScriptedEndpoint::http1(Reply::status(503)).await;
    let service = service("inventory", &[endpoint.address()]);
    let mesh = mesh(&service);
    let plain = format!("http://{}/", endpoint.address());
    let mut calls = 0;
    for attempts in [1, 0, 2] {
        let retry = format!("retry: {{ attempts: {attempts}, backoff: {{ base: 1ms }} }}");
        configure(&mesh, &format!("{}{service}", policy(&retry)));
        for url in ["http://inventory/", &plain] {
            get(&mesh, url).await.expect("an answer");
            calls += 1 + attempts;
            assert_eq!(endpoint.calls(), calls, "{url} with {attempts} retries");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_come_and_go_under_load_and_no_get_is_lost() {
    let mut endpoints = Vec::new();
    for _ in 0..4 {
        endpoints.push(ScriptedEndpoint::http1(Reply::status(200).body(100)).await);
    }
    let all = addresses(&endpoints);
    let mesh = mesh(&service("inventory", &all));
    let total = 10_000;
    let load = Load::start(&mesh.http(), "http://inventory/", total);
    for round in 0..20 {
        // Two of four at a time, other ones each time; every fifth round connects anew.
        let two = [all[round % 4], all[(round + 1 + round / 4 % 3) % 4]];
        let how = format!("timeouts: {{ connect: {}s }}", 1 + round / 5);
        configure(&mesh, &format!("{}{}", policy(&how), service("inventory", &two)));
        load.reach(total * (round as u64 + 1) / 25).await;
    }
    assert_eq!(load.end().await, Vec::<String>::new());
    assert!(endpoints.iter().all(|endpoint| endpoint.calls() > 0));
}

/// A split between two services, with an expression to match on the way to it.
fn split(weights: [u32; 2]) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: split }}\n\
         spec:\n  parentRefs: [{{ kind: Service, name: inventory }}]\n  rules:\n  \
         - matches: [{{ path: {{ type: RegularExpression, value: '/(a|b)*' }} }}]\n    \
         backendRefs: [{{ name: inventory, weight: {} }}, {{ name: other, weight: {} }}]\n",
        weights[0], weights[1]
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_split_that_changes_under_load_costs_no_call_and_holds_from_then_on() {
    let reply = Reply::status(200).body(100);
    let endpoints =
        [ScriptedEndpoint::http1(reply.clone()).await, ScriptedEndpoint::http1(reply).await];
    let services = service("inventory", &[endpoints[0].address()])
        + &service("other", &[endpoints[1].address()]);
    let mesh = mesh(&(services.clone() + &split([20, 80])));
    let total = 6_000;
    let load = Load::start(&mesh.http(), "http://inventory/abba", total);
    let calls = || [endpoints[0].calls() as f64, endpoints[1].calls() as f64];
    let mut before = calls();
    for round in 1..=10 {
        load.reach(total * round / 10).await;
        // By the draw: 600 calls, of which a fifth is known to within 1.6 points.
        let (now, odd) = (calls(), round % 2 == 1);
        let share = (now[0] - before[0]) / (now[0] - before[0] + now[1] - before[1]);
        let expected = if odd { 0.2 } else { 0.8 };
        assert!((share - expected).abs() < 0.12, "round {round}: {share}");
        let next = if odd { [80, 20] } else { [20, 80] };
        configure(&mesh, &(services.clone() + &split(next)));
        before = calls();
    }
    assert_eq!(load.end().await, Vec::<String>::new());
}

#[tokio::test]
async fn what_is_no_longer_configured_is_gone() {
    let endpoint = ScriptedEndpoint::http1(Reply::status(200)).await;
    let other = service("other", &[endpoint.address()]);
    let mesh = mesh(&format!("{}{other}", service("inventory", &[endpoint.address()])));
    get(&mesh, "http://inventory/").await.expect("an answer");
    configure(&mesh, &other);
    assert_eq!(mesh.destinations().len(), 1);
    until("its connection is closed", || endpoint.open_connections() == 0).await;
}
