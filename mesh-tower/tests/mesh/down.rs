//! Endpoints that cannot be reached.

use super::{LIMIT, addresses, attempts, call, get, mesh, policy, seen, service, state};
use http::{Method, StatusCode};
use mesh_tower::{Body, ErrorKind};
use std::time::Duration;
use testkit::endpoint::{BlackHole, Reply, ScriptedEndpoint};
use testkit::until;
use tokio::time::{Instant, timeout};

#[tokio::test]
async fn with_every_endpoint_down_the_error_says_why_at_once_and_ends_by_itself() {
    let mut endpoints = Vec::new();
    for _ in 0..3 {
        endpoints.push(ScriptedEndpoint::http1(Reply::status(200)).await);
    }
    let mesh = mesh(&service("inventory", &addresses(&endpoints)));
    assert_eq!(get(&mesh, "http://inventory/").await.expect("an answer"), StatusCode::OK);
    for endpoint in &mut endpoints {
        endpoint.kill().await;
    }

    // The first calls find out, the next ones know.
    let error = timeout(LIMIT, async {
        loop {
            let error = get(&mesh, "http://inventory/").await.expect_err("nobody is there");
            if error.kind() == ErrorKind::NoHealthyEndpoint {
                return error;
            }
        }
    })
    .await
    .expect("found out");
    assert_eq!(error.destination(), Some("inventory"));
    assert!(error.message().contains("none of its 3 endpoints can be reached"), "{error}");
    assert!(error.message().contains("refused the connection"), "{error}");

    let before = seen(&mesh, "inventory").attempts;
    for _ in 0..100 {
        let error = get(&mesh, "http://inventory/").await.expect_err("nobody is there");
        assert_eq!(error.kind(), ErrorKind::NoHealthyEndpoint, "{error}");
    }
    assert_eq!(seen(&mesh, "inventory").attempts, before, "refused without trying");
    for endpoint in &endpoints {
        let state = state(&mesh, "inventory", endpoint.address());
        assert!(state.starts_with("unreachable: "), "{state}");
    }

    for endpoint in &mut endpoints {
        endpoint.restart();
    }
    let ready = |mesh: &mesh_tower::Mesh| {
        seen(mesh, "inventory").endpoints.iter().all(|one| one.state.to_string() == "ready")
    };
    until("all are reached again, without any call", || ready(&mesh)).await;
    assert_eq!(get(&mesh, "http://inventory/").await.expect("an answer"), StatusCode::OK);
}

#[tokio::test]
async fn a_black_hole_costs_one_connect_timeout_and_then_nothing() {
    let hole = BlackHole::open().expect("a full backlog");
    let good = ScriptedEndpoint::http1(Reply::status(200)).await;
    let other = ScriptedEndpoint::http1(Reply::status(200)).await;
    let mesh = mesh(&format!(
        "{}{}",
        policy("timeouts: { connect: 300ms }, pick: { policy: RoundRobin }"),
        service("inventory", &[hole.address(), good.address(), other.address()])
    ));

    let mut longest = Duration::ZERO;
    for _ in 0..300 {
        let begin = Instant::now();
        assert_eq!(get(&mesh, "http://inventory/").await.expect("an answer"), StatusCode::OK);
        longest = longest.max(begin.elapsed());
    }
    println!("the longest call took {longest:?}");
    assert!(longest >= Duration::from_millis(300), "one waited for the connect timeout");
    assert_eq!(attempts(&mesh, "inventory", hole.address()), 1, "and no other tried");
    assert!(state(&mesh, "inventory", hole.address()).starts_with("unreachable: "));
}

