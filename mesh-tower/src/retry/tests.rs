mod script;

use self::script::*;
use super::request::{ATTEMPT_COUNT, PREVIOUS_ATTEMPTS};
use super::*;
use crate::call::{Call, Shared, Tried};
use crate::call_options::CallOptions;
use crate::deadline::Expiry;
use crate::telemetry::Metrics;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt;
use mesh_core::Policy;
use mesh_core::deadline::EXPECTED_TIMEOUT;
use mesh_core::limit::{Kind, Limits};
use mesh_core::retry::RetriableHeader;
use parking_lot::Mutex;
use std::collections::VecDeque;
use tokio::time::Instant;
use tower::{ServiceExt, service_fn};

const MS: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn it_keeps_the_contract() {
    testkit::contract::check(
        |inner| RetryLayer::default().layer(inner),
        || Request::new(Body::empty()),
        || Response::new(Body::empty()),
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn any_method_goes_again_when_it_cannot_have_reached_the_application() {
    for method in [Method::GET, Method::POST] {
        let script = Script::new([refused(), status(200)]);
        let response = script.run(RetryLayer::new(), request(method)).await.expect("a response");
        assert_eq!((response.status().as_u16(), script.attempts()), (200, 2));
        assert_eq!(script.waited(), Duration::ZERO, "nobody is overloaded by it");
    }
}

#[tokio::test(start_paused = true)]
async fn what_may_have_reached_it_goes_again_only_if_idempotent() {
    for (method, idempotent, again) in [
        (Method::GET, None, true),
        (Method::HEAD, None, true),
        (Method::OPTIONS, None, true),
        (Method::PUT, None, false),
        (Method::POST, None, false),
        (Method::POST, Some(true), true),
        (Method::GET, Some(false), false),
    ] {
        for step in [status(502), status(503), status(504), reset()] {
            let script = Script::new([step, status(200)]);
            let mut request = request(method.clone());
            declare(&mut request, idempotent);
            let _ = script.run(RetryLayer::new(), request).await;
            assert_eq!(script.attempts() == 2, again, "{method} {idempotent:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_no_condition_names_is_the_answer() {
    for code in [200, 404, 429, 500, 501] {
        let script = Script::new([status(code)]);
        let response = script.run(RetryLayer::new(), request(Method::GET)).await;
        assert_eq!(response.expect("a response").status().as_u16(), code);
    }
}

#[tokio::test(start_paused = true)]
async fn after_the_last_attempt_its_own_answer_is_the_calls() {
    let script = Script::new([status(503), status(502)]);
    let response = script.run(RetryLayer::new(), request(Method::GET)).await.expect("a response");
    assert_eq!(response.status().as_u16(), 502);
    assert_eq!(response.into_body().collect().await.expect("whole").to_bytes(), "answer");

    let script = Script::new([refused(), refused(), reset()]);
    let layer = RetryLayer::new().attempts(2);
    let error = script.run(layer, request(Method::GET)).await.expect_err("an error");
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::ConnectionClosed, 3));
}

#[tokio::test(start_paused = true)]
async fn a_policy_without_retries_passes_calls_through() {
    let script = Script::new([refused()]);
    let error = script.run(RetryLayer::new().attempts(0), request(Method::GET)).await;
    assert_eq!(error.expect_err("an error").attempts(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_the_caller_asks_for_wins_over_policy_and_settings() {
    for pinned in [false, true] {
        for (options, attempts) in [
            (CallOptions::new(), 2),
            (CallOptions::new().no_retry(), 1),
            (CallOptions::new().retries(2), 3),
            (CallOptions::new().idempotent(false), 1),
        ] {
            let script = Script::new([status(503), status(503), status(200)]);
            let mut request = request(Method::GET);
            if pinned {
                pin(&mut request, |call| *call = call.clone().with_options(options));
            } else {
                request.extensions_mut().insert(options);
            }
            script.run(RetryLayer::new(), request).await.expect("a response");
            assert_eq!(script.attempts(), attempts, "pinned: {pinned}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_known_or_short_enough_is_repeated() {
    for body in [Body::from("onetwo"), streaming(&[b"one", b"two"])] {
        let script = Script::new([status(503), status(200)]);
        let mut request = request(Method::GET);
        *request.body_mut() = body;
        script.run(RetryLayer::new(), request).await.expect("a response");
        assert_eq!(script.body(0).as_deref(), Some(&b"onetwo"[..]));
        assert_eq!(script.body(1).as_deref(), Some(&b"onetwo"[..]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_longer_stream_is_sent_once() {
    const HALF: &[u8] = &[0; 33 * 1024];
    let script = Script::new([status(503)]);
    let mut request = request(Method::GET);
    *request.body_mut() = streaming(&[HALF, HALF]);
    let response = script.run(RetryLayer::new(), request).await.expect("a response");
    assert_eq!(response.status().as_u16(), 503);
    assert_eq!(script.body(0).map(|body| body.len()), Some(2 * HALF.len()));
}

#[tokio::test(start_paused = true)]
async fn no_attempt_begins_that_the_deadline_would_cut() {
    for (left, attempts) in [(1_999 * MS, 1), (2_500 * MS, 2)] {
        let script = Script::new([Step::Status(503, &[("retry-after", "2")]), status(200)]);
        let mut request = request(Method::GET);
        pin(&mut request, |call| call.expiry = Some(Expiry(call.started + left)));
        script.run(RetryLayer::new(), request).await.expect("a response");
        assert_eq!(script.attempts(), attempts, "{left:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_endpoint_left_out_goes_again_once_and_counts_nowhere() {
    let left_out = || Step::Error(ErrorKind::RemoteReset.into());
    let mut none = budget::Config::default();
    (none.percent, none.min_retries_per_second) = (0, 0);
    let script = Script::new([left_out(), status(200)]);
    let metrics = Metrics::new().destination("inventory");
    let layer = RetryLayer::new().budget(none.clone()).metrics(metrics.clone());
    let response = script.run(layer, request(Method::POST)).await.expect("a response");
    assert_eq!((response.status().as_u16(), metrics.counts().retries), (200, 0));
    assert_eq!(script.waited(), Duration::ZERO);
    assert!(!script.head(1).headers.contains_key(ATTEMPT_COUNT), "the first that may be seen");

    let script = Script::new([left_out(), left_out()]);
    let layer = RetryLayer::new().budget(none);
    let error = script.run(layer, request(Method::POST)).await.expect_err("left out twice");
    assert_eq!((error.attempts(), error.exhausted()), (2, Some(ErrorKind::RetryBudget)));

    let script = Script::new([left_out(), left_out(), status(503), status(200)]);
    let layer = RetryLayer::new().attempts(2);
    script.run(layer, request(Method::GET)).await.expect("a response");
    assert_eq!(script.attempts(), 4, "two retries besides");
    let counts: Vec<_> =
        (0..4).map(|i| script.head(i).headers.get(ATTEMPT_COUNT).cloned()).collect();
    let told = |text| Some(HeaderValue::from_static(text));
    assert_eq!(counts, [None, None, told("2"), told("3")]);

    let script = Script::new([left_out()]);
    assert!(script.run(RetryLayer::new().attempts(0), request(Method::GET)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn what_was_used_up_is_told() {
    let mut none = budget::Config::default();
    (none.percent, none.min_retries_per_second) = (0, 0);
    for (layer, steps, used_up) in [
        (RetryLayer::new(), 2, Some(ErrorKind::RetryLimit)),
        (RetryLayer::new().budget(none), 1, Some(ErrorKind::RetryBudget)),
        (RetryLayer::new().attempts(0), 1, None),
    ] {
        let script = Script::new((0..steps).map(|_| status(503)));
        let response = script.run(layer.clone(), request(Method::GET)).await.expect("a response");
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        let told = response.extensions().get().map(|Exhausted(what)| *what);
        assert_eq!(told, used_up);

        let script = Script::new((0..steps).map(|_| reset()));
        let error = script.run(layer, request(Method::GET)).await.expect_err("reset");
        assert_eq!((error.kind(), error.exhausted()), (ErrorKind::ConnectionClosed, used_up));
    }
    let script = Script::new([status(404)]);
    let response = script.run(RetryLayer::new(), request(Method::GET)).await.expect("a response");
    assert!(response.extensions().get::<Exhausted>().is_none(), "an answer, not a failure");
}

#[tokio::test(start_paused = true)]
async fn while_more_calls_fail_than_succeed_there_are_no_retries() {
    throttled(Config::default()).await;
    // An answer that is looked at for its fields is a success if it has none of them.
    let mut by_field = Config::default();
    by_field.retriable_headers = vec![RetriableHeader::named(HeaderName::from_static("x-again"))];
    throttled(by_field).await;
}

async fn throttled(retry: Config) {
    let mut config = throttling::Config::default();
    (config.max_tokens, config.token_ratio) = (4, 0.5);
    let steps = Arc::new(Mutex::new(VecDeque::new()));
    let next = steps.clone();
    let inner = service_fn(move |_: Request<Body>| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = next.lock().pop_front().expect("a step");
        std::future::ready(Ok::<_, Error>(response))
    });
    let service = RetryLayer::new().config(retry).throttling(config).layer(inner);
    let attempts = async |codes: &[u16]| {
        *steps.lock() =
            codes.iter().map(|code| StatusCode::from_u16(*code).expect("valid")).collect();
        let response = service.clone().oneshot(request(Method::GET)).await.expect("a response");
        (codes.len() - steps.lock().len(), response.extensions().get::<Exhausted>().copied())
    };
    // 4 tokens: 3, then a retry that fails too: 2, which is half.
    assert_eq!(attempts(&[503, 503, 200]).await, (2, Some(Exhausted(ErrorKind::RetryLimit))));
    assert_eq!(attempts(&[503, 200]).await, (1, Some(Exhausted(ErrorKind::RetryBudget))));
    // What no condition names is neither a success nor a failure: still 1 token.
    assert_eq!(attempts(&[404]).await, (1, None));
    assert_eq!(attempts(&[200]).await, (1, None));
    assert_eq!(attempts(&[200]).await, (1, None));
    assert_eq!(attempts(&[503, 200]).await, (1, Some(Exhausted(ErrorKind::RetryBudget))), "2 − 1");
    for _ in 0..4 {
        assert_eq!(attempts(&[200]).await, (1, None));
    }
    assert_eq!(attempts(&[503, 200]).await, (1, Some(Exhausted(ErrorKind::RetryBudget))), "3 − 1");
    assert_eq!(attempts(&[200]).await, (1, None));
    assert_eq!(attempts(&[200]).await, (1, None));
    assert_eq!(attempts(&[200]).await, (1, None));
    assert_eq!(attempts(&[503, 200]).await, (2, None), "3.5 − 1");
}

#[tokio::test(start_paused = true)]
async fn retries_at_once_may_be_a_share_of_the_calls_at_once() {
    let limits = Limits::default();
    let shared = Arc::new(Shared {
        budget: Budget::default(),
        throttling: Throttling::new(),
        guard: crate::guard::Guard::new(&Policy::default()),
        limits: limits.clone(),
        metrics: Metrics::new().destination("inventory"),
        latencies: OnceLock::new(),
    });
    let mut policy = Policy::default();
    policy.budget.active_percent = Some(20);
    policy.budget.min_retry_concurrency = 1;
    let policy = Arc::new(policy);
    for (calls, retries, attempts) in [(0, 0, 2), (9, 1, 1), (10, 1, 2), (10, 2, 1)] {
        let held: Vec<_> = (0..calls).map(|_| limits.acquire(Kind::Request)).collect();
        let retrying: Vec<_> = (0..retries).map(|_| limits.acquire(Kind::Retry)).collect();
        let script = Script::new([status(503), status(200)]);
        let mut request = request(Method::GET);
        pin(&mut request, |call| {
            (call.shared, call.policy) = (Some(shared.clone()), policy.clone());
        });
        script.run(RetryLayer::new(), request).await.expect("a response");
        assert_eq!(script.attempts(), attempts, "{calls} calls, {retries} retries");
        drop((held, retrying));
        assert_eq!(limits.active(Kind::Retry), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_pushback_the_back_off_begins_anew() {
    const PUSHBACK: &[(&str, &str)] = &[("grpc-status", "14"), ("grpc-retry-pushback-ms", "900")];
    const BUSY: &[(&str, &str)] = &[("grpc-status", "14")];
    let mut config = Config::default();
    config.attempts = 5;
    config.idempotent = Some(true);
    config.backoff = mesh_core::retry::backoff::Config::new(100 * MS, 10_000 * MS);
    for _ in 0..20 {
        let steps = [BUSY, BUSY, BUSY, PUSHBACK, BUSY, &[]].map(|fields| Step::Status(200, fields));
        let script = Script::new(steps);
        let layer = RetryLayer::new().config(config.clone());
        script.run(layer, grpc()).await.expect("a response");
        let waits = script.waits();
        assert_eq!(waits.len(), 5);
        for (wait, bound) in waits.iter().zip([100, 200, 400, 901, 100]) {
            assert!(*wait < bound * MS + MS, "{waits:?}");
        }
        assert!(waits[3] >= 900 * MS, "exactly what was asked for: {waits:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_wait_is_what_the_server_asked_for_else_jitter() {
    let script = Script::new([Step::Status(503, &[("retry-after", "2")]), status(200)]);
    script.run(RetryLayer::new(), request(Method::GET)).await.expect("a response");
    assert_eq!(script.waited(), Duration::from_secs(2));

    for _ in 0..20 {
        let script = Script::new([status(503), status(200)]);
        script.run(RetryLayer::new(), request(Method::GET)).await.expect("a response");
        assert!(script.waited() <= 25 * MS, "{:?}", script.waited());
    }
}

#[tokio::test(start_paused = true)]
async fn a_grpc_status_in_the_head_goes_again_unless_the_server_forbids_it() {
    const UNAVAILABLE: &[(&str, &str)] = &[("grpc-status", "14")];
    const PUSHBACK: &[(&str, &str)] = &[("grpc-status", "14"), ("grpc-retry-pushback-ms", "70")];
    const NEVER: &[(&str, &str)] = &[("grpc-status", "14"), ("grpc-retry-pushback-ms", "-1")];
    for (fields, idempotent, attempts) in [
        (UNAVAILABLE, Some(true), 2),
        (UNAVAILABLE, None, 1),
        (PUSHBACK, Some(true), 2),
        (NEVER, Some(true), 1),
        (&[("grpc-status", "3")], Some(true), 1),
        (&[], Some(true), 1),
    ] {
        let script = Script::new([Step::Status(200, fields), Step::Status(200, &[])]);
        let mut request = grpc();
        declare(&mut request, idempotent);
        script.run(RetryLayer::new(), request).await.expect("a response");
        assert_eq!(script.attempts(), attempts, "{fields:?} {idempotent:?}");
        if fields == PUSHBACK {
            assert_eq!(script.waited(), 70 * MS);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_further_attempt_says_so_and_avoids_the_endpoints_before() {
    let first = Error::from(ErrorKind::Connect).with_endpoint("127.0.0.1:1");
    let script = Script::new([Step::Error(first), status(200)]);
    let mut http = request(Method::GET);
    pin(&mut http, |_| {});
    script.run(RetryLayer::new(), http).await.expect("a response");
    let (before, after) = (script.head(0), script.head(1));
    assert!(!before.headers.contains_key(ATTEMPT_COUNT));
    assert_eq!(after.headers.get(ATTEMPT_COUNT).expect("there"), "2");
    let call = after.extensions.get::<Arc<Call>>().expect("pinned");
    assert_eq!((call.attempt, &call.tried[..]), (2, &[EndpointId::from("127.0.0.1:1")][..]));

    let script = Script::new([refused(), status(200)]);
    script.run(RetryLayer::new(), grpc()).await.expect("a response");
    assert!(!script.head(0).headers.contains_key(PREVIOUS_ATTEMPTS));
    assert_eq!(script.head(1).headers.get(PREVIOUS_ATTEMPTS).expect("there"), "1");
}

#[tokio::test(start_paused = true)]
async fn a_response_names_the_endpoint_to_avoid() {
    let script = Script::new([status(503), status(200)]);
    let inner = script.service().map_response(|mut response: Response<Body>| {
        response.extensions_mut().insert(Tried("127.0.0.1:1".into()));
        response
    });
    let mut request = request(Method::GET);
    pin(&mut request, |_| {});
    RetryLayer::new().layer(inner).oneshot(request).await.expect("a response");
    let head = script.head(1);
    let call = head.extensions.get::<Arc<Call>>().expect("pinned");
    assert_eq!(call.tried, [EndpointId::from("127.0.0.1:1")]);
}

#[tokio::test(start_paused = true)]
async fn the_time_left_on_the_wire_shrinks_with_each_attempt() {
    let script = Script::new([Step::Status(503, &[("retry-after", "2")]), status(200)]);
    let mut request = request(Method::GET);
    request.headers_mut().insert(EXPECTED_TIMEOUT, HeaderValue::from_static("5000"));
    pin(&mut request, |call| call.expiry = Some(Expiry(call.started + 5_000 * MS)));
    script.run(RetryLayer::new(), request).await.expect("a response");
    assert_eq!(script.head(0).headers.get(EXPECTED_TIMEOUT).expect("there"), "5000");
    assert_eq!(script.head(1).headers.get(EXPECTED_TIMEOUT).expect("there"), "3000");
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_takes_too_long_is_dropped_for_another() {
    let script = Script::new([Step::Never, status(200)]);
    let layer = RetryLayer::new().per_try_timeout(100 * MS);
    script.run(layer.clone(), request(Method::GET)).await.expect("a response");
    assert!(script.waited() >= 100 * MS && script.waited() <= 125 * MS, "{:?}", script.waited());

    let script = Script::new([Step::Never]);
    let error = script.run(layer, request(Method::POST)).await.expect_err("it may have arrived");
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::Deadline, 1));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_stands_still_is_dropped_for_another() {
    let mut config = Config::default();
    config.per_try_idle_timeout = Some(60 * MS);
    for whole in [None, Some(100 * MS), Some(60 * MS)] {
        config.per_try_timeout = whole;
        let script = Script::new([Step::Never, status(200)]);
        let layer = RetryLayer::new().config(config.clone());
        script.run(layer, request(Method::GET)).await.expect("a response");
        assert!(script.waited() >= 60 * MS && script.waited() <= 85 * MS, "{:?}", script.waited());
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_the_call_ends_the_wait() {
    let script = Script::new([Step::Status(503, &[("retry-after", "2")])]);
    let call = script.run(RetryLayer::new(), request(Method::GET));
    assert!(tokio::time::timeout(MS, call).await.is_err());
    tokio::time::sleep(3_000 * MS).await;
    assert_eq!(script.attempts(), 1);
}

#[tokio::test(start_paused = true)]
async fn under_total_failure_the_budget_bounds_the_amplification() {
    const CALLS: u64 = 10_000;
    let metrics = Metrics::new().destination("inventory");
    let sent = Arc::new(Mutex::new(0u64));
    let count = sent.clone();
    let failing = service_fn(move |_: Request<Body>| {
        *count.lock() += 1;
        async {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            Ok::<_, Error>(response)
        }
    });
    let service = RetryLayer::new().attempts(3).metrics(metrics.clone()).layer(failing);
    let start = Instant::now();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..CALLS {
        tokio::time::sleep(MS).await;
        calls.spawn(service.clone().oneshot(request(Method::GET)));
    }
    while let Some(done) = calls.join_next().await {
        let response = done.expect("no panic").expect("the last attempt's response");
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
    let seconds = start.elapsed().as_secs() + 1;
    // The minimum may be spent for the length of the budget's window before its first second.
    let minimum = 10 * (seconds + 10);
    let sent = *sent.lock();
    assert!(sent > CALLS, "some calls are retried");
    assert!(sent <= CALLS * 12 / 10 + minimum, "{sent} attempts for {CALLS} calls");
    let counts = metrics.counts();
    assert_eq!(counts.retries, sent - CALLS);
    assert!(counts.budget_exhausted > 0);
}

#[tokio::test(start_paused = true)]
async fn pinned_policy_budget_and_metrics_win() {
    let mut budget = budget::Config::default();
    budget.percent = 0;
    budget.min_retries_per_second = 0;
    let metrics = Metrics::new().destination("inventory");
    let shared = Arc::new(Shared {
        budget: Budget::new(&budget),
        throttling: Throttling::new(),
        guard: crate::guard::Guard::new(&Policy::default()),
        limits: Limits::default(),
        metrics: metrics.clone(),
        latencies: OnceLock::new(),
    });
    let script = Script::new([status(503)]);
    let mut request = request(Method::GET);
    pin(&mut request, |call| call.shared = Some(shared));
    let response = script.run(RetryLayer::new(), request).await.expect("a response");
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "the original failure");
    assert_eq!((metrics.counts().retries, metrics.counts().budget_exhausted), (0, 1));

    let mut policy = Policy::default();
    policy.retry.attempts = 0;
    let script = Script::new([status(503)]);
    let mut request = self::request(Method::GET);
    pin(&mut request, |call| call.policy = Arc::new(policy));
    script.run(RetryLayer::new(), request).await.expect("a response");
    assert_eq!(script.attempts(), 1);
}

#[tokio::test(start_paused = true)]
async fn retries_at_once_are_limited_if_the_policy_says_so() {
    let mut config = mesh_core::limit::Config::default();
    config.max_retries = Some(1);
    let limits = Limits::new(&config);
    let shared = Arc::new(Shared {
        budget: Budget::default(),
        throttling: Throttling::new(),
        guard: crate::guard::Guard::new(&Policy::default()),
        limits: limits.clone(),
        metrics: Metrics::new().destination("inventory"),
        latencies: OnceLock::new(),
    });
    for (others, attempts) in [(0, 2), (1, 1)] {
        let held: Vec<_> = (0..others).map(|_| limits.acquire(Kind::Retry)).collect();
        let script = Script::new([status(503), status(200)]);
        let mut request = request(Method::GET);
        let shared = shared.clone();
        pin(&mut request, |call| call.shared = Some(shared));
        script.run(RetryLayer::new(), request).await.expect("a response");
        assert_eq!(script.attempts(), attempts);
        drop(held);
        assert_eq!(limits.active(Kind::Retry), 0, "a retry that is over is not counted");
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_given_up_is_dropped_before_the_wait() {
    let held = Arc::new(());
    let weak = Arc::downgrade(&held);
    let held = Arc::new(Mutex::new(Some(held)));
    let inner = service_fn(move |request: Request<Body>| {
        let mut response = Response::new(held.lock().take());
        if !request.headers().contains_key(ATTEMPT_COUNT) {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            response.headers_mut().insert("retry-after", HeaderValue::from_static("2"));
        }
        std::future::ready(Ok::<_, Error>(response))
    });
    let mut call = std::pin::pin!(RetryLayer::new().layer(inner).oneshot(request(Method::GET)));
    assert!(tokio::time::timeout(MS, call.as_mut()).await.is_err(), "it waits");
    assert!(weak.upgrade().is_none());
    assert_eq!(call.await.expect("a response").status(), StatusCode::OK);
}
