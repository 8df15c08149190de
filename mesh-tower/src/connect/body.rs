//! The body of a response, which holds on to its connection.

use super::error;
use super::http1::Lease;
use super::http2::Download;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use mesh_core::Error;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::task::AbortHandle;

/// The body of a response.
///
/// Read to its end, it gives its connection to the next call. Dropped before, it cancels: HTTP/1
/// closes the connection, HTTP/2 resets the stream. Reading slowly slows the endpoint down:
/// nothing is read from an HTTP/1 socket, and no more than the stream's window from HTTP/2,
/// while nobody polls.
pub struct ResponseBody(State);

enum State {
    /// This body polls the connection.
    Driven {
        incoming: Incoming,
        lease: Option<Lease>,
    },
    /// The rest of the body is in memory, or a task drives the connection.
    Detached {
        incoming: Incoming,
        _task: Option<Abort>,
    },
    Http2(Download),
    /// Made by us; nothing of an endpoint is in it.
    Own(Bytes),
}

/// Ends a task when dropped.
pub(super) struct Abort(pub(super) AbortHandle);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl ResponseBody {
    pub(super) fn driven(incoming: Incoming, lease: Lease) -> Self {
        Self(State::Driven { incoming, lease: Some(lease) })
    }

    pub(super) fn detached(incoming: Incoming, task: Option<AbortHandle>) -> Self {
        Self(State::Detached { incoming, _task: task.map(Abort) })
    }

    pub(super) fn http2(download: Download) -> Self {
        Self(State::Http2(download))
    }
}

/// The body of an answer that no endpoint made.
impl From<Bytes> for ResponseBody {
    fn from(bytes: Bytes) -> Self {
        Self(State::Own(bytes))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = match &mut self.0 {
            State::Http2(download) => return download.poll_frame(cx),
            State::Own(bytes) if bytes.is_empty() => return Poll::Ready(None),
            State::Own(bytes) => return Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            State::Detached { incoming, .. } => Pin::new(incoming).poll_frame(cx),
            State::Driven { incoming, lease } => {
                let frame = match lease {
                    Some(lease) => lease.poll_frame(incoming, cx),
                    None => Pin::new(&mut *incoming).poll_frame(cx),
                };
                let ended = match &frame {
                    Poll::Ready(Some(Ok(_))) => {
                        incoming.is_end_stream() && lease.as_ref().is_some_and(Lease::is_over)
                    }
                    Poll::Ready(_) => true,
                    Poll::Pending => false,
                };
                if ended && let Some(lease) = lease.take() {
                    lease.finish();
                }
                frame
            }
        };
        frame.map(|frame| frame.map(|frame| frame.map_err(error::of_http1)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            State::Driven { incoming, .. } | State::Detached { incoming, .. } => {
                incoming.is_end_stream()
            }
            State::Http2(download) => download.is_end_stream(),
            State::Own(bytes) => bytes.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            State::Driven { incoming, .. } | State::Detached { incoming, .. } => {
                incoming.size_hint()
            }
            State::Http2(download) => download.size_hint(),
            State::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            State::Driven { .. } => "ResponseBody(HTTP/1)",
            State::Detached { .. } => "ResponseBody(HTTP/1, own task)",
            State::Http2(_) => "ResponseBody(HTTP/2)",
            State::Own(_) => "ResponseBody(own)",
        })
    }
}
