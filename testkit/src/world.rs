//! A seeded world in virtual time: clients that decide with `mesh-core`, endpoints with a script.
//!
//! No sockets, no runtime, no clock: one queue of events, in the order of their [`Timestamp`](mesh_core::Timestamp).
//! Every random draw comes from one generator, so a seed repeats a run exactly.
//!
//! - Each client calls on its own, by a Poisson process, and has its own picker, outlier
//!   detection, breakers and retry budget: clients share no state.
//! - Each endpoint serves some calls at a time (4 slots) from a FIFO queue. A cancelled call
//!   leaves the queue when word of it arrives; one that is being served keeps its slot until it
//!   would have ended.
//! - A message takes 0.25 ms each way, and a call as long as it costs, wherever it is served. A call
//!   fails at its deadline (1 s).
//! - Endpoints may attach a report to each response, and answer probes ([`Reports`]).
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
mod run;
mod server;

pub use report::{Broken, Report};

use mesh_core::Policy;
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
    /// Most calls cost the same, some much more.
    Mixed {
        /// What most cost.
        cheap: Duration,
        /// What the others cost.
        dear: Duration,
        /// How many are dear, of 1.
        share: f64,
    },
}

/// What one call costs.
#[derive(Clone, Copy, Debug)]
struct Cost {
    /// For how long it keeps a slot of an endpoint that is well.
    span: Duration,
    /// Whether it is one of the dear ones, whose latency says nothing about the endpoint.
    dear: bool,
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
            Self::Mixed { cheap, dear, share } => cheap.mul_f64(1.0 - share) + dear.mul_f64(share),
        }
    }

    fn draw(self, rng: &mut fastrand::Rng) -> Cost {
        let (span, dear) = match self {
            // The mean of a lognormal is exp(μ + σ²/2).
            Self::Lognormal { mean, sigma } => {
                (mean.mul_f64((sigma * normal(rng) - sigma * sigma / 2.0).exp()), false)
            }
            Self::Exponential { mean } => (mean.mul_f64(exponential(rng)), false),
            Self::Mixed { dear, share, .. } if rng.f64() < share => (dear, true),
            Self::Mixed { cheap, .. } => (cheap, false),
        };
        Cost { span, dear }
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
    /// Now well, now this many times slower, each for an exponential time of this mean.
    Antagonists {
        /// How many times slower.
        times: f64,
        /// Mean of the times between changes.
        mean: Duration,
    },
}

/// What endpoints say of themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reports {
    /// Nothing.
    #[default]
    None,
    /// A report comes with each response.
    Attached,
    /// The same, and clients may ask for more before they pick.
    Probed,
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
    cancels: bool,
    reports: Reports,
    /// Of the endpoints that report, from the first.
    reporting: usize,
    surge: Option<(Range<Duration>, f64)>,
    failures_look_fast: bool,
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
            cancels: true,
            reports: Reports::None,
            reporting: endpoints,
            surge: None,
            failures_look_fast: false,
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
    pub fn at_load(self, share: f64) -> Self {
        let capacity = (self.endpoints * self.slots) as f64 / self.service.mean().as_secs_f64();
        self.at_rate(capacity * share)
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

    /// Endpoints work through what nobody waits for any more: cancellation does not reach them.
    #[must_use]
    pub fn without_cancellation(mut self) -> Self {
        self.cancels = false;
        self
    }

    /// What endpoints say of themselves. Nothing by default.
    #[must_use]
    pub fn reports(mut self, reports: Reports) -> Self {
        self.reports = reports;
        self
    }

    /// Only so many of the endpoints, the first ones, say anything of themselves.
    #[must_use]
    pub fn reported_by(mut self, endpoints: usize) -> Self {
        self.reporting = endpoints;
        self
    }

    /// Clients take the time of a failure for a latency like any other, as tower's load does.
    #[must_use]
    pub fn failures_look_fast(mut self) -> Self {
        self.failures_look_fast = true;
        self
    }

    /// Between these times after the warm-up, so many times the calls are offered.
    #[must_use]
    pub fn surge(mut self, during: Range<Duration>, times: f64) -> Self {
        self.surge = Some((during, times));
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
        run::Run::new(self).run()
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
