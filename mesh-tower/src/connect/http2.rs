//! HTTP/2: a few connections, many streams.
//!
//! The connection is a task: it serves many calls and must answer PING and SETTINGS between
//! them. The calls themselves talk to the stream state directly, from their own tasks: nothing
//! is queued on the way and no task is made per call, except for a request body that still
//! streams when the response has begun.
//!
//! Streams are counted here against the limit the endpoint advertises (100 until it did on
//! any connection), so that a call that would wait for a stream opens another connection instead.
//!
//! Source: RFC 9113.

use super::body::{Abort, ResponseBody};
use super::dial::Transport;
use super::error::{self, SendError};
use super::http1::host_port;
use super::{Settings, sending};
use crate::body::Body;
use bytes::Bytes;
use futures_core::ready;
use h2::client::{Connection, SendRequest};
use h2::{Ping, PingPong, Reason, RecvStream, SendStream};
use http::uri::{Authority, Parts, PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use http_body::{Body as _, Frame, SizeHint};
use mesh_core::{Error, ErrorKind, Swap};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// Streams a connection may open before the endpoint has said its limit: the smallest that
/// RFC 9113, section 6.5.2, recommends to advertise.
const STREAMS_UNTIL_KNOWN: usize = 100;

/// One HTTP/2 connection, seen from the calls.
pub(super) struct Multiplexed {
    sender: SendRequest<Bytes>,
    status: Arc<Status>,
}

/// What the connection's task and its calls tell each other.
struct Status {
    streams: AtomicUsize,
    max_streams: AtomicUsize,
    /// What the connections opened later assume until they are told.
    siblings_max_streams: Arc<AtomicUsize>,
    closed: AtomicBool,
    /// Since the last sweep.
    used: AtomicBool,
}

impl Multiplexed {
    /// Starts HTTP/2 on a fresh transport and gives the connection a task.
    async fn handshake(
        transport: Transport,
        settings: &Settings,
        max_streams: Arc<AtomicUsize>,
    ) -> Result<Arc<Self>, Error> {
        let assumed = max_streams.load(Ordering::Relaxed).max(1);
        let head = u32::try_from(settings.max_response_head).unwrap_or(u32::MAX);
        let (sender, mut connection) = h2::client::Builder::new()
            .enable_push(false)
            .initial_max_send_streams(assumed)
            .initial_window_size(settings.http2_stream_window)
            .initial_connection_window_size(settings.http2_connection_window)
            .max_header_list_size(head)
            .handshake(transport)
            .await
            .map_err(error::of_http2)?;
        let status = Arc::new(Status {
            streams: AtomicUsize::new(0),
            max_streams: AtomicUsize::new(assumed),
            siblings_max_streams: max_streams,
            closed: AtomicBool::new(false),
            used: AtomicBool::new(true),
        });
        let keepalive = settings.http2_keepalive_interval.and_then(|interval| {
            let pings = connection.ping_pong()?;
            Some(Keepalive::new(pings, interval, settings.http2_keepalive_timeout))
        });
        tokio::spawn(drive(connection, keepalive, Arc::clone(&status)));
        Ok(Arc::new(Self { sender, status }))
    }

    /// Takes a stream, if one is free.
    fn reserve(self: &Arc<Self>) -> Option<Stream> {
        let status = &self.status;
        if status.closed.load(Ordering::Acquire) {
            return None;
        }
        let max = status.max_streams.load(Ordering::Relaxed);
        if status.streams.fetch_add(1, Ordering::Relaxed) >= max {
            status.streams.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        if !status.used.load(Ordering::Relaxed) {
            status.used.store(true, Ordering::Relaxed);
        }
        Some(Stream(Arc::clone(self)))
    }

    /// Takes a stream beyond the limit: it opens when another ends.
    fn overbook(self: &Arc<Self>) -> Stream {
        self.status.streams.fetch_add(1, Ordering::Relaxed);
        Stream(Arc::clone(self))
    }

    fn streams(&self) -> usize {
        self.status.streams.load(Ordering::Relaxed)
    }

    fn is_closed(&self) -> bool {
        self.status.closed.load(Ordering::Acquire)
    }

    fn retire(&self) {
        self.status.closed.store(true, Ordering::Release);
    }
}

/// Runs the connection until it ends, and tells its calls what it learns.
async fn drive(
    mut connection: Connection<Transport, Bytes>,
    mut keepalive: Option<Keepalive>,
    status: Arc<Status>,
) {
    poll_fn(|cx| {
        let ended = Pin::new(&mut connection).poll(cx).is_ready();
        let max_streams = connection.max_concurrent_send_streams();
        if status.max_streams.load(Ordering::Relaxed) != max_streams {
            status.max_streams.store(max_streams, Ordering::Relaxed);
            status.siblings_max_streams.store(max_streams, Ordering::Relaxed);
        }
        let dead = keepalive.as_mut().is_some_and(|keepalive| {
            let busy = status.streams.load(Ordering::Relaxed) > 0;
            keepalive.poll(busy, cx).is_ready()
        });
        if ended || dead { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    status.closed.store(true, Ordering::Release);
}

/// Sends a PING at times, and notices when none comes back.
struct Keepalive {
    pings: PingPong,
    interval: Duration,
    timeout: Duration,
    timer: Pin<Box<Sleep>>,
    waiting: bool,
}

impl Keepalive {
    fn new(pings: PingPong, interval: Duration, timeout: Duration) -> Self {
        Self { pings, interval, timeout, timer: Box::pin(sleep(interval)), waiting: false }
    }

    /// Ready when the endpoint is to be given up.
    fn poll(&mut self, busy: bool, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.waiting && self.pings.poll_pong(cx).is_ready() {
                self.waiting = false;
                self.timer.as_mut().reset(Instant::now() + self.interval);
            }
            ready!(self.timer.as_mut().poll(cx));
            if self.waiting {
                return Poll::Ready(());
            }
            let wait = if busy && self.pings.send_ping(Ping::opaque()).is_ok() {
                self.waiting = true;
                self.timeout
            } else {
                self.interval
            };
            self.timer.as_mut().reset(Instant::now() + wait);
        }
    }
}

/// The HTTP/2 connections to one endpoint.
pub(super) struct Group {
    connections: Swap<Vec<Arc<Multiplexed>>>,
    /// Streams per connection, as the endpoint said it last.
    max_streams: Arc<AtomicUsize>,
    /// Held by the one who opens a connection; the others wait for it to be shared.
    opening: tokio::sync::Mutex<()>,
    /// How many openings have begun, and the last that failed.
    openings: AtomicUsize,
    failed: parking_lot::Mutex<Option<(usize, Error)>>,
}

impl Group {
    pub(super) fn new() -> Self {
        Self {
            connections: Swap::new(Vec::new()),
            max_streams: Arc::new(AtomicUsize::new(STREAMS_UNTIL_KNOWN)),
            opening: tokio::sync::Mutex::new(()),
            openings: AtomicUsize::new(0),
            failed: parking_lot::Mutex::new(None),
        }
    }

    /// Starts HTTP/2 on a fresh transport to the endpoint.
    pub(super) async fn handshake(
        &self,
        transport: Transport,
        settings: &Settings,
    ) -> Result<Arc<Multiplexed>, Error> {
        Multiplexed::handshake(transport, settings, Arc::clone(&self.max_streams)).await
    }

    /// A free stream on an open connection.
    pub(super) fn reserve(&self) -> Option<Stream> {
        self.connections.load().iter().find_map(Multiplexed::reserve)
    }

    /// A free stream; opens a connection by `open` when there is none.
    ///
    /// One connection is opened at a time. Those who waited meanwhile share it, or its failure.
    /// Where no further connection is allowed, the call waits inside the least loaded one.
    pub(super) async fn stream<F>(
        &self,
        limit: usize,
        open: impl FnOnce() -> F,
    ) -> Result<Stream, Error>
    where
        F: Future<Output = Result<Arc<Multiplexed>, Error>>,
    {
        if let Some(stream) = self.reserve() {
            return Ok(stream);
        }
        let seen = self.openings.load(Ordering::Acquire);
        let _turn = self.opening.lock().await;
        if let Some(stream) = self.reserve() {
            return Ok(stream);
        }
        if let Some((opening, error)) = &*self.failed.lock()
            && *opening > seen
        {
            return Err(error.clone());
        }
        let open_ones = self.open_ones();
        if open_ones.len() >= limit.max(1)
            && let Some(least) = least_loaded(&open_ones)
        {
            return Ok(least.overbook());
        }
        let opening = self.openings.fetch_add(1, Ordering::AcqRel) + 1;
        match open().await {
            Ok(connection) => Ok(self.share(connection)),
            Err(error) => {
                if error.kind() == ErrorKind::Overflow
                    && let Some(least) = least_loaded(&self.open_ones())
                {
                    return Ok(least.overbook());
                }
                *self.failed.lock() = Some((opening, error.clone()));
                Err(error)
            }
        }
    }

    /// Shares a connection that was opened elsewhere.
    pub(super) async fn add(&self, connection: Arc<Multiplexed>) -> Stream {
        let _turn = self.opening.lock().await;
        self.share(connection)
    }

    /// Call it only with the turn: it replaces the whole list.
    fn share(&self, connection: Arc<Multiplexed>) -> Stream {
        let stream = connection.overbook();
        let mut connections = self.open_ones();
        connections.push(connection);
        self.connections.store(connections);
        stream
    }

    fn open_ones(&self) -> Vec<Arc<Multiplexed>> {
        let connections = self.connections.load();
        connections.iter().filter(|connection| !connection.is_closed()).cloned().collect()
    }

    /// Forgets closed connections, and lets go those nobody used since the last sweep.
    pub(super) fn sweep(&self) {
        let Ok(_turn) = self.opening.try_lock() else { return };
        let mut connections = self.open_ones();
        connections.retain(|connection| {
            connection.status.used.swap(false, Ordering::Relaxed) || connection.streams() > 0
        });
        if connections.len() < self.connections.load().len() {
            self.connections.store(connections);
        }
    }

    /// Takes no new stream; running ones end in their own time.
    pub(super) fn drain(&self) {
        for connection in self.connections.load().iter() {
            connection.retire();
        }
        self.connections.store(Vec::new());
    }

    pub(super) fn streams(&self) -> usize {
        self.connections.load().iter().map(|connection| connection.streams()).sum()
    }

    pub(super) fn len(&self) -> usize {
        self.connections.load().iter().filter(|connection| !connection.is_closed()).count()
    }
}

fn least_loaded(connections: &[Arc<Multiplexed>]) -> Option<&Arc<Multiplexed>> {
    connections.iter().min_by_key(|connection| connection.streams())
}

/// One stream of a connection, taken until dropped.
pub(super) struct Stream(Arc<Multiplexed>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.status.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Sends one request over `stream` and waits for the head of the response.
///
/// # Errors
///
/// With the request when the connection has ended before anything was handed to it.
pub(super) fn exchange(stream: Stream, request: Request<Body>, secure: bool) -> sending::Exchange {
    match Exchange::start(stream, request, secure) {
        Ok(exchange) => Box::pin(exchange),
        Err(failed) => Box::pin(std::future::ready(Err(failed))),
    }
}

/// Sends what is left of the request until the head of the response is there.
struct Exchange {
    response: h2::client::ResponseFuture,
    upload: Option<Upload>,
    stream: Option<Stream>,
}

impl Exchange {
    fn start(stream: Stream, request: Request<Body>, secure: bool) -> Result<Self, SendError> {
        let mut sender = stream.0.sender.clone();
        let ready = sender.poll_ready(&mut Context::from_waker(Waker::noop()));
        if let Poll::Ready(Err(failed)) = ready {
            stream.0.retire();
            let message = "the endpoint had closed the connection before the request was written";
            let error = Error::new(ErrorKind::ConnectionClosed, message).with_source(failed);
            return Err(SendError::unsent(error, request));
        }
        let (mut head, body) = request.into_parts();
        if let Err(error) = canonical(&mut head, &body, secure) {
            return Err(SendError::unsent(error, Request::from_parts(head, body)));
        }
        let no_body = body.is_end_stream();
        let (response, sink) = match sender.send_request(Request::from_parts(head, ()), no_body) {
            Ok(started) => started,
            Err(error) => {
                let message = format!("the request cannot be written as HTTP/2: {error}");
                let kind = if error.is_io() || error.is_go_away() {
                    stream.0.retire();
                    ErrorKind::ConnectionClosed
                } else {
                    ErrorKind::CallerProtocol
                };
                return Err(SendError::lost(Error::new(kind, message).with_source(error)));
            }
        };
        drop(sender);
        let upload = (!no_body).then(|| Upload { body, sink, waiting: None });
        Ok(Self { response, upload, stream: Some(stream) })
    }
}

impl Future for Exchange {
    type Output = Result<Response<ResponseBody>, SendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Some(running) = &mut this.upload
            && let Poll::Ready(ended) = running.poll(cx)
        {
            this.upload = None;
            if let Err(error) = ended {
                return Poll::Ready(Err(SendError::lost(error)));
            }
        }
        let response = match ready!(Pin::new(&mut this.response).poll(cx)) {
            Ok(response) => response,
            Err(error) => return Poll::Ready(Err(SendError::lost(error::of_http2(error)))),
        };
        let upload = this.upload.take().map(|mut running| {
            // The caller may wait for the response before it goes on with the request, or the
            // other way round; only a task of its own serves both.
            let task = tokio::spawn(async move {
                let _ = poll_fn(|cx| running.poll(cx)).await;
            });
            Abort(task.abort_handle())
        });
        let rest = response
            .headers()
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse().ok());
        let stream = this.stream.take();
        Poll::Ready(Ok(response.map(|incoming| {
            ResponseBody::http2(Download {
                incoming,
                rest,
                data_done: false,
                _upload: upload,
                stream,
            })
        })))
    }
}

/// Writes the request as HTTP/2 wants it: scheme and authority in the target, and no field that
/// speaks of the connection.
///
/// Source: RFC 9113, sections 8.2.2 and 8.3.1.
fn canonical(head: &mut http::request::Parts, body: &Body, secure: bool) -> Result<(), Error> {
    let headers = &mut head.headers;
    if headers.contains_key(header::CONNECTION) {
        let listed: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in listed {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    for name in [
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
    ] {
        headers.remove(name);
    }
    if headers.get(header::TE).is_some_and(|te| te != "trailers") {
        headers.remove(header::TE);
    }
    let host = headers.remove(header::HOST);

    if let Some(length) = body.size_hint().exact()
        && (length > 0 || matches!(head.method, Method::POST | Method::PUT | Method::PATCH))
        && !headers.contains_key(header::CONTENT_LENGTH)
    {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }

    head.version = http::Version::HTTP_2;
    let scheme = if secure { Scheme::HTTPS } else { Scheme::HTTP };
    let settled = head.uri.scheme() == Some(&scheme)
        && head.uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    if settled || head.method == Method::CONNECT {
        return Ok(());
    }
    let Parts { authority, path_and_query, .. } = std::mem::take(&mut head.uri).into_parts();
    let authority = match (&authority, &host) {
        (Some(authority), _) => Authority::try_from(host_port(authority.as_str())).ok(),
        (None, Some(host)) => Authority::try_from(host.as_bytes()).ok(),
        (None, None) => None,
    };
    let mut parts = Parts::default();
    parts.path_and_query = Some(path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/")));
    if authority.is_some() {
        parts.scheme = Some(scheme);
        parts.authority = authority;
    }
    head.uri = Uri::from_parts(parts).map_err(|error| {
        Error::new(ErrorKind::CallerProtocol, "the request has no valid target").with_source(error)
    })?;
    Ok(())
}

/// The request's body on its way.
struct Upload {
    body: Body,
    sink: SendStream<Bytes>,
    /// Data that waits for room, and whether it is the last.
    waiting: Option<(Bytes, bool)>,
}

impl Upload {
    /// Ready when the whole body is handed over, or nobody wants the rest.
    ///
    /// # Errors
    ///
    /// The body's own; what the connection says, the response says as well.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            while self.waiting.is_some() && self.sink.capacity() == 0 {
                match self.sink.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Ok(())),
                    Poll::Pending => return self.poll_reset(cx),
                }
            }
            if let Some((data, last)) = self.waiting.take() {
                if self.sink.send_data(data, last).is_ok() && !last {
                    continue;
                }
                return Poll::Ready(Ok(()));
            }
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
                return self.poll_reset(cx);
            };
            let sent = match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => {
                    let last = self.body.is_end_stream();
                    // A body in memory takes no room before it is handed over either way. Room is
                    // asked for once there is data: kept without, it would be missing to others.
                    if self.body.is_stream() && !data.is_empty() {
                        self.sink.reserve_capacity(1);
                        self.waiting = Some((data, last));
                        continue;
                    }
                    let sent = self.sink.send_data(data, last);
                    if !last && sent.is_ok() {
                        continue;
                    }
                    sent
                }
                Some(Ok(Err(other))) => match other.into_trailers() {
                    Ok(trailers) => self.sink.send_trailers(trailers),
                    Err(_unknown) => continue,
                },
                Some(Err(error)) => {
                    self.sink.send_reset(Reason::CANCEL);
                    let message = format!("the request's body failed: {error}");
                    let error = Error::new(ErrorKind::CallerGone, message).with_source(error);
                    return Poll::Ready(Err(error.after_send()));
                }
                None => self.sink.send_data(Bytes::new(), true),
            };
            // A refusal means that the stream has ended, which the response tells.
            let _ = sent;
            return Poll::Ready(Ok(()));
        }
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.sink.poll_reset(cx).map(|_| Ok(()))
    }
}

