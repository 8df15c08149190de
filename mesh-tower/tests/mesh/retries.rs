//! What is sent again, and how often.

use super::{addresses, call, get, mesh, policy, seen, service};
use http::{Method, Request, StatusCode};
use mesh_tower::{Body, CallOptions, ErrorKind};
use std::time::Duration;
use testkit::endpoint::{Reply, ScriptedEndpoint};
use tokio::time::Instant;
use tower::ServiceExt;

#[tokio::test]
async fn under_errors_only_the_endpoints_see_little_more_than_the_calls() {
    let mut endpoints = Vec::new();
    for _ in 0..3 {
        endpoints.push(ScriptedEndpoint::http1(Reply::status(503)).await);
    }
    let service = service("inventory", &addresses(&endpoints));
    let mesh = mesh(&format!("{}{service}", policy("retry: { backoff: { base: 1ms, max: 1ms } }")));
    let begin = Instant::now();
    let calls = 2_000;
    for _ in 0..calls {
        assert_eq!(
            get(&mesh, "http://inventory/").await.expect("an answer"),
            StatusCode::SERVICE_UNAVAILABLE
        );
    }
    let attempts: u64 = endpoints.iter().map(ScriptedEndpoint::calls).sum();
    // The minimum rate is kept in stock over the budget's 10 s.
    let minimum = 10.0 * (10.0 + begin.elapsed().as_secs_f64());
    let most = 1.2 * f64::from(calls) + minimum;
    println!("{attempts} attempts of {calls} calls, at most {most}");
    assert!(attempts as f64 <= most, "{attempts} attempts");
    assert_eq!(seen(&mesh, "inventory").retries, attempts - u64::from(calls as u32));
    assert!(attempts > u64::from(calls as u32), "the budget lets some through");
}

#[tokio::test]
async fn an_attempt_that_hangs_is_repeated_elsewhere() {
    let endpoints = [
        ScriptedEndpoint::http1(Reply::hang()).await,
        ScriptedEndpoint::http1(Reply::status(200)).await,
    ];
    // Random, so that only what the call itself remembers can keep it from the hung one.
    let limits = "retry: { perTryTimeout: 100ms }, pick: { policy: Random }, \
                  outlier: { consecutive5xx: 0, consecutiveGatewayFailure: 0 }";
    let mesh = mesh(&format!("{}{}", policy(limits), service("inventory", &addresses(&endpoints))));
    for _ in 0..20 {
        assert_eq!(get(&mesh, "http://inventory/").await.expect("an answer"), StatusCode::OK);
    }
    assert!(endpoints[0].calls() > 0, "drawn at times");
}

