//! Settings that make no sense.

use std::borrow::Cow;
use std::fmt;

/// A value of a section that makes no sense, and where it stands in it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Invalid {
    /// Keys and indices, joined by dots: `http.headers.0.name`; empty for the section itself.
    pub path: Cow<'static, str>,
    /// What is wrong.
    pub message: Cow<'static, str>,
}

impl Invalid {
    pub(super) fn new(
        path: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Invalid {}
