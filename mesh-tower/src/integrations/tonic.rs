//! tonic: what [`Listener::incoming`](crate::Listener::incoming) yields can be served, with the
//! [`Peer`] as a request extension.

use crate::listen::{Connection, Peer};
use tonic::transport::server::Connected;

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer().clone()
    }
}
