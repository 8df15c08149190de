//! Connections that are upgraded to another protocol.

use super::{mesh, policy, seen, service};
use http::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use mesh_tower::{Body, Mesh};
use std::net::SocketAddr;
use testkit::until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt;

/// An endpoint that answers each request with `101`, and then with what it is sent.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(switch(stream));
        }
    });
    address
}

async fn switch(mut stream: TcpStream) -> std::io::Result<u64> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let answer =
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    stream.write_all(answer).await?;
    let (mut from, mut to) = stream.split();
    tokio::io::copy(&mut from, &mut to).await
}

async fn upgraded(mesh: &Mesh) -> TokioIo<hyper::upgrade::Upgraded> {
    let request = Request::get("http://inventory/")
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, "echo")
        .body(Body::empty())
        .expect("valid");
    let response = mesh.http().oneshot(request).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    TokioIo::new(hyper::upgrade::on(response).await.expect("a stream"))
}

/// In flight, and connections, by endpoint.
fn counts(mesh: &Mesh) -> Vec<(u32, usize)> {
    let endpoints = seen(mesh, "inventory").endpoints;
    endpoints.iter().map(|endpoint| (endpoint.in_flight, endpoint.connections)).collect()
}

#[tokio::test]
async fn an_upgraded_connection_is_load_until_it_ends() {
    let endpoints = [echo().await, echo().await];
    let least = policy("pick: { policy: LeastRequest }");
    let mesh = mesh(&(least + &service("inventory", &endpoints)));
    let mut streams = Vec::new();
    for _ in 0..10 {
        streams.push(upgraded(&mesh).await);
    }
    assert_eq!(counts(&mesh), [(5, 5), (5, 5)], "each picked where fewer are open");
    let mut stream = streams.pop().expect("ten");
    stream.write_all(b"hello").await.expect("written");
    let mut echoed = [0; 5];
    stream.read_exact(&mut echoed).await.expect("echoed");
    assert_eq!(&echoed, b"hello");
    drop((stream, streams));
    until("none is open", || counts(&mesh) == [(0, 0), (0, 0)]).await;
}
