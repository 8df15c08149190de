//! Listener: accepts connections, with TLS if configured, and says who is at the other end.
//!
//! ```text
//! socket ─ accept ─┬─ plaintext ──────────────────────────► Connection
//!                  └─ TLS handshake, in a task of its own ─► Connection
//! ```
//!
//! The accept loop never ends and never spins: an error that belongs to one connection is
//! skipped; one that belongs to the process (out of file descriptors or memory) pauses
//! accepting for 5 ms, doubling to 500 ms, while open connections go on. Handshakes run beside
//! the loop, at most [`Config::max_handshakes`] at once and for at most
//! [`Config::handshake_timeout`], so a slow client delays nobody.
//!
//! [`Listener`] is an `axum::serve::Listener` (feature `axum`) and, by
//! [`Listener::incoming`], a stream for tonic's `serve_with_incoming` (feature `tonic`). Both
//! hand [`Peer`] to the handlers as connect info.

mod connection;
mod handshake;

pub use connection::{Connection, Peer};

use crate::telemetry::ServerMetrics;
use crate::tls;
use futures_core::Stream;
use handshake::Handshakes;
use parking_lot::Mutex;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, ToSocketAddrs};
use tokio::sync::watch;
use tokio::time::Sleep;

/// The first pause after an error of the whole process, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));

/// Settings of a [`Listener`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Connections the kernel keeps until they are accepted. 1,024.
    pub backlog: u32,
    /// Lets several listeners share the address, the kernel spreading connections over them
    /// (`SO_REUSEPORT`). Off.
    pub reuse_port: bool,
    /// TLS handshakes in flight; while they are, further clients wait in the backlog. 1,024.
    pub max_handshakes: usize,
    /// Longest a TLS handshake may take. 10 s.
    pub handshake_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            backlog: 1024,
            reuse_port: false,
            max_handshakes: 1024,
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

/// Accepts connections. See the [module docs](self).
///
/// ```no_run
/// # async fn run() -> std::io::Result<()> {
/// use mesh_tower::Listener;
///
/// let mut listener = Listener::bind("127.0.0.1:0", None).await?;
/// println!("listening on {}", listener.local_addr());
/// let connection = listener.accept().await;
/// println!("{} is here", connection.peer().address());
/// # Ok(())
/// # }
/// ```
pub struct Listener {
    /// `None` once draining: the closed socket refuses what comes next.
    socket: Option<TcpListener>,
    handshakes: Option<Handshakes>,
    local: SocketAddr,
    drain: Drain,
    draining: Pin<Box<dyn Future<Output = ()> + Send>>,
    pause: Pause,
}

impl Listener {
    /// Listens on an address; port 0 picks a free one, see [`Listener::local_addr`]. With `tls`,
    /// connections are those whose handshake succeeded.
    ///
    /// # Errors
    /// When the address does not resolve or cannot be bound; the message names it.
    pub async fn bind(
        address: impl ToSocketAddrs,
        tls: Option<Arc<tls::Server>>,
    ) -> io::Result<Self> {
        Self::bind_with(address, tls, &Config::default()).await
    }

    /// Listens with settings of one's own.
    ///
    /// # Errors
    /// As [`Listener::bind`].
    pub async fn bind_with(
        address: impl ToSocketAddrs,
        tls: Option<Arc<tls::Server>>,
        config: &Config,
    ) -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in tokio::net::lookup_host(address).await? {
            match open(address, config) {
                Ok(socket) => return Self::from_socket(socket, tls, config),
                Err(error) => {
                    let message = format!("cannot listen on {address}: {error}");
                    last = io::Error::new(error.kind(), message);
                }
            }
        }
        Err(last)
    }

    /// Takes over a listening socket, for instance one that systemd passed.
    ///
    /// # Errors
    /// When the socket does not tell its address.
    pub fn from_socket(
        socket: TcpListener,
        tls: Option<Arc<tls::Server>>,
        config: &Config,
    ) -> io::Result<Self> {
        let drain = Drain(Arc::new(watch::Sender::new(false)));
        Ok(Self {
            local: socket.local_addr()?,
            socket: Some(socket),
            handshakes: tls.map(|tls| Handshakes::new(tls, config)),
            draining: Box::pin(drain.started()),
            drain,
            pause: Pause::default(),
        })
    }

    /// Counts the TLS handshakes of its connections by result.
    #[must_use]
    pub fn counted(mut self, metrics: Arc<ServerMetrics>) -> Self {
        if let Some(handshakes) = &mut self.handshakes {
            handshakes.count(metrics);
        }
        self
    }

    /// The address it listens on, with the port that `:0` picked.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The handle by which accepting is stopped.
    #[must_use]
    pub fn drain(&self) -> Drain {
        self.drain.clone()
    }

    /// The next connection. Pending for ever once draining has started.
    pub async fn accept(&mut self) -> Connection {
        match poll_fn(|cx| self.poll_accept(cx)).await {
            Some(connection) => connection,
            None => std::future::pending().await,
        }
    }

    /// The next connection; `None` once draining has started and no handshake is left.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<Connection>> {
        if self.socket.is_some() && self.draining.as_mut().poll(cx).is_ready() {
            self.socket = None;
        }
        loop {
            if let Some(handshakes) = &mut self.handshakes {
                match handshakes.poll_next(cx) {
                    Poll::Ready(Some(connection)) => return Poll::Ready(Some(connection)),
                    Poll::Pending if self.socket.is_none() || handshakes.are_full() => {
                        return Poll::Pending;
                    }
                    Poll::Ready(None) | Poll::Pending => {}
                }
            }
            let Some(socket) = &self.socket else { return Poll::Ready(None) };
            std::task::ready!(self.pause.poll(cx));
            match std::task::ready!(socket.poll_accept(cx)) {
                Ok((stream, address)) => {
                    self.pause.end();
                    // Fails only on a socket that is closed already; reading will tell.
                    let _ = stream.set_nodelay(true);
                    match &mut self.handshakes {
                        Some(handshakes) => handshakes.start(stream, address),
                        None => return Poll::Ready(Some(Connection::plain(stream, address))),
                    }
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => self.pause.begin(&error),
            }
        }
    }
}

