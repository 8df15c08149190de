//! Which destination a call goes to: routes, and names nobody configured.

use super::{addresses, call, get, mesh, service};
use http::{Method, Request, StatusCode};
use mesh_core::config::Source;
use mesh_discovery::{Dns, dns};
use mesh_tower::route::RouteLayer;
use mesh_tower::{Body, Channel, Error, ErrorKind, Mesh};
use std::net::SocketAddr;
use std::time::Duration;
use testkit::endpoint::{Reply, ScriptedEndpoint};
use testkit::net::Authority;
use tokio::net::UdpSocket;
use tokio::time::sleep;
use tower::{Layer, Service, ServiceExt};

fn route(rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: inventory }}\n\
         spec:\n  parentRefs: [{{ kind: Service, group: '', name: inventory }}]\n  rules:\n{rules}---\n"
    )
}

#[tokio::test]
async fn weights_split_the_calls() {
    const SEED: u64 = 11;
    println!("seed {SEED}");
    fastrand::seed(SEED);
    let endpoints = [
        ScriptedEndpoint::http1(Reply::status(200)).await,
        ScriptedEndpoint::http1(Reply::status(200)).await,
    ];
    let all = addresses(&endpoints);
    let mesh = mesh(&format!(
        "{}{}{}",
        service("inventory", &all[..1]),
        service("inventory-next", &all[1..]),
        route(
            "  - backendRefs: [{ name: inventory, weight: 3 }, { name: inventory-next, weight: 1 }]\n"
        ),
    ));
    for _ in 0..1_000 {
        get(&mesh, "http://inventory/").await.expect("an answer");
    }
    // Five standard deviations of 1,000 draws at 1 in 4.
    let share = endpoints[1].calls();
    assert!((180..=320).contains(&share), "{share} of 1,000");
    assert_eq!(endpoints[0].calls() + share, 1_000);
}

#[tokio::test]
async fn what_no_rule_takes_is_refused() {
    let endpoint = ScriptedEndpoint::http1(Reply::status(200)).await;
    let mesh = mesh(&format!(
        "{}{}",
        service("inventory", &[endpoint.address()]),
        route(
            "  - matches: [{ path: { type: PathPrefix, value: /items }, method: GET }]\n    backendRefs: [{ name: inventory }]\n"
        ),
    ));
    assert_eq!(get(&mesh, "http://inventory/items/7").await.expect("an answer"), StatusCode::OK);
    for (method, url) in
        [(Method::GET, "http://inventory/orders"), (Method::POST, "http://inventory/items")]
    {
        let error = call(&mesh, method, url, Body::empty()).await.expect_err("no rule");
        assert_eq!(
            (error.kind(), error.kind().status()),
            (ErrorKind::NoRoute, StatusCode::NOT_FOUND)
        );
        assert_eq!(error.destination(), Some("inventory"));
    }
    assert_eq!(endpoint.calls(), 1);
}

#[tokio::test]
async fn a_request_that_names_nobody_is_told_how_to() {
    let mesh = mesh("");
    let error = get(&mesh, "/items").await.expect_err("no authority");
    assert_eq!(error.kind(), ErrorKind::NoRoute);
    assert!(error.message().contains("http://inventory/items"), "{error}");

    let request = Request::get("/items").body(Body::empty()).expect("valid");
    let error = mesh.channel("not a name").oneshot(request).await.expect_err("no authority");
    assert_eq!(error.kind(), ErrorKind::NoRoute);
    assert!(error.message().contains("`not a name`"), "{error}");
}

#[tokio::test]
async fn a_channel_names_the_destination_whatever_the_case() {
    let endpoint = ScriptedEndpoint::http1(Reply::status(200)).await;
    let mesh = mesh(&service("inventory", &[endpoint.address()]));
    for name in ["inventory", "Inventory", "inventory.default", "INVENTORY:8080"] {
        let request = Request::get("/items").body(Body::empty()).expect("valid");
        let response = mesh.channel(name).oneshot(request).await.expect(name);
        assert_eq!(response.status(), StatusCode::OK, "{name}");
    }
    let arrivals = endpoint.arrivals();
    assert_eq!(arrivals[0].headers["host"], "inventory");
    assert_eq!(arrivals[0].uri, "/items");
}

