//! The one contract that every layer keeps.
//!
//! 1. The inner service is called only by the instance that was made ready, once per readiness
//!    (`tower::Service`: "must call `poll_ready` before `call`"). A clone starts unready.
//! 2. While the inner service is not ready, no call reaches it; when it becomes ready, the
//!    call goes on by itself.
//! 3. Dropping the returned future drops the inner future before `drop` returns: no task of
//!    ours keeps an abandoned call alive.
//! 4. An error of `poll_ready`, and one of the call, comes out with its kind.
//! 5. The wrapped service is `Clone + Send + Sync + 'static`, its future is `Send`.
//! 6. A finished inner future is not polled again.
//!
//! A layer may wait for readiness in `poll_ready` or in its future; both keep rule 2.
//!
//! ```
//! use testkit::contract;
//! use tower::{Layer, util::MapRequestLayer};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let layer = MapRequestLayer::new(|request: http::Request<()>| request);
//! contract::check(
//!     |inner| layer.layer(inner),
//!     || http::Request::new(()),
//!     || http::Response::new(()),
//! )
//! .await;
//! # }
//! ```

use mesh_core::{Error, ErrorKind};
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tower_service::Service;

/// The kind of the errors that [`Inner`] fails with: no layer retries it or makes it itself.
const PLANTED: ErrorKind = ErrorKind::ConfigNotReady;

/// Runs every rule of the [module docs](self) against `layer`, and panics at the first that is
/// broken, naming it.
///
/// `layer` wraps the given inner service anew for each rule; `request` and `response` make
/// what a plain call sends and gets. The layer must let such a call through. Layers with
/// timers want a runtime with paused time (`#[tokio::test(start_paused = true)]`).
///
/// # Panics
///
/// When the layer breaks a rule.
pub async fn check<S, Q, R>(
    layer: impl Fn(Inner<R>) -> S,
    request: impl Fn() -> Q,
    response: impl Fn() -> R + Send + Sync + 'static,
) where
    S: Service<Q, Error: Into<Error>, Future: Send> + Clone + Send + Sync + 'static,
    R: Send + 'static,
{
    let response: Respond<R> = Arc::new(response);
    calls_only_what_is_ready(&layer, &request, &response).await;
    waits_for_readiness(&layer, &request, &response).await;
    dropping_cancels(&layer, &request, &response).await;
    errors_pass(&layer, &request, &response).await;
}

async fn calls_only_what_is_ready<S, Q, R>(
    layer: &impl Fn(Inner<R>) -> S,
    request: &impl Fn() -> Q,
    response: &Respond<R>,
) where
    S: Service<Q, Error: Into<Error>> + Clone,
{
    let probe = Probe::new(response);
    let mut first = layer(probe.inner());

    for _ in 0..2 {
        ready(&mut first).await.expect("rule 1: ready");
        answer(first.call(request())).await.expect("rule 1: a plain call succeeds");
    }
    assert_eq!(probe.state().called, 2, "rule 1: each call reaches the inner service once");

    ready(&mut first).await.expect("rule 1: ready");
    let mut second = first.clone();
    ready(&mut second).await.expect("rule 1: a clone becomes ready by itself");
    let (one, two) = (first.call(request()), second.call(request()));
    answer(two).await.expect("rule 1: the call of a clone succeeds");
    answer(one).await.expect("rule 1: the call of the original succeeds");

    let mut overlapping = Vec::new();
    for _ in 0..3 {
        ready(&mut first).await.expect("rule 1: ready while other calls are in flight");
        overlapping.push(first.call(request()));
    }
    for call in overlapping {
        answer(call).await.expect("rule 1: overlapping calls succeed");
    }
    assert_eq!(probe.state().called, 7, "rule 1: each call reaches the inner service once");
}

async fn waits_for_readiness<S, Q, R>(
    layer: &impl Fn(Inner<R>) -> S,
    request: &impl Fn() -> Q,
    response: &Respond<R>,
) where
    S: Service<Q, Error: Into<Error>>,
{
    let probe = Probe::new(response);
    probe.state().readiness = Readiness::Pending;
    let mut service = layer(probe.inner());

    let mut call = pin!(async {
        ready(&mut service).await?;
        answer(service.call(request())).await
    });
    assert!(poll_once(call.as_mut()).await.is_none(), "rule 2: done before the inner was ready");
    assert_eq!(probe.state().called, 0, "rule 2: the inner service was called while not ready");

    probe.open();
    call.await.expect("rule 2: the call goes on when the inner service becomes ready");
    assert_eq!(probe.state().called, 1, "rule 2: the call reaches the inner service once");
}

