//! What a text must be: anything, one text, or covered by an expression.
//!
//! Values are bytes. An expression sees them as UTF-8, and where they are not, as one character per
//! byte (ISO 8859-1, RFC 9110 §5.5). So no odd byte takes a request out of a condition that it meets
//! without: rules that single out what must not pass hold.

use regex::{Regex, RegexBuilder};
use std::fmt;

/// Largest compiled form of one expression, in bytes. A bigger one is refused when it is loaded.
const PATTERN_SIZE: usize = 1 << 20;

/// A regular expression that must cover the whole text.
#[derive(Clone)]
pub struct Pattern {
    text: Box<str>,
    regex: Regex,
}

impl Pattern {
    /// Compiles an expression.
    ///
    /// # Errors
    /// When it is no regular expression, uses what has no linear-time form (look-around, back
    /// references), or grows past 1 MiB compiled.
    pub fn new(text: &str) -> Result<Self, regex::Error> {
        let compile = |text: &str| RegexBuilder::new(text).size_limit(PATTERN_SIZE).build();
        // By itself first: wrapping must neither repair `a)(b` nor show in the message.
        compile(text)?;
        Ok(Self { text: text.into(), regex: compile(&format!("^(?:{text})$"))? })
    }

    /// Whether the whole of `text` matches.
    #[must_use]
    pub fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// Whether the whole of a value matches, see the [module docs](self).
    pub(super) fn is_match_value(&self, value: &[u8]) -> bool {
        match std::str::from_utf8(value) {
            Ok(text) => self.is_match(text),
            Err(_) => self.is_match(&value.iter().copied().map(char::from).collect::<String>()),
        }
    }

    /// The expression as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.text)
    }
}

/// What a text must be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ValueMatch {
    /// Anything, as long as it is there.
    Any,
    /// This text, letter by letter.
    Exact(Box<str>),
    /// Wholly covered by an expression.
    RegularExpression(Pattern),
}

impl ValueMatch {
    pub(super) fn is_match(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(expected) => **expected == *text,
            Self::RegularExpression(pattern) => pattern.is_match(text),
        }
    }

    pub(super) fn is_match_value(&self, value: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(expected) => expected.as_bytes() == value,
            Self::RegularExpression(pattern) => pattern.is_match_value(value),
        }
    }

    /// Whether all that `other` takes is taken by this. May say `false` wrongly, never `true`.
    pub(super) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (Self::RegularExpression(pattern), Self::Exact(text)) => pattern.is_match(text),
            _ => self == other,
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Any => 0,
            Self::Exact(text) => text.len(),
            Self::RegularExpression(pattern) => pattern.as_str().len(),
        }
    }
}

impl fmt::Display for ValueMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("is there"),
            Self::Exact(text) => write!(f, "= {}", text.escape_debug()),
            Self::RegularExpression(pattern) => write!(f, "~ {}", pattern.as_str()),
        }
    }
}
