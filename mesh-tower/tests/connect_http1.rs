//! HTTP/1 connections against scripted servers on loopback.

use bytes::Bytes;
use futures_core::Stream;
use http::{Method, Request, Response, StatusCode, header};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::TokioIo;
use mesh_tower::connect::{
    Connections, Dial, Dialing, Protocol, ResponseBody, SendError, Settings, Transport,
};
use mesh_tower::{Body, ErrorKind};
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot};
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

/// Waits for a condition that another task brings about.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let reached = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    timeout(STEP, reached).await.expect(what);
}

/// A body fed by a test, piece by piece.
struct Fed(mpsc::Receiver<Bytes>);

impl Stream for Fed {
    type Item = Result<Frame<Bytes>, io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

fn fed() -> (mpsc::Sender<Bytes>, Body) {
    let (pieces, receiver) = mpsc::channel(1);
    (pieces, Body::new(StreamBody::new(Fed(receiver))))
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn one_connection_serves_call_after_call() {
    let (address, accepted) = scripted(|mut socket, _| async move {
        loop {
            let head = head(&mut socket).await?;
            assert!(head.starts_with("GET /item HTTP/1.1\r\n"), "{head}");
            assert_eq!(head.matches("host: inventory.shop\r\n").count(), 1, "{head}");
            socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await?;
        }
    })
    .await;
    let connections = connections(address);
    for _ in 0..5 {
        let response = send(&connections, get("/item")).await.expect("a response");
        assert_eq!(text(response).await, "hello");
    }
    assert_eq!(accepted.load(Ordering::SeqCst), 1);
    assert_eq!((connections.counts().idle, connections.counts().active), (1, 0));
}

#[tokio::test]
async fn an_idle_connection_that_the_server_closed_costs_no_call() {
    let (address, accepted) = scripted(|mut socket, _| async move {
        head(&mut socket).await?;
        socket.write_all(OK).await
    })
    .await;
    let connections = connections(address);
    for _ in 0..20 {
        let response = send(&connections, get("/")).await.expect("a response");
        assert_eq!(text(response).await, "ok");
    }
    assert!(accepted.load(Ordering::SeqCst) > 1);
}

#[tokio::test]
async fn a_connection_that_says_close_is_not_kept() {
    let (address, accepted) = scripted(|mut socket, _| async move {
        head(&mut socket).await?;
        let answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
        socket.write_all(answer).await?;
        rest(&mut socket).await;
        Ok(())
    })
    .await;
    let connections = connections(address);
    for call in 1..=3 {
        assert_eq!(text(send(&connections, get("/")).await.expect("a response")).await, "ok");
        assert_eq!(connections.counts().idle, 0);
        assert_eq!(accepted.load(Ordering::SeqCst), call);
    }
}

#[tokio::test]
async fn a_body_may_end_with_the_connection() {
    let (address, _) = scripted(|mut socket, _| async move {
        head(&mut socket).await?;
        socket.write_all(b"HTTP/1.0 200 OK\r\n\r\n").await?;
        socket.write_all(&[b'x'; 100_000]).await
    })
    .await;
    let connections = connections(address);
    let body = text(send(&connections, get("/")).await.expect("a response")).await;
    assert_eq!(body.len(), 100_000);
    assert_eq!((connections.counts().idle, connections.counts().active), (0, 0));
}

#[tokio::test]
async fn a_response_cut_short_is_an_error_after_the_send() {
    for (answer, kind) in [
        (&b""[..], ErrorKind::ConnectionClosed),
        (b"HTTP/1.1 200 OK\r\ncontent-le", ErrorKind::ConnectionClosed),
        (b"\x16\x03\x01\x02\x00 no http at all\r\n\r\n", ErrorKind::EndpointProtocol),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n", ErrorKind::EndpointProtocol),
    ] {
        let (address, _) = scripted(move |mut socket, _| async move {
            head(&mut socket).await?;
            socket.write_all(answer).await
        })
        .await;
        let failed = send(&connections(address), get("/")).await.expect_err("no response");
        assert_eq!(failed.error.kind(), kind, "{failed}");
        assert!(failed.error.may_have_reached() && failed.request.is_none(), "{failed}");
    }
}

#[tokio::test]
async fn a_body_cut_short_is_an_error() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"[..],
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let (address, _) = scripted(move |mut socket, _| async move {
            head(&mut socket).await?;
            socket.write_all(answer).await
        })
        .await;
        let connections = connections(address);
        let response = send(&connections, get("/")).await.expect("a head");
        let error = soon(response.into_body().collect()).await.expect_err("cut short");
        assert!(error.may_have_reached(), "{error}");
        assert_eq!(error.kind(), ErrorKind::ConnectionClosed, "{error}");
        assert_eq!((connections.counts().idle, connections.counts().active), (0, 0));
    }
}

