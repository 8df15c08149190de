//! How much an endpoint can do at once.

use super::lock;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};

/// So many requests are served at once, the others wait in the order of arrival.
///
/// A request whose caller goes away leaves its slot or the queue, unless this is
/// [`without_cancellation`](Self::without_cancellation). A clone is the same slots.
///
/// ```
/// use std::time::Duration;
/// use testkit::endpoint::Slots;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// let span = Duration::from_millis(100);
/// let slots = Slots::new(1).queue_limit(1);
/// let begin = tokio::time::Instant::now();
/// let served = tokio::join!(slots.serve(span), slots.serve(span), slots.serve(span));
/// assert_eq!(served, (true, true, false));
/// assert_eq!(begin.elapsed(), 2 * span);
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Slots {
    /// Since when each free slot is free.
    free: Arc<Mutex<Vec<Instant>>>,
    slots: Arc<Semaphore>,
    /// Free places of the queue.
    queue: Arc<Semaphore>,
    cancels: bool,
}

impl Slots {
    /// So many slots, and a queue without end.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        Self {
            free: Arc::new(Mutex::new(vec![Instant::now(); slots])),
            slots: Arc::new(Semaphore::new(slots)),
            queue: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            cancels: true,
        }
    }

    /// So many may wait; further ones are refused at once.
    #[must_use]
    pub fn queue_limit(mut self, requests: usize) -> Self {
        self.queue = Arc::new(Semaphore::new(requests));
        self
    }

    /// Works through what nobody waits for any more.
    #[must_use]
    pub fn without_cancellation(mut self) -> Self {
        self.cancels = false;
        self
    }

    /// Keeps a slot for so long, after a wait for it; false at once if too many wait.
    pub async fn serve(&self, span: Duration) -> bool {
        if self.cancels {
            return self.work(span).await;
        }
        let this = self.clone();
        // Dropping the handle of a task leaves the task alone.
        tokio::spawn(async move { this.work(span).await }).await.is_ok_and(|served| served)
    }

    async fn work(&self, span: Duration) -> bool {
        let arrived = Instant::now();
        let _permit = match self.slots.try_acquire() {
            Ok(permit) => permit,
            Err(_) => {
                let Ok(_waiting) = self.queue.try_acquire() else { return false };
                let Ok(permit) = self.slots.acquire().await else { return false };
                permit
            }
        };
        let mut slot = Slot { free: &self.free, until: None };
        let since = lock(&self.free).pop();
        // It began when it could: a process that is late to wake up serves no less for it.
        let end = since.map_or(arrived, |since| since.max(arrived)) + span;
        sleep_until(end).await;
        slot.until = Some(end);
        true
    }
}

/// A slot that is taken.
struct Slot<'a> {
    free: &'a Mutex<Vec<Instant>>,
    /// When the work ended; unless it did, when it is dropped.
    until: Option<Instant>,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        lock(self.free).push(self.until.unwrap_or_else(Instant::now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    const SPAN: Duration = Duration::from_millis(100);

    /// When a request ends that arrives after one whose caller goes away at half of its time.
    async fn after_a_lost_one(slots: &Slots) -> Duration {
        let begin = Instant::now();
        assert!(timeout(SPAN / 2, slots.serve(SPAN)).await.is_err());
        assert!(slots.serve(SPAN).await);
        begin.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_request_gives_its_slot_back() {
        assert_eq!(after_a_lost_one(&Slots::new(1)).await, SPAN * 3 / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_wakes_up_late_serves_no_less() {
        let slots = Slots::new(1);
        let begin = Instant::now();
        let both = async { tokio::join!(slots.serve(SPAN), slots.serve(SPAN)) };
        let mut both = std::pin::pin!(both);
        assert!(timeout(Duration::ZERO, both.as_mut()).await.is_err(), "they have begun");
        tokio::time::advance(SPAN * 3 / 2).await;
        assert_eq!(both.await, (true, true));
        assert_eq!(begin.elapsed(), SPAN * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn without_cancellation_it_is_worked_through() {
        assert_eq!(after_a_lost_one(&Slots::new(1).without_cancellation()).await, SPAN * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_request_leaves_the_queue() {
        let slots = Slots::new(1).queue_limit(1);
        let first = tokio::spawn({
            let slots = slots.clone();
            async move { slots.serve(SPAN).await }
        });
        tokio::task::yield_now().await;
        assert!(timeout(SPAN / 2, slots.serve(SPAN)).await.is_err());
        assert!(slots.serve(SPAN).await, "the place in the queue is free again");
        assert!(first.await.expect("no panic"));
    }
}
