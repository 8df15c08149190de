//! Connection: one client, from its first byte to its end.
//!
//! ```text
//! accepted ─ first bytes ─┬─ HTTP/2 ─────────────────► hyper ─► handler per stream
//!            (≤ 10 s)     ├─ anything else ─► gate ──► hyper ─► handler per request, or 400
//!                         └─ silence ─► closed
//! ```
//!
//! Where the configuration says so ([`Takes`]), what is not HTTP, and silence, is relayed to one
//! endpoint instead. It passes what requests must pass by, so nothing else may lead there.
//!
//! One timer per connection serves all its deadlines. It is not touched per request: when it
//! fires, it looks whether anything moved since, so an idle connection ends between one and two
//! times [`Limits::idle`] divided by [`LOOKS`] late, and a busy one pays nothing. Only a head that
//! came in pieces moves it, to the moment at which the head must be complete.
//!
//! Draining: HTTP/2 is told at once (GOAWAY). An HTTP/1 answer carries `Connection: close` from
//! then on, and a connection that stays quiet is closed [`QUIET`] later, so that a request which
//! is just under way is still answered.

use crate::counters::Reject;
use crate::detect::{Speaks, Takes, detect};
use crate::drain::{Draining, Signal};
use crate::gate::{Gate, LOOKS, Watch};
use crate::http::{Common, Handler, Stack};
use crate::hygiene::Edge;
use crate::inbound::Inbound;
use crate::tunnel;
use ::http::{Request, Response};
use bytes::{Bytes, BytesMut};
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mesh_core::Error;
use mesh_tower::listen::Peer;
use mesh_tower::{Body, BoxError, clock};
use pin_project_lite::pin_project;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::{Sleep, sleep, timeout};
use tower_service::Service;

/// How long a quiet HTTP/1 connection is kept once draining has started.
const QUIET: Duration = Duration::from_secs(1);

/// What a client may make us keep, and for how long. Sources: Envoy's edge guidance, RFC 9110.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Longest head, in bytes. 60 KiB.
    pub(crate) head: usize,
    /// Longest time from the first byte of a head to its last. 10 s.
    pub(crate) head_timeout: Duration,
    /// Longest time from accepting to the first byte. 10 s.
    pub(crate) first_byte: Duration,
    /// Longest time without a byte in either direction. 5 min.
    pub(crate) idle: Duration,
    /// Most bytes read ahead of the service, and most that wait to be written. 64 KiB.
    pub(crate) buffer: usize,
    /// Requests at once on one HTTP/2 connection. 100.
    pub(crate) streams: u32,
    /// Bytes of one HTTP/2 stream that are in flight towards us. 64 KiB.
    pub(crate) stream_window: u32,
    /// Bytes of one HTTP/2 connection that are in flight towards us. 1 MiB.
    pub(crate) connection_window: u32,
    /// Streams that a client has reset and that we have not looked at yet; one more ends the
    /// connection (CVE-2023-44487). 20.
    pub(crate) pending_resets: usize,
    /// Streams that we had to reset for a client's errors; one more ends the connection
    /// (CVE-2025-8671). 100.
    pub(crate) own_resets: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: 60 * 1024,
            head_timeout: Duration::from_secs(10),
            first_byte: Duration::from_secs(10),
            idle: Duration::from_secs(300),
            buffer: 64 * 1024,
            streams: 100,
            stream_window: 64 * 1024,
            connection_window: 1024 * 1024,
            pending_resets: 20,
            own_resets: 100,
        }
    }
}

/// What a connection is served with.
#[derive(Clone, Debug)]
pub(crate) struct Serving<S, T> {
    /// For HTTP requests.
    pub(crate) stack: S,
    /// For bytes, where they are taken.
    pub(crate) tcp: T,
    pub(crate) takes: Takes,
    /// How calls are received; `None` on an outbound listener.
    pub(crate) inbound: Option<Arc<Inbound>>,
    pub(crate) limits: Limits,
    pub(crate) common: Arc<Common>,
    pub(crate) draining: Draining,
}

/// Opens a connection to an endpoint, for bytes that are not HTTP.
pub(crate) trait Dial {
    /// The connection; while it lives, its endpoint counts it as load.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send;

    /// Picks an endpoint and connects.
    fn dial(&self) -> impl Future<Output = Result<Self::Stream, Error>> + Send;
}

