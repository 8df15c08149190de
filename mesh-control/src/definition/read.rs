//! From texts to definitions: every file is checked by itself, then all are merged in their order.

use mesh_core::config::{Diagnostic, Errors, Origin, Severity, Source};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::settings::{PASSED_OVER, REFUSED, Settings};
use super::text::{MAX_FILE, Unreadable};
use super::{hcl, json, yaml};
use crate::decode::{self, DecodeError, Dialect, Key, Node, Options, Place, Tree};
use crate::types::{CheckDefinition, ServiceDefinition};

/// Problems that are told of one value of a file.
const TOLD: usize = 20;
/// Errors, and warnings, that are told of all files: whoever wrote more reads these first.
const KEPT: usize = 100;

/// What a set of files says.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Definitions {
    /// Settings of the agent and of the server.
    pub settings: Settings,
    /// Services, in the order of files and lines.
    pub services: Vec<Defined<ServiceDefinition>>,
    /// Checks of the node, or of services by their ID.
    pub checks: Vec<Defined<CheckDefinition>>,
    /// Configuration entries to begin with: maps with a `kind`.
    pub entries: Vec<Defined<Map<String, Value>>>,
    /// Files that hold objects with `apiVersion`: those of [`mesh_core::config`].
    pub objects: Vec<Source>,
    /// What can be used, and likely does not mean what was intended.
    pub warnings: Vec<Diagnostic>,
}

/// Something that was defined, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Defined<T> {
    /// What was defined.
    pub value: T,
    /// Where it stands.
    pub origin: Origin,
}

/// Reads files, in this order. The end of a name tells its language: `.hcl`, `.json`, `.yaml`.
///
/// ```
/// use mesh_control::definition;
/// use mesh_core::config::Source;
///
/// let text = r#"
/// service {
///   name = "dashboard"
///   port = 9002
///   connect { sidecar_service { proxy {
///     upstreams = [{ destination_name = "counting", local_bind_port = 5000 }]
///   } } }
///   check { http = "http://localhost:9002/health", interval = "1s" }
/// }"#;
/// let read = definition::read(&[Source::new("dashboard.hcl", text)]).unwrap();
/// assert_eq!(read.services[0].value.port, 9002);
///
/// let text = "service { name = \"web\" prot = 80 }";
/// let errors = definition::read(&[Source::new("web.hcl", text)]).unwrap_err();
/// assert_eq!(errors.to_string(), "\
/// error: unknown field \"prot\" of service
///  --> web.hcl:1:24
///   |
/// 1 | service { name = \"web\" prot = 80 }
///   |                        ^^^^
///   = did you mean \"Port\"?");
/// ```
///
/// # Errors
/// All that can be found, each with its place.
pub fn read(sources: &[Source]) -> Result<Definitions, Errors> {
    let mut files = Files { sources, index: 0, told: Vec::new(), read: Definitions::default() };
    for index in 0..sources.len() {
        files.index = index;
        files.file();
    }
    files.twice();
    let Files { told, mut read, .. } = files;
    if told.iter().any(|told| told.severity == Severity::Error) {
        return Err(told.into());
    }
    read.warnings = told;
    Ok(read)
}

struct Files<'a> {
    sources: &'a [Source],
    index: usize,
    told: Vec<Diagnostic>,
    read: Definitions,
}

