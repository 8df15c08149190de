//! The cases in which policies are compared.
//!
//! 100 clients × 100 endpoints, 4 slots each, 40 ms lognormal (σ 0.7), unless said otherwise. Each
//! client sends each endpoint less than one call per second: counts of what is in flight are
//! nearly always 0, as in a real mesh. No retry, unless said otherwise; "1 retry" is within the
//! budget of 20 %.
//!
//! | | case | |
//! |---|---|---|
//! | S1, S2 | homogeneous | load 70 %, 95 % |
//! | S3 | two speeds | half of the endpoints 2 × slower, 75 % of what is left of the capacity |
//! | S4 | brown-out | 5 endpoints 10 × slower, 70 % |
//! | S5a, b | fast failure | 3 endpoints answer 503 in 1 ms, 70 %; the same with 1 retry |
//! | S5c | many fast failures | the same with 20 endpoints, 1 retry |
//! | S6 | black hole | 3 endpoints take calls and never answer, 70 % |
//! | S7 | rolling restart | one after another down for 2 s, then 3 × slower for 5 s, 1 retry |
//! | S8 | antagonists | each endpoint now well, now 3 × slower, 2 s on average; 80 % of the capacity that leaves |
//! | S9 | retry storm | 80 %, for 10 s 150 %; 30 ms, attempt timeout 250 ms, 3 retries, queues of 16 |
//! | S10 | sparse | 1,000 clients with 5 calls/s each, exponential 60 ms, 75 % |
//! | S11 | mixed cost | 1 % of the calls cost 600 ms, the others 6 ms; 60 %, 50 × 50; latency of the cheap |
//! | S12 | background errors | 2 % of the calls fail everywhere, 70 % |
//!
//! Faults last as long as what is measured, and begin with it; before it, all is well for 20 s, or for
//! as long as is measured if that is less.

use super::{Fault, Service, World};
use mesh_core::Policy;
use std::ops::Range;
use std::time::Duration;

/// Clients of a case.
pub const CLIENTS: usize = 100;
/// Endpoints of a case.
pub const ENDPOINTS: usize = 100;
/// When the surge of S9 begins and ends, in seconds of what is measured.
pub const SURGE: Range<usize> = 5..15;
/// The longest time before what is measured: clients know their endpoints by then.
pub const WARM_UP: Duration = Duration::from_secs(20);
/// The shortest time in which S9 shows whether the surge is over when it ends.
pub const S9_LASTS: Duration = Duration::from_secs(40);

/// Makes a case from seed, policy and measured time.
pub type Case = fn(u64, Policy, Duration) -> World;

/// The cases by name.
pub const ALL: &[(&str, Case)] = &[
    ("S1", s1),
    ("S2", s2),
    ("S3", s3),
    ("S4", s4),
    ("S5a", s5a),
    ("S5b", s5b),
    ("S5c", s5c),
    ("S6", s6),
    ("S7", s7),
    ("S8", s8),
    ("S9", s9),
    ("S10", s10),
    ("S11", s11),
    ("S12", s12),
];

/// Homogeneous.
#[must_use]
pub fn s1(seed: u64, policy: Policy, measured: Duration) -> World {
    base(seed, with_retries(policy, 0), measured).at_load(0.7)
}

/// Homogeneous, nearly full.
#[must_use]
pub fn s2(seed: u64, policy: Policy, measured: Duration) -> World {
    s1(seed, policy, measured).at_load(0.95)
}

/// Two speeds.
#[must_use]
pub fn s3(seed: u64, policy: Policy, measured: Duration) -> World {
    // Half of the endpoints at half the speed: three quarters of the capacity.
    s1(seed, policy, measured).at_load(0.75 * 0.75).always(0..ENDPOINTS / 2, Fault::Slow(2.0))
}

/// Brown-out.
#[must_use]
pub fn s4(seed: u64, policy: Policy, measured: Duration) -> World {
    s1(seed, policy, measured).fault(0..5, Duration::ZERO..measured, Fault::Slow(10.0))
}

/// Fast failure.
#[must_use]
pub fn s5a(seed: u64, policy: Policy, measured: Duration) -> World {
    s1(seed, policy, measured).fault(0..3, Duration::ZERO..measured, fails_fast(1.0))
}

/// Fast failure, and retries.
#[must_use]
pub fn s5b(seed: u64, policy: Policy, measured: Duration) -> World {
    let world = base(seed, with_retries(policy, 1), measured).at_load(0.7);
    world.fault(0..3, Duration::ZERO..measured, fails_fast(1.0))
}

