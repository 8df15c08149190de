//! Clients that others wrote: h2load, curl and Python's grpcio, where they are installed.

mod common;

use common::proxy;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use testkit::endpoint::{Reply, ScriptedEndpoint};
use testkit::greeter::Hello;
use testkit::greeter::proto::greeter_server::GreeterServer;
use testkit::{parts, until};
use tokio::net::TcpListener;

/// What h2load asks for in each test.
const REQUESTS: u64 = 2000;

async fn greeter() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder()
        .add_service(GreeterServer::new(Hello::new("one")))
        .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener));
    tokio::spawn(server);
    address
}

/// Runs a program to its end and returns its output; fails with its errors.
async fn run(program: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}: {out}{err}", program.display());
    out.into_owned()
}

/// Sends [`REQUESTS`] over 4 connections with 10 streams each; all must succeed, and their
/// bodies must be of `length` bytes.
async fn h2load(program: &Path, length: u64, arguments: &[&str]) {
    let requests = REQUESTS.to_string();
    let report = run(program, &[&["-n", &requests, "-c4", "-m10"], arguments].concat()).await;
    for expected in [
        format!("{REQUESTS} succeeded, 0 failed, 0 errored, 0 timeout"),
        format!("status codes: {REQUESTS} 2xx, 0 3xx, 0 4xx, 0 5xx"),
        format!("({}) data", REQUESTS * length),
    ] {
        assert!(report.contains(&expected), "no `{expected}` in {report}");
    }
}

#[tokio::test]
async fn h2load_over_http2_reaches_an_http1_endpoint() {
    let Some(program) = parts::find("h2load_over_http2", "h2load") else { return };
    let endpoint = ScriptedEndpoint::http1(Reply::status(200).content("hello")).await;
    let (_proxy, address) = proxy(endpoint.address(), &[]).await;
    h2load(&program, 5, &[&format!("http://{address}/a")]).await;
    assert_eq!(endpoint.calls(), REQUESTS);
}

#[tokio::test]
async fn h2load_over_http2_reaches_a_grpc_endpoint() {
    let Some(program) = parts::find("h2load_grpc", "h2load") else { return };
    let (_proxy, address) = proxy(greeter().await, &[]).await;
    let folder = tempdir("h2load");
    let message = folder.join("message");
    // A HelloRequest for "ann", after the flag and the length of a gRPC message.
    std::fs::write(&message, b"\0\0\0\0\x05\x0a\x03ann").unwrap();
    // The answer: 5 bytes, "hello, ann" with 2 before it, "one" with 2 before it.
    let length = 5 + 12 + 5;
    let url = format!("http://{address}/greeter.Greeter/SayHello");
    let fields = ["-H", "content-type: application/grpc", "-H", "te: trailers"];
    let body = ["-d", message.to_str().unwrap(), &url];
    h2load(&program, length, &[&fields[..], &body].concat()).await;
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn curl_speaks_every_version() {
    let Some(curl) = parts::find("curl_speaks_every_version", "curl") else { return };
    let endpoint = ScriptedEndpoint::http1(Reply::status(200).content("hello ")).await;
    let (_proxy, address) = proxy(endpoint.address(), &[]).await;
    let url = format!("http://{address}/a");
    let ask = async |arguments: &[&str]| {
        let usual = ["-sS", "--max-time", "10", "-w", "%{http_version} %{http_code}"];
        run(&curl, &[&usual[..], arguments, &[&url]].concat()).await
    };
    for (flag, expected) in [
        ("--http1.0", "hello 1 200"),
        ("--http1.1", "hello 1.1 200"),
        ("--http2-prior-knowledge", "hello 2 200"),
        // Asks for h2c by Upgrade, which is not passed on; HTTP/1.1 it stays.
        ("--http2", "hello 1.1 200"),
    ] {
        assert_eq!(ask(&[flag]).await, expected, "{flag}");
    }
    let body = format!("@{}", curl.display());
    assert_eq!(ask(&["--data-binary", &body]).await, "hello 1.1 200");
    let sent = std::fs::metadata(&curl).unwrap().len();
    assert_eq!(endpoint.body_bytes(), sent, "the body arrived");
}

#[tokio::test]
async fn grpcio_makes_calls_of_every_shape() {
    let Some(python) = parts::find_python("grpcio_makes_calls_of_every_shape", "grpc") else {
        return;
    };
    let silent = ScriptedEndpoint::http2(Reply::hang()).await;
    let (_first, greeter) = proxy(greeter().await, &[]).await;
    let (_second, to_silent) = proxy(silent.address(), &[]).await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/real_clients/greeter.py");
    let said = run(&python, &[script, &greeter.to_string(), &to_silent.to_string()]).await;
    assert_eq!(said, "all as it should be\n");

    let arrivals = silent.arrivals();
    assert_eq!(arrivals.len(), 1, "a call past its deadline is not made again");
    let left = &arrivals[0].headers["grpc-timeout"];
    assert!(!left.is_empty(), "the endpoint is told how long it has");
    until("the endpoint is told that the call is over", || silent.in_flight() == 0).await;
}

#[tokio::test]
async fn a_grpc_deadline_holds_even_if_the_client_forgets_it() {
    let Some(curl) = parts::find("a_grpc_deadline_holds", "curl") else { return };
    let endpoint = ScriptedEndpoint::http2(Reply::hang()).await;
    let (_proxy, address) = proxy(endpoint.address(), &[]).await;
    let url = format!("http://{address}/greeter.Greeter/SayHello");
    let how = ["-sS", "--max-time", "10", "-D", "-", "--http2-prior-knowledge", "-d", "x"];
    let fields = ["-H", "content-type: application/grpc", "-H", "te: trailers"];
    let limit = ["-H", "grpc-timeout: 200m", &url];
    let answer = run(&curl, &[&how[..], &fields, &limit].concat()).await;
    assert!(answer.starts_with("HTTP/2 200"), "{answer}");
    assert!(answer.contains("grpc-status: 4\r\n"), "{answer}");
    until("the endpoint is told that the call is over", || endpoint.in_flight() == 0).await;
}

fn tempdir(name: &str) -> std::path::PathBuf {
    let folder = std::env::temp_dir().join(format!("mesh-proxy-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}
