//! What the tests of retry call: an inner service that follows a script; and the requests they send.

use super::super::*;
use crate::call::Call;
use crate::call_options::CallOptions;
use http::{HeaderValue, Method, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use mesh_core::Policy;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::future::pending;
use tokio::time::Instant;
use tower::{ServiceExt, service_fn};

/// What one attempt is answered with.
pub(super) enum Step {
    Status(u16, &'static [(&'static str, &'static str)]),
    Error(Error),
    Never,
}

pub(super) fn status(code: u16) -> Step {
    Step::Status(code, &[])
}

pub(super) fn refused() -> Step {
    Step::Error(ErrorKind::Connect.into())
}

pub(super) fn reset() -> Step {
    Step::Error(Error::from(ErrorKind::ConnectionClosed).after_send())
}

/// An inner service that follows a script and keeps what it was sent.
#[derive(Clone)]
pub(super) struct Script(Arc<Mutex<Inner>>);

struct Inner {
    steps: VecDeque<Step>,
    seen: Vec<(http::request::Parts, Option<Bytes>, Instant)>,
}

impl Script {
    pub(super) fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self(Arc::new(Mutex::new(Inner { steps: steps.into_iter().collect(), seen: Vec::new() })))
    }

    pub(super) fn service(
        &self,
    ) -> impl Service<Request<Body>, Response = Response<Body>, Error = Error, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static {
        let script = self.0.clone();
        service_fn(move |request: Request<Body>| {
            let script = script.clone();
            async move {
                let mut request = request;
                let call = call::unpin(&mut request);
                let (mut head, body) = request.into_parts();
                if let Some(call) = call {
                    head.extensions.insert(call);
                }
                let body = body.collect().await.ok().map(|body| body.to_bytes());
                let step = {
                    let mut inner = script.lock();
                    inner.seen.push((head, body, Instant::now()));
                    inner.steps.pop_front().expect("no more attempts than steps")
                };
                match step {
                    Step::Status(code, fields) => {
                        let mut response = Response::new(Body::from("answer"));
                        *response.status_mut() = StatusCode::from_u16(code).expect("valid");
                        for (name, value) in fields {
                            response.headers_mut().insert(*name, HeaderValue::from_static(value));
                        }
                        Ok(response)
                    }
                    Step::Error(error) => Err(error),
                    Step::Never => pending().await,
                }
            }
        })
    }

    pub(super) fn attempts(&self) -> usize {
        self.0.lock().seen.len()
    }

    pub(super) fn head(&self, attempt: usize) -> http::request::Parts {
        self.0.lock().seen[attempt].0.clone()
    }

    /// The times between attempts.
    pub(super) fn waits(&self) -> Vec<Duration> {
        let inner = self.0.lock();
        inner.seen.windows(2).map(|two| two[1].2.duration_since(two[0].2)).collect()
    }

    pub(super) fn body(&self, attempt: usize) -> Option<Bytes> {
        self.0.lock().seen[attempt].1.clone()
    }

    /// Between the arrivals of the first two attempts.
    pub(super) fn waited(&self) -> Duration {
        let seen = &self.0.lock().seen;
        seen[1].2 - seen[0].2
    }

    pub(super) async fn run(
        &self,
        layer: RetryLayer,
        request: Request<Body>,
    ) -> Result<Response<Body>, Error> {
        layer.layer(self.service()).oneshot(request).await
    }
}

pub(super) fn request(method: Method) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.method_mut() = method;
    request
}

pub(super) fn streaming(frames: &'static [&'static [u8]]) -> Body {
    struct Frames(std::slice::Iter<'static, &'static [u8]>);
    impl futures_core::Stream for Frames {
        type Item = Result<Frame<Bytes>, BoxError>;
        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            Poll::Ready(self.0.next().map(|data| Ok(Frame::data(Bytes::from_static(data)))))
        }
    }
    Body::new(StreamBody::new(Frames(frames.iter())))
}

pub(super) fn pin(request: &mut Request<Body>, edit: impl FnOnce(&mut Call)) {
    let grpc = mesh_core::is_grpc(request.headers());
    let mut call = Call::new(clock::now(), Arc::new(Policy::default()), grpc);
    edit(&mut call);
    crate::call::pin(request, call);
}

pub(super) fn declare(request: &mut Request<Body>, idempotent: Option<bool>) {
    pin(request, |call| {
        if let Some(idempotent) = idempotent {
            *call = call.clone().with_options(CallOptions::new().idempotent(idempotent));
        }
    });
}

pub(super) fn grpc() -> Request<Body> {
    let mut request = request(Method::POST);
    request.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    request
}