/// The response's body on its way.
pub(super) struct Download {
    incoming: RecvStream,
    /// Bytes still to come, where the endpoint has said it.
    rest: Option<u64>,
    data_done: bool,
    _upload: Option<Abort>,
    stream: Option<Stream>,
}

impl Download {
    pub(super) fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        if self.is_end_stream() {
            return SizeHint::with_exact(0);
        }
        self.rest.map_or_else(SizeHint::default, SizeHint::with_exact)
    }

    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if !self.data_done {
            match ready!(self.incoming.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Fails only when the stream has ended, and then nobody counts any more.
                    let _ = self.incoming.flow_control().release_capacity(data.len());
                    self.rest = self.rest.map(|rest| rest.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(self.end(Some(error))),
                None => self.data_done = true,
            }
        }
        match ready!(self.incoming.poll_trailers(cx)) {
            Ok(Some(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Ok(None) => Poll::Ready(self.end(None)),
            Err(error) => Poll::Ready(self.end(Some(error))),
        }
    }

    /// Lets the stream go. A reset without error ends a body that misses nothing
    /// (RFC 9113, section 8.1).
    fn end(&mut self, error: Option<h2::Error>) -> Option<Result<Frame<Bytes>, Error>> {
        self.stream = None;
        let error = error?;
        if error.reason() == Some(Reason::NO_ERROR) && self.rest.unwrap_or(0) == 0 {
            return None;
        }
        Some(Err(error::of_http2(error).after_send()))
    }
}
