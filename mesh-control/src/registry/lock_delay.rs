//! Lock-delay: a key whose holder was cut off cannot be locked for a while.
//!
//! The holder may not know yet that its session ended, and still act on the lock. The delay gives
//! it time to notice; what counts is the clock of this server, and a restart ends all delays.
//!
//! Source: Consul's documentation, "Sessions"; the idea is of Google's Chubby (Burrows, OSDI 2006).

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The longest delay.
pub(super) const LONGEST: Duration = Duration::from_secs(60);
/// What is over is thrown away when so many keys are remembered, and again at twice what is left.
const SWEEP_FROM: usize = 1_024;

/// Keys that cannot be locked yet.
#[derive(Debug, Default)]
pub(super) struct LockDelays {
    until: Mutex<Delays>,
}

#[derive(Debug, Default)]
struct Delays {
    by_key: HashMap<String, Instant>,
    sweep_at: usize,
}

impl LockDelays {
    /// Nobody locks these keys until `delay` is over.
    pub(super) fn start<'k>(&self, keys: impl Iterator<Item = &'k str>, delay: Duration) {
        let now = Instant::now();
        let expiry = now + delay.min(LONGEST);
        let mut delays = self.until.lock();
        if delays.by_key.len() >= delays.sweep_at.max(SWEEP_FROM) {
            delays.by_key.retain(|_, until| *until > now);
            delays.sweep_at = 2 * delays.by_key.len();
        }
        for key in keys {
            let until = delays.by_key.entry(key.to_owned()).or_insert(expiry);
            *until = expiry.max(*until);
        }
    }

    /// Whether this key has to wait.
    pub(super) fn is_active(&self, key: &str) -> bool {
        self.until.lock().by_key.get(key).is_some_and(|until| *until > Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_delay_ends_and_is_forgotten() {
        let delays = LockDelays::default();
        delays.start(["a"].into_iter(), Duration::from_secs(15));
        delays.start(["a"].into_iter(), Duration::from_secs(1));
        delays.start(["b"].into_iter(), Duration::from_secs(600));
        tokio::time::advance(Duration::from_secs(14)).await;
        assert!(delays.is_active("a") && delays.is_active("b") && !delays.is_active("c"));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(!delays.is_active("a") && delays.is_active("b"));
        tokio::time::advance(Duration::from_secs(45)).await;
        assert!(!delays.is_active("b"), "no delay is longer than a minute");

        let many: Vec<_> = (0..SWEEP_FROM).map(|n| n.to_string()).collect();
        delays.start(many.iter().map(String::as_str), Duration::from_secs(1));
        tokio::time::advance(Duration::from_secs(2)).await;
        delays.start(["d"].into_iter(), Duration::from_secs(1));
        assert_eq!(delays.until.lock().by_key.len(), 1);
    }
}
