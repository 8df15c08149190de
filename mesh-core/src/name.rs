//! Names of destinations, parsed once.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The namespace of a name that states none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// The name of a destination: `name` or `name.namespace`, each a DNS label (RFC 1123).
///
/// Comparing two names compares two short strings; the hot path compares neither, it carries
/// the destination that the route found.
///
/// ```
/// use mesh_core::DestinationName;
///
/// let name: DestinationName = "inventory.shop".parse()?;
/// assert_eq!(name.name(), "inventory");
/// assert_eq!(name.namespace(), "shop");
/// assert_eq!("inventory".parse::<DestinationName>()?.to_string(), "inventory");
/// assert!("In ventory".parse::<DestinationName>().is_err());
/// # Ok::<(), mesh_core::InvalidName>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DestinationName {
    namespace: Arc<str>,
    name: Arc<str>,
}

impl DestinationName {
    /// A name in a namespace.
    ///
    /// # Errors
    /// When either is not a DNS label: 1 to 63 of `a-z`, `0-9`, `-`, not `-` at an end.
    pub fn new(namespace: &str, name: &str) -> Result<Self, InvalidName> {
        label(namespace)?;
        label(name)?;
        Ok(Self { namespace: namespace.into(), name: name.into() })
    }

    /// The name of what nobody named.
    pub(crate) fn plain() -> Self {
        Self { namespace: DEFAULT_NAMESPACE.into(), name: "plain".into() }
    }

    /// The part that tells destinations of one namespace apart.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace, [`DEFAULT_NAMESPACE`] if none was stated.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }
}

impl FromStr for DestinationName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        match text.split_once('.') {
            Some((name, namespace)) => Self::new(namespace, name),
            None => Self::new(DEFAULT_NAMESPACE, text),
        }
    }
}

impl fmt::Display for DestinationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if &*self.namespace != DEFAULT_NAMESPACE {
            write!(f, ".{}", self.namespace)?;
        }
        Ok(())
    }
}

impl fmt::Debug for DestinationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for DestinationName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DestinationName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A text that is no destination name, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidName {
    text: String,
    why: &'static str,
}

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not a destination name: {}", self.text.escape_debug(), self.why)
    }
}

impl std::error::Error for InvalidName {}

fn label(text: &str) -> Result<(), InvalidName> {
    let why = if text.is_empty() {
        "a part is empty"
    } else if text.len() > 63 {
        "a part is longer than 63 characters"
    } else if text.starts_with('-') || text.ends_with('-') {
        "a part starts or ends with `-`"
    } else if !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        "only a-z, 0-9 and `-` may stand in it, as name or name.namespace"
    } else {
        return Ok(());
    };
    Err(InvalidName { text: text.chars().take(80).collect(), why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_names_say_why() {
        for (text, why) in [
            ("", "empty"),
            ("a.", "empty"),
            ("-a", "starts or ends"),
            ("A", "only a-z"),
            ("a.b.c", "only a-z"),
            ("a\nb", "a\\nb"),
        ] {
            let error = text.parse::<DestinationName>().unwrap_err().to_string();
            assert!(error.contains(why), "{text:?}: {error}");
        }
        assert!("a".repeat(64).parse::<DestinationName>().is_err());
    }

    #[test]
    fn display_parses_back() {
        for text in ["a", "a.b", "x-1.prod"] {
            let name: DestinationName = text.parse().expect("valid");
            assert_eq!(name.to_string(), text);
        }
    }
}
