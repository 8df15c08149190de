//! `ServerPolicy` in the proxy: how many calls it serves at once, how long, whom it believes, and
//! how long it drains.

mod common;

use clap::Parser;
use common::process::{Process, folder};
use common::recorder::Recorder;
use common::{SOON, exchange, statuses};
use mesh_proxy::{Args, Proxy};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use testkit::endpoint::{Reply, ScriptedEndpoint};
use testkit::greeter::Hello;
use testkit::greeter::proto::greeter_client::GreeterClient;
use testkit::greeter::proto::greeter_server::GreeterServer;
use testkit::greeter::proto::{HelloManyRequest, HelloRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;

const APP: &str = "direction: Inbound, service: app";
const OF_APP: &str = "kind: Service, name: app";
const OF_MESH: &str = "kind: Mesh";

/// A file with the service `app`, listeners and server policies, each as flow YAML.
struct File {
    path: PathBuf,
    endpoint: SocketAddr,
    listeners: &'static [&'static str],
}

impl File {
    fn new(name: &str, endpoint: SocketAddr, listeners: &'static [&'static str]) -> Self {
        Self { path: folder(name).join("mesh.yaml"), endpoint, listeners }
    }

    fn write(&self, policies: &[(&str, &str)]) {
        let endpoint = self.endpoint;
        let mut yaml = format!(
            "apiVersion: mesh/v1\nkind: Service\nmetadata: {{ name: app }}\n\
             spec: {{ endpoints: {{ static: ['{endpoint}'] }} }}\n"
        );
        for (number, listener) in self.listeners.iter().enumerate() {
            write!(
                yaml,
                "---\napiVersion: mesh/v1\nkind: Listener\nmetadata: {{ name: l{number} }}\n\
                 spec: {{ {listener}, address: '127.0.0.1:0' }}\n"
            )
            .unwrap();
        }
        for (number, (target, policy)) in policies.iter().enumerate() {
            write!(
                yaml,
                "---\napiVersion: mesh/v1\nkind: ServerPolicy\nmetadata: {{ name: p{number} }}\n\
                 spec: {{ targetRef: {{ {target} }}, {policy} }}\n"
            )
            .unwrap();
        }
        std::fs::write(&self.path, yaml).unwrap();
    }

    /// A proxy with two workers, and where it listens.
    async fn start(&self, flags: &[&str]) -> (Proxy, Vec<SocketAddr>) {
        let given = ["mesh-proxy", "--workers", "2", "--config", self.path.to_str().unwrap()];
        let args = Args::try_parse_from(given.iter().chain(flags)).unwrap();
        let proxy = Proxy::start(args).await.unwrap();
        let addresses = proxy.addresses().await;
        (proxy, addresses)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.path.parent().unwrap());
    }
}

/// A client that keeps its connection.
struct Client(TcpStream);

impl Client {
    async fn connect(to: SocketAddr) -> Self {
        Self(TcpStream::connect(to).await.unwrap())
    }

    async fn send(&mut self, fields: &str) {
        let head = format!("GET / HTTP/1.1\r\nHost: app\r\n{fields}\r\n");
        self.0.write_all(head.as_bytes()).await.unwrap();
    }

    /// One answer with its body.
    async fn answer(&mut self) -> String {
        let mut answer = Vec::new();
        let read = async {
            loop {
                let text = String::from_utf8_lossy(&answer).to_ascii_lowercase();
                if let Some((head, body)) = text.split_once("\r\n\r\n") {
                    let length =
                        head.lines().find_map(|line| line.strip_prefix("content-length: "));
                    if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                        return text;
                    }
                }
                assert_ne!(self.0.read_buf(&mut answer).await.unwrap(), 0, "closed: {text}");
            }
        };
        timeout(SOON, read).await.expect("no answer")
    }

    async fn get(&mut self, fields: &str) -> String {
        self.send(fields).await;
        self.answer().await
    }

    /// Asks until a call is served: that a place is free again is told to nobody.
    async fn until_served(&mut self) {
        let until = Instant::now() + SOON;
        while !self.get("").await.starts_with("http/1.1 200") {
            assert!(Instant::now() < until, "the place never came back");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn greeter(to: SocketAddr) -> GreeterClient<Channel> {
    let endpoint = tonic::transport::Endpoint::try_from(format!("http://{to}")).unwrap();
    GreeterClient::new(timeout(SOON, endpoint.connect()).await.unwrap().unwrap())
}

async fn hello() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder()
        .add_service(GreeterServer::new(Hello::new("one")))
        .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener));
    tokio::spawn(server);
    address
}

