//! One endpoint: slots, a queue, and its faults.

use super::events::Key;
use super::{Fault, Service};
use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

/// What became of an attempt that arrived.
pub(super) enum Admitted {
    /// It has a slot for this long.
    Serving { span: Duration },
    /// It waits.
    Queued,
    /// It will never be answered.
    Swallowed,
    /// Nobody listens.
    Refused,
    /// A 503 after this time.
    Failed { after: Duration },
}

pub(super) struct Server {
    slots: usize,
    limit: usize,
    service: Service,
    serving: Vec<Key>,
    waiting: VecDeque<Key>,
    slow: f64,
    fails: Option<(f64, Duration)>,
    swallows: bool,
    down: bool,
    cut_off: Vec<Range<usize>>,
    /// Counts deaths: what was being served before is over.
    epoch: u64,
}

impl Server {
    pub(super) fn new(slots: usize, limit: usize, service: Service) -> Self {
        Self {
            slots,
            limit,
            service,
            serving: Vec::with_capacity(slots),
            waiting: VecDeque::new(),
            slow: 1.0,
            fails: None,
            swallows: false,
            down: false,
            cut_off: Vec::new(),
            epoch: 0,
        }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn is_down(&self) -> bool {
        self.down
    }

    pub(super) fn is_cut_off(&self, client: usize) -> bool {
        self.cut_off.iter().any(|clients| clients.contains(&client))
    }

    pub(super) fn admit(&mut self, attempt: Key, rng: &mut fastrand::Rng) -> Admitted {
        if self.down {
            return Admitted::Refused;
        }
        if self.swallows {
            return Admitted::Swallowed;
        }
        if let Some((share, after)) = self.fails
            && rng.f64() < share
        {
            return Admitted::Failed { after };
        }
        if self.serving.len() < self.slots {
            self.serving.push(attempt);
            return Admitted::Serving { span: self.span(rng) };
        }
        if self.waiting.len() >= self.limit {
            return Admitted::Failed { after: Duration::ZERO };
        }
        self.waiting.push_back(attempt);
        Admitted::Queued
    }

    /// `done` leaves its slot; the first that waits and is still wanted gets it.
    pub(super) fn next(
        &mut self,
        done: Key,
        rng: &mut fastrand::Rng,
        wanted: impl Fn(Key) -> bool,
    ) -> Option<(Key, Duration)> {
        self.serving.retain(|key| *key != done);
        while let Some(attempt) = self.waiting.pop_front() {
            if wanted(attempt) {
                self.serving.push(attempt);
                return Some((attempt, self.span(rng)));
            }
        }
        None
    }

    /// A fault begins; returns the attempts that it resets.
    pub(super) fn suffer(&mut self, fault: &Fault) -> Vec<Key> {
        match fault {
            Fault::Slow(times) => self.slow *= times,
            Fault::FailFast { share, after } => self.fails = Some((*share, *after)),
            Fault::BlackHole => self.swallows = true,
            Fault::Partition(clients) => self.cut_off.push(clients.clone()),
            Fault::Down => {
                self.down = true;
                self.epoch += 1;
                return self.serving.drain(..).chain(self.waiting.drain(..)).collect();
            }
        }
        Vec::new()
    }

    pub(super) fn recover(&mut self, fault: &Fault) {
        match fault {
            Fault::Slow(times) => self.slow /= times,
            Fault::FailFast { .. } => self.fails = None,
            Fault::BlackHole => self.swallows = false,
            Fault::Partition(clients) => self.cut_off.retain(|cut| cut != clients),
            Fault::Down => self.down = false,
        }
    }

    fn span(&self, rng: &mut fastrand::Rng) -> Duration {
        self.service.draw(rng).mul_f64(self.slow)
    }
}
