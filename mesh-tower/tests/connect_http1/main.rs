//! HTTP/1 connections against scripted servers on loopback.

mod exchange;
mod keeping;
mod opening;

use http::{Request, Response};
use http_body_util::BodyExt;
use mesh_tower::Body;
use mesh_tower::connect::{Connections, Protocol, ResponseBody, SendError, Settings};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Longest any single step of a test may take.
const STEP: Duration = Duration::from_secs(10);

async fn soon<T>(step: impl Future<Output = T>) -> T {
    timeout(STEP, step).await.expect("the step takes too long")
}

/// A server that runs `serve` once per connection, with its number, and counts them.
async fn scripted<F, S>(serve: S) -> (SocketAddr, Arc<AtomicUsize>)
where
    S: Fn(TcpStream, usize) -> F + Send + 'static,
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(serve(socket, count.fetch_add(1, Ordering::SeqCst)));
        }
    });
    (address, accepted)
}

fn connections(address: SocketAddr) -> Arc<Connections> {
    Arc::new(Connections::new(vec![address], None, Arc::new(Settings::default())))
}

fn get(path: &str) -> Request<Body> {
    Request::get(format!("http://inventory.shop{path}")).body(Body::empty()).expect("valid")
}

async fn send(
    connections: &Arc<Connections>,
    request: Request<Body>,
) -> Result<Response<ResponseBody>, SendError> {
    soon(connections.send(request, Protocol::Http1)).await
}

async fn text(response: Response<ResponseBody>) -> String {
    let body = soon(response.into_body().collect()).await.expect("a whole body").to_bytes();
    String::from_utf8(body.to_vec()).expect("text")
}

/// Reads one head, up to its empty line.
async fn head(socket: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await?);
    }
    Ok(String::from_utf8(head).expect("a head is text"))
}

/// Waits until the other side has closed, and says what came before.
async fn rest(socket: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let _ = soon(socket.read_to_end(&mut rest)).await;
    rest
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
