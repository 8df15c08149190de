//! JSON as a tree in which everything knows its place.
//!
//! serde_json tells no places of values. It lends out the text of a value as it stands in the
//! whole text, and where that begins is the place. Each level is read once more for this: time is
//! length times depth, and both have limits.

use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::text::{MAX_DEPTH, MAX_NODES, Places, Unreadable};
use crate::decode::{Key, Node, Tree};

/// Reads one value.
pub(super) fn read(text: &str) -> Result<Node, Unreadable> {
    let places = Places::of(text);
    if let Err(error) = serde_json::from_str::<IgnoredAny>(text) {
        let line = text.split('\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
        let begin = line.as_ptr().addr().saturating_sub(text.as_ptr().addr());
        let at = begin + error.column().saturating_sub(1);
        let what = error.to_string();
        let what = what.split(" at line ").next().unwrap_or_default();
        return Err(Unreadable {
            at: places.at(at, at + 1),
            what: format!("cannot read this as JSON: {what}"),
            help: None,
        });
    }
    let mut reader = Reader { text, places, nodes: 0 };
    let raw: &RawValue = serde_json::from_str(text).map_err(|error| reader.wrong(0, &error))?;
    reader.node(raw.get(), 0)
}

struct Reader<'a> {
    text: &'a str,
    places: Places<'a>,
    nodes: usize,
}

impl<'a> Reader<'a> {
    fn offset(&self, part: &str) -> usize {
        part.as_ptr().addr().saturating_sub(self.text.as_ptr().addr())
    }

    fn wrong(&self, at: usize, what: &dyn fmt::Display) -> Unreadable {
        Unreadable { at: self.places.at(at, at + 1), what: what.to_string(), help: None }
    }

    fn node(&mut self, part: &'a str, depth: usize) -> Result<Node, Unreadable> {
        let start = self.offset(part);
        self.nodes += 1;
        if depth > MAX_DEPTH {
            return Err(self.wrong(start, &format!("nested deeper than {MAX_DEPTH} levels")));
        }
        if self.nodes > MAX_NODES {
            return Err(self.wrong(start, &format!("more than {MAX_NODES} values in one file")));
        }
        let mut reader = serde_json::Deserializer::from_str(part);
        let (value, end) = match part.as_bytes().first() {
            Some(b'{') => {
                let entries = reader.deserialize_map(Parts).map_err(|e| self.wrong(start, &e))?;
                let mut kept = Vec::with_capacity(entries.len());
                for (key, value) in entries {
                    let at = self.offset(key);
                    let text = serde_json::from_str(key).map_err(|error| self.wrong(at, &error))?;
                    let key = Key { at: self.places.at(at, at + key.len()), text };
                    kept.push((key, self.node(value, depth + 1)?));
                }
                (Tree::Map(kept), start + 1)
            }
            Some(b'[') => {
                let items = reader.deserialize_seq(Parts).map_err(|e| self.wrong(start, &e))?;
                let items = items.into_iter().map(|(_, item)| self.node(item, depth + 1));
                (Tree::List(items.collect::<Result<_, _>>()?), start + 1)
            }
            _ => {
                let value: Value =
                    serde_json::from_str(part).map_err(|error| self.wrong(start, &error))?;
                let value = match value {
                    Value::Bool(value) => Tree::Bool(value),
                    Value::Number(number) => Tree::Number(number),
                    Value::String(text) => Tree::Text(text),
                    Value::Null | Value::Array(_) | Value::Object(_) => Tree::Null,
                };
                (value, start + part.len())
            }
        };
        Ok(Node { at: self.places.at(start, end), value })
    }
}

/// The texts of the entries of a map, or of the items of a list.
struct Parts;

impl<'de> Visitor<'de> for Parts {
    type Value = Vec<(&'de str, &'de str)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map or a list")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut parts = Vec::new();
        while let Some((key, value)) = access.next_entry::<&RawValue, &RawValue>()? {
            parts.push((key.get(), value.get()));
        }
        Ok(parts)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut parts = Vec::new();
        while let Some(item) = access.next_element::<&RawValue>()? {
            parts.push(("", item.get()));
        }
        Ok(parts)
    }
}
