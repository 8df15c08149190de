//! Drain: finish what runs, take nothing new.
//!
//! ```text
//! SIGTERM, SIGINT, POST /drain ─► not ready ─► listeners close ─► HTTP/2: GOAWAY
//!                                                                 HTTP/1: Connection: close
//!      all connections over, the deadline, or a second signal ◄───┘
//! ```
//!
//! A listener first accepts what the kernel has queued for it, since closing would reset those
//! connections.

use pin_project_lite::pin_project;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// Says when draining has started, and counts what still runs. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Draining(Arc<State>);

#[derive(Default)]
struct State {
    started: AtomicBool,
    start: Arc<Notify>,
    open: AtomicUsize,
    over: Notify,
}

impl Draining {
    /// Starts it. Again is no error.
    pub(crate) fn start(&self) {
        self.0.started.store(true, Ordering::Release);
        self.0.start.notify_waiters();
        self.0.over.notify_waiters();
    }

    pub(crate) fn has_started(&self) -> bool {
        self.0.started.load(Ordering::Acquire)
    }

    /// Wakes its task once when draining starts.
    pub(crate) fn signal(&self) -> Signal {
        Signal { notified: Arc::clone(&self.0.start).notified_owned() }
    }

    /// Resolves when draining has started.
    pub(crate) async fn started(&self) {
        let signal = self.0.start.notified();
        if !self.has_started() {
            signal.await;
        }
    }

    /// Counts something that must end before draining is over, until the guard is dropped.
    pub(crate) fn enter(&self) -> Open {
        self.0.open.fetch_add(1, Ordering::AcqRel);
        Open(Arc::clone(&self.0))
    }

    /// How many guards there are.
    pub(crate) fn open(&self) -> usize {
        self.0.open.load(Ordering::Acquire)
    }

    /// Resolves when draining has started and no guard is left.
    pub(crate) async fn over(&self) {
        loop {
            let change = self.0.over.notified();
            if self.has_started() && self.open() == 0 {
                return;
            }
            change.await;
        }
    }
}

impl fmt::Debug for Draining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draining")
            .field("started", &self.has_started())
            .field("open", &self.open())
            .finish()
    }
}

pin_project! {
    /// Wakes a task once when draining starts; polled once, it stays registered.
    pub(crate) struct Signal {
        #[pin]
        notified: OwnedNotified,
    }
}

impl Signal {
    /// Registers the task.
    pub(crate) fn register(self: Pin<&mut Self>, cx: &mut Context<'_>) {
        let _: Poll<()> = self.project().notified.poll(cx);
    }
}

/// Something that must end before draining is over.
pub(crate) struct Open(Arc<State>);

impl Drop for Open {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.over.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn draining_is_over_when_all_that_ran_has_ended() {
        let draining = Draining::default();
        let first = draining.enter();
        let mut over = tokio_test::task::spawn(draining.over());
        assert!(over.poll().is_pending());
        let second = draining.enter();
        draining.start();
        assert!(over.poll().is_pending() && draining.open() == 2);
        drop(first);
        assert!(over.poll().is_pending());
        drop(second);
        assert!(over.is_woken() && over.poll().is_ready());
    }

    #[tokio::test]
    async fn whoever_waits_is_woken_once() {
        let draining = Draining::default();
        let mut started = tokio_test::task::spawn(draining.started());
        assert!(started.poll().is_pending());
        draining.start();
        assert!(started.is_woken() && started.poll().is_ready());
        draining.started().await;
    }
}