#[tokio::test]
async fn a_post_is_not_sent_twice_once_bytes_left() {
    let endpoints = [
        ScriptedEndpoint::http1(Reply::reset()).await,
        ScriptedEndpoint::http1(Reply::reset()).await,
    ];
    let mesh = mesh(&service("inventory", &addresses(&endpoints)));
    let error = call(&mesh, Method::POST, "http://inventory/", "order".into())
        .await
        .expect_err("the connection was reset");
    assert_eq!(error.kind(), ErrorKind::RemoteReset, "{error}");
    assert_eq!((error.attempts(), error.may_have_reached()), (1, true));
    assert_eq!(endpoints[0].calls() + endpoints[1].calls(), 1);

    let error = get(&mesh, "http://inventory/").await.expect_err("both reset");
    assert_eq!(error.attempts(), 2, "a GET is: {error}");
    assert_eq!(endpoints[0].calls() + endpoints[1].calls(), 3);
    assert_eq!((endpoints[0].calls().min(1), endpoints[1].calls().min(1)), (1, 1), "elsewhere");

    for endpoint in &endpoints {
        endpoint.set(Reply::status(503));
    }
    let answer = call(&mesh, Method::POST, "http://inventory/", "order".into()).await;
    assert_eq!(answer.expect("an answer"), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(endpoints[0].calls() + endpoints[1].calls(), 4, "an answer is no reason either");
}

#[tokio::test]
async fn a_route_may_turn_retries_off() {
    let endpoint = ScriptedEndpoint::http1(Reply::status(503)).await;
    let config = format!(
        "{}{}",
        policy("retry: { attempts: 0 }"),
        service("inventory", &[endpoint.address()])
    );
    assert_eq!(
        get(&mesh(&config), "http://inventory/").await.expect("an answer"),
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert_eq!(endpoint.calls(), 1);
}

#[tokio::test]
async fn a_caller_may_ask_for_more_less_or_other_time_than_the_policy() {
    let busy = ScriptedEndpoint::http1(Reply::status(503)).await;
    let quick = policy("retry: { backoff: { base: 1ms, max: 1ms } }");
    let mesh = mesh(&format!("{quick}{}", service("inventory", &[busy.address()])));
    let ask = async |method: Method, options: CallOptions| {
        let request = Request::builder().method(method).uri("http://inventory/").extension(options);
        let before = busy.calls();
        let answer = mesh.http().oneshot(request.body(Body::empty()).expect("valid")).await;
        (answer.map(|response| response.status()), busy.calls() - before)
    };
    for (method, options, attempts) in [
        (Method::GET, CallOptions::new(), 2),
        (Method::GET, CallOptions::new().retries(3), 4),
        (Method::GET, CallOptions::new().no_retry(), 1),
        (Method::GET, CallOptions::new().idempotent(false), 1),
        (Method::PUT, CallOptions::new().idempotent(true), 2),
    ] {
        let (answer, made) = ask(method, options.clone()).await;
        assert_eq!(answer.expect("an answer"), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(made, attempts, "{options:?}");
    }
    let (answer, made) = ask(Method::GET, CallOptions::new().timeout(Duration::ZERO)).await;
    assert_eq!(answer.expect_err("no time").kind(), ErrorKind::Deadline);
    assert_eq!(made, 0);
}

#[tokio::test]
async fn a_refused_stream_is_sent_again_once_and_is_no_retry() {
    let endpoint = ScriptedEndpoint::http2(Reply::status(200)).await;
    endpoint.plan(|number, _| match number {
        1 | 3 | 4 => Reply::refuse_stream(),
        _ => Reply::status(200),
    });
    // Nothing that is listed and no budget allows it.
    let none = "protocol: Http2, retry: { on: [] }, budget: { percent: 0, minRetriesPerSecond: 0 }";
    let mesh = mesh(&format!("{}{}", policy(none), service("inventory", &[endpoint.address()])));
    let post = async || call(&mesh, Method::POST, "http://inventory/", "order".into()).await;
    assert_eq!(post().await.expect("sent again"), StatusCode::OK);
    assert_eq!((endpoint.calls(), seen(&mesh, "inventory").retries), (2, 0));
    let error = post().await.expect_err("refused twice");
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::RemoteReset, 2));
    assert_eq!(endpoint.calls(), 4);
}

#[tokio::test]
async fn retries_stop_while_more_calls_fail_than_succeed() {
    let busy = ScriptedEndpoint::http1(Reply::status(503)).await;
    let throttled = "retryThrottling: { maxTokens: 10, tokenRatio: 0.5 }, \
                     retry: { backoff: { base: 1ms, max: 1ms } }, \
                     outlier: { consecutive5xx: 0, consecutiveGatewayFailure: 0 }";
    let mesh = mesh(&format!("{}{}", policy(throttled), service("inventory", &[busy.address()])));
    for _ in 0..100 {
        get(&mesh, "http://inventory/").await.expect("an answer");
    }
    // 5 failures, the 1st, 3rd and 5th of them of calls, take the tokens to half.
    assert_eq!((busy.calls(), seen(&mesh, "inventory").retries), (102, 2));
    busy.set(Reply::status(200));
    for _ in 0..12 {
        get(&mesh, "http://inventory/").await.expect("an answer");
    }
    let before = busy.calls();
    busy.set(Reply::status(503));
    get(&mesh, "http://inventory/").await.expect("an answer");
    assert_eq!(busy.calls() - before, 1, "6 tokens less this failure: half");
    busy.set(Reply::status(200));
    for _ in 0..4 {
        get(&mesh, "http://inventory/").await.expect("an answer");
    }
    let before = busy.calls();
    busy.set(Reply::status(503));
    get(&mesh, "http://inventory/").await.expect("an answer");
    assert_eq!(busy.calls() - before, 2, "7 tokens less this failure: above half");
}

#[tokio::test]
async fn fields_of_a_request_are_honoured_where_the_policy_trusts_them() {
    for (trusted, attempts) in [(false, 1), (true, 4)] {
        let busy = ScriptedEndpoint::http1(Reply::status(409)).await;
        let spec = format!(
            "trustRequestHeaders: {trusted}, retry: {{ backoff: {{ base: 1ms, max: 1ms }} }}"
        );
        let mesh = mesh(&format!("{}{}", policy(&spec), service("inventory", &[busy.address()])));
        let request = Request::get("http://inventory/")
            .header("x-envoy-retry-on", "retriable-4xx")
            .header("x-envoy-max-retries", "3")
            .body(Body::empty())
            .expect("valid");
        let response = mesh.http().oneshot(request).await.expect("an answer");
        assert_eq!(response.status(), StatusCode::CONFLICT);
        assert_eq!(busy.calls(), attempts, "trusted: {trusted}");
        let arrivals = busy.arrivals();
        let passed_on = arrivals[0].headers.contains_key("x-envoy-retry-on");
        assert_ne!(passed_on, trusted, "whoever honours them keeps them");

        if trusted {
            busy.set(Reply::hang());
            let request = Request::get("http://inventory/")
                .header("x-envoy-upstream-rq-timeout-ms", "50")
                .body(Body::empty())
                .expect("valid");
            let answer = mesh.http().oneshot(request).await;
            assert_eq!(answer.expect_err("no time").kind(), ErrorKind::Deadline);
        }
    }
}
