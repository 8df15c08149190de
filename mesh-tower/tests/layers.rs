//! The client layers in one hand-made stack, without a mesh: order, contract, and what one failed
//! attempt leaves behind in each of them.

use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use mesh_tower::breaker::BreakerLayer;
use mesh_tower::deadline::DeadlineLayer;
use mesh_tower::limit::LimitLayer;
use mesh_tower::retry::RetryLayer;
use mesh_tower::telemetry::{Metrics, TelemetryLayer};
use mesh_tower::{Body, Error, ErrorKind};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tower::{ServiceBuilder, ServiceExt, service_fn};

macro_rules! stack {
    ($inner:expr, $metrics:expr) => {
        ServiceBuilder::new()
            .layer(TelemetryLayer::call().metrics($metrics.clone()))
            .layer(DeadlineLayer::new(Duration::from_secs(1)))
            .layer(LimitLayer::new(10).metrics($metrics.clone()))
            .layer(RetryLayer::new().metrics($metrics.clone()))
            .layer(TelemetryLayer::attempt().metrics($metrics.clone()))
            .layer(BreakerLayer::new(3).metrics($metrics.clone()))
            .service($inner)
    };
}

#[tokio::test(start_paused = true)]
async fn the_stack_keeps_the_contract_of_its_layers() {
    let metrics = Metrics::new().destination("inventory");
    testkit::contract::check(
        |inner| stack!(inner, metrics),
        || Request::new(Body::empty()),
        || Response::new(Body::empty()),
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_call_with_two_attempts_is_counted_as_that() {
    let metrics = Metrics::new().destination("inventory");
    let flaky = service_fn(async |request: Request<Body>| {
        let mut response = Response::new(Body::from("seven"));
        if request.headers().contains_key("x-envoy-attempt-count") {
            let left = request.headers().get("x-envoy-expected-rq-timeout-ms").cloned();
            response.headers_mut().insert("left", left.unwrap_or(HeaderValue::from_static("none")));
        } else {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        sleep(Duration::from_millis(100)).await;
        Ok::<_, Error>(response)
    });
    let request = Request::new(Body::from("question"));
    let response = stack!(flaky, metrics).oneshot(request).await.expect("a response");
    let left = response.headers().get("left").expect("set").to_str().expect("text");
    let left: u64 = left.parse().expect("a number");
    assert!((870..=900).contains(&left), "1 s less the first attempt and the wait: {left} ms");
    assert_eq!(response.into_body().collect().await.expect("whole").to_bytes(), "seven");
    let counts = metrics.counts();
    assert_eq!((counts.succeeded, counts.failed, counts.retries), (1, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_is_above_the_attempts() {
    let metrics = Metrics::new().destination("inventory");
    let stuck = service_fn(async |_: Request<Body>| {
        sleep(Duration::from_millis(700)).await;
        Err::<Response<Body>, Error>(Error::from(ErrorKind::ConnectionClosed).after_send())
    });
    let start = Instant::now();
    let error = stack!(stuck, metrics).oneshot(Request::new(Body::empty())).await.err();
    assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::Deadline));
    assert_eq!(start.elapsed(), Duration::from_secs(1), "both attempts share it");
    assert_eq!((metrics.counts().failed, metrics.counts().retries), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_is_a_refusal_that_is_counted() {
    let metrics = Metrics::new().destination("inventory");
    let broken = service_fn(async |_: Request<Body>| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        Ok::<_, Error>(response)
    });
    let service = stack!(broken, metrics);
    for _ in 0..3 {
        let response = service.clone().oneshot(Request::new(Body::empty())).await;
        assert_eq!(response.expect("a response").status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
    let error = service.oneshot(Request::new(Body::empty())).await.expect_err("refused");
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::Overflow, 2));
    assert_eq!(metrics.sheds().collect::<Vec<_>>(), [(ErrorKind::Overflow, 2)]);
}
