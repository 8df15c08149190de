//! Compile: from objects to a [`Snapshot`], all or nothing.
//!
//! Order: names, policies by level, destinations, chains, routes, listeners. Every step tells all it finds
//! and goes on with what it has, so that one run tells as much as can be known.

mod chains;
mod check;
mod connections;
mod destinations;
mod effects;
mod filters;
mod listeners;
mod matches;
mod merge;
mod overload;
mod picks;
mod policies;
mod rate_limits;
mod reach;
mod resolvers;
mod routers;
mod routes;
mod rules;
mod tls;
mod values;

use super::de::Located;
use super::diagnostic::{Errors, Problem, resolve};
use super::kinds::Kind;
use super::parse::{Documents, Object};
use super::source::Location;
use super::tree::Node;
use crate::name::DestinationName;
use crate::policy::Policy;
use crate::snapshot::{DestinationConfig, DestinationId, RouteLimit, Snapshot};
use chains::Chains;
use effects::Effects;
use policies::Levels;
use std::collections::{HashMap, HashSet};

/// Compiles objects into a snapshot.
///
/// `version` is carried in the snapshot; whoever puts it in force counts.
///
/// # Errors
/// When names are taken twice or refer to nothing, values clash, or a rule cannot be compiled.
/// All errors that can be found are told, with the warnings beside them.
pub fn compile(documents: &Documents, version: u64) -> Result<Snapshot, Errors> {
    let mut compiler = Compiler {
        documents,
        problems: documents.warnings.clone(),
        services: HashMap::new(),
        namesakes: HashMap::new(),
        default: Node::written_nowhere(&Policy::default()),
        levels: Levels::default(),
        warned: HashSet::new(),
        chains: Chains::default(),
        route_limits: Vec::new(),
        effects: Effects::default(),
    };
    let mut snapshot = Snapshot { version, ..Snapshot::default() };
    compiler.names();
    compiler.policies(&mut snapshot);
    compiler.destinations(&mut snapshot);
    compiler.chains(&snapshot);
    compiler.routes(&mut snapshot);
    compiler.listeners(&mut snapshot);
    snapshot.route_limits = std::mem::take(&mut compiler.route_limits);
    std::mem::take(&mut compiler.effects).tell(&mut compiler.problems);
    let failed = compiler.problems.iter().any(Problem::is_error);
    let diagnostics = resolve(&documents.sources, compiler.problems);
    if failed {
        return Err(Errors::new(diagnostics));
    }
    snapshot.warnings = diagnostics;
    Ok(snapshot)
}

struct Compiler<'a> {
    documents: &'a Documents,
    problems: Vec<Problem>,
    services: HashMap<DestinationName, DestinationId>,
    /// How many services of any namespace have a name.
    namesakes: HashMap<String, usize>,
    /// The default policy as a tree, to merge into.
    default: Node,
    levels: Levels,
    /// Places that a warning was given for: one rule may stand under several hosts.
    warned: HashSet<Location>,
    /// What Consul's entries say of services.
    chains: Chains<'a>,
    /// The rate limits of routes so far.
    route_limits: Vec<RouteLimit>,
    /// Which values of policies have an effect.
    effects: Effects,
}

impl<'a> Compiler<'a> {
    fn objects(&self, kind: Kind) -> impl Iterator<Item = &'a Object> + use<'a> {
        self.documents.objects.iter().filter(move |object| object.kind == kind)
    }

    /// Checks that no two objects share a name, and numbers the services.
    fn names(&mut self) {
        let mut taken: HashMap<(Kind, &str, &str), Location> = HashMap::new();
        for object in &self.documents.objects {
            let key = (object.kind, &*object.namespace, &**object.name);
            if let Some(first) = taken.get(&key) {
                self.problems.push(
                    Problem::error(format!(
                        "{} `{}` is defined twice",
                        object.kind.name(),
                        object.name.value
                    ))
                    .at(object.name.at)
                    .other(*first, "first here"),
                );
                continue;
            }
            taken.insert(key, object.name.at);
            if object.kind == Kind::Service {
                match DestinationName::new(&object.namespace, &object.name) {
                    Ok(name) => {
                        let id = u32::try_from(self.services.len()).unwrap_or(u32::MAX);
                        *self.namesakes.entry(name.name().to_owned()).or_default() += 1;
                        self.services.insert(name, DestinationId(id));
                    }
                    Err(wrong) => {
                        self.problems.push(Problem::error(wrong.to_string()).at(object.name.at));
                    }
                }
            }
        }
    }

    /// The service that a reference names, or a problem at the reference.
    fn service(&mut self, name: &Located<String>, namespace: &str) -> Option<DestinationId> {
        let parsed = DestinationName::new(namespace, name);
        if let Some(id) = parsed.as_ref().ok().and_then(|name| self.services.get(name)) {
            return Some(*id);
        }
        let problem = Problem::error(format!(
            "there is no Service `{}` in namespace `{}`",
            name.value.escape_debug(),
            namespace.escape_debug()
        ))
        .at(name.at);
        let elsewhere = self.services.keys().filter(|known| known.name() == **name);
        let mut elsewhere: Vec<&str> = elsewhere.map(DestinationName::namespace).collect();
        elsewhere.sort_unstable();
        let problem = match elsewhere.first() {
            Some(there) => problem.help(format!("namespace `{there}` has one: state `namespace`")),
            None => {
                let here = self.services.keys().filter(|known| known.namespace() == namespace);
                let mut here: Vec<&str> = here.map(DestinationName::name).collect();
                here.sort_unstable();
                problem.suggest(name, here)
            }
        };
        self.problems.push(problem);
        None
    }
}

/// The destination behind an id that this compilation gave out.
fn destination(snapshot: &Snapshot, id: DestinationId) -> Option<&DestinationConfig> {
    snapshot.destinations.get(id.index())
}
