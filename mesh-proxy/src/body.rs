//! Bodies on their way through, in both directions: streamed, never gathered.

use crate::access_log::Record;
use crate::hygiene;
use ::http::HeaderMap;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use mesh_tower::BoxError;
use mesh_tower::server::Place;
use pin_project_lite::pin_project;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

/// Whether the client's side of a request went wrong while it was passed on: then the answer is
/// 400, not the 502 that the endpoint's side would look like.
#[derive(Clone, Debug, Default)]
pub(crate) struct Upload(Arc<AtomicBool>);

impl Upload {
    /// Whether the body ended in an error of the client.
    pub(crate) fn has_failed(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A request body as the stack takes it: the client's, with trailers that cannot change the head.
#[derive(Debug)]
pub(crate) struct RequestBody {
    incoming: Incoming,
    upload: Upload,
}

impl RequestBody {
    /// The body, and the handle by which its failure is told apart from the endpoint's.
    pub(crate) fn new(incoming: Incoming) -> (Self, Upload) {
        let upload = Upload::default();
        (Self { incoming, upload: upload.clone() }, upload)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Poll::Ready(match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
            Some(Ok(frame)) => Some(Ok(clean(frame))),
            Some(Err(error)) => {
                self.upload.0.store(true, Ordering::Relaxed);
                Some(Err(error))
            }
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

fn clean(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            hygiene::trailers(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(data) => data,
    }
}

pin_project! {
    /// A response body: one we made, or the endpoint's.
    #[derive(Debug)]
    pub(crate) struct ResponseBody<B> {
        #[pin]
        source: Source<B>,
        // Written when the body ends or is dropped; `None` while nothing is logged.
        record: Option<Box<Record>>,
        // Given back when the body is over; `None` while calls are not counted.
        place: Option<Place>,
    }
}

pin_project! {
    #[project = SourceProject]
    #[derive(Debug)]
    enum Source<B> {
        Own { bytes: Bytes },
        Endpoint { #[pin] body: B },
    }
}

impl<B> From<Bytes> for ResponseBody<B> {
    fn from(bytes: Bytes) -> Self {
        Self { source: Source::Own { bytes }, record: None, place: None }
    }
}

impl<B> ResponseBody<B> {
    /// The endpoint's, whose call keeps its place until the body is over.
    pub(crate) const fn endpoint(body: B, place: Option<Place>) -> Self {
        Self { source: Source::Endpoint { body }, record: None, place }
    }

    /// Writes the record of an answer of our own.
    pub(crate) fn log_own(&mut self, mut record: Option<Box<Record>>) {
        if let (Some(record), Source::Own { bytes }) = (&mut record, &self.source)
            && bytes.is_empty()
        {
            record.complete();
        }
        self.record = record;
    }

    /// Writes the record when the body is over.
    pub(crate) fn log(&mut self, mut record: Option<Box<Record>>)
    where
        B: Body,
    {
        if self.source.is_end_stream()
            && let Some(record) = &mut record
        {
            record.complete();
        }
        self.record = record;
    }
}

impl<B: Body> Source<B> {
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own { bytes } => bytes.is_empty(),
            Self::Endpoint { body } => body.is_end_stream(),
        }
    }
}

impl<B> Body for ResponseBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut this = self.project();
        let frame = match this.source.as_mut().project() {
            SourceProject::Own { bytes } => {
                let bytes = std::mem::take(bytes);
                (!bytes.is_empty()).then(|| Ok(Frame::data(bytes)))
            }
            SourceProject::Endpoint { body } => ready!(body.poll_frame(cx)),
        };
        if let Some(record) = this.record {
            match &frame {
                Some(Ok(frame)) => {
                    record.sent(frame.data_ref().map_or(0, Bytes::len));
                    if let Some(trailers) = frame.trailers_ref() {
                        record.grpc_status(trailers);
                    }
                    if this.source.is_end_stream() {
                        record.complete();
                    }
                }
                Some(Err(_)) => record.truncated(),
                None => record.complete(),
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own { bytes } => SizeHint::with_exact(bytes.len() as u64),
            Source::Endpoint { body } => body.size_hint(),
        }
    }
}

/// Whether trailers or a head carry `grpc-status`, and which.
pub(crate) fn grpc_status(fields: &HeaderMap) -> Option<u8> {
    fields.get("grpc-status")?.to_str().ok()?.parse().ok()
}
