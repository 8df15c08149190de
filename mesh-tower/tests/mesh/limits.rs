//! Limits and breakers: refused at once, and for how long.

use super::{LIMIT, attempts, get, mesh, policy, seen, service, state};
use http::StatusCode;
use mesh_tower::{ErrorKind, Mesh};
use std::time::Duration;
use testkit::endpoint::{BlackHole, Reply, ScriptedEndpoint};
use testkit::until;
use tokio::time::timeout;
use tower_service::Service as _;

#[tokio::test]
async fn one_request_too_many_is_refused_at_once() {
    let endpoint = ScriptedEndpoint::http1(Reply::hang()).await;
    let service = service("inventory", &[endpoint.address()]);
    let mesh = mesh(&format!("{}{service}", policy("limits: { maxRequests: 2 }")));
    let calls: Vec<_> = (0..2)
        .map(|_| {
            let mesh = mesh.clone();
            tokio::spawn(async move { get(&mesh, "http://inventory/").await })
        })
        .collect();
    until("both are in flight", || endpoint.in_flight() == 2).await;

    let error = timeout(LIMIT, get(&mesh, "http://inventory/")).await.expect("at once");
    let error = error.expect_err("two are in flight");
    assert_eq!(error.kind(), ErrorKind::Overflow, "{error}");
    assert_eq!((error.destination(), error.attempts()), (Some("inventory"), 0), "{error}");
    assert_eq!(endpoint.calls(), 2);

    endpoint.set(Reply::status(200));
    calls[0].abort();
    until("one place is free", || endpoint.in_flight() == 1).await;
    assert_eq!(get(&mesh, "http://inventory/").await.expect("an answer"), StatusCode::OK);
}

/// What was refused at a destination so far.
fn shed(mesh: &Mesh) -> Vec<(ErrorKind, u64)> {
    mesh.metrics().destination("inventory").sheds().collect()
}

#[tokio::test]
async fn one_connection_too_many_is_refused_at_once() {
    let endpoint = ScriptedEndpoint::http1(Reply::hang()).await;
    let service = service("inventory", &[endpoint.address()]);
    let limit = "limits: { maxConnections: 1 }, retry: { attempts: 0 }";
    let mesh = mesh(&format!("{}{service}", policy(limit)));
    let first = tokio::spawn({
        let mesh = mesh.clone();
        async move { get(&mesh, "http://inventory/").await }
    });
    until("it is in flight", || endpoint.in_flight() == 1).await;

    let error = timeout(LIMIT, get(&mesh, "http://inventory/")).await.expect("at once");
    let error = error.expect_err("the connection is taken");
    assert_eq!(error.kind(), ErrorKind::Overflow, "{error}");
    let message = "the limit of 1 connections is reached (limits.maxConnections)";
    assert_eq!(error.message(), message);
    assert!(!error.may_have_reached());
    assert_eq!(error.endpoint(), Some(&*endpoint.address().to_string()));
    assert_eq!(shed(&mesh), [(ErrorKind::Overflow, 1)]);
    assert_eq!((endpoint.calls(), endpoint.connections()), (1, 1));
    assert_eq!(state(&mesh, "inventory", endpoint.address()), "ready", "not its fault");

    endpoint.set(Reply::status(200));
    first.abort();
    assert!(first.await.expect_err("aborted").is_cancelled());
    for _ in 0..3 {
        assert_eq!(get(&mesh, "http://inventory/").await.expect("an answer"), StatusCode::OK);
    }
    assert_eq!(endpoint.connections(), 2, "the idle connection is used again");
    assert_eq!(shed(&mesh), [(ErrorKind::Overflow, 1)]);
}

