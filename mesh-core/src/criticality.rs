//! Criticality: which calls an overloaded server gives up first.
//!
//! ```text
//! CRITICAL_PLUS  >  CRITICAL (what nobody rated)  >  SHEDDABLE_PLUS  >  SHEDDABLE
//! ```
//!
//! It travels with the call in the field [`CRITICALITY`], and a handler hands it on to the calls
//! that it makes, so that the whole tree of one user's action is given up, or served, together.
//! What is not one of the four words means the same as no field.
//!
//! Source: "Site Reliability Engineering", chapter 21, whose words these are. No standard names a
//! field for it.

use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The field that carries it.
pub const CRITICALITY: HeaderName = HeaderName::from_static("x-mesh-criticality");

/// How much it matters that a call is served. The more critical is the greater.
///
/// ```
/// use mesh_core::criticality::Criticality;
///
/// assert!(Criticality::Sheddable < Criticality::default());
/// assert_eq!(Criticality::parse(b"SHEDDABLE_PLUS"), Some(Criticality::SheddablePlus));
/// ```
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[allow(clippy::exhaustive_enums, reason = "four levels by definition")]
pub enum Criticality {
    /// Batch work that is tried again later: partial or no service is expected now and then.
    Sheddable,
    /// Batch work of which some partial loss is expected, and which is tried again in minutes.
    SheddablePlus,
    /// What users see: a failure is noticed.
    #[default]
    Critical,
    /// What hurts users seriously when it fails.
    CriticalPlus,
}

impl Criticality {
    /// All levels, the one that is shed first in front.
    pub const ALL: [Self; 4] =
        [Self::Sheddable, Self::SheddablePlus, Self::Critical, Self::CriticalPlus];

    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sheddable => "SHEDDABLE",
            Self::SheddablePlus => "SHEDDABLE_PLUS",
            Self::Critical => "CRITICAL",
            Self::CriticalPlus => "CRITICAL_PLUS",
        }
    }

    /// Reads the value of [`CRITICALITY`].
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.as_str().as_bytes() == value)
    }

    /// The value of [`CRITICALITY`].
    #[must_use]
    pub const fn to_value(self) -> HeaderValue {
        HeaderValue::from_static(self.as_str())
    }

    /// Position in a table of one entry per level.
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Criticality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_levels_are_ordered_and_read_back() {
        assert!(Criticality::ALL.is_sorted());
        for level in Criticality::ALL {
            assert_eq!(Criticality::parse(level.to_value().as_bytes()), Some(level));
            assert_eq!(Criticality::ALL[level.index()], level);
        }
        assert_eq!(Criticality::default(), Criticality::Critical);
    }

    #[test]
    fn what_is_no_level_is_none() {
        for text in ["", "critical", "CRITICAL ", "CRITICAL_PLUS_PLUS", "3", "\u{ff}"] {
            assert_eq!(Criticality::parse(text.as_bytes()), None, "{text:?}");
        }
    }
}
