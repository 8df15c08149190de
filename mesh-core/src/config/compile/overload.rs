//! Values of limits and shedding that can be read, and mean nothing or contradict each other.

use super::super::server_policy::ServerPolicy;
use super::super::tree::Node;
use super::check::{Check, MS};
use super::{Problem, rate_limits};
use crate::policy::Policy;
use crate::rate_limit::{By, Entry, TokenBucket};
use crate::{concurrency, rate_limit};
use http::HeaderName;
use std::net::IpAddr;
use std::time::Duration;

/// Checks a `ServerPolicy`.
pub(super) fn server(policy: &ServerPolicy, node: &Node, problems: &mut Vec<Problem>) {
    let check = &mut Check::new(node, problems);
    if policy.max_requests == Some(0) {
        check.wrong(
            &["maxRequests"],
            "0 does not mean unlimited",
            "leave `maxRequests` out for no limit",
        );
    }
    if let Some(limit) = &policy.rate_limit {
        rate_limit(limit, true, check);
    }
    if let Some(adaptive) = &policy.adaptive_concurrency {
        adaptive_concurrency(adaptive, check);
    }
    if let Some(shedding) = &policy.shedding {
        if policy.max_requests.is_none() && policy.adaptive_concurrency.is_none() {
            check.wrong(
                &["shedding"],
                "`shedding` without a limit never sheds",
                "write `maxRequests` or `adaptiveConcurrency` beside it",
            );
        }
        if let Some(most) = shedding.max_queue {
            check.at_least(&["shedding", "maxQueue"], most, 1);
        }
        check.lasts(&["shedding", "target"], shedding.target);
        if shedding.interval < shedding.target {
            check.wrong(
                &["shedding", "interval"],
                "`interval` is shorter than `target`",
                "a queue may wait longer while there is no overload, not shorter",
            );
        }
    }
}

/// Checks a `TrafficPolicy`.
pub(super) fn traffic(policy: &Policy, node: &Node, problems: &mut Vec<Problem>) {
    let check = &mut Check::new(node, problems);
    if let Some(limit) = &policy.rate_limit {
        rate_limit(limit, false, check);
    }
    if let Some(throttle) = &policy.throttle {
        // Not a number is in no range.
        if !(1.0..=1_000.0).contains(&throttle.multiplier) {
            let what = format!("`multiplier` is {}; it is from 1 to 1000", throttle.multiplier);
            let help = "below 1, calls that would be accepted are refused";
            check.wrong(&["throttle", "multiplier"], what, help);
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&throttle.window) {
            let help = "it is from `1s` to `1h`";
            check.wrong(&["throttle", "window"], "`window` is out of its range", help);
        }
    }
}

/// Checks a rate limit; `inbound` if the peer is known.
fn rate_limit(config: &rate_limit::Config, inbound: bool, check: &mut Check<'_>) {
    const SECTION: &str = "rateLimit";
    if let Some(global) = &config.global {
        rate_limits::global(global, inbound, check);
    } else if config.token_bucket.is_none() && config.descriptors.is_empty() {
        check.wrong(
            &[SECTION],
            "`rateLimit` limits nothing",
            "write `tokenBucket`, for all calls, `descriptors`, or `global`",
        );
    }
    if let Some(bucket) = &config.token_bucket {
        token_bucket(bucket, &[SECTION, "tokenBucket"], check);
    }
    check.at_least(&[SECTION, "maxKeys"], config.max_keys, 1);
    if config.max_keys > 1_000_000 {
        let what = format!("`maxKeys` is {}; the most is 1000000", config.max_keys);
        check.wrong(&[SECTION, "maxKeys"], what, "each destination may need 18 bytes for each");
    }
    if config.descriptors.len() > rate_limit::MAX_DESCRIPTORS {
        let what = format!("more than {} descriptors", rate_limit::MAX_DESCRIPTORS);
        check.wrong(&[SECTION, "descriptors"], what, "every call is held against each of them");
    }
    for (number, descriptor) in config.descriptors.iter().enumerate() {
        let number = number.to_string();
        let path = [SECTION, "descriptors", &number];
        token_bucket(&descriptor.token_bucket, &[&path[..], &["tokenBucket"]].concat(), check);
        if descriptor.entries.is_empty() {
            let help = "a limit of all calls is the `tokenBucket` beside `descriptors`";
            check.wrong(&path, "a descriptor without `entries`", help);
        }
        for (number, entry) in descriptor.entries.iter().enumerate() {
            let number = number.to_string();
            descriptor_entry(entry, inbound, &[&path[..], &["entries", &number]].concat(), check);
        }
    }
}

fn descriptor_entry(entry: &Entry, inbound: bool, path: &[&str], check: &mut Check<'_>) {
    let name = entry.name.as_deref();
    match entry.by {
        By::Header if name.is_none_or(|name| name.parse::<HeaderName>().is_err()) => {
            check.wrong(path, "`by: Header` needs the `name` of a field", "as in `name: x-tenant`");
        }
        By::Identity | By::RemoteAddress if !inbound => {
            let what = "a TrafficPolicy knows no peer: all its calls are our own";
            check.wrong(path, what, "write it in the ServerPolicy of who is called");
        }
        By::RemoteAddress
            if entry.value.as_ref().is_some_and(|value| value.parse::<IpAddr>().is_err()) =>
        {
            check.wrong(path, "the `value` is not an IP address", "as in `value: 10.0.0.1`");
        }
        By::Header => {}
        _ if name.is_some() => {
            check.wrong(path, "only `by: Header` has a `name`", "leave `name` out");
        }
        _ => {}
    }
}

fn token_bucket(bucket: &TokenBucket, path: &[&str], check: &mut Check<'_>) {
    let at = |key| [path, &[key]].concat();
    check.at_least(&at("maxTokens"), bucket.max_tokens, 1);
    check.at_least(&at("tokensPerFill"), bucket.tokens_per_fill, 1);
    check.lasts(&at("fillInterval"), bucket.fill_interval);
    if bucket.fill_interval >= MS
        && u128::from(bucket.tokens_per_fill) > bucket.fill_interval.as_nanos()
    {
        let what = "`tokensPerFill` is more than one per nanosecond";
        check.wrong(&at("tokensPerFill"), what, "leave the limit out for none");
    }
}

fn adaptive_concurrency(config: &concurrency::Config, check: &mut Check<'_>) {
    const SECTION: &str = "adaptiveConcurrency";
    let min_rtt = &config.min_rtt;
    check.at_least(&[SECTION, "sampleAggregatePercentile"], config.sample_aggregate_percentile, 1);
    check.lasts(&[SECTION, "concurrencyUpdateInterval"], config.concurrency_update_interval);
    check.lasts(&[SECTION, "minRtt", "interval"], min_rtt.interval);
    check.at_least(&[SECTION, "minRtt", "requestCount"], min_rtt.request_count, 1);
    if min_rtt.request_count > 1_000 {
        let what = format!("`requestCount` is {}; the most is 1000", min_rtt.request_count);
        let help = "a measurement holds the limit down for as long as it lasts";
        check.wrong(&[SECTION, "minRtt", "requestCount"], what, help);
    }
    check.at_least(&[SECTION, "minRtt", "minConcurrency"], min_rtt.min_concurrency, 1);
    if config.max_concurrency_limit < min_rtt.min_concurrency {
        let what = format!(
            "`maxConcurrencyLimit` is {}, and `minRtt.minConcurrency` is {}",
            config.max_concurrency_limit, min_rtt.min_concurrency
        );
        check.wrong(&[SECTION, "maxConcurrencyLimit"], what, "the limit lies between the two");
    }
}
