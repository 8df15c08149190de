//! Connect: the connections to one endpoint, and one attempt over one of them.
//!
//! [`Connections`] is what an endpoint keeps: idle HTTP/1 connections (`http1.rs`), shared HTTP/2
//! connections (`http2.rs`), and how to open more (`dial.rs`). [`Connections::send`] is the last
//! step of an attempt: it takes a connection or opens one, writes the request, and returns when
//! the head of the response is there. The [`ResponseBody`] holds the connection from then on.
//!
//! Cancelling is dropping: the future of `send`, or the body.

mod body;
mod caps;
mod dial;
mod error;
mod held;
mod http1;
mod http2;
mod relay;
mod sending;
mod settings;

pub use body::ResponseBody;
pub(crate) use caps::Caps;
pub use dial::{Dial, Dialing, Io, Tcp, Transport};
pub use error::SendError;
pub(crate) use held::Held;
pub use mesh_core::policy::Protocol;
pub(crate) use sending::Exchange;
pub use sending::Sending;
pub use settings::Settings;

use crate::body::Body;
use crate::tls::Offer;
use caps::Permits;
use http::Request;
use http1::Pair;
use http2::Multiplexed;
use mesh_core::limit::Kind;
use mesh_core::{Error, ErrorKind};
use std::borrow::Cow;
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
    /// Caps on what is opened, where there are such.
    caps: Option<Caps>,
    idle: http1::Pool,
    http2: http2::Group,
    /// HTTP/1 exchanges under way, and connections that have left HTTP.
    active: AtomicUsize,
    /// The handshake chose HTTP/2 where both were offered.
    chose_http2: AtomicBool,
    draining: AtomicBool,
    sweeping: AtomicBool,
}

/// How many connections an endpoint has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// HTTP/1 connections without a call.
    pub idle: usize,
    /// HTTP/1 connections with a call, or upgraded to another protocol.
    pub active: usize,
    /// HTTP/2 connections.
    pub http2: usize,
    /// Calls on all HTTP/2 connections.
    pub h2_streams: usize,
}

impl Counts {
    /// All open connections.
    #[must_use]
    pub const fn connections(&self) -> usize {
        self.idle + self.active + self.http2
    }
}

/// An open connection, of either version.
enum Opened {
    Http1(Box<Pair>),
    Http2(Arc<Multiplexed>),
}

/// Room for one call.
enum Place {
    Http1(Box<Pair>),
    Http2(http2::Stream),
}

impl Place {
    /// Hands the request over.
    fn exchange(self, connections: &Arc<Connections>, request: Request<Body>) -> Exchange {
        match self {
            Self::Http1(pair) => http1::exchange(connections, pair, request),
            Self::Http2(stream) => http2::exchange(stream, request, connections.secure()),
        }
    }
}

