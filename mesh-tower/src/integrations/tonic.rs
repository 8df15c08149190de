//! tonic: what [`Listener::incoming`](crate::Listener::incoming) yields can be served, with the
//! [`Peer`] as a request extension; what fails in a channel has its gRPC status.

use crate::listen::{Connection, Peer};
use mesh_core::Error;
use std::sync::Arc;
use tonic::transport::server::Connected;
use tonic::{Code, Status};

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer().clone()
    }
}

/// An error of ours with the status that tonic's clients are to see among its causes: tonic looks
/// for one there, and says `Unknown` where it finds none. What the error knows stays beneath it.
pub(crate) fn explained(error: Error) -> Error {
    let code = Code::from_i32(i32::try_from(error.grpc_code().number()).unwrap_or(2));
    let mut status = Status::new(code, error.to_string());
    status.set_source(Arc::new(error.clone()));
    error.with_source(status)
}
