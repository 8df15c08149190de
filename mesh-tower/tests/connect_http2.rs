//! HTTP/2 connections against scripted servers on loopback.

use bytes::Bytes;
use futures_core::Stream;
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use mesh_tower::connect::{Connections, Protocol, ResponseBody, SendError, Settings};
use mesh_tower::{Body, ErrorKind};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
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
            socket.set_nodelay(true).expect("open");
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

/// A body fed by a test, frame by frame.
struct Fed(mpsc::Receiver<Frame<Bytes>>);

impl Stream for Fed {
    type Item = Result<Frame<Bytes>, std::io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

fn fed() -> (mpsc::Sender<Frame<Bytes>>, Body) {
    let (frames, receiver) = mpsc::channel(1);
    (frames, Body::new(StreamBody::new(Fed(receiver))))
}

fn post(body: Body) -> Request<Body> {
    Request::post("http://inventory.shop/").body(body).expect("valid")
}

/// Keeps a connection going while nothing is accepted on it.
async fn run(mut connection: Connection<TcpStream, Bytes>) {
    while next(&mut connection).await.is_some() {}
}

#[tokio::test]
async fn a_second_connection_is_opened_when_the_streams_run_out() {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(1);
    let (calls, mut seen) = mpsc::channel(8);
    let (address, accepted) = scripted(builder, move |mut connection, _| {
        let calls = calls.clone();
        async move {
            while let Some((_, respond)) = next(&mut connection).await {
                calls.send(respond).await.expect("awaited");
            }
        }
    })
    .await;
    let connections = connections(address);
    // The first call brings the limit along.
    let call = |path: &'static str| {
        let connections = Arc::clone(&connections);
        tokio::spawn(
            async move { text(send(&connections, get(path)).await.expect("a response")).await },
        )
    };
    let first = call("/1");
    answer(soon(seen.recv()).await.expect("a call"), "1");
    assert_eq!(first.await.expect("no panic"), "1");

    let calls = [call("/2"), call("/3"), call("/4")];
    let mut responds = Vec::new();
    for _ in &calls {
        responds.push(soon(seen.recv()).await.expect("a call"));
    }
    assert_eq!(accepted.load(Ordering::SeqCst), 3);
    assert_eq!((connections.counts().http2, connections.counts().h2_streams), (3, 3));
    for respond in responds {
        answer(respond, "more");
    }
    for call in calls {
        assert_eq!(call.await.expect("no panic"), "more");
    }
    assert_eq!(connections.counts().h2_streams, 0);
}

#[tokio::test]
async fn calls_beyond_the_connections_limit_wait_for_a_stream() {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(1);
    let (address, accepted) = scripted(builder, |mut connection, _| async move {
        while let Some((_, respond)) = next(&mut connection).await {
            answer(respond, "ok");
        }
    })
    .await;
    let mut settings = Settings::default();
    settings.max_http2_connections = 2;
    let connections = Arc::new(Connections::new(vec![address], None, Arc::new(settings)));
    // The first call brings the limit along.
    assert_eq!(text(send(&connections, get("/")).await.expect("a response")).await, "ok");
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let connections = Arc::clone(&connections);
            tokio::spawn(async move {
                text(send(&connections, get("/")).await.expect("a response")).await
            })
        })
        .collect();
    for call in calls {
        assert_eq!(soon(call).await.expect("no panic"), "ok");
    }
    assert!(accepted.load(Ordering::SeqCst) <= 2);
    assert_eq!(connections.counts().h2_streams, 0);
}

#[tokio::test]
async fn goaway_spares_older_streams_and_gives_back_the_rest() {
    let (address, accepted) =
        scripted(h2::server::Builder::new(), |mut connection, number| async move {
            if number > 0 {
                while let Some((_, respond)) = next(&mut connection).await {
                    answer(respond, "elsewhere");
                }
                return;
            }
            let Some((_, respond)) = next(&mut connection).await else { return };
            connection.graceful_shutdown();
            // Answered only when the client has seen the GOAWAY and closes after this call.
            answer(respond, "last");
            while next(&mut connection).await.is_some() {}
        })
        .await;
    let connections = connections(address);
    assert_eq!(text(send(&connections, get("/")).await.expect("a response")).await, "last");
    for _ in 0..3 {
        let response = send(&connections, get("/")).await.expect("a response");
        assert_eq!(text(response).await, "elsewhere");
    }
    assert_eq!(accepted.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_stream_above_the_last_of_a_goaway_is_safe_to_repeat() {
    // By hand: preface and frames in, SETTINGS and then GOAWAY with last stream 0 out.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.expect("a connection");
        let mut buffer = [0; 4096];
        let mut seen = Vec::new();
        // Until a HEADERS frame (type 1) on stream 1 has come.
        while !seen.windows(9).any(|frame| frame[3] == 1 && frame[5..9] == [0, 0, 0, 1]) {
            let read = socket.read(&mut buffer).await.expect("open");
            seen.extend_from_slice(&buffer[..read]);
        }
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for frame in [&settings[..], &goaway] {
            tokio::io::AsyncWriteExt::write_all(&mut socket, frame).await.expect("open");
        }
        while socket.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
    });
    let failed = send(&connections(address), get("/")).await.expect_err("left out");
    assert_eq!(failed.error.kind(), ErrorKind::ConnectionClosed, "{failed}");
    assert!(failed.error.is_retryable() && failed.to_string().contains("GOAWAY"), "{failed}");
}

