//! The response body on its way out: the handler's own, watched until it ends.

use super::record::Record;
use crate::report::stream::Stream;
use crate::{BoxError, answer, clock};
use bytes::Bytes;
use http::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};
use mesh_core::deadline::Expiry;
use mesh_core::{Error, ErrorKind};
use pin_project_lite::pin_project;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{self, Poll};
use tokio::time::{Sleep, sleep_until};

pin_project! {
    /// The handler's body, or that of an answer by the mesh.
    ///
    /// While it lasts, the request counts as served and the body is polled inside the request's
    /// [`Context`](super::Context). A gRPC stream whose deadline passes ends with `DEADLINE_EXCEEDED`, one whose
    /// body panics with `INTERNAL`; an HTTP body that panics ends with an error, so that the
    /// connection closes and the caller sees the answer cut short.
    pub struct ResponseBody<B> {
        #[pin]
        content: Content<B>,
        record: Option<Record>,
    }
}

pin_project! {
    #[project = ContentProjection]
    enum Content<B> {
        Handler { #[pin] body: B, #[pin] timer: Option<Sleep> },
        Mesh { text: Bytes },
        Reports { stream: Box<Stream> },
        Done,
    }
}

impl<B> ResponseBody<B> {
    /// Of an answer that tells of the server's load: reports at intervals, or nothing.
    pub(super) fn of_load(stream: Option<Stream>) -> Self {
        let content = match stream {
            Some(stream) => Content::Reports { stream: Box::new(stream) },
            None => Content::Done,
        };
        Self { content, record: None }
    }
}

impl<B> ResponseBody<B>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    pub(super) fn of_handler(mut response: Response<B>, mut record: Record) -> Response<Self> {
        record.head(&mut response);
        let expiry = record.context().expiry.filter(|_| record.is_grpc());
        response.map(|body| {
            record.progress(&body);
            let timer = expiry
                .filter(|_| !body.is_end_stream())
                .map(|Expiry(at)| sleep_until(clock::instant(at)));
            Self { content: Content::Handler { body, timer }, record: Some(record) }
        })
    }

    pub(super) fn of_mesh(error: &Error, mut record: Record) -> Response<Self> {
        let mut response = answer::response::<Bytes>(error, record.is_grpc());
        record.refuse(error, &mut response);
        response.map(|text| Self { content: Content::Mesh { text }, record: Some(record) })
    }
}

impl<B> HttpBody for ResponseBody<B>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        let end = match this.content.as_mut().project() {
            ContentProjection::Handler { mut body, timer } => {
                let Some(record) = this.record else { return Poll::Ready(None) };
                match record.run(|| body.as_mut().poll_frame(cx)) {
                    Ok(Poll::Ready(frame)) => {
                        let mut frame = frame.map(|frame| frame.map_err(Into::into));
                        record.frame(&mut frame);
                        record.progress(&*body);
                        return Poll::Ready(frame);
                    }
                    Ok(Poll::Pending) => match timer.as_pin_mut().map(|timer| timer.poll(cx)) {
                        None | Some(Poll::Pending) => return Poll::Pending,
                        Some(Poll::Ready(())) => {
                            Error::new(ErrorKind::Deadline, "the stream did not end in time")
                        }
                    },
                    Err(panic) => panic,
                }
            }
            ContentProjection::Mesh { text } => {
                let text = std::mem::take(text);
                this.content.set(Content::Done);
                return Poll::Ready((!text.is_empty()).then(|| Ok(Frame::data(text))));
            }
            ContentProjection::Reports { stream } => {
                return stream.poll_frame(cx).map(|frame| frame.map(Ok));
            }
            ContentProjection::Done => return Poll::Ready(None),
        };
        // Dropped before the caller hears of it: what the handler held is free again.
        this.content.set(Content::Done);
        let Some(record) = this.record else { return Poll::Ready(None) };
        let mut trailers = record.is_grpc().then(|| answer::trailers(&end));
        record.cut(&end, trailers.as_mut());
        Poll::Ready(Some(match trailers {
            Some(trailers) => Ok(Frame::trailers(trailers)),
            None => Err(end.into()),
        }))
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Handler { body, .. } => body.is_end_stream(),
            Content::Mesh { text } => text.is_empty(),
            Content::Reports { stream } => stream.is_over(),
            Content::Done => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Handler { body, .. } => body.size_hint(),
            Content::Mesh { text } => SizeHint::with_exact(text.len() as u64),
            Content::Reports { .. } => SizeHint::default(),
            Content::Done => SizeHint::with_exact(0),
        }
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.content {
            Content::Handler { .. } => "ResponseBody(handler)",
            Content::Mesh { .. } => "ResponseBody(mesh)",
            Content::Reports { .. } => "ResponseBody(load reports)",
            Content::Done => "ResponseBody(done)",
        })
    }
}
