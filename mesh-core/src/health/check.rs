//! Active health checks of one endpoint: what a check saw, and what follows from it.
//!
//! ```text
//!                    healthyThreshold successes in a row (the first check: one)
//! out, "not checked" ────────────────────────────────────────────────► in
//!        ▲                                                             │
//!        │  unhealthyThreshold failures in a row, or one that says so  │
//!        └─────────────────────────────────────────────────────────────┘
//! ```
//!
//! - A success ends a row of failures, and a failure a row of successes.
//! - A failure *says so* when the endpoint itself answered that it is not well: a status that is
//!   neither expected nor retriable, a gRPC answer other than SERVING, the header
//!   `x-envoy-immediate-health-check-fail`. What may be chance on the way (no connection, reset,
//!   timeout, garbage, a retriable status) only lengthens the row.
//! - An endpoint begins as out. It comes in with its first success, if nothing was seen before it,
//!   whatever the threshold.
//!
//! The wait after a check is `base × (1 + u₁ × intervalJitterPercent / 100) + u₂ × intervalJitter`,
//! at least 1 ms, with `u` drawn from `[0, 1)`. The base is
//!
//! | destination | check | endpoint | base |
//! |---|---|---|---|
//! | never called | success | in | `noTrafficHealthyInterval`, else `noTrafficInterval` |
//! | never called | otherwise | | `noTrafficInterval` |
//! | called | success | in | `interval` |
//! | called | success | still out: the row is too short | `healthyEdgeInterval`, else `interval` |
//! | called | failure | still in: the row is too short | `unhealthyEdgeInterval`, else `unhealthyInterval`, else `interval` |
//! | called | failure | out | `unhealthyInterval`, else `interval` |
//!
//! Source: Envoy, `HealthCheck` and `HealthCheckerImplBase`. Its documentation gives the edge
//! intervals to the check after a change; its code gives them to the checks while a change is
//! pending, and so do we. Ours: the values of `interval`, `timeout` and the thresholds, which Envoy
//! wants written (they are those of a Kubernetes readiness probe), and jitter by default.

mod ask;
mod seen;
mod watch;

pub use ask::{Ask, Expect, Grpc, Header, Http, InvalidStatus, Payload, StatusRange, Tcp};
pub use seen::{Cause, Serving};
pub use watch::{Heard, Next, Watch};

use super::Invalid;
use crate::Draw;
use crate::config::{percent, span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Shortest wait between two checks.
const SHORTEST: Duration = Duration::from_millis(1);

/// Settings of active health checks. Exactly one of `http`, `tcp` and `grpc` says what is asked.
/// Names and meanings are Envoy's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Config {
    /// Asks by an HTTP request.
    pub http: Option<Http>,
    /// Asks by opening a connection, and by bytes if they are written.
    pub tcp: Option<Tcp>,
    /// Asks `grpc.health.v1.Health`.
    pub grpc: Option<Grpc>,
    /// The port of every endpoint's addresses that is asked, where that is not the one for calls.
    /// The one for calls.
    pub port: Option<u16>,
    /// Time between two checks. 10 s.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub interval: Duration,
    /// Longest a check may take, connecting included. 1 s.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub timeout: Duration,
    /// Failures in a row that take an endpoint out. 3.
    pub unhealthy_threshold: u32,
    /// Successes in a row that put it back. 1.
    pub healthy_threshold: u32,
    /// Largest random addition to every wait. None.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub interval_jitter: Duration,
    /// Largest random addition to every wait, in percent of it. 10.
    #[serde(deserialize_with = "percent::deserialize")]
    #[schemars(with = "percent::Number")]
    pub interval_jitter_percent: u8,
    /// Longest random wait before the first check. None: it follows at once, so that an endpoint
    /// is not kept out for longer than it must.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub initial_jitter: Duration,
    /// Time between two checks of an endpoint that is out. `interval`.
    #[serde(with = "span::optional")]
    #[schemars(with = "Option<span::Text>")]
    pub unhealthy_interval: Option<Duration>,
    /// Time after a failure that does not take the endpoint out yet. `unhealthyInterval`.
    #[serde(with = "span::optional")]
    #[schemars(with = "Option<span::Text>")]
    pub unhealthy_edge_interval: Option<Duration>,
    /// Time after a success that does not put the endpoint back yet. `interval`.
    #[serde(with = "span::optional")]
    #[schemars(with = "Option<span::Text>")]
    pub healthy_edge_interval: Option<Duration>,
    /// Time between two checks while the destination has never been called. 60 s.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub no_traffic_interval: Duration,
    /// The same for an endpoint that is in. `noTrafficInterval`.
    #[serde(with = "span::optional")]
    #[schemars(with = "Option<span::Text>")]
    pub no_traffic_healthy_interval: Option<Duration>,
    /// Whether the next check goes over the connection of the last one. true.
    pub reuse_connection: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            http: None,
            tcp: None,
            grpc: None,
            port: None,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            unhealthy_threshold: 3,
            healthy_threshold: 1,
            interval_jitter: Duration::ZERO,
            interval_jitter_percent: 10,
            initial_jitter: Duration::ZERO,
            unhealthy_interval: None,
            unhealthy_edge_interval: None,
            healthy_edge_interval: None,
            no_traffic_interval: Duration::from_secs(60),
            no_traffic_healthy_interval: None,
            reuse_connection: true,
        }
    }
}