async fn dropping_cancels<S, Q, R>(
    layer: &impl Fn(Inner<R>) -> S,
    request: &impl Fn() -> Q,
    response: &Respond<R>,
) where
    S: Service<Q, Error: Into<Error>>,
{
    let probe = Probe::new(response);
    probe.state().answer = Answer::Never;
    let mut service = layer(probe.inner());

    ready(&mut service).await.expect("rule 3: ready");
    let mut call = Box::pin(service.call(request()));
    assert!(poll_once(call.as_mut()).await.is_none(), "rule 3: a pending call ended");
    assert_eq!(probe.in_flight(), 1, "rule 3: the call is in flight after one poll");
    drop(call);
    assert_eq!(probe.in_flight(), 0, "rule 3: dropping the future drops the inner future");

    ready(&mut service).await.expect("rule 3: ready after a cancelled call");
    drop(service.call(request()));
    assert_eq!(probe.in_flight(), 0, "rule 3: dropping an unpolled future leaves nothing behind");
}

async fn errors_pass<S, Q, R>(
    layer: &impl Fn(Inner<R>) -> S,
    request: &impl Fn() -> Q,
    response: &Respond<R>,
) where
    S: Service<Q, Error: Into<Error>>,
{
    let probe = Probe::new(response);
    probe.state().readiness = Readiness::Failed;
    let mut service = layer(probe.inner());
    let failed = match ready(&mut service).await {
        Err(error) => Err(error),
        Ok(()) => answer(service.call(request())).await.map(drop),
    };
    let error = failed.expect_err("rule 4: an error of the inner poll_ready comes out");
    assert_eq!(error.kind(), PLANTED, "rule 4: an error of poll_ready keeps its kind: {error}");

    let probe = Probe::new(response);
    probe.state().answer = Answer::Error;
    let mut service = layer(probe.inner());
    ready(&mut service).await.expect("rule 4: ready");
    let failed = answer(service.call(request())).await.map(drop);
    let error = failed.expect_err("rule 4: an error of the inner call comes out");
    assert_eq!(error.kind(), PLANTED, "rule 4: an error of the call keeps its kind: {error}");
}

async fn ready<Q, S: Service<Q, Error: Into<Error>>>(service: &mut S) -> Result<(), Error> {
    poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into)
}

async fn answer<T, E: Into<Error>>(call: impl Future<Output = Result<T, E>>) -> Result<T, Error> {
    call.await.map_err(Into::into)
}

/// Polls with the waker of the current task; `None` when the future is not done.
async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

type Respond<R> = Arc<dyn Fn() -> R + Send + Sync>;

/// What a layer is checked around: it answers every request, and panics when it is called
/// without having been made ready.
pub struct Inner<R> {
    probe: Probe<R>,
    ready: bool,
}

impl<R> Clone for Inner<R> {
    /// A clone starts unready, as tower allows any service to.
    fn clone(&self) -> Self {
        Self { probe: self.probe.clone(), ready: false }
    }
}

impl<R> fmt::Debug for Inner<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("ready", &self.ready).finish_non_exhaustive()
    }
}

impl<Q, R> Service<Q> for Inner<R> {
    type Response = R;
    type Error = Error;
    type Future = InnerFuture<R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let mut state = self.probe.state();
        match state.readiness {
            Readiness::Ready => {
                drop(state);
                self.ready = true;
                Poll::Ready(Ok(()))
            }
            Readiness::Pending => {
                state.waiting.push(cx.waker().clone());
                Poll::Pending
            }
            Readiness::Failed => Poll::Ready(Err(PLANTED.into())),
        }
    }

    fn call(&mut self, _: Q) -> InnerFuture<R> {
        assert!(
            std::mem::take(&mut self.ready),
            "rule 1: the inner service was called on an instance that was not made ready"
        );
        let mut state = self.probe.state();
        state.called += 1;
        state.in_flight += 1;
        let answer = state.answer;
        drop(state);
        InnerFuture { probe: self.probe.clone(), answer, done: false }
    }
}

/// The answer of an [`Inner`]; counts itself as in flight until it is dropped.
pub struct InnerFuture<R> {
    probe: Probe<R>,
    answer: Answer,
    done: bool,
}

