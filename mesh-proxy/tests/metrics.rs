//! What the proxy counts of the requests that it answers, whoever made the answer.

mod common;

use common::process::{PATIENCE, Process, folder};
use common::recorder::Recorder;
use common::{exchange, listener, service, statuses};
use testkit::net::Authority;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

const SERVED: &str = "http_server_request_duration_seconds_count";
const RPC: &str = "rpc_server_call_duration_seconds_count";

/// The line of a series, once it is on the page.
async fn series(process: &Process, line: &str) {
    let until = Instant::now() + PATIENCE;
    loop {
        let (_, page) = process.admin("GET", "/metrics").await;
        if page.lines().any(|seen| seen == line) {
            return;
        }
        if Instant::now() > until {
            let seen: Vec<_> = page.lines().filter(|line| line.contains("_count{")).collect();
            panic!("{line}\nis not among\n{}", seen.join("\n"));
        }
        sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn every_answer_is_counted_with_its_status_and_why() {
    let app = Recorder::start().await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let folder = folder("metrics");
    let path = folder.join("mesh.yaml");
    let services = [
        service("app", app.address(), ""),
        service("gone", closed, ""),
        service("silent", silent.local_addr().unwrap(), ""),
        listener("main", "http", "app").replace(", service: app", ""),
    ];
    std::fs::write(&path, services.concat()).unwrap();
    let process = Process::start(&["--config", path.to_str().unwrap()]);

    let ask = async |head: &str| {
        let request = format!("{head}\r\nConnection: close\r\n\r\n");
        statuses(&exchange(process.proxy, request.as_bytes()).await)
    };
    assert_eq!(ask("GET /a HTTP/1.1\r\nHost: app").await, [200]);
    assert_eq!(ask("GET /b HTTP/1.1\r\nHost: app").await, [200]);
    assert_eq!(ask("GET / HTTP/1.1\r\nHost: none").await, [404]);
    assert_eq!(ask("HEAD / HTTP/1.1\r\nHost: none").await, [404]);
    assert_eq!(ask("GET / HTTP/1.1\r\nHost: gone").await, [503]);
    assert_eq!(ask("GET /%zz HTTP/1.1\r\nHost: app").await, [400]);
    let both = "POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 1\r\nTransfer-Encoding: chunked";
    assert_eq!(ask(both).await, [400]);
    let upgrade = b"POST / HTTP/1.1\r\nHost: app\r\nConnection: upgrade\r\nUpgrade: echo\r\nContent-Length: 1\r\n\r\n";
    assert_eq!(statuses(&exchange(process.proxy, upgrade).await), [400]);
    let long = format!("PUT /{} HTTP/1.1\r\nHost: app", "a".repeat(20_000));
    assert_eq!(ask(&long).await, [414]);
    let call = "POST /a.B/C HTTP/1.1\r\nHost: gone\r\nContent-Type: application/grpc";
    assert_eq!(ask(call).await, [200]);

    let mut impatient = TcpStream::connect(process.proxy).await.unwrap();
    impatient.write_all(b"DELETE / HTTP/1.1\r\nHost: silent\r\n\r\n").await.unwrap();
    let held = silent.accept().await.unwrap();
    drop(impatient);

    for (labels, count) in [
        (r#"http_request_method="GET",http_response_status_code="200""#, 2),
        (
            r#"http_request_method="GET",http_response_status_code="404",error_type="no_route_found""#,
            1,
        ),
        (
            r#"http_request_method="HEAD",http_response_status_code="404",error_type="no_route_found""#,
            1,
        ),
        (
            r#"http_request_method="GET",http_response_status_code="503",error_type="no_healthy_upstream""#,
            1,
        ),
        (
            r#"http_request_method="GET",http_response_status_code="400",error_type="downstream_protocol_error""#,
            1,
        ),
        (
            r#"http_request_method="POST",http_response_status_code="400",error_type="downstream_protocol_error""#,
            2,
        ),
        (
            r#"http_request_method="PUT",http_response_status_code="414",error_type="downstream_protocol_error""#,
            1,
        ),
        (r#"http_request_method="DELETE",error_type="downstream_connection_termination""#, 1),
    ] {
        series(&process, &format!("{SERVED}{{{labels}}} {count}")).await;
    }
    let unavailable = r#"rpc_system_name="grpc",rpc_response_status_code="UNAVAILABLE""#;
    series(&process, &format!("{RPC}{{{unavailable}}} 1")).await;
    drop(held);
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_client_without_a_certificate_is_counted() {
    let folder = folder("handshakes");
    let authority = Authority::new("mesh.test");
    let leaf = authority.issue(&["localhost"]);
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (cert, key) = (write("cert.pem", &leaf.cert_pem), write("key.pem", &leaf.key_pem));
    let ca = write("ca.pem", authority.pem());
    let flags = ["--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:1"];
    let tls = ["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &ca];
    let process = Process::start(&[&flags[..], &tls[..]].concat());
    for line in ["success", "client_certificate", "timeout", "failure"] {
        series(&process, &format!("mesh_tls_handshakes_total{{result=\"{line}\"}} 0")).await;
    }
    let stream = TcpStream::connect(process.proxy).await.unwrap();
    let config = std::sync::Arc::new(authority.client(None, &["http/1.1"]));
    let name = "localhost".try_into().unwrap();
    let connected = tokio_rustls::TlsConnector::from(config).connect(name, stream).await;
    series(&process, "mesh_tls_handshakes_total{result=\"client_certificate\"} 1").await;
    drop(connected);
    exchange(process.proxy, b"GET / HTTP/1.1\r\n\r\n").await;
    series(&process, "mesh_tls_handshakes_total{result=\"failure\"} 1").await;
    std::fs::remove_dir_all(folder).unwrap();
}