impl Config {
    /// Checks by HTTP.
    #[must_use]
    pub fn http(http: Http) -> Self {
        Self { http: Some(http), ..Self::default() }
    }

    /// Checks by TCP.
    #[must_use]
    pub fn tcp(tcp: Tcp) -> Self {
        Self { tcp: Some(tcp), ..Self::default() }
    }

    /// Checks by gRPC.
    #[must_use]
    pub fn grpc(grpc: Grpc) -> Self {
        Self { grpc: Some(grpc), ..Self::default() }
    }

    /// What is asked: the first that is set of `http`, `tcp` and `grpc`.
    #[must_use]
    pub fn ask(&self) -> Option<Ask<'_>> {
        let http = self.http.as_ref().map(Ask::Http);
        http.or_else(|| self.tcp.as_ref().map(Ask::Tcp))
            .or_else(|| self.grpc.as_ref().map(Ask::Grpc))
    }

    /// What makes no sense, by the path of the value: `timeout`, `http.path`.
    #[must_use]
    pub fn problems(&self) -> Vec<Invalid> {
        let mut problems = Vec::new();
        let asked = [self.http.is_some(), self.tcp.is_some(), self.grpc.is_some()];
        if asked.into_iter().filter(|asked| *asked).count() != 1 {
            problems.push(Invalid::new("", "one of `http`, `tcp` and `grpc` says what is asked"));
        }
        let spans = [
            ("interval", Some(self.interval)),
            ("timeout", Some(self.timeout)),
            ("unhealthyInterval", self.unhealthy_interval),
            ("unhealthyEdgeInterval", self.unhealthy_edge_interval),
            ("healthyEdgeInterval", self.healthy_edge_interval),
            ("noTrafficInterval", Some(self.no_traffic_interval)),
            ("noTrafficHealthyInterval", self.no_traffic_healthy_interval),
        ];
        for (path, _) in spans.into_iter().filter(|(_, span)| *span == Some(Duration::ZERO)) {
            problems.push(Invalid::new(path, format!("`{path}` must be more than 0s")));
        }
        for (path, threshold) in [
            ("unhealthyThreshold", self.unhealthy_threshold),
            ("healthyThreshold", self.healthy_threshold),
        ] {
            if threshold == 0 {
                problems.push(Invalid::new(path, format!("`{path}` must be at least 1")));
            }
        }
        if self.port == Some(0) {
            problems.push(Invalid::new("port", "`port` must be from 1 to 65535"));
        }
        match self.ask() {
            Some(Ask::Http(http)) => http.problems(&mut problems),
            Some(Ask::Tcp(tcp)) => tcp.problems(&mut problems),
            Some(Ask::Grpc(grpc)) => grpc.problems(&mut problems),
            None => {}
        }
        problems
    }
}

