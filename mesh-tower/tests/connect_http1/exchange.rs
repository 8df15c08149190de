//! Requests and responses as they go over a connection.

use super::*;
use bytes::Bytes;
use futures_core::Stream;
use http::{Method, StatusCode, header};
use http_body::{Body as _, Frame};
use http_body_util::StreamBody;
use hyper_util::rt::TokioIo;
use mesh_tower::ErrorKind;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use testkit::until;
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};

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
