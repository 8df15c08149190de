//! Effects: values that are written, are right by themselves, and change nothing.
//!
//! A policy of a wide level is read again with every destination and rule below it, and may mean
//! something to one of them alone. So what has no effect is told at the end, once, and only if
//! it has none anywhere. It is a warning: the configuration does what it says.

use super::super::server_policy::ServerPolicy;
use super::super::source::Location;
use super::super::tree::{Node, Value};
use super::{Compiler, Problem};
use crate::pick::Policy as Pick;
use crate::policy::Policy;
use std::collections::{BTreeMap, HashSet};

/// Which values had an effect so far, and which had none.
#[derive(Default)]
pub(super) struct Effects {
    some: HashSet<Location>,
    none: BTreeMap<Location, Problem>,
}

impl Effects {
    /// Notes of every value under `path` whether it has an effect; if not, `why`:
    /// `without pick.policy RingHash`.
    fn note(&mut self, merged: &Node, path: &str, has: bool, why: &str) {
        let mut node = merged;
        for step in path.split('.') {
            let Some(below) = node.get(step) else { return };
            node = below;
        }
        self.leaves(node, path, has, why);
    }

    fn leaves(&mut self, node: &Node, path: &str, has: bool, why: &str) {
        if let Value::Map(entries) = &node.value {
            for (key, below) in entries {
                self.leaves(below, &format!("{path}.{}", key.text), has, why);
            }
        } else if has {
            self.some.insert(node.at);
        } else {
            self.none.entry(node.at).or_insert_with(|| {
                Problem::warning(format!("`{path}` has no effect {why}"))
                    .at(node.at)
                    .help("leave it out, or write what gives it one")
            });
        }
    }

    /// Adds what never had an effect, where nothing else is said of it.
    pub(super) fn tell(self, problems: &mut Vec<Problem>) {
        let Self { mut some, none } = self;
        some.extend(problems.iter().filter_map(|problem| problem.at));
        let idle = none.into_iter().filter(|(at, _)| !some.contains(at));
        problems.extend(idle.map(|(_, problem)| problem));
    }
}

impl Compiler<'_> {
    /// Notes that the destinations of a rule are chosen by the hash that a route states.
    pub(super) fn hash_is_used(&mut self, overlaid: &Node) {
        self.effects.note(overlaid, "hash", true, "");
    }

    /// Notes what of a merged policy has no effect.
    pub(super) fn effects(&mut self, policy: &Policy, merged: &Node) {
        let effects = &mut self.effects;
        pick(policy, &mut |path, has, why| effects.note(merged, path, has, why));
        outlier(policy, &mut |path, has, why| effects.note(merged, path, has, why));
        let mut note = |path: &str, has, why: &str| effects.note(merged, path, has, why);
        let (retry, timeouts) = (&policy.retry, &policy.timeouts);
        let per_try = retry.per_try_timeout.is_none_or(|each| each <= timeouts.request);
        note("retry.perTryTimeout", per_try, "above `timeouts.request`, which bounds all attempts");
        let backoff = &retry.backoff;
        note(
            "retry.backoff.max",
            backoff.max >= backoff.base,
            "below `base`, which bounds instead",
        );
        if let Some(breaker) = &policy.breaker {
            let longer = breaker.max_open >= breaker.open;
            note("breaker.maxOpen", longer, "below `open`, which bounds instead");
        }
        let bounded = policy.budget.active_percent.is_some();
        note("budget.minRetryConcurrency", bounded, "without `budget.activePercent`");
        let pings = policy.connections.http2_keepalive_interval.is_some();
        let why = "without `connections.http2KeepaliveInterval`";
        note("connections.keepaliveTimeout", pings, why);
    }

    /// Notes what of a merged server policy has no effect.
    pub(super) fn server_effects(&mut self, policy: &ServerPolicy, merged: &Node) {
        if let (Some(adaptive), Some(most)) = (&policy.adaptive_concurrency, policy.max_requests) {
            let lower = adaptive.max_concurrency_limit <= most;
            let path = "adaptiveConcurrency.maxConcurrencyLimit";
            self.effects.note(merged, path, lower, "above `maxRequests`, which bounds both");
        }
    }
}

