//! YAML as a tree in which everything knows its place.
//!
//! All kinds are read through this tree, for three reasons: an error can point at the very key or
//! value, whoever finds it; several wrong things can be told at once; and two trees can be merged
//! with every value keeping its origin.
//!
//! Limits (a stranger may have written the file): 4 MiB of text per set of files, 32 levels of
//! nesting, 200,000 nodes per file with aliases expanded, 10,000 documents. Beyond them a file is
//! refused without being built.

use super::diagnostic::Problem;
use super::source::{Location, Source};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use serde_saphyr::options::DuplicateKeyPolicy;
use std::collections::HashMap;
use std::fmt;

/// Most bytes that all sources of a configuration may have together; [`parse`](super::parse())
/// refuses more. 4 MiB.
pub const MAX_BYTES: usize = 4 << 20;
const MAX_DEPTH: usize = 32;
const MAX_NODES: usize = 200_000;
const MAX_DOCUMENTS: usize = 10_000;

/// A value with its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) at: Location,
    pub(crate) value: Value,
}

/// A key with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) at: Location,
    pub(crate) text: String,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

impl Node {
    /// A value that stands in no file. One that cannot be serialized is null.
    pub(crate) fn written_nowhere<T: serde::Serialize>(value: &T) -> Self {
        fn convert(value: serde_json::Value) -> Node {
            use serde_json::Value as Json;
            let value = match value {
                Json::Null => Value::Null,
                Json::Bool(value) => Value::Bool(value),
                Json::Number(number) => match (number.as_u64(), number.as_i64()) {
                    (Some(number), _) => Value::Unsigned(number),
                    (None, Some(number)) => Value::Signed(number),
                    (None, None) => Value::Float(number.as_f64().unwrap_or_default()),
                },
                Json::String(text) => Value::Text(text),
                Json::Array(items) => Value::List(items.into_iter().map(convert).collect()),
                Json::Object(entries) => Value::Map(
                    entries
                        .into_iter()
                        .map(|(text, value)| (Key { at: Location::NOWHERE, text }, convert(value)))
                        .collect(),
                ),
            };
            Node { at: Location::NOWHERE, value }
        }
        convert(serde_json::to_value(value).unwrap_or_default())
    }

    /// The entry of a map.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => {
                entries.iter().find(|(known, _)| known.text == key).map(|(_, value)| value)
            }
            _ => None,
        }
    }

    /// The entry of a map by its key, or that of a list by its index.
    pub(crate) fn step(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::List(items) => items.get(key.parse::<usize>().ok()?),
            _ => self.get(key),
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// "a map", for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Unsigned(_) | Value::Signed(_) | Value::Float(_) => "a number",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }
}

/// Reads the documents of one source. Documents that are empty are left out.
///
/// # Errors
/// When it is not YAML or exceeds a limit: one problem. Duplicate keys are all told.
pub(crate) fn read(index: u32, source: &Source, problems: &mut Vec<Problem>) -> Vec<Node> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_events: 4 * MAX_NODES,
            max_documents: MAX_DOCUMENTS,
            max_total_scalar_bytes: MAX_BYTES,
        },
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_NODES },
        // YAML 1.2: `n`, `no` and `off` are names, not `false`.
        strict_booleans: true,
        emit_comments: false,
        with_snippet: false,
    };
    let documents: Vec<Spanned<Raw>> =
        match serde_saphyr::from_multiple_with_options(source.text(), options) {
            Ok(documents) => documents,
            Err(error) => {
                problems.push(unreadable(index, source, &error));
                return Vec::new();
            }
        };
    documents
        .into_iter()
        .map(|document| place(index, document, problems))
        .filter(|node| node.value != Value::Null)
        .collect()
}

fn unreadable(index: u32, source: &Source, error: &serde_saphyr::Error) -> Problem {
    let at = match error.location() {
        Some(at) if at.line() > 0 => location(index, at),
        // Some limits carry no place: the end of the file is where they were noticed at the latest.
        _ => Location { source: index, line: 1, column: 1, width: 1 },
    };
    let text = error.render();
    let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
    let problem = Problem::error(format!("cannot read this as YAML: {first}")).at(at);
    let tabs = source.line(at.line);
    if tabs[..tabs.len() - tabs.trim_start().len()].contains('\t') {
        return problem.help("YAML is indented with spaces, this line starts with a tab");
    }
    problem
}

fn location(source: u32, at: serde_saphyr::Location) -> Location {
    let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    Location {
        source,
        line: narrow(at.line()),
        column: narrow(at.column()),
        width: narrow(at.span().len()).max(1),
    }
}

/// Gives every node its source, and tells duplicate keys.
fn place(source: u32, node: Spanned<Raw>, problems: &mut Vec<Problem>) -> Node {
    let at = location(source, node.defined);
    let value = match node.value {
        Raw::Scalar(value) => value,
        Raw::List(items) => {
            Value::List(items.into_iter().map(|item| place(source, item, problems)).collect())
        }
        Raw::Map(entries) => {
            let mut seen: HashMap<String, Location> = HashMap::with_capacity(entries.len());
            let mut kept = Vec::with_capacity(entries.len());
            for (key, value) in entries {
                let at = location(source, key.defined);
                if let Some(first) = seen.get(&key.value) {
                    problems.push(
                        Problem::error(format!("`{}` stands here twice", key.value.escape_debug()))
                            .at(at)
                            .other(*first, "first here"),
                    );
                    continue;
                }
                seen.insert(key.value.clone(), at);
                kept.push((Key { at, text: key.value }, place(source, value, problems)));
            }
            Value::Map(kept)
        }
    };
    // A block collection reaches to its end: only its first line can be pointed at.
    let at = match value {
        Value::List(_) | Value::Map(_) => Location { width: 1, ..at },
        _ => at,
    };
    Node { at, value }
}

/// A node as the parser gives it.
enum Raw {
    Scalar(Value),
    List(Vec<Spanned<Self>>),
    Map(Vec<(Spanned<String>, Spanned<Self>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Bool(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Unsigned(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Scalar(u64::try_from(value).map_or(Value::Signed(value), Value::Unsigned)))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Raw, E> {
        u64::try_from(value)
            .map(|value| Raw::Scalar(Value::Unsigned(value)))
            .map_err(|_| E::custom("this number is too large"))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Raw, E> {
        i64::try_from(value)
            .map(|value| Raw::Scalar(Value::Signed(value)))
            .map_err(|_| E::custom("this number is too large"))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Float(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Text(value.to_owned())))
    }

    fn visit_string<E>(self, value: String) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Text(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}
