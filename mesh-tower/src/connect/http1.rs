//! HTTP/1: a pool of connections, and one exchange over one of them.
//!
//! A connection is not a task. It is the pair of hyper's handle and hyper's connection, and
//! whoever waits for a response polls the connection itself: one readiness event of the socket
//! wakes one task once, and no message crosses tasks.
//!
//! ```text
//! take pair ─► hand request over ─► poll connection until the head ─► poll it per frame ─┐
//!    ▲               closed? next             │ response complete already               │
//!    └── idle ◄───────────────────────────────┴──────────── body read to its end ◄──────┘
//! ```
//!
//! Why the response future and the body channel are polled with a waker that does nothing: both
//! are fed only from inside the connection's own poll, which this task runs. For the same reason the
//! response future is out of tokio's budget for tasks: it would put this task off by way of that waker. The connection gets
//! a [`Relay`], which wakes this task for what comes from outside, and not for what the task
//! itself moves: that would be one more turn per call.
//!
//! An idle connection is not looked at before it is used: when it turns out to be closed, hyper
//! gives the request back, and the next connection gets it.
//!
//! The pool is last in, first out, so that surplus connections stay at its bottom and run into
//! the idle timeout. It reads no clock: it keeps the smallest length since the last sweep, and a
//! sweep closes that many from the bottom, which nobody can have used since.

use super::body::ResponseBody;
use super::dial::Transport;
use super::error::{self, SendError};
use super::held::Held;
use super::relay::Relay;
use super::{Connections, Settings, sending};
use crate::body::{Body, BoxError};
use crate::fields;
use bytes::Bytes;
use http::uri::{Parts, PathAndQuery};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use mesh_core::{Error, ErrorKind};
use parking_lot::Mutex;
use pin_project_lite::pin_project;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker, ready};
use tokio::task::AbortHandle;
use tokio::task::coop::unconstrained;

/// One HTTP/1 connection, driven by whoever holds it.
pub(super) struct Pair {
    sender: SendRequest<Outgoing>,
    connection: Connection<TokioIo<Transport>, Outgoing>,
    relay: Arc<Relay>,
    /// The relay, as the connection sees it.
    waker: Waker,
    /// A streamed request body is not yet at its end.
    uploading: Arc<AtomicBool>,
    closed: bool,
    /// What ends with the stream.
    held: Held,
}

impl Pair {
    /// Starts HTTP/1 on a fresh transport.
    pub(super) async fn handshake(
        mut transport: Transport,
        settings: &Settings,
    ) -> Result<Box<Self>, Error> {
        let held = transport.held();
        let mut builder = Builder::new();
        builder.max_header_size(settings.max_response_head);
        let (sender, connection) =
            builder.handshake(TokioIo::new(transport)).await.map_err(error::of_http1)?;
        let relay = Arc::new(Relay::default());
        let waker = Waker::from(Arc::clone(&relay));
        let uploading = Arc::new(AtomicBool::new(false));
        Ok(Box::new(Self { sender, connection, relay, waker, uploading, closed: false, held }))
    }

    /// Moves the connection on. Who then has to wait calls [`Pair::listen`].
    fn poll(&mut self) {
        self.relay.mute();
        let mut cx = Context::from_waker(&self.waker);
        // The error, if any, also reaches the response future or the body, which report it.
        if !self.closed && Pin::new(&mut self.connection).poll(&mut cx).is_ready() {
            self.closed = true;
        }
    }

    /// Wakes the task when the connection can move again.
    fn listen(&self, cx: &Context<'_>) {
        self.relay.listen(cx.waker());
    }

    /// Looks whether the idle connection is still open.
    fn is_usable(&mut self) -> bool {
        self.poll();
        self.is_idle()
    }

    /// The last exchange is over in both directions, and the endpoint will take another.
    fn is_idle(&self) -> bool {
        !self.closed && self.sender.is_ready()
    }
}

/// The idle connections to one endpoint.
#[derive(Default)]
pub(super) struct Pool(Mutex<Idle>);

#[derive(Default)]
struct Idle {
    #[expect(clippy::vec_box, reason = "a pair is large and changes hands with every call")]
    pairs: Vec<Box<Pair>>,
    /// Fewest pairs at any moment since the last sweep.
    untouched: usize,
}

impl Pool {
    /// The connection used last.
    pub(super) fn take(&self) -> Option<Box<Pair>> {
        let mut idle = self.0.lock();
        let pair = idle.pairs.pop()?;
        idle.untouched = idle.untouched.min(idle.pairs.len());
        Some(pair)
    }

    /// Keeps a connection for the next call, or closes it when there are `limit` already.
    pub(super) fn put(&self, pair: Box<Pair>, limit: usize) {
        let mut idle = self.0.lock();
        if idle.pairs.len() < limit {
            idle.pairs.push(pair);
        } else {
            drop(idle);
        }
    }

