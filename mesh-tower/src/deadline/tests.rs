use super::*;
use crate::{Body as Bytes, CallOptions};
use http::HeaderValue;
use http_body_util::BodyExt;
use mesh_core::{GrpcCode, Policy};
use std::cell::Cell;
use std::future::pending;
use std::rc::Rc;
use tokio::sync::mpsc;
use tokio::time::{Instant, advance};
use tower::{ServiceExt, service_fn};

const MS: Duration = Duration::from_millis(1);

fn never() -> impl Service<Request<Bytes>, Response = Response<Bytes>, Error = Error> + Clone {
    service_fn(|_| pending())
}

fn request(expiry: Option<Timestamp>) -> Request<Bytes> {
    let mut request = Request::new(Bytes::empty());
    if let Some(expiry) = expiry {
        request.extensions_mut().insert(Expiry(expiry));
    }
    request
}

async fn fails_after(layer: DeadlineLayer, request: Request<Bytes>) -> Duration {
    let start = Instant::now();
    let error = layer.layer(never()).oneshot(request).await.expect_err("the time is up");
    assert_eq!(error.kind(), ErrorKind::Deadline);
    start.elapsed()
}

/// A response body that the test feeds; it counts as dropped when the sender is closed.
struct Fed(mpsc::Receiver<&'static str>);

impl HttpBody for Fed {
    type Data = bytes::Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, BoxError>>> {
        self.0.poll_recv(cx).map(|text| Some(Ok(Frame::data(text?.into()))))
    }
}

async fn fed(
    layer: DeadlineLayer,
    request: Request<Bytes>,
) -> (mpsc::Sender<&'static str>, Body<Fed>) {
    let (feed, frames) = mpsc::channel(8);
    let mut frames = Some(frames);
    let service = layer.layer(service_fn(move |_| {
        let body = Fed(frames.take().expect("called once"));
        async { Ok::<_, Error>(Response::new(body)) }
    }));
    (feed, service.oneshot(request).await.expect("a response").into_body())
}

fn kind(error: &BoxError) -> Option<ErrorKind> {
    error.downcast_ref::<Error>().map(Error::kind)
}

#[tokio::test(start_paused = true)]
async fn it_keeps_the_contract() {
    testkit::contract::check(
        |inner| DeadlineLayer::default().layer(inner),
        || Request::new(Bytes::empty()),
        || Response::new(Bytes::empty()),
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_tighter_deadline_wins() {
    let expiry = clock::now() + 200 * MS;
    assert_eq!(fails_after(DeadlineLayer::default(), request(Some(expiry))).await, 200 * MS);
    let expiry = clock::now() + 200 * MS;
    assert_eq!(fails_after(DeadlineLayer::new(50 * MS), request(Some(expiry))).await, 50 * MS);
}

#[tokio::test(start_paused = true)]
async fn without_any_timeout_the_head_has_fifteen_seconds() {
    let waited = fails_after(DeadlineLayer::default(), request(None)).await;
    assert_eq!(waited, Duration::from_secs(15));
}

#[tokio::test(start_paused = true)]
async fn the_fifteen_seconds_count_from_when_the_request_is_sent() {
    let (feed, frames) = mpsc::channel(1);
    let mut request = request(None);
    *request.body_mut() = Bytes::new(Fed(frames));
    // Reads the request, then says nothing.
    let inner = service_fn(async |request: Request<Bytes>| {
        let _ = request.into_body().collect().await;
        pending::<Result<Response<Bytes>, Error>>().await
    });
    let layer = tower::ServiceBuilder::new()
        .layer(DeadlineLayer::default())
        .layer(crate::retry::RetryLayer::new());
    let start = Instant::now();
    let upload = async move {
        for _ in 0..100 {
            tokio::time::sleep(1_000 * MS).await;
            feed.send("more").await.expect("read");
        }
    };
    let ((), answer) = tokio::join!(upload, layer.service(inner).oneshot(request));
    assert_eq!(answer.expect_err("the time is up").kind(), ErrorKind::Deadline);
    assert_eq!(start.elapsed(), 115_000 * MS);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_stands_still_ends() {
    let layer = || {
        tower::ServiceBuilder::new()
            .layer(DeadlineLayer::default().stream_idle(60_000 * MS))
            .layer(crate::retry::RetryLayer::new())
    };
    let (feed, frames) = mpsc::channel(1);
    let mut request = request(None);
    *request.body_mut() = Bytes::new(Fed(frames));
    // Reads what comes of the request, which stops coming after 100 s.
    let reads = service_fn(async |request: Request<Bytes>| {
        let _ = request.into_body().collect().await;
        pending::<Result<Response<Bytes>, Error>>().await
    });
    let start = Instant::now();
    let upload = async move {
        for _ in 0..100 {
            tokio::time::sleep(1_000 * MS).await;
            feed.send("more").await.expect("read");
        }
        pending::<()>().await
    };
    let answer = tokio::select! {
        () = upload => unreachable!("it never ends"),
        answer = layer().service(reads).oneshot(request) => answer,
    };
    assert_eq!(answer.expect_err("it stands still").kind(), ErrorKind::StreamIdle);
    let took = start.elapsed();
    assert!((160_000 * MS..=180_000 * MS).contains(&took), "looked at once per 15 s: {took:?}");

    let (_feed, frames) = mpsc::channel(1);
    let mut request = self::request(None);
    *request.body_mut() = Bytes::new(Fed(frames));
    let start = Instant::now();
    let error = layer().service(never()).oneshot(request).await.expect_err("nobody reads it");
    // The body is gone with the attempt that never took it: then its answer is late.
    assert!(matches!(error.kind(), ErrorKind::StreamIdle | ErrorKind::Deadline), "{error}");
    assert!(start.elapsed() <= 90_000 * MS, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_explicit_timeout_counts_from_the_start() {
    let (_feed, frames) = mpsc::channel(1);
    let mut request = request(None);
    *request.body_mut() = Bytes::new(Fed(frames));
    assert_eq!(fails_after(DeadlineLayer::new(200 * MS), request).await, 200 * MS);
}

#[tokio::test(start_paused = true)]
async fn a_grpc_timeout_field_is_a_deadline_on_grpc_alone() {
    let mut grpc = request(None);
    grpc.headers_mut().insert(GRPC_TIMEOUT, HeaderValue::from_static("70m"));
    let mut http = request(None);
    http.headers_mut().insert(GRPC_TIMEOUT, HeaderValue::from_static("70m"));
    grpc.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    assert_eq!(fails_after(DeadlineLayer::default(), grpc).await, 70 * MS);
    assert_eq!(fails_after(DeadlineLayer::new(90 * MS), http).await, 90 * MS);
}

#[tokio::test(start_paused = true)]
async fn the_callers_field_is_a_deadline_on_other_http_and_never_grows() {
    let mut request = request(None);
    request.headers_mut().insert(EXPECTED_TIMEOUT, HeaderValue::from_static("70"));
    let told = Rc::new(std::cell::RefCell::new(None));
    let seen = told.clone();
    let inner = service_fn(move |request: Request<Bytes>| {
        *seen.borrow_mut() = request.headers().get(EXPECTED_TIMEOUT).cloned();
        pending::<Result<Response<Bytes>, Error>>()
    });
    let start = Instant::now();
    let answer = DeadlineLayer::new(8_000 * MS).layer(inner).oneshot(request).await;
    assert_eq!(answer.expect_err("the time is up").kind(), ErrorKind::Deadline);
    assert_eq!(start.elapsed(), 70 * MS);
    assert_eq!(told.borrow().as_ref().expect("told"), "70");
}

#[tokio::test(start_paused = true)]
async fn a_handler_hands_its_own_deadline_on() {
    let expiry = Some(Expiry(clock::now() + 30 * MS));
    let served = ServerContext { expiry, ..ServerContext::default() };
    let waited = served.scope(fails_after(DeadlineLayer::default(), request(None))).await;
    assert_eq!(waited, 30 * MS);
}

#[tokio::test(start_paused = true)]
async fn pinned_policy_and_start_win() {
    let mut policy = Policy::default();
    policy.timeouts.request = 100 * MS;
    policy.timeouts.explicit = true;
    let call = call::Call::new(clock::now(), Arc::new(policy), false);
    advance(40 * MS).await;
    let mut request = request(None);
    call::pin(&mut request, call);
    assert_eq!(fails_after(DeadlineLayer::new(MS), request).await, 60 * MS);
}

#[tokio::test(start_paused = true)]
async fn the_callers_own_timeout_replaces_the_policys() {
    for pinned in [false, true] {
        for asked in [30, 90] {
            let options = CallOptions::new().timeout(asked * MS);
            let mut request = request(None);
            if pinned {
                let policy = Arc::new(Policy::default());
                let call = call::Call::new(clock::now(), policy, false).with_options(options);
                call::pin(&mut request, call);
            } else {
                request.extensions_mut().insert(options);
            }
            assert_eq!(fails_after(DeadlineLayer::new(60 * MS), request).await, asked * MS);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_callers_own_timeout_does_not_outlast_the_deadline_it_works_under() {
    let expiry = Some(Expiry(clock::now() + 30 * MS));
    let served = ServerContext { expiry, ..ServerContext::default() };
    let mut request = request(None);
    request.extensions_mut().insert(CallOptions::new().timeout(1_000 * MS));
    let waited = served.scope(fails_after(DeadlineLayer::default(), request)).await;
    assert_eq!(waited, 30 * MS);
}

fn with_timeouts(edit: impl FnOnce(&mut Policy), grpc: bool) -> Request<Bytes> {
    let mut policy = Policy::default();
    edit(&mut policy);
    let mut request = request(None);
    call::pin(&mut request, call::Call::new(clock::now(), Arc::new(policy), grpc));
    request
}

/// Envoy: the offset first, then the cap; nothing left ends the call at once.
#[tokio::test(start_paused = true)]
async fn of_what_the_caller_allows_an_offset_is_taken_and_a_cap_holds() {
    for (told, offset, most, waited) in [
        (1_000, None, None, 1_000),
        (1_000, Some(100), None, 900),
        (1_000, None, Some(300), 300),
        (1_000, Some(900), Some(300), 100),
        (1_000, Some(100), Some(900), 900),
        (50, Some(50), None, 0),
        (50, Some(60), Some(300), 0),
    ] {
        for grpc in [false, true] {
            let mut request = with_timeouts(
                |policy| {
                    policy.timeouts.grpc_timeout_header_max = most.map(|most: u32| most * MS);
                    policy.timeouts.grpc_timeout_header_offset = offset.map(|span: u32| span * MS);
                },
                grpc,
            );
            let (name, value) = match grpc {
                true => (GRPC_TIMEOUT, format!("{told}m")),
                false => (EXPECTED_TIMEOUT, told.to_string()),
            };
            request.headers_mut().insert(name, HeaderValue::from_str(&value).expect("valid"));
            assert_eq!(fails_after(DeadlineLayer::default(), request).await, waited * MS);
        }
    }
    let capped =
        with_timeouts(|policy| policy.timeouts.grpc_timeout_header_max = Some(300 * MS), true);
    let waited = fails_after(DeadlineLayer::default(), capped).await;
    assert_eq!(waited, 15_000 * MS, "a cap of what is told caps nothing else");
}

#[tokio::test(start_paused = true)]
async fn a_stream_lasts_no_longer_than_it_may_however_it_moves() {
    let limited =
        || with_timeouts(|policy| policy.timeouts.max_stream_duration = Some(200 * MS), false);
    let start = Instant::now();
    let (feed, mut body) = fed(DeadlineLayer::default(), limited()).await;
    let feeder = async {
        while feed.send("tick").await.is_ok() {
            tokio::time::sleep(30 * MS).await;
        }
    };
    let reader = async {
        loop {
            match body.frame().await.expect("an end") {
                Ok(_) => {}
                Err(error) => return kind(&error),
            }
        }
    };
    let ((), ended) = tokio::join!(feeder, reader);
    assert_eq!(ended, Some(ErrorKind::StreamDuration));
    assert!(start.elapsed() >= 200 * MS && start.elapsed() < 231 * MS, "{:?}", start.elapsed());

    let start = Instant::now();
    let answer = DeadlineLayer::default().layer(never()).oneshot(limited()).await;
    assert_eq!(answer.expect_err("over").kind(), ErrorKind::StreamDuration);
    assert_eq!(start.elapsed(), 200 * MS);

    let asked = with_timeouts(
        |policy| {
            policy.timeouts.max_stream_duration = Some(200 * MS);
            (policy.timeouts.request, policy.timeouts.explicit) = (50 * MS, true);
        },
        false,
    );
    assert_eq!(fails_after(DeadlineLayer::default(), asked).await, 50 * MS, "as a deadline");
}

#[tokio::test(start_paused = true)]
async fn an_attempt_may_stand_still_for_less_than_other_streams() {
    let request = with_timeouts(|policy| policy.retry.per_try_idle_timeout = Some(40 * MS), false);
    let (feed, mut body) = fed(DeadlineLayer::default(), request).await;
    feed.try_send("one").expect("room");
    assert!(body.frame().await.expect("a frame").is_ok());
    let start = Instant::now();
    let error = body.frame().await.expect("an end").expect_err("it stands still");
    assert_eq!((kind(&error), start.elapsed()), (Some(ErrorKind::StreamIdle), 40 * MS));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_late_already_is_not_sent() {
    let called = Rc::new(Cell::new(false));
    let seen = called.clone();
    let inner = service_fn(move |_: Request<Bytes>| {
        seen.set(true);
        pending::<Result<Response<Bytes>, Error>>()
    });
    let late = request(Some(clock::now()));
    let error = DeadlineLayer::default().layer(inner).oneshot(late).await.expect_err("late");
    assert_eq!(error.kind(), ErrorKind::Deadline);
    assert!(!called.get());
}

#[tokio::test(start_paused = true)]
async fn when_the_time_is_up_the_attempt_is_dropped() {
    let alive = Rc::new(());
    let held = alive.clone();
    let inner = service_fn(move |_: Request<Bytes>| {
        let held = held.clone();
        async move {
            pending::<()>().await;
            drop(held);
            Ok::<_, Error>(Response::new(Bytes::empty()))
        }
    });
    let mut call = std::pin::pin!(DeadlineLayer::new(MS).layer(inner).call(request(None)));
    assert!(call.as_mut().await.is_err());
    assert_eq!(Rc::strong_count(&alive), 1, "the future is alive, the attempt is not");
}

#[tokio::test(start_paused = true)]
async fn an_explicit_deadline_bounds_the_body_too() {
    let start = Instant::now();
    let (feed, mut body) = fed(DeadlineLayer::new(100 * MS), request(None)).await;
    feed.try_send("one").expect("room");
    assert!(body.frame().await.expect("a frame").is_ok());
    let error = body.frame().await.expect("an end").expect_err("the time is up");
    assert_eq!(kind(&error), Some(ErrorKind::Deadline));
    assert_eq!(start.elapsed(), 100 * MS);
    assert!(feed.is_closed(), "the body below is dropped");
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_nobody_bounds_may_last_as_long_as_it_moves() {
    let layer = DeadlineLayer::default().stream_idle(50 * MS);
    let (feed, mut body) = fed(layer, request(None)).await;
    let start = Instant::now();
    let feeder = async {
        for _ in 0..1_000 {
            tokio::time::sleep(40 * MS).await;
            feed.send("tick").await.expect("read");
        }
    };
    let reader = async {
        for _ in 0..1_000 {
            assert!(body.frame().await.expect("a frame").is_ok());
        }
    };
    tokio::join!(feeder, reader);
    assert_eq!(start.elapsed(), 40_000 * MS);

    let error = body.frame().await.expect("an end").expect_err("it stands still");
    assert_eq!(kind(&error), Some(ErrorKind::StreamIdle));
    assert_eq!(start.elapsed(), 40_050 * MS);
    assert!(feed.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_not_idleness() {
    let layer = DeadlineLayer::default().stream_idle(50 * MS);
    let (feed, mut body) = fed(layer, request(None)).await;
    feed.try_send("one").expect("room");
    advance(500 * MS).await;
    assert!(body.frame().await.expect("a frame").is_ok());
    advance(500 * MS).await;
    let start = Instant::now();
    assert!(body.frame().await.expect("an end").is_err());
    assert_eq!(start.elapsed(), 50 * MS, "counted from when the reader began to wait");
}

#[tokio::test(start_paused = true)]
async fn a_grpc_response_that_has_begun_ends_in_trailers() {
    let mut request = request(None);
    request.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let (_feed, body) = fed(DeadlineLayer::new(MS), request).await;
    let collected = body.collect().await.expect("trailers, no error");
    let trailers = collected.trailers().expect("trailers");
    assert_eq!(GrpcCode::from_headers(trailers), Some(GrpcCode::DEADLINE_EXCEEDED));
}

#[tokio::test(start_paused = true)]
async fn a_grpc_response_that_stands_still_says_so_in_trailers() {
    let mut request = request(None);
    request.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let idle = Duration::from_micros(1_500_001);
    let (_feed, body) = fed(DeadlineLayer::default().stream_idle(idle), request).await;
    let collected = body.collect().await.expect("trailers, no error");
    let trailers = collected.trailers().expect("trailers");
    assert_eq!(GrpcCode::from_headers(trailers), Some(GrpcCode::UNAVAILABLE));
    let message = trailers.get("grpc-message").expect("a sentence").to_str().expect("ASCII");
    assert!(message.starts_with("stream_idle_timeout: "), "{message}");

    let error = Error::new(ErrorKind::StreamIdle, "50\u{b5}s");
    let escaped = answer::trailers(&error);
    assert!(escaped["grpc-message"].to_str().expect("ASCII").ends_with("50%C2%B5s"));
}

#[tokio::test(start_paused = true)]
async fn only_an_explicit_expiry_goes_out() {
    async fn sent(layer: DeadlineLayer, grpc: bool) -> HeaderMap {
        let (sender, mut receiver) = mpsc::channel(1);
        let mut request = request(None);
        if grpc {
            let value = HeaderValue::from_static("application/grpc");
            request.headers_mut().insert("content-type", value);
        }
        let inner = service_fn(move |request: Request<Bytes>| {
            sender.try_send(request.headers().clone()).expect("room");
            async { Ok::<_, Error>(Response::new(Bytes::empty())) }
        });
        layer.layer(inner).oneshot(request).await.expect("a response");
        receiver.recv().await.expect("sent")
    }
    let http = sent(DeadlineLayer::new(1_500 * MS), false).await;
    assert_eq!(http.get(EXPECTED_TIMEOUT).expect("there"), "1500");
    assert!(!http.contains_key(GRPC_TIMEOUT));
    let grpc = sent(DeadlineLayer::new(1_500 * MS), true).await;
    let left = parse_grpc_timeout(grpc.get(GRPC_TIMEOUT).expect("there").as_bytes());
    assert_eq!(left.expect("valid"), 1_500 * MS);
    assert!(!grpc.contains_key(EXPECTED_TIMEOUT));
    for grpc in [false, true] {
        let silent = sent(DeadlineLayer::default(), grpc).await;
        assert!(!silent.contains_key(EXPECTED_TIMEOUT) && !silent.contains_key(GRPC_TIMEOUT));
    }
}
