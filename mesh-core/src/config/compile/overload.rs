//! Values of limits and shedding that can be read, and mean nothing or contradict each other.

use super::super::server_policy::ServerPolicy;
use super::super::source::Location;
use super::super::tree::Node;
use super::Problem;
use crate::concurrency;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);

/// Tells what is wrong with a section.
struct Check<'a> {
    node: &'a Node,
    problems: &'a mut Vec<Problem>,
}

impl Check<'_> {
    /// Where a value is written; the section, if it is a default.
    fn at(&self, path: &[&str]) -> Location {
        let mut node = self.node;
        for key in path {
            match node.get(key) {
                Some(below) => node = below,
                None => break,
            }
        }
        node.at
    }

    fn wrong(&mut self, path: &[&str], what: impl Into<String>, help: &str) {
        let (what, at) = (what.into(), self.at(path));
        // What several services inherit is wrong once.
        if !self.problems.iter().any(|known| known.at == Some(at) && known.to_string() == what) {
            self.problems.push(Problem::error(what).at(at).help(help));
        }
    }

    /// A number below its least value.
    fn at_least(&mut self, path: &[&str], value: impl Into<u64>, least: u64) {
        let (value, name) = (value.into(), path.last().copied().unwrap_or_default());
        if value < least {
            let what = format!("`{name}` is {value}; the least is {least}");
            self.wrong(path, what, "leave it out for the default");
        }
    }

    /// A span that is too short to mean anything.
    fn lasts(&mut self, path: &[&str], span: Duration) {
        if span < MS {
            let name = path.last().copied().unwrap_or_default();
            self.wrong(path, format!("`{name}` is zero"), "the shortest is `1ms`");
        }
    }
}

/// Checks a `ServerPolicy`.
pub(super) fn server(policy: &ServerPolicy, node: &Node, problems: &mut Vec<Problem>) {
    let check = &mut Check { node, problems };
    if policy.max_requests == Some(0) {
        check.wrong(
            &["maxRequests"],
            "0 does not mean unlimited",
            "leave `maxRequests` out for no limit",
        );
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
