use std::sync::Arc;

use axum::Router;
use axum::extract::Request as Asked;
use axum::http::StatusCode as Code;
use axum::response::{IntoResponse as _, Response};
use tokio::net::TcpListener;

use super::super::stream::test_acceptor;
use super::*;
use CheckStatus::{Critical, Passing, Warning};

/// Answers as its path says; `/echo` with what it was asked.
async fn answer(asked: Asked) -> Response {
    let path = asked.uri().path().to_owned();
    let to =
        |code: Code, location: &str| (code, [("location", location.to_owned())]).into_response();
    match path.as_str() {
        "/loop" => to(Code::FOUND, "/loop"),
        "/see-other" => to(Code::SEE_OTHER, "echo"),
        "/again" => to(Code::TEMPORARY_REDIRECT, "/echo"),
        "/away" => to(Code::FOUND, &format!("http://localhost:{}/echo", port_of(&asked))),
        "/nowhere" => to(Code::FOUND, "ftp://x/"),
        "/big" => "x".repeat(100_000).into_response(),
        "/echo" => {
            let (head, body) = asked.into_parts();
            let body = axum::body::to_bytes(body, 1_000).await.unwrap();
            let value =
                |name| head.headers.get(name).map_or("-", |it: &HeaderValue| it.to_str().unwrap());
            let names = ["host", "user-agent", "accept", "x-a", "authorization", "content-length"];
            let values = names.map(|name| format!("{name}={}", value(name))).join("|");
            let multiple = head.headers.get_all("x-a").iter().count();
            format!("{} {values} x-a:{multiple} body={}", head.method, text(&body)).into_response()
        }
        code => {
            let code: u16 = code.trim_start_matches('/').parse().unwrap();
            (Code::from_u16(code).unwrap(), "said\n").into_response()
        }
    }
}

fn port_of(asked: &Asked) -> String {
    let host = asked.headers()[HOST].to_str().unwrap();
    host.rsplit_once(':').unwrap().1.to_owned()
}

async fn serve() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
    format!("http://{address}")
}

async fn ask(definition: &CheckDefinition) -> CheckResult {
    Http::new(definition).ask(4096).await
}

async fn get(url: &str) -> CheckResult {
    ask(&CheckDefinition { http: url.into(), ..CheckDefinition::default() }).await
}

#[tokio::test]
async fn the_status_says_how_it_is() {
    let base = serve().await;
    for (path, status, line) in [
        ("200", Passing, "200 OK"),
        ("204", Passing, "204 No Content"),
        ("299", Passing, "299"),
        ("429", Warning, "429 Too Many Requests"),
        ("304", Critical, "304 Not Modified"),
        ("404", Critical, "404 Not Found"),
        ("503", Critical, "503 Service Unavailable"),
    ] {
        let seen = get(&format!("{base}/{path}")).await;
        let body = if matches!(path, "204" | "304") { "" } else { "said\n" };
        let expected = format!("HTTP GET {base}/{path}: {line} Output: {body}");
        assert_eq!(seen, CheckResult::new(status, expected));
    }
    let big = get(&format!("{base}/big")).await;
    assert_eq!(big.status, Passing);
    assert_eq!(big.output.matches('x').count(), 4096);
}

#[tokio::test]
async fn what_the_definition_says_is_sent() {
    let base = serve().await;
    let host = base.trim_start_matches("http://");
    let plain = get(&format!("{base}/echo")).await.output;
    let expected = format!(
        "GET host={host}|user-agent={AGENT}|accept=text/plain, text/*, */*|x-a=-|authorization=-|content-length=- x-a:0 body="
    );
    assert!(plain.ends_with(&expected), "{plain}");

    let definition: CheckDefinition = serde_json::from_value(serde_json::json!({
        "HTTP": format!("http://me:secret@{host}/echo"), "Method": "POST", "Body": "{}",
        "Header": {"X-A": ["1", "2"], "Host": ["other"], "User-Agent": ["mine"], "Content-Length": ["77"]},
    }))
    .unwrap();
    let seen = ask(&definition).await.output;
    let expected = "POST host=other|user-agent=mine|accept=text/plain, text/*, */*|x-a=1|authorization=Basic bWU6c2VjcmV0|content-length=2 x-a:2 body={}";
    assert!(seen.ends_with(expected), "{seen}");
    assert!(seen.starts_with(&format!("HTTP POST http://xxxxx@{host}/echo: 200 OK")), "{seen}");
}