    /// Closes what nobody used since the last sweep, and what the endpoint has closed.
    pub(super) fn sweep(&self) {
        // Declared first, hence dropped last: sockets are closed outside the lock.
        let mut surplus = Vec::new();
        let mut idle = self.0.lock();
        let untouched = idle.untouched;
        surplus.extend(idle.pairs.drain(..untouched));
        let mut at = 0;
        while let Some(pair) = idle.pairs.get_mut(at) {
            if pair.is_usable() {
                at += 1;
            } else {
                surplus.push(idle.pairs.remove(at));
            }
        }
        idle.untouched = idle.pairs.len();
    }

    /// Closes all.
    pub(super) fn clear(&self) {
        let idle = std::mem::take(&mut *self.0.lock());
        drop(idle);
    }

    pub(super) fn len(&self) -> usize {
        self.0.lock().pairs.len()
    }
}

/// Counts a connection that is in use.
struct Active(Arc<Connections>);

impl Active {
    fn new(owner: &Arc<Connections>) -> Self {
        owner.active.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(owner))
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection in use by one exchange; dropping it closes the connection, which cancels.
pub(super) struct Lease {
    pair: Option<Box<Pair>>,
    active: Active,
}

impl Lease {
    pub(super) fn new(pair: Box<Pair>, owner: &Arc<Connections>) -> Self {
        Self { pair: Some(pair), active: Active::new(owner) }
    }

    /// The next frame of the response, driving the connection.
    pub(super) fn poll_frame(
        &mut self,
        incoming: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut muted = Context::from_waker(Waker::noop());
        let mut frame = Pin::new(&mut *incoming).poll_frame(&mut muted);
        if frame.is_pending()
            && let Some(pair) = &mut self.pair
        {
            pair.poll();
            if pair.closed {
                // Ends the body with the reason, if it had not ended.
                self.pair = None;
            }
            frame = Pin::new(&mut *incoming).poll_frame(&mut muted);
            if frame.is_pending()
                && let Some(pair) = &self.pair
            {
                pair.listen(cx);
            }
        }
        frame
    }

    /// Whether the exchange is over, so that the connection can go back.
    pub(super) fn is_over(&self) -> bool {
        self.pair.as_ref().is_none_or(|pair| pair.closed || pair.is_idle())
    }

    /// Gives the connection to the next call, if it can carry one.
    pub(super) fn finish(mut self) {
        if let Some(mut pair) = self.pair.take()
            && (pair.is_idle() || pair.is_usable())
        {
            self.active.0.park(pair);
        }
    }

    /// Gives the connection to whoever reads the response to its end.
    fn hand_over(self, response: Response<Incoming>) -> Result<Response<ResponseBody>, SendError> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let message = "the endpoint switched protocols (101) without being asked";
            let error = Error::new(ErrorKind::EndpointProtocol, message);
            return Err(SendError::lost(error.after_send()));
        }
        let uploading = match &self.pair {
            Some(pair) => !pair.closed && pair.uploading.load(Ordering::Acquire),
            None => false,
        };
        Ok(response.map(|incoming| {
            if self.is_over() {
                // What is left of a short body waits in its channel; the connection is free.
                self.finish();
                ResponseBody::detached(incoming, None)
            } else if uploading {
                // The caller may wait for the response before it goes on with the request, or
                // the other way round; only a task of its own serves both.
                ResponseBody::detached(incoming, self.detach())
            } else {
                ResponseBody::driven(incoming, self)
            }
        }))
    }

    /// Lets the connection go on by itself until the exchange is over.
    fn detach(mut self) -> Option<AbortHandle> {
        let pair = self.pair.take()?;
        Some(tokio::spawn(pair.connection).abort_handle())
    }
}

/// Sends one request over `pair` and waits for the head of the response.
///
/// # Errors
///
/// With the request when the connection turned out to be closed before anything was written.
pub(super) fn exchange(
    owner: &Arc<Connections>,
    mut pair: Box<Pair>,
    mut request: Request<Body>,
) -> sending::Exchange {
    canonical(&mut request, owner);
    let request = request.map(|body| Outgoing::new(body, &pair.uploading));
    if wants_upgrade(&request) {
        return Box::pin(upgrade(owner.clone(), pair, request));
    }
    let response = unconstrained(pair.sender.try_send_request(request));
    Box::pin(Exchange { response, lease: Some(Lease::new(pair, owner)) })
}

pin_project! {
    /// Polls the connection until the head of the response is there.
    struct Exchange<F> {
        #[pin]
        response: F,
        lease: Option<Lease>,
    }
}

