//! Byte streams: where a `TCPRoute` sends them, and which policy holds.

use super::{LIMIT, mesh, seen, service};
use mesh_tower::{ErrorKind, Mesh};
use std::net::SocketAddr;
use std::time::Duration;
use testkit::endpoint::BlackHole;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};

/// An endpoint that greets whoever connects with one byte.
async fn greeter(greeting: u8) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, &[greeting]).await;
        }
    });
    address
}

/// A port where nobody listens.
async fn closed() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    listener.local_addr().expect("bound")
}

/// A `TCPRoute` of `inventory`.
fn route(backends: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: TCPRoute\nmetadata: {{ name: split }}\n\
         spec:\n  parentRefs: [{{ kind: Service, name: inventory }}]\n  \
         rules: [{{ backendRefs: [{backends}] }}]\n---\n"
    )
}

/// A policy of that route.
fn policy(spec: &str) -> String {
    format!(
        "apiVersion: mesh/v1\nkind: TrafficPolicy\nmetadata: {{ name: split }}\n\
         spec: {{ targetRef: {{ kind: TCPRoute, name: split }}, {spec} }}\n---\n"
    )
}

async fn greeted(mesh: &Mesh) -> u8 {
    let mut stream = mesh.relay("inventory").await.expect("connected");
    let mut greeting = [0];
    stream.read_exact(&mut greeting).await.expect("a greeting");
    greeting[0]
}

#[tokio::test]
async fn streams_spread_over_the_destinations_of_a_tcp_route_by_weight() {
    const SEED: u64 = 12;
    println!("seed {SEED}");
    fastrand::seed(SEED);
    let config = service("inventory", &[greeter(b'a').await])
        + &service("b", &[greeter(b'b').await])
        + &service("c", &[greeter(b'c').await])
        + &service("d", &[greeter(b'd').await])
        + &route("{ name: b, weight: 3 }, { name: c }, { name: d, weight: 0 }");
    let mesh = mesh(&config);
    let mut counts = [0_u32; 4];
    for _ in 0..400 {
        counts[usize::from(greeted(&mesh).await - b'a')] += 1;
    }
    let [a, b, c, d] = counts;
    assert_eq!((a, d, b + c), (0, 0, 400), "{counts:?}");
    // Six standard deviations around 100.
    assert!((48..=152).contains(&c), "{counts:?}");
}

#[tokio::test]
async fn without_a_tcp_route_a_stream_goes_to_the_destination_itself() {
    let config =
        service("inventory", &[greeter(b'a').await]) + &service("b", &[greeter(b'b').await]);
    assert_eq!(greeted(&mesh(&config)).await, b'a');
}

#[tokio::test]
async fn the_policy_of_the_route_says_how_many_endpoints_are_tried() {
    for (attempts, tried) in [(0, 1), (2, 3)] {
        let endpoints = [closed().await, closed().await, closed().await, closed().await];
        let config = service("inventory", &[greeter(b'a').await])
            + &service("b", &endpoints)
            + &route("{ name: b }")
            + &policy(&format!("retry: {{ attempts: {attempts} }}"));
        let mesh = mesh(&config);
        let error = mesh.relay("inventory").await.expect_err("nobody listens");
        assert_eq!(error.destination(), Some("b"), "{error}");
        let attempts: u64 = seen(&mesh, "b").endpoints.iter().map(|one| one.attempts).sum();
        assert_eq!(attempts, tried, "{error}");
    }
}

#[tokio::test]
async fn it_may_take_as_long_as_the_policy_of_the_route_says() {
    let hole = BlackHole::open().expect("a full backlog");
    let config = service("inventory", &[greeter(b'a').await])
        + &service("b", &[hole.address()])
        + &route("{ name: b }")
        + &super::policy("timeouts: { connect: 1h }")
        + &policy("timeouts: { request: 300ms }");
    let start = Instant::now();
    let relay = mesh(&config);
    let error = timeout(LIMIT, relay.relay("inventory")).await.expect("an end");
    let error = error.expect_err("nobody answers");
    assert_eq!((error.kind(), error.destination()), (ErrorKind::Deadline, Some("b")), "{error}");
    assert!(start.elapsed() >= Duration::from_millis(300));
}
