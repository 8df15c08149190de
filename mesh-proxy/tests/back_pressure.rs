//! Back-pressure: whoever sends through the proxy is no further ahead of whoever reads than the
//! buffers and windows between them hold.
//!
//! A reader stops at the head, and again at half of the body. The sender must then stand still
//! with at most [`AHEAD`] bytes more taken from it than the reader has read; when the reader goes
//! on, all arrives. No time decides: a sender stands still if it moves by no byte while
//! [`TURNS`] other requests go through the same worker of the proxy and through the same thread
//! of this test, each of which had to look at every socket again.

mod common;

use bytes::Bytes;
use common::process::PATIENCE;
use common::{listener, proxy_of, service};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::server::conn as server;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::task::{Context, Poll};
use testkit::until;
use tokio::net::TcpSocket;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// Length of each body.
const LENGTH: u64 = 192 << 20;
/// Most that may be on its way. The sockets of the proxy grow by themselves, to 32 MiB that wait
/// to be read and 4 MiB that wait to be sent where the kernel is set up as usual; those of the
/// test have [`BUFFER`], and the windows of HTTP/2 hold a few MiB.
const AHEAD: u64 = 48 << 20;
/// What a socket of the test holds in each direction.
const BUFFER: u32 = 256 << 10;
/// Requests by which a sender has had its turn.
const TURNS: usize = 100;

static PIECE: [u8; 64 * 1024] = [b'x'; 64 * 1024];

/// A body, counted at both ends.
struct Flow {
    /// Bytes that the sender's connection has taken.
    taken: AtomicU64,
    /// How far the reader may read.
    may_read: watch::Sender<u64>,
    /// How far it has read.
    read: AtomicU64,
}

impl Flow {
    fn new() -> Arc<Self> {
        Arc::new(Self { taken: 0.into(), may_read: watch::Sender::new(0), read: 0.into() })
    }

    /// Reads a body to its end, no further at any time than is allowed.
    async fn read(&self, mut body: Incoming) -> hyper::Result<()> {
        let mut allowed = self.may_read.subscribe();
        loop {
            allowed.wait_for(|most| *most > self.read.load(SeqCst)).await.unwrap();
            let Some(frame) = body.frame().await else { return Ok(()) };
            self.read.fetch_add(frame?.data_ref().map_or(0, Bytes::len) as u64, SeqCst);
        }
    }
}

/// What the sender sends.
struct Outgoing {
    left: u64,
    flow: Arc<Flow>,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let count = self.left.min(PIECE.len() as u64);
        self.left -= count;
        self.flow.taken.fetch_add(count, SeqCst);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&PIECE[..count as usize])))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Answers `GET /long` with a long body, reads a `POST` before it answers, and the rest at once.
async fn answer(request: Request<Incoming>, flow: Arc<Flow>) -> hyper::Result<Response<Outgoing>> {
    let left = if request.uri().path() == "/long" { LENGTH } else { 0 };
    if request.method() == Method::POST {
        flow.read(request.into_body()).await?;
    }
    Ok(Response::new(Outgoing { left, flow }))
}

/// A socket for a client or an endpoint, with buffers that do not grow.
fn socket() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(BUFFER).unwrap();
    socket.set_recv_buffer_size(BUFFER).unwrap();
    // A last piece would wait for the acknowledgement of the one before it.
    socket.set_nodelay(true).unwrap();
    socket
}

fn endpoint(version: Version, flow: Arc<Flow>) -> SocketAddr {
    let socket = socket();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(16).unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (io, flow) = (TokioIo::new(stream), Arc::clone(&flow));
            let service = service_fn(move |request| answer(request, Arc::clone(&flow)));
            if version == Version::HTTP_2 {
                let server = server::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(io, service));
            } else {
                let server = server::http1::Builder::new();
                tokio::spawn(server.serve_connection(io, service));
            }
        }
    });
    address
}

/// A client's connection.
enum Client {
    One(http1::SendRequest<Outgoing>),
    Two(http2::SendRequest<Outgoing>),
}

