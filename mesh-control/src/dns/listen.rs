//! The sockets: one for datagrams, one for streams, on the same port.
//!
//! A datagram is answered where it is read: an answer is a look into memory. A stream has queries
//! one after another, each after two bytes of its length (RFC 7766). Streams have limits: how many,
//! and how long one may be idle or not take its answer.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Dns, Transport};

/// Connections at once; more are closed as they come.
const CONNECTIONS: usize = 256;
/// Longest that a connection is idle, and that a query or an answer takes.
const IDLE: Duration = Duration::from_secs(10);
/// Longest query by UDP, in bytes; more is cut off, and then not understood.
const DATAGRAM: usize = 4096;
/// Ports tried when any will do: one that is free for streams may not be so for datagrams.
const TRIES: usize = 16;
/// Pause after an error of a socket, which may come at once again.
const PAUSE: Duration = Duration::from_millis(50);

/// Both sockets.
#[derive(Debug)]
pub(crate) struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
    address: SocketAddr,
}

impl Sockets {
    /// Binds both to one port; to any that is free where it is 0.
    pub(crate) async fn bind(wanted: SocketAddr) -> io::Result<Self> {
        let mut tries = if wanted.port() == 0 { TRIES } else { 1 };
        loop {
            tries -= 1;
            let tcp = TcpListener::bind(wanted).await?;
            let address = tcp.local_addr()?;
            match UdpSocket::bind(address).await {
                Ok(udp) => return Ok(Self { udp, tcp, address }),
                Err(error) if tries == 0 => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Where both listen.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until draining begins, and then what is being read.
    pub(crate) async fn serve(self, dns: Dns, mut drained: watch::Receiver<bool>) {
        let streams = streams(self.tcp, dns.clone(), drained.clone());
        let datagrams = async {
            tokio::select! {
                () = begun(&mut drained) => {}
                () = datagrams(&self.udp, &dns) => {}
            }
        };
        tokio::join!(streams, datagrams);
    }
}

/// Done when draining has begun, or nobody is there who could begin it.
async fn begun(drained: &mut watch::Receiver<bool>) {
    let _ = drained.wait_for(|drained| *drained).await;
}

async fn datagrams(socket: &UdpSocket, dns: &Dns) {
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "DNS cannot read a datagram");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let query = buffer.get(..length).unwrap_or_default();
        if let Some(answer) = dns.answer(query, Transport::Udp)
            && let Err(error) = socket.send_to(&answer, from).await
        {
            tracing::debug!(%error, %from, "DNS cannot send an answer");
        }
    }
}

async fn streams(listener: TcpListener, dns: Dns, mut drained: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    let theirs = drained.clone();
    loop {
        tokio::select! {
            () = begun(&mut drained) => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
                        let (dns, drained) = (dns.clone(), theirs.clone());
                        connections.spawn(async move {
                            if let Err(error) = connection(stream, &dns, drained).await {
                                tracing::debug!(%error, "a connection of DNS ended early");
                            }
                            drop(place);
                        });
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "DNS cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Answers what comes by one connection until it ends, is idle, or draining begins.
async fn connection(
    mut stream: TcpStream,
    dns: &Dns,
    mut drained: watch::Receiver<bool>,
) -> io::Result<()> {
    let _ = stream.set_nodelay(true);
    let mut query = Vec::new();
    loop {
        let length = tokio::select! {
            () = begun(&mut drained) => return Ok(()),
            length = timeout(IDLE, stream.read_u16()) => length??,
        };
        query.resize(usize::from(length), 0);
        timeout(IDLE, stream.read_exact(&mut query)).await??;
        let Some(answer) = dns.answer(&query, Transport::Tcp) else { return Ok(()) };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let mut framed = Vec::with_capacity(answer.len() + 2);
        framed.extend(length.to_be_bytes());
        framed.extend(answer);
        timeout(IDLE, stream.write_all(&framed)).await??;
    }
}
