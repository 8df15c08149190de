//! Header edits: what is set, added to and removed from the fields of a message.
//!
//! `set` replaces all values of a name, `add` appends one, `remove` takes all away. A name stands
//! in one of the three at most, so their order says nothing (Gateway API `HTTPHeaderFilter`).

use http::{HeaderMap, HeaderName, HeaderValue};
use std::fmt;

/// What is set, added and removed among the fields of a message (Gateway API `HTTPHeaderFilter`).
///
/// ```
/// use http::{HeaderMap, HeaderName, HeaderValue};
/// use mesh_core::route::filter::HeaderEdits;
///
/// let name = HeaderName::from_static("x-stage");
/// let mut edits = HeaderEdits::default();
/// edits.set.push((name, HeaderValue::from_static("next")));
/// let mut headers = HeaderMap::new();
/// edits.apply(&mut headers);
/// assert_eq!(headers["x-stage"], "next");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeaderEdits {
    /// Fields that get this value and no other.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Fields that get this value beside those they have.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Fields that go.
    pub remove: Vec<HeaderName>,
}

impl HeaderEdits {
    /// Whether nothing is edited.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }

    /// Edits the fields of a message. Of a message that has as many fields as a map can hold
    /// (24,576), fields that are set or added are left out.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.set {
            let _full = headers.try_insert(name.clone(), value.clone());
        }
        for (name, value) in &self.add {
            let _full = headers.try_append(name.clone(), value.clone());
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

impl fmt::Display for HeaderEdits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = self.set.iter().map(|(name, value)| ("set ", name, Some(value)));
        let add = self.add.iter().map(|(name, value)| ("add ", name, Some(value)));
        let remove = self.remove.iter().map(|name| ("remove ", name, None));
        for (index, (verb, name, value)) in set.chain(add).chain(remove).enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{verb}{name}")?;
            if let Some(value) = value {
                write!(f, ": {}", value.as_bytes().escape_ascii())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &'static str, value: &'static str) -> (HeaderName, HeaderValue) {
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    }

    /// The inputs and outputs that the doc comments of Gateway API's type give.
    #[test]
    fn as_gateway_api_has_it() {
        let edits = HeaderEdits {
            set: vec![field("my-set", "bar"), field("my-new", "1")],
            add: vec![field("my-add", "bar,baz"), field("my-first", "2")],
            remove: vec![HeaderName::from_static("my-header1"), HeaderName::from_static("none")],
        };
        let mut headers = HeaderMap::new();
        for (name, value) in [
            field("my-set", "foo"),
            field("my-set", "second"),
            field("my-add", "foo"),
            field("my-header1", "foo"),
            field("my-header1", "bar"),
            field("my-header2", "bar"),
        ] {
            headers.append(name, value);
        }
        edits.apply(&mut headers);
        let values = |name: &str| headers.get_all(name).iter().collect::<Vec<_>>();
        assert_eq!(values("my-set"), ["bar"]);
        assert_eq!(values("my-new"), ["1"]);
        assert_eq!(values("my-add"), ["foo", "bar,baz"]);
        assert_eq!(values("my-first"), ["2"]);
        assert!(values("my-header1").is_empty());
        assert_eq!(values("my-header2"), ["bar"]);
        assert_eq!(
            edits.to_string(),
            "set my-set: bar, set my-new: 1, add my-add: bar,baz, add my-first: 2, \
             remove my-header1, remove none"
        );
    }

    #[test]
    fn a_full_map_does_not_panic() {
        let mut headers = HeaderMap::new();
        let mut count = 0;
        while let Ok(name) = HeaderName::try_from(format!("x-{count}")) {
            if headers.try_append(name, HeaderValue::from_static("1")).is_err() {
                break;
            }
            count += 1;
        }
        let edits = HeaderEdits {
            set: vec![field("a", "1")],
            add: vec![field("b", "1")],
            ..HeaderEdits::default()
        };
        edits.apply(&mut headers);
        assert_eq!(headers.len(), count);
    }
}
