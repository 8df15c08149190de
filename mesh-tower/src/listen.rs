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

use futures_core::Stream;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
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

/// Who is at the other end of a connection. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer(Arc<PeerFacts>);

#[derive(Debug, PartialEq, Eq)]
struct PeerFacts {
    address: SocketAddr,
    identity: Option<Box<str>>,
}

impl Peer {
    /// A peer known by its address only.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self(Arc::new(PeerFacts { address, identity: None }))
    }

    /// The identity that the peer's certificate proved.
    #[must_use]
    pub fn with_identity(self, identity: &str) -> Self {
        Self(Arc::new(PeerFacts { address: self.0.address, identity: Some(identity.into()) }))
    }

    /// The address it connected from.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// The identity its verified certificate proves; `None` without mutual TLS.
    #[must_use]
    pub fn identity(&self) -> Option<&str> {
        self.0.identity.as_deref()
    }
}

/// Accepts connections. See the [module docs](self).
///
/// ```no_run
/// # async fn run() -> std::io::Result<()> {
/// use mesh_tower::Listener;
///
/// let mut listener = Listener::bind("127.0.0.1:0").await?;
/// println!("listening on {}", listener.local_addr());
/// let connection = listener.accept().await;
/// println!("{} is here", connection.peer().address());
/// # Ok(())
/// # }
/// ```
pub struct Listener {
    /// `None` once draining: the closed socket refuses what comes next.
    socket: Option<TcpListener>,
    local: SocketAddr,
    drain: Drain,
    draining: Pin<Box<dyn Future<Output = ()> + Send>>,
    pause: Pause,
}

impl Listener {
    /// Listens on an address; port 0 picks a free one, see [`Listener::local_addr`].
    ///
    /// # Errors
    /// When the address does not resolve or cannot be bound; the message names it.
    pub async fn bind(address: impl ToSocketAddrs + fmt::Debug) -> io::Result<Self> {
        Self::bind_with(address, &Config::default()).await
    }

    /// Listens with settings of one's own.
    ///
    /// # Errors
    /// As [`Listener::bind`].
    pub async fn bind_with(
        address: impl ToSocketAddrs + fmt::Debug,
        config: &Config,
    ) -> io::Result<Self> {
        let name = format!("{address:?}");
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("cannot listen on {name}: {error}"))
        };
        let mut last = None;
        for address in tokio::net::lookup_host(address).await.map_err(named)? {
            match open(address, config) {
                Ok(socket) => return Self::from_socket(socket),
                Err(error) => last = Some(error),
            }
        }
        Err(named(last.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into())))
    }

    /// Takes over a listening socket, for instance one that systemd passed.
    ///
    /// # Errors
    /// When the socket does not tell its address.
    pub fn from_socket(socket: TcpListener) -> io::Result<Self> {
        let local = socket.local_addr()?;
        let drain = Drain(Arc::new(watch::Sender::new(false)));
        let draining = Box::pin(drain.started());
        Ok(Self { socket: Some(socket), local, drain, draining, pause: Pause::default() })
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

    /// The next connection; `None` once draining has started.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<Connection>> {
        let Some(socket) = &self.socket else { return Poll::Ready(None) };
        if self.draining.as_mut().poll(cx).is_ready() {
            self.socket = None;
            return Poll::Ready(None);
        }
        loop {
            std::task::ready!(self.pause.poll(cx));
            match std::task::ready!(socket.poll_accept(cx)) {
                Ok((stream, address)) => {
                    self.pause.end();
                    // Fails only on a socket that is closed already; reading will tell.
                    let _ = stream.set_nodelay(true);
                    return Poll::Ready(Some(Connection::plain(stream, Peer::new(address))));
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
/// let listener = Listener::bind("127.0.0.1:0").await?;
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

/// An accepted connection, and who is at its other end.
pub struct Connection {
    io: Io,
    peer: Peer,
}

enum Io {
    Plain(TcpStream),
}

impl Connection {
    fn plain(stream: TcpStream, peer: Peer) -> Self {
        Self { io: Io::Plain(stream), peer }
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