impl Files<'_> {
    fn file(&mut self) {
        let Some(source) = self.sources.get(self.index) else { return };
        let text = source.text();
        let start = Place { line: 1, column: 1, width: 1 };
        if text.len() > MAX_FILE {
            let what = format!("the file has {} bytes, more than {MAX_FILE}", text.len());
            return self.error(start, what, None);
        }
        let read = match source.name().rsplit('.').next() {
            _ if text.trim().is_empty() => return,
            Some("hcl") => hcl::read(text).map(|root| vec![root]),
            Some("json") => json::read(text).map(|root| vec![root]),
            Some("yaml" | "yml") => yaml::read(text),
            _ => {
                let help = "name it .hcl, .json or .yaml".to_owned();
                return self.error(start, "the name does not tell the language", Some(help));
            }
        };
        match read {
            Ok(documents) if documents.iter().any(is_object) => {
                self.read.objects.push(source.clone());
            }
            Ok(documents) => documents.iter().for_each(|root| self.document(root)),
            Err(Unreadable { at, what, help }) => self.error(at, what, help),
        }
    }

    fn document(&mut self, root: &Node) {
        let entries = match &root.value {
            Tree::Map(entries) => entries,
            Tree::Null => return,
            _ => return self.error(root.at, "expected a map of settings and definitions", None),
        };
        self.duplicates(root);
        let mut rest = Vec::new();
        for (key, value) in entries {
            let is = |word: &str| decode::same_letters(&key.text, word);
            if is("service") || is("services") {
                for item in items(value) {
                    if let Some(service) = self.decode::<ServiceDefinition>(item, &key.text) {
                        if service.value.name.is_empty() {
                            self.error(item.at, "a service has no name", None);
                        }
                        self.service_checks(item);
                        self.read.services.push(service);
                    }
                }
            } else if is("check") || is("checks") {
                for item in items(value) {
                    let check = self.decode(item, &key.text);
                    self.check_kind(check.as_ref(), item);
                    self.read.checks.extend(check);
                }
            } else if is("config_entries") {
                self.entries(value);
            } else if let Some(kept) = self.setting("", key, value) {
                rest.push((key.clone(), kept));
            }
        }
        let rest = Node { at: root.at, value: Tree::Map(rest) };
        if let Some(settings) = self.decode::<Settings>(&rest, "") {
            self.read.settings.merge(settings.value);
        }
    }

    /// Tells which checks of a service are none.
    fn service_checks(&mut self, service: &Node) {
        let Tree::Map(entries) = &service.value else { return };
        for (key, value) in entries {
            if ["check", "checks"].iter().any(|word| decode::same_letters(&key.text, word)) {
                for item in items(value) {
                    let check = self.decode(item, &key.text);
                    self.check_kind(check.as_ref(), item);
                }
            }
        }
    }

    fn check_kind(&mut self, check: Option<&Defined<CheckDefinition>>, item: &Node) {
        if let Some(Err(error)) = check.map(|check| check.value.kind()) {
            self.error(item.at, error.to_string(), None);
        }
    }

    /// A setting without what is passed over; `None` if it is.
    fn setting(&mut self, block: &str, key: &Key, value: &Node) -> Option<Node> {
        let has = |names: &[&str]| names.iter().any(|name| decode::same_letters(&key.text, name));
        let what = |said: &str| match block {
            "" => format!("`{}` {said}", key.text.escape_debug()),
            _ => format!("`{block}.{}` {said}", key.text.escape_debug()),
        };
        if REFUSED.iter().any(|(within, names)| *within == block && has(names)) {
            let help = "it is refused, because without it more would be open than the file says";
            self.error(key.at, what("is not supported yet"), Some(help.to_owned()));
            return None;
        }
        if let Some((.., why)) =
            PASSED_OVER.iter().find(|(within, names, _)| *within == block && has(names))
        {
            self.tell(Severity::Warning, key.at, what("has no effect"), Some((*why).to_owned()));
            return None;
        }
        let blocks = ["ports", "addresses", "acl", "tokens", "http_config"];
        let Some(block) = blocks.into_iter().find(|block| decode::same_letters(&key.text, block))
        else {
            return Some(value.clone());
        };
        let [Node { value: Tree::Map(entries), at }] = items(value) else {
            return Some(value.clone());
        };
        let kept: Vec<_> = entries
            .iter()
            .filter_map(|(key, value)| Some((key.clone(), self.setting(block, key, value)?)))
            .collect();
        // Nothing is known of this block but what is passed over.
        if block == "http_config" && kept.is_empty() {
            return None;
        }
        Some(Node { at: *at, value: Tree::Map(kept) })
    }

    fn entries(&mut self, value: &Node) {
        for block in items(value) {
            let Tree::Map(parts) = &block.value else {
                self.error(block.at, "expected a map with `bootstrap`", None);
                continue;
            };
            for (key, value) in parts {
                if !decode::same_letters(&key.text, "bootstrap") {
                    let what = format!("unknown field {:?} of config_entries", key.text);
                    self.error(key.at, what, Some("known: \"bootstrap\"".to_owned()));
                    continue;
                }
                for item in items(value) {
                    let Some(entry) = self.decode::<Map<String, Value>>(item, "bootstrap") else {
                        continue;
                    };
                    let kind = entry.value.iter().find(|(key, _)| key.eq_ignore_ascii_case("kind"));
                    match kind {
                        Some((_, Value::String(kind))) if !kind.is_empty() => {
                            self.read.entries.push(entry);
                        }
                        _ => self.error(item.at, "a configuration entry has no kind", None),
                    }
                }
            }
        }
    }

    fn decode<T: DeserializeOwned>(&mut self, node: &Node, within: &str) -> Option<Defined<T>> {
        match Options::of(Dialect::File).read_all(node, TOLD) {
            Ok(value) => Some(Defined { value, origin: self.origin(node.at) }),
            Err(errors) => {
                for error in errors {
                    self.decoding(&error, within);
                }
                None
            }
        }
    }

    fn decoding(&mut self, error: &DecodeError, within: &str) {
        let path = error.path();
        let path = match (within, &*path) {
            ("", path) => path.to_owned(),
            (within, "") => within.to_owned(),
            (within, path) => format!("{within}.{path}"),
        };
        let what = match (&*path, error.is_unknown_key()) {
            ("", _) => error.what().to_owned(),
            (path, true) => format!("{} of {path}", error.what()),
            (path, false) => format!("{path}: {}", error.what()),
        };
        self.error(error.place(), what, error.help().map(str::to_owned));
    }

    /// Tells keys that stand twice in a map, as JSON and YAML let them.
    fn duplicates(&mut self, node: &Node) {
        match &node.value {
            Tree::Map(entries) => {
                let mut seen = std::collections::HashMap::new();
                for (key, value) in entries {
                    if let Some(first) = seen.insert(&*key.text, key.at) {
                        let what = format!("`{}` stands here twice", key.text.escape_debug());
                        let (at, first) = (self.origin(key.at), self.origin(first));
                        self.put(Severity::Error, &at, Some(&first), what, None);
                    }
                    self.duplicates(value);
                }
            }
            Tree::List(items) => items.iter().for_each(|item| self.duplicates(item)),
            _ => {}
        }
    }

    /// Warns of services with one ID: whoever registers them keeps the last.
    fn twice(&mut self) {
        let mut seen = std::collections::HashMap::new();
        let mut both = Vec::new();
        for service in &self.read.services {
            let ServiceDefinition { id, name, .. } = &service.value;
            let id = if id.is_empty() { name } else { id };
            if let Some(first) = seen.insert(id, &service.origin) {
                let what = format!("service {id:?} is defined twice, and the last one counts");
                both.push((service.origin.clone(), first.clone(), what));
            }
        }
        for (last, first, what) in both.into_iter().take(KEPT) {
            self.put(Severity::Warning, &last, Some(&first), what, None);
        }
    }

    fn origin(&self, at: Place) -> Origin {
        Origin::at(self.sources, self.index, at.line, at.column, at.width)
    }

    fn error(&mut self, at: Place, what: impl Into<String>, help: Option<String>) {
        self.tell(Severity::Error, at, what, help);
    }

    fn tell(&mut self, how: Severity, at: Place, what: impl Into<String>, help: Option<String>) {
        let origin = self.origin(at);
        self.put(how, &origin, None, what.into(), help);
    }

    fn put(
        &mut self,
        how: Severity,
        at: &Origin,
        first: Option<&Origin>,
        what: String,
        help: Option<String>,
    ) {
        if self.told.iter().filter(|told| told.severity == how).count() >= KEPT {
            return;
        }
        let mut told = Diagnostic::at(self.sources, at, what);
        told.severity = how;
        told.help.extend(help);
        if let Some(first) = first {
            let mut first = Diagnostic::at(self.sources, first, "").places;
            first.iter_mut().for_each(|place| "first here".clone_into(&mut place.label));
            told.places.extend(first);
        }
        self.told.push(told);
    }
}

/// The items of a list, or the one thing that stands in its place.
fn items(node: &Node) -> &[Node] {
    match &node.value {
        Tree::List(items) => items,
        Tree::Null => &[],
        _ => std::slice::from_ref(node),
    }
}

/// Whether it is an object of `mesh/v1` or of Gateway API.
fn is_object(node: &Node) -> bool {
    matches!(&node.value, Tree::Map(entries) if entries.iter().any(|(key, _)| key.text == "apiVersion"))
}