/// What a check changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transition {
    /// Nothing.
    Unchanged,
    /// Nothing yet: the row is too short.
    Pending,
    /// The endpoint came in, or went out.
    Changed,
}

/// What the checks of one endpoint have shown so far.
///
/// ```
/// use mesh_core::health::check::{Cause, Config, Machine, Transition};
///
/// let config = Config::default();
/// let mut machine = Machine::new(false);
/// assert_eq!(machine.record(Ok(()), &config), Transition::Changed);
/// assert_eq!(machine.record(Err(Cause::Timeout), &config), Transition::Pending);
/// assert!(machine.is_healthy());
/// ```
#[derive(Clone, Debug)]
pub struct Machine {
    healthy: bool,
    /// Nothing was seen before.
    first: bool,
    /// Rows; at most one is not 0.
    successes: u32,
    failures: u32,
}

impl Machine {
    /// The checks of an endpoint that is in, or out, as they begin.
    #[must_use]
    pub const fn new(healthy: bool) -> Self {
        Self { healthy, first: true, successes: 0, failures: 0 }
    }

    /// Whether the endpoint is in.
    #[must_use]
    pub const fn is_healthy(&self) -> bool {
        self.healthy
    }

    /// Takes in what a check saw.
    pub fn record(&mut self, seen: Result<(), Cause>, config: &Config) -> Transition {
        let first = std::mem::replace(&mut self.first, false);
        match seen {
            Ok(()) => {
                self.failures = 0;
                if self.healthy {
                    return Transition::Unchanged;
                }
                self.successes = self.successes.saturating_add(1);
                if !first && self.successes < config.healthy_threshold {
                    return Transition::Pending;
                }
                self.healthy = true;
            }
            Err(cause) => {
                self.successes = 0;
                if !self.healthy {
                    return Transition::Unchanged;
                }
                self.failures = self.failures.saturating_add(1);
                if !cause.is_immediate() && self.failures < config.unhealthy_threshold {
                    return Transition::Pending;
                }
                self.healthy = false;
            }
        }
        (self.successes, self.failures) = (0, 0);
        Transition::Changed
    }

    /// The endpoint was taken out by what one of its answers said, outside of any check.
    pub const fn failed_meanwhile(&mut self) {
        *self = Self { healthy: false, first: false, successes: 0, failures: 0 };
    }

    /// How long to wait after a check that succeeded or not, and did this. `traffic` says whether
    /// the destination was ever called.
    pub fn wait(
        succeeded: bool,
        transition: Transition,
        traffic: bool,
        config: &Config,
        draw: &mut impl Draw,
    ) -> Duration {
        let pending = transition == Transition::Pending;
        let unhealthy = config.unhealthy_interval.unwrap_or(config.interval);
        let base = match (traffic, succeeded, pending) {
            (false, true, false) => {
                config.no_traffic_healthy_interval.unwrap_or(config.no_traffic_interval)
            }
            (false, _, _) => config.no_traffic_interval,
            (true, true, false) => config.interval,
            (true, true, true) => config.healthy_edge_interval.unwrap_or(config.interval),
            (true, false, true) => config.unhealthy_edge_interval.unwrap_or(unhealthy),
            (true, false, false) => unhealthy,
        };
        let percent = f64::from(config.interval_jitter_percent.min(100)) / 100.0;
        let jitter = base.mul_f64(percent * draw.unit());
        let wait = base.saturating_add(jitter);
        if config.interval_jitter.is_zero() {
            return wait.max(SHORTEST);
        }
        wait.saturating_add(config.interval_jitter.mul_f64(draw.unit())).max(SHORTEST)
    }
}

#[cfg(test)]
#[path = "check/tests.rs"]
mod tests;
