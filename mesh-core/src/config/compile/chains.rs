//! Chains: Consul's splitters and resolvers, compiled to weighted destinations.
//!
//! Whatever sends to a Service sends to the chain behind it:
//!
//! ```text
//! splitter ──share──► splitter of another service ──► … ──► resolver ──► redirect, or a subset
//! ```
//!
//! Shares of nested splitters multiply. A share for another service is split further by that
//! service's splitter, unless it names a subset. A resolver that redirects hands all on to the
//! resolver of the other service; one that does not says which endpoints a subset has. Whoever comes
//! back to where it was is an error.
//!
//! *Failover*: while no endpoint at the end of a share can take a call, the first of the targets gets
//! it that has one which can. Targets have no failover of their own.
//!
//! Source: Consul, configuration entries `service-splitter` and `service-resolver`.

use super::super::consul::{
    ConsulFailover, FailoverTarget, HeaderModifiers, ServiceResolver, ServiceSplitter, Split,
    Subset,
};
use super::super::de::Located;
use super::super::kinds::AppProtocol;
use super::super::parse::Spec;
use super::super::source::Location;
use super::{Compiler, Problem};
use crate::name::DEFAULT_NAMESPACE;
use crate::route::filter::{Filters, HeaderEdits};
use crate::snapshot::{DestinationId, Snapshot};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Parts of one percent that weights are written in.
const PARTS: f64 = 100.0;
/// Most destinations of one chain.
const MOST: usize = 1_000;
/// Most splitters or redirects one after the other.
const DEPTH: usize = 64;

/// The entries of all services, and the chains that were asked for.
#[derive(Default)]
pub(super) struct Chains<'a> {
    splitters: HashMap<DestinationId, &'a ServiceSplitter>,
    resolvers: HashMap<DestinationId, &'a ServiceResolver>,
    known: HashMap<DestinationId, Option<Vec<(u64, Leaf)>>>,
    /// What splitters have come to: each is looked at once, however many lead to it.
    splits: HashMap<DestinationId, Option<Vec<(u64, Leaf)>>>,
    /// Services for bytes.
    bytes: HashSet<DestinationId>,
}

/// Where a share of a chain ends.
#[derive(Clone, Debug)]
pub(super) struct Leaf {
    pub(super) destination: DestinationId,
    pub(super) labels: Option<Located<BTreeMap<String, String>>>,
    pub(super) filters: Filters,
    /// Who gets the calls while this cannot take them, the preferred first.
    pub(super) failover: Vec<Self>,
}

impl Leaf {
    fn is_whole(&self, id: DestinationId) -> bool {
        let plain = self.labels.is_none() && self.filters.is_empty() && self.failover.is_empty();
        self.destination == id && plain
    }

    fn is_like(&self, other: &Self) -> bool {
        self.destination == other.destination && self.labels == other.labels
    }
}

impl<'a> Compiler<'a> {
    /// Finds the entries, and tells what is wrong in each.
    pub(super) fn chains(&mut self, snapshot: &Snapshot) {
        let documents = self.documents;
        let known = (0..).map(DestinationId).zip(&snapshot.destinations);
        let bytes = known.filter(|(_, known)| known.app_protocol == AppProtocol::Tcp);
        self.chains.bytes = bytes.map(|(id, _)| id).collect();
        for object in &documents.objects {
            match &object.spec {
                Spec::Splitter(splitter) => {
                    let Some(id) = self.service(&splitter.name, &object.namespace) else {
                        continue;
                    };
                    if self.chains.bytes.contains(&id) {
                        let what = "a Service for bytes cannot be split: requests are";
                        self.problems.push(Problem::error(what).at(splitter.name.at));
                    }
                    self.chains.splitters.insert(id, splitter);
                }
                Spec::Resolver(resolver) => {
                    let Some(id) = self.service(&resolver.name, &object.namespace) else {
                        continue;
                    };
                    self.chains.resolvers.insert(id, resolver);
                }
                _ => {}
            }
        }
        let mut all: Vec<DestinationId> = self.chains.splitters.keys().copied().collect();
        all.extend(self.chains.resolvers.keys());
        all.sort_unstable();
        for id in all {
            self.chain(id);
        }
        let mut names: Vec<(DestinationId, &ServiceResolver)> =
            self.chains.resolvers.iter().map(|(id, resolver)| (*id, *resolver)).collect();
        names.sort_unstable_by_key(|(id, _)| *id);
        for (id, resolver) in names {
            self.check(id, resolver);
        }
    }

