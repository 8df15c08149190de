//! An accepted connection, in plaintext or TLS, and who is at its other end.

use crate::tls::{self, Identity};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// Who is at the other end of a connection. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer(Arc<Facts>);

#[derive(Debug, PartialEq, Eq)]
struct Facts {
    address: SocketAddr,
    identity: Option<Identity>,
}

impl Peer {
    /// A peer known by its address only.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self(Arc::new(Facts { address, identity: None }))
    }

    /// A peer whose verified certificate proves an identity.
    #[must_use]
    pub fn with_identity(self, identity: Identity) -> Self {
        Self(Arc::new(Facts { address: self.0.address, identity: Some(identity) }))
    }

    /// The address it connected from.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// What its verified certificate proves; `None` without mutual TLS.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.0.identity.as_ref()
    }
}

/// An accepted connection, and who is at its other end.
pub struct Connection {
    io: Io,
    peer: Peer,
}

enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection {
    pub(super) fn plain(stream: TcpStream, address: SocketAddr) -> Self {
        Self { io: Io::Plain(stream), peer: Peer::new(address) }
    }

    pub(super) fn tls(stream: TlsStream<TcpStream>, address: SocketAddr) -> Self {
        let peer = Peer::new(address);
        let peer = match tls::Server::peer(stream.get_ref().1) {
            Some(identity) => peer.with_identity(identity),
            None => peer,
        };
        Self { io: Io::Tls(Box::new(stream)), peer }
    }

    /// The protocol that the TLS handshake agreed on (ALPN).
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        match &self.io {
            Io::Plain(_) => None,
            Io::Tls(stream) => stream.get_ref().1.alpn_protocol(),
        }
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Io::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Io::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Io::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(stream) => stream.is_write_vectored(),
            Io::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Io::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
