//! What is sent again, and how often.

use super::{addresses, call, get, mesh, policy, seen, service};
use http::{Method, StatusCode};
use mesh_tower::ErrorKind;
use testkit::endpoint::{Reply, ScriptedEndpoint};
use tokio::time::Instant;

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
