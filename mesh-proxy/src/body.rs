//! Bodies on their way through, in both directions: streamed, never gathered.

use crate::hygiene;
use crate::served::Served;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use mesh_tower::BoxError;
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
        // Told when the body ends or is dropped.
        served: Option<Served>,
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

impl<B> ResponseBody<B> {
    /// Of an answer that is a head and nothing else, and is told nowhere.
    pub(crate) const fn empty() -> Self {
        Self { source: Source::Own { bytes: Bytes::new() }, served: None }
    }

    /// Of an answer of our own.
    pub(crate) const fn own(bytes: Bytes, served: Served) -> Self {
        Self { source: Source::Own { bytes }, served: Some(served) }
    }

    /// The endpoint's. What is `None` has been told already.
    pub(crate) const fn endpoint(body: B, served: Option<Served>) -> Self {
        Self { source: Source::Endpoint { body }, served }
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
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        let frame = match this.source.as_mut().project() {
            SourceProject::Own { bytes } => {
                let bytes = std::mem::take(bytes);
                (!bytes.is_empty()).then(|| Ok(Frame::data(bytes)))
            }
            SourceProject::Endpoint { body } => {
                let mut frame = ready!(body.poll_frame(cx)).map(|frame| frame.map_err(Into::into));
                if let (Some(Ok(frame)), Some(served)) = (&mut frame, &mut *this.served) {
                    served.pass(frame);
                }
                frame
            }
        };
        if let Some(served) = this.served {
            let last = this.source.is_end_stream();
            match &frame {
                Some(frame) => served.frame(frame, last),
                None => served.complete(),
            }
            if last || !matches!(frame, Some(Ok(_))) {
                *this.served = None;
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
