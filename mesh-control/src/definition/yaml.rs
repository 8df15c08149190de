//! YAML as trees in which everything knows its place. A file may hold several documents.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use serde_saphyr::Spanned;
use serde_saphyr::options::DuplicateKeyPolicy;

use super::text::{MAX_DEPTH, MAX_FILE, MAX_NODES, Unreadable};
use crate::decode::{Key, Node, Place, Tree};

/// Reads the documents of a text.
pub(super) fn read(text: &str) -> Result<Vec<Node>, Unreadable> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_events: 4 * MAX_NODES,
            max_documents: 1_000,
            max_total_scalar_bytes: MAX_FILE,
        },
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_NODES },
        // YAML 1.2: `n`, `no` and `off` are names, not `false`.
        strict_booleans: true,
        emit_comments: false,
        with_snippet: false,
    };
    match serde_saphyr::from_multiple_with_options::<Spanned<Raw>>(text, options) {
        Ok(documents) => Ok(documents.into_iter().map(node).collect()),
        Err(error) => {
            let at = match error.location() {
                Some(at) if at.line() > 0 => place(at),
                // Some limits carry no place.
                _ => Place { line: 1, column: 1, width: 1 },
            };
            let told = error.render();
            let first = told.lines().next().unwrap_or_default().trim_start_matches("error: ");
            let what = format!("cannot read this as YAML: {first}");
            Err(Unreadable { at, what, help: None })
        }
    }
}

fn place(at: serde_saphyr::Location) -> Place {
    let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    Place {
        line: narrow(at.line()),
        column: narrow(at.column()),
        width: narrow(at.span().len()).max(1),
    }
}

fn node(read: Spanned<Raw>) -> Node {
    let at = place(read.defined);
    // A block reaches to its end: only its beginning can be pointed at.
    let begin = Place { width: 1, ..at };
    match read.value {
        Raw::Scalar(value) => Node { at, value },
        Raw::List(items) => {
            Node { at: begin, value: Tree::List(items.into_iter().map(node).collect()) }
        }
        Raw::Map(entries) => {
            let entries = entries
                .into_iter()
                .map(|(key, value)| (Key { at: place(key.defined), text: key.value }, node(value)));
            Node { at: begin, value: Tree::Map(entries.collect()) }
        }
    }
}

/// A value as the parser gives it.
enum Raw {
    Scalar(Tree),
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
        Ok(Raw::Scalar(Tree::Null))
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Tree::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Scalar(Tree::Bool(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Scalar(Tree::Number(value.into())))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Scalar(Tree::Number(value.into())))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Raw, E> {
        let value = u64::try_from(value).map_err(|_| E::custom("this number is too large"))?;
        self.visit_u64(value)
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Raw, E> {
        let value = i64::try_from(value).map_err(|_| E::custom("this number is too large"))?;
        self.visit_i64(value)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Raw, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("this is no number"))?;
        Ok(Raw::Scalar(Tree::Number(number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Scalar(Tree::Text(value.to_owned())))
    }

    fn visit_string<E>(self, value: String) -> Result<Raw, E> {
        Ok(Raw::Scalar(Tree::Text(value)))
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
