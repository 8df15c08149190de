//! Mirror: sends copies of requests to another destination, and throws the answers away.
//!
//! ```text
//! request ─┬─► the layers below ─► answer to the caller
//!          └─► copy, authority + `-shadow` ─► the same layers, another destination ─► thrown away
//! ```
//!
//! A copy is made of the request as it is sent, after edits and rewrite. It has the deadline of its
//! own destination, not that of the call, and is not retried; the whole of it may take no longer than
//! that destination's `timeouts.request`, however slowly the request comes. The call waits for nothing of
//! it and learns nothing of it: a body in memory is shared, a stream is passed on frame by frame as
//! the call reads it, and a copy that falls more than 256 KiB behind is given up. So is what comes
//! when 1,024 copies are under way. Upgrades are not copied.
//!
//! Copies count as calls of the destination that gets them.
//! Metrics of that destination: `mesh.mirror.copies`, `mesh.mirror.dropped`.
//! Order: in [`Route`](crate::route::Route), after the filters that change the request.
//! Source: Gateway API `HTTPRequestMirrorFilter`; Envoy, `request_mirror_policies`.

use crate::body::{Body, BoxError};
use crate::call::{self, Call};
use crate::clock;
use crate::draws::{CallDraws, Decision};
use crate::mesh::Mesh;
use crate::stack;
use bytes::Bytes;
use http::header::{HOST, UPGRADE};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use mesh_core::deadline::{EXPECTED_TIMEOUT, GRPC_TIMEOUT};
use mesh_core::is_grpc;
use mesh_core::route::filter::Mirror;
use parking_lot::Mutex;
use std::any::Any;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use tower_service::Service;

/// Copies that are under way in one process.
pub(crate) const MOST: usize = 1024;

/// How far a copy may be behind, in bytes.
const BEHIND: usize = 256 * 1024;

/// How much of an answer is read, so that its connection can be used again.
const READ: usize = 1 << 20;

/// Sends a copy to each of `mirrors` that takes this request.
pub(crate) fn send<B: 'static>(
    mesh: &Mesh,
    mirrors: &[Mirror],
    draws: CallDraws,
    request: &mut Request<B>,
) {
    if request.method() == Method::CONNECT || request.headers().contains_key(UPGRADE) {
        return;
    }
    let mut draw = draws.of(Decision::Mirror);
    for mirror in mirrors {
        if !mirror.fraction.takes(&mut draw) {
            continue;
        }
        let Some(destination) = mesh.known(&mirror.destination) else { continue };
        let metrics = destination.shared().metrics.clone();
        let place = mesh.copies().clone().try_acquire_owned().ok();
        // A body is not divided for a copy that has no place.
        let Some((place, copy)) = place.and_then(|place| Some((place, copied(request)?))) else {
            metrics.mirror_dropped();
            continue;
        };
        metrics.mirrored();
        let mut copy = shadowed(copy);
        let grpc = is_grpc(copy.headers());
        let mut call = Call::new(clock::now(), mirror.policy.clone(), grpc).to(destination);
        call.subset = mirror.subset.clone();
        call.draws = draws;
        call::pin(&mut copy, call);
        let mut service = stack::below(&mesh.asker());
        tokio::spawn(async move {
            let _place = place;
            // What becomes of it is in the metrics of its destination.
            let Ok(response) = service.call(copy).await else { return };
            let mut body = std::pin::pin!(response.into_body());
            let mut read = 0;
            while let Some(Ok(frame)) = body.frame().await {
                read += frame.data_ref().map_or(0, Bytes::len);
                if read > READ {
                    break;
                }
            }
        });
    }
}

/// A second request that says the same; `None` if its body cannot be copied, which is so for
/// bodies of other types than [`Body`].
fn copied<B: 'static>(request: &mut Request<B>) -> Option<Request<Body>> {
    let body = (request.body_mut() as &mut dyn Any).downcast_mut::<Body>()?;
    let copied = match body.try_clone() {
        Some(copy) => copy,
        None => {
            let (tee, copy) = tee(std::mem::take(body));
            *body = Body::new(tee);
            Body::new(copy)
        }
    };
    let mut copy = Request::new(copied);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy.headers_mut().remove(GRPC_TIMEOUT);
    copy.headers_mut().remove(EXPECTED_TIMEOUT);
    Some(copy)
}

