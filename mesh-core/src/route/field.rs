//! What a header, a query parameter or a cookie must be.
//!
//! Of a header that comes several times each value counts, and all of them joined by commas (RFC 9110
//! §5.3); of a query parameter or cookie that comes several times the first counts, the former
//! percent-decoded, the latter read as in `cookie.rs`. So no second value takes a request out of a condition that it meets without.

use super::value::ValueMatch;
use crate::cookie;
use http::{HeaderMap, HeaderName, HeaderValue};

/// What a header must be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeaderMatch {
    /// Its name.
    pub name: HeaderName,
    /// Its value: one of several, or all joined by `,`.
    pub value: ValueMatch,
    /// Whether the value must be another: of several, none may be this one. A request without the
    /// header does not meet that, unless the value is [`ValueMatch::Any`]: then the header must not
    /// be there (Envoy `invert_match`).
    pub invert: bool,
}

impl HeaderMatch {
    /// A header that must have a value.
    #[must_use]
    pub const fn new(name: HeaderName, value: ValueMatch) -> Self {
        Self { name, value, invert: false }
    }

    /// The same, with another value than this.
    #[must_use]
    pub const fn inverted(mut self) -> Self {
        self.invert = true;
        self
    }

    pub(super) fn is_match(&self, headers: &HeaderMap) -> bool {
        if !self.invert {
            return self.has_value(headers);
        }
        (self.value == ValueMatch::Any || headers.contains_key(&self.name))
            && !self.has_value(headers)
    }

    /// Whether all that meets `other` meets this. May say `false` wrongly, never `true`.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let value = match (self.invert, other.invert) {
            (false, false) => self.value.covers(&other.value),
            // Another value than one is a value; no header is none.
            (false, true) => self.value == ValueMatch::Any && other.value != ValueMatch::Any,
            (true, _) => self == other,
        };
        self.name == other.name && value
    }

    fn has_value(&self, headers: &HeaderMap) -> bool {
        let values = headers.get_all(&self.name);
        let mut count = 0;
        for value in &values {
            count += 1;
            if self.value.is_match_value(value.as_bytes()) {
                return true;
            }
        }
        if count < 2 {
            return false;
        }
        let all: Vec<&[u8]> = values.iter().map(HeaderValue::as_bytes).collect();
        self.value.is_match_value(&all.join(&b','))
    }
}

/// What a query parameter must be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueryMatch {
    /// Its name, case-sensitive.
    pub name: Box<str>,
    /// The value of its first occurrence.
    pub value: ValueMatch,
}

impl QueryMatch {
    /// A parameter that must have a value.
    #[must_use]
    pub fn new(name: &str, value: ValueMatch) -> Self {
        Self { name: name.into(), value }
    }

    pub(super) fn is_match(&self, query: Option<&str>) -> bool {
        let found = query.into_iter().flat_map(|query| query.split('&')).find_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            decoded(name).eq(self.name.bytes()).then_some(value)
        });
        let Some(value) = found else { return false };
        match &self.value {
            ValueMatch::Any => true,
            ValueMatch::Exact(expected) => decoded(value).eq(expected.bytes()),
            ValueMatch::RegularExpression(pattern) if value.contains('%') => {
                pattern.is_match_value(&decoded(value).collect::<Vec<u8>>())
            }
            ValueMatch::RegularExpression(pattern) => pattern.is_match(value),
        }
    }
}

/// The bytes that a percent-encoded text stands for; a `%` without two hex digits is itself.
pub(crate) fn decoded(text: &str) -> impl Iterator<Item = u8> + '_ {
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        let (byte, used) = match *rest {
            [b'%', high, low, ..] => match (hex(high), hex(low)) {
                (Some(high), Some(low)) => (high << 4 | low, 3),
                _ => (b'%', 1),
            },
            [byte, ..] => (byte, 1),
            [] => return None,
        };
        rest = &rest[used..];
        Some(byte)
    })
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// What a cookie must be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CookieMatch {
    /// Its name, case-sensitive.
    pub name: Box<str>,
    /// The value of its first occurrence, without quotes around it.
    pub value: ValueMatch,
}

impl CookieMatch {
    /// A cookie that must have a value.
    #[must_use]
    pub fn new(name: &str, value: ValueMatch) -> Self {
        Self { name: name.into(), value }
    }

    pub(crate) fn is_match(&self, headers: &HeaderMap) -> bool {
        cookie::value(headers, &self.name).is_some_and(|value| self.value.is_match_value(value))
    }
}