#[tokio::test]
async fn one_call_too_many_that_waits_for_a_connection_is_refused_at_once() {
    let hole = BlackHole::open().expect("a full backlog");
    let service = service("inventory", &[hole.address()]);
    let limit = "limits: { maxPendingRequests: 1 }, timeouts: { connect: 500ms }, \
                 retry: { attempts: 0 }";
    let mesh = mesh(&format!("{}{service}", policy(limit)));
    let first = tokio::spawn({
        let mesh = mesh.clone();
        async move { get(&mesh, "http://inventory/").await }
    });
    until("it waits", || attempts(&mesh, "inventory", hole.address()) == 1).await;

    let error = get(&mesh, "http://inventory/").await.expect_err("one waits already");
    assert_eq!(error.kind(), ErrorKind::Overflow, "{error}");
    let message = "the limit of 1 pending is reached (limits.maxPendingRequests)";
    assert_eq!(error.message(), message);
    assert_eq!(shed(&mesh), [(ErrorKind::Overflow, 1)]);
    assert!(!first.is_finished());

    first.abort();
    assert!(first.await.expect_err("aborted").is_cancelled());
    let error = get(&mesh, "http://inventory/").await.expect_err("nobody answers");
    assert_eq!(error.kind(), ErrorKind::NoHealthyEndpoint, "it waited: {error}");
    assert_eq!(shed(&mesh), [(ErrorKind::Overflow, 1)]);
}

#[tokio::test]
async fn an_endpoint_at_its_limit_of_connections_sends_calls_elsewhere() {
    let slow = ScriptedEndpoint::http1(Reply::hang()).await;
    let other = ScriptedEndpoint::http1(Reply::status(200)).await;
    let service = service("inventory", &[slow.address(), other.address()]);
    let limit = "endpointLimits: { maxConnections: 1 }, pick: { policy: RoundRobin }";
    let mesh = mesh(&format!("{}{service}", policy(limit)));
    let stuck: Vec<_> = (0..2)
        .map(|_| {
            let mesh = mesh.clone();
            tokio::spawn(async move { get(&mesh, "http://inventory/").await })
        })
        .collect();
    // Not when the other has answered: the call holds its connection until it has read that.
    let one_is_over = || stuck.iter().any(tokio::task::JoinHandle::is_finished);
    until("one is stuck, one is over", || slow.in_flight() == 1 && one_is_over()).await;
    for _ in 0..20 {
        assert_eq!(get(&mesh, "http://inventory/").await.expect("an answer"), StatusCode::OK);
    }
    assert_eq!((slow.calls(), slow.connections(), other.connections()), (1, 1, 1));
    drop(stuck);
}

/// Over HTTP/2 one connection carries many calls, so the limit of connections refuses none.
#[tokio::test]
async fn http2_calls_share_the_one_connection_they_may_have() {
    let endpoint = ScriptedEndpoint::http2(Reply::hang()).await;
    let service = service("inventory", &[endpoint.address()]);
    let limit = "limits: { maxConnections: 1 }, protocol: Http2, retry: { attempts: 0 }";
    let mesh = mesh(&format!("{}{service}", policy(limit)));
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let mesh = mesh.clone();
            tokio::spawn(async move { get(&mesh, "http://inventory/").await })
        })
        .collect();
    until("all are in flight", || endpoint.in_flight() == 50).await;
    assert_eq!(endpoint.connections(), 1);
    assert!(shed(&mesh).is_empty());
    calls.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_breaker_opens_lets_one_probe_through_and_closes() {
    let endpoint = ScriptedEndpoint::http1(Reply::status(503)).await;
    let service = service("inventory", &[endpoint.address()]);
    let breaker = "breaker: { consecutiveFailures: 3, open: 200ms, jitter: 0 }, \
                   outlier: { consecutive5xx: 0 }, retry: { attempts: 0 }";
    let mesh = mesh(&format!("{}{service}", policy(breaker)));
    for _ in 0..3 {
        let status = get(&mesh, "http://inventory/").await.expect("an answer");
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    }

    let error = get(&mesh, "http://inventory/").await.expect_err("the breaker is open");
    assert_eq!(error.kind(), ErrorKind::Overflow, "{error}");
    let why =
        format!("its only endpoint cannot take a call: {} is breaker open", endpoint.address());
    assert!(error.message().starts_with(&why), "{error}");
    assert_eq!(shed(&mesh), [(ErrorKind::Overflow, 1)]);
    assert_eq!(endpoint.calls(), 3);
    let open = state(&mesh, "inventory", endpoint.address());
    assert!(open.starts_with("breaker open: 3 failures in a row"), "{open}");

    let due = "breaker open: 3 failures in a row, the next call is the probe";
    until("it is due", || state(&mesh, "inventory", endpoint.address()) == due).await;
    endpoint.set(Reply::status(200).after(Duration::from_millis(200)));
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let mesh = mesh.clone();
            tokio::spawn(async move { get(&mesh, "http://inventory/").await })
        })
        .collect();
    let mut served = 0;
    for call in calls {
        match call.await.expect("does not panic") {
            Ok(status) => served += u32::from(status == StatusCode::OK),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Overflow, "{error}"),
        }
    }
    assert_eq!((served, endpoint.calls()), (1, 4), "one probe");

    assert_eq!(state(&mesh, "inventory", endpoint.address()), "ready");
    assert_eq!(get(&mesh, "http://inventory/").await.expect("an answer"), StatusCode::OK);
}

