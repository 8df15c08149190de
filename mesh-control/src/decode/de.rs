//! From a [`Node`] to a typed value.

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, VariantAccess, Visitor,
};

use super::node::{Key, Node, Tree};
use super::{DecodeError, Dialect, Options};
use crate::types::GoDuration;

#[derive(Clone, Copy)]
pub(super) struct De<'a> {
    pub(super) node: &'a Node,
    pub(super) options: Options,
}

impl<'a> De<'a> {
    fn of(self, node: &'a Node) -> Self {
        Self { node, ..self }
    }

    fn wrong(self, expected: &dyn Expected) -> DecodeError {
        let found = match &self.node.value {
            Tree::Null => Unexpected::Unit,
            Tree::Bool(value) => Unexpected::Bool(*value),
            Tree::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => Unexpected::Unsigned(number),
                (None, Some(number)) => Unexpected::Signed(number),
                (None, None) => Unexpected::Float(number.as_f64().unwrap_or_default()),
            },
            Tree::Text(text) => Unexpected::Str(text),
            Tree::List(_) => Unexpected::Seq,
            Tree::Map(_) => Unexpected::Map,
        };
        DecodeError::invalid_type(found, expected).at(self.node.at)
    }

    /// The one map that stands where a map is wanted: itself, or in a list of one in a file.
    fn map(self, expected: &dyn Expected) -> Result<&'a [(Key, Node)], DecodeError> {
        match &self.node.value {
            Tree::Map(entries) => Ok(entries),
            Tree::Null => Ok(&[]),
            Tree::List(items) if self.options.dialect == Dialect::File => match &**items {
                [Node { value: Tree::Map(entries), .. }] => Ok(entries),
                _ => Err(self.wrong(expected)),
            },
            _ => Err(self.wrong(expected)),
        }
    }

    fn whole<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let dialect = self.options.dialect;
        let read = match &self.node.value {
            Tree::Null => visitor.visit_u64(0),
            Tree::Number(number) if number.is_f64() && dialect != Dialect::Body => {
                match whole(number.as_f64().unwrap_or(f64::NAN)) {
                    Some(number) => visitor.visit_i64(number),
                    None => return Err(self.wrong(&visitor)),
                }
            }
            Tree::Text(text) if dialect == Dialect::Entry => match text.parse::<i64>() {
                Ok(number) => visitor.visit_i64(number),
                Err(_) => return Err(self.wrong(&visitor)),
            },
            _ => return self.deserialize_any(visitor),
        };
        read.map_err(|error: DecodeError| error.at(self.node.at))
    }

    fn float<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.node.value {
            Tree::Null => visitor.visit_f64(0.0),
            Tree::Text(text) if self.options.dialect == Dialect::Entry => {
                match text.parse::<f64>() {
                    Ok(number) if number.is_finite() => visitor.visit_f64(number),
                    _ => Err(self.wrong(&visitor)),
                }
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn text<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let weak = self.options.dialect == Dialect::Entry;
        let read = match &self.node.value {
            Tree::Null => visitor.visit_borrowed_str(""),
            Tree::Number(number) if weak => visitor.visit_string(number.to_string()),
            // As mapstructure writes it.
            Tree::Bool(value) if weak => visitor.visit_str(if *value { "1" } else { "0" }),
            _ => return self.deserialize_any(visitor),
        };
        read.map_err(|error: DecodeError| error.at(self.node.at))
    }
}

/// The same number without a fraction.
fn whole(number: f64) -> Option<i64> {
    // Up to here every whole number is exact.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() != 0.0 || number.abs() > EXACT {
        return None;
    }
    format!("{number:.0}").parse().ok()
}

