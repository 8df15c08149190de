//! A streaming request body that can be sent more than once.
//!
//! The [`Tape`] records frames while the first attempt reads them; a further attempt reads the
//! recorded ones and then goes on with the source. Frames are shared, not copied.
//!
//! ```text
//! recording ── source ends ──────────────► repeatable for good
//!     ├────── more than `limit` bytes ───► sent once: the tape is let go
//!     ├────── the source fails ──────────► sent once: the caller's own error
//!     └────── nobody may ask for another ► sent once: the tape is let go
//! ```
//!
//! One attempt at a time owns the source; once it is read in full, several may read the tape.
//! An attempt that is over may still have its body read
//! by a connection for a moment; from the next attempt on, that reader gets an error instead of
//! frames, which resets its stream.
//!
//! The body also tells [`Sent`] when it is through, for timeouts that count from then.
//!
//! Units: `limit` counts bytes of data; trailers are kept beside them. So many small frames that
//! keeping them takes ten times the limit are more than the limit too.
//! Source: linkerd2-proxy, `http/retry/replay`.

use crate::body::{Body, BoxError};
use crate::deadline::Sent;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// What was read so far, and where the rest comes from.
#[derive(Debug)]
pub(crate) struct Tape(Arc<Mutex<Shared>>);

#[derive(Debug)]
struct Shared {
    source: Body,
    ended: bool,
    frames: Vec<Recorded>,
    bytes: u64,
    limit: u64,
    repeatable: bool,
    /// The attempt that owns the source: 1 for the first.
    attempt: u32,
    sent: Option<Arc<Sent>>,
}

#[derive(Clone, Debug)]
enum Recorded {
    Data(Bytes),
    Trailers(Box<HeaderMap>),
}

impl Tape {
    pub(crate) fn new(source: Body, limit: u64, sent: Option<Arc<Sent>>) -> Self {
        Self(Arc::new(Mutex::new(Shared {
            source,
            ended: false,
            frames: Vec::new(),
            bytes: 0,
            limit,
            repeatable: true,
            attempt: 0,
            sent,
        })))
    }

    /// Whether another attempt can have the body from its first byte.
    pub(crate) fn is_repeatable(&self) -> bool {
        self.0.lock().repeatable
    }

    /// The body for the next attempt, from its first byte; `None` once it cannot be repeated.
    pub(crate) fn play(&self) -> Option<Replay> {
        let mut shared = self.0.lock();
        if !shared.repeatable {
            return None;
        }
        shared.attempt += 1;
        if let Some(sent) = &shared.sent {
            sent.begin();
        }
        Some(Replay { shared: self.0.clone(), attempt: shared.attempt, next: 0 })
    }

    /// The body for an attempt beside the one that has it, once all of it is recorded; takes
    /// nothing from that one.
    pub(crate) fn copy(&self) -> Option<Replay> {
        let shared = self.0.lock();
        let whole = shared.repeatable && (shared.ended || shared.source.is_end_stream());
        whole.then(|| Replay { shared: self.0.clone(), attempt: shared.attempt, next: 0 })
    }
}

/// The body of one attempt.
#[derive(Debug)]
pub(crate) struct Replay {
    shared: Arc<Mutex<Shared>>,
    attempt: u32,
    /// The next frame of the tape to send.
    next: usize,
}

impl Replay {
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let wanted = Arc::strong_count(&self.shared) > 1;
        let mut shared = self.shared.lock();
        if shared.attempt != self.attempt {
            return Poll::Ready(Some(Err("another attempt took the request body over".into())));
        }
        if let Some(frame) = shared.frames.get(self.next) {
            self.next += 1;
            return Poll::Ready(Some(Ok(frame.clone().into())));
        }
        if shared.ended {
            return Poll::Ready(None);
        }
        let frame = ready!(std::pin::Pin::new(&mut shared.source).poll_frame(cx));
        if let Some(sent) = &shared.sent {
            sent.moved();
        }
        match &frame {
            Some(Ok(frame)) if wanted => shared.record(frame),
            None => shared.ended = true,
            Some(_) => shared.let_go(),
        }
        if frame.is_none() || shared.source.is_end_stream() {
            shared.sent();
        }
        self.next = shared.frames.len();
        Poll::Ready(frame)
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        let shared = self.shared.lock();
        self.next >= shared.frames.len() && (shared.ended || shared.source.is_end_stream())
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        let shared = self.shared.lock();
        let recorded = shared.frames.iter().skip(self.next).map(Recorded::len).sum::<u64>();
        let rest = shared.source.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(recorded.saturating_add(rest.lower()));
        if let Some(upper) = rest.upper() {
            hint.set_upper(recorded.saturating_add(upper));
        }
        hint
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        let shared = self.shared.lock();
        if shared.attempt == self.attempt {
            shared.sent();
        }
    }
}

