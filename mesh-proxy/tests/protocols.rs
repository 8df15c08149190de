//! What the proxy carries: HTTP/1 and HTTP/2, gRPC with streams and trailers, WebSocket, bytes.

mod common;

use bytes::Bytes;
use common::process::folder;
use common::recorder::Recorder;
use common::{SOON, echo, exchange, listener, proxy, proxy_of, read, route, service, statuses};
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use std::net::SocketAddr;
use std::sync::Arc;
use testkit::greeter::Hello;
use testkit::greeter::proto::greeter_client::GreeterClient;
use testkit::greeter::proto::greeter_server::GreeterServer;
use testkit::greeter::proto::{HelloManyRequest, HelloRequest};
use testkit::net::Authority;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

#[tokio::test]
async fn an_endpoint_that_is_down_is_explained() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (_proxy, address) = proxy(closed, &[]).await;
    let answer = exchange(address, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    let text = String::from_utf8(answer).unwrap();
    assert_eq!(statuses(text.as_bytes()), [503]);
    assert!(
        text.contains(
            "proxy-status: mesh; error=destination_unavailable; details=\"no_healthy_upstream"
        ),
        "{text}"
    );
    assert!(text.contains("its only endpoint cannot be reached"), "{text}");
}

#[tokio::test]
async fn a_websocket_passes_both_ways() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        while let Some(Ok(message)) = futures_util::StreamExt::next(&mut socket).await {
            if message.is_close() {
                break;
            }
            futures_util::SinkExt::send(&mut socket, message).await.unwrap();
        }
    });
    let (_proxy, address) = proxy(endpoint, &[]).await;
    let (mut socket, response) =
        tokio_tungstenite::connect_async(format!("ws://{address}/echo")).await.unwrap();
    assert_eq!(response.status(), 101);
    for size in [0, 1, 125, 126, 70_000, 1_000_000] {
        let sent = tokio_tungstenite::tungstenite::Message::binary(vec![7_u8; size]);
        futures_util::SinkExt::send(&mut socket, sent.clone()).await.unwrap();
        let echoed = timeout(SOON, futures_util::StreamExt::next(&mut socket)).await.unwrap();
        assert!(echoed.unwrap().unwrap() == sent, "{size} bytes");
    }
    socket.close(None).await.unwrap();
}

#[tokio::test]
async fn bytes_that_are_no_http_are_relayed_where_the_configuration_says_so() {
    let endpoint = echo().await;
    let mut message = b"*1\r\n$4\r\nPING\r\n".to_vec();
    message.resize(3_000_000, b'x');
    let plain = service("app", endpoint, "");
    let tcp = service("app", endpoint, ", appProtocol: tcp");
    let routed = plain.clone() + &route("TCPRoute", "r", "app", "backendRefs: [{ name: app }]");
    for (case, yaml) in [
        ("the listener is for bytes", plain.clone() + &listener("main", "tcp", "app")),
        ("the service is", tcp + &listener("main", "auto", "app")),
        ("a TCPRoute is attached", routed + &listener("main", "auto", "app")),
    ] {
        let (_proxy, addresses) = proxy_of(&yaml).await;
        let mut stream = TcpStream::connect(addresses[0]).await.unwrap();
        let (mut from, mut to) = stream.split();
        let send = async {
            to.write_all(&message).await.unwrap();
            to.shutdown().await.unwrap();
        };
        let mut echoed = Vec::new();
        let (_, received) = tokio::join!(send, timeout(SOON, from.read_to_end(&mut echoed)));
        received.unwrap().unwrap();
        assert!(echoed == message, "{case}: {} bytes came back", echoed.len());
    }
    for (case, yaml) in [
        ("nothing says so", plain.clone() + &listener("main", "auto", "app")),
        ("the listener is for HTTP", plain + &listener("main", "http", "app")),
    ] {
        let (_proxy, addresses) = proxy_of(&yaml).await;
        let answer = exchange(addresses[0], &message[..100]).await;
        assert!(answer.starts_with(b"HTTP/1.1 400 "), "{case}: {}", answer.escape_ascii());
        assert!(!answer.windows(4).any(|part| part == b"PING"), "{case}: it was relayed");
    }
}

#[tokio::test]
async fn a_flag_relays_bytes_to_an_upstream() {
    let endpoint = echo().await;
    let (_proxy, address) = proxy(endpoint, &["--protocol", "tcp"]).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(read(&mut stream).await, b"GET / HTTP/1.1\r\n\r\n");
}

