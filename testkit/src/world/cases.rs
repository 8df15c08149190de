//! The cases in which the known policies were compared.
//!
//! 100 clients × 100 endpoints, 4 slots each, 40 ms lognormal (σ 0.7), unless said otherwise. Each
//! client sends each endpoint less than one call per second: counts of what is in flight are
//! nearly always 0, as in a real mesh.
//!
//! | | case | |
//! |---|---|---|
//! | S1 | homogeneous | load 70 % |
//! | S3 | two speeds | half of the endpoints 2 × slower, 75 % of what is left of the capacity |
//! | S4 | brown-out | 5 endpoints 10 × slower, 70 % |
//! | S5a | fast failure | 3 endpoints answer 503 in 1 ms, 70 %, no retry |
//! | S5c | many fast failures | as S5a with 20 endpoints, 1 retry |
//! | S6 | black hole | 3 endpoints take calls and never answer, 70 % |
//! | S7 | rolling restart | one after another down for 2 s, then 3 × slower for 5 s, 1 retry |
//!
//! Faults last as long as what is measured, which is `seconds`.

use super::{Fault, Service, World};
use mesh_core::Policy;
use std::time::Duration;

/// Clients of a case.
pub const CLIENTS: usize = 100;
/// Endpoints of a case.
pub const ENDPOINTS: usize = 100;

/// Makes a case from seed, policy and measured time.
pub type Case = fn(u64, Policy, Duration) -> World;

/// The cases by name.
pub const ALL: &[(&str, Case)] =
    &[("S1", s1), ("S3", s3), ("S4", s4), ("S5a", s5a), ("S5c", s5c), ("S6", s6), ("S7", s7)];

/// Homogeneous.
#[must_use]
pub fn s1(seed: u64, policy: Policy, measured: Duration) -> World {
    base(seed, without_retries(policy), measured).at_load(0.7)
}

/// Two speeds.
#[must_use]
pub fn s3(seed: u64, policy: Policy, measured: Duration) -> World {
    // Half of the endpoints at half the speed: three quarters of the capacity.
    base(seed, without_retries(policy), measured)
        .at_load(0.75 * 0.75)
        .always(0..ENDPOINTS / 2, Fault::Slow(2.0))
}

/// Brown-out.
#[must_use]
pub fn s4(seed: u64, policy: Policy, measured: Duration) -> World {
    s1(seed, policy, measured).fault(0..5, Duration::ZERO..measured, Fault::Slow(10.0))
}

/// Fast failure.
#[must_use]
pub fn s5a(seed: u64, policy: Policy, measured: Duration) -> World {
    s1(seed, policy, measured).fault(0..3, Duration::ZERO..measured, fails_fast())
}

/// Many fast failures.
#[must_use]
pub fn s5c(seed: u64, policy: Policy, measured: Duration) -> World {
    base(seed, policy, measured).at_load(0.7).fault(0..20, Duration::ZERO..measured, fails_fast())
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
    let world = base(seed, policy, measured).at_load(0.7);
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

fn base(seed: u64, policy: Policy, measured: Duration) -> World {
    World::new(seed, CLIENTS, ENDPOINTS, Service::lognormal(Duration::from_millis(40), 0.7))
        .policy(policy)
        .warm_up(measured / 2)
        .measure(measured)
}

fn fails_fast() -> Fault {
    Fault::FailFast { share: 1.0, after: Duration::from_millis(1) }
}

fn without_retries(mut policy: Policy) -> Policy {
    policy.retry.attempts = 0;
    policy
}
