//! Files of a configuration, places in them, and where a value comes from.

use super::diagnostic::{Errors, Problem, resolve};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A named text: one file, or whatever stands for one.
///
/// Nothing here reads files: whoever does hands over the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    name: Arc<str>,
    text: Arc<str>,
}

impl Source {
    /// A text under the name that messages give it.
    pub fn new(name: impl Into<Arc<str>>, text: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), text: text.into() }
    }

    /// A text that was read as bytes.
    ///
    /// # Errors
    /// When it is not UTF-8; the error names the place.
    pub fn from_bytes(name: impl Into<Arc<str>>, bytes: &[u8]) -> Result<Self, Errors> {
        let wrong = match std::str::from_utf8(bytes) {
            Ok(text) => return Ok(Self::new(name, text)),
            Err(wrong) => wrong,
        };
        let good = bytes.get(..wrong.valid_up_to()).unwrap_or_default();
        let good = String::from_utf8_lossy(good);
        let begin = good.rfind('\n').map_or(0, |end| end + 1);
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let at = Location {
            source: 0,
            line: count(good.matches('\n').count() + 1),
            column: count(good.get(begin..).unwrap_or_default().chars().count() + 1),
            width: 1,
        };
        let found = bytes.get(wrong.valid_up_to()).copied().unwrap_or_default();
        let problem = Problem::error(format!("the file is not UTF-8: byte {found:#04x}"))
            .at(at)
            .help("save it as UTF-8");
        let shown = Self::new(name, String::from_utf8_lossy(bytes));
        Err(Errors::new(resolve(&[shown], vec![problem])))
    }

    /// The name that messages give it.
    #[must_use]
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// A line, counted from 1; empty if there is none.
    pub(crate) fn line(&self, number: u32) -> &str {
        self.text.lines().nth((number as usize).saturating_sub(1)).unwrap_or_default()
    }
}

/// A place in one of the sources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Location {
    pub(crate) source: u32,
    /// From 1.
    pub(crate) line: u32,
    /// In characters, from 1.
    pub(crate) column: u32,
    /// In characters.
    pub(crate) width: u32,
}

impl Location {
    /// The place of what stands in no file.
    pub(crate) const NOWHERE: Self = Self { source: u32::MAX, line: 0, column: 0, width: 0 };
}

/// Where a value comes from: a line of a file, or a default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin(Option<(Arc<str>, Location)>);

impl Origin {
    /// Written nowhere.
    pub const DEFAULT: Self = Self(None);

    pub(crate) fn new(sources: &[Source], at: Location) -> Self {
        Self(sources.get(at.source as usize).map(|source| (source.name.clone(), at)))
    }

    /// The place of `width` characters in the source of that index, by line and column from 1: for
    /// readers of other languages than this module's. Written nowhere, if there is no such source.
    #[must_use]
    pub fn at(sources: &[Source], source: usize, line: u32, column: u32, width: u32) -> Self {
        let index = u32::try_from(source).unwrap_or(u32::MAX);
        Self::new(sources, Location { source: index, line, column, width })
    }

    /// The file and the line, from 1; `None` for a default.
    #[must_use]
    pub fn line(&self) -> Option<(&str, u32)> {
        self.0.as_ref().map(|(file, at)| (&**file, at.line))
    }

    /// The place among the sources that it was made of.
    pub(crate) fn location(&self) -> Option<Location> {
        self.0.as_ref().map(|(_, at)| *at)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some((file, at)) => write!(f, "{file}:{}", at.line),
            None => f.write_str("default"),
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// As it is serialized: `file:line`, or `default`.
impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let place = text.rsplit_once(':').and_then(|(file, line)| Some((file, line.parse().ok()?)));
        Ok(Self(place.map(|(file, line)| (file.into(), Location { line, ..Location::NOWHERE }))))
    }
}

/// The origin of every value that is not a default, by its path (`retry.attempts`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Origins(BTreeMap<String, Origin>);

impl Origins {
    pub(crate) fn insert(&mut self, path: String, origin: Origin) {
        self.0.insert(path, origin);
    }

    /// Where the value at `path` was written, by itself or as part of a list.
    #[must_use]
    pub fn of(&self, path: &str) -> Origin {
        let mut path = path;
        loop {
            if let Some(origin) = self.0.get(path) {
                return origin.clone();
            }
            match path.rsplit_once('.') {
                Some((around, _)) => path = around,
                None => return Origin::DEFAULT,
            }
        }
    }

    /// Every path that was written, with its origin.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Origin)> {
        self.0.iter().map(|(path, origin)| (&**path, origin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_told_with_their_place() {
        let told = |bytes: &[u8]| Source::from_bytes("f.yaml", bytes).expect_err("bad").to_string();
        let wanted = "\
error: the file is not UTF-8: byte 0xff
 --> f.yaml:2:5
  |
2 | \u{fc}b: \u{fffd}
  |     ^
  = save it as UTF-8";
        assert_eq!(told(b"a: 1\n\xc3\xbcb: \xff\n"), wanted);
        // What an editor on Windows may write, and a character that is cut off.
        assert!(told(b"\xff\xfea\0").contains("f.yaml:1:1"));
        assert!(told(b"a\n\xc3").contains("f.yaml:2:1"));
        assert_eq!(Source::from_bytes("f", "ü".as_bytes()), Ok(Source::new("f", "ü")));
    }
}