/// The same request for `host-shadow`.
fn shadowed(mut copy: Request<Body>) -> Request<Body> {
    let mut parts = copy.uri().clone().into_parts();
    if let Some(authority) = &parts.authority
        && let Ok(shadow) = Authority::try_from(shadow(authority.as_str()))
    {
        parts.authority = Some(shadow);
        if let Ok(uri) = Uri::from_parts(parts) {
            *copy.uri_mut() = uri;
        }
    }
    let host = copy.headers().get(HOST).and_then(|host| host.to_str().ok());
    if let Some(Ok(value)) = host.map(|host| HeaderValue::try_from(shadow(host))) {
        copy.headers_mut().insert(HOST, value);
    }
    copy
}

/// `host-shadow` or `host-shadow:port`.
fn shadow(authority: &str) -> String {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("{host}-shadow:{port}")
        }
        _ => format!("{authority}-shadow"),
    }
}

/// What the call has read and its copy has not.
#[derive(Debug, Default)]
struct Line {
    parts: VecDeque<Part>,
    bytes: usize,
    end: Option<End>,
    /// The copy is gone.
    gone: bool,
    reader: Option<Waker>,
}

#[derive(Debug)]
enum Part {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Part {
    /// What it takes to keep, in bytes: a frame costs room even if it holds next to nothing.
    fn size(&self) -> usize {
        let own = match self {
            Self::Data(data) => data.len(),
            Self::Trailers(trailers) => trailers
                .iter()
                .map(|(name, value)| name.as_str().len() + value.len() + size_of::<HeaderValue>())
                .sum(),
        };
        own + size_of::<Self>()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Whole,
    Broken,
    Behind,
}

impl Line {
    fn push(&mut self, frame: &Frame<Bytes>) {
        if self.gone || self.end.is_some() {
            return;
        }
        let part = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) if !data.is_empty() => Part::Data(data.clone()),
            (None, Some(trailers)) => Part::Trailers(trailers.clone()),
            _ => return,
        };
        self.bytes += part.size();
        if self.bytes > BEHIND {
            return self.end(End::Behind);
        }
        self.parts.push_back(part);
        self.wake();
    }

    fn pop(&mut self) -> Option<Part> {
        let part = self.parts.pop_front()?;
        self.bytes -= part.size();
        Some(part)
    }

