//! A tree of what was written: entries in their order, each with its place.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};

use super::DecodeError;

/// Most levels of nesting.
pub(crate) const MAX_DEPTH: usize = 64;

/// A place in a file: line and column from 1, in characters; all zero for what is in no file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) width: u32,
}

/// A value with its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) at: Place,
    pub(crate) value: Tree,
}

/// A key with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) at: Place,
    pub(crate) text: String,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Tree {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

impl From<Tree> for Node {
    fn from(value: Tree) -> Self {
        Self { at: Place::default(), value }
    }
}

impl Node {
    /// Reads JSON. Keys that stand twice are both kept.
    pub(crate) fn from_json(body: &[u8], max_bytes: usize) -> Result<Self, DecodeError> {
        if body.len() > max_bytes {
            return Err(DecodeError::new(format!(
                "the body has {} bytes, more than {max_bytes}",
                body.len()
            )));
        }
        if body.iter().all(u8::is_ascii_whitespace) {
            // What Go says, which people look for.
            return Err(DecodeError::new("EOF: the body is empty"));
        }
        let mut reader = serde_json::Deserializer::from_slice(body);
        Build { depth: 0 }
            .deserialize(&mut reader)
            .and_then(|node| reader.end().map(|()| node))
            .map_err(|error| DecodeError::new(error.to_string()))
    }

    /// Takes over a value.
    pub(crate) fn from_value(value: &Value) -> Result<Self, DecodeError> {
        Build { depth: 0 }.deserialize(value).map_err(|error| DecodeError::new(error.to_string()))
    }
}

impl Node {
    /// Takes out the entry whose key stands here.
    pub(super) fn remove_key(&mut self, at: Place) -> bool {
        match &mut self.value {
            Tree::Map(entries) => {
                let before = entries.len();
                entries.retain(|(key, _)| key.at != at);
                entries.len() < before || entries.iter_mut().any(|(_, value)| value.remove_key(at))
            }
            Tree::List(items) => items.iter_mut().any(|item| item.remove_key(at)),
            _ => false,
        }
    }

    /// Takes out the value that stands here.
    pub(super) fn remove_value(&mut self, at: Place) -> bool {
        match &mut self.value {
            Tree::Map(entries) => {
                let before = entries.len();
                entries.retain(|(_, value)| value.at != at);
                entries.len() < before
                    || entries.iter_mut().any(|(_, value)| value.remove_value(at))
            }
            Tree::List(items) => {
                let before = items.len();
                items.retain(|item| item.at != at);
                items.len() < before || items.iter_mut().any(|item| item.remove_value(at))
            }
            _ => false,
        }
    }
}

/// Builds a node at a depth.
struct Build {
    depth: usize,
}

impl Build {
    fn deeper<E: serde::de::Error>(&self) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            return Err(E::custom(format!("nested deeper than {MAX_DEPTH} levels")));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Build {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self).map(Node::from)
    }
}

impl<'de> Visitor<'de> for Build {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Tree, E> {
        Number::from_f64(value)
            .map(Tree::Number)
            .ok_or_else(|| E::custom("a number that is none, or infinite"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Tree, E> {
        Ok(Tree::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Tree, E> {
        Ok(Tree::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(self.deeper()?)? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some(text) = access.next_key()? {
            let value = access.next_value_seed(self.deeper()?)?;
            entries.push((Key { at: Place::default(), text }, value));
        }
        Ok(Tree::Map(entries))
    }
}
