//! Cases of the seeded world (`testkit/src/world/cases.rs`) in small, through real sockets: linked
//! meshes call eight endpoints over loopback, and the policies are in the same order as there.
//!
//! The clock is paused: it goes on by a millisecond whenever nothing is left to do. So a machine with
//! other work takes longer, but measures the same, and each hop over loopback costs up to a
//! millisecond. Endpoints have two slots and a FIFO queue. Times are 2.5 times those of the world. All
//! policies of a case get the same calls of the same costs, one policy after the other. What
//! is asserted has wide margins; what is not far enough apart is printed.
//!
//! `cargo test -p mesh-tower --test world -- --nocapture` prints the tables; `MESH_SEED` (1) gives
//! other calls, and `MESH_WORLD_SECONDS` (6) is how long a case is measured.

mod endpoint;
mod run;
mod service;

use endpoint::Fault;
use run::{Case, Column, ENDPOINTS, Figures, run};
use service::Service;
use std::time::Duration;

const fn column(name: &'static str, spec: &'static str) -> Column {
    Column { name, spec, reports: false, protected: true }
}

/// As in the world: ours with outlier detection, gRPC's round robin without.
const DEFAULT: Column = column("default", "pick: { policy: ExpectedWait }");
const PEAK_EWMA: Column = column("peak EWMA", "pick: { policy: PeakEwma }");
const LEAST_REQUEST: Column = column("least request", "pick: { policy: LeastRequest }");
const RANDOM: Column = column("random", "pick: { policy: Random }");
const ROUND_ROBIN: Column = column(
    "gRPC's round robin",
    "pick: { policy: RoundRobin }, outlier: { consecutive5xx: 0, consecutiveGatewayFailure: 0 }",
);
const PROBES: Column = Column { name: "default, probes", reports: true, ..DEFAULT };
const NAIVE: Column = Column {
    name: "default, naive retries",
    spec: "pick: { policy: ExpectedWait }, budget: { percent: 100, minRetriesPerSecond: 1000000 }",
    protected: false,
    ..DEFAULT
};

const COLUMNS: [Column; 5] = [DEFAULT, PEAK_EWMA, LEAST_REQUEST, RANDOM, ROUND_ROBIN];
const WITH_PROBES: [Column; 6] = [PROBES, DEFAULT, PEAK_EWMA, LEAST_REQUEST, RANDOM, ROUND_ROBIN];
const SPARSE: [Column; 4] = [PROBES, DEFAULT, RANDOM, ROUND_ROBIN];
const STORM: [Column; 3] = [DEFAULT, ROUND_ROBIN, NAIVE];

