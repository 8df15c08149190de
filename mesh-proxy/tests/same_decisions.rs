//! One configuration and one seed decide the same in process and through the proxy.
//!
//! The same requests in the same order, one at a time, on real sockets: for each the rule's split,
//! the faults, the rate limit, the endpoint of every attempt, their number and the cookies made must
//! be the same. What compares latencies (`ExpectedWait`, `PeakEwma`) is left out: what is measured
//! differs from run to run.

mod common;

use clap::Parser;
use common::File;
use http::header::SET_COOKIE;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use mesh_proxy::{Args, Proxy};
use mesh_tower::{Body, Error, Mesh};
use std::collections::HashMap;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use testkit::endpoint::{Reply, ScriptedEndpoint};
use tokio::net::TcpStream;
use tower_service::Service;

const SEEDS: [u64; 3] = [1, 0, 0xfeed_beef_dead_c0de];
const REQUESTS: usize = 120;
const ATTEMPT: &str = "x-envoy-attempt-count";

/// What became of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    status: u16,
    /// Why it was answered on the way, if it was.
    flag: Option<String>,
    /// The endpoint of each attempt.
    endpoints: Vec<usize>,
    cookies: Vec<String>,
}

/// Six endpoints: 0 to 3 of `app` in two versions, 4 and 5 of `side`. Each fails the first attempts
/// of a request as often as its `x-fail` says.
async fn endpoints() -> Vec<ScriptedEndpoint> {
    let mut all = Vec::new();
    for _ in 0..6 {
        let endpoint = ScriptedEndpoint::http1(Reply::status(200)).await;
        endpoint.plan(|_, head| {
            let number = |name| head.headers.get(name)?.to_str().ok()?.parse::<u32>().ok();
            let fails = number(ATTEMPT).unwrap_or(1) <= number("x-fail").unwrap_or(0);
            Reply::status(if fails { 503 } else { 200 }).content("text")
        });
        all.push(endpoint);
    }
    all
}

