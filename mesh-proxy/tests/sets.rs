//! Which endpoints of a destination the proxy sends calls to, by its YAML: the same sets as in a
//! linked mesh (`mesh-tower/tests/mesh/sets.rs`).

mod common;

use clap::Parser;
use common::{File, SOON, listener, statuses};
use mesh_proxy::{Args, Proxy};
use std::fmt::Write;
use std::net::SocketAddr;
use testkit::endpoint::{Reply, ScriptedEndpoint};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Endpoints, and a proxy in zone `b` of region `eu` in front of them.
struct Set {
    endpoints: Vec<ScriptedEndpoint>,
    _proxy: Proxy,
    address: SocketAddr,
}

impl Set {
    /// An endpoint for each text, which stands beside its address. `spec` is that of a policy for
    /// everything, `more` are further documents.
    async fn of(about: &[&str], spec: &str, more: &str) -> Self {
        let mut yaml = "apiVersion: mesh/v1\nkind: Service\nmetadata: { name: app }\n\
                        spec:\n  endpoints:\n    static:\n"
            .to_owned();
        let mut endpoints = Vec::new();
        for about in about {
            let endpoint = ScriptedEndpoint::http1(Reply::status(200)).await;
            writeln!(yaml, "    - {{ address: '{}', {about} }}", endpoint.address()).unwrap();
            endpoints.push(endpoint);
        }
        write!(
            yaml,
            "---\napiVersion: mesh/v1\nkind: TrafficPolicy\nmetadata: {{ name: everywhere }}\n\
             spec: {{ targetRef: {{ kind: Mesh }}{spec} }}\n{}{more}",
            listener("main", "http", "app")
        )
        .unwrap();
        let file = File::new(&yaml);
        let given = ["mesh-proxy", "--workers", "1", "--locality", "eu/b", "--config", file.path()];
        let proxy = Proxy::start(Args::try_parse_from(given).unwrap()).await.unwrap();
        let address = proxy.addresses().await[0];
        Self { endpoints, _proxy: proxy, address }
    }

    /// GETs of a path one after the other; what each endpoint got of them.
    async fn get(&self, path: &str, count: usize) -> Vec<u64> {
        let before = self.calls();
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: app\r\n\r\n");
        for _ in 0..count {
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n\r\n") {
                assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "closed");
            }
            assert_eq!(statuses(&answer), [200]);
        }
        self.calls().iter().zip(before).map(|(after, before)| after - before).collect()
    }

    fn calls(&self) -> Vec<u64> {
        self.endpoints.iter().map(ScriptedEndpoint::calls).collect()
    }
}

#[tokio::test]
async fn the_first_priority_is_used_until_it_fails_and_draining_ones_never() {
    let about = ["priority: 0", "priority: 1", "priority: 1, health: Draining"];
    let mut set = Set::of(&about, "", "").await;
    assert_eq!(set.get("/", 10).await, [10, 0, 0]);
    set.endpoints[0].kill().await;
    assert_eq!(set.get("/", 10).await, [0, 10, 0]);
    set.endpoints[0].restart();
    let back = async { while set.get("/", 1).await != [1, 0, 0] {} };
    timeout(SOON, back).await.expect("the first one takes over again");
}

#[tokio::test]
async fn degraded_endpoints_take_what_healthy_ones_cannot() {
    let set = Set::of(&["priority: 0", "health: Degraded"], ", pick: { policy: Random }", "").await;
    let got = set.get("/", 300).await;
    // Half are healthy: they take 140 × 50 % of the calls.
    assert!((170..=245).contains(&got[0]), "{got:?}");

    let set =
        Set::of(&["priority: 0", "priority: 0", "priority: 0", "health: Degraded"], "", "").await;
    assert_eq!(set.get("/", 100).await[3], 0, "three of four are enough");
}

#[tokio::test]
async fn calls_stay_in_the_zone_of_the_proxy() {
    let about = [
        "locality: { region: eu, zone: a }",
        "locality: { region: eu, zone: b }",
        "locality: { region: us, zone: a }",
    ];
    let labels = "[topology.kubernetes.io/region, topology.kubernetes.io/zone]";
    let near = format!(", pick: {{ locality: {{ failoverPriority: {labels} }} }}");
    let mut set = Set::of(&about, &near, "").await;
    assert_eq!(set.get("/", 20).await, [0, 20, 0]);
    set.endpoints[1].kill().await;
    assert_eq!(set.get("/", 20).await, [20, 0, 0], "then in its region");
}

#[tokio::test]
async fn localities_have_shares() {
    let about = ["locality: { region: eu, zone: a }", "locality: { region: eu, zone: b }"];
    let weights = ", pick: { policy: Random, locality: { weights: { eu/a: 3, eu/b: 1 } } }";
    let got = Set::of(&about, weights, "").await.get("/", 400).await;
    assert!((250..=350).contains(&got[0]), "three in four: {got:?}");
}

#[tokio::test]
async fn a_route_names_a_subset() {
    let about = [
        "metadata: { version: \"1\" }",
        "metadata: { version: \"1\" }",
        "metadata: { version: \"2\", stage: canary }",
    ];
    let route = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
                 metadata: { name: app }\nspec:\n  \
                 parentRefs: [{ kind: Service, name: app }]\n  rules:\n  \
                 - matches: [{ path: { type: PathPrefix, value: /new } }]\n    \
                   backendRefs: [{ name: app, subsets: [{ version: \"3\" }, { version: \"2\" }] }]\n  \
                 - backendRefs: [{ name: app, subsets: [{ version: \"1\" }] }]\n";
    let subsets = ", pick: { policy: RoundRobin, subsets: { selectors: [{ keys: [version] }] } }";
    let set = Set::of(&about, subsets, route).await;
    assert_eq!(set.get("/", 20).await, [10, 10, 0]);
    assert_eq!(set.get("/new", 10).await, [0, 0, 10], "there is no version 3, so version 2");
}

#[tokio::test]
async fn all_calls_go_to_the_first_endpoint_until_it_is_out() {
    let three = ["weight: 1", "weight: 1", "weight: 1"];
    let mut set = Set::of(&three, ", pick: { policy: PickFirst }", "").await;
    assert_eq!(set.get("/", 10).await, [10, 0, 0]);
    set.endpoints[0].kill().await;
    assert_eq!(set.get("/", 10).await, [0, 10, 0]);
}
