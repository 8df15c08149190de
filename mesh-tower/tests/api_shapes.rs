//! The shapes in which users meet the mesh, each against real servers on loopback.
#![cfg(all(feature = "axum", feature = "tonic", feature = "reqwest"))]

use axum::extract::Path;
use axum::routing::{get, post};
use axum::{Json, Router};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use mesh_tower::deadline::DeadlineLayer;
use mesh_tower::retry::RetryLayer;
use mesh_tower::{Body, ErrorKind, Mesh, SendVia};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use testkit::greeter::Hello;
use testkit::greeter::proto::greeter_client::GreeterClient;
use testkit::greeter::proto::greeter_server::GreeterServer;
use testkit::greeter::proto::{HelloManyRequest, HelloRequest};
use tokio::sync::Notify;
use tokio::time::timeout;
use tower::{ServiceBuilder, ServiceExt};

const LIMIT: Duration = Duration::from_secs(10);
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

#[derive(Debug, Deserialize, PartialEq, Serialize)]
struct Item {
    id: u32,
}

/// A mesh that knows these destinations.
fn mesh(destinations: &[(&str, SocketAddr)]) -> Mesh {
    let documents: Vec<_> = destinations
        .iter()
        .map(|(name, address)| {
            format!(
                "apiVersion: mesh/v1\nkind: Service\nmetadata: {{ name: {name} }}\n\
                 spec: {{ endpoints: {{ static: ['{address}'] }} }}\n"
            )
        })
        .collect();
    let builder = Mesh::builder().config_text("test", documents.join("---\n"));
    builder.build().expect("a valid configuration")
}

