//! From texts to objects: each is checked by itself here, and with the others when compiled.

use super::consul::{ServiceResolver, ServiceRouter, ServiceSplitter};
use super::de::{self, Located};
use super::diagnostic::{Errors, Problem, nearest, resolve};
use super::filters::HttpRouteFilterSpec;
use super::kinds::{
    GATEWAY, GrpcRouteSpec, HttpRouteSpec, Kind, ListenerSpec, Metadata, OURS, ServiceSpec,
    TargetKind, TargetRef, TcpRouteSpec, TlsRouteSpec,
};
use super::server_policy::ServerPolicy;
use super::source::{Location, Source};
use super::span;
use super::tree::{self, Node, Value};
use crate::name::{DEFAULT_NAMESPACE, DestinationName};
use crate::policy::Policy;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// Objects of one set of files, each correct by itself.
#[derive(Clone, Debug)]
pub struct Documents {
    pub(super) sources: Arc<[Source]>,
    pub(super) objects: Vec<Object>,
    pub(super) warnings: Vec<Problem>,
}

impl Documents {
    /// The number of objects.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.objects.len()
    }

    /// The Services, each with its namespace before its name.
    pub fn services(&self) -> impl Iterator<Item = (&str, &str)> {
        let services = self.objects.iter().filter(|object| object.kind == Kind::Service);
        services.map(|object| (&*object.namespace, object.name.value.as_str()))
    }

    /// Without the objects of earlier sources that one of the sources from number `from` on has too,
    /// by kind, namespace and name: the later ones replace them whole.
    #[must_use]
    pub fn replaced_from(mut self, from: usize) -> Self {
        let is_later = |object: &Object| object.name.at.source as usize >= from;
        let key =
            |object: &Object| (object.kind, object.namespace.clone(), object.name.value.clone());
        let later: HashSet<_> =
            self.objects.iter().filter(|object| is_later(object)).map(key).collect();
        self.objects.retain(|object| is_later(object) || !later.contains(&key(object)));
        self
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }
}

/// One object.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) kind: Kind,
    pub(super) name: Located<String>,
    pub(super) namespace: String,
    pub(super) created: Option<String>,
    pub(super) spec: Spec,
    /// The spec as it is written, for values that are merged.
    pub(super) node: Node,
}

/// What an object says, by its kind.
#[derive(Clone, Debug)]
pub(super) enum Spec {
    Service(Box<ServiceSpec>),
    Http(HttpRouteSpec),
    Grpc(GrpcRouteSpec),
    Tcp(TcpRouteSpec),
    Tls(TlsRouteSpec),
    HttpFilter(HttpRouteFilterSpec),
    Router(ServiceRouter),
    Splitter(ServiceSplitter),
    Resolver(Box<ServiceResolver>),
    /// The values stand in [`Object::node`], without the target.
    Traffic(Target),
    /// The values stand in [`Object::node`], without the target.
    Server(Target),
    Listener(Box<ListenerSpec>),
}

/// What a policy applies to.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) kind: TargetKind,
    pub(super) name: Option<Located<String>>,
    pub(super) at: Location,
}

/// Reads the objects of all sources; a source may hold several documents.
///
/// # Errors
/// When a text is no YAML, exceeds a limit, or holds something that is no object. All errors that
/// can be found are told, not only the first.
pub fn parse(sources: &[Source]) -> Result<Documents, Errors> {
    let mut problems = Vec::new();
    let mut objects = Vec::new();
    let mut bytes = 0;
    for (index, source) in (0..).zip(sources) {
        bytes += source.text().len();
        if bytes > tree::MAX_BYTES {
            let at = Location { source: index, line: 1, column: 1, width: 1 };
            problems.push(
                Problem::error(format!(
                    "the configuration is larger than {} MiB",
                    tree::MAX_BYTES >> 20
                ))
                .at(at),
            );
            break;
        }
        for document in tree::read(index, source, &mut problems) {
            objects.extend(object(&document, &mut problems));
        }
    }
    if problems.iter().any(Problem::is_error) {
        return Err(Errors::new(resolve(sources, problems)));
    }
    Ok(Documents { sources: sources.into(), objects, warnings: problems })
}

/// Unknown keys of one object that are told; a file may hold many of them, and nothing else.
const KEYS_TOLD: usize = 20;

/// The keys of an object, in the order in which they are usually written.
const KEYS: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];

