//! Stream: reports that a caller gets at intervals, whether it calls or not.
//!
//! `xds.service.orca.v3.OpenRcaService/StreamCoreMetrics`, which the inbound stack answers by itself,
//! beside whatever the application serves, to callers that may have reports:
//!
//! ```text
//! OrcaLoadReportRequest { 1: Duration { 1: seconds, 2: nanos }, 2: names of costs }
//!   ──► OrcaLoadReport at once, and again every interval … ──► OK
//! ```
//!
//! *Bounded*: an interval is at least [`SHORTEST`], and [`UNSAID`] where the request does not say;
//! [`MOST`] streams at once, further ones are RESOURCE_EXHAUSTED; a stream ends after [`LIFE`], or when
//! a listener of its mesh begins to drain, so that no shutdown waits for one. The caller begins
//! another. The request must come within [`HURRY`] and have at most [`MESSAGE`] bytes.
//!
//! A stream is no call: it takes no place and counts in no metrics of calls.
//!
//! Source: cncf/xds `orca.proto`; gRFC A51.

use super::{Form, LoadReports, Reports};
use crate::listen::Drains;
use crate::{clock, grpc};
use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, header};
use http_body::{Body as HttpBody, Frame};
use mesh_core::GrpcCode;
use mesh_core::load::report::StreamRequest;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// The method's path.
pub(crate) const METHOD: &str = "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics";

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Shortest interval between reports.
const SHORTEST: Duration = Duration::from_secs(1);
/// Interval where none is asked for: gRFC A58.
const UNSAID: Duration = Duration::from_secs(10);
/// Longest interval: what is longer is as good as never.
const LONGEST: Duration = Duration::from_secs(3600);
/// Streams of a server at once.
const MOST: usize = 1_000;
/// How long a stream lasts.
const LIFE: Duration = Duration::from_secs(60);
/// How often it is looked whether the server drains.
const LOOK: Duration = Duration::from_millis(500);
/// How long the request may take.
const HURRY: Duration = Duration::from_secs(5);
/// Longest request that is read.
const MESSAGE: usize = 4096;

/// Whether a request asks for a stream, and its caller may have one. `trusted`: it is believed, or
/// has proved who it is.
pub(crate) fn is_asked<B>(
    policy: LoadReports,
    trusted: impl FnOnce() -> bool,
    request: &Request<B>,
) -> bool {
    request.method() == Method::POST
        && request.uri().path() == METHOD
        && mesh_core::is_grpc(request.headers())
        && match policy {
            // To call the method is to ask.
            LoadReports::Asked => trusted(),
            policy => Form::granted(policy, false, request.headers()).is_some(),
        }
}

/// One that asks, until it is known how often it wants to be told.
pub(crate) struct Subscribing<B> {
    body: Pin<Box<B>>,
    buffer: BytesMut,
    hurry: Pin<Box<Sleep>>,
    reports: Arc<Reports>,
    drains: Arc<Drains>,
}

impl<B: HttpBody> Subscribing<B> {
    /// Of the body of a request that [asks](is_asked) for it.
    pub(crate) fn new(body: B, reports: &Arc<Reports>, drains: &Arc<Drains>) -> Self {
        Self {
            body: Box::pin(body),
            buffer: BytesMut::new(),
            hurry: Box::pin(sleep(HURRY)),
            reports: reports.clone(),
            drains: drains.clone(),
        }
    }