fn config(pick: &str, endpoints: &[ScriptedEndpoint]) -> String {
    let mut yaml = String::new();
    let at = |index: usize| endpoints[index].address();
    for (name, of) in [("app", 0..4), ("side", 4..6), ("limited", 0..4), ("cookie", 0..4)] {
        writeln!(
            yaml,
            "---\napiVersion: mesh/v1\nkind: Service\nmetadata: {{ name: {name} }}\nspec:\n  \
             endpoints:\n    static:"
        )
        .unwrap();
        for index in of {
            let (version, weight) = (index / 2 + 1, index % 2 + 1);
            let labels = format!("metadata: {{ version: \"{version}\" }}, weight: {weight}");
            writeln!(yaml, "    - {{ address: '{}', {labels} }}", at(index)).unwrap();
        }
    }
    yaml
        + &format!(
            "---
apiVersion: mesh/v1
kind: TrafficPolicy
metadata: {{ name: all }}
spec:
  targetRef: {{ kind: Mesh }}
  pick: {{ {pick}, subsets: {{ selectors: [{{ keys: [version] }}], fallback: AnyEndpoint }} }}
  hash: [{{ header: x-user }}]
  retry: {{ attempts: 2, backoff: {{ base: 1ms, max: 2ms }} }}
  budget: {{ percent: 100, minRetriesPerSecond: 100000 }}
  outlier: {{ consecutive5xx: 0 }}
---
apiVersion: mesh/v1
kind: TrafficPolicy
metadata: {{ name: limited }}
spec:
  targetRef: {{ kind: Service, name: limited }}
  rateLimit: {{ enforced: 50, tokenBucket: {{ maxTokens: 10, fillInterval: 1h }} }}
  fault: {{ abort: {{ httpStatus: 418, percentage: 30 }}, delay: {{ fixedDelay: 1ms, percentage: 50 }} }}
---
apiVersion: mesh/v1
kind: TrafficPolicy
metadata: {{ name: cookie }}
spec:
  targetRef: {{ kind: Service, name: cookie }}
  pick: {{ policy: RingHash }}
  hash: [{{ cookie: {{ name: sid, ttl: 1h }} }}, {{ sourceAddress: true }}]
---
apiVersion: mesh/v1
kind: TrafficPolicy
metadata: {{ name: sticky }}
spec:
  targetRef: {{ kind: HTTPRoute, name: sticky }}
  hash: [{{ header: x-user }}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: split }}
spec:
  parentRefs: [{{ kind: Service, name: app }}]
  rules:
  - matches: [{{ fraction: {{ numerator: 1, denominator: 4 }} }}]
    backendRefs: [{{ name: side }}]
  - backendRefs:
    - {{ name: app, weight: 5, subsets: [{{ version: \"1\" }}] }}
    - {{ name: app, weight: 3, subsets: [{{ version: \"2\" }}] }}
    - {{ name: side, weight: 2 }}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: sticky }}
spec:
  hostnames: [sticky]
  rules:
  - backendRefs: [{{ name: app, weight: 1 }}, {{ name: side, weight: 1 }}]
---
apiVersion: mesh/v1
kind: Listener
metadata: {{ name: out }}
spec: {{ direction: Outbound, address: '127.0.0.1:0', protocol: http }}
"
        )
}

/// The head of request number `number`; `by` tells the two ways apart.
fn request(number: usize, by: &str) -> (http::request::Builder, &'static str) {
    let host = ["app", "app", "app", "limited", "cookie", "sticky"][number % 6];
    let builder = Request::get(format!("/items/{number}"))
        .header("x-request-id", format!("{by}-{number}"))
        .header("x-user", format!("user {}", number % 17))
        .header("x-fail", (number % 4).saturating_sub(1).to_string());
    (builder, host)
}

/// The endpoints of the attempts of each request, in order.
fn attempts(endpoints: &[ScriptedEndpoint]) -> HashMap<String, Vec<usize>> {
    let mut attempts: HashMap<String, Vec<(u32, usize)>> = HashMap::new();
    for (index, endpoint) in endpoints.iter().enumerate() {
        for arrival in endpoint.arrivals() {
            let number = arrival.headers.get(ATTEMPT).map_or("1", |it| it.to_str().unwrap());
            let number = number.parse().unwrap();
            attempts.entry(arrival.id.unwrap()).or_default().push((number, index));
        }
    }
    let in_order = |(id, mut attempts): (_, Vec<_>)| {
        attempts.sort_unstable();
        (id, attempts.into_iter().map(|(_, index)| index).collect())
    };
    attempts.into_iter().map(in_order).collect()
}

fn seen(status: u16, headers: &HeaderMap) -> Seen {
    let told = headers.get("proxy-status").map(|it| it.to_str().unwrap().to_owned());
    let flag =
        told.and_then(|told| Some(told.split("details=\"").nth(1)?.split('"').next()?.into()));
    let cookies = headers.get_all(SET_COOKIE).iter().map(|it| it.to_str().unwrap().to_owned());
    Seen { status, flag, endpoints: Vec::new(), cookies: cookies.collect() }
}

async fn in_process(yaml: &str, seed: u64, endpoints: &[ScriptedEndpoint]) -> Vec<Seen> {
    let mesh = Mesh::builder().seed(seed).config_text("test", yaml).build().unwrap();
    let mut channel = mesh.http().with_source(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let mut all = Vec::new();
    for number in 0..REQUESTS {
        let (builder, host) = request(number, "linked");
        let mut request = builder.body(Body::empty()).unwrap();
        let path = request.uri().path().to_owned();
        *request.uri_mut() = format!("http://{host}{path}").parse().unwrap();
        let answer = match channel.call(request).await {
            Ok(response) => {
                let (head, body) = response.into_parts();
                body.collect().await.unwrap();
                Ok(head)
            }
            Err(error) => Err(error),
        };
        all.push(match answer {
            Ok(head) => seen(head.status.as_u16(), &head.headers),
            Err(error) => failed(&error),
        });
    }
    with_endpoints(all, "linked", endpoints)
}

/// Adds where each was sent.
fn with_endpoints(mut all: Vec<Seen>, by: &str, endpoints: &[ScriptedEndpoint]) -> Vec<Seen> {
    let mut attempts = attempts(endpoints);
    for (number, seen) in all.iter_mut().enumerate() {
        seen.endpoints = attempts.remove(&format!("{by}-{number}")).unwrap_or_default();
    }
    all
}

fn failed(error: &Error) -> Seen {
    let (status, flag) = (error.kind().status().as_u16(), error.flag().to_owned());
    Seen { status, flag: Some(flag), endpoints: Vec::new(), cookies: Vec::new() }
}

async fn by_proxy(yaml: &str, seed: u64, endpoints: &[ScriptedEndpoint]) -> Vec<Seen> {
    let file = File::new(yaml);
    let seed = seed.to_string();
    let flags = ["mesh-proxy", "--workers", "1", "--seed", &seed, "--config", file.path()];
    let proxy = Proxy::start(Args::try_parse_from(flags).unwrap()).await.unwrap();
    let address: SocketAddr = proxy.addresses().await[0];
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut all = Vec::new();
    for number in 0..REQUESTS {
        let (builder, host) = request(number, "proxied");
        let request = builder.header("host", host).body(Empty::<bytes::Bytes>::new()).unwrap();
        sender.ready().await.unwrap();
        let (head, body) = sender.send_request(request).await.unwrap().into_parts();
        body.collect().await.unwrap();
        all.push(seen(head.status.as_u16(), &head.headers));
    }
    with_endpoints(all, "proxied", endpoints)
}

#[tokio::test]
async fn the_same_seed_decides_the_same_in_process_and_through_the_proxy() {
    let policies = [
        "policy: LeastRequest",
        "policy: LeastRequest, choiceCount: 4, panicThreshold: 0",
        "policy: RoundRobin",
        "policy: WeightedRoundRobin",
        "policy: Random",
        "policy: Random, subsetting: { size: 3 }",
        "policy: PickFirst, pickFirst: { shuffle: true }",
        "policy: RingHash",
        "policy: Maglev",
    ];
    let mut ways = Vec::new();
    for (policy, seed) in policies.into_iter().zip(SEEDS.into_iter().cycle()) {
        let endpoints = endpoints().await;
        let yaml = config(policy, &endpoints);
        let linked = in_process(&yaml, seed, &endpoints).await;
        let proxied = by_proxy(&yaml, seed, &endpoints).await;
        for (number, (linked, proxied)) in linked.iter().zip(&proxied).enumerate() {
            assert_eq!(linked, proxied, "{policy}, seed {seed}, request {number}");
        }
        ways.push(linked);
    }
    // The comparison is of something: every kind of decision has gone more than one way.
    let all = || ways.iter().flatten();
    for flag in ["fault_injected", "rate_limited"] {
        assert!(all().any(|seen| seen.flag.as_deref() == Some(flag)), "{flag}");
    }
    for attempts in 1..=3 {
        assert!(all().any(|seen| seen.endpoints.len() == attempts), "{attempts} attempts");
    }
    // Not by chance either: another seed decides otherwise.
    let endpoints = endpoints().await;
    let yaml = config("policy: Random", &endpoints);
    assert_ne!(in_process(&yaml, 1, &endpoints).await, by_proxy(&yaml, 2, &endpoints).await);
    assert!(all().any(|seen| !seen.cookies.is_empty()), "a cookie was made");
    for index in 0..6 {
        assert!(all().any(|seen| seen.endpoints.first() == Some(&index)), "endpoint {index}");
    }
}
