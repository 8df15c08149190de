//! The server: a store, the registry over it, and the API in front, as one thing to start and end.
//!
//! Draining lets blocked queries answer with what there is, finishes what runs, takes nothing new,
//! and ends with the store closed. Every write that was acknowledged is durable before that.

mod own_node;

use std::fs::DirBuilder;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;
use tower::util::MapRequest;

use crate::agent::AgentError;
use crate::api::{self, Access, Api, Control};
use crate::dns::{Dns, Sockets};
use crate::registry::Registry;
use crate::store::{Embedded, Opened, StoreError};
use crate::types::Token;

/// Connections served at once; more wait to be accepted. A blocked HTTP/1 query takes one.
const CONNECTIONS: usize = 16_384;
/// Streams of one HTTP/2 connection.
const STREAMS: u32 = 1_024;
/// Longest head of a request, and longest time for it, as for the first request of a connection.
const HEAD: (usize, Duration) = (64 * 1024, Duration::from_secs(10));
/// Time between two PINGs on an HTTP/2 connection: who is gone gives its place back.
const PING: Duration = Duration::from_secs(30);
/// The store's file in the data directory.
const STORE_FILE: &str = "store.redb";

/// What a server is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// Where the API listens. 127.0.0.1:8500; port 0 takes one that is free.
    pub http: SocketAddr,
    /// Where the catalog is told by DNS, by UDP and TCP, to whoever asks: there are no tokens in
    /// DNS. 127.0.0.1:8600; `None` leaves it out.
    pub dns: Option<SocketAddr>,
    /// Where the store is kept; `None` keeps it in memory, for development.
    pub data_dir: Option<PathBuf>,
    /// The datacenter that the server is of. `dc1`.
    pub datacenter: String,
    /// The name of its node. The machine's.
    pub node_name: String,
    /// The address of its node, as others reach it. That of [`http`](Self::http), or 127.0.0.1
    /// where that is every address.
    pub advertise: Option<IpAddr>,
    /// Tokens that may do everything; without any token, everyone may, who reaches the API.
    pub management_tokens: Vec<Token>,
    /// Tokens that may read.
    pub read_tokens: Vec<Token>,
    /// Further names under which clients reach the API.
    pub host_names: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            http: SocketAddr::from((Ipv4Addr::LOCALHOST, 8500)),
            dns: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 8600))),
            data_dir: None,
            management_tokens: Vec::new(),
            read_tokens: Vec::new(),
            host_names: Vec::new(),
            datacenter: "dc1".to_owned(),
            node_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            advertise: None,
        }
    }
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The data directory cannot be used.
    #[error("the data directory {}: {error}", path.display())]
    DataDir {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The node cannot be what it is said to be.
    #[error("the catalog does not take this server's node: {0}")]
    Node(String),
    /// The agent does not start.
    #[error("the agent does not start: {0}")]
    Agent(#[from] AgentError),
    /// Everyone on the network could do everything.
    #[error(
        "the API is not served on {0} without a token, because whoever reaches it could change \
         everything: set a management token, or listen on 127.0.0.1"
    )]
    Exposed(SocketAddr),
    /// The store does not open.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The address cannot be listened on.
    #[error(
        "the API cannot listen on {address}: {error}; another server may be there: give another \
         address, or port 0 for any that is free"
    )]
    Listen {
        /// Which one.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// The address cannot be listened on by DNS.
    #[error(
        "DNS cannot listen on {address}: {error}; another server may be there: give another \
         address, port 0 for any that is free, or leave DNS out"
    )]
    ListenDns {
        /// Which one.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
}

/// A server that runs.
#[derive(Debug)]
pub struct Server {
    http: SocketAddr,
    dns: Option<SocketAddr>,
    data: Option<PathBuf>,
    registry: Registry,
    control: Control,
    drain: watch::Sender<bool>,
    serves: JoinHandle<()>,
    /// Ends sessions, and keeps the server in its catalog.
    tends: JoinHandle<()>,
}