    /// Where the calls of a service go, with their shares; `None` if that is the service alone, or
    /// wrong.
    pub(super) fn chain(&mut self, id: DestinationId) -> Option<Vec<(u64, Leaf)>> {
        if self.chains.splitters.is_empty() && self.chains.resolvers.is_empty() {
            return None;
        }
        if let Some(known) = self.chains.known.get(&id) {
            return known.clone();
        }
        let found = self.split(id, &mut Vec::new());
        let found = found.filter(|leaves| !matches!(&leaves[..], [(_, only)] if only.is_whole(id)));
        self.chains.known.insert(id, found.clone());
        found
    }

    pub(super) fn split(
        &mut self,
        id: DestinationId,
        path: &mut Vec<DestinationId>,
    ) -> Option<Vec<(u64, Leaf)>> {
        let Some(splitter) = self.chains.splitters.get(&id).copied() else {
            return Some(vec![(1, self.resolved(id, None, &mut Vec::new())?)]);
        };
        if let Some(known) = self.chains.splits.get(&id) {
            return known.clone();
        }
        let found = self.split_by(splitter, id, path);
        self.chains.splits.insert(id, found.clone());
        found
    }

    fn split_by(
        &mut self,
        splitter: &ServiceSplitter,
        id: DestinationId,
        path: &mut Vec<DestinationId>,
    ) -> Option<Vec<(u64, Leaf)>> {
        let at = splitter.name.at;
        if path.len() >= DEPTH {
            let what = format!("more than {DEPTH} splitters follow one another");
            self.tell_once(Problem::error(what).at(at), at);
            return None;
        }
        if path.contains(&id) {
            let what = format!("the splitter of `{}` comes back to itself", splitter.name.value);
            self.tell_once(Problem::error(what).at(at), at);
            return None;
        }
        path.push(id);
        let mut shares = Vec::new();
        let (mut total, mut count) = (0, 0);
        for split in &splitter.splits {
            let share = self.share(splitter, split, id, path);
            count += share.as_ref().map_or(0, |(_, leaves)| leaves.len());
            if count > MOST {
                path.pop();
                let what = format!("more than {MOST} destinations");
                self.tell_once(Problem::error(what).at(at), at);
                return None;
            }
            total += parts(split.weight.value).unwrap_or_default();
            shares.push(share);
        }
        path.pop();
        let shares: Vec<_> = shares.into_iter().collect::<Option<_>>()?;
        if total != (100.0 * PARTS) as u64 {
            let what = format!("the weights sum up to {}, not to 100", total as f64 / PARTS);
            self.tell_once(Problem::error(what).at(at), at);
            return None;
        }
        let combined = combine(shares);
        if combined.is_none() {
            self.tell_once(Problem::error("shares too fine to count").at(at), at);
        }
        combined
    }

    fn share(
        &mut self,
        splitter: &ServiceSplitter,
        split: &Located<Split>,
        id: DestinationId,
        path: &mut Vec<DestinationId>,
    ) -> Option<(u64, Vec<(u64, Leaf)>)> {
        let weight = parts(split.weight.value);
        if weight.is_none() {
            let what =
                format!("{} is no weight from 0 to 100 in steps of 0.01", split.weight.value);
            self.tell_once(Problem::error(what).at(split.weight.at), split.weight.at);
        }
        let namespace = split.namespace.as_ref().or(splitter.namespace.as_ref());
        let target = match &split.service {
            Some(name) => self.next_hop(name, namespace, id)?,
            None => id,
        };
        let mut leaves = match &split.service_subset {
            None if target != id => self.split(target, path)?,
            subset => vec![(1, self.resolved(target, subset.as_ref(), &mut Vec::new())?)],
        };
        if weight == Some(0) {
            leaves.clear();
        }
        let mut filters = Filters::default();
        filters.request_headers.extend(self.modifiers(split.request_headers.as_ref()));
        filters.response_headers.extend(self.modifiers(split.response_headers.as_ref()));
        for (_, leaf) in &mut leaves {
            leaf.filters = filters.clone().with(std::mem::take(&mut leaf.filters));
        }
        Some((weight?, leaves))
    }

