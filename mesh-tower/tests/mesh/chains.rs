//! Consul's entries on real sockets: routes that rewrite, and who stands in for a service that is down.

use super::{get, mesh, service, state};
use http::StatusCode;
use testkit::endpoint::{Reply, ScriptedEndpoint};
use testkit::until;

#[tokio::test]
async fn a_router_sends_and_rewrites() {
    let app = ScriptedEndpoint::http1(Reply::status(200)).await;
    let admin = ScriptedEndpoint::http1(Reply::status(201)).await;
    let config = service("app", &[app.address()])
        + &service("admin", &[admin.address()])
        + "Kind: service-router\nName: app\nRoutes:\n\
           - Match: { HTTP: { PathPrefix: /admin } }\n  \
             Destination: { Service: admin, PrefixRewrite: /, RequestHeaders: { Set: { x-by: router } } }\n";
    let mesh = mesh(&config);
    let answer = get(&mesh, "http://app/admin/users?all=1").await.expect("an answer");
    assert_eq!(answer, StatusCode::CREATED);
    let arrived = &admin.arrivals()[0];
    assert_eq!(arrived.uri.to_string(), "/users?all=1");
    assert_eq!(arrived.headers["x-by"], "router");
    assert_eq!(get(&mesh, "http://app/users").await.expect("an answer"), StatusCode::OK);
    assert_eq!((app.calls(), admin.calls()), (1, 1));
}

#[tokio::test]
async fn another_service_stands_in_while_no_endpoint_is_up() {
    let mut own = ScriptedEndpoint::http1(Reply::status(200)).await;
    let other = ScriptedEndpoint::http1(Reply::status(201)).await;
    let config = service("app", &[own.address()])
        + &service("backup", &[other.address()])
        + "Kind: service-resolver\nName: app\nFailover: { '*': { Service: backup } }\n";
    let mesh = mesh(&config);
    assert_eq!(get(&mesh, "http://app/").await.expect("an answer"), StatusCode::OK);
    own.kill().await;
    // The first call finds out; from then on the endpoint is known to be out.
    let _found_out = get(&mesh, "http://app/").await;
    until("it is out", || !state(&mesh, "app", own.address()).starts_with("ready")).await;
    for _ in 0..10 {
        assert_eq!(get(&mesh, "http://app/").await.expect("an answer"), StatusCode::CREATED);
    }
    assert_eq!(other.calls(), 10);
    own.restart();
    until("it is back", || state(&mesh, "app", own.address()).starts_with("ready")).await;
    assert_eq!(get(&mesh, "http://app/").await.expect("an answer"), StatusCode::OK);
}

/// A call that asks for TLS is not sent in plain text by whoever stands in.
#[tokio::test]
async fn who_stands_in_must_be_as_safe() {
    let plain = ScriptedEndpoint::http1(Reply::status(200)).await;
    let config = "apiVersion: mesh/v1\nkind: Service\nmetadata: { name: app }\n\
        spec: { endpoints: { static: [] }, tls: { serverName: app.test } }\n---\n"
        .to_owned()
        + &service("backup", &[plain.address()])
        + "Kind: service-resolver\nName: app\nFailover: { '*': { Service: backup } }\n";
    let mesh = mesh(&config);
    let answer = async || {
        let answer = get(&mesh, "https://app/").await;
        answer.expect_err("nobody takes it").kind()
    };
    until("nobody is known", || mesh.destinations().iter().any(|d| &*d.name == "app")).await;
    let kind = answer().await;
    assert!(matches!(kind, mesh_tower::ErrorKind::Tls | mesh_tower::ErrorKind::NoHealthyEndpoint));
    let kind = answer().await;
    assert_eq!(kind, mesh_tower::ErrorKind::Tls);
    assert_eq!(plain.calls(), 0);
}
