//! Listeners: whose routes decide on what arrives.

mod common;

use common::recorder::Recorder;
use common::{File, echo, exchange, listener, proxy_of, read, route, service, statuses};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The status and the text of the answer to a GET.
async fn get(proxy: SocketAddr, host: &str, path: &str) -> (Vec<u16>, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let answer = exchange(proxy, request.as_bytes()).await;
    (statuses(&answer), String::from_utf8_lossy(&answer).into_owned())
}

fn paths(endpoint: &Recorder) -> Vec<String> {
    let path = |line: &str| line.split(' ').nth(1).unwrap_or_default().to_owned();
    endpoint.requests().iter().map(|request| path(&request.line)).collect()
}

#[tokio::test]
async fn a_listener_of_a_service_goes_by_the_routes_of_that_service_alone() {
    let (app, canary, other) =
        (Recorder::start().await, Recorder::start().await, Recorder::start().await);
    let items = "{ matches: [{ path: { value: /items } }], backendRefs: [{ name: inventory }] }";
    let new = "{ matches: [{ path: { value: /new } }], backendRefs: [{ name: canary }] }";
    let yaml = service("inventory", app.address(), "")
        + &service("canary", canary.address(), "")
        + &service("other", other.address(), ", hostnames: ['*']")
        + &route("HTTPRoute", "own", "inventory", items)
        + &route("HTTPRoute", "next", "inventory", new)
        + &listener("main", "auto", "inventory");
    let (_proxy, addresses) = proxy_of(&yaml).await;
    for host in ["inventory", "other", "localhost:15001", "a.example.com"] {
        assert_eq!(get(addresses[0], host, "/items/7").await.0, [200], "{host}");
        assert_eq!(get(addresses[0], host, "/new").await.0, [200], "{host}");
        let (status, answer) = get(addresses[0], host, "/zzz").await;
        assert_eq!(status, [404], "{host}");
        assert!(answer.contains("no_route_found"), "{answer}");
    }
    assert_eq!(paths(&app), ["/items/7"; 4]);
    assert_eq!(paths(&canary), ["/new"; 4]);
    assert!(other.requests().is_empty(), "{:?}", other.requests());
    assert_eq!(app.requests()[2].all("host"), ["localhost:15001"], "the authority is kept");
}

#[tokio::test]
async fn a_listener_of_a_service_without_routes_sends_it_everything() {
    let (app, other) = (Recorder::start().await, Recorder::start().await);
    let yaml = service("inventory", app.address(), "")
        + &service("other", other.address(), ", hostnames: ['*']")
        + &listener("main", "auto", "inventory");
    let (_proxy, addresses) = proxy_of(&yaml).await;
    assert_eq!(get(addresses[0], "other", "/zzz").await.0, [200]);
    assert_eq!((paths(&app), paths(&other)), (vec!["/zzz".to_owned()], vec![]));
}

/// An endpoint that greets whoever connects.
async fn greeter(greeting: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(greeting).await;
        }
    });
    address
}

#[tokio::test]
async fn a_reload_decides_anew_whether_bytes_are_taken() {
    let http = service("cache", echo().await, "") + &listener("main", "auto", "cache");
    let both = http.clone() + &route("TCPRoute", "r", "cache", "backendRefs: [{ name: cache }]");
    let file = File::new(&both);
    let proxy = file.proxy().await;
    let relayed = proxy.addresses().await[0];
    let answer = async |address| exchange_and_end(address, b"PING\r\n").await;
    assert_eq!(answer(relayed).await, "PING\r\n");

    file.set(&http);
    proxy.reload().await.unwrap();
    let refusing = proxy.addresses().await[0];
    let refused = answer(refusing).await;
    assert!(refused.starts_with("HTTP/1.1 400 "), "{refused}");

    file.set(&both);
    proxy.reload().await.unwrap();
    assert_eq!(answer(proxy.addresses().await[0]).await, "PING\r\n");
}

/// Sends bytes, ends our side, and returns what comes back.
async fn exchange_and_end(to: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    String::from_utf8(read(&mut stream).await).unwrap()
}

#[tokio::test]
async fn connections_spread_over_the_destinations_of_a_tcp_route_by_weight() {
    let yaml = service("cache", greeter(b"a").await, "")
        + &service("b", greeter(b"b").await, "")
        + &service("c", greeter(b"c").await, "")
        + &service("d", greeter(b"d").await, "")
        + &route(
            "TCPRoute",
            "split",
            "cache",
            "backendRefs: [{ name: b, weight: 3 }, { name: c }, { name: d, weight: 0 }]",
        )
        + &listener("main", "tcp", "cache");
    let (_proxy, addresses) = proxy_of(&yaml).await;
    let mut counts = [0_u32; 4];
    for _ in 0..400 {
        let mut stream = TcpStream::connect(addresses[0]).await.unwrap();
        let greeting = stream.read_u8().await.unwrap();
        counts[usize::from(greeting - b'a')] += 1;
    }
    let [a, b, c, d] = counts;
    assert_eq!((a, d, b + c), (0, 0, 400), "{counts:?}");
    // Six standard deviations around 100.
    assert!((48..=152).contains(&c), "{counts:?}");
}
