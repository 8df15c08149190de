//! Exchange: one request and its response over one HTTP/2 stream.
//!
//! The request's body goes out while the response is waited for and, once that has begun, in a task
//! of its own. Both end their stream when they are dropped.
//!
//! Source: RFC 9113, section 8.

use super::Stream;
use crate::body::Body;
use crate::connect::body::{Abort, ResponseBody};
use crate::connect::error::{self, SendError};
use crate::connect::http1::host_port;
use crate::connect::sending;
use bytes::Bytes;
use futures_core::ready;
use h2::{Reason, RecvStream, SendStream};
use http::uri::{Authority, Parts, PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use http_body::{Body as _, Frame, SizeHint};
use mesh_core::{Error, ErrorKind};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Sends one request over `stream` and waits for the head of the response.
///
/// # Errors
///
/// With the request when the connection has ended before anything was handed to it.
pub(in crate::connect) fn exchange(
    stream: Stream,
    request: Request<Body>,
    secure: bool,
) -> sending::Exchange {
    match Exchange::start(stream, request, secure) {
        Ok(exchange) => Box::pin(exchange),
        Err(failed) => Box::pin(std::future::ready(Err(failed))),
    }
}

/// Sends what is left of the request until the head of the response is there.
struct Exchange {
    response: h2::client::ResponseFuture,
    upload: Option<Upload>,
    stream: Option<Stream>,
}

impl Exchange {
    fn start(stream: Stream, request: Request<Body>, secure: bool) -> Result<Self, SendError> {
        let mut sender = stream.0.sender.clone();
        let ready = sender.poll_ready(&mut Context::from_waker(Waker::noop()));
        if let Poll::Ready(Err(failed)) = ready {
            stream.0.retire();
            let message = "the endpoint had closed the connection before the request was written";
            let error = Error::new(ErrorKind::ConnectionClosed, message).with_source(failed);
            return Err(SendError::unsent(error, request));
        }
        let (mut head, body) = request.into_parts();
        if let Err(error) = canonical(&mut head, &body, secure) {
            return Err(SendError::unsent(error, Request::from_parts(head, body)));
        }
        let no_body = body.is_end_stream();
        let (response, sink) = match sender.send_request(Request::from_parts(head, ()), no_body) {
            Ok(started) => started,
            Err(error) => {
                let message = format!("the request cannot be written as HTTP/2: {error}");
                let kind = if error.is_io() || error.is_go_away() {
                    stream.0.retire();
                    ErrorKind::ConnectionClosed
                } else {
                    ErrorKind::CallerProtocol
                };
                return Err(SendError::lost(Error::new(kind, message).with_source(error)));
            }
        };
        drop(sender);
        let upload = (!no_body).then(|| Upload { body, sink, waiting: None });
        Ok(Self { response, upload, stream: Some(stream) })
    }
}

impl Future for Exchange {
    type Output = Result<Response<ResponseBody>, SendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Some(running) = &mut this.upload
            && let Poll::Ready(ended) = running.poll(cx)
        {
            this.upload = None;
            if let Err(error) = ended {
                return Poll::Ready(Err(SendError::lost(error)));
            }
        }
        let response = match ready!(Pin::new(&mut this.response).poll(cx)) {
            Ok(response) => response,
            Err(error) => return Poll::Ready(Err(SendError::lost(error::of_http2(error)))),
        };
        let upload = this.upload.take().map(|mut running| {
            // The caller may wait for the response before it goes on with the request, or the
            // other way round; only a task of its own serves both.
            let task = tokio::spawn(async move {
                let _ = poll_fn(|cx| running.poll(cx)).await;
            });
            Abort(task.abort_handle())
        });
        let rest = response
            .headers()
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse().ok());
        let stream = this.stream.take();
        Poll::Ready(Ok(response.map(|incoming| {
            ResponseBody::http2(Download {
                incoming,
                rest,
                data_done: false,
                _upload: upload,
                stream,
            })
        })))
    }
}