fn object(node: &Node, problems: &mut Vec<Problem>) -> Option<Object> {
    let Value::Map(entries) = &node.value else {
        problems.push(
            Problem::error(format!("expected an object, found {}", node.kind()))
                .at(node.at)
                .help("an object is a map with `apiVersion`, `kind`, `metadata` and `spec`"),
        );
        return None;
    };
    if let Some(kind) = node.get("Kind") {
        return entry(node, kind, problems);
    }
    let before = problems.len();
    for (key, _) in entries {
        // `status` is what a cluster writes back; it configures nothing.
        if !KEYS.contains(&&*key.text) && problems.len() < before + KEYS_TOLD {
            problems.push(
                Problem::error(format!("unknown key `{}`", key.text.escape_debug()))
                    .at(key.at)
                    .suggest(&key.text, KEYS),
            );
        }
    }
    let kind = kind(node, problems);
    if let Some(kind) = kind {
        version(node, kind, problems);
    }
    let metadata =
        required(node, "metadata", problems).and_then(|node| de::read::<Metadata>(node, problems));
    if let Some(metadata) = &metadata {
        for name in [Some(&metadata.name), metadata.namespace.as_ref()].into_iter().flatten() {
            // Routes and policies may be called what Kubernetes lets them: DNS names with dots.
            if let Some(wrong) = name
                .split('.')
                .find_map(|label| DestinationName::new(DEFAULT_NAMESPACE, label).err())
            {
                problems.push(Problem::error(wrong.to_string()).at(name.at));
            }
        }
    }
    let spec_node = required(node, "spec", problems);
    let kind = kind?;
    let (spec, rest) = spec(kind, spec_node?, problems)?;
    let metadata = metadata?;
    if problems.len() > before {
        return None;
    }
    Some(Object {
        kind,
        namespace: metadata
            .namespace
            .map_or_else(|| DEFAULT_NAMESPACE.to_owned(), |namespace| namespace.value),
        name: metadata.name,
        created: metadata.creation_timestamp,
        spec,
        node: rest,
    })
}

/// A configuration entry of Consul, which has its name and namespace beside its values.
fn entry(node: &Node, written: &Node, problems: &mut Vec<Problem>) -> Option<Object> {
    let known = [Kind::Router, Kind::Splitter, Kind::Resolver];
    let text = written.text().unwrap_or_default();
    let Some(kind) = known.into_iter().find(|kind| kind.name() == text) else {
        let problem = Problem::error(format!("unknown kind `{}`", text.escape_debug()))
            .suggest(text, known.map(Kind::name));
        problems.push(problem.at(written.at));
        return None;
    };
    let (spec, node) = spec(kind, node, problems)?;
    let (name, namespace) = match &spec {
        Spec::Router(router) => (&router.name, &router.namespace),
        Spec::Splitter(splitter) => (&splitter.name, &splitter.namespace),
        Spec::Resolver(resolver) => (&resolver.name, &resolver.namespace),
        _ => return None,
    };
    let (name, namespace) = (name.clone(), namespace.clone());
    if let Err(wrong) = DestinationName::new(DEFAULT_NAMESPACE, &name) {
        problems.push(Problem::error(wrong.to_string()).at(name.at));
        return None;
    }
    let namespace = namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
    Some(Object { kind, name, namespace, created: None, spec, node })
}

fn required<'a>(node: &'a Node, key: &str, problems: &mut Vec<Problem>) -> Option<&'a Node> {
    let found = node.get(key);
    if found.is_none() {
        problems.push(Problem::error(format!("`{key}` is missing")).at(node.at));
    }
    found
}

fn kind(node: &Node, problems: &mut Vec<Problem>) -> Option<Kind> {
    let written = required(node, "kind", problems)?;
    let names = Kind::ALL.map(Kind::name);
    let text = written.text().unwrap_or_default();
    let found = Kind::ALL.into_iter().find(|kind| kind.name() == text);
    if found.is_none() {
        problems.push(match (text, nearest(text, &names)) {
            ("", _) => Problem::error(format!("expected a kind, found {}", written.kind()))
                .suggest("", names)
                .at(written.at),
            (
                "Intention" | "TrustDomain" | "Gateway" | "Egress" | "Telemetry" | "GatewayClass"
                | "UDPRoute" | "ReferenceGrant" | "List",
                _,
            ) => Problem::not_supported(&format!("kind `{text}`")).at(written.at),
            _ => Problem::error(format!("unknown kind `{}`", text.escape_debug()))
                .suggest(text, names)
                .at(written.at),
        });
    }
    found
}

