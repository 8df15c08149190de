use super::*;
use proptest::prelude::*;

fn at(millis: u64) -> Timestamp {
    Timestamp::ZERO + Duration::from_millis(millis)
}

fn drain(budget: &Budget, now: Timestamp) -> usize {
    std::iter::repeat_with(|| budget.withdraw(now)).take_while(|granted| *granted).count()
}

#[test]
fn ten_per_second_are_free() {
    let budget = Budget::default();
    assert_eq!(budget.remaining(at(0)), 100);
    assert_eq!(drain(&budget, at(0)), 100);
    assert_eq!(drain(&budget, at(9_999)), 0);
    assert_eq!(drain(&budget, at(10_000)), 100, "the window has passed");
}

#[test]
fn a_fifth_of_the_calls_is_added() {
    let budget = Budget::default();
    (0..1_000).for_each(|_| budget.deposit(at(5)));
    assert_eq!(drain(&budget, at(900)), 300);
    assert_eq!(budget.remaining(at(900)), 0);
}

#[test]
fn deposits_expire() {
    let config = Config { min_retries_per_second: 0, ..Config::default() };
    let budget = Budget::new(&config);
    (0..10).for_each(|_| budget.deposit(at(0)));
    assert_eq!(budget.remaining(at(9_999)), 2);
    assert_eq!(budget.remaining(at(10_000)), 0);
    assert!(!budget.withdraw(at(10_000)));
}

#[test]
fn new_settings_keep_what_was_deposited() {
    let none = Config { min_retries_per_second: 0, ..Config::default() };
    let budget = Budget::new(&none);
    (0..100).for_each(|_| budget.deposit(at(0)));
    budget.reconfigure(&Config { min_retries_per_second: 1, ..none });
    assert_eq!(budget.remaining(at(1)), 30);
}

#[test]
fn another_interval_begins_anew_and_bounds_from_then_on() {
    let none = Config { min_retries_per_second: 0, ..Config::default() };
    for (before, after) in [(10, 60), (60, 10)] {
        let of = |seconds| Config { interval: Duration::from_secs(seconds), ..none.clone() };
        let budget = Budget::new(&of(before));
        let now = at(3_600_000);
        (0..100).for_each(|_| budget.deposit(now));
        assert_eq!(drain(&budget, now), 20);
        budget.reconfigure(&of(after));
        assert_eq!(drain(&budget, now), 0, "{before} s to {after} s");
        (0..100).for_each(|_| budget.deposit(now));
        assert_eq!(drain(&budget, now), 20, "{before} s to {after} s");
    }
}

/// Envoy: 20 % of what is active and pending, and never below 3.
#[test]
fn retries_at_once_are_a_share_of_the_calls_at_once() {
    let config = Config { active_percent: Some(20), ..Config::default() };
    for (calls, most) in
        [(0, 3), (1, 3), (15, 3), (19, 3), (20, 4), (100, 20), (u32::MAX, 858_993_459)]
    {
        assert!(!config.is_crowded(most, || calls), "{calls}");
        assert!(config.is_crowded(most + 1, || calls), "{calls}");
    }
    assert!(!Config::default().is_crowded(u32::MAX, || unreachable!("nobody counts")));
}

#[test]
fn threads_never_take_more_than_there_is() {
    let budget = Budget::default();
    let granted = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    if budget.withdraw(at(1)) {
                        granted.fetch_add(1, Relaxed);
                    }
                }
            });
        }
    });
    assert!(granted.into_inner() <= 100);
}

proptest! {
    /// In any stretch as long as the interval, retries stay within the share of the calls seen
    /// in the stretch and the slot before it, and the minimum.
    #[test]
    fn retries_never_exceed_share_and_minimum(
        percent in 0u8..=100,
        minimum in 0u32..5,
        steps in prop::collection::vec((0u64..2_000, 0u32..20, 0u32..20), 1..100),
    ) {
        let config = Config { percent, min_retries_per_second: minimum, ..Config::default() };
        let budget = Budget::new(&config);
        let mut log: Vec<(u64, u32, u32)> = Vec::new();
        let mut now = 0;
        for (gap, calls, wanted) in steps {
            now += gap;
            (0..calls).for_each(|_| budget.deposit(at(now)));
            let granted = (0..wanted).filter(|_| budget.withdraw(at(now))).count() as u32;
            log.push((now / 1_000, calls, granted));
            let window = log.iter().filter(|(slot, ..)| slot + 10 > now / 1_000);
            let (calls, retries) = window
                .fold((0, 0), |(calls, retries), (_, c, r)| (calls + c, retries + r));
            if granted > 0 {
                prop_assert!(retries * 100 <= calls * u32::from(percent) + minimum * 1_000);
            }
        }
    }

    #[test]
    fn no_instant_panics(instants in prop::collection::vec(any::<u64>(), 1..50)) {
        let budget = Budget::default();
        for instant in instants {
            let now = Timestamp::from_nanos(instant);
            budget.deposit(now);
            let _ = budget.withdraw(now);
            prop_assert!(budget.remaining(now) <= 200);
        }
    }
}