/// Serves a router the way a user does.
async fn serve(app: Router) -> SocketAddr {
    let mesh = mesh(&[]);
    let listener = mesh.listen("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr();
    let app = app.layer(mesh.server());
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

async fn inventory() -> SocketAddr {
    let item = |Path(id): Path<u32>| async move { Json(Item { id }) };
    serve(
        Router::new()
            .route("/items/{id}", get(item))
            .route("/echo", post(|body: Json<Item>| async { body })),
    )
    .await
}

async fn greeter() -> SocketAddr {
    let mesh = mesh(&[]);
    let listener = mesh.listen("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr();
    let server = tonic::transport::Server::builder()
        .layer(mesh.server())
        .add_service(GreeterServer::new(Hello::new("one")))
        .serve_with_incoming(listener.incoming());
    tokio::spawn(server);
    address
}

fn hello(name: &str) -> HelloRequest {
    HelloRequest { name: name.into() }
}

#[tokio::test]
async fn a_tonic_client_over_a_channel() {
    let mesh = mesh(&[("greeter", greeter().await)]);
    let mut greeter = GreeterClient::new(mesh.channel("greeter"));

    let reply = greeter.say_hello(hello("ada")).await.expect("a reply").into_inner();
    assert_eq!(reply.message, "hello, ada");
    let status = greeter.say_hello(hello("")).await.expect_err("no name");
    assert_eq!(status.code(), tonic::Code::InvalidArgument);

    let many = HelloManyRequest { name: "ada".into(), count: 3, interval_ms: 0 };
    let mut replies = greeter.say_hello_many(many).await.expect("a stream").into_inner();
    let mut count = 0;
    while replies.message().await.expect("no error").is_some() {
        count += 1;
    }
    assert_eq!(count, 3);

    let names = tokio_stream::iter(["ada", "grace"].map(hello));
    let reply = greeter.say_hello_to_all(names).await.expect("a reply").into_inner();
    assert_eq!(reply.message, "hello, ada and grace");

    let names = tokio_stream::iter(["ada", "grace"].map(hello));
    let mut replies = greeter.chat(names).await.expect("a stream").into_inner();
    for name in ["ada", "grace"] {
        let reply = replies.message().await.expect("no error").expect("a reply");
        assert_eq!(reply.message, format!("hello, {name}"));
    }
    assert!(replies.message().await.expect("a clean end").is_none());
}

#[tokio::test]
async fn an_http_request_whose_authority_names_the_destination() {
    let mesh = mesh(&[("inventory", inventory().await)]);
    let request = Request::get("http://inventory/items/7").body(Body::empty()).expect("valid");
    let response = mesh.http().oneshot(request).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    let body = response.into_body().collect().await.expect("complete").to_bytes();
    assert_eq!(body, r#"{"id":7}"#);
}

#[tokio::test]
async fn a_reqwest_request_sent_via_the_mesh() {
    let mesh = mesh(&[("inventory", inventory().await)]);
    let reqwest = reqwest::Client::new();
    let response = reqwest.get("http://inventory/items/7").send_via(&mesh).await;
    let item: Item = response.expect("an answer").json().await.expect("an item");
    assert_eq!(item, Item { id: 7 });

    let posted = reqwest.post("http://inventory/echo").json(&Item { id: 8 }).send_via(&mesh).await;
    assert_eq!(posted.expect("an answer").json::<Item>().await.expect("an item"), Item { id: 8 });
}

#[tokio::test]
async fn a_stack_of_ones_own() {
    let mesh = mesh(&[("inventory", inventory().await)]);
    let channel = ServiceBuilder::new()
        .layer(DeadlineLayer::new(Duration::from_secs(2)))
        .layer(RetryLayer::new())
        .service(mesh.balance("inventory"));
    let request = Request::get("http://inventory/items/7").body(Body::empty()).expect("valid");
    let response = channel.oneshot(request).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
}

/// A front service whose handler calls `back` and returns what that answered.
async fn front(back: SocketAddr) -> SocketAddr {
    let mesh = mesh(&[("back", back)]);
    let call = move || async move {
        let request = Request::get("http://back/").body(Body::empty()).expect("valid");
        match mesh.http().oneshot(request).await {
            Ok(response) => {
                let body = response.into_body().collect().await.expect("complete").to_bytes();
                String::from_utf8(body.to_vec()).expect("text")
            }
            Err(error) => error.to_string(),
        }
    };
    serve(Router::new().route("/", get(call))).await
}

#[tokio::test]
async fn the_deadline_and_the_trace_reach_the_second_hop_by_themselves() {
    let show = |headers: http::HeaderMap| async move {
        let field = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("-");
        format!("{} {}", field("x-envoy-expected-rq-timeout-ms"), field("traceparent"))
    };
    let front = front(serve(Router::new().route("/", get(show))).await).await;
    let mesh = mesh(&[("front", front)]);
    let request = Request::get("http://front/")
        .header("x-envoy-expected-rq-timeout-ms", "3000")
        .header("traceparent", format!("00-{TRACE}-b7ad6b7169203331-01"))
        .body(Body::empty())
        .expect("valid");
    let response = mesh.http().oneshot(request).await.expect("an answer");
    let body = response.into_body().collect().await.expect("complete").to_bytes();
    let seen = String::from_utf8(body.to_vec()).expect("text");
    let (millis, trace) = seen.split_once(' ').expect("two fields");
    let millis: u64 = millis.parse().expect(&seen);
    assert!((1..=3000).contains(&millis), "less than the caller's 3 s, and some is left: {seen}");
    assert!(trace.starts_with(&format!("00-{TRACE}-")), "{seen}");
}

#[tokio::test]
async fn a_caller_that_goes_away_cancels_the_second_hop() {
    struct OnDrop(Arc<Notify>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let (entered, cancelled) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (enter, cancel) = (entered.clone(), cancelled.clone());
    let stuck = move || async move {
        let _guard = OnDrop(cancel);
        enter.notify_one();
        std::future::pending::<()>().await;
    };
    let front = front(serve(Router::new().route("/", get(stuck))).await).await;
    let mesh = mesh(&[("front", front)]);
    let request = Request::get("http://front/").body(Body::empty()).expect("valid");
    let call = tokio::spawn(mesh.http().oneshot(request));
    timeout(LIMIT, entered.notified()).await.expect("the second hop is reached");
    call.abort();
    timeout(LIMIT, cancelled.notified()).await.expect("and hears of it");
}

#[tokio::test]
async fn a_grpc_deadline_passes_through_the_mesh() {
    let mesh = mesh(&[("greeter", greeter().await)]);
    let mut greeter = GreeterClient::new(mesh.channel("greeter"));
    let many = HelloManyRequest { name: "ada".into(), count: 1_000_000, interval_ms: 5 };
    let mut request = tonic::Request::new(many);
    request.set_timeout(Duration::from_millis(200));
    let end = timeout(LIMIT, async {
        let mut replies = match greeter.say_hello_many(request).await {
            Ok(replies) => replies.into_inner(),
            Err(status) => return status,
        };
        loop {
            if let Err(status) = replies.message().await {
                return status;
            }
        }
    })
    .await
    .expect("somebody ends it");
    assert_eq!(end.code(), tonic::Code::DeadlineExceeded, "{end}");
}

#[tokio::test]
async fn a_destination_nobody_serves_is_an_error_that_says_so() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = free.local_addr().expect("bound");
    drop(free);
    let mesh = mesh(&[("inventory", address)]);
    let sent = reqwest::Client::new().get("http://inventory/").send_via(&mesh);
    let error = timeout(LIMIT, sent).await.expect("in time").expect_err("nobody listens");
    assert_eq!(error.kind(), ErrorKind::NoHealthyEndpoint, "{error}");
    assert!(error.message().starts_with("its only endpoint cannot be reached: "), "{error}");
    assert_eq!(error.destination(), Some("inventory"), "{error}");
}
