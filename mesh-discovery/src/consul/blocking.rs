//! Blocking queries: with which index to ask next, when, and for how long to wait.
//!
//! ```text
//!        ┌──────────── went down, or failed ────────────┐
//!        ▼                                              │
//!     at once ── answer with index n ──► blocking(n) ───┤
//!   (no index)                             ▲  answer m ≥ n
//!                                          └────────────┘ n := m
//! ```
//!
//! - The index of an answer is what the next question waits for to pass. Less than 1 counts as 1:
//!   with 0 Consul would not wait.
//! - An index that is less than the one before says that the server's state was restored or is
//!   another's: the next question asks for the answer at once. So does the one after a failure,
//!   because a server that came back with less state would otherwise be waited for in vain.
//! - A return does not imply a change, and no return comes for `wait`, which the server extends by
//!   up to `wait / 16` so that its clients do not return together. [`SLACK`] after that it is
//!   given up.
//! - Questions are limited by a bucket with a burst of 2, which refills every 100 ms after news
//!   and every second after an answer that said nothing new: a third change within 100 ms is told
//!   that much later, and a server that does not block costs a question per second.
//! - After the n-th failure in a row: `uniform(0, min(30 s, 100 ms × 2^n))`, at least 50 ms.
//!
//! Source: Consul, "Blocking queries" (implementation details); the bucket by its GCRA form
//! (ITU-T I.371).

use mesh_core::{Draw, Timestamp};
use std::time::Duration;

/// Longest wait that Consul grants.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// How much later than it must an answer may begin.
pub(super) const SLACK: Duration = Duration::from_secs(10);
const AFTER_NEWS: Duration = Duration::from_millis(100);
const AFTER_NONE: Duration = Duration::from_secs(1);
const BACKOFF_BASE: Duration = Duration::from_millis(100);
const BACKOFF_CEILING: Duration = Duration::from_secs(30);
const BACKOFF_FLOOR: Duration = Duration::from_millis(50);

/// One question that is asked over and over.
#[derive(Debug)]
pub(super) struct Blocking {
    wait: Duration,
    /// What the next answer must pass; 0: it is to come at once.
    index: u64,
    failures: u32,
    spacing: Duration,
    /// When the bucket is full again.
    full: Timestamp,
}

/// What one question carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// `index` and `wait`; `None`: the answer comes at once.
    pub(super) blocking: Option<(u64, Duration)>,
    /// How long the head of the answer may take.
    pub(super) timeout: Duration,
}

impl Blocking {
    pub(super) fn new(wait: Duration) -> Self {
        let wait = wait.clamp(Duration::from_millis(1), LONGEST_WAIT);
        Self { wait, index: 0, failures: 0, spacing: AFTER_NEWS, full: Timestamp::ZERO }
    }

    /// How long to hold back the next question.
    pub(super) fn pause(&self, now: Timestamp) -> Duration {
        // Room for one more while less than one is missing: a burst of 2.
        self.full.since(now + self.spacing)
    }

    /// The next question, which is asked now.
    pub(super) fn ask(&mut self, now: Timestamp) -> Question {
        self.full = self.full.max(now) + self.spacing;
        match self.index {
            0 => Question { blocking: None, timeout: SLACK },
            index => Question {
                blocking: Some((index, self.wait)),
                timeout: self.wait + self.wait / 16 + SLACK,
            },
        }
    }

    /// An answer has come; `news`: it differs from the one before.
    pub(super) fn answered(&mut self, index: u64, news: bool, now: Timestamp) {
        self.failures = 0;
        let index = index.max(1);
        self.index = if index < self.index { 0 } else { index };
        self.spacing = if news { AFTER_NEWS } else { AFTER_NONE };
        if news {
            // What was spent on answers without news does not delay the next.
            self.full = self.full.min(now + AFTER_NEWS * 2);
        }
    }

