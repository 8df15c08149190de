//! Sockets with manners of their own: resets, ports held while nobody listens, black holes.

use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpStream as StdStream};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// A stream that ends with RST instead of FIN when told so.
pub(crate) struct Resettable {
    stream: TcpStream,
    reset: Arc<AtomicBool>,
}

impl Resettable {
    pub(crate) fn new(stream: TcpStream, reset: Arc<AtomicBool>) -> Self {
        // An endpoint that answers late because of Nagle would blur every latency asserted.
        let _ = stream.set_nodelay(true);
        Self { stream, reset }
    }
}

impl Drop for Resettable {
    fn drop(&mut self) {
        if self.reset.load(Ordering::SeqCst) {
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Resettable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Resettable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A port that is taken, but where nobody listens: connecting is refused.
pub(super) struct Held {
    socket: Option<TcpSocket>,
}

impl Held {
    pub(super) fn new(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("SO_REUSEADDR on a new socket");
        socket.bind(address).expect("the port was ours a moment ago");
        Self { socket: Some(socket) }
    }

    pub(super) fn listen(&mut self) -> TcpListener {
        let socket = self.socket.take().expect("listens once");
        socket.listen(1024).expect("a bound socket can listen")
    }
}

/// An address whose SYNs are dropped: a listener that never accepts, its backlog full.
///
/// Connecting neither succeeds nor is refused, as with a host behind a dropping firewall.
#[derive(Debug)]
pub struct BlackHole {
    address: SocketAddr,
    _listener: Socket,
    _filling: Vec<StdStream>,
}

impl BlackHole {
    /// Opens one on a free loopback port; blocks for some 100 ms to see that it is one.
    ///
    /// # Errors
    ///
    /// If the kernel keeps answering however many connections wait.
    pub fn open() -> io::Result<Self> {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
        listener.listen(0)?;
        let address = listener.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidInput)?;
        let mut filling = Vec::new();
        for _ in 0..64 {
            match StdStream::connect_timeout(&address, Duration::from_millis(100)) {
                Ok(stream) => filling.push(stream),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return Ok(Self { address, _listener: listener, _filling: filling });
                }
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("the backlog does not fill"))
    }

    /// Where nobody answers.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
