//! axum: the listener for `axum::serve`, and the peer as connect info.
//!
//! `axum::serve(listener, app)` works as it is; with
//! `app.into_make_service_with_connect_info::<Peer>()` handlers can extract
//! `ConnectInfo<Peer>`, and the context of the server layer is set.

use crate::listen::{Connection, Listener, Peer};
use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use std::io;

impl axum::serve::Listener for Listener {
    type Io = Connection;
    type Addr = Peer;

    async fn accept(&mut self) -> (Connection, Peer) {
        let connection = Self::accept(self).await;
        let peer = connection.peer().clone();
        (connection, peer)
    }

    fn local_addr(&self) -> io::Result<Peer> {
        Ok(Peer::new(Self::local_addr(self)))
    }
}

impl Connected<IncomingStream<'_, Listener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Listener>) -> Self {
        stream.remote_addr().clone()
    }
}