    /// Where a service, or a subset of it, leads by its resolver.
    pub(super) fn resolved(
        &mut self,
        id: DestinationId,
        asked: Option<&Located<String>>,
        path: &mut Vec<DestinationId>,
    ) -> Option<Leaf> {
        let (mut leaf, subset) = self.end(id, asked, path)?;
        let resolver = self.chains.resolvers.get(&leaf.destination).copied();
        if let Some(resolver) = resolver {
            let own = subset.and_then(|subset| resolver.failover.get(&subset));
            if let Some(written) = own.or_else(|| resolver.failover.get("*")) {
                leaf.failover = self.failover(resolver, written, &leaf)?;
            }
        }
        Some(leaf)
    }

    /// The same without failover, with the name of the subset.
    fn end(
        &mut self,
        id: DestinationId,
        asked: Option<&Located<String>>,
        path: &mut Vec<DestinationId>,
    ) -> Option<(Leaf, Option<String>)> {
        let leaf = |labels| {
            let (filters, failover) = (Filters::default(), Vec::new());
            Leaf { destination: id, labels, filters, failover }
        };
        let Some(resolver) = self.chains.resolvers.get(&id).copied() else {
            let Some(asked) = asked else { return Some((leaf(None), None)) };
            let what =
                format!("there is no service-resolver with a subset `{}`", asked.escape_debug());
            self.tell_once(Problem::error(what).at(asked.at), asked.at);
            return None;
        };
        if let Some(redirect) = &resolver.redirect {
            let namespace = redirect.namespace.as_ref().or(resolver.namespace.as_ref());
            let Some(name) = &redirect.service else {
                let problem = Problem::error("this redirect names no `Service`").at(redirect.at);
                let help = "the subset of calls that name none is `DefaultSubset`";
                self.tell_once(problem.help(help), redirect.at);
                return None;
            };
            let target = self.next_hop(name, namespace, id)?;
            path.push(id);
            let what = if path.contains(&target) {
                format!("the redirect of `{}` comes back to it", resolver.name.value)
            } else if path.len() > DEPTH {
                format!("more than {DEPTH} redirects follow one another")
            } else {
                return self.end(target, redirect.service_subset.as_ref(), path);
            };
            self.tell_once(Problem::error(what).at(redirect.at), redirect.at);
            return None;
        }
        let Some(name) = asked.or(resolver.default_subset.as_ref()) else {
            return Some((leaf(None), None));
        };
        let Some(subset) = resolver.subsets.get(&**name) else {
            let what = format!(
                "service `{}` has no subset `{}`",
                resolver.name.value,
                name.escape_debug()
            );
            let known = resolver.subsets.keys().map(String::as_str);
            self.tell_once(Problem::error(what).at(name.at).suggest(name, known), name.at);
            return None;
        };
        Some((leaf(self.labels_of(subset)?), Some(name.value.clone())))
    }

    /// Who gets the calls while `leaf` cannot take them; itself and what stands there twice are left
    /// out.
    fn failover(
        &mut self,
        resolver: &ServiceResolver,
        written: &Located<ConsulFailover>,
        leaf: &Leaf,
    ) -> Option<Vec<Leaf>> {
        let at = written.at;
        let ConsulFailover { service, service_subset, namespace, targets } = &written.value;
        let alone = FailoverTarget {
            service: service.clone(),
            service_subset: service_subset.clone(),
            namespace: namespace.clone(),
        };
        let one = alone != FailoverTarget::default();
        if one && !targets.is_empty() {
            let what = "`Targets` stands alone: it names the services itself";
            self.tell_once(Problem::error(what).at(at), at);
            return None;
        }
        if !one && targets.is_empty() {
            let problem = Problem::error("this failover names nobody").at(at);
            self.tell_once(problem.help("write `Service`, `ServiceSubset` or `Targets`"), at);
            return None;
        }
        let alone = [Located { value: alone, at }];
        let mut found: Vec<Leaf> = Vec::new();
        for target in if one { &alone[..] } else { targets } {
            let namespace = target.namespace.as_ref().or(resolver.namespace.as_ref());
            let id = match &target.service {
                Some(name) => self.next_hop(name, namespace, leaf.destination)?,
                None => leaf.destination,
            };
            let (next, _) = self.end(id, target.service_subset.as_ref(), &mut Vec::new())?;
            if !next.is_like(leaf) && !found.iter().any(|known| next.is_like(known)) {
                found.push(next);
            }
        }
        Some(found)
    }

