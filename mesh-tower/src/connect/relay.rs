//! Relay: the one waker that an HTTP/1 connection ever sees.
//!
//! hyper keeps wakers in several places (socket, request queue, response slot, body channel) and
//! wakes them when we ourselves hand something over. The relay stays the same from call to call,
//! so nothing has to be cloned or replaced there, and it passes a wake on only while a task
//! waits for the connection:
//!
//! ```text
//! muted ──listen──► armed ──wake──► muted, and the task is woken
//!   │ wake: remembered; the next listen wakes at once
//!   └◄──mute── before the connection is polled: what was remembered is about to be seen
//! ```

use parking_lot::Mutex;
use std::sync::Arc;
use std::task::{Wake, Waker};

#[derive(Default)]
pub(super) struct Relay(Mutex<State>);

#[derive(Default)]
struct State {
    /// The task to wake; `None` while muted.
    task: Option<Waker>,
    /// A wake came while muted.
    missed: bool,
}

impl Relay {
    /// Passes no wake on from here, and forgets those that came.
    pub(super) fn mute(&self) {
        let task = {
            let mut state = self.0.lock();
            state.missed = false;
            state.task.take()
        };
        drop(task);
    }

    /// Wakes `task` from now on, once; at once if there was a wake since [`Relay::mute`].
    pub(super) fn listen(&self, task: &Waker) {
        let mut state = self.0.lock();
        if state.missed {
            state.missed = false;
            drop(state);
            task.wake_by_ref();
        } else {
            state.task = Some(task.clone());
        }
    }
}

impl Wake for Relay {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let task = {
            let mut state = self.0.lock();
            state.missed = state.task.is_none();
            state.task.take()
        };
        if let Some(task) = task {
            task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_wake_is_passed_on_once_or_remembered_but_never_lost() {
        let count = Arc::new(Count::default());
        let task = Waker::from(Arc::clone(&count));
        let relay = Arc::new(Relay::default());
        let waker = Waker::from(Arc::clone(&relay));
        let woken = || count.0.swap(0, Ordering::SeqCst);

        relay.listen(&task);
        waker.wake_by_ref();
        waker.wake_by_ref();
        assert_eq!(woken(), 1);
        // The second wake came while nobody listened.
        relay.listen(&task);
        assert_eq!(woken(), 1);

        waker.wake_by_ref();
        relay.mute();
        relay.listen(&task);
        assert_eq!(woken(), 0, "what came before the connection was polled is seen");
        relay.mute();
        waker.wake_by_ref();
        assert_eq!(woken(), 0);
        assert_eq!(Arc::strong_count(&count), 2, "a muted relay keeps no task alive");
    }
}
