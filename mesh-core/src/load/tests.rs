use super::*;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn at(seconds: u64) -> Timestamp {
    Timestamp::ZERO + Duration::from_secs(seconds)
}

fn close(left: f64, right: f64) {
    assert!((left - right).abs() <= right.abs() * 2e-3, "{left} is not about {right}");
}

#[test]
fn a_peak_counts_at_once() {
    let (load, config) = (Load::new(), Config::default());
    load.observe(at(1), 200 * MS, &config);
    close(load.latency(at(1), &config), 0.2);
}

#[test]
fn a_lower_latency_counts_by_the_time_that_passed() {
    let (load, config) = (Load::new(), Config::default());
    load.observe(at(0), SECOND, &config);
    load.observe(at(10), 100 * MS, &config);
    let kept = (-1.0f64).exp();
    close(load.latency(at(10), &config), kept + 0.1 * (1.0 - kept));
}

#[test]
fn an_unconfirmed_estimate_fades() {
    let (load, config) = (Load::new(), Config::default());
    load.observe(at(0), SECOND, &config);
    close(load.latency(at(10), &config), (-1.0f64).exp());
    close(load.latency(at(30), &config), (-3.0f64).exp());
}

#[test]
fn who_comes_back_starts_anew() {
    let (load, config) = (Load::new(), Config::default());
    load.penalize(at(0), 5 * SECOND, &config);
    close(load.latency(at(0), &config), 5.0);
    load.came_back();
    close(load.latency(at(0), &config), 0.03);
}

#[test]
fn load_is_the_estimate_times_what_is_in_flight() {
    let (load, config) = (Load::new(), Config::default());
    load.observe(at(1), 100 * MS, &config);
    load.begin();
    load.begin();
    close(load.peak_ewma(at(1), &config), 0.3);
    load.end();
    close(load.peak_ewma(at(1), &config), 0.2);
}

#[test]
fn a_new_endpoint_starts_at_30_ms_and_fades_from_the_first_look() {
    let (load, config) = (Load::new(), Config::default());
    close(load.peak_ewma(at(100), &config), 0.03);
    close(load.peak_ewma(at(110), &config), 0.03 * (-1.0f64).exp());
}

#[test]
fn an_idle_endpoint_with_calls_in_flight_is_dearer_than_one_without() {
    let config = Config::default();
    let (busy, idle) = (Load::new(), Load::new());
    for load in [&busy, &idle] {
        load.observe(at(0), MS, &config);
    }
    busy.begin();
    assert!(busy.peak_ewma(at(100_000), &config) > idle.peak_ewma(at(100_000), &config));
}

#[test]
fn a_fast_failure_looks_slow() {
    let (load, config) = (Load::new(), Config::default());
    load.observe(at(0), MS, &config);
    load.penalize(at(0), config.failure_penalty, &config);
    close(load.latency(at(0), &config), 5.0);
}

#[test]
fn a_penalty_is_capped() {
    let (load, config) = (Load::new(), Config::default());
    load.penalize(at(0), Duration::from_secs(86_400), &config);
    close(load.latency(at(0), &config), 300.0);
}

#[test]
fn a_clock_read_that_arrives_late_changes_nothing() {
    let (load, config) = (Load::new(), Config::default());
    load.observe(at(10), SECOND, &config);
    load.observe(at(9), 100 * MS, &config);
    close(load.latency(at(9), &config), 1.0);
}

proptest! {
    /// Compared with the formula on unpacked numbers, over any sequence of answers.
    #[test]
    fn the_packed_estimate_follows_the_formula(
        steps in prop::collection::vec((5u64..5_000, 1u64..10_000), 1..50),
    ) {
        let (load, config) = (Load::new(), Config::default());
        let mut now = at(1);
        let mut expected = config.initial.as_secs_f64();
        let mut last = now;
        let _ = load.latency(now, &config);
        for (gap, latency) in steps {
            now = now + Duration::from_millis(gap);
            let latency = Duration::from_millis(latency);
            load.observe(now, latency, &config);
            let (r, kept) = (latency.as_secs_f64(), (-now.since(last).as_secs_f64() / 10.0).exp());
            expected = if r > expected { r } else { expected * kept + r * (1.0 - kept) };
            last = now;
            let seen = load.latency(now, &config);
            prop_assert!((seen - expected).abs() <= expected * 5e-3, "{seen} against {expected}");
        }
    }
}