impl Server {
    /// Opens the store, and serves. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// See [`StartError`]; nothing runs then.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let mut access = Access::default();
        settings.management_tokens.iter().for_each(|token| access.allow_management(token.reveal()));
        settings.read_tokens.iter().for_each(|token| access.allow_reading(token.reveal()));
        settings.host_names.iter().for_each(|name| access.allow_host(name));
        access.allow_host(&settings.node_name);
        if !settings.http.ip().is_loopback() && !access.is_closed() {
            return Err(StartError::Exposed(settings.http));
        }
        // Before the store: a second server on the same port must not wait for its file.
        let listener = listen(settings.http).await?;
        let sockets = listen_dns(settings.dns).await?;
        let (opened, data) = match &settings.data_dir {
            Some(folder) => {
                let path = prepare(folder)?.join(STORE_FILE);
                (open(path.clone()).await?, Some(path))
            }
            None => (Embedded::in_memory()?, None),
        };
        let registry = Registry::start(opened)?;
        let (http, listener) = listener;
        let node = own_node::describe(&settings, http.ip())?;
        own_node::enter(&registry, &node).await?;
        let agent = own_node::start_agent(&settings, &registry, node.clone()).await?;
        let control = Control::default();
        let answers = Dns::new(registry.clone(), &settings.datacenter);
        let mut api = Api::new(registry.clone(), settings.datacenter);
        api.node_name = settings.node_name.clone();
        api.address = http.to_string();
        api.access = access;
        api.agent = Some(agent);
        api.control = control.clone();
        api.pretty = data.is_none();
        let (drain, drained) = watch::channel(false);
        let expires = registry.clone().expire_sessions(settings.node_name);
        let stays = own_node::stay(registry.clone(), node);
        let tends = tokio::spawn(async move {
            tokio::join!(expires, stays);
        });
        let dns = sockets.as_ref().map(Sockets::address);
        let router = api::router(Arc::new(api));
        let serves = tokio::spawn(async move {
            let told = async {
                if let Some(sockets) = sockets {
                    sockets.serve(answers, drained.clone()).await;
                }
            };
            tokio::join!(serve(listener, router, drained.clone()), told);
        });
        Ok(Self { http, dns, data, registry, control, drain, serves, tends })
    }

    /// Where the API listens.
    #[must_use]
    pub const fn http(&self) -> SocketAddr {
        self.http
    }

    /// Where the catalog is told by DNS; `None` where it is not.
    #[must_use]
    pub const fn dns(&self) -> Option<SocketAddr> {
        self.dns
    }

    /// The store's file; `None` in memory.
    #[must_use]
    pub fn data(&self) -> Option<&Path> {
        self.data.as_deref()
    }

    /// What the API serves from.
    #[must_use]
    pub const fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Done when somebody has asked it to leave, by the API.
    pub async fn left(&self) {
        self.control.left().await;
    }

    /// Drains, and closes the store; whether everything that ran was finished within `limit`.
    pub async fn drain(self, limit: Duration) -> bool {
        self.drain.send_replace(true);
        self.registry.drain();
        let serves = self.serves.abort_handle();
        let ended = tokio::time::timeout(limit, self.serves).await.is_ok();
        serves.abort();
        self.tends.abort();
        if let Err(error) = self.registry.close().await {
            tracing::warn!(%error, "the store does not close");
        }
        ended
    }
}

async fn listen(address: SocketAddr) -> Result<(SocketAddr, TcpListener), StartError> {
    let listen = async {
        let listener = TcpListener::bind(address).await?;
        Ok((listener.local_addr()?, listener))
    };
    listen.await.map_err(|error| StartError::Listen { address, error })
}

async fn listen_dns(address: Option<SocketAddr>) -> Result<Option<Sockets>, StartError> {
    let Some(address) = address else { return Ok(None) };
    let sockets = Sockets::bind(address).await;
    sockets.map(Some).map_err(|error| StartError::ListenDns { address, error })
}

/// Makes the folder, for our own user alone.
fn prepare(folder: &Path) -> Result<&Path, StartError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| StartError::DataDir { path: folder.to_owned(), error })?;
    Ok(folder)
}

/// Opens the file, which reads all of it.
async fn open(path: PathBuf) -> Result<Opened, StoreError> {
    let opened = tokio::task::spawn_blocking(|| Embedded::open(path)).await;
    opened.map_err(|error| StoreError::Open(error.to_string()))?
}