#[tokio::test]
async fn a_reset_or_a_lost_connection_is_an_error_after_the_send() {
    let (address, _) = scripted(h2::server::Builder::new(), |mut connection, number| async move {
        let Some((_, mut respond)) = next(&mut connection).await else { return };
        if number == 0 {
            respond.send_reset(Reason::INTERNAL_ERROR);
            run(connection).await;
        }
    })
    .await;
    let connections = connections(address);
    let failed = send(&connections, get("/")).await.expect_err("reset");
    assert_eq!(failed.error.kind(), ErrorKind::RemoteReset, "{failed}");
    assert!(failed.error.may_have_reached() && failed.to_string().contains("INTERNAL_ERROR"));

    connections.drain();
    let failed = send(&connections, get("/")).await.expect_err("lost");
    assert!(failed.error.may_have_reached(), "{failed}");
    assert!(
        matches!(failed.error.kind(), ErrorKind::ConnectionClosed | ErrorKind::RemoteReset),
        "{failed}"
    );
}

#[tokio::test]
async fn dropping_the_call_or_its_body_resets_the_stream() {
    let (events, mut seen) = mpsc::channel(4);
    let (address, accepted) = scripted(h2::server::Builder::new(), move |mut connection, _| {
        let events = events.clone();
        async move {
            let mut number = 0;
            while let Some((_, mut respond)) = next(&mut connection).await {
                let events = events.clone();
                let half = number == 1;
                number += 1;
                tokio::spawn(async move {
                    let reset = if half {
                        let mut sink =
                            respond.send_response(Response::new(()), false).expect("open");
                        sink.send_data(Bytes::from_static(b"half"), false).expect("open");
                        events.send(None).await.expect("awaited");
                        poll_fn(|cx| sink.poll_reset(cx)).await
                    } else {
                        events.send(None).await.expect("awaited");
                        poll_fn(|cx| respond.poll_reset(cx)).await
                    };
                    events.send(Some(reset.expect("reset"))).await.expect("awaited");
                });
            }
        }
    })
    .await;
    let connections = connections(address);
    {
        let call = connections.send(get("/"), Protocol::Http2);
        let mut call = pin!(call);
        poll_fn(|cx| {
            assert!(call.as_mut().poll(cx).is_pending());
            seen.poll_recv(cx)
        })
        .await;
    }
    assert_eq!(soon(seen.recv()).await, Some(Some(Reason::CANCEL)));

    let response = send(&connections, get("/")).await.expect("a head");
    assert_eq!(soon(seen.recv()).await, Some(None));
    drop(response);
    assert_eq!(soon(seen.recv()).await, Some(Some(Reason::CANCEL)));
    assert_eq!(accepted.load(Ordering::SeqCst), 1);
    assert_eq!(connections.counts().h2_streams, 0);
}

#[tokio::test]
async fn bodies_and_trailers_stream_in_both_directions_at_the_same_time() {
    let (address, _) = scripted(h2::server::Builder::new(), |mut connection, _| async move {
        while let Some((request, mut respond)) = next(&mut connection).await {
            tokio::spawn(async move {
                let mut sink = respond.send_response(Response::new(()), false).expect("open");
                let mut body = request.into_body();
                while let Some(data) = body.data().await {
                    let data = data.expect("data");
                    body.flow_control().release_capacity(data.len()).expect("open");
                    sink.send_data(data, false).expect("open");
                }
                let trailers = body.trailers().await.expect("open").expect("trailers");
                sink.send_trailers(trailers).expect("open");
            });
        }
    })
    .await;
    let (frames, body) = fed();
    let mut response = send(&connections(address), post(body)).await.expect("a head");
    for piece in ["one", "two"] {
        // The piece is taken although nobody polls the response meanwhile.
        soon(frames.send(Frame::data(piece.into()))).await.expect("wanted");
        let frame = soon(response.body_mut().frame()).await.expect("open").expect("a frame");
        assert_eq!(frame.into_data().expect("data"), piece);
    }
    let trailers: http::HeaderMap = [("sum".parse().expect("valid"), "2".parse().expect("valid"))]
        .into_iter()
        .collect::<http::HeaderMap>();
    soon(frames.send(Frame::trailers(trailers))).await.expect("wanted");
    let frame = soon(response.body_mut().frame()).await.expect("open").expect("a frame");
    assert_eq!(frame.into_trailers().expect("trailers")["sum"], "2");
    assert!(soon(response.body_mut().frame()).await.is_none());
}

