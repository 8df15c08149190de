//! Why a value cannot be decoded, and where it stands.

use std::fmt;

use serde::de::{self, Expected, Unexpected};

use super::node::Place;

/// Fields that are listed where none is near what was written.
const LISTED: usize = 12;
/// Characters of a text that a message repeats.
const SHOWN: usize = 40;

/// Why a value cannot be decoded.
///
/// Its text begins with the path of the value: `Check.Interval: …`, `Checks[2].Args[0]: …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    pub(super) what: String,
    pub(super) help: Option<String>,
    /// Innermost first, as it is found on the way out.
    pub(super) steps: Vec<Step>,
    pub(super) at: Option<Place>,
    pub(super) cause: Cause,
}

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// What the error is about, as far as reading on after it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A key that should not be there.
    Key,
    /// A value.
    Value,
    /// Something that should be there.
    Missing,
}

impl DecodeError {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), help: None, steps: Vec::new(), at: None, cause: Cause::Value }
    }

    /// What is wrong, without path and help.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    /// What may have been meant, where that is known.
    #[must_use]
    pub fn help(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// The value's path, with keys as they were written; empty for the whole.
    #[must_use]
    pub fn path(&self) -> String {
        let mut path = String::new();
        for step in self.steps.iter().rev() {
            match step {
                Step::Key(key) if path.is_empty() => path.push_str(key),
                Step::Key(key) => path.extend([".", key]),
                Step::Index(index) => path.push_str(&format!("[{index}]")),
            }
        }
        path
    }

    /// Where it stands.
    pub(crate) fn place(&self) -> Place {
        self.at.unwrap_or_default()
    }

    /// Whether it is about a key that is no field.
    pub(crate) fn is_unknown_key(&self) -> bool {
        self.cause == Cause::Key
    }

    /// Where it stands, unless that is known: the innermost place counts.
    pub(super) fn at(mut self, at: Place) -> Self {
        self.at.get_or_insert(at);
        self
    }

    pub(super) fn under_key(mut self, key: &str) -> Self {
        self.steps.push(Step::Key(short(key)));
        self
    }

    pub(super) fn under_index(mut self, index: usize) -> Self {
        self.steps.push(Step::Index(index));
        self
    }

    pub(super) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(super) fn unknown(field: &str, known: &[&str]) -> Self {
        let mut error = Self::new(format!("unknown field {:?}", short(field)));
        error.cause = Cause::Key;
        error.suggest(field, known)
    }

    fn suggest(self, given: &str, known: &[&str]) -> Self {
        match nearest(given, known) {
            Some(nearest) => self.with_help(format!("did you mean {nearest:?}?")),
            None if !known.is_empty() && known.len() <= LISTED => {
                let list: Vec<String> = known.iter().map(|name| format!("{name:?}")).collect();
                self.with_help(format!("known: {}", list.join(", ")))
            }
            None => self,
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path();
        if !path.is_empty() {
            write!(f, "{path}: ")?;
        }
        f.write_str(&self.what)?;
        match &self.help {
            Some(help) => write!(f, ", {help}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for DecodeError {}

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!("expected {}, found {}", Wanted(expected), Found(found)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::unknown(field, expected)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::new(format!("unknown value {:?}", short(variant))).suggest(variant, expected)
    }

    fn missing_field(field: &'static str) -> Self {
        Self { cause: Cause::Missing, ..Self::new(format!("{field} is missing")) }
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::new(format!("{field} is given under two of its names"))
    }
}

/// What was expected, in words for people.
struct Wanted<'a>(&'a dyn Expected);

impl fmt::Display for Wanted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0.to_string() {
            "a string" | "str" => f.write_str("a text"),
            "a boolean" => f.write_str("true or false"),
            "u8" => f.write_str("a whole number up to 255"),
            "u16" => f.write_str("a whole number up to 65535"),
            "u32" => f.write_str("a whole number up to 4294967295"),
            "u64" | "usize" | "i64" | "i32" => f.write_str("a whole number"),
            "f32" | "f64" => f.write_str("a number"),
            "a sequence" => f.write_str("a list"),
            text if text.starts_with("struct ") => f.write_str("a map"),
            text => f.write_str(text),
        }
    }
}

/// What was found, in words for people.
struct Found<'a>(Unexpected<'a>);

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Unexpected::Str(text) => write!(f, "the text {:?}", short(text)),
            Unexpected::Unsigned(number) => write!(f, "the number {number}"),
            Unexpected::Signed(number) => write!(f, "the number {number}"),
            Unexpected::Float(number) => write!(f, "the number {number}"),
            Unexpected::Bool(value) => write!(f, "{value}"),
            Unexpected::Unit | Unexpected::Option => f.write_str("nothing"),
            Unexpected::Seq => f.write_str("a list"),
            Unexpected::Map => f.write_str("a map"),
            other => other.fmt(f),
        }
    }
}

/// The beginning of what somebody wrote, fit for one line.
pub(super) fn short(text: &str) -> String {
    text.chars().take(SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The known word that `given` is most likely a slip of: at most a third of the letters changed
/// (Damerau-Levenshtein), case and underscores apart.
pub(crate) fn nearest<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    if given.len() > 80 {
        return None;
    }
    let plain = |text: &str| text.replace('_', "").to_ascii_lowercase();
    let given = plain(given);
    known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(&given, &plain(name)), *name))
        .filter(|(distance, name)| *distance * 3 <= name.len().max(given.len()))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}
