//! Policies: grouped by what they apply to, then merged for each destination and rule.

use super::super::de;
use super::super::kinds::{Kind, TargetKind};
use super::super::parse::{Object, Spec, Target};
use super::super::server_policy::ServerPolicy;
use super::super::source::{Origin, Origins};
use super::super::tree::{Node, Value};
use super::merge::{join, nothing, origins, overlay};
use super::{Compiler, Problem, overload, resolvers, values};
use crate::fault;
use crate::health::Invalid;
use crate::name::DestinationName;
use crate::policy::Policy;
use crate::rate_limit;
use crate::snapshot::Snapshot;
use std::collections::HashMap;
use std::sync::Arc;

/// Keys of a policy that concern one call. The others concern what all calls to a destination
/// share, and cannot differ by route.
const PER_CALL: [&str; 9] = [
    "affinity",
    "criticality",
    "fault",
    "hash",
    "hedge",
    "rateLimit",
    "retry",
    "timeouts",
    "trustRequestHeaders",
];

/// What is written for each level.
#[derive(Default)]
pub(super) struct Levels {
    mesh: Option<Node>,
    namespaces: HashMap<String, Node>,
    services: HashMap<DestinationName, Node>,
    routes: HashMap<(Kind, String, String), Node>,
}

impl Levels {
    /// What is written for a destination, merged.
    pub(super) fn of_destination(&self, name: &DestinationName) -> Node {
        let mut merged = self.mesh.clone().unwrap_or_else(nothing);
        let narrower = [self.namespaces.get(name.namespace()), self.services.get(name)];
        for level in narrower.into_iter().flatten() {
            overlay(&mut merged, level);
        }
        merged
    }

    /// What is written for a route.
    pub(super) fn of_route(&self, route: &Object) -> Option<&Node> {
        self.routes.get(&(route.kind, route.namespace.clone(), route.name.value.clone()))
    }
}

fn add<K: std::hash::Hash + Eq>(
    level: &mut HashMap<K, Node>,
    key: K,
    node: &Node,
    problems: &mut Vec<Problem>,
) {
    join(level.entry(key).or_insert_with(nothing), node, problems);
}

