//! What the connections to the endpoints of one destination have in common.

use super::dial::{Dial, Tcp};
use crate::tls;
use mesh_core::Policy;
use std::sync::Arc;
use std::time::Duration;

/// Settings of all [`Connections`](super::Connections) of one destination.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// Longest time to a usable connection, name resolved, TLS included. 1 s.
    pub connect_timeout: Duration,
    /// An HTTP/1 connection that nobody used for this long is closed, at the latest. 60 s; zero
    /// keeps all for ever.
    pub idle_timeout: Duration,
    /// The same for an HTTP/2 connection. 1 h.
    pub http2_idle_timeout: Duration,
    /// HTTP/1 connections kept without a call, per endpoint. 1,024.
    pub max_idle: usize,
    /// HTTP/2 connections per endpoint; when the streams of all of them are taken, further calls
    /// wait inside the least loaded one. 1,024.
    pub max_http2_connections: usize,
    /// Send an HTTP/2 PING after this long without a frame, while calls are in flight. Off.
    pub http2_keepalive_interval: Option<Duration>,
    /// An HTTP/2 connection whose PING stays unanswered for this long is closed. 20 s.
    pub http2_keepalive_timeout: Duration,
    /// HTTP/2 flow control: bytes one response may have under way. 2 MiB.
    pub http2_stream_window: u32,
    /// HTTP/2 flow control: bytes all responses of a connection may have under way. 5 MiB.
    pub http2_connection_window: u32,
    /// Largest response head, in bytes. 64 KiB.
    pub max_response_head: usize,
    /// Speaks TLS to the endpoints. `None`: plaintext.
    pub tls: Option<Arc<tls::Client>>,
    /// Opens sockets; tests script their own.
    pub dial: Arc<dyn Dial>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(60),
            http2_idle_timeout: Duration::from_secs(3600),
            max_idle: 1024,
            max_http2_connections: 1024,
            http2_keepalive_interval: None,
            http2_keepalive_timeout: Duration::from_secs(20),
            http2_stream_window: 2 * 1024 * 1024,
            http2_connection_window: 5 * 1024 * 1024,
            max_response_head: 64 * 1024,
            tls: None,
            dial: Arc::new(Tcp::default()),
        }
    }
}

impl Settings {
    /// What a policy says about connections; plaintext without `tls`.
    #[must_use]
    pub fn new(policy: &Policy, tls: Option<Arc<tls::Client>>) -> Self {
        let (timeouts, connections) = (&policy.timeouts, &policy.connections);
        Self {
            connect_timeout: timeouts.connect,
            idle_timeout: timeouts.idle,
            http2_idle_timeout: timeouts.http2_idle,
            max_idle: connections.max_idle_per_endpoint as usize,
            http2_keepalive_interval: connections.http2_keepalive_interval,
            http2_keepalive_timeout: connections.keepalive_timeout,
            tls,
            dial: Arc::new(Tcp { keepalive: connections.tcp_keepalive }),
            ..Self::default()
        }
    }
}