#[tokio::test]
async fn an_open_breaker_sends_calls_elsewhere() {
    let bad = ScriptedEndpoint::http1(Reply::status(503)).await;
    let good = ScriptedEndpoint::http1(Reply::status(200)).await;
    let service = service("inventory", &[bad.address(), good.address()]);
    let breaker = "breaker: { consecutiveFailures: 2, open: 60s }, pick: { policy: RoundRobin }";
    let mesh = mesh(&format!("{}{service}", policy(breaker)));
    for _ in 0..50 {
        assert_eq!(get(&mesh, "http://inventory/").await.expect("an answer"), StatusCode::OK);
    }
    assert_eq!(bad.calls(), 2);
    assert_eq!(seen(&mesh, "inventory").retries, 2);
}

#[tokio::test]
async fn an_endpoint_at_its_limit_sends_calls_elsewhere() {
    let slow = ScriptedEndpoint::http1(Reply::hang()).await;
    let other = ScriptedEndpoint::http1(Reply::status(200)).await;
    let service = service("inventory", &[slow.address(), other.address()]);
    let limit = "endpointLimits: { maxRequests: 1 }, pick: { policy: RoundRobin }";
    let mesh = mesh(&format!("{}{service}", policy(limit)));
    let stuck: Vec<_> = (0..2)
        .map(|_| {
            let mesh = mesh.clone();
            tokio::spawn(async move { get(&mesh, "http://inventory/").await })
        })
        .collect();
    let in_flight = || -> u32 {
        seen(&mesh, "inventory").endpoints.iter().map(|endpoint| endpoint.in_flight).sum()
    };
    until("one is stuck, the other done", || {
        slow.in_flight() == 1 && other.calls() == 1 && in_flight() == 1
    })
    .await;
    for _ in 0..20 {
        assert_eq!(get(&mesh, "http://inventory/").await.expect("an answer"), StatusCode::OK);
    }
    assert_eq!(slow.calls(), 1);
    drop(stuck);
}

#[tokio::test]
async fn the_server_layer_follows_the_policy_of_its_service() {
    let policy = |target: &str, requests: u32| {
        format!(
            "apiVersion: mesh/v1\nkind: ServerPolicy\nmetadata: {{ name: p{requests} }}\n\
             spec: {{ targetRef: {target}, maxRequests: {requests} }}\n---\n"
        )
    };
    let config = format!(
        "{}{}{}",
        policy("{ kind: Mesh }", 2),
        policy("{ kind: Service, name: inventory }", 1),
        super::service("inventory", &[std::net::SocketAddr::from(([127, 0, 0, 1], 9))]),
    );
    let named = |name: Option<&str>| {
        let builder = mesh_tower::Mesh::builder().config_text("test", config.as_str());
        match name {
            Some(name) => builder.service(name.parse().expect("a name")),
            None => builder,
        }
        .build()
        .expect("a mesh")
    };
    for (name, allowed) in [(Some("inventory"), 1), (Some("other"), 2), (None, 2)] {
        let hanging = tower::service_fn(|_: http::Request<mesh_tower::Body>| {
            std::future::pending::<Result<http::Response<mesh_tower::Body>, std::io::Error>>()
        });
        let mut server = tower_layer::Layer::layer(&named(name).server(), hanging);
        let mut held = Vec::new();
        for _ in 0..allowed {
            let mut serving = Box::pin(server.call(http::Request::new(mesh_tower::Body::empty())));
            assert!(is_pending(serving.as_mut()), "{name:?}");
            held.push(serving);
        }
        let refused =
            server.call(http::Request::new(mesh_tower::Body::empty())).await.expect("an answer");
        assert_eq!(refused.status(), http::StatusCode::SERVICE_UNAVAILABLE, "{name:?}");
    }
}

fn is_pending(future: std::pin::Pin<&mut impl Future>) -> bool {
    future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_pending()
}