#[tokio::test]
async fn big_bodies_respect_the_window() {
    const BODY: usize = 16 * 1024 * 1024;
    let (address, _) = scripted(h2::server::Builder::new(), |mut connection, _| async move {
        while let Some((request, mut respond)) = next(&mut connection).await {
            tokio::spawn(async move {
                let mut read = 0;
                let mut body = request.into_body();
                while let Some(data) = body.data().await {
                    let size = data.expect("data").len();
                    body.flow_control().release_capacity(size).expect("open");
                    read += size;
                }
                let length = read.to_string();
                let head = Response::builder().header("content-length", length).body(());
                let mut sink = respond.send_response(head.expect("valid"), false).expect("open");
                sink.send_data(vec![1; read].into(), true).expect("open");
            });
        }
    })
    .await;
    let connections = connections(address);
    for body in [Body::from(vec![1; BODY]), {
        let (frames, body) = fed();
        tokio::spawn(async move {
            for _ in 0..BODY / 65_536 {
                frames.send(Frame::data(vec![2; 65_536].into())).await.expect("wanted");
            }
        });
        body
    }] {
        let response = send(&connections, post(body)).await.expect("a response");
        assert_eq!(http_body::Body::size_hint(response.body()).exact(), Some(BODY as u64));
        assert_eq!(
            soon(response.into_body().collect()).await.expect("whole").to_bytes().len(),
            BODY
        );
    }
}

#[tokio::test]
async fn an_upload_without_data_takes_no_room_from_another() {
    /// What all streams of a connection may send at first (RFC 9113, section 6.9.2).
    const WINDOW: usize = 65_535;
    let (accepted, mut streams) = mpsc::channel(1);
    let (address, _) = scripted(h2::server::Builder::new(), move |mut connection, _| {
        let accepted = accepted.clone();
        async move {
            let Some((silent, respond_silent)) = next(&mut connection).await else { return };
            accepted.send(()).await.expect("awaited");
            let Some((mut busy, respond)) = next(&mut connection).await else { return };
            let serve = async {
                let mut received = 0;
                // Gives no room back, as one that only does when none is left.
                while received < WINDOW {
                    let Some(Ok(data)) = busy.body_mut().data().await else { return };
                    received += data.len();
                }
                answer(respond, "all of it");
                answer(respond_silent, "nothing");
                drop(silent);
            };
            tokio::join!(serve, run(connection));
        }
    })
    .await;
    let connections = connections(address);
    let (_open, body) = fed();
    let silent = tokio::spawn({
        let connections = connections.clone();
        async move { text(send(&connections, post(body)).await.expect("a response")).await }
    });
    soon(streams.recv()).await.expect("the first stream");
    let (feed, body) = fed();
    feed.send(Frame::data(Bytes::from(vec![7; WINDOW]))).await.expect("room");
    let busy = send(&connections, post(body)).await.expect("a response");
    assert_eq!(text(busy).await, "all of it");
    assert_eq!(silent.await.expect("no panic"), "nothing");
}

#[tokio::test]
async fn fields_of_the_connection_stay_behind() {
    let (address, _) = scripted(h2::server::Builder::new(), |mut connection, _| async move {
        while let Some((request, respond)) = next(&mut connection).await {
            for name in
                ["connection", "keep-alive", "x-hop", "transfer-encoding", "upgrade", "host"]
            {
                assert!(!request.headers().contains_key(name), "{name}");
            }
            assert_eq!(request.headers()["te"], "trailers");
            assert_eq!(request.uri(), "http://inventory.shop/a");
            answer(respond, "ok");
        }
    })
    .await;
    let request = Request::get("/a")
        .header("host", "inventory.shop")
        .header("connection", "keep-alive, x-hop")
        .header("keep-alive", "timeout=5")
        .header("x-hop", "1")
        .header("transfer-encoding", "chunked")
        .header("upgrade", "h2c")
        .header("te", "trailers")
        .body(Body::empty())
        .expect("valid");
    assert_eq!(text(send(&connections(address), request).await.expect("a response")).await, "ok");
}

#[tokio::test]
async fn an_endpoint_that_answers_no_ping_is_given_up() {
    // Takes bytes and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.expect("a connection");
        let mut buffer = [0; 4096];
        while socket.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
    });
    let mut settings = Settings::default();
    settings.http2_keepalive_interval = Some(Duration::from_millis(20));
    settings.http2_keepalive_timeout = Duration::from_millis(20);
    let connections = Arc::new(Connections::new(vec![address], None, Arc::new(settings)));
    let failed = send(&connections, get("/")).await.expect_err("given up");
    assert_eq!(failed.error.kind(), ErrorKind::ConnectionClosed, "{failed}");
    assert!(failed.error.may_have_reached());
}
