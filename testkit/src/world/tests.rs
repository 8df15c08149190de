use super::*;
use mesh_core::pick;

const SECOND: Duration = Duration::from_secs(1);

fn policy(edit: impl FnOnce(&mut Policy)) -> Policy {
    let mut policy = Policy::default();
    edit(&mut policy);
    policy
}

/// What a balancer without memory does: the rival in comparisons.
fn round_robin() -> Policy {
    policy(|policy| {
        policy.pick.policy = pick::Policy::RoundRobin;
        policy.outlier = mesh_core::health::outlier::Config::off();
    })
}

fn small(seed: u64) -> World {
    World::new(seed, 50, 20, Service::lognormal(Duration::from_millis(10), 0.7))
}

#[test]
fn a_seed_repeats_a_run() {
    let run = || cases::s5c(7, Policy::default(), SECOND).run();
    let (one, two) = (run(), run());
    assert_eq!(one.picks, two.picks);
    assert_eq!(one.to_string(), two.to_string());
}

#[test]
fn in_every_case_the_rules_hold() {
    // The storm has a test of its own.
    for (name, case) in cases::ALL.iter().filter(|(name, _)| *name != "S9") {
        let report = case(seed(), Policy::default(), 4 * SECOND).run();
        eprintln!("{name}: {report}");
        report.assert_sound();
    }
}

#[test]
fn every_policy_keeps_the_rules() {
    for kind in [
        pick::Policy::ExpectedWait,
        pick::Policy::PeakEwma,
        pick::Policy::LeastRequest,
        pick::Policy::RoundRobin,
        pick::Policy::WeightedRoundRobin,
        pick::Policy::Prequal,
        pick::Policy::Random,
    ] {
        let policy = policy(|policy| policy.pick.policy = kind);
        let faults = small(seed())
            .policy(policy)
            .fault(0..3, Duration::ZERO..4 * SECOND, Fault::Down)
            .fault(
                3..9,
                SECOND..3 * SECOND,
                Fault::FailFast { share: 0.5, after: Duration::from_millis(1) },
            )
            .fault(9..12, SECOND..4 * SECOND, Fault::BlackHole);
        faults.measure(4 * SECOND).run().assert_sound();
    }
}

/// In what our default is made for, and in small: the tail is shorter than with peak EWMA by more
/// than chance, without reports and with them, and probes stay within their number.
#[test]
fn the_expected_wait_has_the_shorter_tail() {
    let seed = seed();
    let measured = 6 * SECOND;
    for case in [cases::s2, cases::s8, cases::s11] {
        let peak_ewma = policy(|policy| policy.pick.policy = pick::Policy::PeakEwma);
        let theirs = case(seed, peak_ewma, measured).run().latency(0.99);
        for (reports, most) in
            [(Reports::None, 0.0), (Reports::Attached, 0.0), (Reports::Probed, 3.0)]
        {
            let ours = case(seed, Policy::default(), measured).reports(reports).run();
            ours.assert_sound();
            let p99 = ours.latency(0.99);
            assert!(p99 < theirs.mul_f64(0.8), "{reports:?}: {ours}; peak EWMA: {theirs:?}");
            assert!(ours.probes_per_call() <= most, "{} probes", ours.probes_per_call());
        }
    }
}

/// Where half of the endpoints report, neither half is left alone.
#[test]
fn in_a_mixed_set_both_halves_work() {
    let world = cases::s1(seed(), Policy::default(), 6 * SECOND);
    let report = world.reports(Reports::Probed).reported_by(50).run();
    report.assert_sound();
    let share = report.share_of(0..50);
    assert!((0.7..1.4).contains(&share), "{share} of the fair share report: {report}");
    assert!(report.latency(0.99) < Duration::from_millis(200), "{report}");
}

/// One client alone, with half a call in flight: it prefers some, and leaves nobody out.
#[test]
fn one_client_uses_all_endpoints() {
    let world = World::new(seed(), 1, 20, Service::lognormal(Duration::from_millis(10), 0.3));
    let report = world.at_rate(50.0).measure(600 * SECOND).run();
    report.assert_sound();
    let all = |picks: &u64| (1..report.calls / 2).contains(picks);
    assert!(report.picks.iter().all(all), "of {} calls: {:?}", report.calls, report.picks);
}

/// The budget, cancellation and a bounded queue: the surge costs what is beyond the capacity, and
/// ends when it ends. Without them it does not end.
#[test]
fn a_retry_storm_ends_with_the_surge() {
    let seed = seed();
    let ours = cases::retry_storm(seed, Policy::default(), SECOND, 20).run();
    ours.assert_sound();
    assert!(ours.good_share(cases::SURGE) >= 0.64, "{}: {ours}", ours.good_share(cases::SURGE));
    let recovered = ours.good_since(cases::SURGE.end, 0.99).expect("it does");
    assert!(recovered <= cases::SURGE.end + 5, "in second {recovered}");
    assert!(ours.amplification() <= 1.2, "{ours}");

    let naive = cases::naive(cases::retry_storm(seed, Policy::default(), SECOND, 20)).run();
    assert!(naive.good_share(cases::SURGE) < 0.2, "{naive}");
    assert_eq!(naive.good_since(cases::SURGE.end, 0.99), None, "{naive}");
}

/// A failing endpoint answers fast. That must not look like a good endpoint.
#[test]
fn fast_failures_draw_less_than_their_share() {
    let seed = seed();
    let ours = cases::s5a(seed, Policy::default(), 6 * SECOND).run();
    ours.assert_sound();
    let theirs = cases::s5a(seed, round_robin(), 6 * SECOND).run();

    assert!((0.9..1.1).contains(&theirs.share_of(0..3)), "the rival is fair: {theirs}");
    assert!(ours.share_of(0..3) < 0.5, "{} of the fair share: {ours}", ours.share_of(0..3));
    assert!(ours.failed_share() < theirs.failed_share() / 2.0, "{ours}; round robin: {theirs}");
}