fn name(name: &str) -> HelloRequest {
    HelloRequest { name: name.into() }
}

#[tokio::test]
async fn one_count_holds_for_all_workers_and_listeners_of_a_service() {
    let endpoint = ScriptedEndpoint::http1(Reply::hang()).await;
    let file = File::new("policy-limit", endpoint.address(), &[APP, APP]);
    file.write(&[(OF_APP, "maxRequests: 2")]);
    let (proxy, addresses) = file.start(&[]).await;
    let mut calls = JoinSet::new();
    for number in 0..16 {
        let mut client = Client::connect(addresses[number % 2]).await;
        calls.spawn(async move { client.get("").await });
    }
    for _ in 0..14 {
        let answer = timeout(SOON, calls.join_next()).await.expect("more than two are served");
        let answer = answer.unwrap().unwrap();
        assert!(answer.starts_with("http/1.1 503"), "{answer}");
        assert!(answer.contains("details=\"overload_shed\""), "{answer}");
        assert!(answer.contains("2 requests are being served, which is the limit"), "{answer}");
    }
    testkit::until("two are served", || endpoint.in_flight() == 2).await;
    assert_eq!(endpoint.calls(), 2, "shed calls never reach the endpoint");

    // The clients that still wait go away.
    endpoint.set(Reply::status(200));
    calls.shutdown().await;
    Client::connect(addresses[0]).await.until_served().await;
    drop(proxy);
}

#[tokio::test]
async fn calls_above_the_limit_wait_and_the_least_critical_are_shed() {
    let endpoint = ScriptedEndpoint::http1(Reply::hang()).await;
    let file = File::new("policy-shedding", endpoint.address(), &[APP]);
    // Nothing is shed because of time here: the spans are longer than the test.
    let shedding = "shedding: { maxQueue: 2, target: 1h, interval: 1h }";
    file.write(&[(OF_APP, &format!("maxRequests: 1, {shedding}, criticality: SheddablePlus"))]);
    let (_proxy, addresses) = file.start(&[]).await;
    let mut served = Client::connect(addresses[0]).await;
    served.send("").await;
    testkit::until("one is being served", || endpoint.in_flight() == 1).await;
    endpoint.set(Reply::status(200));

    let mut calls = JoinSet::new();
    for fields in ["x-mesh-criticality: SHEDDABLE\r\n", "", "x-mesh-criticality: CRITICAL\r\n"] {
        for _ in 0..2 {
            let mut client = Client::connect(addresses[0]).await;
            calls.spawn(async move { (fields, client.get(fields).await) });
        }
    }
    for _ in 0..4 {
        let shed = timeout(SOON, calls.join_next()).await.expect("more than two wait");
        let (fields, answer) = shed.unwrap().unwrap();
        assert!(answer.starts_with("http/1.1 503"), "{fields}: {answer}");
        assert!(answer.contains("too many requests wait to be served"), "{answer}");
        assert!(!fields.contains("CRITICAL"), "{answer}");
    }
    assert_eq!(endpoint.calls(), 1, "who waits has not reached the endpoint");
    drop(served);
    while let Some(answer) = timeout(SOON, calls.join_next()).await.expect("two are served") {
        let (fields, answer) = answer.unwrap();
        assert!(fields.contains("CRITICAL") && answer.starts_with("http/1.1 200"), "{answer}");
    }
    let told =
        |arrival: &testkit::endpoint::Arrival| arrival.headers.get("x-mesh-criticality").cloned();
    let told: Vec<_> = endpoint.arrivals().iter().filter_map(told).collect();
    assert_eq!(told, ["SHEDDABLE_PLUS", "CRITICAL", "CRITICAL"], "the policy's, and the callers'");
}

