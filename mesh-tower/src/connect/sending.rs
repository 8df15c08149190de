//! Sending: one attempt at one endpoint, from the request to the head of its response.
//!
//! ```text
//! start ─ a connection is free ─► request written ─► head of the response
//!   │                                  │ the connection was closed already: the request comes back
//!   ├◄─────────────────────────────────┘
//!   └─ none is free ─► open one ─► request written ─► head of the response
//! ```
//!
//! Where a connection is free the request is handed over at once, before the first poll: it is
//! large, and need not be moved into a future then. What waits for the response is the one box
//! of an attempt.

use super::body::ResponseBody;
use super::error::SendError;
use super::{Connections, Protocol};
use crate::body::Body;
use crate::tls::Offer;
use http::{Request, Response};
use mesh_core::ErrorKind;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// Waits for the response to a request that is under way.
pub(crate) type Exchange =
    Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, SendError>> + Send>>;

/// A request on its way; dropping it cancels. Made by [`Connections::send`].
pub struct Sending {
    exchange: Exchange,
    connections: Arc<Connections>,
    offer: Offer,
    /// The connection was opened for this request: that it is closed already says something.
    fresh: bool,
}

impl Sending {
    /// `grpc` calls need HTTP/2.
    pub(crate) fn start(
        connections: Arc<Connections>,
        request: Request<Body>,
        protocol: Protocol,
        grpc: bool,
    ) -> Self {
        let offer = connections.offer(protocol, grpc);
        let (exchange, fresh) = exchange(&connections, request, offer);
        Self { exchange, connections, offer, fresh }
    }
}

/// Over a free connection, else over one that is opened for it.
fn exchange(
    connections: &Arc<Connections>,
    request: Request<Body>,
    offer: Offer,
) -> (Exchange, bool) {
    match connections.free_place(offer) {
        Some(place) => (place.exchange(connections, request), false),
        None => (Box::pin(open(connections.clone(), request, offer)), true),
    }
}

async fn open(
    connections: Arc<Connections>,
    request: Request<Body>,
    offer: Offer,
) -> Result<Response<ResponseBody>, SendError> {
    match connections.new_place(offer).await {
        Ok(place) => place.exchange(&connections, request).await,
        Err(error) => Err(SendError::unsent(error, request)),
    }
}

impl Future for Sending {
    type Output = Result<Response<ResponseBody>, SendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match ready!(self.exchange.as_mut().poll(cx)) {
                // It closed under our hands; nothing was written, so the next may have it.
                Err(SendError { request: Some(unsent), error })
                    if !self.fresh && error.kind() == ErrorKind::ConnectionClosed =>
                {
                    let (exchange, fresh) = exchange(&self.connections, *unsent, self.offer);
                    self.exchange = exchange;
                    self.fresh = fresh;
                }
                answer => return Poll::Ready(answer),
            }
        }
    }
}

impl fmt::Debug for Sending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sending").field("fresh", &self.fresh).finish_non_exhaustive()
    }
}
