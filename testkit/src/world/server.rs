//! One endpoint: slots, a queue, what it says of itself, and its faults.

use super::Fault;
use super::events::Key;
use mesh_core::load::{Report, Reporter};
use mesh_core::{Failure, Outcome, Timestamp};
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
    /// It is over.
    Answered(Answer),
}

/// An answer, or word that there is none.
pub(super) struct Answer {
    pub(super) outcome: Outcome,
    /// From arrival to answer.
    pub(super) after: Duration,
    pub(super) report: Option<Report>,
}

pub(super) struct Server {
    slots: usize,
    limit: usize,
    serving: Vec<Served>,
    waiting: VecDeque<Waiting>,
    reporter: Option<Reporter>,
    utilization: Utilization,
    slow: f64,
    antagonist: Option<Antagonist>,
    fails: Option<(f64, Duration)>,
    swallows: bool,
    down: bool,
    cut_off: Vec<Range<usize>>,
    /// Counts deaths: what was being served before is over.
    epoch: u64,
}

/// An attempt without a slot.
struct Waiting {
    attempt: Key,
    cost: Duration,
    arrival: Arrival,
}

struct Served {
    attempt: Key,
    span: Duration,
    arrival: Arrival,
}

/// When an attempt arrived, and how many it found there.
#[derive(Clone, Copy)]
struct Arrival {
    at: Timestamp,
    found: u32,
}

struct Antagonist {
    times: f64,
    mean: Duration,
    at_it: bool,
}

impl Server {
    pub(super) fn new(slots: usize, limit: usize, reports: bool) -> Self {
        Self {
            slots,
            limit,
            serving: Vec::with_capacity(slots),
            waiting: VecDeque::new(),
            reporter: reports.then(Reporter::new),
            utilization: Utilization::default(),
            slow: 1.0,
            antagonist: None,
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

    /// What it says of itself, if it does.
    pub(super) fn report(&mut self, now: Timestamp) -> Option<Report> {
        let busy = self.utilization.at(now, self.serving.len() as f64 / self.slots as f64);
        let reporter = self.reporter.as_ref()?;
        reporter.set_cpu_utilization(busy);
        Some(reporter.report(now))
    }

    /// What it says when it is asked.
    pub(super) fn probed(&mut self, now: Timestamp) -> Option<Report> {
        if self.down || self.swallows {
            return None;
        }
        // Takes the utilization along.
        self.report(now)?;
        self.reporter.as_ref().map(|reporter| reporter.answer(now))
    }

    pub(super) fn admit(
        &mut self,
        now: Timestamp,
        attempt: Key,
        cost: Duration,
        rng: &mut fastrand::Rng,
    ) -> Admitted {
        if self.down {
            let outcome = Outcome::Failure(Failure::Connect);
            return Admitted::Answered(Answer { outcome, after: Duration::ZERO, report: None });
        }
        if self.swallows {
            return Admitted::Swallowed;
        }
        let found = self.reporter.as_ref().map_or(0, Reporter::begin);
        let arrival = Arrival { at: now, found };
        if let Some((share, after)) = self.fails
            && rng.f64() < share
        {
            return self.refuse(now, after);
        }
        if self.serving.len() < self.slots {
            return Admitted::Serving { span: self.serve(now, attempt, cost, arrival) };
        }
        if self.waiting.len() >= self.limit {
            return self.refuse(now, Duration::ZERO);
        }
        self.waiting.push_back(Waiting { attempt, cost, arrival });
        Admitted::Queued
    }

    fn refuse(&mut self, now: Timestamp, after: Duration) -> Admitted {
        if let Some(reporter) = &self.reporter {
            reporter.refused(now);
        }
        let outcome = Outcome::of_http(http::StatusCode::SERVICE_UNAVAILABLE);
        Admitted::Answered(Answer { outcome, after, report: self.report(now) })
    }

    fn serve(
        &mut self,
        now: Timestamp,
        attempt: Key,
        cost: Duration,
        arrival: Arrival,
    ) -> Duration {
        self.utilization.at(now, self.serving.len() as f64 / self.slots as f64);
        let antagonist = self.antagonist.as_ref().filter(|one| one.at_it);
        let span = cost.mul_f64(self.slow * antagonist.map_or(1.0, |one| one.times));
        self.serving.push(Served { attempt, span, arrival });
        span
    }

    /// `done` leaves its slot, and the first that waits gets it. Whether anybody `wanted` the
    /// answer is all the same to the slot.
    pub(super) fn done(
        &mut self,
        now: Timestamp,
        done: Key,
        wanted: bool,
    ) -> Option<(Key, Duration)> {
        self.utilization.at(now, self.serving.len() as f64 / self.slots as f64);
        let place = self.serving.iter().position(|served| served.attempt == done)?;
        let Served { span, arrival, .. } = self.serving.swap_remove(place);
        if let Some(reporter) = &self.reporter {
            if wanted {
                reporter.end(now, span, false);
                reporter.took(arrival.found, now.since(arrival.at));
            } else {
                reporter.cancelled();
            }
        }
        let Waiting { attempt, cost, arrival } = self.waiting.pop_front()?;
        Some((attempt, self.serve(now, attempt, cost, arrival)))
    }

    /// Nobody waits for this one any more; without a slot, it leaves.
    pub(super) fn cancelled(&mut self, attempt: Key) {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| waiting.attempt != attempt);
        if let Some(reporter) = self.reporter.as_ref().filter(|_| self.waiting.len() < before) {
            reporter.cancelled();
        }
    }

    /// A fault begins; returns the attempts that it resets.
    pub(super) fn suffer(&mut self, fault: &Fault) -> Vec<Key> {
        match fault {
            Fault::Slow(times) => self.slow *= times,
            Fault::FailFast { share, after } => self.fails = Some((*share, *after)),
            Fault::BlackHole => self.swallows = true,
            Fault::Partition(clients) => self.cut_off.push(clients.clone()),
            Fault::Antagonists { times, mean } => {
                self.antagonist = Some(Antagonist { times: *times, mean: *mean, at_it: false });
            }
            Fault::Down => {
                self.down = true;
                self.epoch += 1;
                self.reporter = self.reporter.take().map(|_| Reporter::new());
                let waiting = self.waiting.drain(..).map(|one| one.attempt);
                return self.serving.drain(..).map(|one| one.attempt).chain(waiting).collect();
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
            Fault::Antagonists { .. } => self.antagonist = None,
            Fault::Down => self.down = false,
        }
    }

    /// The antagonist comes or goes; returns the mean time until the next change.
    pub(super) fn toggle(&mut self) -> Option<Duration> {
        let antagonist = self.antagonist.as_mut()?;
        antagonist.at_it = !antagonist.at_it;
        Some(antagonist.mean)
    }
}

/// Share of the slots in use, averaged over about a second.
#[derive(Default)]
struct Utilization {
    average: f64,
    at: Timestamp,
}

impl Utilization {
    /// So much was in use since the last look.
    fn at(&mut self, now: Timestamp, busy: f64) -> f64 {
        let kept = (-now.since(self.at).as_secs_f64()).exp();
        self.average = self.average * kept + busy * (1.0 - kept);
        self.at = now;
        self.average
    }
}
