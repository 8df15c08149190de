//! Connect: the connections to one endpoint, and one attempt over one of them.
//!
//! [`Connections`] is what an endpoint keeps: idle HTTP/1 connections (`http1.rs`), shared HTTP/2
//! connections (`http2.rs`), and how to open more (`dial.rs`). [`Connections::send`] is the last
//! step of an attempt: it takes a connection or opens one, writes the request, and returns when
//! the head of the response is there. The [`ResponseBody`] holds the connection from then on.
//!
//! Cancelling is dropping: the future of `send`, or the body.

mod body;
mod dial;
mod error;
mod http1;
mod http2;
mod settings;

pub use body::ResponseBody;
pub use dial::{Dial, Dialing, Io, Tcp, Transport};
pub use error::SendError;
pub use settings::{Protocol, Settings};

use crate::body::Body;
use http::{HeaderValue, Request, Response, header};
use http1::Pair;
use http2::Multiplexed;
use mesh_core::{Error, ErrorKind};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// All connections to one endpoint.
///
/// ```no_run
/// use mesh_tower::Body;
/// use mesh_tower::connect::{Connections, Protocol, Settings};
/// use std::sync::Arc;
///
/// # async fn call() -> Result<(), Box<dyn std::error::Error>> {
/// let endpoint = vec!["127.0.0.1:8080".parse()?];
/// let connections = Arc::new(Connections::new(endpoint, None, Arc::new(Settings::default())));
/// let request = http::Request::get("http://inventory/items/7").body(Body::empty())?;
/// let response = connections.send(request, Protocol::Auto).await?;
/// assert!(response.status().is_success());
/// # Ok(())
/// # }
/// ```
pub struct Connections {
    addresses: Vec<SocketAddr>,
    hostname: Option<Arc<str>>,
    settings: Arc<Settings>,
    idle: http1::Pool,
    http2: http2::Group,
    /// HTTP/1 exchanges under way.
    active: AtomicUsize,
    draining: AtomicBool,
    sweeping: AtomicBool,
}

/// How many connections an endpoint has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// HTTP/1 connections without a call.
    pub idle: usize,
    /// HTTP/1 connections with a call.
    pub active: usize,
    /// HTTP/2 connections.
    pub http2: usize,
    /// Calls on all HTTP/2 connections.
    pub h2_streams: usize,
}

impl Connections {
    /// Connections to the endpoint at `addresses`, the preferred first; opens none yet.
    ///
    /// `hostname` is the endpoint's own name, where discovery knows one.
    #[must_use]
    pub fn new(
        addresses: Vec<SocketAddr>,
        hostname: Option<Arc<str>>,
        settings: Arc<Settings>,
    ) -> Self {
        Self {
            addresses,
            hostname,
            settings,
            idle: http1::Pool::default(),
            http2: http2::Group::new(),
            active: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            sweeping: AtomicBool::new(false),
        }
    }

    /// Sends one request and waits for the head of its response.
    ///
    /// The target and `Host` are put into the form the version asks for; the version of the
    /// request itself does not matter. `Upgrade` and CONNECT work over HTTP/1: the response then
    /// carries `hyper::upgrade::OnUpgrade`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Connect`](mesh_core::ErrorKind::Connect) and the TLS kinds when there is no
    /// connection; `ConnectionClosed`, `RemoteReset` or `EndpointProtocol` when it failed under
    /// the request, marked [`after_send`](Error::after_send) unless the application cannot have
    /// seen it; `CallerGone` when the request's own body failed.
    pub async fn send(
        self: &Arc<Self>,
        request: Request<Body>,
        protocol: Protocol,
    ) -> Result<Response<ResponseBody>, SendError> {
        let http2 = match protocol {
            Protocol::Http1 => false,
            Protocol::Http2 => true,
            Protocol::Auto => is_grpc(&request),
        };
        if http2 { self.send_http2(request).await } else { self.send_http1(request).await }
    }

    /// Opens one connection and keeps it for the next call: says whether the endpoint can be
    /// reached.
    ///
    /// # Errors
    ///
    /// As [`Connections::send`] before anything is written.
    pub async fn probe(self: &Arc<Self>, protocol: Protocol) -> Result<(), Error> {
        if protocol == Protocol::Http2 {
            self.stream().await?;
        } else {
            self.park(self.open_http1().await?);
        }
        Ok(())
    }

