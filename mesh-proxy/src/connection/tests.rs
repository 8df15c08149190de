use super::driven::QUIET;
use super::*;
use http_body_util::Full;
use mesh_tower::call::Begun;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, sleep};

/// Answers every request with `ok`, after a while if its path says so.
#[derive(Clone)]
struct Okay;

impl Service<Request<Body>> for Okay {
    type Response = Response<Full<Bytes>>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.uri().path() == "/switch" {
            return Box::pin(switched());
        }
        let slow = request.uri().path() == "/slow";
        if request.uri().path() == "/panic" {
            panic!("as asked");
        }
        Box::pin(async move {
            if slow {
                sleep(Duration::from_secs(20)).await;
            }
            Ok(Response::new(Full::new(Bytes::from_static(b"ok"))))
        })
    }
}

impl Stack for Okay {
    fn call_begun(&mut self, request: Request<Body>, _: Begun) -> Self::Future {
        self.call(request)
    }

    fn of(self, _: std::net::SocketAddr) -> Self {
        self
    }
}

/// The answer of an endpoint that switches to a protocol in which it repeats what it is sent.
async fn switched() -> Result<Response<Full<Bytes>>, Error> {
    let (near, mut far) = tokio::io::duplex(1 << 16);
    tokio::spawn(async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(far.read_u8().await?);
        }
        let answer =
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
        far.write_all(answer).await?;
        let (mut from, mut to) = tokio::io::split(far);
        tokio::io::copy(&mut from, &mut to).await
    });
    let connecting = hyper::client::conn::http1::handshake(TokioIo::new(near));
    let (mut sender, connection) = connecting.await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let request = Request::get("/").header("connection", "upgrade").header("upgrade", "echo");
    let request = request.body(Full::new(Bytes::new())).unwrap();
    let response = sender.send_request(request).await.unwrap();
    Ok(response.map(|_| Full::new(Bytes::new())))
}

/// Answers whatever it is given with `endpoint: ` and the same.
#[derive(Clone)]
struct Repeat;

impl Dial for Repeat {
    type Stream = DuplexStream;

    async fn dial_tls(&self, _: &str) -> Result<DuplexStream, Error> {
        self.dial().await
    }

    async fn dial(&self) -> Result<DuplexStream, Error> {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (mut from, mut to) = tokio::io::split(far);
        tokio::spawn(async move {
            to.write_all(b"endpoint: ").await?;
            tokio::io::copy(&mut from, &mut to).await?;
            to.shutdown().await
        });
        Ok(near)
    }
}

fn serving(takes: Takes, common: &Arc<Common>) -> Serving<Okay, Repeat> {
    Serving {
        stack: Okay,
        tcp: Repeat,
        takes,
        inbound: None,
        limits: Limits::default(),
        draining: common.draining.clone(),
        common: Arc::clone(common),
    }
}

fn peer() -> Peer {
    Peer::new(([192, 0, 2, 1], 4711).into())
}

/// A client's end, the counters, and how to start draining.
fn connect() -> (DuplexStream, Arc<Common>) {
    connect_to(Takes::Http)
}

fn connect_to(takes: Takes) -> (DuplexStream, Arc<Common>) {
    let (client, server) = tokio::io::duplex(1 << 16);
    let common = Arc::new(Common::default());
    tokio::spawn(serving(takes, &common).serve(server, peer(), false));
    (client, common)
}

#[test]
fn a_connection_is_not_as_large_as_the_largest_protocol() {
    let (_client, server) = tokio::io::duplex(1);
    let future = serving(Takes::Http, &Arc::default()).serve(server, peer(), false);
    assert!(size_of_val(&future) <= 2048, "{} bytes", size_of_val(&future));
}

/// How long it takes until the proxy ends the connection, and what it said before.
async fn until_closed(client: &mut DuplexStream) -> (Duration, String) {
    let start = Instant::now();
    let mut said = Vec::new();
    client.read_to_end(&mut said).await.unwrap();
    (start.elapsed(), String::from_utf8(said).unwrap())
}

fn slow_clients(common: &Common) -> u64 {
    rejected(common, "slow_client")
}

