//! A run: the events of a world, one after the other.

use super::client::{self, Client, Next};
use super::events::{Event, Key, Queue, Slab};
use super::report::Tally;
use super::server::{Admitted, Answer, Server};
use super::{Cost, Fault, Planned, Report, Reports, World, exponential};
use mesh_core::{EndpointId, Failure, Outcome, Timestamp, load};
use std::ops::Range;
use std::time::Duration;

/// How long the answer to a probe may take for which no call waits.
const PROBE_TIMEOUT: Duration = Duration::from_millis(3);

/// One call of a client, with all its attempts.
struct Call {
    client: usize,
    began: Timestamp,
    attempts: u32,
    tried: Vec<EndpointId>,
    cost: Cost,
    /// Endpoints that were asked for a report, and have not answered.
    asked: Vec<usize>,
}

/// One attempt in flight.
struct Attempt {
    call: Key,
    endpoint: usize,
    began: Timestamp,
    /// What the client wants back when it ends.
    ticket: client::Ticket,
}

pub(super) struct Run {
    world: World,
    /// Calls per second now.
    rate: f64,
    rng: fastrand::Rng,
    now: Timestamp,
    /// When counting begins and ends.
    counted: Range<Timestamp>,
    queue: Queue,
    clients: Vec<Client>,
    servers: Vec<Server>,
    calls: Slab<Call>,
    attempts: Slab<Attempt>,
    tally: Tally,
}

impl Run {
    pub(super) fn new(world: World) -> Self {
        let mut rng = fastrand::Rng::with_seed(world.seed);
        let begin = Timestamp::ZERO + Duration::from_secs(1);
        let measured = begin + world.warm_up;
        let mut queue = Queue::default();
        for (index, planned) in world.faults.iter().enumerate() {
            queue.push(measured + planned.from, Event::FaultBegins(index));
            queue.push(measured + planned.to, Event::FaultEnds(index));
        }
        let gap = Duration::from_secs_f64(world.clients as f64 / world.rate);
        for client in 0..world.clients {
            queue.push(begin + gap.mul_f64(exponential(&mut rng)), Event::Arrival(client));
            // Sweeps of real clients do not coincide.
            let interval = world.policy.outlier.interval;
            queue.push(begin + interval.mul_f64(rng.f64()), Event::Sweep(client));
        }
        if let Some((during, times)) = &world.surge {
            queue.push(measured + during.start, Event::Rate(world.rate * times));
            queue.push(measured + during.end, Event::Rate(world.rate));
        }
        let servers = (0..world.endpoints).map(|endpoint| {
            let reports = world.reports != Reports::None && endpoint < world.reporting;
            Server::new(world.slots, world.queue_limit, reports)
        });
        let client = |_| Client::new(world.endpoints, &world.policy, world.failures_look_fast);
        let mut run = Self {
            clients: (0..world.clients).map(client).collect(),
            servers: servers.collect(),
            tally: Tally::new(world.seed, world.endpoints),
            rate: world.rate,
            counted: measured..measured + world.measure,
            now: begin,
            calls: Slab::default(),
            attempts: Slab::default(),
            rng,
            queue,
            world,
        };
        for (endpoints, fault) in run.world.nature.clone() {
            endpoints.for_each(|endpoint| run.suffer(endpoint, &fault));
        }
        run
    }