#[tokio::test]
async fn names_nobody_configured_are_resolved() {
    let endpoint = ScriptedEndpoint::http1(Reply::status(200)).await;
    let mesh = mesh("");
    let port = endpoint.address().port();
    for host in ["127.0.0.1", "localhost", "LocalHost"] {
        let url = format!("http://{host}:{port}/");
        assert_eq!(get(&mesh, &url).await.expect("an answer"), StatusCode::OK, "{url}");
    }
    assert_eq!(mesh.destinations().len(), 2, "names are the same in any case");

    let request = Request::get("/").body(Body::empty()).expect("valid");
    let response = mesh.balance(&endpoint.address().to_string()).oneshot(request).await;
    assert_eq!(response.expect("an answer").status(), StatusCode::OK);
}

#[tokio::test]
async fn https_to_a_name_nobody_configured_is_verified() {
    let authority = Authority::new("nobody trusts it");
    let leaf = authority.issue(&["localhost"]);
    let endpoint =
        ScriptedEndpoint::https1(authority.server(&leaf, false, &[]), Reply::status(200)).await;
    let mesh = mesh("");
    let url = format!("https://localhost:{}/", endpoint.address().port());
    for _ in 0..2 {
        let error = get(&mesh, &url).await.expect_err("the system does not trust it");
        assert_eq!(error.kind(), ErrorKind::TlsUntrusted, "{error}");
    }
    assert_eq!(endpoint.calls(), 0);
}

#[tokio::test]
async fn https_to_a_service_without_tls_is_refused() {
    let endpoint = ScriptedEndpoint::http1(Reply::status(200)).await;
    let mesh = mesh(&service("inventory", &[endpoint.address()]));
    let error = get(&mesh, "https://inventory/").await.expect_err("it would go in plain text");
    assert_eq!(error.kind(), ErrorKind::Tls, "{error}");
    assert_eq!(error.destination(), Some("inventory"));
    assert!(error.message().contains("Service inventory has no `tls` section"), "{error}");
    assert_eq!((endpoint.connections(), error.attempts()), (0, 0));
    assert_eq!(get(&mesh, "http://inventory/").await.expect("an answer"), StatusCode::OK);
}

/// A name server that knows no name.
async fn nothing_there() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    let address = socket.local_addr().expect("bound");
    tokio::spawn(async move {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query).await {
            let Some(name) = query[12..length].iter().position(|byte| *byte == 0) else { continue };
            let mut answer = query[..12 + name + 5].to_vec();
            // A response, recursion available, NXDOMAIN; one question and nothing else.
            answer[2..12].copy_from_slice(&[0x81, 0x83, 0, 1, 0, 0, 0, 0, 0, 0]);
            let _ = socket.send_to(&answer, from).await;
        }
    });
    address
}

#[tokio::test]
async fn an_unknown_name_is_said_to_be_unknown() {
    let mut config = dns::Config::default();
    config.servers = vec![nothing_there().await];
    let mesh = Mesh::builder().dns(Dns::new(config)).build().expect("a mesh");
    for _ in 0..2 {
        let error = get(&mesh, "http://nowhere.example/").await.expect_err("no such name");
        assert_eq!(error.kind(), ErrorKind::Dns, "{error}");
        assert!(error.message().contains("nowhere.example"), "{error}");
        assert_eq!(error.destination(), Some("nowhere.example"));
    }
}

#[tokio::test]
async fn names_nobody_configured_are_no_more_than_a_thousand() {
    let endpoint = ScriptedEndpoint::http1(Reply::status(200)).await;
    let mesh = mesh("");
    let known = format!("http://{}/", endpoint.address());
    get(&mesh, &known).await.expect("an answer");
    for port in 1..1024 {
        drop(mesh.balance(&format!("192.0.2.1:{port}")));
    }
    assert_eq!(mesh.destinations().len(), 1024);
    let error = get(&mesh, "http://192.0.2.1:2000/").await.expect_err("one too many");
    assert_eq!(error.kind(), ErrorKind::NoDestination, "{error}");
    assert!(error.message().contains("configure the ones you need"), "{error}");
    let error =
        get(&mesh, "https://192.0.2.1:2000/").await.expect_err("the scheme is no way around");
    assert_eq!(error.kind(), ErrorKind::NoDestination, "{error}");
    assert_eq!(get(&mesh, &known).await.expect("known names go on"), StatusCode::OK);
    let refused: Vec<_> = mesh.metrics().other().sheds().collect();
    assert_eq!(refused, [(ErrorKind::NoDestination, 2)], "they are counted");
}

fn names(mesh: &Mesh) -> Vec<String> {
    let mut names: Vec<_> = mesh.destinations().iter().map(|one| one.name.to_string()).collect();
    names.sort();
    names
}

