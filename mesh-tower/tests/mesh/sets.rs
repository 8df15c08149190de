//! Which endpoints of a destination a call may go to.

use super::{get, mesh, policy};
use http::{Request, StatusCode};
use mesh_core::pick::{Caller, Labels};
use mesh_tower::{Body, CallOptions, ErrorKind, Mesh};
use std::fmt::Write;
use testkit::endpoint::{Reply, ScriptedEndpoint};
use tower::ServiceExt;

/// One endpoint per line of what is written beside its address.
async fn endpoints(about: &[&str]) -> (Vec<ScriptedEndpoint>, String) {
    let mut service = "\n---\napiVersion: mesh/v1\nkind: Service\nmetadata: { name: inventory }\n\
                       spec:\n  endpoints:\n    static:\n"
        .to_owned();
    let mut endpoints = Vec::new();
    for about in about {
        let endpoint = ScriptedEndpoint::http1(Reply::status(200)).await;
        let address = endpoint.address();
        writeln!(service, "    - {{ address: \"{address}\", {about} }}").expect("text");
        endpoints.push(endpoint);
    }
    (endpoints, service)
}

fn calls(endpoints: &[ScriptedEndpoint]) -> Vec<u64> {
    endpoints.iter().map(ScriptedEndpoint::calls).collect()
}

async fn ask(mesh: &Mesh, options: CallOptions) -> Result<StatusCode, mesh_tower::Error> {
    let request = Request::get("http://inventory/").extension(options).body(Body::empty());
    let answer = mesh.http().oneshot(request.expect("a request")).await?;
    Ok(answer.status())
}

const VERSIONS: [&str; 3] = [
    "metadata: { version: \"1\" }",
    "metadata: { version: \"1\" }",
    "metadata: { version: \"2\", stage: canary }",
];

#[tokio::test]
async fn a_call_goes_to_the_subset_of_its_route_or_of_its_options() {
    let (endpoints, service) = endpoints(&VERSIONS).await;
    let route = "\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
                 metadata: { name: inventory }\nspec:\n  \
                 parentRefs: [{ kind: Service, name: inventory }]\n  rules:\n  \
                 - matches: [{ path: { type: PathPrefix, value: /new } }]\n    \
                   backendRefs: [{ name: inventory, subsets: [{ version: \"3\" }, { version: \"2\" }] }]\n  \
                 - backendRefs: [{ name: inventory, subsets: [{ version: \"1\" }] }]\n";
    let subsets = "pick: { policy: RoundRobin, subsets: { selectors: [{ keys: [version] }] } }";
    let mesh = mesh(&format!("{}{service}{route}", policy(subsets)));
    for _ in 0..20 {
        assert_eq!(get(&mesh, "http://inventory/").await.expect("an answer"), StatusCode::OK);
    }
    let old = calls(&endpoints);
    assert!(old[0] > 0 && old[1] > 0 && old[2] == 0, "version 1 alone: {old:?}");
    for _ in 0..10 {
        get(&mesh, "http://inventory/new").await.expect("an answer");
    }
    assert_eq!(calls(&endpoints)[2], 10, "there is no version 3, so version 2");

    let want = |version| CallOptions::new().subset([Labels::from_iter([("version", version)])]);
    for _ in 0..10 {
        ask(&mesh, want("2")).await.expect("an answer");
    }
    assert_eq!(calls(&endpoints)[2], 20, "the caller has the last word");
    let error = ask(&mesh, want("3")).await.expect_err("there is no version 3");
    assert_eq!(error.kind(), ErrorKind::NoHealthyEndpoint);
    assert!(error.to_string().contains("there is no subset version=3"), "{error}");
}

#[tokio::test]
async fn a_stack_made_by_hand_goes_by_the_options_of_a_call_too() {
    let (endpoints, service) = endpoints(&VERSIONS).await;
    let subsets = "pick: { subsets: { selectors: [{ keys: [version] }] } }";
    let balance = mesh(&format!("{}{service}", policy(subsets))).balance("inventory");
    let options = CallOptions::new().subset([Labels::from_iter([("version", "2")])]);
    for _ in 0..10 {
        let request = Request::get("http://inventory/").extension(options.clone());
        let request = request.body(Body::empty()).expect("a request");
        balance.clone().oneshot(request).await.expect("an answer");
    }
    assert_eq!(calls(&endpoints), [0, 0, 10]);
}

#[tokio::test]
async fn calls_stay_near_and_start_where_they_are_told_to() {
    let (endpoints, service) = endpoints(&[
        "locality: { region: eu, zone: a }",
        "locality: { region: eu, zone: b }",
        "locality: { region: us, zone: a }",
    ])
    .await;
    let labels = "[topology.kubernetes.io/region, topology.kubernetes.io/zone]";
    let near = format!("pick: {{ locality: {{ failoverPriority: {labels} }} }}");
    let mesh = Mesh::builder()
        .caller(Caller::new("eu/b".parse().expect("a locality")))
        .config_text("test", format!("{}{service}", policy(&near)))
        .build()
        .expect("a mesh");
    for _ in 0..20 {
        get(&mesh, "http://inventory/").await.expect("an answer");
    }
    assert_eq!(calls(&endpoints), [0, 20, 0], "the zone of the caller");
    drop(mesh);

    let (endpoints, service) =
        self::endpoints(&["priority: 0", "priority: 1", "priority: 1, health: Draining"]).await;
    let mesh = super::mesh(&service);
    for _ in 0..10 {
        ask(&mesh, CallOptions::new().priority(1)).await.expect("an answer");
        ask(&mesh, CallOptions::new()).await.expect("an answer");
    }
    assert_eq!(calls(&endpoints), [10, 10, 0]);
}
