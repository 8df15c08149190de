//! Endpoints that do as they are told, on real loopback sockets.
//!
//! A [`ScriptedEndpoint`] is a hyper server on a port of its own. Its [`Reply`] may change at any
//! time, also per request ([`ScriptedEndpoint::plan`]); it records what arrived, can be killed
//! like a process (every connection reset, the port refusing) and started again on the same
//! port. A [`BlackHole`] is an address whose SYNs nobody answers.
//!
//! ```
//! use testkit::endpoint::{Reply, ScriptedEndpoint};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let endpoint = ScriptedEndpoint::http1(Reply::status(503)).await;
//! let socket = tokio::net::TcpStream::connect(endpoint.address()).await.unwrap();
//! endpoint.set(Reply::status(200).body(1024));
//! # drop(socket);
//! # }
//! ```

mod reply;
mod restart;
mod slots;
mod socket;

pub use reply::{Broken, Reply, ReplyBody};
pub use restart::rolling_restart;
pub use slots::Slots;
pub use socket::BlackHole;
pub(crate) use socket::Resettable;

use http::{Method, Request, Response, Uri, Version, request};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket::Held;
use std::fmt;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// One request as it reached the endpoint.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Arrival {
    /// The value of `x-request-id`, by which tests tell lost, doubled and failed calls apart.
    pub id: Option<String>,
    /// Its method.
    pub method: Method,
    /// Its target as sent.
    pub uri: Uri,
    /// Its fields.
    pub headers: http::HeaderMap,
    /// HTTP version of the connection.
    pub version: Version,
    /// The connection it came on, counted from 1.
    pub connection: u64,
}

/// What an endpoint does on its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

/// A server with a script. Dropping it closes its connections and its port.
pub struct ScriptedEndpoint {
    address: SocketAddr,
    shared: Arc<Shared>,
    running: Running,
}

enum Running {
    Up {
        control: watch::Sender<Order>,
        task: JoinHandle<()>,
    },
    /// The port is ours still, and refuses.
    Down(Held),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Serve,
    /// Finish what runs, then close: GOAWAY, or `Connection: close`.
    Drain,
    /// Reset everything.
    Kill,
}

type Plan = Arc<dyn Fn(u64, &request::Parts) -> Reply + Send + Sync>;

struct Shared {
    protocol: Protocol,
    tls: Option<TlsAcceptor>,
    plan: Mutex<Plan>,
    calls: AtomicU64,
    connections: AtomicU64,
    open: AtomicUsize,
    in_flight: AtomicUsize,
    body_bytes: AtomicU64,
    arrivals: Mutex<Vec<Arrival>>,
}

impl ScriptedEndpoint {
    /// An HTTP/1.1 server on a free loopback port.
    pub async fn http1(reply: Reply) -> Self {
        Self::start(Protocol::Http1, None, reply).await
    }

    /// An HTTP/2 server with prior knowledge on a free loopback port.
    pub async fn http2(reply: Reply) -> Self {
        Self::start(Protocol::Http2, None, reply).await
    }

    /// An HTTP/1.1 server behind TLS; see [`crate::net::Authority`] for certificates.
    pub async fn https1(tls: rustls::ServerConfig, reply: Reply) -> Self {
        Self::start(Protocol::Http1, Some(tls), reply).await
    }

    /// An HTTP/2 server behind TLS; the caller sets ALPN.
    pub async fn https2(tls: rustls::ServerConfig, reply: Reply) -> Self {
        Self::start(Protocol::Http2, Some(tls), reply).await
    }

    async fn start(protocol: Protocol, tls: Option<rustls::ServerConfig>, reply: Reply) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            protocol,
            tls: tls.map(|config| TlsAcceptor::from(Arc::new(config))),
            plan: Mutex::new(Arc::new(move |_, _| reply.clone())),
            calls: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            body_bytes: AtomicU64::new(0),
            arrivals: Mutex::default(),
        });
        let running = Running::up(Arc::clone(&shared), listener);
        Self { address, shared, running }
    }

    /// Where it listens; stays the same over [`kill`](Self::kill) and
    /// [`restart`](Self::restart).
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What requests get from now on.
    pub fn set(&self, reply: Reply) {
        self.plan(move |_, _| reply.clone());
    }

    /// Decides per request; the number counts requests from 1 since the start.
    pub fn plan(&self, plan: impl Fn(u64, &request::Parts) -> Reply + Send + Sync + 'static) {
        *lock(&self.shared.plan) = Arc::new(plan);
    }

    /// Request heads that arrived.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.shared.calls.load(Ordering::SeqCst)
    }

    /// Connections accepted since the start.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Connections open now.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Requests whose answer's head is not out yet: 0 again once a hanging one is cancelled.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::SeqCst)
    }

    /// Bytes of request bodies read.
    #[must_use]
    pub fn body_bytes(&self) -> u64 {
        self.shared.body_bytes.load(Ordering::SeqCst)
    }

    /// Everything that arrived, in order.
    #[must_use]
    pub fn arrivals(&self) -> Vec<Arrival> {
        lock(&self.shared.arrivals).clone()
    }

    /// Forgets what arrived; a test with very many calls would keep them all in memory.
    pub fn forget(&self) {
        lock(&self.shared.arrivals).clear();
    }

    /// Ends like a killed process: connections are reset, the port refuses.
    ///
    /// The port stays taken, so no other test gets it before [`restart`](Self::restart).
    pub async fn kill(&mut self) {
        self.end(Order::Kill).await;
    }

    /// Ends like a process that is asked to: takes nothing new, tells callers so on each connection
    /// (GOAWAY, or `Connection: close`), finishes what runs, and then the port refuses.
    ///
    /// The port stays taken, as with [`kill`](Self::kill). A [`drain`](Self::drain) is the same
    /// without the wait.
    pub async fn stop(&mut self) {
        self.end(Order::Drain).await;
    }

    async fn end(&mut self, order: Order) {
        if let Running::Up { control, task } = &mut self.running {
            control.send_replace(order);
            task.await.expect("the endpoint's accept loop does not panic");
            self.running = Running::Down(Held::new(self.address));
        }
    }

    /// Listens on the same port again.
    pub fn restart(&mut self) {
        if let Running::Down(held) = &mut self.running {
            let listener = held.listen();
            self.running = Running::up(Arc::clone(&self.shared), listener);
        }
    }

    /// Takes nothing new, tells callers so on each connection, and finishes what runs.
    pub fn drain(&self) {
        if let Running::Up { control, .. } = &self.running {
            control.send_replace(Order::Drain);
        }
    }
}