    /// How many connections there are now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            idle: self.idle.len(),
            active: self.active.load(Ordering::Relaxed),
            http2: self.http2.len(),
            h2_streams: self.http2.streams(),
        }
    }

    /// Closes idle connections now and the others as soon as their calls are over; for an
    /// endpoint that left its set. A late call still works, on a connection of its own.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.idle.clear();
        self.http2.drain();
    }

    async fn send_http1(
        self: &Arc<Self>,
        mut request: Request<Body>,
    ) -> Result<Response<ResponseBody>, SendError> {
        http1::canonical(&mut request);
        if !request.headers().contains_key(header::HOST) {
            request.headers_mut().insert(header::HOST, self.fallback_host());
        }
        while let Some(pair) = self.idle.take() {
            match http1::exchange(self, pair, request).await {
                // It closed under our hands; nothing was written, so the next may have it.
                Err(SendError { request: Some(unsent), .. }) => request = *unsent,
                answer => return answer,
            }
        }
        match self.open_http1().await {
            Ok(pair) => http1::exchange(self, pair, request).await,
            Err(error) => Err(SendError::unsent(error, request)),
        }
    }

    async fn send_http2(
        self: &Arc<Self>,
        mut request: Request<Body>,
    ) -> Result<Response<ResponseBody>, SendError> {
        let mut fresh = false;
        loop {
            let stream = match self.http2.reserve() {
                Some(stream) => stream,
                None => {
                    fresh = true;
                    match self.stream().await {
                        Ok(stream) => stream,
                        Err(error) => return Err(SendError::unsent(error, request)),
                    }
                }
            };
            match http2::exchange(stream, request, false).await {
                Err(SendError { request: Some(unsent), error })
                    if !fresh && error.kind() == ErrorKind::ConnectionClosed =>
                {
                    request = *unsent;
                }
                answer => return answer,
            }
        }
    }

    async fn stream(self: &Arc<Self>) -> Result<http2::Stream, Error> {
        let limit = self.settings.max_http2_connections;
        let stream = self.http2.stream(limit, || self.open_http2()).await?;
        self.sweep_later();
        Ok(stream)
    }

    async fn open_http1(&self) -> Result<Box<Pair>, Error> {
        self.within_timeout(async {
            let transport = self.dial().await?;
            Pair::handshake(transport, &self.settings).await
        })
        .await
    }

    async fn open_http2(&self) -> Result<Arc<Multiplexed>, Error> {
        self.within_timeout(async {
            let transport = self.dial().await?;
            Multiplexed::handshake(transport, &self.settings).await
        })
        .await
    }

    async fn dial(&self) -> Result<Transport, Error> {
        dial::first_of(&self.addresses, &*self.settings.dial)
            .await
            .map_err(|(address, failed)| error::of_dial(address, failed))
    }

    async fn within_timeout<T>(
        &self,
        opening: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let limit = self.settings.connect_timeout;
        match timeout(limit, opening).await {
            Ok(opened) => opened,
            Err(_elapsed) => Err(error::of_connect_timeout(&self.addresses, limit)),
        }
    }

    /// Keeps an idle connection for the next call.
    fn park(self: &Arc<Self>, pair: Box<Pair>) {
        if !self.draining.load(Ordering::Acquire) {
            self.idle.put(pair, self.settings.max_idle);
            self.sweep_later();
        }
    }

    /// Makes sure that connections nobody uses are closed some day.
    fn sweep_later(self: &Arc<Self>) {
        let idle_timeout = self.settings.idle_timeout;
        if self.sweeping.load(Ordering::Relaxed)
            || idle_timeout.is_zero()
            || self.sweeping.swap(true, Ordering::AcqRel)
        {
            return;
        }
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                runtime.spawn(sweep(Arc::downgrade(self), idle_timeout / 2));
            }
            // A body was read to its end outside of any runtime; the next call sees to it.
            Err(_) => self.sweeping.store(false, Ordering::Release),
        }
    }

    fn fallback_host(&self) -> HeaderValue {
        let name = match (&self.hostname, self.addresses.first()) {
            (Some(hostname), _) => hostname.to_string(),
            (None, Some(address)) => address.to_string(),
            (None, None) => String::new(),
        };
        HeaderValue::try_from(name).unwrap_or(HeaderValue::from_static(""))
    }
}

/// Closes, twice per idle timeout, what nobody used meanwhile; ends when nothing is left.
async fn sweep(connections: Weak<Connections>, period: Duration) {
    loop {
        sleep(period).await;
        let Some(connections) = connections.upgrade() else { return };
        let idle = connections.idle.sweep();
        let http2 = connections.http2.sweep();
        if !idle && !http2 {
            connections.sweeping.store(false, Ordering::Release);
            if connections.idle.len() > 0 || connections.http2.len() > 0 {
                // One came back in between, and relied on this task.
                connections.sweep_later();
            }
            return;
        }
    }
}

fn is_grpc<B>(request: &Request<B>) -> bool {
    request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections")
            .field("addresses", &self.addresses)
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}