/// Many fast failures, and retries.
#[must_use]
pub fn s5c(seed: u64, policy: Policy, measured: Duration) -> World {
    let world = base(seed, with_retries(policy, 1), measured).at_load(0.7);
    world.fault(0..20, Duration::ZERO..measured, fails_fast(1.0))
}

/// Black hole.
#[must_use]
pub fn s6(seed: u64, policy: Policy, measured: Duration) -> World {
    s1(seed, policy, measured).fault(0..3, Duration::ZERO..measured, Fault::BlackHole)
}

/// Rolling restart.
#[must_use]
pub fn s7(seed: u64, policy: Policy, measured: Duration) -> World {
    const DOWN: Duration = Duration::from_secs(2);
    const SLOW: Duration = Duration::from_secs(5);
    let turns = (measured.as_secs() / DOWN.as_secs()) as u32;
    let world = base(seed, with_retries(policy, 1), measured).at_load(0.7);
    (0..turns).fold(world, |world, turn| {
        let endpoint = turn as usize % ENDPOINTS;
        let (down, up) = (DOWN * turn, DOWN * (turn + 1));
        world.fault(endpoint..endpoint + 1, down..up, Fault::Down).fault(
            endpoint..endpoint + 1,
            up..up + SLOW,
            Fault::Slow(3.0),
        )
    })
}

/// Antagonists.
#[must_use]
pub fn s8(seed: u64, policy: Policy, measured: Duration) -> World {
    // Half of the time at a third of the speed: two thirds of the capacity.
    let antagonists = Fault::Antagonists { times: 3.0, mean: Duration::from_secs(2) };
    s1(seed, policy, measured).at_load(0.8 * 2.0 / 3.0).always(0..ENDPOINTS, antagonists)
}

/// Retry storm. Lasts [`S9_LASTS`] at least.
#[must_use]
pub fn s9(seed: u64, policy: Policy, measured: Duration) -> World {
    retry_storm(seed, policy, measured, ENDPOINTS)
}

/// S9 with so many clients and as many endpoints.
#[must_use]
pub fn retry_storm(seed: u64, policy: Policy, measured: Duration, size: usize) -> World {
    let seconds = |second: usize| Duration::from_secs(second as u64);
    let service = Service::lognormal(Duration::from_millis(30), 0.7);
    World::new(seed, size, size, service)
        .policy(with_retries(policy, 3))
        .warm_up(Duration::from_secs(10))
        .measure(measured.max(S9_LASTS))
        .at_load(0.8)
        .attempt_timeout(Duration::from_millis(250))
        .queue_limit(16)
        .surge(seconds(SURGE.start)..seconds(SURGE.end), 1.5 / 0.8)
}

/// The same without what keeps a surge from staying: no retry budget, queues without end, and
/// endpoints that work through what nobody waits for any more.
#[must_use]
pub fn naive(world: World) -> World {
    let mut policy = world.policy.clone();
    policy.budget.percent = 100;
    policy.budget.min_retries_per_second = 1_000_000;
    world.policy(policy).queue_limit(usize::MAX).without_cancellation()
}

/// Sparse.
#[must_use]
pub fn s10(seed: u64, policy: Policy, measured: Duration) -> World {
    World::new(seed, 1_000, ENDPOINTS, Service::exponential(Duration::from_millis(60)))
        .policy(with_retries(policy, 0))
        .warm_up(measured.min(WARM_UP))
        .measure(measured)
        .at_rate(5_000.0)
}

/// Mixed cost.
#[must_use]
pub fn s11(seed: u64, policy: Policy, measured: Duration) -> World {
    let (cheap, dear) = (Duration::from_millis(6), Duration::from_millis(600));
    World::new(seed, 50, 50, Service::Mixed { cheap, dear, share: 0.01 })
        .policy(with_retries(policy, 0))
        .warm_up(measured.min(WARM_UP))
        .measure(measured)
        .at_load(0.6)
}

/// Background errors.
#[must_use]
pub fn s12(seed: u64, policy: Policy, measured: Duration) -> World {
    s1(seed, policy, measured).always(0..ENDPOINTS, fails_fast(0.02))
}

fn base(seed: u64, policy: Policy, measured: Duration) -> World {
    World::new(seed, CLIENTS, ENDPOINTS, Service::lognormal(Duration::from_millis(40), 0.7))
        .policy(policy)
        .warm_up(measured.min(WARM_UP))
        .measure(measured)
}

fn fails_fast(share: f64) -> Fault {
    Fault::FailFast { share, after: Duration::from_millis(1) }
}

fn with_retries(mut policy: Policy, retries: u32) -> Policy {
    policy.retry.attempts = retries;
    policy
}