fn version(node: &Node, kind: Kind, problems: &mut Vec<Problem>) {
    let Some(written) = required(node, "apiVersion", problems) else { return };
    let text = written.text().unwrap_or_default();
    let known = kind.versions();
    if !known.contains(&text) {
        let group = if known.contains(&OURS) { OURS } else { GATEWAY };
        problems.push(
            Problem::error(format!(
                "kind `{}` is not in apiVersion `{}`",
                kind.name(),
                text.escape_debug()
            ))
            .at(written.at)
            .help(if group == OURS {
                format!("write `{OURS}`")
            } else {
                format!("write `{}`; v1beta1 and v1alpha2 are accepted too", known[0])
            }),
        );
    }
}

fn spec(kind: Kind, node: &Node, problems: &mut Vec<Problem>) -> Option<(Spec, Node)> {
    let spec = match kind {
        Kind::Service => Spec::Service(Box::new(de::read(node, problems)?)),
        Kind::HttpRoute => {
            if let Some(Node { value: Value::List(rules), .. }) = node.get("rules") {
                rules.iter().for_each(|rule| never_zero(rule.get("timeouts"), problems));
            }
            Spec::Http(de::read(node, problems)?)
        }
        Kind::GrpcRoute => Spec::Grpc(de::read(node, problems)?),
        Kind::TcpRoute => Spec::Tcp(de::read(node, problems)?),
        Kind::TlsRoute => Spec::Tls(de::read(node, problems)?),
        Kind::HttpRouteFilter => Spec::HttpFilter(de::read(node, problems)?),
        Kind::Listener => Spec::Listener(Box::new(de::read(node, problems)?)),
        Kind::Router => Spec::Router(de::read(node, problems)?),
        Kind::Splitter => Spec::Splitter(de::read(node, problems)?),
        Kind::Resolver => Spec::Resolver(Box::new(de::read(node, problems)?)),
        Kind::TrafficPolicy => {
            let (target, rest) = target(node, problems)?;
            sections::<Policy>(&rest, problems);
            never_zero(rest.get("timeouts"), problems);
            never_zero(rest.get("retry"), problems);
            never_zero(rest.get("breaker"), problems);
            return Some((Spec::Traffic(target), rest));
        }
        Kind::ServerPolicy => {
            let (target, rest) = target(node, problems)?;
            sections::<ServerPolicy>(&rest, problems);
            return Some((Spec::Server(target), rest));
        }
    };
    Some((spec, node.clone()))
}

/// Checks each key of a policy by itself, so that an error in one hides none in another.
fn sections<T: serde::de::DeserializeOwned>(node: &Node, problems: &mut Vec<Problem>) {
    let Value::Map(entries) = &node.value else { return };
    for (key, value) in entries {
        let alone = Node { at: value.at, value: Value::Map(vec![(key.clone(), value.clone())]) };
        de::read::<T>(&alone, problems);
    }
}

/// Checks that no timeout is zero, which some take for "none" and some for "at once".
fn never_zero(timeouts: Option<&Node>, problems: &mut Vec<Problem>) {
    let Some(Node { value: Value::Map(entries), .. }) = timeouts else { return };
    for (key, value) in entries {
        if value.text().is_some_and(|text| span::parse(text) == Ok(Duration::ZERO)) {
            problems.push(
                Problem::error(format!("`{}` is zero, which does not mean unlimited", key.text))
                    .at(value.at)
                    .help("leave it out for the default"),
            );
        }
    }
}

/// Splits the target of a policy from its values.
fn target(node: &Node, problems: &mut Vec<Problem>) -> Option<(Target, Node)> {
    let Value::Map(entries) = &node.value else {
        problems.push(Problem::error(format!("expected a map, found {}", node.kind())).at(node.at));
        return None;
    };
    let written = required(node, "targetRef", problems)?;
    let read: TargetRef = de::read(written, problems)?;
    let rest = entries.iter().filter(|(key, _)| key.text != "targetRef").cloned().collect();
    let kind = *read.kind;
    if let Some(group) =
        read.group.filter(|group| !["", "core", "mesh", GATEWAY].contains(&&***group))
    {
        let what = format!("a target of group `{}`", group.escape_debug());
        problems.push(Problem::not_supported(&what).at(group.at));
    }
    match (&read.name, kind) {
        (Some(name), TargetKind::Mesh) => problems
            .push(Problem::error("the mesh has no name").at(name.at).help("leave `name` out")),
        (None, kind) if kind != TargetKind::Mesh => {
            problems.push(Problem::error("`name` is missing").at(written.at));
        }
        _ => {}
    }
    Some((
        Target { kind, name: read.name, at: read.kind.at },
        Node { at: node.at, value: Value::Map(rest) },
    ))
}