#[tokio::test]
async fn a_rate_limit_answers_429_by_field_and_in_shadow_mode_only_counts() {
    let endpoint = ScriptedEndpoint::http1(Reply::status(200)).await;
    let file = File::new("policy-rate", endpoint.address(), &[APP]);
    let by_tenant = |enforced: u8| {
        format!(
            "rateLimit: {{ enforced: {enforced}, descriptors: [{{ \
             entries: [{{ by: Header, name: x-tenant }}], \
             tokenBucket: {{ maxTokens: 2, fillInterval: 1h }} }}] }}"
        )
    };
    file.write(&[(OF_APP, &by_tenant(100))]);
    let (proxy, addresses) = file.start(&[]).await;
    let mut client = Client::connect(addresses[0]).await;
    for _ in 0..2 {
        assert!(client.get("x-tenant: a\r\n").await.starts_with("http/1.1 200"));
    }
    let answer = client.get("x-tenant: a\r\n").await;
    assert!(answer.starts_with("http/1.1 429"), "{answer}");
    assert!(answer.contains("x-envoy-ratelimited: true"), "{answer}");
    assert!(answer.contains("details=\"rate_limited\""), "{answer}");
    for fields in ["x-tenant: b\r\n", ""] {
        assert!(client.get(fields).await.starts_with("http/1.1 200"), "{fields}");
    }
    assert_eq!(endpoint.calls(), 4, "what is refused never reaches the endpoint");

    // What else changes leaves the buckets as they are.
    file.write(&[(OF_APP, &format!("{}, timeout: 10s", by_tenant(100)))]);
    proxy.reload().await.unwrap();
    assert!(client.get("x-tenant: a\r\n").await.starts_with("http/1.1 429"));
    file.write(&[(OF_APP, &by_tenant(0))]);
    proxy.reload().await.unwrap();
    for _ in 0..5 {
        assert!(client.get("x-tenant: a\r\n").await.starts_with("http/1.1 200"));
    }
}

#[tokio::test]
async fn load_reports_go_to_callers_that_may_have_them_and_to_no_others() {
    let report = Reply::status(200).header("endpoint-load-metrics", "TEXT eps=1");
    let endpoint = ScriptedEndpoint::http1(report).await;
    let file = File::new("policy-reports", endpoint.address(), &[APP]);
    for (policy, passes) in [
        ("timeout: 1s", true),
        ("trustCallers: false", false),
        ("loadReports: Never", false),
        ("trustCallers: false, loadReports: Always", true),
    ] {
        file.write(&[(OF_APP, policy)]);
        let (_proxy, addresses) = file.start(&[]).await;
        let mut client = Client::connect(addresses[0]).await;
        let answer = client.get("endpoint-load-metrics-format: TEXT\r\n").await;
        assert!(answer.starts_with("http/1.1 200"), "{answer}");
        assert_eq!(answer.contains("endpoint-load-metrics: text eps=1"), passes, "{policy}");
        let arrivals = endpoint.arrivals();
        let arrived = &arrivals.last().unwrap().headers;
        assert_eq!(arrived.contains_key("endpoint-load-metrics-format"), passes, "{policy}");
    }
}

#[tokio::test]
async fn strangers_do_not_learn_what_is_behind_the_proxy() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let file = File::new("policy-strangers", closed, &[APP]);
    for (policy, tells) in [("trustCallers: true", true), ("trustCallers: false", false)] {
        file.write(&[(OF_APP, policy)]);
        let (_proxy, addresses) = file.start(&[]).await;
        let answer = Client::connect(addresses[0]).await.get("").await;
        assert!(answer.starts_with("http/1.1 503"), "{answer}");
        assert!(answer.contains("details=\"no_healthy_upstream"), "{answer}");
        assert_eq!(answer.contains(&closed.to_string()), tells, "{policy}: {answer}");
    }
}