    /// Tells what is wrong in a resolver, whether or not a call comes by.
    fn check(&mut self, id: DestinationId, resolver: &ServiceResolver) {
        for subset in resolver.subsets.values() {
            self.labels_of(subset);
        }
        if let (Some(redirect), Some(failover)) =
            (&resolver.redirect, resolver.failover.values().next())
        {
            let what = "a resolver that redirects has no failover: who it leads to may have";
            let problem = Problem::error(what).at(failover.at);
            self.tell_once(problem.other(redirect.at, "the redirect"), failover.at);
            return;
        }
        for (subset, written) in &resolver.failover {
            let labels = match resolver.subsets.get(subset) {
                Some(subset) => self.labels_of(subset).flatten(),
                None if subset == "*" => None,
                None => {
                    let what = format!(
                        "service `{}` has no subset `{}`",
                        resolver.name.value,
                        subset.escape_debug()
                    );
                    let known = resolver.subsets.keys().map(String::as_str);
                    let problem = Problem::error(what).at(written.at).suggest(subset, known);
                    self.tell_once(problem.help("`*` is any that is not named"), written.at);
                    continue;
                }
            };
            let (filters, failover) = (Filters::default(), Vec::new());
            self.failover(resolver, written, &Leaf { destination: id, labels, filters, failover });
        }
    }

    /// The labels that a subset asks for; `Some(None)` is all endpoints.
    fn labels_of(&mut self, subset: &Subset) -> Option<Option<Located<BTreeMap<String, String>>>> {
        if let Some(only) = subset.only_passing.as_ref().filter(|only| only.value) {
            let what = Problem::not_supported("`OnlyPassing`").at(only.at);
            self.tell_once(
                what.help("endpoints that are `Degraded` get calls that healthy ones cannot take"),
                only.at,
            );
            return None;
        }
        match &subset.filter {
            Some(filter) if !filter.is_empty() => self.labels(filter).map(Some),
            _ => Some(None),
        }
    }

    /// The service that an entry of another one names, told once if there is none or it speaks
    /// something else.
    pub(super) fn next_hop(
        &mut self,
        name: &Located<String>,
        namespace: Option<&String>,
        from: DestinationId,
    ) -> Option<DestinationId> {
        let namespace = namespace.map_or(DEFAULT_NAMESPACE, |namespace| namespace);
        let before = self.problems.len();
        let found = self.service(name, namespace);
        if found.is_none() && !self.warned.insert(name.at) {
            self.problems.truncate(before);
        }
        let found = found?;
        let bytes = |id: DestinationId| self.chains.bytes.contains(&id);
        if bytes(found) != bytes(from) {
            let what = if bytes(found) {
                format!("Service `{}` is for bytes, and this for requests", name.escape_debug())
            } else {
                format!("Service `{}` is for requests, and this for bytes", name.escape_debug())
            };
            let problem = Problem::error(what).at(name.at);
            self.tell_once(problem.help("all services of a chain speak the same"), name.at);
            return None;
        }
        Some(found)
    }

    /// The labels that a filter asks for.
    fn labels(&mut self, filter: &Located<String>) -> Option<Located<BTreeMap<String, String>>> {
        let conditions = filter.split(" and ").map(|condition| {
            let (selector, value) = condition.split_once("==")?;
            let key = selector.trim().strip_prefix("Service.Meta.")?;
            let value = value.trim();
            let bare = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
            let value = bare.unwrap_or(value);
            let plain = |text: &str| {
                !text.is_empty() && !text.contains(['"', '\'', ' ', '(', ')', '=', '!'])
            };
            (plain(key) && plain(value)).then(|| (key.to_owned(), value.to_owned()))
        });
        match conditions.collect::<Option<BTreeMap<_, _>>>() {
            Some(value) => Some(Located { value, at: filter.at }),
            None => {
                self.tell_once(
                    Problem::not_supported("such a filter")
                        .at(filter.at)
                        .help("write `Service.Meta.version == v1`, several joined by `and`"),
                    filter.at,
                );
                None
            }
        }
    }