fn pick(policy: &Policy, note: &mut impl FnMut(&str, bool, &str)) {
    let pick = &policy.pick;
    let chosen = pick.policy;
    for (path, of) in [
        ("pick.activeRequestBias", Pick::LeastRequest),
        ("pick.ewma", Pick::PeakEwma),
        ("pick.probes", Pick::ExpectedWait),
        ("pick.weightedRoundRobin", Pick::WeightedRoundRobin),
        ("pick.prequal", Pick::Prequal),
        ("pick.pickFirst", Pick::PickFirst),
        ("pick.ringHash", Pick::RingHash),
        ("pick.maglev", Pick::Maglev),
    ] {
        note(path, chosen == of, &format!("without `pick.policy: {of:?}`"));
    }
    let by_hash = "without `pick.policy: RingHash` or `Maglev`, or a route with several \
                   destinations that states it";
    note("hash", chosen.is_by_hash(), by_hash);
    let compares = matches!(chosen, Pick::ExpectedWait | Pick::PeakEwma | Pick::LeastRequest);
    if compares {
        note("pick.choiceCount", pick.choice_count <= 10, "above 10");
    } else {
        let why = "without `pick.policy: ExpectedWait`, `PeakEwma` or `LeastRequest`";
        note("pick.choiceCount", false, why);
    }
    let warms = !(chosen.is_by_hash() || chosen == Pick::PickFirst);
    note("pick.slowStart", warms, &format!("with `pick.policy: {chosen:?}`"));
    let reads = pick.reads_reports();
    let why = "without `pick.policy: ExpectedWait`, `WeightedRoundRobin` or `Prequal`";
    note("pick.outOfBand", reads || !pick.out_of_band, why);
    note("pick.oobReportingPeriod", pick.listens(), "without `pick.outOfBand: true`");
}

fn outlier(policy: &Policy, note: &mut impl FnMut(&str, bool, &str)) {
    let config = &policy.outlier;
    let split = config.split_external_local_origin_errors;
    for key in [
        "consecutiveLocalOriginFailure",
        "enforcingConsecutiveLocalOriginFailure",
        "enforcingLocalOriginSuccessRate",
        "enforcingFailurePercentageLocalOrigin",
    ] {
        note(&format!("outlier.{key}"), split, "without `splitExternalLocalOriginErrors: true`");
    }
    let local = |percent| split && percent > 0;
    let rates =
        config.enforcing_success_rate > 0 || local(config.enforcing_local_origin_success_rate);
    let shares = config.enforcing_failure_percentage > 0
        || local(config.enforcing_failure_percentage_local_origin);
    let gateway = config.enforcing_consecutive_gateway_failure > 0;
    for (key, has, enforcing) in [
        (
            "consecutive5xx",
            config.enforcing_consecutive_5xx > 0 || config.consecutive_5xx == 0,
            "enforcingConsecutive5xx",
        ),
        (
            "consecutiveGatewayFailure",
            gateway || config.consecutive_gateway_failure == 0,
            "enforcingConsecutiveGatewayFailure",
        ),
        ("successRateMinimumHosts", rates, "enforcingSuccessRate"),
        ("successRateRequestVolume", rates, "enforcingSuccessRate"),
        ("successRateStdevFactor", rates, "enforcingSuccessRate"),
        ("failurePercentageThreshold", shares, "enforcingFailurePercentage"),
        ("failurePercentageMinimumHosts", shares, "enforcingFailurePercentage"),
        ("failurePercentageRequestVolume", shares, "enforcingFailurePercentage"),
        ("latencyQuantile", config.enforcing_latency > 0, "enforcingLatency"),
        ("latencyThreshold", config.enforcing_latency > 0, "enforcingLatency"),
        ("latencyMinimumExcess", config.enforcing_latency > 0, "enforcingLatency"),
        ("latencyMinimumHosts", config.enforcing_latency > 0, "enforcingLatency"),
        ("latencyRequestVolume", config.enforcing_latency > 0, "enforcingLatency"),
    ] {
        note(&format!("outlier.{key}"), has, &format!("while `{enforcing}` is 0"));
    }
    let longer = config.max_ejection_time >= config.base_ejection_time;
    note("outlier.maxEjectionTime", longer, "below `baseEjectionTime`, which bounds instead");
}