    /// No answer has come, or none that can be used: how long to wait.
    pub(super) fn failed(&mut self, draw: &mut impl Draw) -> Duration {
        self.index = 0;
        self.failures = self.failures.saturating_add(1);
        let bound = BACKOFF_BASE.saturating_mul(1 << self.failures.min(9)).min(BACKOFF_CEILING);
        bound.mul_f64(draw.unit()).max(BACKOFF_FLOOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(300);

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos(millis * 1_000_000)
    }

    /// What is asked after these indexes were answered.
    fn asked_after(indexes: &[u64]) -> Option<u64> {
        let mut blocking = Blocking::new(WAIT);
        for index in indexes {
            blocking.ask(at(0));
            blocking.answered(*index, true, at(0));
        }
        blocking.ask(at(0)).blocking.map(|(index, _)| index)
    }

    #[test]
    fn the_index_follows_the_answers() {
        for (indexes, asked) in [
            (&[][..], None),
            (&[7], Some(7)),
            (&[7, 9], Some(9)),
            (&[9, 9], Some(9)),
            (&[9, 7], None),
            (&[9, 7, 7], Some(7)),
            (&[9, 7, 8], Some(8)),
            (&[0], Some(1)),
            (&[5, 0], None),
            (&[5, 0, 0], Some(1)),
            (&[u64::MAX, 1], None),
        ] {
            assert_eq!(asked_after(indexes), asked, "after {indexes:?}");
        }
    }

    #[test]
    fn after_a_failure_the_answer_is_wanted_at_once() {
        let mut blocking = Blocking::new(WAIT);
        blocking.answered(40, true, at(0));
        assert_eq!(blocking.ask(at(0)).blocking, Some((40, WAIT)));
        blocking.failed(&mut || 0u64);
        assert_eq!(blocking.ask(at(0)), Question { blocking: None, timeout: SLACK });
        // The server has come back with less.
        blocking.answered(3, true, at(0));
        assert_eq!(blocking.ask(at(0)).blocking, Some((3, WAIT)));
    }

    #[test]
    fn an_answer_may_take_the_wait_its_jitter_and_some_slack() {
        let mut blocking = Blocking::new(Duration::from_secs(160));
        blocking.answered(1, true, at(0));
        assert_eq!(blocking.ask(at(0)).timeout, Duration::from_secs(160 + 10 + 10));
        let mut longest = Blocking::new(Duration::MAX);
        longest.answered(1, true, at(0));
        assert_eq!(longest.ask(at(0)).blocking, Some((1, LONGEST_WAIT)));
    }

    /// When a question may be asked, if each is answered at once.
    fn times(news: bool, count: usize) -> Vec<u64> {
        let mut blocking = Blocking::new(WAIT);
        let mut now = at(60_000);
        let mut times = Vec::new();
        blocking.answered(5, news, now);
        while times.len() < count {
            now = now + blocking.pause(now);
            blocking.ask(now);
            times.push(now.since(at(60_000)).as_millis() as u64);
            blocking.answered(5, news, now);
        }
        times
    }

    #[test]
    fn two_questions_in_a_burst_and_then_one_per_interval() {
        assert_eq!(times(false, 5), [0, 0, 1_000, 2_000, 3_000]);
        let news = times(true, 50);
        assert!(news.windows(3).all(|three| three[2] - three[0] >= 100), "{news:?}");
        assert!(news.windows(2).all(|two| two[1] - two[0] <= 100), "{news:?}");
    }

    #[test]
    fn news_after_many_answers_without_is_held_back_no_longer_than_after_news() {
        let mut blocking = Blocking::new(WAIT);
        let mut now = at(1_000);
        for _ in 0..10 {
            now = now + blocking.pause(now);
            blocking.ask(now);
            blocking.answered(5, false, now);
        }
        blocking.answered(6, true, now);
        assert!(blocking.pause(now) <= AFTER_NEWS);
    }

    #[test]
    fn back_off_doubles_to_thirty_seconds_with_full_jitter_and_an_answer_ends_it() {
        let mut blocking = Blocking::new(WAIT);
        let highest: Vec<u128> =
            (0..10).map(|_| blocking.failed(&mut || u64::MAX).as_millis()).collect();
        assert_eq!(highest, [200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000]);
        assert_eq!(blocking.failed(&mut || 0u64), BACKOFF_FLOOR);
        blocking.answered(1, true, at(0));
        assert!(blocking.failed(&mut || u64::MAX) <= Duration::from_millis(200));
        for _ in 0..100 {
            blocking.failed(&mut || u64::MAX);
        }
        assert!(blocking.failed(&mut || u64::MAX) <= BACKOFF_CEILING);
    }
}
