//! The spans of a call, as a subscriber sees them. On its own, since whether a span is wanted is
//! cached for the whole process.

use http::{HeaderValue, Request, Response, StatusCode};
use mesh_tower::telemetry::{Metrics, TelemetryLayer};
use mesh_tower::{Body, Error, ErrorKind, Mesh};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry};

#[derive(Clone, Debug, Default)]
struct Seen {
    name: &'static str,
    parent: Option<u64>,
    fields: BTreeMap<&'static str, String>,
}

impl Visit for Seen {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }
}

/// Keeps every span with all that was recorded on it.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<BTreeMap<u64, Seen>>>);

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Recorder {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut seen = Seen {
            name: attributes.metadata().name(),
            parent: context.current_span().id().map(Id::into_u64),
            fields: BTreeMap::new(),
        };
        attributes.record(&mut seen);
        self.0.lock().expect("not poisoned").insert(id.into_u64(), seen);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        if let Some(seen) = self.0.lock().expect("not poisoned").get_mut(&id.into_u64()) {
            values.record(seen);
        }
    }
}

/// Calls a destination where nobody listens, through the whole stack.
#[tokio::test]
async fn the_stack_says_which_rule_and_which_endpoint() {
    let recorder = Recorder::default();
    let subscriber = Registry::default().with(recorder.clone());
    let _default = tracing::subscriber::set_default(subscriber);
    let config = "apiVersion: mesh/v1\nkind: Service\nmetadata: { name: inventory }\n\
                  spec: { endpoints: { static: ['127.0.0.1:1'] } }\n";
    let mesh = Mesh::builder().config_text("test", config).build().expect("valid");
    let request = Request::get("http://inventory/").body(Body::empty()).expect("valid");
    mesh.http().oneshot(request).await.expect_err("nobody listens");
    let seen = recorder.0.lock().expect("not poisoned").clone();
    let span = |name| seen.values().find(|span| span.name == name).expect(name);
    let rule = &mesh
        .snapshot()
        .route(
            &mesh_core::route::RouteRequest::new(
                "inventory",
                &http::Method::GET,
                "/",
                None,
                &http::HeaderMap::new(),
            ),
            &mut || 0,
        )
        .expect("a rule")
        .rule
        .name
        .clone();
    assert_eq!(span("call").fields["mesh.route"], **rule);
    assert_eq!(span("attempt").fields["mesh.endpoint"], "127.0.0.1:1");
    assert_eq!(span("attempt").fields["mesh.pick_reason"], "only");
}

async fn recorded(
    request: Request<Body>,
    result: Result<StatusCode, ErrorKind>,
) -> [(u64, Seen); 2] {
    let recorder = Recorder::default();
    let subscriber = Registry::default().with(recorder.clone());
    let _default = tracing::subscriber::set_default(subscriber);
    let metrics = Metrics::new().destination("inventory");
    let service = ServiceBuilder::new()
        .layer(TelemetryLayer::call().metrics(metrics.clone()))
        .layer(TelemetryLayer::attempt().metrics(metrics))
        .service(service_fn(async |request: Request<Body>| {
            tracing::Span::current().record("mesh.endpoint", "127.0.0.1:80");
            let traceparent = request.headers().get("traceparent").cloned();
            let mut response = Response::new(Body::empty());
            *response.status_mut() = result.map_err(Error::from)?;
            response.headers_mut().extend(traceparent.map(|value| (http::header::ETAG, value)));
            Ok::<_, Error>(response)
        }));
    if let Ok(response) = service.oneshot(request).await {
        let sent = response.headers().get(http::header::ETAG).expect("a recorded call has a trace");
        let seen = recorder.0.lock().expect("not poisoned");
        let attempt = seen.values().find(|span| span.name == "attempt").expect("an attempt");
        let (trace, span) = (&attempt.fields["trace_id"], &attempt.fields["span_id"]);
        let sent = sent.to_str().expect("text");
        assert!(sent.starts_with(&format!("00-{trace}-{span}-")), "{sent}: the attempt's own span");
    }
    let seen = recorder.0.lock().expect("not poisoned").clone();
    let mut spans: Vec<_> = seen.into_iter().collect();
    spans.sort_by_key(|(_, span)| span.name == "attempt");
    spans.try_into().expect("one span per call, one per attempt")
}

#[tokio::test]
async fn a_call_has_an_internal_span_and_each_attempt_a_client_span_in_it() {
    let request = Request::post("http://inventory/items/7?secret=1").body(Body::empty());
    let [(call_id, call), (_, attempt)] =
        recorded(request.expect("valid"), Ok(StatusCode::SERVICE_UNAVAILABLE)).await;
    assert_eq!((call.name, call.fields["otel.kind"].as_str()), ("call", "internal"));
    assert_eq!((attempt.name, attempt.fields["otel.kind"].as_str()), ("attempt", "client"));
    assert_eq!(attempt.parent, Some(call_id));
    for (name, value) in [
        ("otel.name", "POST"),
        ("otel.status_code", "ERROR"),
        ("http.request.method", "POST"),
        ("http.response.status_code", "503"),
        ("error.type", "503"),
        ("server.address", "inventory"),
        ("mesh.destination", "inventory"),
        ("mesh.endpoint", "127.0.0.1:80"),
        ("mesh.attempt", "1"),
    ] {
        assert_eq!(attempt.fields.get(name).map(String::as_str), Some(value), "{name}");
    }
    let both = format!("{call:?}{attempt:?}");
    assert!(!both.contains("secret"), "no part of the target: it may hold anything");
    assert_eq!(call.fields["trace_id"], attempt.fields["trace_id"]);
    assert_ne!(call.fields["span_id"], attempt.fields["span_id"]);
}

#[tokio::test]
async fn a_grpc_span_is_named_by_its_method() {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = "http://greeter/hello.Greeter/SayHello".parse().expect("valid");
    request.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let [(_, call), (_, attempt)] = recorded(request, Ok(StatusCode::OK)).await;
    for span in [call, attempt] {
        assert_eq!(span.fields["otel.name"], "hello.Greeter/SayHello");
        assert_eq!(span.fields["rpc.system.name"], "grpc");
        assert_eq!(span.fields["rpc.response.status_code"], "UNKNOWN");
    }
}

#[tokio::test]
async fn an_error_is_on_the_span_by_its_flag() {
    let [(_, call), (_, attempt)] =
        recorded(Request::new(Body::empty()), Err(ErrorKind::Connect)).await;
    for span in [call, attempt] {
        assert_eq!(span.fields["error.type"], "upstream_connection_failure");
        assert_eq!(span.fields["otel.status_code"], "ERROR");
    }
}

#[tokio::test]
async fn a_recorded_call_stays_in_the_trace_it_came_with() {
    let mut request = Request::new(Body::empty());
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    request.headers_mut().insert("traceparent", HeaderValue::from_static(parent));
    let [(_, call), (_, attempt)] = recorded(request, Ok(StatusCode::OK)).await;
    for span in [call, attempt] {
        assert_eq!(span.fields["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_ne!(span.fields["span_id"], "00f067aa0ba902b7");
    }
}
