//! What a scripted endpoint does with a request.

use super::Slots;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use std::error::Error as StdError;
use std::fmt;
use std::future::pending;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

static FILL: [u8; 16 * 1024] = [b'x'; 16 * 1024];

/// What a scripted endpoint does with a request. By default: reads its body, then answers 200
/// without one.
#[derive(Clone, Debug)]
pub struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    delay: Duration,
    slots: Option<Slots>,
    content: Bytes,
    length: u64,
    cut: Option<u64>,
    trailers: Option<HeaderMap>,
    fate: Fate,
    reads_body: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Answer,
    Hang,
    Reset,
    Refuse,
}

impl Reply {
    /// Answers with this status.
    ///
    /// # Panics
    ///
    /// If it is no HTTP status.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self {
            status: StatusCode::from_u16(status).expect("an HTTP status"),
            headers: HeaderMap::new(),
            delay: Duration::ZERO,
            slots: None,
            content: Bytes::new(),
            length: 0,
            cut: None,
            trailers: None,
            fate: Fate::Answer,
            reads_body: true,
        }
    }

    /// Answers as a gRPC server does: an empty message, and this status in the trailers.
    #[must_use]
    pub fn grpc(code: u32) -> Self {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from(code));
        // Not compressed, length 0.
        let message = Bytes::from_static(&[0; 5]);
        let mut reply =
            Self::status(200).header("content-type", "application/grpc").content(message);
        reply.trailers = Some(trailers);
        reply
    }

    /// Answers as a gRPC server that fails before the first message: head only.
    #[must_use]
    pub fn grpc_trailers_only(code: u32) -> Self {
        let mut reply = Self::status(200).header("content-type", "application/grpc");
        reply.headers.insert("grpc-status", HeaderValue::from(code));
        reply
    }

    /// Never answers.
    #[must_use]
    pub fn hang() -> Self {
        Self { fate: Fate::Hang, ..Self::status(200) }
    }

    /// HTTP/1: resets the connection (RST). HTTP/2: resets the stream (INTERNAL_ERROR).
    #[must_use]
    pub fn reset() -> Self {
        Self { fate: Fate::Reset, ..Self::status(200) }
    }

    /// HTTP/2: resets the stream with REFUSED_STREAM: it was not processed. HTTP/1: as
    /// [`reset`](Self::reset).
    #[must_use]
    pub fn refuse_stream() -> Self {
        Self { fate: Fate::Refuse, ..Self::status(200) }.without_reading()
    }

    /// Waits before it does so.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Needs one of these for the time that it [waits](Self::after); answers 503 at once if their
    /// queue is full.
    #[must_use]
    pub fn within(mut self, slots: &Slots) -> Self {
        self.slots = Some(slots.clone());
        self
    }

    /// Sends this as the body.
    #[must_use]
    pub fn content(mut self, content: impl Into<Bytes>) -> Self {
        self.content = content.into();
        self
    }

    /// Sends a body of this many bytes, after the [`content`](Self::content) if there is some.
    #[must_use]
    pub fn body(mut self, length: u64) -> Self {
        self.length = length;
        self
    }

    /// Breaks off after this many bytes of the [`body`](Self::body).
    #[must_use]
    pub fn cut_after(mut self, bytes: u64) -> Self {
        self.cut = Some(bytes);
        self
    }

    /// Sends this field.
    ///
    /// # Panics
    ///
    /// If name or value is not fit for a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        let value = HeaderValue::from_str(value).expect("a header value");
        self.headers.append(HeaderName::from_static(name), value);
        self
    }

    /// Closes the connection after this answer (HTTP/1).
    #[must_use]
    pub fn close(self) -> Self {
        self.header("connection", "close")
    }

    /// Answers without reading the request's body.
    #[must_use]
    pub fn without_reading(mut self) -> Self {
        self.reads_body = false;
        self
    }

    pub(super) fn reads_body(&self) -> bool {
        self.reads_body
    }

    pub(super) async fn answer(
        mut self,
        reset: &AtomicBool,
    ) -> Result<Response<ReplyBody>, Broken> {
        if let Some(slots) = &self.slots {
            if !slots.serve(self.delay).await {
                self = Self::status(503);
            }
        } else if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        match self.fate {
            Fate::Answer => {}
            Fate::Hang => pending().await,
            Fate::Reset => {
                reset.store(true, Ordering::SeqCst);
                return Err(Broken::new("the script resets"));
            }
            Fate::Refuse => {
                reset.store(true, Ordering::SeqCst);
                return Err(Broken::new(h2::Error::from(h2::Reason::REFUSED_STREAM)));
            }
        }
        let mut response = Response::new(ReplyBody {
            content: self.content,
            left: self.length,
            cut: self.cut,
            trailers: self.trailers,
        });
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        Ok(response)
    }
}

/// The body of a scripted answer.
#[derive(Debug)]
pub struct ReplyBody {
    content: Bytes,
    left: u64,
    cut: Option<u64>,
    trailers: Option<HeaderMap>,
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if !self.content.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.content)))));
        }
        if self.cut == Some(0) {
            return Poll::Ready(Some(Err(Broken::new("the script cuts the body"))));
        }
        if self.left > 0 {
            let bound = self.left.min(self.cut.unwrap_or(u64::MAX));
            let length = usize::try_from(bound).unwrap_or(usize::MAX).min(FILL.len());
            self.left -= length as u64;
            self.cut = self.cut.map(|cut| cut - length as u64);
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&FILL[..length])))));
        }
        Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_empty() && self.left == 0 && self.cut != Some(0) && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.content.len() as u64 + self.left)
    }
}

/// A connection or stream broken on purpose.
#[derive(Debug)]
pub struct Broken(Box<dyn StdError + Send + Sync>);

impl Broken {
    pub(super) fn new(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self(source.into())
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for Broken {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.0)
    }
}