#[tokio::test]
async fn a_limit_that_adapts_begins_low() {
    let endpoint = ScriptedEndpoint::http1(Reply::hang()).await;
    let file = File::new("policy-adaptive", endpoint.address(), &[APP]);
    file.write(&[(OF_APP, "adaptiveConcurrency: { minRtt: { minConcurrency: 2 } }")]);
    let (_proxy, addresses) = file.start(&[]).await;
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(addresses[0]).await;
        client.send("").await;
        waiting.push(client);
    }
    testkit::until("two are served", || endpoint.in_flight() == 2).await;
    let answer = Client::connect(addresses[0]).await.get("").await;
    assert!(answer.contains("2 requests are being served, which is the limit"), "{answer}");

    endpoint.set(Reply::status(200));
    drop(waiting);
    let mut client = Client::connect(addresses[0]).await;
    client.until_served().await;
    for _ in 0..100 {
        assert!(client.get("").await.starts_with("http/1.1 200"));
    }
}

#[tokio::test]
async fn a_call_is_served_until_its_body_is_over() {
    const LENGTH: u64 = 64 << 20;
    let endpoint = ScriptedEndpoint::http1(Reply::status(200).body(LENGTH)).await;
    let file = File::new("policy-body", endpoint.address(), &[APP]);
    file.write(&[(OF_APP, "maxRequests: 1")]);
    let (_proxy, addresses) = file.start(&[]).await;
    let mut first = TcpStream::connect(addresses[0]).await.unwrap();
    first.write_all(b"GET / HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut head = [0; 12];
    first.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");

    let mut second = Client::connect(addresses[0]).await;
    for _ in 0..2 {
        let answer = second.get("").await;
        assert!(answer.starts_with("http/1.1 503"), "on one connection: {answer}");
    }
    endpoint.set(Reply::status(200));
    let mut sink = tokio::io::sink();
    let rest = tokio::io::copy(&mut first, &mut sink);
    assert!(timeout(3 * SOON, rest).await.expect("a body that ends").unwrap() >= LENGTH);
    second.until_served().await;
}

#[tokio::test]
async fn an_upgraded_connection_keeps_its_place() {
    let endpoint = Recorder::start().await;
    let file = File::new("policy-upgrade", endpoint.address(), &[APP]);
    file.write(&[(OF_APP, "maxRequests: 1, timeout: 10s")]);
    let (_proxy, addresses) = file.start(&[]).await;
    let mut socket = Client::connect(addresses[0]).await;
    let answer = socket.get("Connection: upgrade\r\nUpgrade: echo\r\n").await;
    assert!(answer.starts_with("http/1.1 101"), "{answer}");

    let mut other = Client::connect(addresses[0]).await;
    let upgrade = "Connection: upgrade\r\nUpgrade: echo\r\n";
    for fields in [upgrade, ""] {
        let answer = other.get(fields).await;
        assert!(answer.starts_with("http/1.1 503"), "on one connection: {answer}");
    }
    socket.0.write_all(b"hello").await.unwrap();
    let mut echo = [0; 5];
    timeout(SOON, socket.0.read_exact(&mut echo)).await.unwrap().unwrap();
    assert_eq!(&echo, b"hello");
    drop(socket);
    other.until_served().await;
}

#[tokio::test]
async fn a_grpc_caller_is_told_resource_exhausted() {
    let endpoint = hello().await;
    let file = File::new("policy-grpc", endpoint, &[APP]);
    file.write(&[(OF_APP, "maxRequests: 1")]);
    let (_proxy, addresses) = file.start(&[]).await;
    let mut client = greeter(addresses[0]).await;
    let (say, said) = tokio::sync::mpsc::channel(1);
    let said = tokio_stream::wrappers::ReceiverStream::new(said);
    let mut chat = client.chat(said).await.unwrap().into_inner();
    let refused = client.clone().say_hello(name("ann")).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("1 requests are being served"), "{refused}");
    drop(say);
    assert!(timeout(SOON, chat.message()).await.unwrap().unwrap().is_none());
    let until = Instant::now() + SOON;
    while let Err(refused) = client.say_hello(name("ann")).await {
        assert!(Instant::now() < until, "{refused}");
    }
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_ended_and_the_endpoint_knows_the_time_left() {
    let endpoint = ScriptedEndpoint::http1(Reply::hang()).await;
    let file = File::new("policy-timeout", endpoint.address(), &[APP]);
    file.write(&[(OF_APP, "timeout: 1s")]);
    let (_proxy, addresses) = file.start(&[]).await;
    let start = Instant::now();
    let answer = Client::connect(addresses[0]).await.get("").await;
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert!(answer.starts_with("http/1.1 504"), "{answer}");
    assert!(answer.contains("details=\"upstream_request_timeout"), "{answer}");
    let arrivals = endpoint.arrivals();
    let told = arrivals[0].headers["x-envoy-expected-rq-timeout-ms"].to_str().unwrap();
    assert!((1..=1000).contains(&told.parse().unwrap()), "{told}");
    testkit::until("the attempt is cancelled", || endpoint.in_flight() == 0).await;
}

#[tokio::test]
async fn a_grpc_stream_that_takes_too_long_ends_in_deadline_exceeded() {
    let file = File::new("policy-stream", hello().await, &[APP]);
    file.write(&[(OF_APP, "timeout: 1500ms")]);
    let (_proxy, addresses) = file.start(&[]).await;
    let many = HelloManyRequest { name: "ann".into(), count: 1000, interval_ms: 100 };
    let mut replies = greeter(addresses[0]).await.say_hello_many(many).await.unwrap().into_inner();
    let mut count = 0;
    let status = loop {
        match timeout(SOON, replies.message()).await.expect("neither reply nor end") {
            Ok(reply) => assert!(reply.is_some(), "ended by itself"),
            Err(status) => break status,
        }
        count += 1;
    };
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded, "{status}");
    assert!((1..=15).contains(&count), "{count} replies in 1.5 s, one each 100 ms");
}

