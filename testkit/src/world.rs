//! A seeded world in virtual time: clients that decide with `mesh-core`, endpoints with a script.
//!
//! No sockets, no runtime, no clock: one queue of events, in the order of their [`Timestamp`].
//! Every random draw comes from one generator, so a seed repeats a run exactly.
//!
//! - Each client calls on its own, by a Poisson process, and has its own picker, outlier
//!   detection, breakers and retry budget: clients share no state.
//! - Each endpoint serves some calls at a time (4 slots) from a FIFO queue. A cancelled call
//!   leaves the queue; one that is being served keeps its slot until it would have ended.
//! - A message takes 0.25 ms each way. A call fails at its deadline (1 s).
//! - [`Fault`]s begin and end at given times.
//!
//! A run checks on every step what must hold whatever happens, and lists what did not in
//! [`Report::broken`]: an ejected endpoint is not picked while enough others are selectable; not
//! more are ejected than the policy allows; extra attempts stay within the retry budget.
//!
//! ```
//! use testkit::world::{Service, World};
//! use std::time::Duration;
//!
//! let service = Service::lognormal(Duration::from_millis(40), 0.7);
//! let report = World::new(7, 10, 5, service).at_load(0.5).measure(Duration::from_secs(1)).run();
//! assert!(report.broken.is_empty());
//! ```
//!
//! The shape of the world (slots, delays, distributions) is that of the study whose cases are in
//! [`cases`].

pub mod cases;
mod client;
mod events;
mod report;
mod server;

pub use report::{Broken, Report};

use client::{Client, Next};
use events::{Event, Key, Queue, Slab};
use mesh_core::{EndpointId, Failure, Outcome, Policy, Timestamp};
use report::Tally;
use server::{Admitted, Server};
use std::ops::Range;
use std::time::Duration;

/// How long one call keeps a slot.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Service {
    /// Lognormal, by its mean and the σ of the logarithm.
    Lognormal {
        /// Of the time itself, not of its logarithm.
        mean: Duration,
        /// Of the logarithm.
        sigma: f64,
    },
    /// Exponential, by its mean.
    Exponential {
        /// Of the time.
        mean: Duration,
    },
}

impl Service {
    /// Lognormal times.
    #[must_use]
    pub fn lognormal(mean: Duration, sigma: f64) -> Self {
        Self::Lognormal { mean, sigma }
    }

    /// Exponential times.
    #[must_use]
    pub fn exponential(mean: Duration) -> Self {
        Self::Exponential { mean }
    }

    fn mean(self) -> Duration {
        match self {
            Self::Lognormal { mean, .. } | Self::Exponential { mean } => mean,
        }
    }

    fn draw(self, rng: &mut fastrand::Rng) -> Duration {
        match self {
            // The mean of a lognormal is exp(μ + σ²/2).
            Self::Lognormal { mean, sigma } => {
                mean.mul_f64((sigma * normal(rng) - sigma * sigma / 2.0).exp())
            }
            Self::Exponential { mean } => mean.mul_f64(exponential(rng)),
        }
    }
}

/// What happens to endpoints for a while.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// Serves this many times slower.
    Slow(f64),
    /// This share of calls gets a 503 after the given time, without waiting in the queue.
    FailFast {
        /// In `0..=1`.
        share: f64,
        /// From arrival to answer.
        after: Duration,
    },
    /// Takes calls and never answers.
    BlackHole,
    /// Dead: what it holds is reset, connecting is refused.
    Down,
    /// Cut off from these clients only: what they send is lost.
    Partition(Range<usize>),
}

#[derive(Clone, Debug)]
struct Planned {
    endpoints: Range<usize>,
    from: Duration,
    to: Duration,
    fault: Fault,
}

/// A world that has not begun; see the [module docs](self).
#[derive(Clone, Debug)]
pub struct World {
    seed: u64,
    clients: usize,
    endpoints: usize,
    service: Service,
    slots: usize,
    /// Calls per second of all clients together.
    rate: f64,
    delay: Duration,
    deadline: Duration,
    attempt_timeout: Option<Duration>,
    queue_limit: usize,
    policy: Policy,
    warm_up: Duration,
    measure: Duration,
    faults: Vec<Planned>,
    nature: Vec<(Range<usize>, Fault)>,
}

