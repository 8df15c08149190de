//! What happens to one call in the proxy: hedged, retried, throttled as in a linked mesh.

mod common;

use common::{exchange, listener, proxy_of, service, statuses};
use testkit::endpoint::{Reply, ScriptedEndpoint};

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: mesh/v1\nkind: TrafficPolicy\nmetadata: {{ name: all }}\n\
         spec: {{ targetRef: {{ kind: Mesh }}, {spec} }}\n---\n"
    )
}

fn request(line: &str) -> Vec<u8> {
    format!("{line} HTTP/1.1\r\nHost: app\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        .into_bytes()
}

#[tokio::test]
async fn a_call_that_takes_long_is_sent_beside_itself_if_that_does_no_harm() {
    let endpoint = ScriptedEndpoint::http1(Reply::status(200)).await;
    endpoint.plan(|number, head| match (number, head.method.as_str()) {
        (1, "GET") => Reply::hang(),
        (_, "POST") => Reply::status(200).after(std::time::Duration::from_millis(100)),
        _ => Reply::status(200),
    });
    let yaml = policy("hedge: { delay: 20ms }")
        + &service("app", endpoint.address(), "")
        + &listener("main", "http", "app");
    let (_proxy, addresses) = proxy_of(&yaml).await;
    assert_eq!(statuses(&exchange(addresses[0], &request("GET /")).await), [200]);
    let before = endpoint.calls();
    assert!(before >= 2, "the first one hangs");
    assert_eq!(statuses(&exchange(addresses[0], &request("POST /")).await), [200]);
    assert_eq!(endpoint.calls() - before, 1);
}

#[tokio::test]
async fn retries_stop_while_more_calls_fail_than_succeed() {
    let endpoint = ScriptedEndpoint::http1(Reply::status(503)).await;
    let spec = "retryThrottling: { maxTokens: 4 }, retry: { backoff: { base: 1ms, max: 1ms } }, \
                outlier: { consecutive5xx: 0, consecutiveGatewayFailure: 0 }";
    let yaml =
        policy(spec) + &service("app", endpoint.address(), "") + &listener("main", "http", "app");
    let (_proxy, addresses) = proxy_of(&yaml).await;
    for _ in 0..10 {
        assert_eq!(statuses(&exchange(addresses[0], &request("GET /")).await), [503]);
    }
    // 4 tokens: the first call and its retry take them to half.
    assert_eq!(endpoint.calls(), 11);
}
