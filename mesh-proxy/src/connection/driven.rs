//! Driven: a connection of hyper with its timer, from its first poll to its end.
//!
//! One timer per connection serves all its deadlines. It is not touched per request: when it
//! fires, it looks whether anything moved since, so an idle connection ends between one and two
//! times its idle limit divided by [`LOOKS`] late, and a busy one pays nothing. Only a head that
//! came in pieces moves it, to the moment at which the head must be complete.
//!
//! Draining: HTTP/2 is told at once (GOAWAY). An HTTP/1 answer carries `Connection: close` from
//! then on, and a connection that stays quiet is closed [`QUIET`] later, so that a request which
//! is just under way is still answered.

use crate::drain::{Draining, Signal};
use crate::gate::{LOOKS, Watch};
use hyper::server::conn::{http1, http2};
use hyper_util::rt::TokioExecutor;
use mesh_tower::{BoxError, clock};
use pin_project_lite::pin_project;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Sleep, sleep};

/// How long a quiet HTTP/1 connection is kept once draining has started.
pub(super) const QUIET: Duration = Duration::from_secs(1);

/// A connection of hyper, which can be asked to end after what is in flight.
pub(super) trait Graceful: Future<Output = Result<(), hyper::Error>> {
    /// Asks it to end.
    fn end(self: Pin<&mut Self>);

    /// Whether that is a message to the client, which can be sent at once.
    const TOLD: bool;
}

impl<IO, S, B> Graceful for http1::UpgradeableConnection<IO, S>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<BoxError>,
    IO: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    B: http_body::Body + 'static,
    B::Error: Into<BoxError>,
{
    const TOLD: bool = false;

    fn end(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<IO, S, B> Graceful for http2::Connection<IO, S, TokioExecutor>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    IO: hyper::rt::Read + hyper::rt::Write + Unpin,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
    TokioExecutor: hyper::rt::bounds::Http2ServerConnExec<S::Future, B>,
{
    const TOLD: bool = true;

    fn end(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Not polled yet.
    Fresh,
    Open,
    /// Draining has started; the timer says when it is quiet enough to close.
    Closing,
    Ended,
}

pin_project! {
    /// A connection with its timer. `None` when the client was too slow.
    pub(super) struct Driven<C> {
        #[pin]
        connection: C,
        #[pin]
        timer: Sleep,
        watch: Arc<Watch>,
        idle: Duration,
        quiet_looks: u32,
        // The deadline that the timer stands at.
        deadline: Option<mesh_core::Timestamp>,
        draining: Draining,
        #[pin]
        signal: Signal,
        phase: Phase,
    }
}

impl<C> Driven<C> {
    /// Ends `connection` once nothing has moved for `idle`, or draining says so.
    pub(super) fn new(
        connection: C,
        idle: Duration,
        watch: Arc<Watch>,
        draining: Draining,
    ) -> Self {
        Self {
            connection,
            timer: sleep(idle / LOOKS),
            watch,
            idle,
            quiet_looks: 0,
            deadline: None,
            signal: draining.signal(),
            draining,
            phase: Phase::Fresh,
        }
    }
}

impl<C: Graceful> Future for Driven<C> {
    type Output = Option<Result<(), hyper::Error>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if *this.phase == Phase::Fresh {
            *this.phase = Phase::Open;
            // The task's waker stays the same, so each of these is registered once.
            this.signal.as_mut().register(cx);
            let _ = this.timer.as_mut().poll(cx);
        }
        if *this.phase == Phase::Open && this.draining.has_started() {
            *this.phase = Phase::Closing;
            if C::TOLD {
                this.connection.as_mut().end();
            } else {
                this.watch.take_activity();
                this.timer.as_mut().reset(tokio::time::Instant::now() + QUIET);
                let _ = this.timer.as_mut().poll(cx);
            }
        }
        if let Poll::Ready(result) = this.connection.as_mut().poll(cx) {
            return Poll::Ready(Some(result));
        }
        loop {
            let deadline = this.watch.deadline();
            if deadline != *this.deadline {
                *this.deadline = deadline;
                let next = match deadline {
                    Some(deadline) => clock::instant(deadline),
                    None => tokio::time::Instant::now() + *this.idle / LOOKS,
                };
                this.timer.as_mut().reset(next);
                let _ = this.timer.as_mut().poll(cx);
            }
            if !this.timer.is_elapsed() {
                return Poll::Pending;
            }
            if deadline.is_some() {
                return Poll::Ready(None);
            }
            let mut next = *this.idle / LOOKS;
            let active = this.watch.take_activity();
            *this.quiet_looks = if active { 0 } else { *this.quiet_looks + 1 };
            if *this.phase == Phase::Closing && !C::TOLD {
                *this.quiet_looks = 0;
                if active {
                    next = QUIET;
                } else {
                    *this.phase = Phase::Ended;
                    this.connection.as_mut().end();
                    if let Poll::Ready(result) = this.connection.as_mut().poll(cx) {
                        return Poll::Ready(Some(result));
                    }
                }
            }
            if *this.quiet_looks >= LOOKS {
                return Poll::Ready(None);
            }
            this.timer.as_mut().reset(tokio::time::Instant::now() + next);
            let _ = this.timer.as_mut().poll(cx);
        }
    }
}
