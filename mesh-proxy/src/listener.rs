//! Listener: the accept loop of one worker on one address.
//!
//! Each worker has a socket of its own on the same address (`SO_REUSEPORT`); the kernel spreads
//! connections over them, and a connection never leaves the worker that accepted it.

use crate::connection::{Dial, Serving};
use crate::http::Stack;
use ::http::{Request, Response};
use bytes::Bytes;
use mesh_core::Error;
use mesh_tower::listen::Listener;
use mesh_tower::{Body, BoxError};
use socket2::{Domain, Protocol, Socket, Type};
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use tokio::task::coop::has_budget_remaining;
use tower_service::Service;

/// Connections the kernel keeps until they are accepted.
const BACKLOG: i32 = 1024;

/// Takes an address with `count` sockets, which do not listen yet: a listening one gets its part of
/// the clients at once, and would reset them if the configuration is refused after all. Port 0
/// picks the same free port for all. `own` if this process listens there already.
///
/// # Errors
/// When the address cannot be bound, or another process listens there; the message names it.
pub(crate) fn bind(address: SocketAddr, count: usize, own: bool) -> io::Result<Vec<Socket>> {
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
    };
    if !own {
        // Sockets that share a port would share it with a stranger's as well, unnoticed.
        drop(open(address, false).map_err(named)?);
    }
    let mut sockets: Vec<Socket> = Vec::with_capacity(count);
    for _ in 0..count {
        let address = match sockets.first() {
            Some(first) => local(first)?,
            None => address,
        };
        sockets.push(open(address, true).map_err(named)?);
    }
    Ok(sockets)
}

fn open(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // A restart must not wait for the connections of its predecessor to time out.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn local(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// Lets a bound socket listen.
///
/// # Errors
/// When somebody else began to listen on its address since it was bound; the message names it.
pub(crate) fn listen(socket: Socket) -> io::Result<TcpListener> {
    let address = local(&socket)?;
    socket.listen(BACKLOG).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
    })?;
    Ok(socket.into())
}

/// Accepts until draining starts or `removed` resolves, and serves each connection in a task of
/// its own.
pub(crate) async fn accept<S, B, T>(
    mut listener: Listener,
    tls: bool,
    serving: Serving<S, T>,
    removed: impl Future<Output = ()>,
) where
    S: Stack
        + Service<Request<Body>, Response = Response<B>, Error = Error>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    T: Dial + Clone + Send + Sync + 'static,
{
    let mut ending = std::pin::pin!(async {
        tokio::select! {
            () = serving.draining.started() => {}
            () = removed => {}
        }
    });
    let mut ended = false;
    let stop = listener.drain();
    loop {
        let accepted = poll_fn(|cx| {
            if !ended && ending.as_mut().poll(cx).is_ready() {
                ended = true;
            }
            match listener.poll_accept(cx) {
                // What the kernel had queued is accepted; now the socket may close. Not if it is only
                // that this task is to let others run.
                Poll::Pending if ended && !stop.is_started() && has_budget_remaining() => {
                    stop.start();
                    listener.poll_accept(cx)
                }
                other => other,
            }
        })
        .await;
        let Some(connection) = accepted else { return };
        let serving = serving.clone();
        let open = serving.draining.enter();
        tokio::spawn(async move {
            let counters = &serving.common.counters;
            counters.accepted.fetch_add(1, Relaxed);
            let open = (open, counters.enter());
            let peer = connection.peer().clone();
            serving.serve(connection, peer, tls).await;
            drop(open);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_the_port_that_was_picked() {
        let bound = bind(([127, 0, 0, 1], 0).into(), 3, false).unwrap();
        let address = local(&bound[0]).unwrap();
        assert!(std::net::TcpStream::connect(address).is_err(), "nobody listens yet");
        let sockets: Vec<_> = bound.into_iter().map(|socket| listen(socket).unwrap()).collect();
        let ports: Vec<_> = sockets.iter().map(|s| s.local_addr().unwrap().port()).collect();
        assert!(ports.iter().all(|port| *port == ports[0] && *port != 0), "{ports:?}");
        let taken = sockets[0].local_addr().unwrap();
        let alone = bind(taken, 1, false).unwrap_err();
        assert!(alone.to_string().contains(&taken.to_string()), "{alone}");
    }
}