/// Runs one column after the other, and prints them.
async fn compare<const N: usize>(case: Case, columns: &[Column; N]) -> [Figures; N] {
    let seed = std::env::var("MESH_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let mut rows = format!("MESH_SEED={seed}");
    let mut figures = Vec::new();
    for column in columns {
        // For what a mesh draws in the background.
        fastrand::seed(seed);
        let one = run(&case, column, seed).await;
        one.row(column.name, &mut rows);
        figures.push(one);
    }
    testkit::figure(&format!("world through sockets, {}", case.name), &rows);
    figures.try_into().unwrap_or_else(|_| unreachable!("one for each column"))
}

/// Each is greater than the one before it, by `by` at least.
#[track_caller]
fn assert_rising<const N: usize>(what: &str, by: f64, values: [f64; N]) {
    let rises = values.windows(2).all(|pair| pair[0] + by < pair[1]);
    assert!(rises, "{what} does not rise by {by} each: {values:?}");
}

#[tokio::test(start_paused = true)]
async fn s1_where_endpoints_are_alike_nobody_fails() {
    let all = compare(Case::new("S1 homogeneous", 0.7), &WITH_PROBES).await;
    assert!(all.iter().all(|one| one.failed == 0.0));
}

#[tokio::test(start_paused = true)]
async fn s2_where_endpoints_are_nearly_full_a_blind_pick_waits() {
    let [probes, default, _, least, random, _] =
        compare(Case::new("S2 nearly full", 0.95), &WITH_PROBES).await;
    for one in [probes, default, least] {
        assert_rising("late", 0.05, [one.late, random.late]);
    }
}

#[tokio::test(start_paused = true)]
async fn s3_the_slower_half_gets_less_the_better_the_policy_knows_it() {
    // Half of the endpoints at half the speed, three quarters of what that leaves.
    let case = Case::new("S3 two speeds", 0.75 * 0.75).always(Fault::Slow(2.0), ENDPOINTS / 2);
    let [default, ewma, least, random, robin] = compare(case, &COLUMNS).await;
    let shares = [&default, &ewma, &least, &robin].map(|one| one.at_faulty);
    assert_rising("share of the slow half", 0.02, shares);
    assert_rising("late", 0.1, [default.late, random.late]);
    assert_rising("late", 0.1, [default.late, robin.late]);
}

#[tokio::test(start_paused = true)]
async fn s4_a_brown_out_is_left_alone() {
    let case = Case::new("S4 brown-out", 0.7).always(Fault::Slow(10.0), 1);
    let [default, _, least, _, robin] = compare(case, &COLUMNS).await;
    assert_rising("share", 0.01, [default.at_faulty, least.at_faulty, robin.at_faulty]);
    assert_rising("failed", 0.05, [default.failed, robin.failed]);
}

#[tokio::test(start_paused = true)]
async fn s5a_who_fails_at_once_is_left_alone() {
    let case = Case::new("S5a fast failure", 0.7).always(Fault::FailFast(1.0), 1);
    let [default, .., robin] = compare(case, &COLUMNS).await;
    assert_rising("failed", 0.05, [default.failed, robin.failed]);
}

#[tokio::test(start_paused = true)]
async fn s5b_a_retry_hides_failures_and_costs_attempts() {
    let case = Case::new("S5b fast failure, a retry", 0.7).with_a_retry();
    let case = case.meanwhile(Fault::FailFast(1.0), 1);
    let all = compare(case, &COLUMNS).await;
    assert!(all.iter().all(|one| one.failed < 0.01));
    let [default, _, least, _, robin] = all;
    assert_rising("share", 0.003, [default.at_faulty, least.at_faulty, robin.at_faulty]);
    assert_rising("attempts", 0.05, [default.attempts, robin.attempts]);
}

#[tokio::test(start_paused = true)]
async fn s5c_with_many_that_fail_the_budget_is_not_enough_for_a_blind_pick() {
    // A quarter instead of a fifth, and a lower load: what is left is as busy as there.
    let case = Case::new("S5c many fast failures, a retry", 0.65).with_a_retry();
    let case = case.meanwhile(Fault::FailFast(1.0), 2);
    let [default, _, least, _, robin] = compare(case, &COLUMNS).await;
    assert_rising("share", 0.008, [default.at_faulty, least.at_faulty, robin.at_faulty]);
    assert_rising("failed", 0.04, [default.failed, robin.failed]);
}

#[tokio::test(start_paused = true)]
async fn s6_a_black_hole_is_left_alone() {
    let case = Case::new("S6 black hole", 0.7).always(Fault::BlackHole, 1);
    let [default, .., robin] = compare(case, &COLUMNS).await;
    assert_rising("failed", 0.05, [default.failed, robin.failed]);
}

#[tokio::test(start_paused = true)]
async fn s7_who_comes_back_slow_is_spared() {
    let mut case = Case::new("S7 rolling restart", 0.7).with_a_retry();
    case.restarts = true;
    let [default, ewma, _, random, robin] = compare(case, &COLUMNS).await;
    assert!(default.failed < 0.01, "who is down is out at once, and calls are retried");
    for other in [ewma, random, robin] {
        assert_rising("late", 0.02, [default.late, other.late]);
    }
}

#[tokio::test(start_paused = true)]
async fn s8_antagonists_are_avoided_while_they_are_at_work() {
    let case = Case::new("S8 antagonists", 0.8 * 2.0 / 3.0);
    let case = case.always(Fault::Antagonists(3.0), ENDPOINTS);
    let [default, ewma, least, random, robin] = compare(case, &COLUMNS).await;
    for other in [ewma, least, random, robin] {
        assert_rising("late", 0.1, [default.late, other.late]);
    }
}

#[tokio::test(start_paused = true)]
async fn s9_a_retry_storm_ends_with_its_surge_unless_retries_are_naive() {
    let second = Duration::from_secs;
    let surge = second(0)..second(4);
    let mut case = Case::new("S9 retry storm", 0.8);
    case.spec = "retry: { attempts: 3, perTryTimeout: 800ms }";
    case.queue_limit = Some(8);
    case.surge = Some((surge.clone(), 1.5 / 0.8));
    case.measured = second(8);
    let all = compare(case, &STORM).await;
    let during = all.each_ref().map(|one| one.good(surge.clone()));
    let after = all.each_ref().map(|one| one.good(second(6)..second(8)));
    testkit::figure(
        "world through sockets, S9",
        &format!("good in the surge {during:.3?}, from two seconds after it {after:.3?}\n"),
    );
    let [default, robin, naive] = after;
    assert!(default > 0.97 && robin > 0.97, "served again: {after:?}");
    assert!(naive < 0.3, "and nothing ends the storm of naive retries: {after:?}");
    // Two thirds of what is offered can be served, and what waits at the end of the surge.
    assert!(during[0] > 0.6 && during[2] < during[0] - 0.1, "{during:?}");
}

#[tokio::test(start_paused = true)]
async fn s10_who_calls_seldom_still_gains_from_what_it_saw() {
    let exponential = Service::Exponential(Duration::from_millis(150));
    let mut case = Case::new("S10 sparse", 0.0).of(exponential, 0.75);
    case.clients = 40;
    let [_, default, random, _] = compare(case, &SPARSE).await;
    assert_rising("late", 0.02, [default.late, random.late]);
}

#[tokio::test(start_paused = true)]
async fn s11_cheap_calls_do_not_wait_behind_dear_ones() {
    let cheap = Service::Mixed(Duration::from_millis(60));
    let case = Case::new("S11 mixed cost", 0.0).of(cheap, 0.6);
    let [default, .., random, _] = compare(case, &COLUMNS).await;
    assert!(default.failed < 0.01);
    assert_rising("p99", 0.1, [default.p99.as_secs_f64(), random.p99.as_secs_f64()]);
}

#[tokio::test(start_paused = true)]
async fn s12_errors_that_are_everywhere_put_nobody_out() {
    let case = Case::new("S12 background errors", 0.7).always(Fault::FailFast(0.02), ENDPOINTS);
    let all = compare(case, &WITH_PROBES).await;
    assert!(all.iter().all(|one| one.failed < 0.05));
}