impl Listener {
    /// The connections as a stream, which ends once draining has started: what tonic's
    /// `serve_with_incoming` takes.
    #[must_use]
    pub fn incoming(self) -> Incoming {
        Incoming(self)
    }
}

/// The stream of [`Listener::incoming`].
#[derive(Debug)]
pub struct Incoming(Listener);

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    /// Never an error: those that accepting meets are dealt with inside.
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_accept(cx).map(|connection| connection.map(Ok))
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("local", &self.local)
            .field("draining", &self.socket.is_none())
            .finish_non_exhaustive()
    }
}

fn open(address: SocketAddr, config: &Config) -> io::Result<TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};

    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // A restart must not wait for the connections of its predecessor to time out.
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    if config.reuse_port {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(config.backlog).unwrap_or(i32::MAX))?;
    TcpListener::from_std(socket.into())
}

/// Whether the client gave up before it was accepted: says nothing about the next one.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        error.kind(),
        K::ConnectionRefused | K::ConnectionAborted | K::ConnectionReset | K::Interrupted
    )
}

/// The pause after an error of the whole process: doubles while errors follow each other.
#[derive(Default)]
struct Pause {
    sleep: Option<Pin<Box<Sleep>>>,
    length: Option<Duration>,
}

impl Pause {
    fn begin(&mut self, error: &io::Error) {
        let length = match self.length {
            None => {
                tracing::warn!(%error, "accepting paused; open connections go on");
                PAUSE.0
            }
            Some(length) => (length * 2).min(PAUSE.1),
        };
        self.length = Some(length);
        self.sleep = Some(Box::pin(tokio::time::sleep(length)));
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(sleep) = &mut self.sleep {
            std::task::ready!(sleep.as_mut().poll(cx));
            self.sleep = None;
        }
        Poll::Ready(())
    }

    fn end(&mut self) {
        if self.length.take().is_some() {
            tracing::info!("accepting again");
        }
    }
}

/// Stops a [`Listener`]: the socket closes, open connections are left to the server.
///
/// ```no_run
/// # #[cfg(feature = "axum")]
/// # async fn run(app: axum::Router) -> std::io::Result<()> {
/// use mesh_tower::Listener;
///
/// let listener = Listener::bind("127.0.0.1:0", None).await?;
/// let drain = listener.drain();
/// let stopped = drain.started();
/// let server = axum::serve(listener, app).with_graceful_shutdown(stopped);
/// // Elsewhere, on SIGTERM:
/// drain.start();
/// server.await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Drain(Arc<watch::Sender<bool>>);

/// The handles of the listeners of one mesh.
#[derive(Debug, Default)]
pub(crate) struct Drains(Mutex<Vec<Drain>>);

impl Drains {
    /// Adds one; those that only this knows are forgotten.
    pub(crate) fn add(&self, drain: Drain) {
        let mut all = self.0.lock();
        all.retain(|known| Arc::strong_count(&known.0) > 1);
        all.push(drain);
    }

    /// Whether one of them has begun to drain.
    pub(crate) fn any_started(&self) -> bool {
        self.0.lock().iter().any(Drain::is_started)
    }
}

impl Drain {
    /// Stops accepting. Again is no error.
    pub fn start(&self) {
        self.0.send_replace(true);
    }

    /// Whether accepting has been stopped.
    #[must_use]
    pub fn is_started(&self) -> bool {
        *self.0.borrow()
    }

    /// Resolves when accepting is stopped: what `with_graceful_shutdown` and
    /// `serve_with_incoming_shutdown` wait for. Pending for ever if all handles are dropped.
    pub fn started(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut started = self.0.subscribe();
        async move {
            if started.wait_for(|started| *started).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}