impl<R> fmt::Debug for InnerFuture<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InnerFuture").field("done", &self.done).finish_non_exhaustive()
    }
}

impl<R> Future for InnerFuture<R> {
    type Output = Result<R, Error>;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        assert!(!self.done, "rule 6: the inner future was polled after it had finished");
        let output = match self.answer {
            Answer::Response => Ok((self.probe.response)()),
            Answer::Error => Err(PLANTED.into()),
            Answer::Never => return Poll::Pending,
        };
        self.done = true;
        Poll::Ready(output)
    }
}

impl<R> Drop for InnerFuture<R> {
    fn drop(&mut self) {
        self.probe.state().in_flight -= 1;
    }
}

/// What one [`Inner`], with all its clones, does and has seen.
struct Probe<R> {
    state: Arc<Mutex<State>>,
    response: Respond<R>,
}

#[derive(Default)]
struct State {
    readiness: Readiness,
    answer: Answer,
    called: usize,
    in_flight: usize,
    waiting: Vec<Waker>,
}

#[derive(Clone, Copy, Default)]
enum Readiness {
    #[default]
    Ready,
    Pending,
    Failed,
}

#[derive(Clone, Copy, Default)]
enum Answer {
    #[default]
    Response,
    Error,
    Never,
}

impl<R> Probe<R> {
    fn new(response: &Respond<R>) -> Self {
        Self { state: Arc::default(), response: Arc::clone(response) }
    }

    fn inner(&self) -> Inner<R> {
        Inner { probe: self.clone(), ready: false }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn in_flight(&self) -> usize {
        self.state().in_flight
    }

    fn open(&self) {
        let mut state = self.state();
        state.readiness = Readiness::Ready;
        for waker in std::mem::take(&mut state.waiting) {
            waker.wake();
        }
    }
}

impl<R> Clone for Probe<R> {
    fn clone(&self) -> Self {
        Self { state: Arc::clone(&self.state), response: Arc::clone(&self.response) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tower::ServiceExt;

    type Ready = fn(&mut Inner<u32>, &mut Context<'_>) -> Poll<Result<(), Error>>;
    type Call = fn(&mut Inner<u32>, u32) -> Answered;
    type Answered = Pin<Box<dyn Future<Output = Result<u32, Error>> + Send>>;

    /// A service whose two halves are given: the ways to be right or wrong.
    #[derive(Clone)]
    struct Shape(Inner<u32>, Ready, Call);

    impl Service<u32> for Shape {
        type Response = u32;
        type Error = Error;
        type Future = Answered;

        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
            (self.1)(&mut self.0, cx)
        }

        fn call(&mut self, request: u32) -> Answered {
            (self.2)(&mut self.0, request)
        }
    }

    async fn check_shape(ready: Ready, call: Call) {
        check(|inner| Shape(inner, ready, call), || 1u32, || 2u32).await;
    }

    fn delegate(inner: &mut Inner<u32>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Service::<u32>::poll_ready(inner, cx)
    }

    fn always(_: &mut Inner<u32>, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    #[tokio::test]
    async fn a_layer_that_delegates_passes() {
        check_shape(delegate, |inner, request| Box::pin(inner.call(request))).await;
    }

    #[tokio::test]
    async fn a_layer_that_waits_in_its_future_passes() {
        check_shape(always, |inner, request| Box::pin(inner.clone().oneshot(request))).await;
    }

    #[tokio::test]
    #[should_panic(expected = "rule 1")]
    async fn calling_a_clone_is_caught() {
        check_shape(delegate, |inner, request| Box::pin(inner.clone().call(request))).await;
    }

    #[tokio::test]
    #[should_panic(expected = "rule 1")]
    async fn calling_without_readiness_is_caught() {
        check_shape(always, |inner, request| Box::pin(inner.call(request))).await;
    }

    #[tokio::test]
    #[should_panic(expected = "rule 3")]
    async fn a_spawned_call_is_caught() {
        check_shape(delegate, |inner, request| {
            let task = tokio::spawn(inner.call(request));
            Box::pin(async { task.await.expect("does not panic") })
        })
        .await;
    }

    #[tokio::test]
    #[should_panic(expected = "rule 4")]
    async fn a_swallowed_error_is_caught() {
        check_shape(delegate, |inner, request| {
            let call = inner.call(request);
            Box::pin(async { Ok(call.await.unwrap_or(0)) })
        })
        .await;
    }
}