impl<S, B, T> Serving<S, T>
where
    S: Stack + Service<Request<Body>, Response = Response<B>, Error = Error> + Send + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    T: Dial,
{
    /// Serves one connection to its end.
    pub(crate) async fn serve<IO>(self, mut io: IO, peer: Peer, tls: bool)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (speaks, ahead) = match self.takes {
            Takes::Bytes => (Speaks::Bytes, Bytes::new()),
            takes => {
                match first_bytes(&mut io, takes, self.limits.first_byte, &self.common).await {
                    Some(first) => first,
                    None => return,
                }
            }
        };
        let watch = Arc::new(Watch::new(self.limits.idle));
        // What drives each protocol is boxed, so that the task of a connection is not as large as
        // the largest of them: it is copied several times on its way into the runtime.
        match speaks {
            Speaks::Bytes => Box::pin(self.bytes(io, ahead, &peer, watch)).await,
            Speaks::Http1 => self.http1(io, ahead, &peer, tls, watch, None).await,
            // It is no request: the engine refuses it as such.
            Speaks::ProxyHeader => {
                self.http1(io, ahead, &peer, tls, watch, Some(Reject::ProxyHeader)).await;
            }
            Speaks::Http2 => self.http2(io, ahead, &peer, tls, watch).await,
        }
    }

    async fn bytes<IO>(self, io: IO, ahead: Bytes, peer: &Peer, watch: Arc<Watch>)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut io = Gate::open(io, ahead, Arc::clone(&watch));
        match self.tcp.dial().await {
            Ok(mut endpoint) => {
                tunnel::watched(&mut io, &mut endpoint, &watch, &self.common.counters).await;
            }
            // The destination has warned of what it lacks, once.
            Err(error) => {
                tracing::debug!(%error, client = %peer.address(), "no endpoint for a connection");
            }
        }
    }

    /// `refused` is what is wrong with the first bytes, where that is known.
    async fn http1<IO>(
        self,
        io: IO,
        ahead: Bytes,
        peer: &Peer,
        tls: bool,
        watch: Arc<Watch>,
        refused: Option<Reject>,
    ) where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limits = self.limits;
        let gate = Gate::http1(io, ahead, Arc::clone(&watch), limits.head_timeout);
        let edge = Edge::new(peer, tls);
        let common = Arc::clone(&self.common);
        let seen = Arc::clone(&watch);
        let handler =
            Handler::new(self.stack, edge, peer.address(), seen, self.common, self.inbound);
        let mut builder = http1::Builder::new();
        builder.max_header_size(limits.head).max_buf_size(limits.buffer);
        let connection = builder.serve_connection(TokioIo::new(gate), handler).with_upgrades();
        let driven = Box::pin(Driven {
            connection,
            timer: sleep(limits.idle / LOOKS),
            watch: Arc::clone(&watch),
            idle: limits.idle,
            quiet_looks: 0,
            deadline: None,
            signal: self.draining.signal(),
            draining: self.draining,
            phase: Phase::Fresh,
        });
        let ended = driven.await;
        let why = match (watch.violation(), &ended) {
            _ if refused.is_some() => refused,
            (Some(why), _) => Some(Reject::Framing(why)),
            (None, Some(Err(error))) if error.is_parse() => Some(Reject::Syntax),
            (None, None) => Some(Reject::Slow),
            (None, Some(_)) => None,
        };
        if let Some(why) = why {
            common.counters.reject(why);
        }
        if let Some(Err(error)) = ended {
            tracing::debug!(%error, client = %peer.address(), "connection ended early");
        }
    }

    async fn http2<IO>(self, io: IO, ahead: Bytes, peer: &Peer, tls: bool, watch: Arc<Watch>)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limits = self.limits;
        let gate = Gate::open(io, ahead, Arc::clone(&watch));
        let edge = Edge::new(peer, tls);
        let common = Arc::clone(&self.common);
        let seen = Arc::clone(&watch);
        let handler =
            Handler::new(self.stack, edge, peer.address(), seen, self.common, self.inbound);
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams)
            .initial_stream_window_size(limits.stream_window)
            .initial_connection_window_size(limits.connection_window)
            .max_header_list_size(u32::try_from(limits.head).unwrap_or(u32::MAX))
            .max_send_buf_size(limits.buffer)
            .max_pending_accept_reset_streams(limits.pending_resets)
            .max_local_error_reset_streams(limits.own_resets);
        let connection = builder.serve_connection(TokioIo::new(gate), handler);
        let driven = Box::pin(Driven {
            connection,
            timer: sleep(limits.idle / LOOKS),
            watch,
            idle: limits.idle,
            quiet_looks: 0,
            deadline: None,
            signal: self.draining.signal(),
            draining: self.draining,
            phase: Phase::Fresh,
        });
        match driven.await {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                if error.is_parse() {
                    common.counters.reject(Reject::Syntax);
                }
                tracing::debug!(%error, client = %peer.address(), "connection ended early");
            }
            None => common.counters.reject(Reject::Slow),
        }
    }
}

