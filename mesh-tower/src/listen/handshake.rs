//! TLS handshakes beside the accept loop, so that a slow client delays nobody.
//!
//! Each runs in a task of its own, on whichever worker is free, and ends with the listener. How
//! they end is counted as `mesh.tls.handshakes`.

use super::{Config, Connection};
use crate::telemetry::{Handshake, ServerMetrics};
use crate::tls;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// The handshakes in flight.
pub(super) struct Handshakes {
    tls: Arc<tls::Server>,
    running: JoinSet<Option<Connection>>,
    max: usize,
    timeout: Duration,
    metrics: Option<Arc<ServerMetrics>>,
}

impl Handshakes {
    pub(super) fn new(tls: Arc<tls::Server>, config: &Config) -> Self {
        Self {
            tls,
            running: JoinSet::new(),
            max: config.max_handshakes.max(1),
            timeout: config.handshake_timeout,
            metrics: None,
        }
    }

    /// Counts how they end from here on.
    pub(super) fn count(&mut self, metrics: Arc<ServerMetrics>) {
        self.metrics = Some(metrics);
    }

    pub(super) fn are_full(&self) -> bool {
        self.running.len() >= self.max
    }

    pub(super) fn start(&mut self, stream: TcpStream, address: SocketAddr) {
        let accept = TlsAcceptor::from(self.tls.config()).accept(stream);
        let limit = self.timeout;
        let metrics = self.metrics.clone();
        self.running.spawn(async move {
            let ended = timeout(limit, accept).await;
            if let Some(metrics) = metrics {
                metrics.handshake_ended(match &ended {
                    Ok(Ok(_)) => Handshake::Success,
                    Ok(Err(error)) if is_of_certificate(error) => Handshake::ClientCertificate,
                    Ok(Err(_)) => Handshake::Failure,
                    Err(_elapsed) => Handshake::Timeout,
                });
            }
            let error = match ended {
                Ok(Ok(stream)) => return Some(Connection::tls(stream, address)),
                Ok(Err(error)) => error,
                Err(_elapsed) => io::Error::from(io::ErrorKind::TimedOut),
            };
            // The peer's fault, or a stranger's scan: per connection, so never louder than this.
            tracing::debug!(client.address = %address, %error, "TLS handshake failed");
            None
        });
    }

    /// The next connection whose handshake succeeded; `None` if no handshake is in flight.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Connection>> {
        loop {
            match std::task::ready!(self.running.poll_join_next(cx)) {
                Some(Ok(Some(connection))) => return Poll::Ready(Some(connection)),
                Some(Ok(None) | Err(_)) => {}
                None => return Poll::Ready(None),
            }
        }
    }
}

/// Whether a handshake failed for the certificate that the caller showed, or did not.
fn is_of_certificate(error: &io::Error) -> bool {
    use rustls::Error as E;
    let error = error.get_ref().and_then(|error| error.downcast_ref());
    matches!(error, Some(E::NoCertificatesPresented | E::InvalidCertificate(_)))
}