impl<F> Future for Exchange<F>
where
    F: Future<Output = Result<Response<Incoming>, TrySendError<Request<Outgoing>>>>,
{
    type Output = Result<Response<ResponseBody>, SendError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let mut muted = Context::from_waker(Waker::noop());
        if let Some(pair) = this.lease.as_mut().and_then(|lease| lease.pair.as_mut()) {
            pair.poll();
        }
        let head = match this.response.as_mut().poll(&mut muted) {
            Poll::Ready(head) => head,
            Poll::Pending => {
                let Some(lease) = this.lease else { return Poll::Pending };
                if let Some(pair) = lease.pair.as_ref().filter(|pair| !pair.closed) {
                    pair.listen(cx);
                    return Poll::Pending;
                }
                // A response future that still waits learns of the end from this drop.
                lease.pair = None;
                ready!(this.response.poll(&mut muted))
            }
        };
        Poll::Ready(match (head, this.lease.take()) {
            (Ok(response), Some(lease)) => lease.hand_over(response),
            (Ok(response), None) => {
                Ok(response.map(|incoming| ResponseBody::detached(incoming, None)))
            }
            (Err(mut failed), _) => {
                let request = failed.take_message();
                Err(send_error(failed.into_error(), request))
            }
        })
    }
}

/// Sends a request after which the connection may stop to be HTTP: `Upgrade` or CONNECT.
///
/// The connection becomes a task from the start, since hyper hands the raw stream over from
/// there. The stream counts as in use until it is dropped; a response that hands it over brings
/// its [`Held`], for whatever else lasts as long.
async fn upgrade(
    owner: Arc<Connections>,
    pair: Box<Pair>,
    request: Request<Outgoing>,
) -> Result<Response<ResponseBody>, SendError> {
    let Pair { mut sender, connection, held, .. } = *pair;
    held.keep(Active::new(&owner));
    let response = sender.try_send_request(request);
    let task = tokio::spawn(connection.with_upgrades()).abort_handle();
    match response.await {
        Ok(mut response) => {
            // Once the stream is handed over, its owner ends it.
            let handed_over = response.extensions().get::<OnUpgrade>().is_some();
            if handed_over {
                response.extensions_mut().insert(held);
            }
            let task = (!handed_over).then_some(task);
            Ok(response.map(|incoming| ResponseBody::detached(incoming, task)))
        }
        Err(mut failed) => {
            let request = failed.take_message();
            Err(send_error(failed.into_error(), request))
        }
    }
}

fn send_error(error: hyper::Error, request: Option<Request<Outgoing>>) -> SendError {
    match request {
        Some(request) => {
            let message = "the endpoint had closed the connection before the request was written";
            let error = Error::new(ErrorKind::ConnectionClosed, message).with_source(error);
            SendError::unsent(error, request.map(Outgoing::into_inner))
        }
        None => SendError::lost(error::of_http1(error)),
    }
}

fn wants_upgrade<B>(request: &Request<B>) -> bool {
    request.method() == Method::CONNECT || request.headers().contains_key(header::UPGRADE)
}

/// Writes the request as HTTP/1 wants it: the target in origin form, the authority in one `Host`.
///
/// Source: RFC 9112, section 3.2.
fn canonical(request: &mut Request<Body>, owner: &Connections) {
    *request.version_mut() = Version::HTTP_11;
    if request.method() != Method::CONNECT && request.uri().authority().is_some() {
        let Parts { authority, path_and_query, .. } =
            std::mem::take(request.uri_mut()).into_parts();
        let host = authority.as_ref().map_or("", |authority| host_port(authority.as_str()));
        if let Ok(host) = HeaderValue::from_str(host) {
            request.headers_mut().insert(header::HOST, host);
        }
        // A path alone is a whole target.
        let path = path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::from(path);
    } else if !fields::has(request.headers(), &header::HOST) {
        let host = HeaderValue::from_str(&owner.name());
        request.headers_mut().insert(header::HOST, host.unwrap_or(HeaderValue::from_static("")));
    }
}

/// An authority without its userinfo.
pub(super) fn host_port(authority: &str) -> &str {
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

/// The body as hyper takes it over; while a stream has not ended, the pair knows.
pub(super) struct Outgoing {
    body: Body,
    uploading: Option<Arc<AtomicBool>>,
}

impl Outgoing {
    fn new(body: Body, uploading: &Arc<AtomicBool>) -> Self {
        let uploading = body.is_stream().then(|| {
            uploading.store(true, Ordering::Release);
            Arc::clone(uploading)
        });
        Self { body, uploading }
    }

    fn into_inner(mut self) -> Body {
        std::mem::take(&mut self.body)
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if let Some(uploading) = &self.uploading {
            uploading.store(false, Ordering::Release);
        }
    }
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("closed", &self.closed).finish_non_exhaustive()
    }
}