#[tokio::test(start_paused = true)]
async fn names_nobody_configured_are_forgotten_when_nobody_uses_them() {
    let mesh = mesh("");
    let held = mesh.balance("192.0.2.1:1");
    drop(mesh.balance("192.0.2.1:2"));
    sleep(Duration::from_secs(240)).await;
    drop(mesh.balance("192.0.2.1:3"));
    assert_eq!(names(&mesh), ["192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3"]);

    sleep(Duration::from_secs(90)).await;
    assert_eq!(names(&mesh), ["192.0.2.1:1", "192.0.2.1:3"], "5 minutes and a sweep later");
    let counted: Vec<_> =
        mesh.metrics().destinations().iter().map(|one| one.name().to_owned()).collect();
    assert_eq!(counted, ["192.0.2.1:1", "192.0.2.1:3"], "its counters went with it");

    drop(held);
    for _ in 0..4 {
        sleep(Duration::from_secs(90)).await;
        drop(mesh.balance("192.0.2.1:3"));
    }
    assert_eq!(names(&mesh), ["192.0.2.1:3"], "what is called stays");
    sleep(Duration::from_secs(400)).await;
    assert!(names(&mesh).is_empty());
    // And once more, since the first sweep has ended.
    drop(mesh.balance("192.0.2.1:2"));
    sleep(Duration::from_secs(400)).await;
    assert!(names(&mesh).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_full_table_makes_room_after_a_minute() {
    let mesh = mesh("");
    for port in 1..=1024 {
        drop(mesh.balance(&format!("192.0.2.1:{port}")));
    }
    sleep(Duration::from_secs(50)).await;
    drop(mesh.balance("192.0.2.1:7"));
    let request = Request::get("/").body(Body::empty()).expect("valid");
    let refused = mesh.balance("192.0.2.1:2000").oneshot(request).await.expect_err("no room yet");
    assert_eq!(refused.kind(), ErrorKind::NoDestination, "{refused}");
    sleep(Duration::from_secs(20)).await;
    drop(mesh.balance("192.0.2.1:2000"));
    assert_eq!(names(&mesh), ["192.0.2.1:2000", "192.0.2.1:7"]);
}

#[tokio::test(start_paused = true)]
async fn route_keeps_the_contract_of_layers() {
    let layer = RouteLayer::new(mesh("")).authority("127.0.0.1:9");
    testkit::contract::check(
        |inner| layer.layer(inner),
        || Request::get("/").body(Body::empty()).expect("valid"),
        || http::Response::new(Body::empty()),
    )
    .await;
}

#[test]
fn a_channel_goes_anywhere() {
    fn anywhere<T: Clone + Send + Sync + 'static>() {}
    fn future<S: Service<Request<Body>, Error = Error, Future: Send + 'static>>() {}
    anywhere::<Mesh>();
    anywhere::<Channel>();
    anywhere::<mesh_tower::balance::Balance>();
    future::<Channel>();
    future::<mesh_tower::balance::Balance>();
}

#[tokio::test]
async fn a_channel_to_a_destination_asks_its_routes_and_no_host() {
    let endpoint = ScriptedEndpoint::http1(Reply::status(200)).await;
    let other = ScriptedEndpoint::http1(Reply::status(200)).await;
    let wide = service("other", &[other.address()]).replace("spec: {", "spec: { hostnames: ['*'],");
    let route = route(
        "  - matches: [{ path: { value: /items } }]\n    backendRefs: [{ name: inventory }]\n",
    );
    let mesh = mesh(&(service("inventory", &[endpoint.address()]) + &wide + &route));
    let name = "inventory".parse().expect("a name");
    let call = async |url: &str| {
        let request = Request::get(url).body(Body::empty()).expect("valid");
        mesh.channel_to(&name).oneshot(request).await.map(|response| response.status())
    };
    for url in ["/items", "http://inventory/items", "http://other/items", "http://nowhere:1/items"]
    {
        assert_eq!(call(url).await.expect("an answer"), StatusCode::OK, "{url}");
    }
    for url in ["/", "http://other/", "http://nowhere:1/"] {
        let error = call(url).await.expect_err("no rule takes it");
        let found = (error.kind(), error.destination());
        assert_eq!(found, (ErrorKind::NoRoute, Some("inventory")), "{url}: {error}");
    }
    assert_eq!((endpoint.calls(), other.calls()), (4, 0));

    mesh.configure(&[Source::new("test", wide)]).expect("valid");
    let error = call("/items").await.expect_err("it is gone");
    assert_eq!(error.kind(), ErrorKind::NoDestination, "{error}");
}