impl fmt::Debug for ScriptedEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedEndpoint")
            .field("address", &self.address)
            .field("protocol", &self.shared.protocol)
            .field("calls", &self.calls())
            .finish_non_exhaustive()
    }
}

impl Drop for ScriptedEndpoint {
    fn drop(&mut self) {
        if let Running::Up { task, .. } = &self.running {
            task.abort();
        }
    }
}

impl Running {
    fn up(shared: Arc<Shared>, listener: TcpListener) -> Self {
        let (control, orders) = watch::channel(Order::Serve);
        Self::Up { control, task: tokio::spawn(accept(shared, listener, orders)) }
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener, mut orders: watch::Receiver<Order>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                connections.spawn(connection(Arc::clone(&shared), stream, orders.clone()));
            }
            Some(_) = connections.join_next() => {}
            changed = orders.changed() => {
                if changed.is_err() || *orders.borrow() != Order::Serve {
                    break;
                }
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn connection(shared: Arc<Shared>, stream: TcpStream, orders: watch::Receiver<Order>) {
    let number = shared.connections.fetch_add(1, Ordering::SeqCst) + 1;
    let _open = Counted::new(&shared, |shared| &shared.open);
    let reset = Arc::new(AtomicBool::new(false));
    let stream = Resettable::new(stream, Arc::clone(&reset));
    match &shared.tls {
        None => serve(&shared, stream, number, reset, orders).await,
        Some(tls) => {
            if let Ok(stream) = tls.accept(stream).await {
                serve(&shared, stream, number, reset, orders).await;
            }
        }
    }
}

async fn serve(
    shared: &Arc<Shared>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    number: u64,
    reset: Arc<AtomicBool>,
    mut orders: watch::Receiver<Order>,
) {
    let service = {
        let (shared, reset) = (Arc::clone(shared), Arc::clone(&reset));
        service_fn(move |request| respond(Arc::clone(&shared), request, number, reset.clone()))
    };
    // Both kinds of connection have the same methods, but share no trait.
    macro_rules! drive {
        ($connection:expr) => {{
            let mut connection = pin!($connection);
            loop {
                tokio::select! {
                    // A broken connection is the caller's story.
                    _ = connection.as_mut() => return,
                    changed = orders.changed() => {
                        let order = if changed.is_ok() { *orders.borrow() } else { Order::Kill };
                        match order {
                            Order::Serve => {}
                            Order::Drain => connection.as_mut().graceful_shutdown(),
                            Order::Kill => return reset.store(true, Ordering::SeqCst),
                        }
                    }
                }
            }
        }};
    }
    let io = TokioIo::new(stream);
    match shared.protocol {
        Protocol::Http1 => drive!(
            hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(io, service)
        ),
        Protocol::Http2 => drive!(
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .serve_connection(io, service)
        ),
    }
}

async fn respond(
    shared: Arc<Shared>,
    request: Request<Incoming>,
    connection: u64,
    reset: Arc<AtomicBool>,
) -> Result<Response<ReplyBody>, Broken> {
    let _in_flight = Counted::new(&shared, |shared| &shared.in_flight);
    let (head, mut body) = request.into_parts();
    let number = shared.calls.fetch_add(1, Ordering::SeqCst) + 1;
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    lock(&shared.arrivals).push(Arrival {
        id: head.headers.get("x-request-id").map(text),
        method: head.method.clone(),
        uri: head.uri.clone(),
        headers: head.headers.clone(),
        version: head.version,
        connection,
    });
    let plan = Arc::clone(&lock(&shared.plan));
    let reply = plan(number, &head);
    if reply.reads_body() {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(Broken::new)?;
            let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
            shared.body_bytes.fetch_add(bytes, Ordering::SeqCst);
        }
    }
    reply.answer(&reset).await
}

/// Adds one to a counter while it lives.
struct Counted {
    shared: Arc<Shared>,
    counter: fn(&Shared) -> &AtomicUsize,
}

impl Counted {
    fn new(shared: &Arc<Shared>, counter: fn(&Shared) -> &AtomicUsize) -> Self {
        counter(shared).fetch_add(1, Ordering::SeqCst);
        Self { shared: Arc::clone(shared), counter }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.counter)(&self.shared).fetch_sub(1, Ordering::SeqCst);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