#[tokio::test]
async fn chunked_bodies_and_trailers_come_through_and_the_connection_stays() {
    let (address, accepted) = scripted(|mut socket, _| async move {
        loop {
            head(&mut socket).await?;
            let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: sum\r\n\r\n";
            socket.write_all(answer).await?;
            for part in [&b"3\r\nabc\r\n"[..], b"2\r\nde\r\n", b"0\r\n", b"sum: 5\r\n\r\n"] {
                socket.write_all(part).await?;
                tokio::task::yield_now().await;
            }
        }
    })
    .await;
    let connections = connections(address);
    for _ in 0..3 {
        let response = send(&connections, get("/")).await.expect("a response");
        let collected = soon(response.into_body().collect()).await.expect("whole");
        assert_eq!(collected.trailers().expect("trailers")["sum"], "5");
        assert_eq!(collected.to_bytes(), "abcde");
    }
    assert_eq!(accepted.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_body_nobody_reads_stops_the_server() {
    const BODY: usize = 64 * 1024 * 1024;
    let (written, sent) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&written);
    let (address, accepted) = scripted(move |mut socket, _| {
        let count = Arc::clone(&count);
        async move {
            loop {
                head(&mut socket).await?;
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {BODY}\r\n\r\n");
                socket.write_all(head.as_bytes()).await?;
                let chunk = vec![7; 64 * 1024];
                for _ in 0..BODY / chunk.len() {
                    socket.write_all(&chunk).await?;
                    count.fetch_add(chunk.len(), Ordering::SeqCst);
                }
            }
        }
    })
    .await;
    let connections = connections(address);
    let mut response = send(&connections, get("/")).await.expect("a head");
    // The server fills what the kernel takes, and then waits for us.
    until("the server stops", || {
        let now = written.load(Ordering::SeqCst);
        sent.swap(now, Ordering::SeqCst) == now && now > 0
    })
    .await;
    assert!(written.load(Ordering::SeqCst) < BODY / 2);
    let mut read = 0;
    while let Some(frame) = soon(response.body_mut().frame()).await {
        read += frame.expect("a frame").data_ref().map_or(0, Bytes::len);
    }
    assert_eq!(read, BODY);
    drop(response);
    assert_eq!(text_len(&connections).await, BODY);
    assert_eq!(accepted.load(Ordering::SeqCst), 1);
}

async fn text_len(connections: &Arc<Connections>) -> usize {
    let response = send(connections, get("/")).await.expect("a head");
    let size = response.body().size_hint().exact();
    let body = soon(response.into_body().collect()).await.expect("whole").to_bytes();
    assert_eq!(size, Some(body.len() as u64));
    body.len()
}

#[tokio::test]
async fn big_request_bodies_arrive_whole_in_memory_or_streamed() {
    const BODY: usize = 8 * 1024 * 1024;
    let (address, accepted) = scripted(|mut socket, _| async move {
        loop {
            let head = head(&mut socket).await?;
            let mut read = 0;
            if head.contains("content-length:") {
                let mut body = vec![0; BODY];
                read = socket.read_exact(&mut body).await?;
            } else {
                loop {
                    let mut size = Vec::new();
                    while !size.ends_with(b"\r\n") {
                        size.push(socket.read_u8().await?);
                    }
                    let size = std::str::from_utf8(&size).expect("hex").trim();
                    let size = usize::from_str_radix(size, 16).expect("hex");
                    let mut chunk = vec![0; size + 2];
                    socket.read_exact(&mut chunk).await?;
                    read += size;
                    if size == 0 {
                        break;
                    }
                }
            }
            let read = read.to_string();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{read}", read.len());
            socket.write_all(answer.as_bytes()).await?;
        }
    })
    .await;
    let connections = connections(address);
    let post = |body| Request::post("http://inventory.shop/").body(body).expect("valid");
    let whole = post(Body::from(vec![1; BODY]));
    assert_eq!(text(send(&connections, whole).await.expect("a response")).await, BODY.to_string());

    let (pieces, body) = fed();
    let feed = tokio::spawn(async move {
        for _ in 0..BODY / 65_536 {
            pieces.send(Bytes::from(vec![2; 65_536])).await.expect("wanted");
        }
    });
    let response = send(&connections, post(body)).await.expect("a response");
    assert_eq!(text(response).await, BODY.to_string());
    feed.await.expect("fed");
    assert_eq!(accepted.load(Ordering::SeqCst), 1);
    assert_eq!(connections.counts().idle, 1);
}

#[tokio::test]
async fn request_and_response_may_run_at_the_same_time() {
    // An echo that answers the head before any of the body is there.
    let (address, _) = scripted(|mut socket, _| async move {
        head(&mut socket).await?;
        socket.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
        let mut buffer = [0; 1024];
        loop {
            // Chunks are written back as they are; the last ends both bodies.
            let read = socket.read(&mut buffer).await?;
            socket.write_all(&buffer[..read]).await?;
            if buffer[..read].ends_with(b"0\r\n\r\n") {
                return Ok(());
            }
        }
    })
    .await;
    let (pieces, body) = fed();
    let request = Request::post("http://inventory.shop/").body(body).expect("valid");
    let mut response = send(&connections(address), request).await.expect("a head");
    for piece in ["one", "two"] {
        // The piece is taken although nobody polls the response meanwhile.
        soon(pieces.send(Bytes::from_static(piece.as_bytes()))).await.expect("wanted");
        let frame = soon(response.body_mut().frame()).await.expect("open").expect("a frame");
        assert_eq!(frame.into_data().expect("data"), piece);
    }
    drop(pieces);
    assert!(soon(response.body_mut().frame()).await.is_none());
}

#[tokio::test]
async fn a_failing_request_body_fails_the_call_and_closes() {
    let (gone, told) = oneshot::channel();
    let gone = parking_lot::Mutex::new(Some(gone));
    let (address, _) = scripted(move |mut socket, _| {
        let gone = gone.lock().take();
        async move {
            let rest = rest(&mut socket).await;
            gone.expect("one call").send(rest).expect("awaited");
            Ok(())
        }
    })
    .await;
    let failing = StreamBody::new(Once(Some(Err(io::Error::other("disk on fire")))));
    let request = Request::post("http://inventory.shop/").body(Body::new(failing)).expect("valid");
    let failed = send(&connections(address), request).await.expect_err("failed");
    assert_eq!(failed.error.kind(), ErrorKind::CallerGone, "{failed}");
    assert!(failed.to_string().contains("disk on fire"), "{failed}");
    let rest = soon(told).await.expect("closed");
    assert!(!rest.ends_with(b"0\r\n\r\n"), "the body must not look complete");
}

struct Once(Option<Result<Frame<Bytes>, io::Error>>);

impl Stream for Once {
    type Item = Result<Frame<Bytes>, io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.0.take())
    }
}