impl Shared {
    fn sent(&self) {
        if let Some(sent) = &self.sent {
            sent.end();
        }
    }

    fn record(&mut self, frame: &Frame<Bytes>) {
        if !self.repeatable {
            return;
        }
        if let Some(data) = frame.data_ref().filter(|data| !data.is_empty()) {
            self.bytes = self.bytes.saturating_add(data.len() as u64);
            // A frame takes room whatever is in it: ten times the limit at most.
            let room = self.frames.len().saturating_mul(size_of::<Recorded>()) as u64;
            if self.bytes > self.limit || room > self.limit.saturating_mul(9) {
                self.let_go();
            } else {
                self.frames.push(Recorded::Data(data.clone()));
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            self.frames.push(Recorded::Trailers(Box::new(trailers.clone())));
        }
    }

    fn let_go(&mut self) {
        self.repeatable = false;
        self.frames = Vec::new();
    }
}

impl Recorded {
    fn len(&self) -> u64 {
        match self {
            Self::Data(data) => data.len() as u64,
            Self::Trailers(_) => 0,
        }
    }
}

impl From<Recorded> for Frame<Bytes> {
    fn from(recorded: Recorded) -> Self {
        match recorded {
            Recorded::Data(data) => Self::data(data),
            Recorded::Trailers(trailers) => Self::trailers(*trailers),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use http_body_util::BodyExt;
    use std::pin::Pin;
    use tokio::sync::mpsc;

    type Item = Result<Frame<Bytes>, BoxError>;

    /// A body that the test feeds.
    struct Fed(mpsc::Receiver<Item>);

    impl HttpBody for Fed {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Item>> {
            self.0.poll_recv(cx)
        }
    }

    fn fed(limit: u64) -> (mpsc::Sender<Item>, Tape) {
        let (feed, frames) = mpsc::channel(16);
        (feed, Tape::new(Body::new(Fed(frames)), limit, None))
    }

    fn data(text: &'static str) -> Item {
        Ok(Frame::data(Bytes::from_static(text.as_bytes())))
    }

    async fn read(body: &mut Body) -> Option<Bytes> {
        body.frame().await.map(|frame| frame.expect("a frame").into_data().expect("data"))
    }

    fn play(tape: &Tape) -> Body {
        tape.play().expect("repeatable").into()
    }

    #[tokio::test]
    async fn a_further_attempt_reads_the_tape_and_goes_on_with_the_source() {
        let (feed, tape) = fed(100);
        feed.try_send(data("one")).expect("room");
        let mut first = play(&tape);
        assert_eq!(read(&mut first).await.as_deref(), Some(&b"one"[..]));

        let mut second = play(&tape);
        feed.try_send(data("two")).expect("room");
        drop(feed);
        assert_eq!(second.collect().await.expect("whole").to_bytes(), "onetwo");
        second = play(&tape);
        assert_eq!(second.collect().await.expect("whole").to_bytes(), "onetwo");
    }

    #[tokio::test]
    async fn trailers_are_repeated() {
        let (feed, tape) = fed(100);
        let mut trailers = HeaderMap::new();
        trailers.insert("checksum", HeaderValue::from_static("7"));
        feed.try_send(data("one")).expect("room");
        feed.try_send(Ok(Frame::trailers(trailers.clone()))).expect("room");
        drop(feed);
        for _ in 0..2 {
            let collected = play(&tape).collect().await.expect("whole");
            assert_eq!(collected.trailers(), Some(&trailers));
        }
    }

    #[tokio::test]
    async fn more_than_the_limit_is_sent_once() {
        let (feed, tape) = fed(5);
        feed.try_send(data("12345")).expect("room");
        let mut first = play(&tape);
        assert!(read(&mut first).await.is_some());
        let mut second = play(&tape);
        feed.try_send(data("6")).expect("room");
        drop(feed);
        assert_eq!(read(&mut second).await.as_deref(), Some(&b"12345"[..]));
        assert_eq!(read(&mut second).await.as_deref(), Some(&b"6"[..]));
        assert!(second.frame().await.is_none(), "the attempt under way goes on");
        assert!(tape.play().is_none());
    }

    #[tokio::test]
    async fn frames_without_end_are_more_than_the_limit_however_small() {
        let tape = |length: usize, limit| {
            let frame = move |_| Ok::<_, BoxError>(Frame::data(Bytes::from(vec![7; length])));
            let body = http_body_util::StreamBody::new(tokio_stream::iter((0..100_000).map(frame)));
            Tape::new(Body::new(body), limit, None)
        };
        for (length, limit, repeatable, kept) in
            [(1, 1 << 20, true, 100_000), (1, 100_000, false, 0), (0, 100, true, 0)]
        {
            let tape = tape(length, limit);
            play(&tape).collect().await.expect("whole");
            let seen = (tape.is_repeatable(), tape.0.lock().frames.len());
            assert_eq!(seen, (repeatable, kept), "{length} {limit}");
        }
    }

    #[tokio::test]
    async fn the_callers_own_error_is_not_repeated() {
        let (feed, tape) = fed(100);
        feed.try_send(Err("disk".into())).expect("room");
        let error = play(&tape).frame().await.expect("a frame").expect_err("the caller's");
        assert_eq!(error.to_string(), "disk");
        assert!(tape.play().is_none());
    }

    #[tokio::test]
    async fn once_nobody_can_ask_for_another_nothing_is_kept() {
        let (feed, tape) = fed(100);
        let replay = tape.play().expect("repeatable");
        let shared = Arc::downgrade(&replay.shared);
        drop(tape);
        feed.try_send(data("one")).expect("room");
        let mut body = Body::from(replay);
        assert!(read(&mut body).await.is_some());
        assert!(shared.upgrade().expect("the body has it").lock().frames.is_empty());
    }

    #[tokio::test]
    async fn an_attempt_that_is_over_gets_no_more_frames() {
        let (feed, tape) = fed(100);
        feed.try_send(data("one")).expect("room");
        let mut first = play(&tape);
        let mut second = play(&tape);
        assert!(first.frame().await.expect("a frame").is_err());
        assert_eq!(read(&mut second).await.as_deref(), Some(&b"one"[..]));
    }

    #[tokio::test]
    async fn what_is_recorded_in_full_is_sent_to_several_at_once() {
        let (feed, tape) = fed(100);
        feed.try_send(data("one")).expect("room");
        let mut first = play(&tape);
        assert!(tape.copy().is_none());
        assert_eq!(read(&mut first).await.as_deref(), Some(&b"one"[..]));
        assert!(tape.copy().is_none(), "there may be more");
        feed.try_send(data("two")).expect("room");
        drop(feed);
        assert_eq!(read(&mut first).await.as_deref(), Some(&b"two"[..]));
        assert!(first.frame().await.is_none());
        let copies = [tape.copy().expect("whole"), tape.copy().expect("whole")];
        for copy in copies {
            assert_eq!(Body::from(copy).collect().await.expect("whole").to_bytes(), "onetwo");
        }
        assert!(first.frame().await.is_none(), "nothing was taken from it");
    }

    #[tokio::test]
    async fn sizes_are_those_of_what_is_still_to_come() {
        let sized = http_body_util::Full::new(Bytes::from_static(b"12345"));
        let tape = Tape::new(Body::new(sized), 100, None);
        let mut first = play(&tape);
        assert_eq!(first.size_hint().exact(), Some(5));
        assert!(read(&mut first).await.is_some());
        assert_eq!(first.size_hint().exact(), Some(0));
        assert!(first.is_end_stream());
        let second = play(&tape);
        assert_eq!(second.size_hint().exact(), Some(5));
        assert!(!second.is_end_stream());
    }
}
