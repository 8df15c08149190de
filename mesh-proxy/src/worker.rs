//! Worker: one thread, one runtime, its own listeners and its own connections to endpoints.
//!
//! Nothing that a request touches is shared with another worker, but for endpoint counts and the
//! configuration, which are read without a lock.

use crate::connection::{Limits, Serving};
use crate::detect::Takes;
use crate::drain::Draining;
use crate::http::Common;
use crate::inbound::Inbound;
use crate::listener;
use crate::upstream::Upstream;
use mesh_tower::{Listener, tls};
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Commands that may wait for a worker.
const QUEUE: usize = 64;

/// A socket of a worker, and how its connections are served.
pub(crate) struct Socket {
    pub(crate) listener: TcpListener,
    pub(crate) takes: Takes,
    pub(crate) tls: Option<Arc<tls::Server>>,
    pub(crate) upstream: Upstream,
    /// How calls are received; `None` on an outbound listener.
    pub(crate) inbound: Option<Arc<Inbound>>,
    /// Resolves, or is dropped, when the listener leaves the configuration.
    pub(crate) removed: oneshot::Receiver<()>,
}

/// A running worker.
#[derive(Debug)]
pub(crate) struct Worker {
    sockets: mpsc::Sender<Socket>,
    draining: Draining,
}

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the thread or its runtime cannot be made.
    pub(crate) fn start(index: usize, common: Common, limits: Limits) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (sockets, mut waiting) = mpsc::channel::<Socket>(QUEUE);
        let draining = common.draining.clone();
        let ending = draining.clone();
        let common = Arc::new(common);
        std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            runtime.block_on(async {
                loop {
                    let socket = tokio::select! {
                        socket = waiting.recv() => socket,
                        () = ending.started() => None,
                    };
                    let Some(socket) = socket else { break };
                    serve(socket, &common, limits, &ending);
                }
                ending.over().await;
            });
            // Tasks that are still there have nobody to serve.
            runtime.shutdown_background();
        })?;
        Ok(Self { sockets, draining })
    }

    /// Adds a listener; it accepts from now on.
    ///
    /// # Errors
    /// When the worker has ended.
    pub(crate) async fn listen(&self, socket: Socket) -> io::Result<()> {
        self.sockets
            .send(socket)
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the worker has ended"))
    }

    /// Starts draining.
    pub(crate) fn drain(&self) {
        self.draining.start();
    }

    /// Resolves when all connections have ended after draining was started.
    pub(crate) async fn ended(&self) {
        self.draining.over().await;
    }
}

fn serve(socket: Socket, common: &Arc<Common>, limits: Limits, draining: &Draining) {
    let Socket { listener, takes, tls, upstream, inbound, removed } = socket;
    let encrypted = tls.is_some();
    let config = mesh_tower::listen::Config::default();
    let opened = tokio::net::TcpListener::from_std(listener)
        .and_then(|socket| Listener::from_socket(socket, tls, &config));
    let listener = match opened {
        Ok(listener) => listener.counted(Arc::clone(&common.metrics)),
        Err(error) => {
            tracing::error!(%error, "a listener could not be taken over");
            return;
        }
    };
    let serving = Serving {
        stack: upstream.channel(),
        tcp: upstream,
        takes,
        inbound,
        limits,
        common: Arc::clone(common),
        draining: draining.clone(),
    };
    // Until the listener is closed, draining is not over.
    let open = draining.enter();
    tokio::spawn(async move {
        listener::accept(listener, encrypted, serving, async {
            let _ = removed.await;
        })
        .await;
        drop(open);
    });
}
