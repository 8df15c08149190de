//! What this node has: its services and checks by ID, and what of it the catalog does not have yet.
//!
//! No I/O; `now` is an argument. Every change of what the catalog is to have marks the entry with a
//! number; when the catalog has taken it, [`Local::synced`] takes that mark off, unless the entry
//! has changed since. What is removed leaves a mark of its own until the catalog has removed it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;
use twox_hash::XxHash64;

use super::Source;
use super::catalog::{Deregistration, Gone, OfNode, Registration};
use crate::check::{CheckResult, CriticalSince, Running, Ttl};
use crate::types::{CheckDefinition, CheckStatus, HealthCheck, Node, NodeService, Token};

/// The check that the servers keep of a node themselves.
const OF_THE_SERVERS: &str = "serfHealth";

/// A service of this node.
#[derive(Clone, Debug)]
pub(super) struct Service {
    /// What the catalog is to have.
    pub(super) instance: NodeService,
    pub(super) source: Source,
    pub(super) token: Token,
    /// The service that it was registered with and goes with.
    pub(super) sidecar_of: Option<String>,
    /// Of the instance, for reads that wait for a change.
    hash: String,
    /// What the catalog has yet to take.
    unsynced: Option<u64>,
}

impl Service {
    pub(super) fn new(instance: NodeService, source: Source, token: Token) -> Self {
        let hash = content_hash(&instance);
        Self { instance, source, token, sidecar_of: None, hash, unsynced: None }
    }

    pub(super) fn hash(&self) -> &str {
        &self.hash
    }
}

/// XXH64 of the instance as JSON, in hexadecimal. It need be no secret nor hard to forge: who
/// registers an instance may as well change it.
fn content_hash(instance: &NodeService) -> String {
    let json = serde_json::to_vec(instance).unwrap_or_default();
    format!("{:016x}", XxHash64::oneshot(0, &json))
}

/// A check of this node or of one of its services.
#[derive(Debug)]
pub(super) struct Check {
    /// What the catalog is to have.
    pub(super) health: HealthCheck,
    /// How it is run; none for maintenance.
    pub(super) definition: Option<CheckDefinition>,
    pub(super) source: Source,
    pub(super) token: Token,
    /// Whether it came by itself and not with its service.
    pub(super) is_alone: bool,
    pub(super) ttl: Option<Ttl>,
    /// Ends the runs when it is dropped.
    pub(super) running: Option<Running>,
    /// Tells its runs from those of the check that was here before.
    generation: u64,
    critical: CriticalSince,
    /// A new output that the catalog may get later.
    deferred: Option<Instant>,
    unsynced: Option<u64>,
}

impl Check {
    pub(super) fn new(health: HealthCheck, source: Source, token: Token) -> Self {
        Self {
            health,
            definition: None,
            source,
            token,
            is_alone: true,
            ttl: None,
            running: None,
            generation: 0,
            critical: CriticalSince::default(),
            deferred: None,
            unsynced: None,
        }
    }

    pub(super) const fn generation(&self) -> u64 {
        self.generation
    }
}

/// A piece of work for the catalog, with the marks that it takes off.
#[derive(Debug)]
pub(super) enum Job {
    Register(Box<Registration>, Marks),
    Deregister(Deregistration, u64),
}

impl Job {
    /// What it is about, for people.
    pub(super) fn names(&self) -> String {
        match self {
            Self::Deregister(what, _) => match &what.what {
                Gone::Service(id) => format!("removal of service {id:?}"),
                Gone::Check(id) => format!("removal of check {id:?}"),
            },
            Self::Register(_, marks) => match (&marks.service, marks.checks.first()) {
                (Some((id, _)), _) => format!("service {id:?}"),
                (None, Some((id, _))) => format!("check {id:?}"),
                (None, None) => "node".to_owned(),
            },
        }
    }
}

/// Entries that go out together, each as it was marked.
#[derive(Debug, Default)]
pub(super) struct Marks {
    node: Option<u64>,
    service: Option<(String, u64)>,
    checks: Vec<(String, u64)>,
}

/// See the [module docs](self).
#[derive(Debug)]
pub(super) struct Local {
    node: Node,
    services: BTreeMap<String, Service>,
    checks: BTreeMap<String, Check>,
    gone: BTreeMap<Gone, (Token, u64)>,
    node_unsynced: Option<u64>,
    /// Counts changes, of which each has its number.
    changes: u64,
}