const TOLD: &str = "grpc-timeout: 9S\r\nGrpc_Timeout: 9S\r\n\
    traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\
    tracestate: a=1\r\nbaggage: a=1\r\nx-kept: yes\r\n";

#[tokio::test]
async fn the_policy_of_the_service_holds_without_one_that_of_the_mesh_and_none_outbound() {
    let endpoint = Recorder::start().await;
    let listeners = &[APP, "direction: Inbound", "direction: Outbound"];
    let file = File::new("policy-trust", endpoint.address(), listeners);
    file.write(&[
        (OF_MESH, "trustCallers: false, maxRequests: 1, drainTimeout: 10m"),
        (OF_APP, "trustCallers: true"),
    ]);
    let (_proxy, addresses) = file.start(&[]).await;
    for (address, believed) in addresses.into_iter().zip([true, false, true]) {
        let answer = Client::connect(address).await.get(TOLD).await;
        assert!(answer.starts_with("http/1.1 200"), "{answer}");
        let seen = endpoint.requests().pop().unwrap();
        for field in ["grpc-timeout", "grpc_timeout", "traceparent", "tracestate", "baggage"] {
            assert_eq!(seen.all(field).len(), usize::from(believed), "{field}: {seen:?}");
        }
        assert_eq!(seen.all("x-kept"), ["yes"]);
    }
}

#[tokio::test]
async fn a_changed_policy_holds_from_the_next_request_on() {
    let endpoint = ScriptedEndpoint::http1(Reply::status(200)).await;
    endpoint.plan(|_, head| {
        if head.headers.contains_key("x-hang") { Reply::hang() } else { Reply::status(200) }
    });
    let file = File::new("policy-reload", endpoint.address(), &[APP]);
    file.write(&[]);
    let (proxy, addresses) = file.start(&[]).await;
    let mut client = Client::connect(addresses[0]).await;
    let seen = |field: &str| endpoint.arrivals().pop().unwrap().headers.contains_key(field);
    assert!(client.get(TOLD).await.starts_with("http/1.1 200") && seen("baggage"));

    file.write(&[(OF_APP, "maxRequests: 2, trustCallers: false")]);
    proxy.reload().await.unwrap();
    assert!(client.get(TOLD).await.starts_with("http/1.1 200") && !seen("baggage"));
    let mut waiting = Client::connect(addresses[0]).await;
    waiting.send("x-hang: 1\r\n").await;
    testkit::until("one is being served", || endpoint.in_flight() == 1).await;

    file.write(&[(OF_APP, "maxRequests: 1")]);
    proxy.reload().await.unwrap();
    let answer = client.get("").await;
    assert!(answer.starts_with("http/1.1 503"), "what is already served counts: {answer}");

    file.write(&[(OF_APP, "maxRequests: 0")]);
    assert!(proxy.reload().await.is_err());
    let answer = client.get("").await;
    assert!(answer.starts_with("http/1.1 503"), "a wrong file changes nothing: {answer}");

    file.write(&[(OF_APP, "timeout: 1s")]);
    proxy.reload().await.unwrap();
    assert!(client.get(TOLD).await.starts_with("http/1.1 200") && seen("baggage"));
    let answer = client.get("x-hang: 1\r\n").await;
    assert!(answer.starts_with("http/1.1 504"), "{answer}");
    assert_eq!(addresses, proxy.addresses().await, "the listener stayed");
}