impl World {
    /// So many clients and endpoints, the default [`Policy`], half of the capacity used, one
    /// second of warm-up and ten of measurement. Prints the seed.
    #[must_use]
    pub fn new(seed: u64, clients: usize, endpoints: usize, service: Service) -> Self {
        eprintln!("world: MESH_SEED={seed} repeats this run");
        let world = Self {
            seed,
            clients,
            endpoints,
            service,
            slots: 4,
            rate: 0.0,
            delay: Duration::from_micros(250),
            deadline: Duration::from_secs(1),
            attempt_timeout: None,
            queue_limit: usize::MAX,
            policy: Policy::default(),
            warm_up: Duration::from_secs(1),
            measure: Duration::from_secs(10),
            faults: Vec::new(),
            nature: Vec::new(),
        };
        world.at_load(0.5)
    }

    /// Offers this share of what all endpoints can serve when they are well.
    #[must_use]
    pub fn at_load(mut self, share: f64) -> Self {
        let capacity = (self.endpoints * self.slots) as f64 / self.service.mean().as_secs_f64();
        self.rate = capacity * share;
        self
    }

    /// Offers this many calls per second, all clients together.
    #[must_use]
    pub fn at_rate(mut self, rate: f64) -> Self {
        self.rate = rate;
        self
    }

    /// What the clients do.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Runs so long before anything is counted. Fault times count from its end.
    #[must_use]
    pub fn warm_up(mut self, span: Duration) -> Self {
        self.warm_up = span;
        self
    }

    /// Counts the calls that begin within this time.
    #[must_use]
    pub fn measure(mut self, span: Duration) -> Self {
        self.measure = span;
        self
    }

    /// How long one attempt may last; by default as long as its call.
    #[must_use]
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = Some(timeout);
        self
    }

    /// Endpoints answer 503 at once when so many calls wait; by default they never do.
    #[must_use]
    pub fn queue_limit(mut self, calls: usize) -> Self {
        self.queue_limit = calls;
        self
    }

    /// Endpoints of `endpoints` suffer `fault` between the two times after the warm-up.
    #[must_use]
    pub fn fault(mut self, endpoints: Range<usize>, during: Range<Duration>, fault: Fault) -> Self {
        self.faults.push(Planned { endpoints, from: during.start, to: during.end, fault });
        self
    }

    /// Endpoints of `endpoints` are like that from the beginning.
    #[must_use]
    pub fn always(mut self, endpoints: Range<usize>, fault: Fault) -> Self {
        self.nature.push((endpoints, fault));
        self
    }

    /// Lives through it.
    #[must_use]
    pub fn run(self) -> Report {
        Run::new(self).run()
    }
}

/// The seed of `MESH_SEED` if it is set, else a new one.
///
/// # Panics
///
/// If `MESH_SEED` is no number.
#[must_use]
pub fn seed() -> u64 {
    std::env::var("MESH_SEED")
        .map_or_else(|_| fastrand::u64(..), |text| text.parse().expect("MESH_SEED is a number"))
}

/// One call of a client, with all its attempts.
struct Call {
    client: usize,
    began: Timestamp,
    attempts: u32,
    tried: Vec<EndpointId>,
}

/// One attempt in flight.
struct Attempt {
    call: Key,
    endpoint: usize,
    began: Timestamp,
    /// What the client wants back when it ends.
    ticket: client::Ticket,
}

struct Run {
    world: World,
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
    fn new(world: World) -> Self {
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
        let mut servers: Vec<_> = (0..world.endpoints)
            .map(|_| Server::new(world.slots, world.queue_limit, world.service))
            .collect();
        for (endpoints, fault) in &world.nature {
            for server in &mut servers[endpoints.clone()] {
                // Nothing is being served yet that could be reset.
                let _ = server.suffer(fault);
            }
        }
        let client = |_| Client::new(world.endpoints, &world.policy);
        Self {
            clients: (0..world.clients).map(client).collect(),
            servers,
            tally: Tally::new(world.seed, world.endpoints),
            counted: measured..measured + world.measure,
            now: begin,
            calls: Slab::default(),
            attempts: Slab::default(),
            rng,
            queue,
            world,
        }
    }

