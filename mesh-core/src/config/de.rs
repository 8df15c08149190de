//! From a [`Node`] to a typed value, with errors that know their place.
//!
//! After an unknown key or a wrong scalar, the value is read again without it, so that one reading
//! tells all of them.

use super::diagnostic::{Cause, Problem};
use super::source::Location;
use super::tree::{Key, Node, Value};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _, Expected,
    IntoDeserializer, MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor,
};
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

/// Keys that Gateway API, Envoy or this project's own plans know, and that are refused until
/// something acts on them.
const NOT_YET: &[&str] = &[
    "externalAuth",
    "hedge",
    "localityLbConfig",
    "localityLbPolicy",
    "mirror",
    "sessionPersistence",
    "slowStart",
    "subset",
    "subsets",
    "useDefaultGateways",
];

/// Problems told of one object; a file with more is better read from the top again.
const TOLD: usize = 20;

/// Reads a value. `None` if something was told to `problems`.
pub(crate) fn read<T: DeserializeOwned>(node: &Node, problems: &mut Vec<Problem>) -> Option<T> {
    let mut problem = match T::deserialize(De { node }) {
        Ok(value) => return Some(value),
        Err(problem) => problem.at(node.at),
    };
    let mut rest = node.clone();
    for _ in 0..TOLD {
        let removed = problem.at.is_some_and(|at| match problem.cause {
            Cause::Key => remove_key(&mut rest, at),
            Cause::Value => remove_scalar(&mut rest, at),
            Cause::Missing => false,
        });
        problems.push(problem);
        if !removed {
            break;
        }
        problem = match T::deserialize(De { node: &rest }) {
            // What is missing now may be what was taken out.
            Ok(_) | Err(Problem { cause: Cause::Missing, .. }) => break,
            Err(problem) => problem.at(node.at),
        };
    }
    None
}

fn remove_key(node: &mut Node, at: Location) -> bool {
    match &mut node.value {
        Value::Map(entries) => {
            let before = entries.len();
            entries.retain(|(key, _)| key.at != at);
            entries.len() < before || entries.iter_mut().any(|(_, value)| remove_key(value, at))
        }
        Value::List(items) => items.iter_mut().any(|item| remove_key(item, at)),
        _ => false,
    }
}

fn remove_scalar(node: &mut Node, at: Location) -> bool {
    let is_it =
        |node: &Node| node.at == at && !matches!(node.value, Value::Map(_) | Value::List(_));
    match &mut node.value {
        Value::Map(entries) => {
            let before = entries.len();
            entries.retain(|(_, value)| !is_it(value));
            entries.len() < before || entries.iter_mut().any(|(_, value)| remove_scalar(value, at))
        }
        Value::List(items) => {
            let before = items.len();
            items.retain(|item| !is_it(item));
            items.len() < before || items.iter_mut().any(|item| remove_scalar(item, at))
        }
        _ => false,
    }
}

impl de::Error for Problem {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::error(message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let wanted = wanted(expected);
        let problem = Self::error(format!("expected {wanted}, found {}", Found(found)));
        let number = matches!(
            found,
            Unexpected::Unsigned(_)
                | Unexpected::Signed(_)
                | Unexpected::Float(_)
                | Unexpected::Bool(_)
        );
        if number && wanted == "a text" {
            return problem
                .help("put it in quotes; times and sizes have a unit, as in `5s` and `64KiB`");
        }
        problem
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::error(format!("expected {}, found {}", wanted(expected), Found(found)))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let shown = field.escape_debug();
        if NOT_YET.contains(&field) {
            return Self::not_supported(&format!("`{shown}`")).about(Cause::Key);
        }
        Self::error(format!("unknown key `{shown}`"))
            .about(Cause::Key)
            .suggest(field, expected.iter().copied())
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::error(format!("unknown value `{}`", variant.escape_debug()))
            .suggest(variant, expected.iter().copied())
    }

    fn missing_field(field: &'static str) -> Self {
        Self::error(format!("`{field}` is missing")).about(Cause::Missing)
    }
}

/// What was expected, in the words of YAML.
fn wanted(expected: &dyn Expected) -> String {
    match &*expected.to_string() {
        "a string" | "str" | "path string" => "a text".to_owned(),
        "a boolean" => "`true` or `false`".to_owned(),
        "u8" => "a whole number up to 255".to_owned(),
        "u16" => "a whole number up to 65535".to_owned(),
        "u32" => "a whole number up to 4294967295".to_owned(),
        "u64" | "usize" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a sequence" => "a list".to_owned(),
        text if text.starts_with("struct ") => "a map".to_owned(),
        text => text.to_owned(),
    }
}

/// What was found, in the words of YAML.
struct Found<'a>(Unexpected<'a>);

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Unexpected::Str(text) => {
                let short: String = text.chars().take(40).collect();
                write!(f, "the text {short:?}")
            }
            Unexpected::Unsigned(number) => write!(f, "the number {number}"),
            Unexpected::Signed(number) => write!(f, "the number {number}"),
            Unexpected::Float(number) => write!(f, "the number {number}"),
            Unexpected::Bool(value) => write!(f, "`{value}`"),
            Unexpected::Unit | Unexpected::Option => f.write_str("nothing"),
            Unexpected::Seq => f.write_str("a list"),
            Unexpected::Map => f.write_str("a map"),
            other => other.fmt(f),
        }
    }
}

#[derive(Clone, Copy)]
struct De<'a> {
    node: &'a Node,
}

