//! The SERVER span: its fields by OpenTelemetry, and its place in the caller's trace.
#![cfg(feature = "axum")]

use axum::body::Body;
use axum::{Router, routing::get};
use http::Request;
use http_body_util::BodyExt;
use mesh_tower::listen::Peer;
use mesh_tower::server::{Context, ServerLayer};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use tower::ServiceExt;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::layer::{Context as LayerContext, Layer, SubscriberExt};

type Fields = BTreeMap<String, String>;

/// Keeps the fields of all spans, by the order they were made in.
#[derive(Clone, Default)]
struct Capture(Arc<Mutex<Vec<(Id, Fields)>>>);

struct Into<'a>(&'a mut Fields);

impl Visit for Into<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }
}

impl<S: tracing::Subscriber> Layer<S> for Capture {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, _: LayerContext<'_, S>) {
        let mut fields = Fields::new();
        attributes.record(&mut Into(&mut fields));
        self.0.lock().expect("not poisoned").push((id.clone(), fields));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: LayerContext<'_, S>) {
        let mut spans = self.0.lock().expect("not poisoned");
        if let Some((_, fields)) = spans.iter_mut().find(|(known, _)| known == id) {
            values.record(&mut Into(fields));
        }
    }
}

impl Capture {
    fn start() -> (Self, tracing::subscriber::DefaultGuard) {
        let capture = Self::default();
        let subscriber = tracing_subscriber::registry().with(capture.clone());
        (capture, tracing::subscriber::set_default(subscriber))
    }

    fn only(&self) -> Fields {
        let spans = self.0.lock().expect("not poisoned");
        assert_eq!(spans.len(), 1, "one span per request");
        spans[0].1.clone()
    }
}

fn app() -> Router {
    let trace = || async {
        let trace = Context::with(|context| context.trace).flatten();
        trace.map(|trace| trace.to_string()).unwrap_or_default()
    };
    let app = Router::new().route("/items/{id}", get(trace)).route("/panic", get(planted));
    app.layer(ServerLayer::default())
}

async fn planted() {
    panic!("planted");
}

async fn ask(request: Request<Body>) -> String {
    let response = app().oneshot(request).await.expect("infallible");
    let body = response.into_body().collect().await.expect("complete").to_bytes();
    String::from_utf8(body.to_vec()).expect("text")
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[tokio::test]
async fn a_recorded_span_is_a_child_of_the_callers_and_the_parent_of_further_calls() {
    let (capture, _guard) = Capture::start();
    let mut request = Request::get("/items/7?secret=1").body(Body::empty()).expect("valid");
    request.headers_mut().insert("traceparent", PARENT.parse().expect("valid"));
    request.extensions_mut().insert(Peer::new(([192, 0, 2, 1], 4711).into()));
    let inherited = ask(request).await;

    let fields = capture.only();
    for (name, value) in [
        ("otel.name", "GET /items/{id}"),
        ("otel.kind", "server"),
        ("http.request.method", "GET"),
        ("http.route", "/items/{id}"),
        ("http.response.status_code", "200"),
        ("url.path", "/items/7"),
        ("client.address", "192.0.2.1"),
        ("trace_id", TRACE),
        ("parent_span_id", "b7ad6b7169203331"),
    ] {
        assert_eq!(fields.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(!fields.contains_key("error.type"));
    assert_eq!(inherited, format!("00-{TRACE}-{}-01", fields["span_id"]));
    assert_ne!(fields["span_id"], fields["parent_span_id"]);
}

#[tokio::test]
async fn without_a_caller_a_recorded_span_begins_a_trace() {
    let (capture, _guard) = Capture::start();
    let request = Request::get("/items/7").body(Body::empty()).expect("valid");
    let inherited = ask(request).await;
    let fields = capture.only();
    assert!(!fields.contains_key("parent_span_id"));
    let expected = format!("00-{}-{}-", fields["trace_id"], fields["span_id"]);
    assert!(inherited.starts_with(&expected), "{inherited}");
}

#[tokio::test]
async fn a_failed_request_says_what_failed() {
    let (capture, _guard) = Capture::start();
    ask(Request::get("/panic").body(Body::empty()).expect("valid")).await;
    let fields = capture.only();
    assert_eq!(fields["error.type"], "handler_panicked");
    assert_eq!(fields["http.response.status_code"], "500");
}

#[tokio::test]
async fn a_grpc_span_is_named_by_its_method() {
    let (capture, _guard) = Capture::start();
    let mut request =
        Request::post("/greeter.Greeter/SayHello").body(Body::empty()).expect("valid");
    request.headers_mut().insert("content-type", "application/grpc".parse().expect("valid"));
    request.headers_mut().insert("grpc-timeout", "x".parse().expect("valid"));
    ask(request).await;
    let fields = capture.only();
    for (name, value) in [
        ("otel.name", "greeter.Greeter/SayHello"),
        ("rpc.system.name", "grpc"),
        ("rpc.method", "greeter.Greeter/SayHello"),
        ("rpc.response.status_code", "INTERNAL"),
        ("error.type", "downstream_protocol_error"),
    ] {
        assert_eq!(fields.get(name).map(String::as_str), Some(value), "{name}");
    }
}