/// Writes the request as HTTP/2 wants it: scheme and authority in the target, and no field that
/// speaks of the connection.
///
/// Source: RFC 9113, sections 8.2.2 and 8.3.1.
fn canonical(head: &mut http::request::Parts, body: &Body, secure: bool) -> Result<(), Error> {
    let headers = &mut head.headers;
    if headers.contains_key(header::CONNECTION) {
        let listed: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in listed {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    for name in [
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
    ] {
        headers.remove(name);
    }
    if headers.get(header::TE).is_some_and(|te| te != "trailers") {
        headers.remove(header::TE);
    }
    let host = headers.remove(header::HOST);

    if let Some(length) = body.size_hint().exact()
        && (length > 0 || matches!(head.method, Method::POST | Method::PUT | Method::PATCH))
        && !headers.contains_key(header::CONTENT_LENGTH)
    {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }

    head.version = http::Version::HTTP_2;
    let scheme = if secure { Scheme::HTTPS } else { Scheme::HTTP };
    let settled = head.uri.scheme() == Some(&scheme)
        && head.uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    if settled || head.method == Method::CONNECT {
        return Ok(());
    }
    let Parts { authority, path_and_query, .. } = std::mem::take(&mut head.uri).into_parts();
    let authority = match (&authority, &host) {
        (Some(authority), _) => Authority::try_from(host_port(authority.as_str())).ok(),
        (None, Some(host)) => Authority::try_from(host.as_bytes()).ok(),
        (None, None) => None,
    };
    let mut parts = Parts::default();
    parts.path_and_query = Some(path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/")));
    if authority.is_some() {
        parts.scheme = Some(scheme);
        parts.authority = authority;
    }
    head.uri = Uri::from_parts(parts).map_err(|error| {
        Error::new(ErrorKind::CallerProtocol, "the request has no valid target").with_source(error)
    })?;
    Ok(())
}

/// The request's body on its way.
struct Upload {
    body: Body,
    sink: SendStream<Bytes>,
    /// Data that waits for room, and whether it is the last.
    waiting: Option<(Bytes, bool)>,
}

impl Upload {
    /// Ready when the whole body is handed over, or nobody wants the rest.
    ///
    /// # Errors
    ///
    /// The body's own; what the connection says, the response says as well.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            while self.waiting.is_some() && self.sink.capacity() == 0 {
                match self.sink.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Ok(())),
                    Poll::Pending => return self.poll_reset(cx),
                }
            }
            if let Some((data, last)) = self.waiting.take() {
                if self.sink.send_data(data, last).is_ok() && !last {
                    continue;
                }
                return Poll::Ready(Ok(()));
            }
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
                return self.poll_reset(cx);
            };
            let sent = match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => {
                    let last = self.body.is_end_stream();
                    // A body in memory takes no room before it is handed over either way. Room is
                    // asked for once there is data: kept without, it would be missing to others.
                    if self.body.is_stream() && !data.is_empty() {
                        self.sink.reserve_capacity(1);
                        self.waiting = Some((data, last));
                        continue;
                    }
                    let sent = self.sink.send_data(data, last);
                    if !last && sent.is_ok() {
                        continue;
                    }
                    sent
                }
                Some(Ok(Err(other))) => match other.into_trailers() {
                    Ok(trailers) => self.sink.send_trailers(trailers),
                    Err(_unknown) => continue,
                },
                Some(Err(error)) => {
                    self.sink.send_reset(Reason::CANCEL);
                    let message = format!("the request's body failed: {error}");
                    let error = Error::new(ErrorKind::CallerGone, message).with_source(error);
                    return Poll::Ready(Err(error.after_send()));
                }
                None => self.sink.send_data(Bytes::new(), true),
            };
            // A refusal means that the stream has ended, which the response tells.
            let _ = sent;
            return Poll::Ready(Ok(()));
        }
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.sink.poll_reset(cx).map(|_| Ok(()))
    }
}

/// The response's body on its way.
pub(in crate::connect) struct Download {
    incoming: RecvStream,
    /// Bytes still to come, where the endpoint has said it.
    rest: Option<u64>,
    data_done: bool,
    _upload: Option<Abort>,
    stream: Option<Stream>,
}

impl Download {
    pub(in crate::connect) fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    pub(in crate::connect) fn size_hint(&self) -> SizeHint {
        if self.is_end_stream() {
            return SizeHint::with_exact(0);
        }
        self.rest.map_or_else(SizeHint::default, SizeHint::with_exact)
    }

    pub(in crate::connect) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if !self.data_done {
            match ready!(self.incoming.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Fails only when the stream has ended, and then nobody counts any more.
                    let _ = self.incoming.flow_control().release_capacity(data.len());
                    self.rest = self.rest.map(|rest| rest.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(self.end(Some(error))),
                None => self.data_done = true,
            }
        }
        match ready!(self.incoming.poll_trailers(cx)) {
            Ok(Some(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Ok(None) => Poll::Ready(self.end(None)),
            Err(error) => Poll::Ready(self.end(Some(error))),
        }
    }

    /// Lets the stream go. A reset without error ends a body that misses nothing
    /// (RFC 9113, section 8.1).
    fn end(&mut self, error: Option<h2::Error>) -> Option<Result<Frame<Bytes>, Error>> {
        self.stream = None;
        let error = error?;
        if error.reason() == Some(Reason::NO_ERROR) && self.rest.unwrap_or(0) == 0 {
            return None;
        }
        Some(Err(error::of_http2(error).after_send()))
    }
}