    fn run(mut self) -> Report {
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
            Event::Answer { attempt, outcome } => self.ended(attempt, outcome),
            Event::AttemptTimeout(attempt) => {
                self.ended(attempt, Outcome::Failure(Failure::Timeout));
            }
            Event::Retry(call) => self.attempt(call),
            Event::Sweep(client) => self.sweep(client),
            Event::Reconnect { client, endpoint, wait } => self.reconnect(client, endpoint, wait),
            Event::FaultBegins(index) => self.fault(index, true),
            Event::FaultEnds(index) => self.fault(index, false),
        }
    }

    fn arrival(&mut self, client: usize) {
        let gap = Duration::from_secs_f64(self.world.clients as f64 / self.world.rate);
        let next = self.now + gap.mul_f64(exponential(&mut self.rng));
        if next < self.counted.end {
            self.queue.push(next, Event::Arrival(client));
        }
        self.clients[client].call_begins(self.now);
        let call = Call { client, began: self.now, attempts: 0, tried: Vec::new() };
        let call = self.calls.insert(call);
        self.attempt(call);
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
        let answer = |outcome, after| Some((outcome, after));
        let answered = match self.servers[endpoint].admit(key, &mut self.rng) {
            Admitted::Serving { span } => {
                let epoch = self.servers[endpoint].epoch();
                let served = Event::Served { endpoint, epoch, attempt: key };
                self.queue.push(self.now + span, served);
                None
            }
            Admitted::Queued | Admitted::Swallowed => None,
            Admitted::Refused => answer(Outcome::Failure(Failure::Connect), Duration::ZERO),
            Admitted::Failed { after } => answer(unavailable(), after),
        };
        if let Some((outcome, after)) = answered {
            let at = self.now + after + self.world.delay;
            self.queue.push(at, Event::Answer { attempt: key, outcome });
        }
    }

    fn served(&mut self, endpoint: usize, epoch: u64, key: Key) {
        if self.servers[endpoint].epoch() != epoch {
            return;
        }
        // A cancelled attempt is no longer known, and nobody hears its answer.
        let at = self.now + self.world.delay;
        self.queue.push(at, Event::Answer { attempt: key, outcome: Outcome::Success });
        let attempts = &self.attempts;
        let next = self.servers[endpoint].next(key, &mut self.rng, |key| attempts.contains(key));
        if let Some((attempt, span)) = next {
            self.queue.push(self.now + span, Event::Served { endpoint, epoch, attempt });
        }
    }

    /// The client learns how an attempt ended, and what to do next.
    fn ended(&mut self, key: Key, outcome: Outcome) {
        let Some(attempt) = self.attempts.remove(key) else { return };
        let Some(call) = self.calls.get_mut(attempt.call) else { return };
        let client = &mut self.clients[call.client];
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
            self.tally.finished(good, self.now.since(call.began), call.attempts);
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
            let server = &mut self.servers[endpoint];
            if begins {
                for attempt in server.suffer(&fault) {
                    let outcome = Outcome::Failure(Failure::Reset);
                    let at = self.now + self.world.delay;
                    self.queue.push(at, Event::Answer { attempt, outcome });
                }
            } else {
                server.recover(&fault);
            }
        }
    }
}

fn unavailable() -> Outcome {
    Outcome::of_http(http::StatusCode::SERVICE_UNAVAILABLE)
}

/// A draw from the exponential distribution with mean 1.
fn exponential(rng: &mut fastrand::Rng) -> f64 {
    -(1.0 - rng.f64()).ln()
}

/// A draw from the standard normal distribution (Box and Muller).
fn normal(rng: &mut fastrand::Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.f64()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.f64()).cos()
}

#[cfg(test)]
mod tests;
