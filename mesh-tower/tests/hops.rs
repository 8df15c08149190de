//! Two hops on real sockets: what the first server layer read, the client layers of its handler
//! write for the second, without the handler passing anything.
#![cfg(feature = "axum")]

use axum::{Router, routing::get};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use mesh_tower::connect::{Connections, Protocol, Settings};
use mesh_tower::deadline::DeadlineLayer;
use mesh_tower::server::ServerLayer;
use mesh_tower::telemetry::TelemetryLayer;
use mesh_tower::{Body, Listener};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::timeout;
use tower::{ServiceBuilder, ServiceExt, service_fn};

const LIMIT: Duration = Duration::from_secs(10);
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

async fn serve(app: Router) -> SocketAddr {
    let listener = Listener::bind("127.0.0.1:0", None).await.expect("a free port");
    let address = listener.local_addr();
    let app = app.layer(ServerLayer::default());
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// Sends a request through the client layers, to one address.
async fn call(address: SocketAddr, request: Request<Body>) -> (StatusCode, String) {
    let connections =
        Arc::new(Connections::new([address].into(), None, Settings::default().into()));
    let service = ServiceBuilder::new()
        .layer(DeadlineLayer::default())
        .layer(TelemetryLayer::attempt())
        .service(service_fn(move |request| {
            let connections = connections.clone();
            async move {
                connections.send(request, Protocol::Http1).await.map_err(|failed| failed.error)
            }
        }));
    let response = match service.oneshot(request).await {
        Ok(response) => response,
        // The handler's own deadline may pass an instant before its server's.
        Err(error) => return (error.kind().status(), error.to_string()),
    };
    let status = response.status();
    let body = response.into_body().collect().await.expect("complete").to_bytes();
    (status, String::from_utf8(body.to_vec()).expect("text"))
}

fn request(fields: &[(&str, &str)]) -> Request<Body> {
    let request = Request::get("/").header("host", "back");
    let request =
        fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(Body::empty()).expect("valid")
}

/// A service whose handler calls another and returns its answer.
async fn front(back: SocketAddr) -> SocketAddr {
    serve(Router::new().route("/", get(move || async move { call(back, request(&[])).await })))
        .await
}

#[tokio::test]
async fn the_deadline_and_the_trace_reach_the_second_hop() {
    let show = |fields: HeaderMap| async move {
        let field = |name| fields.get(name).and_then(|value| value.to_str().ok()).unwrap_or("-");
        format!(
            "{} {} {}",
            field("x-envoy-expected-rq-timeout-ms"),
            field("traceparent"),
            field("baggage")
        )
    };
    let front = front(serve(Router::new().route("/", get(show))).await).await;
    let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
    let fields = [
        ("x-envoy-expected-rq-timeout-ms", "3000"),
        ("traceparent", &*parent),
        ("baggage", "tenant=7"),
    ];
    let (status, seen) = timeout(LIMIT, call(front, request(&fields))).await.expect("in time");
    assert_eq!(status, StatusCode::OK, "{seen}");
    let [millis, trace, baggage] = *seen.split(' ').collect::<Vec<_>>() else {
        panic!("three fields: {seen}");
    };
    let millis: u64 = millis.parse().expect(&seen);
    assert!((1..=3000).contains(&millis), "what is left of the caller's 3 s: {seen}");
    assert!(trace.starts_with(&format!("00-{TRACE}-")), "the same trace: {seen}");
    assert_eq!(baggage, "tenant=7");
}

#[tokio::test]
async fn a_deadline_that_passes_at_the_first_hop_cancels_the_second() {
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
    let back = serve(Router::new().route("/", get(stuck))).await;
    let front = front(back).await;
    let calling = tokio::spawn(async move {
        call(front, request(&[("x-envoy-expected-rq-timeout-ms", "200")])).await
    });
    timeout(LIMIT, entered.notified()).await.expect("the second hop is reached");
    timeout(LIMIT, cancelled.notified()).await.expect("and hears of the end");
    let (status, _) = timeout(LIMIT, calling).await.expect("in time").expect("no panic");
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
}
