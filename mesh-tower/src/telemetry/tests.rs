use super::*;
use crate::server::Context as ServerContext;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use mesh_core::trace_context::TraceContext;
use mesh_core::{ErrorKind, Policy};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::sleep;
use tower::{ServiceExt, service_fn};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A body of prepared frames.
struct Frames(VecDeque<Result<Frame<Bytes>, BoxError>>);

impl HttpBody for Frames {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(self.0.pop_front())
    }
}

fn grpc_status(code: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("grpc-status", HeaderValue::from_static(code));
    headers
}

fn grpc_request() -> Request<crate::Body> {
    let mut request = Request::new(crate::Body::empty());
    request.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    request
}

fn answer(status: u16, frames: Vec<Result<Frame<Bytes>, BoxError>>) -> Response<Frames> {
    let mut response = Response::new(Frames(frames.into()));
    *response.status_mut() = StatusCode::from_u16(status).expect("valid");
    response
}

fn data() -> Result<Frame<Bytes>, BoxError> {
    Ok(Frame::data(Bytes::from_static(b"x")))
}

fn series(metrics: &DestinationMetrics) -> Vec<(&'static str, End, u64)> {
    let mut seen = Vec::new();
    metrics.http.each(|method, end, histogram| {
        seen.push((method, end, histogram.buckets().iter().sum()));
    });
    seen
}

fn codes(metrics: &DestinationMetrics) -> Vec<&'static str> {
    let mut seen = Vec::new();
    metrics.rpc.each(|code, _| seen.push(code));
    seen
}

async fn watch(
    layer: TelemetryLayer,
    request: Request<crate::Body>,
    result: Result<Response<Frames>, Error>,
) -> Arc<DestinationMetrics> {
    let metrics = Metrics::new().destination("inventory");
    let mut result = Some(result);
    let inner = service_fn(move |_| {
        let result = result.take().expect("called once");
        async move { result }
    });
    let service = layer.metrics(metrics.clone()).layer(inner);
    if let Ok(response) = service.oneshot(request).await {
        let _ = response.into_body().collect().await;
    }
    metrics
}