    /// The answer: a head, and its stream unless it is refused.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(Response<()>, Option<Stream>)> {
        let interval = match self.poll_interval(cx) {
            Poll::Ready(interval) => interval,
            Poll::Pending => {
                ready!(self.hurry.as_mut().poll(cx));
                Err((GrpcCode::DEADLINE_EXCEEDED, "the request did not come"))
            }
        };
        let stream = interval.and_then(|interval| {
            Stream::begin(&self.reports, &self.drains, interval)
                .ok_or((GrpcCode::RESOURCE_EXHAUSTED, "too many streams of load reports"))
        });
        let mut head = Response::new(());
        let fields = head.headers_mut();
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        Poll::Ready(match stream {
            Ok(stream) => (head, Some(stream)),
            Err((code, message)) => {
                fields.insert(GRPC_STATUS, HeaderValue::from(code.number()));
                fields.insert(GRPC_MESSAGE, HeaderValue::from_static(message));
                (head, None)
            }
        })
    }

    fn poll_interval(&mut self, cx: &mut Context<'_>) -> Poll<Result<Duration, Refusal>> {
        const BAD: Refusal = (GrpcCode::INVALID_ARGUMENT, "no OrcaLoadReportRequest");
        loop {
            match grpc::split(&mut self.buffer, MESSAGE) {
                Ok(Some(message)) => return Poll::Ready(granted(&message).ok_or(BAD)),
                Ok(None) => {}
                Err(_) => return Poll::Ready(Err(BAD)),
            }
            match ready!(self.body.as_mut().poll_frame(cx)).map(|frame| frame.map(Frame::into_data))
            {
                Some(Ok(Ok(mut data))) => {
                    while data.has_remaining() && self.buffer.len() <= MESSAGE {
                        let chunk = data.chunk();
                        let length = chunk.len();
                        self.buffer.extend_from_slice(chunk);
                        data.advance(length);
                    }
                }
                Some(Ok(Err(_trailers))) => {}
                Some(Err(_)) | None => return Poll::Ready(Err(BAD)),
            }
        }
    }
}

type Refusal = (GrpcCode, &'static str);

impl<B> fmt::Debug for Subscribing<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscribing").finish_non_exhaustive()
    }
}

/// The interval that a request asks for, as far as it is granted; `None` if it is no request.
fn granted(message: &[u8]) -> Option<Duration> {
    let interval = StreamRequest::from_binary(message).ok()?.interval.unwrap_or_default();
    Some(if interval.is_zero() { UNSAID } else { interval.clamp(SHORTEST, LONGEST) })
}

/// Reports at intervals: the body of an answer.
pub(crate) struct Stream {
    counted: Counted,
    drains: Arc<Drains>,
    interval: Duration,
    due: Instant,
    ends: Instant,
    timer: Pin<Box<Sleep>>,
    over: bool,
}