#[tokio::test]
async fn dropping_the_call_or_its_body_closes_the_connection() {
    let (events, mut seen) = mpsc::channel(4);
    let (address, _) = scripted(move |mut socket, number| {
        let events = events.clone();
        async move {
            head(&mut socket).await?;
            if number == 1 {
                socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await?;
            }
            events.send("asked").await.expect("awaited");
            rest(&mut socket).await;
            events.send("closed").await.expect("awaited");
            Ok(())
        }
    })
    .await;
    let connections = connections(address);
    {
        let call = connections.send(get("/"), Protocol::Http1);
        let mut call = pin!(call);
        poll_fn(|cx| {
            assert!(call.as_mut().poll(cx).is_pending());
            seen.poll_recv(cx)
        })
        .await;
        assert_eq!(connections.counts().active, 1);
    }
    assert_eq!(soon(seen.recv()).await, Some("closed"));

    let response = send(&connections, get("/")).await.expect("a head");
    assert_eq!(soon(seen.recv()).await, Some("asked"));
    drop(response);
    assert_eq!(soon(seen.recv()).await, Some("closed"));
    assert_eq!((connections.counts().idle, connections.counts().active), (0, 0));
}

#[tokio::test]
async fn an_upgraded_connection_is_a_stream_in_both_directions() {
    let (address, _) = scripted(|mut socket, _| async move {
        let head = head(&mut socket).await?;
        assert!(head.contains("upgrade: echo\r\n"), "{head}");
        let answer =
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
        socket.write_all(answer).await?;
        let (mut read, mut write) = socket.split();
        tokio::io::copy(&mut read, &mut write).await.map(drop)
    })
    .await;
    let mut request = get("/");
    request.headers_mut().insert(header::UPGRADE, "echo".parse().expect("valid"));
    request.headers_mut().insert(header::CONNECTION, "upgrade".parse().expect("valid"));
    let connections = connections(address);
    let response = send(&connections, request).await.expect("a response");
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut stream = TokioIo::new(soon(hyper::upgrade::on(response)).await.expect("a stream"));
    stream.write_all(b"hello").await.expect("written");
    let mut echo = [0; 5];
    soon(stream.read_exact(&mut echo)).await.expect("echoed");
    assert_eq!(&echo, b"hello");
    assert_eq!((connections.counts().active, connections.counts().connections()), (1, 1));
    drop(stream);
    assert_eq!(connections.counts().connections(), 0);
}