    pub(super) fn run(mut self) -> Report {
        // Calls that begin near the end still have their deadline to live.
        let end = self.counted.end + self.world.deadline;
        while let Some((at, event)) = self.queue.pop() {
            if at > end {
                break;
            }
            self.now = at;
            self.step(event);
        }
        self.tally.report()
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Arrival(client) => self.arrival(client),
            Event::AtEndpoint(attempt) => self.at_endpoint(attempt),
            Event::Served { endpoint, epoch, attempt } => self.served(endpoint, epoch, attempt),
            Event::Answer { attempt, outcome, report } => self.ended(attempt, outcome, report),
            Event::AttemptTimeout(attempt) => self.timed_out(attempt),
            Event::Cancelled { endpoint, attempt } => {
                self.servers[endpoint].cancelled(attempt);
            }
            Event::Retry(call) => self.approach(call),
            Event::ProbeAtEndpoint { client, endpoint, call, waits } => {
                self.probed(client, endpoint, call, waits);
            }
            Event::ProbeLost { client, endpoint } => self.clients[client].unanswered(endpoint),
            Event::ProbeAnswer { client, endpoint, call, report } => {
                if let Some(call) = self.calls.get_mut(call) {
                    call.asked.retain(|asked| *asked != endpoint);
                }
                let round_trip = self.world.delay * 2;
                self.clients[client].probed(self.now, endpoint, &report, round_trip);
            }
            Event::ProbesOver(call) => self.probes_over(call),
            Event::Toggle(endpoint) => {
                if let Some(mean) = self.servers[endpoint].toggle() {
                    let at = self.now + mean.mul_f64(exponential(&mut self.rng));
                    self.queue.push(at, Event::Toggle(endpoint));
                }
            }
            Event::Rate(rate) => self.rate = rate,
            Event::Sweep(client) => self.sweep(client),
            Event::Reconnect { client, endpoint, wait } => self.reconnect(client, endpoint, wait),
            Event::FaultBegins(index) => self.fault(index, true),
            Event::FaultEnds(index) => self.fault(index, false),
        }
    }

    fn arrival(&mut self, client: usize) {
        let gap = Duration::from_secs_f64(self.world.clients as f64 / self.rate);
        let next = self.now + gap.mul_f64(exponential(&mut self.rng));
        if next < self.counted.end {
            self.queue.push(next, Event::Arrival(client));
        }
        self.clients[client].call_begins(self.now);
        let cost = self.world.service.draw(&mut self.rng);
        let (tried, asked) = (Vec::new(), Vec::new());
        let call = Call { client, began: self.now, attempts: 0, tried, cost, asked };
        let call = self.calls.insert(call);
        self.approach(call);
    }

    /// Asks for reports if that is worth it, then attempts.
    fn approach(&mut self, key: Key) {
        let Some(call) = self.calls.get_mut(key) else { return };
        let client = call.client;
        if self.world.reports != Reports::Probed {
            return self.attempt(key);
        }
        let mut draw = || self.rng.u64(..);
        let (endpoints, wait) = self.clients[client].probes(self.now, &call.tried, &mut draw);
        if endpoints.is_empty() {
            return self.attempt(key);
        }
        if self.counted.contains(&call.began) {
            self.tally.probed(endpoints.len());
        }
        for endpoint in &endpoints {
            let endpoint = *endpoint;
            if !self.servers[endpoint].is_cut_off(client) {
                let probe = Event::ProbeAtEndpoint { client, endpoint, call: key, waits: wait };
                self.queue.push(self.now + self.world.delay, probe);
            } else if !wait {
                self.queue.push(self.now + PROBE_TIMEOUT, Event::ProbeLost { client, endpoint });
            }
        }
        call.asked = endpoints;
        // After the answers of the same instant.
        let over = self.now + self.world.delay * 2 + Duration::from_nanos(1);
        if wait {
            self.queue.push(over, Event::ProbesOver(key));
        } else {
            self.attempt(key);
        }
    }

    fn probed(&mut self, client: usize, endpoint: usize, call: Key, waits: bool) {
        if let Some(report) = self.servers[endpoint].probed(self.now) {
            let answer = Event::ProbeAnswer { client, endpoint, call, report };
            self.queue.push(self.now + self.world.delay, answer);
        } else if !waits {
            self.queue.push(self.now + PROBE_TIMEOUT, Event::ProbeLost { client, endpoint });
        }
    }

    fn probes_over(&mut self, key: Key) {
        let Some(call) = self.calls.get_mut(key) else { return };
        for endpoint in call.asked.drain(..) {
            self.clients[call.client].unanswered(endpoint);
        }
        self.attempt(key);
    }

    /// Picks an endpoint and sends to it.
    fn attempt(&mut self, key: Key) {
        let Some(call) = self.calls.get_mut(key) else { return };
        let (client, counted) = (call.client, self.counted.contains(&call.began));
        let expiry = call.began + self.world.deadline;
        if expiry <= self.now {
            return self.finish(key, false);
        }
        let mut draw = || self.rng.u64(..);
        let picked = match self.clients[client].pick(self.now, &call.tried, &mut draw) {
            Ok(picked) => picked,
            Err(client::Refused) => return self.finish(key, false),
        };
        self.tally.broken(self.now, picked.broken);
        if counted {
            self.tally.picked(picked.endpoint);
        }
        call.attempts += 1;
        call.tried.push(picked.id);
        let attempt = self.attempts.insert(Attempt {
            call: key,
            endpoint: picked.endpoint,
            began: self.now,
            ticket: picked.ticket,
        });
        let timeout = self.world.attempt_timeout.map_or(expiry, |span| expiry.min(self.now + span));
        self.queue.push(timeout, Event::AttemptTimeout(attempt));
        let lost = self.servers[picked.endpoint].is_cut_off(client);
        if !lost {
            self.queue.push(self.now + self.world.delay, Event::AtEndpoint(attempt));
        }
    }

    fn at_endpoint(&mut self, key: Key) {
        let Some(attempt) = self.attempts.get_mut(key) else { return };
        let endpoint = attempt.endpoint;
        let cost = self.calls.get_mut(attempt.call).map_or(Duration::ZERO, |call| call.cost.span);
        match self.servers[endpoint].admit(self.now, key, cost, &mut self.rng) {
            Admitted::Serving { span } => {
                let epoch = self.servers[endpoint].epoch();
                let served = Event::Served { endpoint, epoch, attempt: key };
                self.queue.push(self.now + span, served);
            }
            Admitted::Queued | Admitted::Swallowed => {}
            Admitted::Answered(answer) => self.answer(key, &answer),
        }
    }

    /// An answer goes out.
    fn answer(&mut self, attempt: Key, Answer { outcome, after, report }: &Answer) {
        let at = self.now + *after + self.world.delay;
        let answer = Event::Answer { attempt, outcome: *outcome, report: *report };
        self.queue.push(at, answer);
    }

    fn served(&mut self, endpoint: usize, epoch: u64, key: Key) {
        let server = &mut self.servers[endpoint];
        if server.epoch() != epoch {
            return;
        }
        let wanted = self.attempts.contains(key);
        if let Some((attempt, span)) = server.done(self.now, key, wanted) {
            self.queue.push(self.now + span, Event::Served { endpoint, epoch, attempt });
        }
        // A cancelled attempt is no longer known, and nobody hears its answer.
        if wanted {
            let report = self.servers[endpoint].report(self.now);
            let outcome = Outcome::Success;
            self.answer(key, &Answer { outcome, after: Duration::ZERO, report });
        }
    }

    fn timed_out(&mut self, attempt: Key) {
        if let Some(Attempt { endpoint, .. }) = self.attempts.get_mut(attempt)
            && self.world.cancels
        {
            let cancelled = Event::Cancelled { endpoint: *endpoint, attempt };
            self.queue.push(self.now + self.world.delay, cancelled);
        }
        self.ended(attempt, Outcome::Failure(Failure::Timeout), None);
    }

    /// The client learns how an attempt ended, and what to do next.
    fn ended(&mut self, key: Key, outcome: Outcome, report: Option<load::Report>) {
        let Some(attempt) = self.attempts.remove(key) else { return };
        let Some(call) = self.calls.get_mut(attempt.call) else { return };
        let client = &mut self.clients[call.client];
        if let Some(report) = report {
            client.reported(self.now, attempt.endpoint, &report);
        }
        let mut draw = || self.rng.u64(..);
        let latency = self.now.since(attempt.began);
        let broken =
            client.ended(self.now, attempt.endpoint, attempt.ticket, outcome, latency, &mut draw);
        self.tally.broken(self.now, broken);
        if let Outcome::Failure(Failure::Connect) = outcome
            && let Some(wait) = client.lost_connection(self.now, attempt.endpoint)
        {
            let (client, endpoint) = (call.client, attempt.endpoint);
            self.queue.push(self.now + wait, Event::Reconnect { client, endpoint, wait });
        }
        let Outcome::Failure(failure) = outcome else {
            return self.finish(attempt.call, true);
        };
        let client = &mut self.clients[call.client];
        let (next, broken) = client.after_failure(self.now, failure, call.attempts, &mut draw);
        self.tally.broken(self.now, broken);
        match next {
            Next::RetryAfter(wait) => {
                self.queue.push(self.now + wait, Event::Retry(attempt.call));
            }
            Next::GiveUp => self.finish(attempt.call, false),
        }
    }

    fn finish(&mut self, key: Key, good: bool) {
        let Some(call) = self.calls.remove(key) else { return };
        if self.counted.contains(&call.began) {
            let second = call.began.since(self.counted.start).as_secs() as usize;
            let latency = self.now.since(call.began);
            self.tally.finished(second, good, latency, call.attempts, call.cost.dear);
        }
    }

    fn sweep(&mut self, client: usize) {
        let mut draw = || self.rng.u64(..);
        let broken = self.clients[client].sweep(self.now, &mut draw);
        self.tally.broken(self.now, broken);
        self.queue.push(self.now + self.world.policy.outlier.interval, Event::Sweep(client));
    }

    fn reconnect(&mut self, client: usize, endpoint: usize, wait: Duration) {
        let up = !self.servers[endpoint].is_down() && !self.servers[endpoint].is_cut_off(client);
        if let Some(wait) = self.clients[client].reconnected(self.now, endpoint, up, wait) {
            self.queue.push(self.now + wait, Event::Reconnect { client, endpoint, wait });
        }
    }

    fn fault(&mut self, index: usize, begins: bool) {
        let Planned { endpoints, fault, .. } = self.world.faults[index].clone();
        for endpoint in endpoints {
            if begins {
                self.suffer(endpoint, &fault);
            } else {
                self.servers[endpoint].recover(&fault);
            }
        }
    }

    fn suffer(&mut self, endpoint: usize, fault: &Fault) {
        for attempt in self.servers[endpoint].suffer(fault) {
            let outcome = Outcome::Failure(Failure::Reset);
            self.answer(attempt, &Answer { outcome, after: Duration::ZERO, report: None });
        }
        if let Fault::Antagonists { mean, .. } = fault {
            // Half of them are at it already.
            let span = if self.rng.bool() {
                mean.mul_f64(exponential(&mut self.rng))
            } else {
                Duration::ZERO
            };
            self.queue.push(self.now + span, Event::Toggle(endpoint));
        }
    }
}