impl Client {
    async fn connect(version: Version, to: SocketAddr) -> Self {
        let io = TokioIo::new(socket().connect(to).await.unwrap());
        if version == Version::HTTP_2 {
            let (client, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            Self::Two(client)
        } else {
            let (client, connection) = http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            Self::One(client)
        }
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Outgoing,
    ) -> hyper::Result<Response<Incoming>> {
        let request = Request::builder().method(method);
        match self {
            Self::One(client) => {
                let request = request.uri(path).header("host", "app").body(body).unwrap();
                client.ready().await?;
                client.send_request(request).await
            }
            Self::Two(client) => {
                let request = request.uri(format!("http://app{path}")).body(body).unwrap();
                client.send_request(request).await
            }
        }
    }
}

/// Waits until the sender stands still, and returns how far it is ahead of the reader.
async fn stands_still(flow: &Arc<Flow>, other: &mut Client) -> u64 {
    let until = Instant::now() + PATIENCE;
    loop {
        let before = flow.taken.load(SeqCst);
        for _ in 0..TURNS {
            let body = Outgoing { left: 0, flow: Arc::clone(flow) };
            let answer = other.send(Method::GET, "/short", body).await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK);
            // Neither grows backwards: it is no further ahead than this.
            let taken = flow.taken.load(SeqCst);
            let ahead = taken - flow.read.load(SeqCst);
            assert!(ahead <= AHEAD, "{ahead} bytes ahead, {taken} in all");
        }
        if before > 0 && flow.taken.load(SeqCst) == before {
            return before - flow.read.load(SeqCst);
        }
        assert!(Instant::now() < until, "neither stands still nor goes too far");
    }
}

/// Sends a long body from a client or to one, by these versions of HTTP on the client's side and
/// on the endpoint's.
async fn flows(method: Method, client: Version, server: Version) {
    let flow = Flow::new();
    let protocol = if server == Version::HTTP_2 { ", appProtocol: http2" } else { "" };
    let app = service("app", endpoint(server, Arc::clone(&flow)), protocol);
    let (_proxy, addresses) = proxy_of(&(app + &listener("main", "auto", "app"))).await;
    let mut sends = Client::connect(client, addresses[0]).await;
    let mut other = Client::connect(Version::HTTP_11, addresses[0]).await;

    let case = format!("{method}, client {client:?}, endpoint {server:?}");
    let shared = Arc::clone(&flow);
    let call = tokio::spawn(async move {
        let download = method == Method::GET;
        let (path, left) = if download { ("/long", 0) } else { ("/", LENGTH) };
        let body = Outgoing { left, flow: Arc::clone(&shared) };
        let answer = sends.send(method, path, body).await?;
        assert_eq!(answer.status(), StatusCode::OK);
        if download { shared.read(answer.into_body()).await } else { Ok(()) }
    });
    for stop in [0, LENGTH / 2] {
        flow.may_read.send_replace(stop);
        until("the reader comes to its stop", || flow.read.load(SeqCst) >= stop).await;
        let ahead = stands_still(&flow, &mut other).await;
        println!("{case}: stopped at {stop}, the sender {ahead} bytes ahead");
    }
    flow.may_read.send_replace(u64::MAX);
    timeout(PATIENCE, call).await.expect("goes on").unwrap().unwrap();
    assert_eq!((flow.taken.load(SeqCst), flow.read.load(SeqCst)), (LENGTH, LENGTH), "{case}");
}

/// On the client's side, and on the endpoint's.
const VERSIONS: [(Version, Version); 4] = [
    (Version::HTTP_11, Version::HTTP_11),
    (Version::HTTP_11, Version::HTTP_2),
    (Version::HTTP_2, Version::HTTP_11),
    (Version::HTTP_2, Version::HTTP_2),
];

#[tokio::test]
async fn an_endpoint_stops_for_a_client_that_does_not_read() {
    for (client, server) in VERSIONS {
        flows(Method::GET, client, server).await;
    }
}

#[tokio::test]
async fn a_client_stops_for_an_endpoint_that_does_not_read() {
    for (client, server) in VERSIONS {
        flows(Method::POST, client, server).await;
    }
}
