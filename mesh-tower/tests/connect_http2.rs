//! HTTP/2 connections against scripted servers on loopback.

use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{Request, Response};
use http_body_util::BodyExt;
use mesh_tower::Body;
use mesh_tower::connect::{Connections, Protocol, ResponseBody, SendError, Settings};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Longest any single step of a test may take.
const STEP: Duration = Duration::from_secs(10);

async fn soon<T>(step: impl Future<Output = T>) -> T {
    timeout(STEP, step).await.expect("the step takes too long")
}

/// A server that runs `serve` once per connection, with its number, and counts them.
async fn scripted<F, S>(builder: h2::server::Builder, serve: S) -> (SocketAddr, Arc<AtomicUsize>)
where
    S: Fn(Connection<TcpStream, Bytes>, usize) -> F + Send + Clone + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (builder, serve) = (builder.clone(), serve.clone());
            let number = count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                if let Ok(connection) = builder.handshake(socket).await {
                    serve(connection, number).await;
                }
            });
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
    soon(connections.send(request, Protocol::Http2)).await
}

async fn text(response: Response<ResponseBody>) -> String {
    let body = soon(response.into_body().collect()).await.expect("a whole body").to_bytes();
    String::from_utf8(body.to_vec()).expect("text")
}

fn answer(mut respond: SendResponse<Bytes>, body: &'static str) {
    let mut stream = respond.send_response(Response::new(()), false).expect("open");
    stream.send_data(Bytes::from_static(body.as_bytes()), true).expect("open");
}

type Call = (Request<RecvStream>, SendResponse<Bytes>);

async fn next(connection: &mut Connection<TcpStream, Bytes>) -> Option<Call> {
    connection.accept().await?.ok()
}

#[tokio::test]
async fn calls_share_one_connection() {
    let (address, accepted) =
        scripted(h2::server::Builder::new(), |mut connection, _| async move {
            while let Some((request, respond)) = next(&mut connection).await {
                assert_eq!(request.uri(), "http://inventory.shop/item");
                assert!(!request.headers().contains_key("host"));
                answer(respond, "hello");
            }
        })
        .await;
    let connections = connections(address);
    let calls: Vec<_> = (0..16)
        .map(|_| {
            let connections = Arc::clone(&connections);
            tokio::spawn(async move {
                text(send(&connections, get("/item")).await.expect("a response")).await
            })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.expect("no panic"), "hello");
    }
    assert_eq!(accepted.load(Ordering::SeqCst), 1);
    assert_eq!((connections.counts().http2, connections.counts().h2_streams), (1, 0));
}

#[tokio::test]
async fn a_refused_stream_cannot_have_reached_the_application() {
    let (address, _) = scripted(h2::server::Builder::new(), |mut connection, _| async move {
        while let Some((_, mut respond)) = next(&mut connection).await {
            respond.send_reset(Reason::REFUSED_STREAM);
        }
    })
    .await;
    let failed = send(&connections(address), get("/")).await.expect_err("refused");
    assert!(failed.error.is_retryable(), "{failed}");
}
