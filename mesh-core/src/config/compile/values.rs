//! Values: numbers and spans of a policy that can be read, and mean nothing or too much.
//!
//! What 0 means, where it is allowed, is told with each field. Sections that have more to say than
//! bounds are checked in files of their own.

use super::super::server_policy::ServerPolicy;
use super::super::tree::Node;
use super::Problem;
use super::check::{Check, MS};
use crate::limit;
use crate::policy::Policy;
use std::ops::RangeInclusive;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
/// The longest that Linux waits before it probes a connection (`MAX_TCP_KEEPIDLE`).
const LONGEST_KEEPALIVE: Duration = Duration::from_secs(32_767);
/// A power of 2^32 attempts in flight above this is no number any more.
const GREATEST_BIAS: f64 = 31.0;
const BUDGET_WINDOWS: RangeInclusive<Duration> = SECOND..=Duration::from_secs(60);

/// Checks a `TrafficPolicy`.
pub(super) fn traffic(policy: &Policy, node: &Node, problems: &mut Vec<Problem>) {
    let check = &mut Check::new(node, problems);
    pick(policy, check);
    if let Some(breaker) = &policy.breaker {
        let path = ["breaker", "consecutiveFailures"];
        check.at_least(&path, breaker.consecutive_failures, 1);
    }
    limits(&policy.limits, "limits", check);
    limits(&policy.endpoint_limits, "endpointLimits", check);
    if policy.affinity.as_ref().is_some_and(|affinity| affinity.override_statuses.is_empty()) {
        let path = ["affinity", "overrideStatuses"];
        let help = "leave it out for `[Healthy, Degraded]`";
        check.wrong(&path, "without a status no endpoint takes the calls of its sessions", help);
    }
    if !BUDGET_WINDOWS.contains(&policy.budget.interval) {
        let help = "shorter, a pause empties it; longer, it remembers calls of another time";
        check.wrong(&["budget", "interval"], "`interval` is from `1s` to `60s`", help);
    }
    if let Some(fault) = &policy.fault {
        if let Some(fixed) = fault.delay.as_ref().and_then(|delay| delay.fixed_delay) {
            check.lasts(&["fault", "delay", "fixedDelay"], fixed);
        }
        if let Some(most) = fault.max_active_faults {
            check.at_least(&["fault", "maxActiveFaults"], most, 1);
        }
    }
    let connections = &policy.connections;
    if let Some(interval) = connections.http2_keepalive_interval {
        check.lasts(&["connections", "http2KeepaliveInterval"], interval);
    }
    check.lasts(&["connections", "keepaliveTimeout"], connections.keepalive_timeout);
    let tcp = connections.tcp_keepalive;
    if tcp.is_some_and(|idle| !(SECOND..=LONGEST_KEEPALIVE).contains(&idle)) {
        let what = "`tcpKeepalive` is from `1s` to `32767s`";
        check.wrong(&["connections", "tcpKeepalive"], what, "no kernel takes another value");
    }
}

fn pick(policy: &Policy, check: &mut Check<'_>) {
    let pick = &policy.pick;
    check.at_least(&["pick", "choiceCount"], pick.choice_count, 2);
    // Not a number is in no range.
    if !(0.0..=GREATEST_BIAS).contains(&pick.active_request_bias) {
        let what = format!(
            "`activeRequestBias` is {}; it is from 0 to {GREATEST_BIAS}",
            pick.active_request_bias
        );
        let help = "1.0 counts each attempt in flight once, 0 not at all";
        check.wrong(&["pick", "activeRequestBias"], what, help);
    }
    check.lasts(&["pick", "ewma", "decay"], pick.ewma.decay);
    if pick.oob_reporting_period < SECOND {
        let what = "`oobReportingPeriod` is shorter than a second";
        check.wrong(&["pick", "oobReportingPeriod"], what, "write `1s` or more");
    }
    let by_reports = &pick.weighted_round_robin;
    let section = ["pick", "weightedRoundRobin"];
    let at = |key| [section[0], section[1], key];
    check.lasts(&at("weightExpirationPeriod"), by_reports.weight_expiration_period);
    if by_reports.weight_update_period < MS * 100 {
        let what = "`weightUpdatePeriod` is shorter than 100 ms";
        check.wrong(&at("weightUpdatePeriod"), what, "write `100ms` or more");
    }
}

fn limits(config: &limit::Config, section: &str, check: &mut Check<'_>) {
    for (key, cap) in [
        ("maxConnections", config.max_connections),
        ("maxPendingRequests", config.max_pending),
        ("maxRequests", config.max_requests),
    ] {
        if cap == 0 {
            let what = format!("`{key}` is 0, which refuses every call");
            check.wrong(&[section, key], what, "write `unlimited` for no cap");
        }
    }
}

/// Checks a `ServerPolicy`.
pub(super) fn server(policy: &ServerPolicy, node: &Node, problems: &mut Vec<Problem>) {
    if let Some(timeout) = policy.timeout {
        Check::new(node, problems).lasts(&["timeout"], timeout);
    }
}