#[tokio::test(start_paused = true)]
async fn it_keeps_the_contract() {
    for layer in [TelemetryLayer::call(), TelemetryLayer::attempt()] {
        testkit::contract::check(
            |inner| layer.layer(inner),
            || Request::new(()),
            || Response::new(crate::Body::empty()),
        )
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_is_counted_by_method_and_status_or_error() {
    let request = || Request::new(crate::Body::empty());
    let metrics = watch(TelemetryLayer::attempt(), request(), Ok(answer(503, vec![data()]))).await;
    assert_eq!(series(&metrics), [("GET", End::Status(StatusCode::SERVICE_UNAVAILABLE), 1)]);
    let refused = Err(ErrorKind::Connect.into());
    let metrics = watch(TelemetryLayer::attempt(), request(), refused).await;
    assert_eq!(series(&metrics), [("GET", End::Error(ErrorKind::Connect), 1)]);
    assert_eq!(metrics.counts(), Counts::default(), "attempts are not calls");
}

#[tokio::test(start_paused = true)]
async fn a_call_is_counted_by_outcome() {
    for (status, failed) in [(200, 0), (404, 0), (500, 1)] {
        let request = Request::new(crate::Body::empty());
        let metrics = watch(TelemetryLayer::call(), request, Ok(answer(status, vec![]))).await;
        let counts = metrics.counts();
        assert_eq!((counts.succeeded, counts.failed), (1 - failed, failed), "{status}");
        assert!(series(&metrics).is_empty(), "calls are not attempts");
    }
}

#[tokio::test(start_paused = true)]
async fn a_grpc_status_comes_from_trailers_or_a_trailers_only_head() {
    let trailers = || Ok(Frame::trailers(grpc_status("14")));
    let late = answer(200, vec![data(), trailers()]);
    let mut only = answer(200, vec![]);
    *only.headers_mut() = grpc_status("14");
    for response in [late, only, answer(503, vec![])] {
        let metrics = watch(TelemetryLayer::call(), grpc_request(), Ok(response)).await;
        assert_eq!((codes(&metrics), metrics.counts().failed), (vec!["UNAVAILABLE"], 1));
    }
    let silent = answer(200, vec![data()]);
    let metrics = watch(TelemetryLayer::call(), grpc_request(), Ok(silent)).await;
    assert_eq!(codes(&metrics), ["UNKNOWN"]);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_off_is_an_error() {
    let idle = Error::from(ErrorKind::StreamIdle);
    for (error, kind) in [
        (BoxError::from(idle), ErrorKind::StreamIdle),
        ("reset".into(), ErrorKind::ConnectionClosed),
    ] {
        let response = answer(200, vec![data(), Err(error)]);
        let request = Request::new(crate::Body::empty());
        let metrics = watch(TelemetryLayer::attempt(), request, Ok(response)).await;
        assert_eq!(series(&metrics), [("GET", End::Error(kind), 1)]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_dropped_before_its_status_is_cancelled() {
    let metrics = Metrics::new().destination("inventory");
    let never = service_fn(|_: Request<crate::Body>| {
        std::future::pending::<Result<Response<Frames>, Error>>()
    });
    for layer in [TelemetryLayer::call(), TelemetryLayer::attempt()] {
        let call = layer.metrics(metrics.clone()).layer(never);
        drop(call.oneshot(Request::new(crate::Body::empty())));
    }
    assert_eq!(metrics.counts(), Counts::default(), "never called: nothing to count");
    for (layer, request) in [
        (TelemetryLayer::call(), Request::new(crate::Body::empty())),
        (TelemetryLayer::call(), grpc_request()),
        (TelemetryLayer::attempt(), Request::new(crate::Body::empty())),
    ] {
        drop(layer.metrics(metrics.clone()).layer(never).call(request));
    }
    assert_eq!(metrics.counts().cancelled, 2);
    assert_eq!(codes(&metrics), ["CANCELLED"]);
    assert_eq!(series(&metrics), [("GET", End::Error(ErrorKind::CallerGone), 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_response_given_up_counts_as_what_it_was() {
    let metrics = Metrics::new().destination("inventory");
    let inner = service_fn(async |_: Request<()>| Ok::<_, Error>(answer(503, vec![data()])));
    let service = TelemetryLayer::attempt().metrics(metrics.clone()).layer(inner);
    drop(service.oneshot(Request::new(())).await);
    assert_eq!(series(&metrics), [("GET", End::Status(StatusCode::SERVICE_UNAVAILABLE), 1)]);
}

#[tokio::test(start_paused = true)]
async fn the_duration_is_from_the_pinned_start_to_the_end_of_the_body() {
    let metrics = Metrics::new().destination("inventory");
    let inner = service_fn(async |_: Request<()>| {
        sleep(Duration::from_millis(20)).await;
        Ok::<_, Error>(Response::new(StreamBody::new(Slow)))
    });
    let service = TelemetryLayer::attempt().metrics(metrics.clone()).layer(inner);
    let mut request = Request::new(());
    crate::call::pin(&mut request, Call::new(clock::now(), Arc::new(Policy::default()), false));
    sleep(Duration::from_millis(10)).await;
    let mut body = service.oneshot(request).await.expect("a response").into_body();
    sleep(Duration::from_millis(40)).await;
    assert!(body.frame().await.is_none());
    let mut sums = Vec::new();
    metrics.http.each(|_, _, histogram| sums.push(histogram.sum()));
    assert_eq!(sums, [0.07]);
}

struct Slow;

impl futures_core::Stream for Slow {
    type Item = Result<Frame<Bytes>, BoxError>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(None)
    }
}

async fn sent(layer: TelemetryLayer, parent: Option<&'static str>) -> HeaderMap {
    let mut request = Request::new(());
    if let Some(parent) = parent {
        request.headers_mut().insert("traceparent", HeaderValue::from_static(parent));
        request.headers_mut().insert("tracestate", HeaderValue::from_static("a=1"));
    }
    let inner = service_fn(async |request: Request<()>| {
        let mut response = Response::new(crate::Body::empty());
        *response.headers_mut() = request.headers().clone();
        Ok::<_, Error>(response)
    });
    let response = layer.layer(inner).oneshot(request).await.expect("a response");
    response.headers().clone()
}

fn context(headers: &HeaderMap) -> TraceContext {
    let value = headers.get("traceparent").expect("there").as_bytes();
    TraceContext::parse(value).expect("valid")
}

#[tokio::test]
async fn a_trace_that_nobody_records_passes_as_it_is() {
    let headers = sent(TelemetryLayer::attempt(), Some(PARENT)).await;
    assert_eq!(headers.get("traceparent").expect("there"), PARENT);
    assert!(sent(TelemetryLayer::attempt(), None).await.is_empty());
}

#[tokio::test]
async fn a_call_of_a_handler_is_a_child_in_the_trace_it_serves() {
    let parent = TraceContext::parse(PARENT.as_bytes()).expect("valid");
    let served = ServerContext {
        trace: Some(parent),
        trace_state: Some(HeaderValue::from_static("a=1")),
        baggage: Some(HeaderValue::from_static("tenant=7")),
        ..ServerContext::default()
    };
    let mut ids = Vec::new();
    for _ in 0..2 {
        let headers = served.clone().scope(sent(TelemetryLayer::attempt(), None)).await;
        let child = context(&headers);
        assert_eq!((child.trace_id, child.flags), (parent.trace_id, parent.flags));
        assert_eq!(headers.get("tracestate").expect("there"), "a=1");
        assert_eq!(headers.get("baggage").expect("there"), "tenant=7");
        ids.push(child.span_id);
    }
    assert!(ids[0] != ids[1] && !ids.contains(&parent.span_id), "a span of its own each time");
}