impl Local {
    pub(super) const fn new(node: Node) -> Self {
        Self {
            node,
            services: BTreeMap::new(),
            checks: BTreeMap::new(),
            gone: BTreeMap::new(),
            node_unsynced: Some(0),
            changes: 0,
        }
    }

    pub(super) const fn node(&self) -> &Node {
        &self.node
    }

    pub(super) const fn services(&self) -> &BTreeMap<String, Service> {
        &self.services
    }

    pub(super) const fn checks(&self) -> &BTreeMap<String, Check> {
        &self.checks
    }

    pub(super) fn check_mut(&mut self, id: &str) -> Option<&mut Check> {
        self.checks.get_mut(id)
    }

    /// The checks of a service, or of the node where `service` is empty.
    pub(super) fn checks_of<'a>(
        &'a self,
        service: &'a str,
    ) -> impl Iterator<Item = (&'a String, &'a Check)> {
        self.checks.iter().filter(move |(_, check)| check.health.service_id == service)
    }

    const fn next(&mut self) -> u64 {
        self.changes += 1;
        self.changes
    }

    /// Takes in a service, in the place of the one that has its ID.
    pub(super) fn put_service(&mut self, mut service: Service) {
        let id = service.instance.id.clone();
        let change = self.next();
        let old = self.services.remove(&id);
        let same = old.as_ref().filter(|old| old.instance == service.instance);
        service.unsynced = same.map_or(Some(change), |old| old.unsynced);
        self.gone.remove(&Gone::Service(id.clone()));
        let NodeService { name, tags, .. } = &service.instance;
        for check in self.checks.values_mut().filter(|check| check.health.service_id == id) {
            if check.health.service_name != *name || check.health.service_tags != *tags {
                name.clone_into(&mut check.health.service_name);
                tags.clone_into(&mut check.health.service_tags);
                check.unsynced = Some(change);
            }
        }
        self.services.insert(id, service);
    }

    /// Takes out a service with its checks; gives back their IDs.
    pub(super) fn remove_service(&mut self, id: &str) -> Vec<String> {
        let Some(service) = self.services.remove(id) else { return Vec::new() };
        let change = self.next();
        self.gone.insert(Gone::Service(id.to_owned()), (service.token, change));
        let checks: Vec<_> = self.checks_of(id).map(|(id, _)| id.clone()).collect();
        for check in &checks {
            self.checks.remove(check);
        }
        checks
    }

    /// Takes in a check, in the place of the one that has its ID: how that one stood still holds.
    /// Gives back the number by which its runs report.
    pub(super) fn put_check(&mut self, mut check: Check, now: Instant) -> u64 {
        let id = check.health.id.clone();
        let change = self.next();
        check.generation = change;
        check.unsynced = Some(change);
        if let Some(old) = self.checks.remove(&id) {
            check.health.status = old.health.status;
            check.health.output.clone_from(&old.health.output);
            check.critical = old.critical;
            if check.health == old.health {
                (check.unsynced, check.deferred) = (old.unsynced, old.deferred);
            }
            // The catalog keys checks by ID and refuses to move one to another service.
            if check.health.service_id != old.health.service_id {
                self.gone.insert(Gone::Check(id.clone()), (old.token, change));
            }
        } else {
            self.gone.remove(&Gone::Check(id.clone()));
        }
        check.critical.note(check.health.status, now);
        self.checks.insert(id, check);
        change
    }

    /// Takes out a check; whether there was one.
    pub(super) fn remove_check(&mut self, id: &str) -> bool {
        let Some(check) = self.checks.remove(id) else { return false };
        let change = self.next();
        self.gone.insert(Gone::Check(id.to_owned()), (check.token, change));
        true
    }

    /// Takes in a result of the check's runs of `generation`. With a new output alone, the catalog
    /// gets it only after `lazily`. Whether anything is new.
    pub(super) fn record(
        &mut self,
        id: &str,
        generation: u64,
        result: CheckResult,
        now: Instant,
        lazily: Duration,
    ) -> bool {
        match self.checks.get(id) {
            Some(check) if check.generation == generation => {}
            _ => return false,
        }
        self.tell(id, result, now, lazily)
    }

    fn tell(&mut self, id: &str, result: CheckResult, now: Instant, lazily: Duration) -> bool {
        let change = self.next();
        let Some(check) = self.checks.get_mut(id) else { return false };
        check.critical.note(result.status, now);
        if check.health.status == result.status && check.health.output == result.output {
            return false;
        }
        if check.health.status != result.status || lazily.is_zero() {
            check.unsynced = Some(change);
            check.deferred = None;
        } else if check.unsynced.is_none() {
            check.deferred = check.deferred.or_else(|| now.checked_add(lazily));
        }
        check.health.status = result.status;
        check.health.output = result.output;
        true
    }

    /// Somebody says how a check stands that waits to be told. None if there is no such check;
    /// otherwise whether its clock had run out.
    pub(super) fn told(
        &mut self,
        id: &str,
        result: CheckResult,
        now: Instant,
        lazily: Duration,
    ) -> Option<bool> {
        let ttl = self.checks.get_mut(id)?.ttl.as_mut()?;
        let had_expired = ttl.expires().is_none();
        ttl.told(now);
        self.tell(id, result, now, lazily);
        Some(had_expired)
    }

    /// When the check of `generation` that waits to be told expires next; it may at `now`, and is
    /// critical then. The flag says whether it did.
    pub(super) fn expire(
        &mut self,
        id: &str,
        generation: u64,
        now: Instant,
    ) -> (Option<Instant>, bool) {
        let Some(check) = self.checks.get_mut(id).filter(|check| check.generation == generation)
        else {
            return (None, false);
        };
        let Some(ttl) = &mut check.ttl else { return (None, false) };
        match ttl.expire(now, &check.health.output) {
            None => (ttl.expires(), false),
            Some(result) => (None, self.tell(id, result, now, Duration::ZERO)),
        }
    }

    /// Services of which a check has been critical for longer than it allows.
    pub(super) fn critical_for_too_long(&self, now: Instant) -> BTreeSet<String> {
        let is_over = |check: &&Check| {
            let after = check.definition.as_ref().map_or(Duration::ZERO, |definition| {
                definition.deregister_critical_service_after.0
            });
            !check.health.service_id.is_empty() && check.critical.is_over(after, now)
        };
        self.checks.values().filter(is_over).map(|check| check.health.service_id.clone()).collect()
    }

    /// The worst state among `checks`.
    pub(super) fn worst<'a>(checks: impl IntoIterator<Item = &'a Check>) -> CheckStatus {
        let states = checks.into_iter().map(|check| check.health.status);
        states.max().unwrap_or(CheckStatus::Passing)
    }

    /// Marks all that differs from what the catalog has, which is told whole. A node that the
    /// catalog does not know differs in all.
    pub(super) fn compare(&mut self, catalog: Option<OfNode>) {
        let change = self.next();
        let OfNode { node, services, checks } = match catalog {
            Some(catalog) => catalog,
            None => {
                self.node_unsynced = Some(change);
                OfNode::default()
            }
        };
        let ours = &self.node;
        if (&node.id, &node.address, &node.tagged_addresses, &node.meta)
            != (&ours.id, &ours.address, &ours.tagged_addresses, &ours.meta)
        {
            self.node_unsynced = Some(change);
        }

        let mut theirs: BTreeMap<_, _> =
            services.into_iter().map(|service| (service.id.clone(), service)).collect();
        for (id, service) in &mut self.services {
            let Some(there) = theirs.remove(id) else {
                service.unsynced = Some(change);
                continue;
            };
            if service.instance.enable_tag_override && service.instance.tags != there.tags {
                service.instance.tags.clone_from(&there.tags);
                service.hash = content_hash(&service.instance);
            }
            let there = NodeService { create_index: 0, modify_index: 0, ..there };
            if there != service.instance {
                service.unsynced = Some(change);
            }
        }
        for id in theirs.into_keys() {
            self.gone.entry(Gone::Service(id)).or_insert_with(|| (Token::default(), change));
        }

        let mut theirs: BTreeMap<_, _> =
            checks.into_iter().map(|check| (check.id.clone(), check)).collect();
        for (id, check) in &mut self.checks {
            match theirs.remove(id) {
                // The output has its own time.
                Some(there) if is_same(&check.health, &there) => {}
                _ => check.unsynced = Some(change),
            }
        }
        for (id, check) in theirs {
            let goes_along = self.gone.contains_key(&Gone::Service(check.service_id));
            if id != OF_THE_SERVERS && !goes_along {
                self.gone.entry(Gone::Check(id)).or_insert_with(|| (Token::default(), change));
            }
        }
    }

    /// What is to be brought to the catalog at `now`: removals first, then the node, then each
    /// service together with its checks, then the rest.
    pub(super) fn jobs(&mut self, now: Instant) -> Vec<Job> {
        for check in self.checks.values_mut() {
            if check.deferred.is_some_and(|at| at <= now) {
                check.deferred = None;
                self.changes += 1;
                check.unsynced = Some(self.changes);
            }
        }
        let name = &self.node.name;
        let removals = self.gone.iter().map(|(what, (token, mark))| {
            let what =
                Deregistration { node: name.clone(), what: what.clone(), token: token.clone() };
            Job::Deregister(what, *mark)
        });
        let mut jobs: Vec<_> = removals.collect();
        let registration = |service: Option<NodeService>, token: &Token| Registration {
            node: self.node.clone(),
            service,
            checks: Vec::new(),
            token: token.clone(),
        };
        if let Some(mark) = self.node_unsynced {
            let marks = Marks { node: Some(mark), ..Marks::default() };
            jobs.push(Job::Register(Box::new(registration(None, &Token::default())), marks));
        }
        let mut pending: BTreeMap<&str, Vec<(&String, &Check, u64)>> = BTreeMap::new();
        for (id, check) in &self.checks {
            if let Some(mark) = check.unsynced {
                pending.entry(&check.health.service_id).or_default().push((id, check, mark));
            }
        }
        for (id, service) in &self.services {
            let Some(mark) = service.unsynced else { continue };
            let mut registration = registration(Some(service.instance.clone()), &service.token);
            let mut marks = Marks { service: Some((id.clone(), mark)), ..Marks::default() };
            let checks = pending.get_mut(id.as_str()).map(std::mem::take).unwrap_or_default();
            let (along, apart) =
                checks.into_iter().partition(|(_, check, _)| check.token == service.token);
            pending.insert(id, apart);
            let along: Vec<_> = along;
            for (id, check, mark) in along {
                registration.checks.push(check.health.clone());
                marks.checks.push((id.clone(), mark));
            }
            jobs.push(Job::Register(Box::new(registration), marks));
        }
        for (id, check, mark) in pending.into_values().flatten() {
            let mut registration = registration(None, &check.token);
            registration.checks.push(check.health.clone());
            let marks = Marks { checks: vec![(id.clone(), mark)], ..Marks::default() };
            jobs.push(Job::Register(Box::new(registration), marks));
        }
        jobs
    }

    /// The catalog has taken what was marked so.
    pub(super) fn synced(&mut self, marks: &Marks) {
        let take_off = |unsynced: &mut Option<u64>, mark: u64| {
            if *unsynced == Some(mark) {
                *unsynced = None;
            }
        };
        if let Some(mark) = marks.node {
            take_off(&mut self.node_unsynced, mark);
        }
        if let Some((id, mark)) = &marks.service
            && let Some(service) = self.services.get_mut(id)
        {
            take_off(&mut service.unsynced, *mark);
        }
        for (id, mark) in &marks.checks {
            if let Some(check) = self.checks.get_mut(id) {
                take_off(&mut check.unsynced, *mark);
            }
        }
    }

    /// The catalog has taken out what was marked so. What is here again goes to it once more.
    pub(super) fn removed(&mut self, what: &Gone, mark: u64) {
        if self.gone.get(what).is_some_and(|(_, current)| *current == mark) {
            self.gone.remove(what);
        }
        let change = self.next();
        match what {
            Gone::Service(id) => {
                if let Some(service) = self.services.get_mut(id) {
                    service.unsynced = Some(change);
                    for check in self.checks.values_mut() {
                        if check.health.service_id == *id {
                            check.unsynced = Some(change);
                        }
                    }
                }
            }
            Gone::Check(id) => {
                if let Some(check) = self.checks.get_mut(id) {
                    check.unsynced = Some(change);
                }
            }
        }
    }

    /// When the next output that waits is to go out.
    pub(super) fn next_deferred(&self) -> Option<Instant> {
        self.checks.values().filter_map(|check| check.deferred).min()
    }

    /// Whether the catalog has all, but for outputs that may wait.
    pub(super) fn is_synced(&self) -> bool {
        self.gone.is_empty()
            && self.node_unsynced.is_none()
            && self.services.values().all(|service| service.unsynced.is_none())
            && self.checks.values().all(|check| check.unsynced.is_none())
    }
}

/// Whether the catalog has this check, whatever its output.
fn is_same(ours: &HealthCheck, theirs: &HealthCheck) -> bool {
    let told = |check: &HealthCheck| {
        (
            check.status,
            check.name.clone(),
            check.notes.clone(),
            check.service_id.clone(),
            check.service_name.clone(),
            check.service_tags.clone(),
            check.kind.clone(),
        )
    };
    told(ours) == told(theirs)
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
