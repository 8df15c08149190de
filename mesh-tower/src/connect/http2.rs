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

mod exchange;

pub(super) use self::exchange::{Download, exchange};
use super::Settings;
use super::dial::Transport;
use super::error;
use bytes::Bytes;
use futures_core::ready;
use h2::client::{Connection, SendRequest};
use h2::{Ping, PingPong};
use mesh_core::{Error, ErrorKind, Swap};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
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