/// The penalty does that by itself, before and without ejection.
#[test]
fn fast_failures_draw_less_without_outlier_detection_too() {
    let policy = policy(|policy| policy.outlier = mesh_core::health::outlier::Config::off());
    let report = cases::s5c(seed(), policy, 6 * SECOND).run();
    report.assert_sound();
    assert!(report.share_of(0..20) < 0.5, "{} of the fair share: {report}", report.share_of(0..20));
}

#[test]
fn slow_endpoints_get_less_and_the_tail_is_shorter_for_it() {
    let seed = seed();
    let ours = cases::s3(seed, Policy::default(), 6 * SECOND).run();
    ours.assert_sound();
    let theirs = cases::s3(seed, round_robin(), 6 * SECOND).run();
    assert!(ours.share_of(0..50) < 0.9, "slow half: {}", ours.share_of(0..50));
    let p99 = |report: &Report| report.latency(0.99);
    assert!(p99(&ours) < p99(&theirs).mul_f64(0.75), "{ours}; round robin: {theirs}");
}

#[test]
fn a_black_hole_loses_most_of_its_traffic() {
    let seed = seed();
    let ours = cases::s6(seed, Policy::default(), 6 * SECOND).run();
    ours.assert_sound();
    let theirs = cases::s6(seed, round_robin(), 6 * SECOND).run();
    assert!(ours.failed_share() < theirs.failed_share() / 2.0, "{ours}; round robin: {theirs}");
}

/// Of 20 endpoints one dies for the whole time. Every call is a GET: none may fail.
#[test]
fn a_killed_endpoint_costs_no_call_and_its_traffic_moves() {
    let report =
        small(seed()).measure(10 * SECOND).fault(7..8, SECOND..10 * SECOND, Fault::Down).run();
    report.assert_sound();
    assert!(report.calls > 30_000, "{report}");
    assert_eq!(report.failed, 0, "{report}");
    assert!(report.share_of(7..8) < 0.2, "of it nine tenths in death: {}", report.share_of(7..8));
}

#[test]
fn a_flapping_endpoint_costs_next_to_nothing() {
    let flaps = (0..10).fold(small(seed()), |world, turn| {
        world.fault(3..4, SECOND * turn..SECOND * turn + SECOND / 2, Fault::Down)
    });
    let report = flaps.measure(10 * SECOND).run();
    report.assert_sound();
    assert!(report.failed_share() <= 0.001, "{report}");
}

/// Everything fails: retries are the budget's share and its minimum, and no more.
#[test]
fn retries_stay_within_the_budget_when_everything_fails() {
    let (clients, rate) = (10, 5_000.0);
    let world = World::new(seed(), clients, 20, Service::exponential(Duration::from_millis(1)));
    let report = world
        .at_rate(rate)
        .policy(policy(|policy| policy.retry.attempts = 3))
        .always(0..20, Fault::FailFast { share: 1.0, after: Duration::from_millis(1) })
        .warm_up(12 * SECOND)
        .measure(8 * SECOND)
        .run();
    report.assert_sound();
    let minimum = 10.0 * clients as f64 / rate;
    assert_eq!(report.failed, report.calls);
    assert!(report.amplification() <= 1.2 + minimum + 0.01, "{report}");
    assert!(report.amplification() > 1.15, "the budget is used: {report}");
}

/// Most endpoints are dead, so all are picked from: the rest must not get everything.
#[test]
fn below_the_panic_threshold_the_rest_is_not_flooded() {
    let failing = Fault::FailFast { share: 1.0, after: Duration::from_millis(20) };
    let report = small(seed())
        .always(0..14, failing)
        .policy(policy(|policy| {
            policy.retry.attempts = 0;
            policy.pick.policy = mesh_core::pick::Policy::Random;
            policy.outlier.max_ejection_percent = 100;
        }))
        .warm_up(5 * SECOND)
        .measure(5 * SECOND)
        .run();
    report.assert_sound();
    // All traffic on 6 of 20 would be 3.3 of their fair share: more than they can serve. Ejecting
    // stops at half of the set, since from there on calls go to all: twice the fair share at most.
    let share = report.share_of(14..20);
    assert!((0.9..2.2).contains(&share), "{share} of the fair share: {report}");
}

#[test]
fn a_partition_hurts_only_those_it_cuts_off() {
    let seed = seed();
    let cut = |clients: Range<usize>| {
        small(seed)
            .attempt_timeout(Duration::from_millis(250))
            .measure(5 * SECOND)
            .fault(0..2, Duration::ZERO..5 * SECOND, Fault::Partition(clients))
            .run()
    };
    let (some, all) = (cut(0..5), cut(0..50));
    some.assert_sound();
    all.assert_sound();
    assert!(all.share_of(0..2) < 0.3, "nobody reaches them: {}", all.share_of(0..2));
    assert!(some.share_of(0..2) > 0.7, "most reach them: {}", some.share_of(0..2));
}

/// The size that the project promises to simulate in seconds.
#[test]
fn a_thousand_clients_and_a_hundred_endpoints() {
    let service = Service::exponential(Duration::from_millis(60));
    let world = World::new(seed(), 1000, 100, service).at_rate(5_000.0).measure(5 * SECOND);
    let report = world.fault(0..5, SECOND..5 * SECOND, Fault::Down).run();
    report.assert_sound();
    assert!(report.calls > 20_000, "{report}");
    // Only a call that meets two dead endpoints before its client knows them fails: 5 % × 4 / 99.
    assert!(report.failed_share() < 0.003, "{report}");
}