macro_rules! as_one {
    ($with:ident: $($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            self.$with(visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for De<'de> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let read = match &self.node.value {
            Tree::Null => visitor.visit_unit(),
            Tree::Bool(value) => visitor.visit_bool(*value),
            Tree::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => visitor.visit_u64(number),
                (None, Some(number)) => visitor.visit_i64(number),
                (None, None) => visitor.visit_f64(number.as_f64().unwrap_or_default()),
            },
            Tree::Text(text) => visitor.visit_borrowed_str(text),
            Tree::List(items) => {
                visitor.visit_seq(List { de: self, items: items.iter(), index: 0 })
            }
            Tree::Map(entries) => {
                visitor.visit_map(Entries { de: self, entries: entries.iter(), current: None })
            }
        };
        read.map_err(|error| error.at(self.node.at))
    }

    as_one!(whole: deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64);
    as_one!(whole: deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64);
    as_one!(float: deserialize_f32 deserialize_f64);
    as_one!(text: deserialize_str deserialize_string);

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let weak = self.options.dialect == Dialect::Entry;
        match &self.node.value {
            Tree::Null => visitor.visit_bool(false),
            Tree::Number(number) if weak => visitor.visit_bool(number.as_f64() != Some(0.0)),
            // The words of Go's ParseBool, and mapstructure's empty text.
            Tree::Text(text) if weak => match &**text {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => visitor.visit_bool(true),
                "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => visitor.visit_bool(false),
                _ => Err(self.wrong(&visitor)),
            },
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.node.value {
            Tree::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        if let (GoDuration::NAME, Dialect::File, Tree::Number(number)) =
            (name, self.options.dialect, &self.node.value)
        {
            return Err(DecodeError::new(format!("the duration {number} has no unit"))
                .with_help(format!("as in \"{number}s\""))
                .at(self.node.at));
        }
        visitor.visit_newtype_struct(self).map_err(|error| error.at(self.node.at))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let items = match &self.node.value {
            Tree::List(items) => &**items,
            Tree::Null => &[],
            Tree::Map(_) if self.options.dialect == Dialect::File => {
                std::slice::from_ref(self.node)
            }
            _ => return Err(self.wrong(&visitor)),
        };
        visitor.visit_seq(List { de: self, items: items.iter(), index: 0 })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let entries = self.map(&visitor)?;
        visitor.visit_map(Entries { de: self, entries: entries.iter(), current: None })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let entries = self.map(&visitor)?;
        let mut given: Vec<(&'static str, &Key, &Node)> = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let nothing = value.value == Tree::Null;
            let Some(field) = field(&key.text, fields) else {
                let file = self.options.dialect == Dialect::File;
                if self.options.ignore_unknown || (nothing && !file) {
                    continue;
                }
                return Err(DecodeError::unknown(&key.text, fields).at(key.at));
            };
            if nothing {
                continue;
            }
            match given.iter_mut().find(|(known, ..)| *known == field) {
                Some(known) => *known = (field, key, value),
                None => given.push((field, key, value)),
            }
        }
        visitor
            .visit_map(Fields { de: self, given: given.into_iter(), current: None })
            .map_err(|error| error.at(self.node.at))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let read = match &self.node.value {
            Tree::Text(text) => {
                visitor.visit_enum(IntoDeserializer::<DecodeError>::into_deserializer(&**text))
            }
            Tree::Null => {
                visitor.visit_enum(IntoDeserializer::<DecodeError>::into_deserializer(""))
            }
            Tree::Map(entries) => match &**entries {
                [(key, node)] => visitor.visit_enum(Variant { de: self.of(node), key }),
                _ => Err(self.wrong(&"one of the known words")),
            },
            _ => Err(self.wrong(&"one of the known words")),
        };
        read.map_err(|error| error.at(self.node.at))
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

/// The field that a key stands for: the one of that very name, or else of the same letters.
fn field(key: &str, fields: &'static [&'static str]) -> Option<&'static str> {
    let same = |field: &&&'static str| same_letters(field, key);
    fields.iter().find(|field| **field == key).or_else(|| fields.iter().find(same)).copied()
}

/// Whether two keys are one, case and underscores apart.
pub(crate) fn same_letters(one: &str, other: &str) -> bool {
    let letters = |byte: &u8| *byte != b'_';
    let one = one.bytes().filter(letters).map(|byte| byte.to_ascii_lowercase());
    one.eq(other.bytes().filter(letters).map(|byte| byte.to_ascii_lowercase()))
}

struct List<'a> {
    de: De<'a>,
    items: std::slice::Iter<'a, Node>,
    index: usize,
}

impl<'de> SeqAccess<'de> for List<'de> {
    type Error = DecodeError;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, DecodeError> {
        let Some(node) = self.items.next() else { return Ok(None) };
        let index = self.index;
        self.index += 1;
        seed.deserialize(self.de.of(node))
            .map(Some)
            .map_err(|error| error.at(node.at).under_index(index))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

/// A free-form map: keys as they are.
struct Entries<'a> {
    de: De<'a>,
    entries: std::slice::Iter<'a, (Key, Node)>,
    current: Option<(&'a Key, &'a Node)>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = DecodeError;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, DecodeError> {
        let Some((key, node)) = self.entries.next() else { return Ok(None) };
        self.current = Some((key, node));
        let text: StrDeserializer<'_, DecodeError> = (&*key.text).into_deserializer();
        seed.deserialize(text).map(Some).map_err(|error| error.at(key.at))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<S::Value, DecodeError> {
        value(self.de, self.current.take(), seed)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.entries.len())
    }
}

/// The fields of a struct, under the names that the struct has for them.
struct Fields<'a> {
    de: De<'a>,
    given: std::vec::IntoIter<(&'static str, &'a Key, &'a Node)>,
    current: Option<(&'a Key, &'a Node)>,
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = DecodeError;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, DecodeError> {
        let Some((field, key, node)) = self.given.next() else { return Ok(None) };
        self.current = Some((key, node));
        let text: StrDeserializer<'_, DecodeError> = field.into_deserializer();
        seed.deserialize(text).map(Some).map_err(|error| error.at(key.at))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<S::Value, DecodeError> {
        value(self.de, self.current.take(), seed)
    }
}

fn value<'de, S: DeserializeSeed<'de>>(
    de: De<'de>,
    current: Option<(&'de Key, &'de Node)>,
    seed: S,
) -> Result<S::Value, DecodeError> {
    let Some((key, node)) = current else {
        return Err(DecodeError::new("a value was asked for before its key"));
    };
    seed.deserialize(de.of(node)).map_err(|error| error.at(node.at).under_key(&key.text))
}

/// An enum value with content: `{ variant: content }`.
struct Variant<'a> {
    de: De<'a>,
    key: &'a Key,
}

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = DecodeError;
    type Variant = De<'de>;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, De<'de>), DecodeError> {
        let text: StrDeserializer<'_, DecodeError> = (&*self.key.text).into_deserializer();
        seed.deserialize(text).map(|variant| (variant, self.de)).map_err(|e| e.at(self.key.at))
    }
}

impl<'de> VariantAccess<'de> for De<'de> {
    type Error = DecodeError;

    fn unit_variant(self) -> Result<(), DecodeError> {
        serde::Deserialize::deserialize(self)
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<S::Value, DecodeError> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.deserialize_struct("", fields, visitor)
    }
}
