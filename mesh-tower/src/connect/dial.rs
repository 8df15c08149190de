//! Dial: from the addresses of an endpoint to one open socket.
//!
//! With several addresses (dual stack) they are raced as "Happy Eyeballs" does: the first is
//! tried at once, the next as soon as the one before has failed or 250 ms have passed; the first
//! socket that opens wins and the other attempts are dropped.
//!
//! Source: RFC 8305, sections 5 and 8 (Connection Attempt Delay).

use super::caps::Permits;
use super::held::Held;
use socket2::{SockRef, TcpKeepalive};
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// How long one address may stay silent before the next is tried beside it.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// A byte stream in both directions that is not a TCP socket.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// An open byte stream to an endpoint.
pub struct Transport {
    kind: Kind,
    /// Its places under the limits of connections; fields drop in order, hence after the socket.
    permits: Option<Permits>,
    /// What ends with it, where it carries HTTP/1.
    held: Option<Held>,
}

enum Kind {
    Tcp(TcpStream),
    Tls(Box<TlsStream<Transport>>),
    Other(Box<dyn Io>),
}

impl Transport {
    /// Takes over a stream that is not a TCP socket, for instance one end of
    /// `tokio::io::duplex` in tests.
    pub fn new(stream: impl Io) -> Self {
        Kind::Other(Box::new(stream)).into()
    }

    pub(crate) fn tls(stream: TlsStream<Self>) -> Self {
        Kind::Tls(Box::new(stream)).into()
    }

    /// With its places under the limits of connections.
    pub(super) fn with_permits(mut self, permits: Option<Permits>) -> Self {
        self.permits = permits;
        self
    }

    /// A place for what ends with the stream.
    pub(super) fn held(&mut self) -> Held {
        self.held.get_or_insert_default().clone()
    }
}

impl From<Kind> for Transport {
    fn from(kind: Kind) -> Self {
        Self { kind, permits: None, held: None }
    }
}

impl From<TcpStream> for Transport {
    fn from(stream: TcpStream) -> Self {
        Kind::Tcp(stream).into()
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Tcp(stream) => stream.fmt(f),
            Kind::Tls(stream) => stream.get_ref().0.fmt(f),
            Kind::Other(_) => f.write_str("Transport"),
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.kind {
            Kind::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Kind::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            Kind::Other(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.kind {
            Kind::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Kind::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Kind::Other(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.kind {
            Kind::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Kind::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Kind::Other(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.kind {
            Kind::Tcp(stream) => stream.is_write_vectored(),
            Kind::Tls(stream) => stream.is_write_vectored(),
            Kind::Other(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            Kind::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Kind::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Kind::Other(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            Kind::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Kind::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Kind::Other(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// The future of [`Dial::dial`]; boxed, since it is made once per connection.
pub type Dialing = Pin<Box<dyn Future<Output = io::Result<Transport>> + Send>>;

/// Opens a stream to one address.
pub trait Dial: fmt::Debug + Send + Sync + 'static {
    /// Starts to open a stream. Dropping the future gives up; the caller bounds its time.
    fn dial(&self, address: SocketAddr) -> Dialing;
}

/// Opens TCP sockets, without Nagle's delay.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Tcp {
    /// Probe a silent connection after this long, then every tenth of it. Off.
    pub keepalive: Option<Duration>,
}

impl Dial for Tcp {
    fn dial(&self, address: SocketAddr) -> Dialing {
        let keepalive = self.keepalive;
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            if let Some(idle) = keepalive {
                let interval = (idle / 10).max(Duration::from_secs(1));
                let probes = TcpKeepalive::new().with_time(idle).with_interval(interval);
                SockRef::from(&stream).set_tcp_keepalive(&probes)?;
            }
            Ok(stream.into())
        })
    }
}

/// Opens a stream to the first of `addresses` that answers.
///
/// # Errors
///
/// The last address's error, with the address, when none answers.
pub(super) async fn first_of(
    addresses: &[SocketAddr],
    dial: &dyn Dial,
) -> Result<Transport, (SocketAddr, io::Error)> {
    let mut rest = addresses.iter().copied();
    let Some(first) = rest.next() else {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        return Err((nowhere, io::Error::other("the endpoint has no address")));
    };
    if addresses.len() == 1 {
        return dial.dial(first).await.map_err(|error| (first, error));
    }

    let mut racing = vec![(first, dial.dial(first))];
    let mut delay = pin!(tokio::time::sleep(ATTEMPT_DELAY));
    poll_fn(|cx| {
        loop {
            let mut last = None;
            let mut at = 0;
            while let Some((address, dialing)) = racing.get_mut(at) {
                match dialing.as_mut().poll(cx) {
                    Poll::Ready(Ok(transport)) => return Poll::Ready(Ok(transport)),
                    Poll::Ready(Err(error)) => {
                        last = Some((*address, error));
                        drop(racing.swap_remove(at));
                    }
                    Poll::Pending => at += 1,
                }
            }
            let due = delay.as_mut().poll(cx).is_ready();
            if (last.is_some() || due)
                && let Some(next) = rest.next()
            {
                racing.push((next, dial.dial(next)));
                delay.as_mut().reset(tokio::time::Instant::now() + ATTEMPT_DELAY);
                continue;
            }
            return match last {
                Some(failed) if racing.is_empty() => Poll::Ready(Err(failed)),
                _ => Poll::Pending,
            };
        }
    })
    .await
}