/// Reads until it is clear what the client speaks; `None` if it is gone.
async fn first_bytes(
    io: &mut (impl AsyncRead + Unpin),
    takes: Takes,
    limit: Duration,
    common: &Common,
) -> Option<(Speaks, Bytes)> {
    let mut ahead = BytesMut::with_capacity(2 * 1024);
    let detected = timeout(limit, async {
        loop {
            match io.read_buf(&mut ahead).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
            let speaks = detect(&ahead, takes);
            if speaks.is_some() {
                return speaks;
            }
        }
    })
    .await;
    match detected {
        Ok(Some(speaks)) => Some((speaks, ahead.freeze())),
        // The client has ended before it said enough.
        Ok(None) => None,
        Err(_elapsed) if takes == Takes::Either => Some((Speaks::Bytes, ahead.freeze())),
        Err(_elapsed) => {
            common.counters.reject(Reject::Slow);
            None
        }
    }
}

/// A connection of hyper, which can be asked to end after what is in flight.
pub(crate) trait Graceful: Future<Output = Result<(), hyper::Error>> {
    /// Asks it to end.
    fn end(self: Pin<&mut Self>);

    /// Whether that is a message to the client, which can be sent at once.
    const TOLD: bool;
}

impl<IO, S, B> Graceful for http1::UpgradeableConnection<IO, S>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<BoxError>,
    IO: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    B: http_body::Body + 'static,
    B::Error: Into<BoxError>,
{
    const TOLD: bool = false;

    fn end(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<IO, S, B> Graceful for http2::Connection<IO, S, TokioExecutor>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    IO: hyper::rt::Read + hyper::rt::Write + Unpin,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
    TokioExecutor: hyper::rt::bounds::Http2ServerConnExec<S::Future, B>,
{
    const TOLD: bool = true;

    fn end(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Not polled yet.
    Fresh,
    Open,
    /// Draining has started; the timer says when it is quiet enough to close.
    Closing,
    Ended,
}

pin_project! {
    /// A connection with its timer. `None` when the client was too slow.
    struct Driven<C> {
        #[pin]
        connection: C,
        #[pin]
        timer: Sleep,
        watch: Arc<Watch>,
        idle: Duration,
        quiet_looks: u32,
        // The deadline that the timer stands at.
        deadline: Option<mesh_core::Timestamp>,
        draining: Draining,
        #[pin]
        signal: Signal,
        phase: Phase,
    }
}

impl<C: Graceful> Future for Driven<C> {
    type Output = Option<Result<(), hyper::Error>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if *this.phase == Phase::Fresh {
            *this.phase = Phase::Open;
            // The task's waker stays the same, so each of these is registered once.
            this.signal.as_mut().register(cx);
            let _ = this.timer.as_mut().poll(cx);
        }
        if *this.phase == Phase::Open && this.draining.has_started() {
            *this.phase = Phase::Closing;
            if C::TOLD {
                this.connection.as_mut().end();
            } else {
                this.watch.take_activity();
                this.timer.as_mut().reset(tokio::time::Instant::now() + QUIET);
                let _ = this.timer.as_mut().poll(cx);
            }
        }
        if let Poll::Ready(result) = this.connection.as_mut().poll(cx) {
            return Poll::Ready(Some(result));
        }
        loop {
            let deadline = this.watch.deadline();
            if deadline != *this.deadline {
                *this.deadline = deadline;
                let next = match deadline {
                    Some(deadline) => clock::instant(deadline),
                    None => tokio::time::Instant::now() + *this.idle / LOOKS,
                };
                this.timer.as_mut().reset(next);
                let _ = this.timer.as_mut().poll(cx);
            }
            if !this.timer.is_elapsed() {
                return Poll::Pending;
            }
            if deadline.is_some() {
                return Poll::Ready(None);
            }
            let mut next = *this.idle / LOOKS;
            let active = this.watch.take_activity();
            *this.quiet_looks = if active { 0 } else { *this.quiet_looks + 1 };
            if *this.phase == Phase::Closing && !C::TOLD {
                *this.quiet_looks = 0;
                if active {
                    next = QUIET;
                } else {
                    *this.phase = Phase::Ended;
                    this.connection.as_mut().end();
                    if let Poll::Ready(result) = this.connection.as_mut().poll(cx) {
                        return Poll::Ready(Some(result));
                    }
                }
            }
            if *this.quiet_looks >= LOOKS {
                return Poll::Ready(None);
            }
            this.timer.as_mut().reset(tokio::time::Instant::now() + next);
            let _ = this.timer.as_mut().poll(cx);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http_body_util::Full;
    use mesh_core::Timestamp;
    use tokio::io::{AsyncWriteExt, DuplexStream};
    use tokio::time::Instant;

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
        fn call_at(&mut self, request: Request<Body>, _: Timestamp) -> Self::Future {
            self.call(request)
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
        let ask =
            b"GET /switch HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
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
}