fn rejected(common: &Common, reason: &str) -> u64 {
    common.counters.rejected().find(|(name, _)| *name == reason).unwrap().1
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_left_after_ten_seconds() {
    let (mut client, common) = connect();
    let (took, said) = until_closed(&mut client).await;
    assert_eq!((took.as_secs(), &*said), (10, ""));
    assert_eq!(slow_clients(&common), 1);
}

#[tokio::test(start_paused = true)]
async fn bytes_reach_an_endpoint_only_where_they_are_taken() {
    for (first, then, reason) in [
        (&b"PING\r\n"[..], &b"more"[..], "not_http"),
        (b"\x16\x03\x01\x02\x00\x01", b"\r\n\r\n", "not_http"),
        (b"SSH-2.0-OpenSSH\r\n", b"", "not_http"),
        (b"", GET, "slow_client"),
    ] {
        let shown = first.escape_ascii();
        let (mut client, common) = connect_to(Takes::Http);
        client.write_all(first).await.unwrap();
        if first.is_empty() {
            sleep(Duration::from_secs(11)).await;
        }
        // Whoever was refused may be gone already.
        let _ = client.write_all(then).await;
        let _ = client.shutdown().await;
        let (_, said) = until_closed(&mut client).await;
        let expected = if first.is_empty() { "" } else { "HTTP/1.1 400 Bad Request" };
        assert_eq!(said.lines().next().unwrap_or_default(), expected, "{shown}");
        assert!(!said.contains("endpoint"), "{shown}: {said}");
        assert_eq!(rejected(&common, reason), 1, "{shown}");

        let (mut client, common) = connect_to(Takes::Either);
        client.write_all(first).await.unwrap();
        if first.is_empty() {
            sleep(Duration::from_secs(11)).await;
        }
        client.write_all(then).await.unwrap();
        client.shutdown().await.unwrap();
        let mut said = Vec::new();
        client.read_to_end(&mut said).await.unwrap();
        assert_eq!(said, [b"endpoint: ", first, then].concat(), "{shown}");
        assert!(common.counters.rejected().all(|(_, count)| count == 0), "{shown}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_pauses_does_not_become_bytes() {
    let (mut client, common) = connect_to(Takes::Either);
    client.write_all(b"GE").await.unwrap();
    sleep(Duration::from_secs(11)).await;
    let _ = client.write_all(b"T /admin HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (_, said) = until_closed(&mut client).await;
    assert_eq!(said, "", "nothing of it goes anywhere");
    assert_eq!(rejected(&common, "slow_client"), 1);
}

#[tokio::test(start_paused = true)]
async fn where_bytes_are_taken_alone_nothing_is_waited_for() {
    let start = Instant::now();
    let (mut client, _) = connect_to(Takes::Bytes);
    let mut greeting = [0; 10];
    client.read_exact(&mut greeting).await.unwrap();
    assert_eq!((&greeting, start.elapsed()), (b"endpoint: ", Duration::ZERO));
    client.write_all(GET).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(until_closed(&mut client).await.1.as_bytes(), GET);
}

#[tokio::test(start_paused = true)]
async fn what_could_be_a_request_is_treated_as_one_where_bytes_are_taken_too() {
    for (message, status) in [
        (&b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"[..], "200"),
        (b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "200"),
        (b"\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "400"),
        (b"GET\t/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "400"),
    ] {
        for takes in [Takes::Http, Takes::Either] {
            let (mut client, _) = connect_to(takes);
            client.write_all(message).await.unwrap();
            let (_, said) = until_closed(&mut client).await;
            let found = said.get(9..12).unwrap_or_default();
            assert_eq!(found, status, "{takes:?} {}: {said}", message.escape_ascii());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_proxy_header_is_refused_and_counted_as_such() {
    for header in
        [&b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\0"]
    {
        for takes in [Takes::Http, Takes::Either] {
            let (mut client, common) = connect_to(takes);
            client.write_all(&[header, GET].concat()).await.unwrap();
            client.shutdown().await.unwrap();
            let (_, said) = until_closed(&mut client).await;
            assert!(said.starts_with("HTTP/1.1 400"), "{takes:?} {said}");
            assert_eq!(said.matches("HTTP/1.1").count(), 1, "{takes:?} {said}");
            assert_eq!(rejected(&common, "proxy_protocol"), 1, "{takes:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_with_a_body_is_refused_and_counted() {
    let (mut client, common) = connect();
    let head = "POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n";
    let request = format!("{head}Content-Length: 3\r\n\r\nabc");
    client.write_all(request.as_bytes()).await.unwrap();
    let (_, said) = until_closed(&mut client).await;
    assert!(said.starts_with("HTTP/1.1 400"), "{said}");
    assert!(said.contains("Upgrade in a request with a body"), "{said}");
    assert_eq!(rejected(&common, "target_or_field"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_is_never_complete_is_left_after_ten_seconds() {
    let (mut client, common) = connect();
    client.write_all(GET).await.unwrap();
    client.write_all(b"GET / HT").await.unwrap();
    for _ in 0..3 {
        sleep(Duration::from_secs(3)).await;
        client.write_all(b"T").await.unwrap();
    }
    let (took, said) = until_closed(&mut client).await;
    assert!(said.starts_with("HTTP/1.1 200 OK"), "{said}");
    assert_eq!(took, Duration::from_secs(1), "ten from the first byte, not from the last");
    assert_eq!(slow_clients(&common), 1);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_ends_after_five_minutes() {
    let (mut client, _) = connect();
    for _ in 0..10 {
        client.write_all(GET).await.unwrap();
        sleep(Duration::from_secs(100)).await;
    }
    let (took, said) = until_closed(&mut client).await;
    assert_eq!(said.matches("200 OK").count(), 10, "a thousand seconds, never idle for long");
    assert!((200..=260).contains(&took.as_secs()), "{took:?} after the last hundred");
}

#[tokio::test(start_paused = true)]
async fn an_upgraded_connection_is_counted_and_ends_when_it_is_idle() {
    let (mut client, common) = connect();
    let ask = b"GET /switch HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    client.write_all(ask).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", head.escape_ascii());
    for _ in 0..10 {
        sleep(Duration::from_secs(100)).await;
        client.write_all(b"x").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'x', "never idle for long");
        assert_eq!(common.counters.open(), 1);
    }
    let (took, said) = until_closed(&mut client).await;
    assert!((300..=360).contains(&took.as_secs()), "{took:?} after the last byte");
    assert_eq!(said, "");
    assert_eq!(slow_clients(&common), 1);
    let ended = async {
        while common.counters.open() > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(1), ended).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn draining_answers_what_runs_and_closes_what_is_quiet() {
    let (mut quiet, common) = connect();
    quiet.write_all(GET).await.unwrap();
    let mut answer = [0; 15];
    quiet.read_exact(&mut answer).await.unwrap();
    common.draining.start();
    let (took, said) = until_closed(&mut quiet).await;
    assert!(took <= 2 * QUIET && !said.contains("connection: close"), "{took:?} {said}");

    let (mut busy, common) = connect();
    busy.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    sleep(Duration::from_secs(1)).await;
    common.draining.start();
    let (took, said) = until_closed(&mut busy).await;
    assert!(said.starts_with("HTTP/1.1 200 OK"), "{said}");
    assert_eq!(took, Duration::from_secs(19));

    let (mut late, common) = connect();
    late.write_all(GET).await.unwrap();
    late.read_exact(&mut answer).await.unwrap();
    common.draining.start();
    sleep(QUIET / 2).await;
    late.write_all(GET).await.unwrap();
    let (_, said) = until_closed(&mut late).await;
    assert!(said.contains("200 OK") && said.contains("connection: close"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_panic_costs_one_request() {
    let (mut client, _) = connect();
    client.write_all(b"GET /panic HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let (_, said) = until_closed(&mut client).await;
    assert!(said.starts_with("HTTP/1.1 500"), "{said}");
    let (mut next, _) = connect();
    next.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    assert!(until_closed(&mut next).await.1.starts_with("HTTP/1.1 200 OK"));
}