    pub(super) fn modifiers(&mut self, written: Option<&HeaderModifiers>) -> Option<HeaderEdits> {
        let written = written?;
        let mut names = HashSet::new();
        let mut edits = HeaderEdits::default();
        for (fields, side) in [(&written.set, &mut edits.set), (&written.add, &mut edits.add)] {
            for (name, value) in fields {
                let name = Located { value: name.clone(), at: value.at };
                let parsed = self.field_name(&name, &mut names);
                side.extend(parsed.zip(self.field_value(&name, value)));
            }
        }
        for name in &written.remove {
            edits.remove.extend(self.field_name(name, &mut names));
        }
        Some(edits).filter(|edits| !edits.is_empty())
    }

    /// Tells what many chains may find.
    pub(super) fn tell_once(&mut self, problem: Problem, at: Location) {
        if self.warned.insert(at) {
            self.problems.push(problem);
        }
    }
}

/// A weight in hundredths of a percent.
fn parts(weight: f64) -> Option<u64> {
    let parts = (weight * PARTS).round();
    // The cast is of a whole number from 0 to 10,000.
    ((0.0..=100.0 * PARTS).contains(&parts) && (weight * PARTS - parts).abs() < 1e-6)
        .then_some(parts as u64)
}

/// Shares of shares as shares of the whole, in the smallest numbers; `None` if these are too large
/// or too many. What has no share is left out.
pub(super) fn combine<T: Clone>(shares: Vec<(u64, Vec<(u64, T)>)>) -> Option<Vec<(u64, T)>> {
    let total = |leaves: &[(u64, T)]| leaves.iter().map(|(weight, _)| u128::from(*weight)).sum();
    let totals: Vec<u128> = shares.iter().map(|(_, leaves)| total(leaves)).collect();
    let mut whole: u128 = 1;
    for total in totals.iter().filter(|total| **total > 0) {
        whole = (whole / gcd(whole, *total)).checked_mul(*total)?;
    }
    let mut combined: Vec<(u128, T)> = Vec::new();
    for ((weight, leaves), total) in shares.into_iter().zip(totals) {
        for (share, leaf) in leaves {
            let part = u128::from(weight).checked_mul(u128::from(share))?;
            let part = part.checked_mul(whole / total.max(1))?;
            if part > 0 {
                combined.push((part, leaf));
            }
        }
    }
    let divisor = combined.iter().fold(0, |divisor, (weight, _)| gcd(divisor, *weight)).max(1);
    let fits = |weight: u128| u32::try_from(weight / divisor).ok().map(u64::from);
    (combined.len() <= MOST).then_some(())?;
    combined.into_iter().map(|(weight, leaf)| Some((fits(weight)?, leaf))).collect()
}

fn gcd(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_shares_multiply() {
        let leaf = |name: &'static str| vec![(1, name)];
        let half = vec![(1, "b"), (1, "c")];
        let all = combine(vec![(9000, leaf("a")), (1000, half)]).expect("fits");
        assert_eq!(all, [(18, "a"), (1, "b"), (1, "c")]);
        let thirds = vec![(1, "b"), (2, "c")];
        let all = combine(vec![(1, vec![(1, "x"), (3, "y")]), (1, thirds)]).expect("fits");
        assert_eq!(all, [(3, "x"), (9, "y"), (4, "b"), (8, "c")]);
        assert_eq!(combine(vec![(0, leaf("a")), (5, leaf("b"))]), Some(vec![(1, "b")]));
        assert_eq!(combine::<&str>(Vec::new()), Some(Vec::new()));
    }

    #[test]
    fn what_is_too_fine_or_too_much_is_refused() {
        let primes = [4_294_967_291, 4_294_967_279, 4_294_967_231, 4_294_967_197, 4_294_967_189];
        let shares = primes.map(|prime| (1, vec![(1, ()), (prime - 1, ())]));
        assert_eq!(combine(shares.to_vec()), None);
        let many = (0..=MOST).map(|_| (1, vec![(1, ())])).collect();
        assert_eq!(combine(many), None);
    }

    #[test]
    fn a_weight_is_in_hundredths_of_a_percent() {
        for (weight, expected) in [
            (0.0, Some(0)),
            (33.33, Some(3333)),
            (100.0, Some(10_000)),
            (0.005, None),
            (-1.0, None),
            (100.01, None),
            (f64::NAN, None),
            (f64::INFINITY, None),
        ] {
            assert_eq!(parts(weight), expected, "{weight}");
        }
    }
}