    fn end(&mut self, how: End) {
        if self.end.is_none() {
            self.end = Some(how);
            if how != End::Whole {
                self.parts.clear();
            }
            self.wake();
        }
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// Divides a body in two: the first reads it, the second gets what the first has read.
fn tee(body: Body) -> (Tee, Copied) {
    let line = Arc::new(Mutex::new(Line::default()));
    let left = body.size_hint().exact();
    (Tee { body, line: line.clone() }, Copied { line, left })
}

struct Tee {
    body: Body,
    line: Arc<Mutex<Line>>,
}

impl HttpBody for Tee {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let mut line = self.line.lock();
        match &frame {
            Some(Ok(frame)) => {
                line.push(frame);
                if self.body.is_end_stream() {
                    line.end(End::Whole);
                }
            }
            Some(Err(_)) => line.end(End::Broken),
            None => line.end(End::Whole),
        }
        drop(line);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        self.line.lock().end(End::Broken);
    }
}

struct Copied {
    line: Arc<Mutex<Line>>,
    /// Bytes to come, if that is known.
    left: Option<u64>,
}

impl HttpBody for Copied {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut line = self.line.lock();
        let part = match (line.pop(), line.end) {
            (Some(part), _) => part,
            (None, Some(End::Whole)) => return Poll::Ready(None),
            (None, Some(End::Broken)) => {
                let why = "the request that this is a copy of broke off";
                return Poll::Ready(Some(Err(why.into())));
            }
            (None, Some(End::Behind)) => {
                let why = "the copy fell too far behind the request";
                return Poll::Ready(Some(Err(why.into())));
            }
            (None, None) => {
                line.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
        };
        let frame = match part {
            Part::Data(data) => {
                drop(line);
                self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                Frame::data(data)
            }
            Part::Trailers(trailers) => Frame::trailers(trailers),
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        let line = self.line.lock();
        line.parts.is_empty() && line.end == Some(End::Whole)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        let mut line = self.line.lock();
        line.gone = true;
        line.parts.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Answer = Result<Frame<Bytes>, BoxError>;

    /// A stream that is ready at once.
    struct Frames(VecDeque<Answer>);

    impl HttpBody for Frames {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Answer>> {
            Poll::Ready(self.0.pop_front())
        }
    }

    fn body(frames: Vec<Answer>) -> Body {
        Body::new(Frames(frames.into()))
    }

    /// The next frame, if it is there now.
    fn now(copy: &mut Copied) -> Poll<Option<Answer>> {
        Pin::new(copy).poll_frame(&mut Context::from_waker(Waker::noop()))
    }

    fn data(length: usize) -> Answer {
        Ok(Frame::data(Bytes::from(vec![7; length])))
    }

    #[tokio::test]
    async fn the_copy_gets_what_the_call_reads_trailers_included() {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("1"));
        let (tee, mut copy) =
            tee(body(vec![data(3), data(4), Ok(Frame::trailers(trailers.clone()))]));
        assert!(now(&mut copy).is_pending(), "nothing is read yet");
        let whole = tee.collect().await.expect("whole");
        let copied = copy.collect().await.expect("whole");
        assert_eq!(copied.trailers(), Some(&trailers));
        assert_eq!(copied.to_bytes(), whole.to_bytes());
    }

    #[tokio::test]
    async fn a_copy_that_is_too_far_behind_is_given_up_and_the_call_goes_on() {
        let (tee, copy) = tee(body((0..5).map(|_| data(BEHIND / 4)).collect()));
        assert_eq!(tee.collect().await.expect("whole").to_bytes().len(), BEHIND / 4 * 5);
        assert!(copy.collect().await.is_err());
    }

    #[tokio::test]
    async fn small_frames_are_not_kept_for_nothing() {
        let (tee, copy) = super::tee(body((0..BEHIND).map(|_| data(1)).collect()));
        let line = copy.line.clone();
        assert_eq!(tee.collect().await.expect("whole").to_bytes().len(), BEHIND);
        assert_eq!(line.lock().end, Some(End::Behind), "each of them takes room");
        assert!(copy.collect().await.is_err());

        let (empty, copy) = super::tee(body((0..BEHIND).map(|_| data(0)).collect()));
        assert!(empty.collect().await.expect("whole").to_bytes().is_empty());
        assert!(copy.line.lock().parts.is_empty());
    }

    #[tokio::test]
    async fn a_copy_that_keeps_up_gets_more_than_it_may_be_behind() {
        let (mut tee, mut copy) = tee(body((0..20).map(|_| data(BEHIND / 2)).collect()));
        let mut copied = 0;
        while tee.frame().await.is_some() {
            if let Poll::Ready(Some(Ok(frame))) = now(&mut copy) {
                copied += frame.data_ref().map_or(0, Bytes::len);
            }
        }
        assert_eq!(copied, BEHIND * 10);
        assert!(copy.frame().await.is_none());
    }

    #[tokio::test]
    async fn a_request_that_breaks_off_is_no_whole_copy() {
        let (first, copy) = tee(body(vec![data(1), Err("gone".into())]));
        assert!(first.collect().await.is_err());
        assert!(copy.collect().await.is_err());
        let (mut second, copy) = tee(body(vec![data(1), data(1)]));
        let _frame = second.frame().await;
        drop(second);
        assert!(copy.collect().await.is_err());
    }

    #[tokio::test]
    async fn without_its_copy_a_call_keeps_nothing() {
        let (tee, copy) = tee(body(vec![data(9), data(9)]));
        let line = copy.line.clone();
        drop(copy);
        assert_eq!(tee.collect().await.expect("whole").to_bytes().len(), 18);
        assert!(line.lock().parts.is_empty());
    }

    #[test]
    fn the_shadow_keeps_its_port() {
        for (host, expected) in [
            ("a", "a-shadow"),
            ("a:80", "a-shadow:80"),
            ("[::1]:80", "[::1]-shadow:80"),
            ("a.b.example", "a.b.example-shadow"),
        ] {
            assert_eq!(shadow(host), expected);
        }
    }
}
