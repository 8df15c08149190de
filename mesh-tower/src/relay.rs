//! Relay: a byte stream to one endpoint of a destination, for what is not HTTP.
//!
//! The destination is that of its `TCPRoute`, drawn by weight, else itself; of TLS that is not ended
//! here, that of the `TLSRoute` for the name that the client asks for. The endpoint is picked
//! like that of a call, and the stream counts as load at it while it lives. An endpoint that cannot
//! be connected to is out at once, and another one is tried: no byte has been sent, so that is
//! always safe.
//!
//! Of the policy that holds for the route, `retry.attempts` says how many more endpoints are tried,
//! and `timeouts.request` how long it may take until one is connected to.

use crate::clock;
use crate::connect::Transport;
use crate::destination::{Destination, Endpoint, Unpicked};
use crate::mesh::{Mesh, RoutedConnection};
use mesh_core::pick::{Labels, PickArgs};
use mesh_core::{DestinationName, Error, ErrorKind, Failure};
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

/// A byte stream to an endpoint.
pub struct Relay {
    transport: Transport,
    endpoint: Arc<Endpoint>,
}

impl Mesh {
    /// Opens a byte stream to an endpoint of a destination, or of those that its `TCPRoute` names.
    ///
    /// ```no_run
    /// # async fn example(mesh: mesh_tower::Mesh) -> Result<(), Box<dyn std::error::Error>> {
    /// use tokio::io::AsyncWriteExt;
    ///
    /// let mut cache = mesh.relay("cache").await?;
    /// cache.write_all(b"PING\r\n").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When no endpoint can be picked, none of those picked can be connected to, or it takes too
    /// long.
    pub async fn relay(&self, name: &str) -> Result<Relay, Error> {
        self.open(self.route_connection(name)?).await
    }

    /// Opens a byte stream for a client that asks for `sni` and does TLS with the endpoint itself: by
    /// the `TLSRoute`s attached to `destination`, or by all.
    ///
    /// # Errors
    /// As [`Mesh::relay`]; [`ErrorKind::NoRoute`] when no `TLSRoute` is for the name.
    pub async fn relay_tls(
        &self,
        destination: Option<&DestinationName>,
        sni: &str,
    ) -> Result<Relay, Error> {
        self.open(self.route_tls(destination, sni)?).await
    }

    async fn open(&self, routed: RoutedConnection) -> Result<Relay, Error> {
        let RoutedConnection { destination, policy, subset } = routed;
        let limit = policy.timeouts.request;
        let attempts = policy.retry.attempts.saturating_add(1);
        match timeout(
            limit,
            self.connect(&destination, subset.as_deref().unwrap_or_default(), attempts),
        )
        .await
        {
            Ok(result) => result,
            Err(_elapsed) => {
                let message = format!("not connected within {limit:?} (timeouts.request)");
                Err(Error::new(ErrorKind::Deadline, message)
                    .with_destination(destination.label().clone()))
            }
        }
    }

    async fn connect(
        &self,
        destination: &Arc<Destination>,
        subset: &[Labels],
        attempts: u32,
    ) -> Result<Relay, Error> {
        let mut tried = Vec::new();
        loop {
            let endpoint = pick(destination, subset, &tried).await?;
            endpoint.connections.attempted();
            let connections = endpoint.connections.of(self.own_worker()).clone();
            match connections.stream_of_bytes().await {
                Ok(transport) => {
                    endpoint.load().begin();
                    return Ok(Relay { transport, endpoint });
                }
                Err(error) => {
                    let error = error
                        .with_destination(destination.label().clone())
                        .with_endpoint(endpoint.id());
                    if error.failure() == Some(Failure::Connect) {
                        destination.unreachable(&endpoint, &error);
                    }
                    if error.kind() == ErrorKind::Overflow {
                        destination.shared().metrics.shed(ErrorKind::Overflow);
                    }
                    tried.push(endpoint.id().clone());
                    if tried.len() >= attempts as usize {
                        return Err(error);
                    }
                }
            }
        }
    }
}

async fn pick(
    destination: &Destination,
    subset: &[Labels],
    tried: &[mesh_core::EndpointId],
) -> Result<Arc<Endpoint>, Error> {
    loop {
        let args = PickArgs::new(clock::now()).with_avoid(tried).with_subset(subset);
        match destination.pick(&args, &mut || fastrand::u64(..)) {
            Ok((endpoint, _)) => return Ok(endpoint),
            Err(Unpicked::Final(error)) => return Err(error),
            Err(Unpicked::Unresolved) => destination.resolved().await,
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.endpoint.load().end();
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").field("endpoint", self.endpoint.id()).finish_non_exhaustive()
    }
}

impl AsyncRead for Relay {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Relay {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }
}