#[tokio::test]
async fn redirects_are_followed_but_not_for_ever_and_not_with_secrets() {
    let base = serve().await;
    let post = |path: &str| CheckDefinition {
        http: format!("{base}/{path}"),
        method: "POST".into(),
        body: "b".into(),
        header: [("Authorization".to_owned(), vec!["secret".to_owned()])].into(),
        ..CheckDefinition::default()
    };
    let seen = ask(&post("see-other")).await.output;
    assert!(seen.contains("Output: GET "), "{seen}");
    assert!(seen.contains("authorization=secret"), "{seen}");
    assert!(seen.ends_with("body="), "{seen}");
    let seen = ask(&post("again")).await.output;
    assert!(seen.contains("Output: POST ") && seen.ends_with("body=b"), "{seen}");
    let seen = ask(&post("away")).await.output;
    assert!(seen.contains("host=localhost:") && seen.contains("authorization=-"), "{seen}");

    let seen = get(&format!("{base}/loop")).await;
    let expected = format!("Get \"{base}/loop\": stopped after 10 redirects");
    assert_eq!(seen, CheckResult::critical(expected));
    let seen = get(&format!("{base}/nowhere")).await;
    assert_eq!(
        seen,
        CheckResult::critical("Get \"ftp://x/\": unsupported protocol scheme \"ftp\"")
    );
}

#[tokio::test]
async fn what_is_no_request_is_critical_in_consuls_words() {
    let seen = get("nonsense").await;
    assert_eq!(seen, CheckResult::critical("Get \"nonsense\": unsupported protocol scheme \"\""));
    let definition = CheckDefinition {
        http: "http://127.0.0.1:1/".into(),
        method: "b m".into(),
        ..CheckDefinition::default()
    };
    assert_eq!(ask(&definition).await, CheckResult::critical("net/http: invalid method \"b m\""));
    let definition = CheckDefinition {
        http: "http://127.0.0.1:1/".into(),
        header: [("a b".to_owned(), vec![String::new()])].into(),
        ..CheckDefinition::default()
    };
    assert!(ask(&definition).await.output.contains("invalid header field name"));

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let (seen, address) = (get(&url).await, url.trim_matches('/').trim_start_matches("http://"));
    let expected = format!("Get \"{url}\": dial tcp {address}: connect: connection refused");
    assert_eq!(seen, CheckResult::critical(expected));
}

#[tokio::test]
async fn certificates_are_verified_unless_told_otherwise() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    let acceptor = Arc::new(test_acceptor(HTTP_1_1));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // It fails where the certificate is not taken.
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let service = hyper::service::service_fn(|_| async {
                Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(Bytes::from("in"))))
            });
            let io = TokioIo::new(stream);
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
        }
    });
    let strict = get(&url).await;
    assert_eq!(strict.status, Critical);
    assert!(strict.output.contains("TLS handshake with localhost:"), "{strict:?}");
    assert!(strict.output.contains("certificate"), "{strict:?}");
    for server_name in ["", "any.name.will.do"] {
        let definition = CheckDefinition {
            http: url.clone(),
            tls_skip_verify: true,
            tls_server_name: server_name.into(),
            ..CheckDefinition::default()
        };
        let seen = ask(&definition).await;
        assert_eq!(seen, CheckResult::passing(format!("HTTP GET {url}: 200 OK Output: in")));
    }
}