impl Connections {
    /// Where the endpoint listens, the preferred address first.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

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
            caps: None,
            idle: http1::Pool::default(),
            http2: http2::Group::new(),
            active: AtomicUsize::new(0),
            chose_http2: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            sweeping: AtomicBool::new(false),
        }
    }

    /// Opens no more connections, and lets no more calls wait for one, than `caps` have room for.
    pub(crate) fn capped(mut self, caps: Caps) -> Self {
        self.caps = Some(caps);
        self
    }

    /// Connections of their own to the same endpoint, for what is no call: under no caps, one
    /// without a request kept, and kept until it breaks. HTTP/2 is asked for a sign of life every
    /// `keepalive`, if it is not more often.
    pub(crate) fn apart(&self, keepalive: Duration) -> Self {
        let mut settings = Settings::clone(&self.settings);
        settings.idle_timeout = Duration::ZERO;
        settings.max_idle = 1;
        let often = settings.http2_keepalive_interval.map_or(keepalive, |own| own.min(keepalive));
        settings.http2_keepalive_interval = Some(often);
        Self::new(self.addresses.clone(), self.hostname.clone(), Arc::new(settings))
    }

    /// To another port of the endpoint's addresses, under the same name.
    pub(crate) fn at_port(mut self, port: u16) -> Self {
        self.addresses.iter_mut().for_each(|address| address.set_port(port));
        self
    }

    fn permits(&self, kind: Kind) -> Result<Option<Permits>, Error> {
        self.caps.as_ref().map(|caps| caps.acquire(kind)).transpose()
    }

    /// Sends one request and waits for the head of its response.
    ///
    /// The target and `Host` are put into the form the version asks for; the version of the
    /// request itself does not matter. `Upgrade` and CONNECT work over HTTP/1: the response then
    /// carries `hyper::upgrade::OnUpgrade`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Connect`] and the TLS kinds when there is no connection,
    /// [`ErrorKind::Overflow`] when none may be opened; `ConnectionClosed`, `RemoteReset` or
    /// `EndpointProtocol` when it failed under the request, marked [`after_send`](Error::after_send) unless the application cannot have
    /// seen it; `CallerGone` when the request's own body failed.
    #[must_use = "dropping it cancels"]
    pub fn send(self: &Arc<Self>, request: Request<Body>, protocol: Protocol) -> Sending {
        let grpc = mesh_core::is_grpc(request.headers());
        Sending::start(self.clone(), request, protocol, grpc)
    }

    /// Sends a request over a connection that is open and has room for it; `None` if there is none.
    /// No other connection is tried when it turns out to be closed.
    pub(crate) fn send_if_free(
        self: &Arc<Self>,
        request: impl FnOnce() -> Request<Body>,
        protocol: Protocol,
        grpc: bool,
    ) -> Option<Exchange> {
        let place = self.free_place(self.offer(protocol, grpc))?;
        Some(place.exchange(self, request()))
    }

    /// Opens one connection and keeps it for the next call: says whether the endpoint can be
    /// reached.
    ///
    /// # Errors
    ///
    /// As [`Connections::send`] before anything is written.
    pub async fn probe(self: &Arc<Self>, protocol: Protocol) -> Result<(), Error> {
        match self.open(self.offer(protocol, false)).await? {
            Opened::Http1(pair) => self.park(pair),
            Opened::Http2(connection) => {
                self.http2.add(connection).await;
                self.sweep_later();
            }
        }
        Ok(())
    }

    /// What to ask the endpoint for: under [`Protocol::Auto`], HTTP/2 where we know that it is
    /// spoken or the call needs it, what the handshake yields where there is one, else HTTP/1.
    fn offer(&self, protocol: Protocol, needs_http2: bool) -> Offer {
        match protocol {
            Protocol::Http1 => Offer::Http1,
            Protocol::Http2 => Offer::Http2,
            Protocol::Auto if self.chose_http2.load(Ordering::Relaxed) || needs_http2 => {
                Offer::Http2
            }
            Protocol::Auto if self.secure() => Offer::Either,
            // Auto without TLS, and whatever comes later.
            _ => Offer::Http1,
        }
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

    /// Room for one more call on what is open.
    fn free_place(&self, offer: Offer) -> Option<Place> {
        match offer {
            Offer::Http2 => self.http2.reserve().map(Place::Http2),
            Offer::Http1 | Offer::Either => self.idle.take().map(Place::Http1),
        }
    }

    /// Room for one more call on a connection opened for it.
    async fn new_place(self: &Arc<Self>, offer: Offer) -> Result<Place, Error> {
        let _waiting = self.permits(Kind::Pending)?;
        if offer == Offer::Http2 {
            let limit = self.settings.max_http2_connections;
            let stream = self.http2.stream(limit, || self.open_http2()).await?;
            self.sweep_later();
            return Ok(Place::Http2(stream));
        }
        Ok(match self.open(offer).await? {
            Opened::Http1(pair) => Place::Http1(pair),
            Opened::Http2(connection) => {
                self.chose_http2.store(true, Ordering::Relaxed);
                self.sweep_later();
                Place::Http2(self.http2.add(connection).await)
            }
        })
    }

    /// Opens a connection, TLS included, within the connect timeout.
    async fn open(&self, offer: Offer) -> Result<Opened, Error> {
        let opening = async {
            let transport = self.dial().await?;
            let (transport, http2) = match &self.settings.tls {
                Some(tls) => tls.connect(transport, &self.name(), offer).await?,
                None => (transport, offer == Offer::Http2),
            };
            Ok(if http2 {
                Opened::Http2(self.http2.handshake(transport, &self.settings).await?)
            } else {
                Opened::Http1(Pair::handshake(transport, &self.settings).await?)
            })
        };
        let limit = self.settings.connect_timeout;
        match timeout(limit, opening).await {
            Ok(opened) => opened,
            Err(_elapsed) => Err(error::of_connect_timeout(&self.addresses, limit)),
        }
    }

    /// Opens a byte stream of its own, TLS included, within the connect timeout: for what is not
    /// HTTP. It counts against the caps, but is not pooled or swept; whoever holds it closes it by
    /// dropping it.
    ///
    /// # Errors
    ///
    /// As [`Connections::send`] before anything is written.
    pub async fn stream_of_bytes(&self) -> Result<Transport, Error> {
        let opening = async {
            let transport = self.dial().await?;
            match &self.settings.tls {
                // Which protocol the endpoint chooses is no concern of who only passes bytes.
                Some(tls) => Ok(tls.connect(transport, &self.name(), Offer::Http1).await?.0),
                None => Ok(transport),
            }
        };
        let limit = self.settings.connect_timeout;
        match timeout(limit, opening).await {
            Ok(opened) => opened,
            Err(_elapsed) => Err(error::of_connect_timeout(&self.addresses, limit)),
        }
    }

    async fn open_http2(&self) -> Result<Arc<Multiplexed>, Error> {
        match self.open(Offer::Http2).await? {
            Opened::Http2(connection) => Ok(connection),
            Opened::Http1(_) => {
                Err(Error::new(ErrorKind::Tls, "the endpoint does not speak HTTP/2 (ALPN)"))
            }
        }
    }

    async fn dial(&self) -> Result<Transport, Error> {
        let permits = self.permits(Kind::Connection)?;
        dial::first_of(&self.addresses, &*self.settings.dial)
            .await
            .map(|transport| transport.with_permits(permits))
            .map_err(|(address, failed)| error::of_dial(address, failed))
    }

    fn secure(&self) -> bool {
        self.settings.tls.is_some()
    }

    /// The endpoint's own name, else its address.
    fn name(&self) -> Cow<'_, str> {
        match (&self.hostname, self.addresses.first()) {
            (Some(hostname), _) => Cow::Borrowed(hostname),
            (None, Some(address)) => Cow::Owned(address.ip().to_string()),
            (None, None) => Cow::Borrowed(""),
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
                runtime.spawn(sweep(Arc::downgrade(self)));
            }
            // A body was read to its end outside of any runtime; the next call sees to it.
            Err(_) => self.sweeping.store(false, Ordering::Release),
        }
    }
}

/// Closes, twice per idle timeout, what nobody used meanwhile; ends when nothing is left.
async fn sweep(connections: Weak<Connections>) {
    let (mut since_http1, mut since_http2) = (Duration::ZERO, Duration::ZERO);
    loop {
        let (http1, http2) = match connections.upgrade() {
            Some(of) => (of.settings.idle_timeout / 2, of.settings.http2_idle_timeout / 2),
            None => return,
        };
        let period = http1.saturating_sub(since_http1).min(http2.saturating_sub(since_http2));
        sleep(period).await;
        let Some(connections) = connections.upgrade() else { return };
        since_http1 += period;
        since_http2 += period;
        if since_http1 >= http1 {
            since_http1 = Duration::ZERO;
            connections.idle.sweep();
        }
        if since_http2 >= http2 {
            since_http2 = Duration::ZERO;
            connections.http2.sweep();
        }
        let is_empty = || connections.idle.len() == 0 && connections.http2.len() == 0;
        if is_empty() {
            connections.sweeping.store(false, Ordering::Release);
            if !is_empty() {
                // One came back in between, and relied on this task.
                connections.sweep_later();
            }
            return;
        }
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections")
            .field("addresses", &self.addresses)
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}