/// The panic threshold spreads load over endpoints that answer badly, not over those that do not
/// answer at all.
#[tokio::test]
async fn the_last_reachable_endpoint_serves_when_all_others_are_black_holes() {
    let holes = [BlackHole::open().expect("one"), BlackHole::open().expect("two")];
    let good = ScriptedEndpoint::http1(Reply::status(200)).await;
    let mesh = mesh(&format!(
        "{}{}",
        policy("timeouts: { connect: 200ms }"),
        service("inventory", &[holes[0].address(), holes[1].address(), good.address()])
    ));
    let unreachable = || {
        holes.iter().all(|hole| state(&mesh, "inventory", hole.address()).starts_with("unreach"))
    };
    timeout(LIMIT, async {
        while !unreachable() {
            // May fail: both attempts can meet a black hole.
            let _ = get(&mesh, "http://inventory/").await;
        }
    })
    .await
    .expect("both are found out");

    let begin = Instant::now();
    for _ in 0..50 {
        assert_eq!(get(&mesh, "http://inventory/").await.expect("an answer"), StatusCode::OK);
    }
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_post_goes_elsewhere_when_there_is_no_connection() {
    let good = ScriptedEndpoint::http1(Reply::status(200)).await;
    let mut dead = ScriptedEndpoint::http1(Reply::status(200)).await;
    dead.kill().await;
    let mesh = mesh(&service("inventory", &[dead.address(), good.address()]));
    let tried = || attempts(&mesh, "inventory", dead.address());
    timeout(LIMIT, async {
        while tried() == 0 {
            let answer = call(&mesh, Method::POST, "http://inventory/", "order".into()).await;
            assert_eq!(answer.expect("an answer"), StatusCode::OK);
        }
    })
    .await
    .expect("the dead one is tried");
    let bodies = good.body_bytes();
    assert_eq!(bodies, 5 * good.calls(), "each body arrived whole");
}

#[tokio::test]
async fn a_call_that_waits_for_its_only_endpoint_says_whom_it_waited_for() {
    let hole = BlackHole::open().expect("a full backlog");
    let mesh = mesh(&format!(
        "{}{}",
        policy("timeouts: { connect: 5s, request: 200ms }"),
        service("inventory", &[hole.address()])
    ));
    let error = call(&mesh, Method::GET, "http://inventory/", Body::empty())
        .await
        .expect_err("nobody answers");
    assert_eq!(error.kind(), ErrorKind::Deadline);
    assert_eq!(error.destination(), Some("inventory"), "{error}");
}

#[tokio::test]
async fn a_connection_that_breaks_takes_a_dead_endpoint_out_before_the_next_call() {
    let mut endpoints = vec![
        ScriptedEndpoint::http1(Reply::status(200).after(LIMIT)).await,
        ScriptedEndpoint::http1(Reply::status(200)).await,
    ];
    let service = service("inventory", &addresses(&endpoints));
    let mesh = mesh(&format!("{}{service}", policy("pick: { policy: RoundRobin }")));
    let calls: Vec<_> = (0..2)
        .map(|_| {
            let mesh = mesh.clone();
            tokio::spawn(async move { get(&mesh, "http://inventory/").await })
        })
        .collect();
    until("one of two is in flight there", || endpoints[0].calls() == 1).await;

    endpoints[0].kill().await;

    for call in calls {
        let status = timeout(LIMIT, call).await.expect("in time").expect("no panic");
        assert_eq!(status.expect("tried again elsewhere"), StatusCode::OK);
    }
    let there = endpoints[0].address();
    until("it is out", || state(&mesh, "inventory", there).starts_with("unreachable: ")).await;
    assert_eq!(attempts(&mesh, "inventory", there), 1, "no other call found out");
}

#[tokio::test]
async fn an_endpoint_file_that_cannot_be_read_is_no_failure_of_dns() {
    let mesh = mesh(
        "apiVersion: mesh/v1\nkind: Service\nmetadata: { name: inventory }\n\
         spec: { endpoints: { file: /does/not/exist.yaml } }\n",
    );
    let error = get(&mesh, "http://inventory/").await.expect_err("there is no list");
    assert_eq!(error.kind(), ErrorKind::NoHealthyEndpoint, "{error}");
    assert!(error.message().starts_with("cannot read /does/not/exist.yaml: "), "{error}");
    assert_eq!(error.destination(), Some("inventory"));
}
