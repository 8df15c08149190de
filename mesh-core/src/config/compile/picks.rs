//! Picks: what of a policy's `pick` section contradicts itself or means nothing.

use super::super::de::Located;
use super::super::source::Location;
use super::super::tree::{Node, Value};
use super::{Compiler, Problem};
use crate::pick::subset::{self, Fallback, SelectorFallback};
use crate::pick::{Config, Labels, locality, slow_start, subsetting};
use crate::snapshot::DestinationConfig;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

/// Most subset selectors of a destination: each costs a look at every endpoint.
const MAX_SELECTORS: usize = 32;

impl Compiler<'_> {
    /// Tells what is wrong in `pick`, once for each place where it is written.
    pub(super) fn check_pick(&mut self, config: &Config, merged: &Node) {
        let Some(written) = merged.get("pick") else { return };
        let under = |path: &[&str]| path.iter().try_fold(written, |node, key| node.get(key));
        let at = |path: &[&str]| under(path).map_or(written.at, |node| node.at);
        let mut problems = Vec::new();
        let mut tell = |path: &[&str], what: &str, help: &str| {
            problems.push(Problem::error(what.to_owned()).at(at(path)).help(help.to_owned()));
        };
        for (key, what, help) in config.prequal.problems() {
            tell(&["prequal", key], what, help);
        }
        let penalty = config.weighted_round_robin.error_utilization_penalty;
        if !(penalty.is_finite() && penalty >= 0.0) {
            let path = ["weightedRoundRobin", "errorUtilizationPenalty"];
            tell(&path, "a penalty is a finite number of 0 or more", "1.0 by gRFC A58; 0 for none");
        }
        if let Some(config) = &config.slow_start {
            slow_start(config, &mut tell);
        }
        if let Some(subsetting::Config { size: 0, .. }) = config.subsetting {
            tell(
                &["subsetting", "size"],
                "0 does not mean all",
                "leave `subsetting` out to use all endpoints",
            );
        }
        if let Some(config) = &config.locality {
            locality(config, &mut tell);
            for (key, at) in entries(under(&["locality", "weights"])) {
                if let Err(why) = locality::check_place(key) {
                    let what = format!("`{}` is not a place: {why}", key.escape_debug());
                    problems.push(Problem::error(what).at(at));
                }
            }
        }
        if let Some(config) = &config.subsets {
            let list = under(&["subsets", "selectors"]);
            subsets(config, list, at(&["subsets"]), &mut problems);
        }
        let ring = &config.ring_hash;
        if let Some(fewest) = ring.minimum_ring_size.filter(|size| *size > ring.maximum_ring_size) {
            let size = |key| under(&["ringHash", key]).map(|node| node.at);
            let (smallest, largest) = (size("minimumRingSize"), size("maximumRingSize"));
            let problem = Problem::error(format!(
                "`minimumRingSize` {fewest} exceeds `maximumRingSize` {}",
                ring.maximum_ring_size
            ));
            let problem = problem.at(largest.or(smallest).unwrap_or(written.at));
            problems.push(match smallest.filter(|_| largest.is_some()) {
                Some(smallest) => problem.other(smallest, "the minimum"),
                None => problem,
            });
        }
        // A wider level is read again with every destination below it.
        problems.retain(|problem| !self.problems.iter().any(|told| told.is_like(problem)));
        self.problems.extend(problems);
    }
}

impl Compiler<'_> {
    /// The labels that a destination of a rule asks for.
    pub(super) fn subset(
        &mut self,
        written: &[Located<BTreeMap<String, String>>],
        target: &DestinationConfig,
    ) -> Option<Arc<[Labels]>> {
        let config = target.policy.pick.subsets.as_ref();
        for labels in written {
            let same = |keys: &BTreeSet<String>| keys.iter().eq(labels.keys());
            if !config.is_some_and(|config| config.selectors.iter().any(|s| same(&s.keys))) {
                let keys: Vec<&str> = labels.keys().map(String::as_str).collect();
                self.problems.push(
                    Problem::error(format!(
                        "Service {} has no subsets by `{}`",
                        target.name,
                        keys.join(", ").escape_debug()
                    ))
                    .at(labels.at)
                    .help("name these keys in a selector of `pick.subsets` of its TrafficPolicy"),
                );
            }
        }
        let labels: Arc<[Labels]> =
            written.iter().map(|labels| Labels::from(labels.value.clone())).collect();
        (!labels.is_empty()).then_some(labels)
    }
}