impl Stream {
    fn begin(reports: &Arc<Reports>, drains: &Arc<Drains>, interval: Duration) -> Option<Self> {
        let counted = Counted::new(reports)?;
        reports.want();
        let now = Instant::now();
        Some(Self {
            counted,
            drains: drains.clone(),
            interval,
            due: now,
            ends: now + LIFE,
            timer: Box::pin(sleep(Duration::ZERO)),
            over: false,
        })
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        loop {
            if self.over {
                return Poll::Ready(None);
            }
            let now = Instant::now();
            if now >= self.ends || self.drains.any_started() {
                self.over = true;
                let mut trailers = HeaderMap::new();
                trailers.insert(GRPC_STATUS, HeaderValue::from(GrpcCode::OK.number()));
                return Poll::Ready(Some(Frame::trailers(trailers)));
            }
            if now >= self.due {
                self.due = now + self.interval;
                let report = self.counted.0.reporter().report(clock::now());
                return Poll::Ready(Some(Frame::data(grpc::frame(&report.to_binary()).into())));
            }
            let next = (now + LOOK).min(self.due).min(self.ends);
            self.timer.as_mut().reset(next);
            ready!(self.timer.as_mut().poll(cx));
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("interval", &self.interval).finish_non_exhaustive()
    }
}

/// One of the streams of a server.
struct Counted(Arc<Reports>);

impl Counted {
    fn new(reports: &Arc<Reports>) -> Option<Self> {
        if reports.streams.fetch_add(1, Relaxed) >= MOST {
            reports.streams.fetch_sub(1, Relaxed);
            return None;
        }
        Some(Self(reports.clone()))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{Full, StreamBody};
    use mesh_core::load::Report;
    use std::future::poll_fn;

    async fn begin(
        reports: &Arc<Reports>,
        drains: &Arc<Drains>,
        message: &[u8],
    ) -> (GrpcCode, Option<Stream>) {
        let mut asking =
            Subscribing::new(Full::new(Bytes::from(grpc::frame(message))), reports, drains);
        let (head, stream) = poll_fn(|cx| asking.poll(cx)).await;
        (GrpcCode::from_headers(head.headers()).unwrap_or(GrpcCode::OK), stream)
    }

    fn every(seconds: u64) -> Vec<u8> {
        let mut request = StreamRequest::default();
        request.interval = Some(Duration::from_secs(seconds));
        request.to_binary()
    }

    /// What is told at which second, to the end.
    async fn told(stream: &mut Stream) -> Vec<u64> {
        let (start, mut at) = (Instant::now(), Vec::new());
        while let Some(frame) = poll_fn(|cx| stream.poll_frame(cx)).await {
            let Ok(data) = frame.into_data() else { break };
            let mut buffer = BytesMut::from(&data[..]);
            let message = grpc::split(&mut buffer, MESSAGE).expect("a message").expect("whole");
            assert_eq!(Report::from_binary(&message, &[]).expect("a report").in_flight, Some(0));
            at.push(start.elapsed().as_secs());
        }
        at
    }

    #[tokio::test(start_paused = true)]
    async fn reports_come_at_once_and_at_the_interval_until_the_stream_has_lived() {
        let (reports, drains) = (Arc::default(), Arc::default());
        for (message, interval) in
            [(every(7), 7), (every(0), 10), (vec![], 10), (every(1 << 40), 3600)]
        {
            let (code, stream) = begin(&reports, &drains, &message).await;
            assert_eq!(code, GrpcCode::OK);
            let expected: Vec<u64> = (0..60).filter(|second| second % interval == 0).collect();
            assert_eq!(told(&mut stream.expect("granted")).await, expected);
        }
        let mut short = StreamRequest::default();
        short.interval = Some(Duration::from_nanos(1));
        let (_, stream) = begin(&reports, &drains, &short.to_binary()).await;
        assert_eq!(told(&mut stream.expect("granted")).await.len(), 60, "a second is the shortest");
        assert_eq!(reports.streams.load(Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_drains_ends_its_streams() {
        let (reports, drains) = (Arc::default(), Arc::<Drains>::default());
        let listener = crate::Listener::bind("127.0.0.1:0", None).await.expect("a free port");
        drains.add(listener.drain());
        let (_, stream) = begin(&reports, &drains, &every(10)).await;
        let mut stream = stream.expect("granted");
        let ends = tokio::spawn(async move { told(&mut stream).await });
        tokio::time::sleep(Duration::from_secs(15)).await;
        listener.drain().start();
        assert_eq!(ends.await.expect("no panic"), [0, 10]);
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_so_many_streams_and_no_more() {
        let (reports, drains) = (Arc::default(), Arc::default());
        let mut open = Vec::new();
        for _ in 0..MOST {
            open.push(begin(&reports, &drains, &every(10)).await.1.expect("granted"));
        }
        let (code, stream) = begin(&reports, &drains, &every(10)).await;
        assert_eq!((code, stream.is_some()), (GrpcCode::RESOURCE_EXHAUSTED, false));
        open.pop();
        assert!(begin(&reports, &drains, &every(10)).await.1.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_none_or_does_not_come_is_refused() {
        let (reports, drains) = (Arc::default(), Arc::default());
        let (code, _) = begin(&reports, &drains, &[0x0b]).await;
        assert_eq!(code, GrpcCode::INVALID_ARGUMENT);
        let (code, _) = begin(&reports, &drains, &[0; MESSAGE + 1]).await;
        assert_eq!(code, GrpcCode::INVALID_ARGUMENT);
        let never = StreamBody::new(tokio_stream::pending::<Result<Frame<Bytes>, crate::Error>>());
        let mut asking = Subscribing::new(never, &reports, &drains);
        let (head, _) = poll_fn(|cx| asking.poll(cx)).await;
        assert_eq!(GrpcCode::from_headers(head.headers()), Some(GrpcCode::DEADLINE_EXCEEDED));
    }
}