impl De<'_> {
    fn wrong(&self, expected: &dyn Expected) -> Problem {
        let found = match &self.node.value {
            Value::Null => Unexpected::Unit,
            Value::Bool(value) => Unexpected::Bool(*value),
            Value::Unsigned(value) => Unexpected::Unsigned(*value),
            Value::Signed(value) => Unexpected::Signed(*value),
            Value::Float(value) => Unexpected::Float(*value),
            Value::Text(text) => Unexpected::Str(text),
            Value::List(_) => Unexpected::Seq,
            Value::Map(_) => Unexpected::Map,
        };
        Problem::invalid_type(found, expected).at(self.node.at)
    }
}

/// The name under which [`Located`] asks for the place of a value.
const LOCATED: &str = "$mesh::Located";

impl<'de> Deserializer<'de> for De<'de> {
    type Error = Problem;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        let read = match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Unsigned(value) => visitor.visit_u64(*value),
            Value::Signed(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::List(items) => visitor.visit_seq(List { items: items.iter() }),
            Value::Map(entries) => visitor.visit_map(Map { entries: entries.iter(), value: None }),
        };
        read.map_err(|problem| problem.at(self.node.at))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.node.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Problem> {
        if name == LOCATED {
            visitor.visit_seq(Place { node: self.node, step: 0 })
        } else {
            visitor.visit_newtype_struct(self)
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        let read = match &self.node.value {
            Value::Text(text) => {
                visitor.visit_enum(IntoDeserializer::<Problem>::into_deserializer(&**text))
            }
            Value::Map(entries) if entries.len() == 1 => {
                visitor.visit_enum(Variant { key: &entries[0].0, node: &entries[0].1 })
            }
            _ => Err(self.wrong(&"one of the known words")),
        };
        read.map_err(|problem| problem.at(self.node.at))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map identifier ignored_any
    }

    /// Never from a list: its values would be taken in the order of the fields.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        match self.node.value {
            Value::List(_) => Err(self.wrong(&visitor)),
            _ => self.deserialize_any(visitor),
        }
    }
}

struct List<'a> {
    items: std::slice::Iter<'a, Node>,
}

impl<'de> SeqAccess<'de> for List<'de> {
    type Error = Problem;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Problem> {
        let Some(node) = self.items.next() else { return Ok(None) };
        seed.deserialize(De { node }).map(Some).map_err(|problem| problem.at(node.at))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Map<'a> {
    entries: std::slice::Iter<'a, (Key, Node)>,
    value: Option<&'a Node>,
}

impl<'de> MapAccess<'de> for Map<'de> {
    type Error = Problem;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Problem> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        self.value = Some(value);
        let text: StrDeserializer<'_, Problem> = (&*key.text).into_deserializer();
        seed.deserialize(text).map(Some).map_err(|problem| problem.at(key.at))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Problem> {
        let Some(node) = self.value.take() else {
            return Err(Problem::custom("a value was asked for before its key"));
        };
        seed.deserialize(De { node }).map_err(|problem| problem.at(node.at))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.entries.len())
    }
}

/// An enum value with content: `{ variant: content }`.
struct Variant<'a> {
    key: &'a Key,
    node: &'a Node,
}

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = Problem;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Problem> {
        let text: StrDeserializer<'_, Problem> = (&*self.key.text).into_deserializer();
        match seed.deserialize(text) {
            Ok(variant) => Ok((variant, self)),
            Err(problem) => Err(problem.at(self.key.at)),
        }
    }
}

impl<'de> VariantAccess<'de> for Variant<'de> {
    type Error = Problem;

    fn unit_variant(self) -> Result<(), Problem> {
        serde::Deserialize::deserialize(De { node: self.node })
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Problem> {
        seed.deserialize(De { node: self.node })
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Problem> {
        De { node: self.node }.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        De { node: self.node }.deserialize_any(visitor)
    }
}

/// A value that remembers its place. Read from anything but a [`Node`] it has none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Located<T> {
    pub(crate) value: T,
    pub(crate) at: Location,
}

impl<T: PartialEq> PartialEq for Located<T> {
    /// Two values are equal wherever they stand.
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T> std::ops::Deref for Located<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Serialize> Serialize for Located<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

impl<T: JsonSchema> JsonSchema for Located<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Located<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(LOCATED, LocatedVisitor(PhantomData))
    }
}

struct LocatedVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for LocatedVisitor<T> {
    type Value = Located<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Located<T>, D::Error> {
        T::deserialize(inner).map(|value| Located { value, at: Location::default() })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Located<T>, A::Error> {
        let mut number = || -> Result<u32, A::Error> {
            access.next_element()?.ok_or_else(|| A::Error::custom("a place has four numbers"))
        };
        let at =
            Location { source: number()?, line: number()?, column: number()?, width: number()? };
        let value = access.next_element()?.ok_or_else(|| A::Error::custom("no value"))?;
        Ok(Located { value, at })
    }
}

/// The four numbers of a place, then the value.
struct Place<'a> {
    node: &'a Node,
    step: usize,
}

impl<'de> SeqAccess<'de> for Place<'de> {
    type Error = Problem;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Problem> {
        let at = self.node.at;
        let numbers = [at.source, at.line, at.column, at.width];
        let step = self.step;
        self.step += 1;
        match numbers.get(step) {
            Some(number) => seed.deserialize((*number).into_deserializer()).map(Some),
            None if step == numbers.len() => seed.deserialize(De { node: self.node }).map(Some),
            None => Ok(None),
        }
    }
}