/// Accepts until draining begins, and returns when every connection has ended.
async fn serve(listener: TcpListener, router: Router, mut drained: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let connections = GracefulShutdown::new();
    let drain = drained.wait_for(|drained| *drained);
    tokio::pin!(drain);
    loop {
        tokio::select! {
            _ = &mut drain => break,
            (stream, place) = accept(&listener, &places) => {
                spawn(stream, place, &router, &connections);
            }
        }
    }
    drop(listener);
    connections.shutdown().await;
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> (TcpStream, Option<OwnedSemaphorePermit>) {
    let place = Arc::clone(places).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            Err(error) => {
                // Out of file descriptors, mostly: they come back as others end.
                tracing::warn!(%error, "the API cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn spawn(
    stream: TcpStream,
    place: Option<OwnedSemaphorePermit>,
    router: &Router,
    connections: &GracefulShutdown,
) {
    // Answers are small and each is waited for.
    let _ = stream.set_nodelay(true);
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).max_buf_size(HEAD.0).header_read_timeout(HEAD.1);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .keep_alive_interval(PING);
    let asked = Arc::new(Notify::new());
    let heard = Arc::clone(&asked);
    let service = MapRequest::new(router.clone(), move |request: Request<Incoming>| {
        heard.notify_one();
        request
    });
    let connection = builder
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        .into_owned();
    let connection = connections.watch(connection);
    // The limit of HTTP/1's head counts only once the first bytes have told that it is HTTP/1.
    let is_silent = async move {
        if tokio::time::timeout(HEAD.1, asked.notified()).await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    tokio::spawn(async move {
        tokio::select! {
            ended = connection => if let Err(error) = ended {
                tracing::debug!(%error, "a connection of the API ended early");
            },
            () = is_silent => tracing::debug!("a connection of the API sent no request in time"),
        }
        drop(place);
    });
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::registry::View;
    use crate::registry::catalog::{Deregistration, Instances, deregister};
    use crate::types::CheckStatus;

    fn settings(data_dir: Option<PathBuf>) -> Settings {
        let http = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Settings { http, dns: Some(http), data_dir, ..Settings::default() }
    }

    async fn ask(server: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(server).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    const PUT: &str = "PUT /v1/kv/a HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx";

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_written_is_there_after_a_restart_and_for_our_user_alone() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("made").join("data");
        let server = Server::start(settings(Some(data.clone()))).await.unwrap();
        assert!(ask(server.http(), PUT).await.ends_with("true"));
        assert!(server.drain(Duration::from_secs(10)).await);

        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&data), mode(&data.join(STORE_FILE))), (0o700, 0o600));
        let server = Server::start(settings(Some(data))).await.unwrap();
        server.registry().read(|view| {
            assert_eq!(view.kv().get("a").value.map(|entry| &entry.value[..]), Some(&b"x"[..]));
        });
        server.drain(Duration::from_secs(10)).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn draining_answers_blocked_queries() {
        let server = Server::start(settings(None)).await.unwrap();
        ask(server.http(), PUT).await;
        let mut stream = TcpStream::connect(server.http()).await.unwrap();
        let index = server.registry().read(|view| view.kv().get("a").index);
        let blocks = format!("GET /v1/kv/a?index={index} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        stream.write_all(blocks.as_bytes()).await.unwrap();
        // Blocked for sure once it waits beside the task that ends sessions.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while server.registry().waiting() < 2 {
            assert!(tokio::time::Instant::now() < deadline, "it never blocked");
            tokio::task::yield_now().await;
        }
        assert!(server.drain(Duration::from_secs(10)).await);
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_server_is_in_its_catalog_and_stays_the_same_node() {
        let folder = tempfile::tempdir().unwrap();
        let node = |server: &Server| {
            server.registry().read(|view| {
                let found = view.catalog().instances("consul", Instances::Named).value;
                assert_eq!(found.len(), 1);
                (found[0].node.id.clone(), found[0].status())
            })
        };
        let server = Server::start(settings(Some(folder.path().to_owned()))).await.unwrap();
        let before = node(&server);
        assert_eq!(before.1, CheckStatus::Passing);
        server.drain(Duration::from_secs(10)).await;
        let server = Server::start(settings(Some(folder.path().to_owned()))).await.unwrap();
        assert_eq!(node(&server), before);
        server.drain(Duration::from_secs(10)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_nothing_gives_its_place_back() {
        let server = Server::start(settings(None)).await.unwrap();
        for said in ["", "P", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
            let mut stream = TcpStream::connect(server.http()).await.unwrap();
            stream.write_all(said.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            let ended = tokio::time::timeout(2 * HEAD.1, stream.read_to_end(&mut answer)).await;
            assert!(ended.is_ok(), "{said:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_was_taken_out_of_its_catalog_comes_back() {
        let server = Server::start(settings(None)).await.unwrap();
        let gone = Deregistration { node: Settings::default().node_name, ..Default::default() };
        server.registry().write(|view| deregister(view, &gone)).await.unwrap();
        let is_there = || {
            let read = |view: &View| view.catalog().instances("consul", Instances::Named).value;
            !server.registry().read(read).is_empty()
        };
        assert!(!is_there());
        while !is_there() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn whoever_asks_it_to_leave_is_heard() {
        let server = Server::start(settings(None)).await.unwrap();
        let leave = "PUT /v1/agent/leave HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        assert!(ask(server.http(), leave).await.starts_with("HTTP/1.1 200 OK"));
        tokio::time::timeout(Duration::from_secs(10), server.left()).await.unwrap();
        assert!(server.drain(Duration::from_secs(10)).await);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn two_servers_share_neither_port_nor_file() {
        let folder = tempfile::tempdir().unwrap();
        let first = Server::start(settings(Some(folder.path().to_owned()))).await.unwrap();
        let second = Settings { http: first.http(), ..settings(None) };
        let error = Server::start(second).await.unwrap_err().to_string();
        assert!(error.contains("another server may be there"), "{error}");
        let second = Settings { dns: first.dns(), ..settings(None) };
        let error = Server::start(second).await.unwrap_err().to_string();
        assert!(error.contains("DNS cannot listen"), "{error}");
        let error = Server::start(settings(Some(folder.path().to_owned()))).await.unwrap_err();
        assert!(error.to_string().contains("stop that one"), "{error}");
        first.drain(Duration::from_secs(10)).await;
    }
}
