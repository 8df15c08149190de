use super::*;
use crate::Failure;
use proptest::prelude::*;

const FAILED: Outcome = Outcome::Failure(Failure::Reset);

fn at(millis: u64) -> Timestamp {
    Timestamp::ZERO + Duration::from_millis(millis)
}

fn breaker() -> Breaker {
    Breaker::new(Tally::default())
}

/// No jitter is drawn.
fn low() -> u64 {
    0
}

fn fail(breaker: &Breaker, times: u32, now: Timestamp, config: &Config) -> Option<Transition> {
    let record = |_| breaker.record(Admission::Closed, FAILED, now, config, &mut low);
    (0..times).map(record).last().flatten()
}

fn probe(breaker: &Breaker, now: Timestamp, config: &Config) -> Admission {
    let admission = breaker.try_acquire(now, config).expect("due");
    assert_ne!(admission, Admission::Closed);
    admission
}

#[test]
fn it_closes_when_it_is_not_configured_any_more() {
    let (breaker, config) = (breaker(), Config::default());
    fail(&breaker, 5, at(0), &config);
    assert!(!breaker.is_closed());
    breaker.close(at(1));
    assert!(breaker.is_closed());
    assert_eq!(breaker.state(at(1)), None);
    assert_eq!(fail(&breaker, 4, at(2), &config), None, "it counts anew");
    let opened = fail(&breaker, 1, at(2), &config);
    assert_eq!(opened, Some(Transition::Opened(Duration::from_secs(1))), "for the first time");
}

#[test]
fn what_it_stays_open_at_first_is_not_cut_to_the_default_of_the_most() {
    let config = Config { open: Duration::from_secs(300), ..Config::default() };
    assert_eq!(config.open_for(1, &mut low), Duration::from_secs(300));
    assert_eq!(config.open_for(2, &mut low), Duration::from_secs(300));
}

#[test]
fn it_opens_after_failures_in_a_row_and_only_then() {
    let (breaker, config) = (breaker(), Config::default());
    assert_eq!(fail(&breaker, 4, at(0), &config), None);
    breaker.record(Admission::Closed, Outcome::Success, at(0), &config, &mut low);
    assert_eq!(fail(&breaker, 4, at(0), &config), None);
    breaker.record(Admission::Closed, Outcome::Cancelled, at(0), &config, &mut low);
    let opened = fail(&breaker, 1, at(0), &config);
    assert_eq!(opened, Some(Transition::Opened(Duration::from_secs(1))));

    let refused = breaker.try_acquire(at(250), &config).expect_err("open");
    assert_eq!(refused.until, at(1_000));
    assert_eq!(
        breaker.state(at(250)).expect("open").to_string(),
        "breaker open: 5 failures in a row, next try in 1 s"
    );
}

#[test]
fn one_probe_closes_it_or_opens_it_for_longer() {
    let (breaker, config) = (breaker(), Config::default());
    fail(&breaker, 5, at(0), &config);
    let mut now = at(0);
    for seconds in [2, 4, 8, 16, 32, 60, 60] {
        now = now + config.max_open;
        let probe = probe(&breaker, now, &config);
        assert!(breaker.try_acquire(now, &config).is_err(), "the probe is under way");
        let opened = breaker.record(probe, FAILED, now, &config, &mut low);
        assert_eq!(opened, Some(Transition::Opened(Duration::from_secs(seconds))));
    }
    now = now + config.max_open;
    let probe = probe(&breaker, now, &config);
    let closed = breaker.record(probe, Outcome::Success, now, &config, &mut low);
    assert_eq!(closed, Some(Transition::Closed));
    assert_eq!(breaker.try_acquire(now, &config), Ok(Admission::Closed));
    let opened = fail(&breaker, 5, now, &config);
    assert_eq!(opened, Some(Transition::Opened(config.open)), "the doubling starts anew");
}

#[test]
fn an_abandoned_probe_makes_room_for_the_next() {
    let (breaker, config) = (breaker(), Config::default());
    fail(&breaker, 5, at(0), &config);
    let first = probe(&breaker, at(2_000), &config);
    breaker.record(first, Outcome::Cancelled, at(2_100), &config, &mut low);
    let second = probe(&breaker, at(2_100), &config);
    assert_ne!(first, second);
    assert_eq!(breaker.record(first, Outcome::Success, at(2_200), &config, &mut low), None);
    assert!(!breaker.is_closed(), "only the probe under way decides");
}

#[test]
fn a_probe_that_is_never_recorded_does_not_block_for_ever() {
    let (breaker, config) = (breaker(), Config::default());
    fail(&breaker, 5, at(0), &config);
    probe(&breaker, at(2_000), &config);
    assert!(breaker.try_acquire(at(61_000), &config).is_err());
    probe(&breaker, at(62_001), &config);
}

#[test]
fn late_results_do_not_move_an_open_breaker() {
    let (breaker, config) = (breaker(), Config::default());
    fail(&breaker, 5, at(0), &config);
    breaker.record(Admission::Closed, Outcome::Success, at(10), &config, &mut low);
    assert_eq!(fail(&breaker, 50, at(20), &config), None);
    assert!(!breaker.is_closed());
    assert!(breaker.would_admit(at(1_000)), "not prolonged");
}

#[test]
fn of_many_threads_one_gets_the_probe() {
    let (breaker, config) = (breaker(), Config::default());
    fail(&breaker, 5, at(0), &config);
    let admitted = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                if breaker.try_acquire(at(5_000), &config).is_ok() {
                    admitted.fetch_add(1, Relaxed);
                }
            });
        }
    });
    assert_eq!(admitted.into_inner(), 1);
}

proptest! {
    #[test]
    fn at_most_one_probe_is_out_at_a_time(
        steps in prop::collection::vec((0u64..3_000, 0u8..4), 1..200),
        bits: u64,
    ) {
        let (breaker, config) = (breaker(), Config::default());
        fail(&breaker, 5, at(0), &config);
        let mut now = at(0);
        let mut out: Option<(Admission, Timestamp)> = None;
        for (gap, step) in steps {
            now = now + Duration::from_millis(gap);
            match (step, out.take()) {
                (0, one) => {
                    out = one;
                    match breaker.try_acquire(now, &config) {
                        Ok(Admission::Closed) => {
                            fail(&breaker, 5, now, &config);
                        }
                        Ok(probe) => {
                            if let Some((_, since)) = out {
                                prop_assert!(now.since(since) + Duration::from_nanos(4) >= config.max_open);
                            }
                            out = Some((probe, now));
                        }
                        Err(refused) => prop_assert!(refused.until > now),
                    }
                }
                (_, None) => {}
                (step, Some((probe, _))) => {
                    let outcome = [Outcome::Success, FAILED, Outcome::Cancelled][usize::from(step - 1)];
                    breaker.record(probe, outcome, now, &config, &mut || bits);
                }
            }
        }
    }

    #[test]
    fn the_open_time_stays_within_its_bounds(openings in 1u32.., bits: u64) {
        let config = Config::default();
        let span = config.open_for(openings, &mut || bits);
        prop_assert!(span >= config.open && span <= config.max_open * 3 / 2);
    }
}