fn slow_start(config: &slow_start::Config, tell: &mut impl FnMut(&[&str], &str, &str)) {
    if config.window.is_zero() {
        let help = "leave `slowStart` out for full weight at once";
        tell(&["slowStart", "window"], "0 is no window", help);
    }
    if !(config.aggression.is_finite() && config.aggression > 0.0) {
        let help = "1.0 grows evenly, 2.0 faster at first";
        tell(&["slowStart", "aggression"], "aggression is a finite number above 0", help);
    }
}

fn locality(config: &locality::Config, tell: &mut impl FnMut(&[&str], &str, &str)) {
    if !config.weights.is_empty() && config.weights.values().all(|weight| *weight == 0) {
        let help = "give one place a weight above 0, or leave `weights` out";
        tell(&["locality", "weights"], "all weights of places are 0", help);
    }
    if let Some(zones) = &config.zone_aware {
        if !config.weights.is_empty() || !config.failover_priority.is_empty() {
            let help = "zone-aware routing works out the shares of zones itself: keep one of them";
            let what = "`zoneAware` excludes `weights` and `failoverPriority`";
            tell(&["locality", "zoneAware"], what, help);
        }
        if !zones.callers.is_empty() && zones.callers.values().all(|count| *count == 0) {
            let help = "leave `callers` out if they are spread evenly";
            tell(&["locality", "zoneAware", "callers"], "there are no callers in any zone", help);
        }
    }
    let mut seen = HashSet::new();
    if config.failover_priority.iter().any(|label| label.is_empty() || !seen.insert(label)) {
        let help = "name each label once, the most important first";
        tell(&["locality", "failoverPriority"], "a label is empty or named twice", help);
    }
}

fn subsets(
    config: &subset::Config,
    list: Option<&Node>,
    whole: Location,
    problems: &mut Vec<Problem>,
) {
    let items = match list.map(|node| &node.value) {
        Some(Value::List(items)) => &items[..],
        _ => &[],
    };
    let at = |index: usize| items.get(index).map_or(whole, |node| node.at);
    if config.selectors.len() > MAX_SELECTORS {
        let what = format!("{} selectors are more than {MAX_SELECTORS}", config.selectors.len());
        problems.push(Problem::error(what).at(whole));
    }
    for (index, selector) in config.selectors.iter().enumerate() {
        let mut tell = |what: &str, help: &str| {
            problems.push(Problem::error(what.to_owned()).at(at(index)).help(help.to_owned()));
        };
        if selector.keys.is_empty() {
            tell("a selector has at least one key", "write `keys: [version]`");
        }
        if config.selectors.iter().take(index).any(|other| other.keys == selector.keys) {
            tell("two selectors have the same keys", "keep one of them");
        }
        let by_keys = selector.fallback == Some(SelectorFallback::KeysSubset);
        let rest = &selector.fallback_keys;
        if by_keys && (rest.is_empty() || rest.len() >= selector.keys.len()) {
            let help = "`fallbackKeys` are some of `keys`, not all";
            tell("`KeysSubset` needs fewer keys than the selector has, and at least one", help);
        }
        if by_keys && !rest.is_subset(&selector.keys) {
            tell(
                "a key of `fallbackKeys` is not one of `keys`",
                "only keys that calls name remain",
            );
        }
        if by_keys && !config.selectors.iter().any(|other| other.keys == *rest) {
            tell("no selector has the keys of `fallbackKeys`", "add a selector with these keys");
        }
        if !by_keys && !rest.is_empty() {
            tell("`fallbackKeys` has no effect", "it goes with `fallback: KeysSubset`");
        }
    }
    let defaults = config.fallback == Fallback::DefaultSubset
        || config.selectors.iter().any(|s| s.fallback == Some(SelectorFallback::DefaultSubset));
    if defaults && config.default_subset.is_empty() {
        let help = "name the labels of the default subset, or write `AnyEndpoint`";
        problems.push(
            Problem::error("`DefaultSubset` needs `defaultSubset`").at(whole).help(help.to_owned()),
        );
    }
}

/// The keys of a map with their places.
fn entries(node: Option<&Node>) -> impl Iterator<Item = (&str, Location)> {
    let entries = match node.map(|node| &node.value) {
        Some(Value::Map(entries)) => &entries[..],
        _ => &[],
    };
    entries.iter().map(|(key, _)| (&*key.text, key.at))
}