impl Compiler<'_> {
    pub(super) fn policies(&mut self, snapshot: &mut Snapshot) {
        let mut traffic = std::mem::take(&mut self.levels);
        let mut server = Levels::default();
        for object in &self.documents.objects {
            match &object.spec {
                Spec::Traffic(target) => self.file(&mut traffic, object, target),
                Spec::Server(target) => self.file(&mut server, object, target),
                Spec::Resolver(resolver) => {
                    let name = DestinationName::new(&object.namespace, &resolver.name).ok();
                    // That there is no such Service is told with the chains.
                    if let Some(name) = name.filter(|name| self.services.contains_key(name)) {
                        let stated = resolvers::policy(resolver, &mut self.problems);
                        add(&mut traffic.services, name, &stated, &mut self.problems);
                    }
                }
                _ => {}
            }
        }
        self.levels = traffic;

        let mesh = self.levels.mesh.clone().unwrap_or_else(nothing);
        (snapshot.default_policy, snapshot.default_origins) = self.policy(&mesh);
        let servers = &mut snapshot.servers;
        if let Some(mesh) = &server.mesh {
            servers.mesh = self.server_policy(mesh);
        }
        for namespace in server.namespaces.keys() {
            let mut merged = server.mesh.clone().unwrap_or_else(nothing);
            overlay(&mut merged, &server.namespaces[namespace]);
            servers.namespaces.insert(namespace.clone(), self.server_policy(&merged));
        }
        for name in server.services.keys() {
            let merged = server.of_destination(name);
            servers.services.insert(name.clone(), self.server_policy(&merged));
        }
    }

    /// Adds an object to the level it is written for.
    fn file(&mut self, levels: &mut Levels, object: &Object, target: &Target) {
        let node = &object.node;
        let Some(name) = &target.name else {
            return join(levels.mesh.get_or_insert_with(nothing), node, &mut self.problems);
        };
        let route = match target.kind {
            TargetKind::Mesh => return,
            TargetKind::Namespace => {
                return add(&mut levels.namespaces, name.value.clone(), node, &mut self.problems);
            }
            TargetKind::Service => {
                if self.service(name, &object.namespace).is_some()
                    && let Ok(known) = DestinationName::new(&object.namespace, name)
                {
                    add(&mut levels.services, known, node, &mut self.problems);
                }
                return;
            }
            TargetKind::HttpRoute => Kind::HttpRoute,
            TargetKind::GrpcRoute => Kind::GrpcRoute,
            TargetKind::TcpRoute => Kind::TcpRoute,
        };
        if object.kind == Kind::ServerPolicy {
            self.problems.push(
                Problem::error(format!("a ServerPolicy cannot apply to a {}", route.name()))
                    .at(target.at)
                    .help("it applies to a service, a namespace or the mesh"),
            );
            return;
        }
        self.per_call(node);
        if let (Kind::TcpRoute, Some(limit)) = (route, node.get("rateLimit")) {
            self.problems.push(
                Problem::error("a TCPRoute carries no calls that `rateLimit` could count")
                    .at(limit.at)
                    .help("`limits.maxConnections` of the Service bounds connections"),
            );
        }
        let known: Vec<&str> = self
            .objects(route)
            .filter(|known| known.namespace == object.namespace)
            .map(|known| &**known.name)
            .collect();
        if known.contains(&&***name) {
            let key = (route, object.namespace.clone(), name.value.clone());
            add(&mut levels.routes, key, node, &mut self.problems);
        } else {
            let problem = Problem::error(format!(
                "there is no {} `{}` in namespace `{}`",
                route.name(),
                name.value.escape_debug(),
                object.namespace
            ));
            self.problems.push(problem.at(name.at).suggest(name, known));
        }
    }

    fn per_call(&mut self, node: &Node) {
        let Value::Map(entries) = &node.value else { return };
        for (key, _) in entries.iter().filter(|(key, _)| !PER_CALL.contains(&&*key.text)) {
            self.problems.push(
                Problem::error(format!("`{}` cannot differ by route", key.text.escape_debug()))
                    .at(key.at)
                    .help("all calls to a destination share it: write it for the Service"),
            );
        }
    }

    /// Reads a merged policy.
    pub(super) fn policy(&mut self, merged: &Node) -> (Arc<Policy>, Arc<Origins>) {
        // On top of the default as a whole: a part of it may have other defaults than its type.
        let mut whole = self.default.clone();
        overlay(&mut whole, merged);
        let mut policy: Policy = de::read(&whole, &mut self.problems).unwrap_or_default();
        let origins = origins(&self.documents.sources, merged);
        self.check_pick(&policy.pick, merged);
        overload::traffic(&policy, merged, &mut self.problems);
        values::traffic(&policy, merged, &mut self.problems);
        self.asked(policy.rate_limit.as_ref(), merged);
        self.invalid(merged, "outlier", policy.outlier.problems());
        if let Some(check) = &policy.health_check {
            self.invalid(merged, "healthCheck", check.problems());
        }
        policy.timeouts.explicit = origins.of("timeouts.request") != Origin::DEFAULT;
        self.hedge(&policy, merged);
        self.contradictions(&policy, merged);
        self.effects(&policy, merged);
        (Arc::new(policy), Arc::new(origins))
    }

    /// Tells what a section says of its own values, at the places where they are written.
    fn invalid(&mut self, merged: &Node, section: &str, found: Vec<Invalid>) {
        let Some(written) = merged.get(section) else { return };
        for invalid in found {
            let mut at = written;
            for step in invalid.path.split('.').filter(|step| !step.is_empty()) {
                let Some(below) = at.step(step) else { break };
                at = below;
            }
            // One policy serves many destinations and rules; its faults are told once.
            if self.warned.insert(at.at) {
                self.problems.push(Problem::error(invalid.message).at(at.at));
            }
        }
    }

    /// Checks that there is the service that a rate limit asks.
    fn asked(&mut self, limit: Option<&rate_limit::Config>, merged: &Node) {
        let Some(global) = limit.and_then(|limit| limit.global.as_ref()) else { return };
        let written = merged.get("rateLimit").and_then(|limit| limit.get("global")?.get("service"));
        let Some(written) = written else { return };
        // What several services inherit is wrong once.
        if self.services.contains_key(&global.service) || !self.warned.insert(written.at) {
            return;
        }
        let (name, namespace) = (global.service.name(), global.service.namespace());
        let problem =
            Problem::error(format!("there is no Service `{name}` in namespace `{namespace}`"));
        let mut elsewhere: Vec<String> = self
            .services
            .keys()
            .filter(|known| known.name() == name)
            .map(ToString::to_string)
            .collect();
        elsewhere.sort_unstable();
        let problem = match elsewhere.first() {
            Some(there) => problem.help(format!("write `service: {there}`")),
            None => {
                let here = self.services.keys().filter(|known| known.namespace() == namespace);
                let mut here: Vec<&str> = here.map(DestinationName::name).collect();
                here.sort_unstable();
                problem.suggest(name, here)
            }
        };
        self.problems.push(problem.at(written.at));
    }

    /// Checks that it is said once when to hedge.
    fn hedge(&mut self, policy: &Policy, merged: &Node) {
        let (Some(hedge), Some(written)) = (&policy.hedge, merged.get("hedge")) else { return };
        let problem = match hedge.contradiction() {
            Some(why) => Problem::error(why),
            None if hedge.on_per_try_timeout && policy.retry.per_try_timeout.is_none() => {
                Problem::error("`onPerTryTimeout` has no effect without `retry.perTryTimeout`")
            }
            None => return,
        };
        // One policy serves many destinations and rules; its faults are told once.
        if self.warned.insert(written.at) {
            self.problems.push(problem.at(written.at));
        }
    }

    /// Tells of values that are right by themselves, and not together.
    fn contradictions(&mut self, policy: &Policy, merged: &Node) {
        let Some((key, help)) = policy.fault.as_ref().and_then(fault::Config::contradiction) else {
            return;
        };
        let at = merged.get("fault").and_then(|fault| fault.get(key)).map(|node| node.at);
        if let Some(at) = at
            && self.warned.insert(at)
        {
            let problem =
                Problem::error(format!("`fault.{key}` contradicts itself or says nothing"));
            self.problems.push(problem.at(at).help(help));
        }
    }

    fn server_policy(&mut self, merged: &Node) -> Arc<ServerPolicy> {
        let policy: ServerPolicy = de::read(merged, &mut self.problems).unwrap_or_default();
        overload::server(&policy, merged, &mut self.problems);
        values::server(&policy, merged, &mut self.problems);
        self.asked(policy.rate_limit.as_ref(), merged);
        self.server_effects(&policy, merged);
        Arc::new(policy)
    }
}
