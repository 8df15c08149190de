//! The admin page that tells what the proxy would do now.

mod common;

use common::File;
use common::process::{PATIENCE, Process};
use common::{exchange, listener, service, statuses};
use std::net::SocketAddr;
use testkit::endpoint::{Reply, ScriptedEndpoint};
use tokio::time::Instant;

fn config(one: SocketAddr, two: SocketAddr, other: SocketAddr) -> String {
    format!(
        "{}{}{}",
        service("app", one, ""),
        service("other", other, ""),
        listener("main", "http", "app")
    )
    .replace(&format!("['{one}']"), &format!("['{one}', {{ address: '{two}', weight: 3 }}]"))
        + "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: beta }\n\
             spec:\n  parentRefs: [{ kind: Service, name: app }]\n  rules:\n  \
             - matches: [{ headers: [{ name: x-beta, value: 'yes' }] }]\n    \
             backendRefs: [{ name: app, weight: 1 }, { name: other, weight: 1 }]\n  \
             - backendRefs: [{ name: app }]\n"
}

async fn explain(process: &Process, query: &str, more: &str) -> (u16, String) {
    let head = format!(
        "GET /explain?{query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}\r\n"
    );
    let answer = exchange(process.admin, head.as_bytes()).await;
    (statuses(&answer)[0], String::from_utf8(answer).unwrap())
}

#[tokio::test]
async fn the_page_tells_route_split_and_endpoints_as_they_are_now_and_sends_nothing() {
    let mut all = Vec::new();
    for _ in 0..3 {
        all.push(ScriptedEndpoint::http1(Reply::status(200).content("text")).await);
    }
    let [one, two, other] = [0, 1, 2].map(|index| all[index].address());
    let file = File::new(&config(one, two, other));
    let process = Process::start(&["--config", file.path()]);

    let query = "url=http://app/x&header=x-beta:yes";
    let (status, text) = explain(&process, query, "").await;
    assert_eq!(status, 200, "{text}");
    for part in [
        "\r\n\r\nrequest      GET app/x\n",
        "route        beta/0",
        "split        to ",
        " 50.0 %  other",
        "0 in flight  ready, weight 3",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert!(all.iter().all(|endpoint| endpoint.calls() == 0), "it is told, not sent");

    // An endpoint that went down is told as out, with the reason.
    all[0].kill().await;
    let down = format!("out  {one}");
    let until = Instant::now() + PATIENCE;
    while !explain(&process, "url=http://app/", "").await.1.contains(&down) {
        assert!(Instant::now() < until, "it is not told to be out");
        exchange(process.proxy, b"GET / HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n").await;
    }
    let (_, json) = explain(&process, "url=http://app/", "Accept: application/json\r\n").await;
    let json: serde_json::Value =
        serde_json::from_str(json.split_once("\r\n\r\n").unwrap().1).unwrap();
    let candidates = json["destinations"][0]["candidates"].as_array().unwrap();
    let down = candidates.iter().find(|known| known["endpoint"] == one.to_string()).unwrap();
    assert_eq!(down["included"], false, "{json:#}");
    assert!(down["reason"].as_str().unwrap().starts_with("unreachable: "), "{down:#}");
    assert!(down["load"].is_number() && down["inFlight"] == 0, "{down:#}");
    assert!(json["ended"].is_null() && json["attempts"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn it_asks_as_a_listener_would_and_says_what_is_wrong_with_a_question() {
    let endpoint = ScriptedEndpoint::http1(Reply::status(200)).await;
    let address = endpoint.address();
    let file = File::new(&(service("app", address, "") + &listener("main", "http", "app")));
    let process = Process::start(&["--config", file.path()]);

    // The listener is for one service: whatever the host, its routes decide.
    let (_, text) = explain(&process, "url=http://elsewhere/&listener=main", "").await;
    assert!(text.contains("destination  app ("), "{text}");
    let (_, text) = explain(&process, "url=http://elsewhere/", "").await;
    assert!(text.contains("destination  app ("), "it is the only listener\n{text}");
    let (_, text) = explain(&process, "url=http://app/a%252fb", "").await;
    assert!(text.contains("refused      a proxy answers 400"), "{text}");
    let (status, text) = explain(&process, "url=http://app/&listener=side", "").await;
    assert_eq!(status, 400);
    assert!(text.contains("no listener `side`; there are: main"), "{text}");
    assert_eq!(explain(&process, "", "").await.0, 400);
    assert_eq!(explain(&process, "url=http://app/", "Origin: http://evil.test\r\n").await.0, 403);
    assert_eq!(process.admin("POST", "/explain?url=http://app/").await.0, 405);
    assert_eq!(endpoint.calls(), 0);
}

#[tokio::test]
async fn of_several_listeners_one_is_named_unless_all_send_to_the_same_place() {
    let address = SocketAddr::from(([127, 0, 0, 1], 9));
    let outbound = |name| listener(name, "http", "app").replace(", service: app", "");
    let configs =
        [listener("main", "http", "app") + &outbound("out"), outbound("out") + &outbound("also")];
    let [mixed, alike] =
        configs.map(|listeners| File::new(&(service("app", address, "") + &listeners)));

    let process = Process::start(&["--config", mixed.path()]);
    let (status, text) = explain(&process, "url=http://elsewhere/", "").await;
    assert_eq!(status, 400);
    assert!(text.contains("name the listener") && text.contains("there are: main, out"), "{text}");
    let (_, text) = explain(&process, "url=http://elsewhere/&listener=main", "").await;
    assert!(text.contains("destination  app ("), "{text}");
    let (_, text) = explain(&process, "url=http://elsewhere/&listener=out", "").await;
    assert!(text.contains("dns://elsewhere:80"), "{text}");

    let process = Process::start(&["--config", alike.path()]);
    let (_, text) = explain(&process, "url=http://elsewhere/", "").await;
    assert!(text.contains("dns://elsewhere:80"), "{text}");
}

#[tokio::test]
async fn nothing_of_it_goes_to_clients() {
    let endpoint = ScriptedEndpoint::http1(Reply::status(200)).await;
    let file =
        File::new(&(service("app", endpoint.address(), "") + &listener("main", "http", "app")));
    let process = Process::start(&["--config", file.path()]);
    let ask = b"GET /explain?url=http://app/ HTTP/1.1\r\nHost: app\r\nx-mesh-explain: 1\r\n\
                Connection: close\r\n\r\n";
    let answer = String::from_utf8(exchange(process.proxy, ask).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("candidates"), "{answer}");
    assert!(!answer.to_lowercase().contains("explain"), "{answer}");
    assert_eq!(endpoint.calls(), 1, "it is a path like any other there");
}