#[tokio::test]
async fn the_target_is_in_origin_form_and_the_authority_in_one_host() {
    let (heads, mut seen) = mpsc::channel(1);
    let (address, _) = scripted(move |mut socket, _| {
        let heads = heads.clone();
        async move {
            loop {
                heads.send(head(&mut socket).await?).await.expect("awaited");
                socket.write_all(OK).await?;
            }
        }
    })
    .await;
    let connections = connections(address);
    for (uri, host, line, expected) in [
        ("http://user:word@shop:81/a?b=c", Some("other"), "GET /a?b=c HTTP/1.1\r\n", "shop:81"),
        ("https://shop", None, "GET / HTTP/1.1\r\n", "shop"),
        ("/a", Some("shop"), "GET /a HTTP/1.1\r\n", "shop"),
        ("/a", None, "GET /a HTTP/1.1\r\n", "127.0.0.1"),
    ] {
        let mut request = Request::builder().uri(uri).version(http::Version::HTTP_2);
        if let Some(host) = host {
            request = request.header("host", host);
        }
        let request = request.body(Body::empty()).expect("valid");
        text(send(&connections, request).await.expect("a response")).await;
        let head = soon(seen.recv()).await.expect("a head");
        assert!(head.starts_with(line), "{head}");
        assert_eq!(head.matches("host:").count(), 1, "{head}");
        assert!(head.contains(&format!("host: {expected}\r\n")), "{head}");
    }
    let request = Request::builder().method(Method::OPTIONS).uri("*").header("host", "shop");
    text(send(&connections, request.body(Body::empty()).expect("valid")).await.expect("ok")).await;
    assert!(soon(seen.recv()).await.expect("a head").starts_with("OPTIONS * HTTP/1.1\r\n"));
}

#[tokio::test]
async fn nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let failed = send(&connections(address), get("/")).await.expect_err("refused");
    assert_eq!(failed.error.kind(), ErrorKind::Connect);
    assert!(failed.to_string().contains(&format!("{address} refused")), "{failed}");
    assert!(failed.error.is_retryable());
    assert_eq!(failed.request.expect("given back").uri().path(), "/");
}

/// A listener whose backlog is full: further connection attempts stay unanswered.
async fn black_hole() -> (tokio::net::TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("valid")).expect("loopback");
    let listener = socket.listen(1).expect("listening");
    let address = listener.local_addr().expect("bound");
    let mut waiting = Vec::new();
    while let Ok(Ok(stream)) =
        timeout(Duration::from_millis(100), TcpStream::connect(address)).await
    {
        waiting.push(stream);
    }
    (listener, waiting)
}