#[tokio::test]
async fn how_long_a_drain_may_take_is_said_by_the_flag_else_by_the_longest_policy() {
    let endpoint = SocketAddr::from(([127, 0, 0, 1], 9));
    let seconds = |proxy: &Proxy| proxy.drain_timeout().as_secs();
    let policies = &[(OF_MESH, "drainTimeout: 7s"), (OF_APP, "drainTimeout: 5s")];

    let file = File::new("policy-drain-both", endpoint, &[APP, "direction: Inbound"]);
    file.write(policies);
    let (proxy, _) = file.start(&[]).await;
    assert_eq!(seconds(&proxy), 7);
    file.write(&[(OF_MESH, "drainTimeout: 7s"), (OF_APP, "drainTimeout: 50s")]);
    proxy.reload().await.unwrap();
    assert_eq!(seconds(&proxy), 50);
    let (proxy, _) = file.start(&["--drain-timeout", "3s"]).await;
    assert_eq!(seconds(&proxy), 3, "the flag has the last word");

    let file = File::new("policy-drain-own", endpoint, &[APP]);
    file.write(policies);
    assert_eq!(seconds(&file.start(&[]).await.0), 5);
    let file = File::new("policy-drain-out", endpoint, &["direction: Outbound"]);
    file.write(policies);
    assert_eq!(seconds(&file.start(&[]).await.0), 30, "none holds for outbound listeners");
}

#[tokio::test]
async fn a_drain_ends_when_the_policy_says() {
    let endpoint = ScriptedEndpoint::http1(Reply::hang()).await;
    let file = File::new("policy-drain", endpoint.address(), &[APP]);
    for (calls, (policy, flags)) in
        [("drainTimeout: 200ms", &[][..]), ("drainTimeout: 10m", &["--drain-timeout", "200ms"])]
            .into_iter()
            .enumerate()
    {
        file.write(&[(OF_APP, policy)]);
        let config = ["--config", file.path.to_str().unwrap()];
        let mut process = Process::start(&[&config, flags].concat());
        let mut waiting = Client::connect(process.proxy).await;
        waiting.send("").await;
        testkit::until("a call is in flight", || endpoint.calls() == calls as u64 + 1).await;
        let start = Instant::now();
        process.signal("TERM");
        assert_eq!(process.ended().await.code(), Some(1), "{policy}: a call was cut off");
        let took = start.elapsed();
        let allowed = Duration::from_millis(200)..SOON;
        assert!(allowed.contains(&took), "{policy} {flags:?}: {took:?}");
    }
}

#[tokio::test]
async fn what_is_shed_is_told_in_the_metrics() {
    let endpoint = ScriptedEndpoint::http1(Reply::hang()).await;
    let file = File::new("policy-metrics", endpoint.address(), &[APP]);
    file.write(&[(OF_APP, "maxRequests: 1")]);
    let process = Process::start(&["--config", file.path.to_str().unwrap()]);
    let mut waiting = Client::connect(process.proxy).await;
    waiting.send("").await;
    testkit::until("a call is in flight", || endpoint.in_flight() == 1).await;
    let get = b"GET / HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n";
    assert_eq!(statuses(&exchange(process.proxy, get).await), [503]);
    let (_, page) = process.admin("GET", "/metrics").await;
    let line = "mesh_server_shed_total{mesh_flag=\"overload_shed\"} 1";
    assert!(page.contains(line), "{page}");
}
