use super::*;

const MS: Duration = Duration::from_millis(1);

/// A controller and its clock.
struct Server {
    controller: Controller,
    now: Timestamp,
    random: fastrand::Rng,
}

impl Server {
    fn new(config: Config, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        Self { controller: Controller::new(config, Timestamp::ZERO), now: Timestamp::ZERO, random }
    }

    /// Requests of one latency that end in a row, one each millisecond.
    fn ended(&mut self, count: u32, latency: Duration) -> u32 {
        for _ in 0..count {
            self.now = self.now + MS;
            let random = &mut self.random;
            self.controller.record(self.now - latency, self.now, &mut || random.u64(..));
        }
        self.controller.limit()
    }

    fn measured(latency: Duration) -> Self {
        let mut server = Self::new(Config::default(), 1);
        server.now = server.now + 1000 * MS;
        assert_eq!(server.ended(49, latency), 3);
        assert_eq!(server.controller.min_rtt(), None);
        server.ended(1, latency);
        assert_eq!(server.controller.min_rtt(), Some(latency));
        server
    }
}

#[test]
fn the_limit_follows_the_formula_window_by_window() {
    // minRTT 100 ms, buffer 25 %: gradient 2 while at most 62 ms, 1 at 125 ms, 0.5 from 250 ms on.
    let mut server = Server::measured(100 * MS);
    for (latency, limit) in [
        (50, 8),      // 2 × 3 + √6 = 8.4
        (62, 20),     // 2 × 8 + √16
        (125, 24),    // 20 + √20 = 24.5
        (250, 15),    // 12 + √12 = 15.5
        (10_000, 10), // 7.5 + √7.5 = 10.2
        (100, 16),    // 12.5 + √12.5 = 16.0
    ] {
        assert_eq!(server.ended(101, latency * MS), limit, "{latency} ms");
    }
}

#[test]
fn it_stays_within_its_bounds_and_doubts_the_measurement_after_five_windows_at_the_minimum() {
    let mut server = Server::measured(10 * MS);
    assert_eq!(server.ended(5_000, 10 * MS), 1_000);
    let mut windows = 0;
    while server.controller.min_rtt() == Some(10 * MS) {
        assert!(server.controller.limit() >= 3);
        server.ended(101, 900 * MS);
        windows += 1;
        assert!(windows < 50, "it is measured anew");
    }
    assert_eq!(server.controller.min_rtt(), Some(900 * MS));
}

#[test]
fn the_limit_from_before_a_measurement_is_back_after_it() {
    let mut server = Server::measured(10 * MS);
    let grown = server.ended(1_000, 10 * MS);
    assert!(grown > 100);
    server.now = server.now + Duration::from_secs(70);
    assert!(server.ended(1, 10 * MS) == 3, "an interval and its jitter are over");
    assert_eq!(server.ended(9, 10 * MS), 3, "what began before does not count");
    assert_eq!(server.ended(49, 10 * MS), 3);
    assert!(server.ended(1, 10 * MS) >= grown);
}

#[test]
fn a_window_of_many_latencies_keeps_a_fair_part() {
    let mut server = Server::measured(10 * MS);
    // Within one window: 900 of 10 ms first, then 9,000 of 100 ms.
    let now = server.now;
    let mut random = fastrand::Rng::with_seed(7);
    for number in 0..9_900 {
        let latency = if number < 900 { 10 * MS } else { 100 * MS };
        server.controller.record(now - latency, now, &mut || random.u64(..));
    }
    assert_eq!(server.controller.window.len(), KEPT);
    let slow = server.controller.window.iter().filter(|micros| **micros == 100_000).count();
    assert!((850..970).contains(&slow), "{slow} of 1000, where 909 are expected");
}

#[test]
fn no_settings_and_no_times_take_it_out_of_its_bounds() {
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut number = |most: u64| match random.u8(0..4) {
            0 => 0,
            1 => most,
            _ => random.u64(0..=most.min(2_000)),
        };
        let config = Config {
            sample_aggregate_percentile: number(100) as u8,
            max_concurrency_limit: number(u32::MAX.into()) as u32,
            concurrency_update_interval: Duration::from_millis(number(u64::MAX)),
            min_rtt: MinRtt {
                interval: Duration::from_millis(number(u64::MAX)),
                request_count: number(u32::MAX.into()) as u32,
                jitter: number(100) as u8,
                min_concurrency: number(u32::MAX.into()) as u32,
                buffer: number(100) as u8,
            },
        };
        let lowest = config.min_rtt.min_concurrency.max(1);
        let highest = config.max_concurrency_limit.max(lowest);
        let mut server = Server::new(config, seed);
        for _ in 0..2_000 {
            let step = server.random.u64(0..50_000);
            server.now = server.now + Duration::from_micros(step);
            // From the future, just now, or from the origin.
            let latency =
                Duration::from_micros(server.random.u64(0..1 << 40) >> server.random.u32(0..40));
            let limit = server.ended(1, latency);
            assert!((lowest..=highest).contains(&limit), "seed {seed}: {limit}");
        }
    }
}
