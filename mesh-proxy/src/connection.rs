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

mod driven;

use self::driven::Driven;
use crate::counters::Reject;
use crate::detect::{Speaks, Takes, detect};
use crate::drain::Draining;
use crate::gate::{Gate, Watch};
use crate::hello::{self, Hello};
use crate::http::{Common, Handler, Stack};
use crate::hygiene::Edge;
use crate::inbound::Inbound;
use crate::tunnel;
use ::http::{Request, Response};
use bytes::{Bytes, BytesMut};
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mesh_core::{Error, ErrorKind};
use mesh_tower::listen::Peer;
use mesh_tower::{Body, BoxError};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tower_service::Service;

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

    /// Picks an endpoint of whom a TLS client asks for, and connects.
    fn dial_tls(&self, name: &str) -> impl Future<Output = Result<Self::Stream, Error>> + Send;

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
            Takes::Tls => return Box::pin(self.passed_on(io, &peer)).await,
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

    /// TLS, which is not ended here: the name that the client asks for says where it goes.
    async fn passed_on<IO>(self, mut io: IO, peer: &Peer)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Ok(hello) = timeout(self.limits.first_byte, hello::read(&mut io)).await else {
            self.common.counters.reject(Reject::Slow);
            return;
        };
        let Some(Hello { name, ahead }) = hello else {
            self.common.counters.reject(Reject::Syntax);
            return;
        };
        let dialled = match &name {
            Some(name) => self.tcp.dial_tls(name).await,
            None => Err(Error::new(ErrorKind::NoRoute, "the client asks for no name")),
        };
        match dialled {
            Ok(mut endpoint) => {
                let watch = Arc::new(Watch::new(self.limits.idle));
                let mut io = Gate::open(io, ahead, Arc::clone(&watch));
                tunnel::watched(&mut io, &mut endpoint, &watch, &self.common.counters).await;
            }
            Err(error) => {
                tracing::debug!(%error, client = %peer.address(), "no endpoint for a connection");
                if error.kind() == ErrorKind::NoRoute {
                    // The client may be gone; there is nobody else to tell.
                    let _ = io.write_all(hello::UNRECOGNIZED_NAME).await;
                }
                let _ = io.shutdown().await;
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
        let handler = Handler::new(self.stack, edge, peer.clone(), seen, self.common, self.inbound);
        let mut builder = http1::Builder::new();
        builder.max_header_size(limits.head).max_buf_size(limits.buffer);
        let connection = builder.serve_connection(TokioIo::new(gate), handler).with_upgrades();
        let driven =
            Box::pin(Driven::new(connection, limits.idle, Arc::clone(&watch), self.draining));
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
        let handler = Handler::new(self.stack, edge, peer.clone(), seen, self.common, self.inbound);
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
        let seen = Arc::clone(&watch);
        let driven = Box::pin(Driven::new(connection, limits.idle, watch, self.draining));
        match driven.await {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                if error.is_parse() {
                    common.counters.reject(Reject::Syntax);
                }
                tracing::debug!(%error, client = %peer.address(), "connection ended early");
            }
            None if seen.is_flooded() => common.counters.reject(Reject::Resets),
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
        // What has begun as HTTP is not passed on as bytes because it pauses.
        Err(_elapsed) if takes == Takes::Either && ahead.is_empty() => {
            Some((Speaks::Bytes, ahead.freeze()))
        }
        Err(_elapsed) => {
            common.counters.reject(Reject::Slow);
            None
        }
    }
}

#[cfg(test)]
mod tests;