#[tokio::test]
async fn a_black_hole_costs_one_connect_timeout() {
    let (listener, _waiting) = black_hole().await;
    let address = listener.local_addr().expect("bound");
    let mut settings = Settings::default();
    settings.connect_timeout = Duration::from_millis(200);
    let connections = Arc::new(Connections::new(vec![address], None, Arc::new(settings)));
    let start = tokio::time::Instant::now();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let failed = soon(connections.send(get("/"), protocol)).await.expect_err("unanswered");
        assert_eq!(failed.error.kind(), ErrorKind::Connect);
        assert!(failed.to_string().contains(&format!("{address} within 200ms")), "{failed}");
        assert!(failed.request.is_some());
    }
    // Those who wait for one opening share its failure instead of trying one after another.
    let many: Vec<_> = (0..8)
        .map(|_| {
            let connections = Arc::clone(&connections);
            tokio::spawn(async move { connections.send(get("/"), Protocol::Http2).await.is_err() })
        })
        .collect();
    for call in many {
        assert!(soon(call).await.expect("no panic"));
    }
    assert!(start.elapsed() < Duration::from_millis(1200), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_dead_first_address_delays_the_second_by_a_moment_only() {
    let (listener, _waiting) = black_hole().await;
    let dead = listener.local_addr().expect("bound");
    let (alive, _) = scripted(|mut socket, _| async move {
        head(&mut socket).await?;
        socket.write_all(OK).await
    })
    .await;
    let refused = {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        listener.local_addr().expect("bound")
    };
    for addresses in [vec![dead, alive], vec![refused, alive], vec![refused, dead, alive]] {
        let start = tokio::time::Instant::now();
        let silent = addresses.contains(&dead);
        let connections = Arc::new(Connections::new(addresses, None, Arc::default()));
        assert_eq!(text(send(&connections, get("/")).await.expect("a response")).await, "ok");
        let delay = start.elapsed();
        assert_eq!(delay >= Duration::from_millis(250), silent, "{delay:?}");
        assert!(delay < Duration::from_millis(900), "{delay:?}");
    }
}

#[tokio::test]
async fn probe_parks_a_connection_and_drain_closes_it() {
    let (events, mut seen) = mpsc::channel(1);
    let (address, accepted) = scripted(move |mut socket, _| {
        let events = events.clone();
        async move {
            rest(&mut socket).await;
            events.send(()).await.expect("awaited");
            Ok(())
        }
    })
    .await;
    let connections = connections(address);
    connections.probe(Protocol::Http1).await.expect("reachable");
    assert_eq!(connections.counts().idle, 1);
    connections.drain();
    assert_eq!(connections.counts().idle, 0);
    soon(seen.recv()).await.expect("closed");
    assert_eq!(accepted.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn no_more_than_the_limit_stay_idle() {
    let (address, _) = scripted(|mut socket, _| async move {
        loop {
            head(&mut socket).await?;
            socket.write_all(OK).await?;
        }
    })
    .await;
    let mut settings = Settings::default();
    settings.max_idle = 2;
    let connections = Arc::new(Connections::new(vec![address], None, Arc::new(settings)));
    for _ in 0..5 {
        connections.probe(Protocol::Http1).await.expect("reachable");
    }
    assert_eq!(connections.counts().idle, 2);
}

/// Endpoints in memory, which answer every request.
#[derive(Debug)]
struct InMemory;

impl Dial for InMemory {
    fn dial(&self, _: SocketAddr) -> Dialing {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while theirs.read(&mut buffer).await? > 0 {
                theirs.write_all(OK).await?;
            }
            io::Result::Ok(())
        });
        Box::pin(async { Ok(Transport::new(ours)) })
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_drain_what_comes_later_is_still_closed_when_idle() {
    let mut settings = Settings::default();
    settings.dial = Arc::new(InMemory);
    let address = "192.0.2.1:80".parse().expect("valid");
    let connections = Arc::new(Connections::new(vec![address], None, Arc::new(settings)));
    connections.probe(Protocol::Http1).await.expect("reachable");
    // Seen once by the sweep, and gone before the next.
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert_eq!(connections.counts().idle, 1);
    connections.drain();
    tokio::time::sleep(Duration::from_secs(31)).await;
    connections.probe(Protocol::Http1).await.expect("reachable");
    tokio::time::sleep(Duration::from_secs(91)).await;
    assert_eq!(connections.counts().idle, 0);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_uses_is_closed_within_the_idle_timeout() {
    let mut settings = Settings::default();
    settings.dial = Arc::new(InMemory);
    let address = "192.0.2.1:80".parse().expect("valid");
    let connections = Arc::new(Connections::new(vec![address], None, Arc::new(settings)));
    for _ in 0..3 {
        connections.probe(Protocol::Http1).await.expect("reachable");
    }
    // One of the three is in use all the time, and stays.
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(text(send(&connections, get("/")).await.expect("a response")).await, "ok");
    }
    assert_eq!(connections.counts().idle, 1);
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(connections.counts().idle, 0);
}