#[tokio::test]
async fn grpc_streams_pass_with_their_trailers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder()
        .add_service(GreeterServer::new(Hello::new("one")))
        .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener));
    tokio::spawn(server);
    let (_proxy, address) = proxy(endpoint, &[]).await;
    let channel = tonic::transport::Endpoint::try_from(format!("http://{address}")).unwrap();
    let channel = timeout(SOON, channel.connect()).await.unwrap().unwrap();
    let mut client = GreeterClient::new(channel);
    let name = |name: &str| HelloRequest { name: name.into() };

    let reply = client.say_hello(name("ann")).await.unwrap().into_inner();
    assert_eq!(reply.message, "hello, ann");
    let refused = client.say_hello(name("")).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);

    let many = HelloManyRequest { name: "ann".into(), count: 500, interval_ms: 0 };
    let mut replies = client.say_hello_many(many).await.unwrap().into_inner();
    let mut count = 0;
    while replies.message().await.unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 500);
    assert!(replies.trailers().await.unwrap().is_some(), "trailers came through");

    let names = tokio_stream::iter(["ann", "bob"].map(name));
    let all = client.say_hello_to_all(names).await.unwrap().into_inner();
    assert_eq!(all.message, "hello, ann and bob");

    let (say, said) = tokio::sync::mpsc::channel(1);
    let said = tokio_stream::wrappers::ReceiverStream::new(said);
    let mut chat = client.chat(said).await.unwrap().into_inner();
    for word in ["one", "two", "three"] {
        say.send(name(word)).await.unwrap();
        let reply = timeout(SOON, chat.message()).await.unwrap().unwrap().unwrap();
        assert_eq!(reply.message, format!("hello, {word}"));
    }
    drop(say);
    assert!(timeout(SOON, chat.message()).await.unwrap().unwrap().is_none());
}

#[tokio::test]
async fn a_body_that_breaks_off_is_the_clients_fault() {
    let endpoint = Recorder::start().await;
    let (_proxy, address) = proxy(endpoint.address(), &[]).await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let bytes = format!("{head}5\r\nabcdefgh\r\n0\r\n\r\n");
    let answer = String::from_utf8(exchange(address, bytes.as_bytes()).await).unwrap();
    assert_eq!(statuses(answer.as_bytes()), [400], "{answer}");
    assert!(answer.contains("downstream_protocol_error"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    assert!(endpoint.requests().is_empty());
}

/// The status of a GET over TLS, in the version of HTTP that `config` offers, with a forged
/// identity; an error when the proxy hangs up on it.
async fn get_over_tls(to: SocketAddr, config: ClientConfig) -> hyper::Result<StatusCode> {
    let http2 = config.alpn_protocols == [b"h2"];
    let stream = TcpStream::connect(to).await.unwrap();
    let name = "localhost".try_into().unwrap();
    // Under TLS 1.3 the client is done before its certificate is looked at.
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let (io, body) = (TokioIo::new(stream), Empty::<Bytes>::new());
    let request = Request::get("https://localhost/").header("host", "localhost");
    let forged = request.header("x-forwarded-client-cert", "URI=\"spiffe://mesh.test/forged\"");
    let request = forged.body(body).unwrap();
    let answer = if http2 {
        let (mut client, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        client.send_request(request).await?
    } else {
        let (mut client, connection) = http1::handshake(io).await?;
        tokio::spawn(connection);
        client.send_request(request).await?
    };
    Ok(answer.status())
}

#[tokio::test]
async fn a_client_that_resets_most_of_its_requests_is_sent_away() {
    let endpoint =
        testkit::endpoint::ScriptedEndpoint::http1(testkit::endpoint::Reply::hang()).await;
    let (proxy, address) = proxy(endpoint.address(), &[]).await;
    let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut client, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let connection = tokio::spawn(connection);
    let request =
        || Request::get(format!("http://{address}/")).body(Empty::<Bytes>::new()).unwrap();
    for number in 1..=200 {
        if connection.is_finished() {
            break;
        }
        let calling = client.send_request(request());
        let arrived = testkit::until("it arrives, or is refused", || {
            endpoint.calls() >= number || connection.is_finished()
        });
        tokio::select! {
            answer = calling => assert!(answer.is_err(), "it is never answered"),
            () = arrived => {}
        }
    }
    testkit::until("the connection ends", || connection.is_finished()).await;
    assert!((100..150).contains(&endpoint.calls()), "{}", endpoint.calls());
    drop(proxy);
}

#[tokio::test]
async fn a_verified_client_is_named_to_the_endpoint() {
    let endpoint = Recorder::start().await;
    let authority = Authority::new("mesh.test");
    let folder = folder("mtls");
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let server = authority.issue(&["localhost"]);
    let ca = write("ca.pem", authority.pem());
    let (cert, key) = (write("server.pem", &server.cert_pem), write("server.key", &server.key_pem));
    let flags = ["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &ca];
    let (_proxy, address) = proxy(endpoint.address(), &flags).await;
    let client = authority.issue(&["spiffe://mesh.test/ns/a/sa/b"]);
    for alpn in ["http/1.1", "h2"] {
        let without = get_over_tls(address, authority.client(None, &[alpn])).await;
        assert!(without.is_err(), "{alpn}, without a certificate: {without:?}");
        assert!(endpoint.requests().is_empty(), "{alpn}");
    }
    for (number, alpn) in ["http/1.1", "h2"].into_iter().enumerate() {
        let with = get_over_tls(address, authority.client(Some(&client), &[alpn])).await;
        assert_eq!(with.unwrap(), StatusCode::OK, "{alpn}");
        let seen = endpoint.requests();
        assert_eq!(seen.len(), number + 1, "{alpn}");
        let named = seen[number].all("x-forwarded-client-cert");
        assert_eq!(named, ["URI=\"spiffe://mesh.test/ns/a/sa/b\""], "{alpn}");
        assert_eq!(seen[number].all("x-forwarded-proto"), ["https"], "{alpn}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}
