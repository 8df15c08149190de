//! What is wrong in a configuration: where, what, why, and what to do.
//!
//! ```text
//! error: unknown key `timout`
//!   --> mesh.yaml:12:5
//!    |
//! 12 |     timout: 5s
//!    |     ^^^^^^
//!    = did you mean `timeout`?
//! ```

use super::source::{Location, Origin, Source};
use serde::{Serialize, Serializer};
use std::fmt;
use std::sync::Arc;

/// Diagnostics that are kept of one set of files: whoever wrote more wrong things reads these first.
const KEPT: usize = 100;
/// Characters of a line that a snippet shows.
const SNIPPET: usize = 120;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Severity {
    /// The configuration can be used, but likely does not mean what was intended.
    Warning,
    /// The configuration is refused.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// A place in a file, with the line it points into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Place {
    /// Name of the file.
    #[serde(serialize_with = "text")]
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// What this place is in relation to the problem; empty for the problem itself.
    pub label: String,
    #[serde(skip)]
    snippet: String,
    /// Characters before the caret in `snippet`, and carets.
    #[serde(skip)]
    caret: (usize, usize),
}

fn text<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

impl Place {
    fn new(sources: &[Source], location: Location, label: String) -> Self {
        let (file, line) = sources
            .get(location.source as usize)
            .map(|source| (source.name().clone(), source.line(location.line)))
            .unwrap_or_default();
        let column = location.column.max(1) as usize - 1;
        // A long line is shown around the caret.
        let start = if column > SNIPPET - 40 { column - 40 } else { 0 };
        let snippet: String = line
            .chars()
            .skip(start)
            .take(SNIPPET)
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let shown = snippet.chars().count();
        let before = (column - start).min(shown);
        let width = (location.width as usize).clamp(1, (shown - before).max(1));
        Self {
            file,
            line: location.line,
            column: location.column,
            label,
            snippet: snippet.trim_end().to_owned(),
            caret: (before, width),
        }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, gutter: usize) -> fmt::Result {
        write!(f, "\n{:gutter$}--> {}:{}:{}", "", self.file, self.line, self.column)?;
        if !self.label.is_empty() {
            write!(f, " ({})", self.label)?;
        }
        let (before, width) = self.caret;
        write!(f, "\n{:gutter$} |\n{:>gutter$} | {}", "", self.line, self.snippet)?;
        write!(f, "\n{:gutter$} | {:before$}{:^<width$}", "", "", "")
    }
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Diagnostic {
    /// Whether the configuration is refused for it.
    pub severity: Severity,
    /// What is wrong, in one sentence.
    pub what: String,
    /// Where; then the other places that have to do with it.
    pub places: Vec<Place>,
    /// Why, and what to do.
    pub help: Vec<String>,
}

impl Diagnostic {
    /// An error that shows only when a value is used, such as the name of a file that is not
    /// there. `origin` says where the value is written, among the `sources` that were parsed.
    #[must_use]
    pub fn at(sources: &[Source], origin: &Origin, what: impl Into<String>) -> Self {
        let place = origin.location().map(|at| Place::new(sources, at, String::new()));
        Self {
            severity: Severity::Error,
            what: what.into(),
            places: place.into_iter().collect(),
            help: Vec::new(),
        }
    }

    /// Adds why, or what to do.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.severity, self.what)?;
        let gutter = self.places.iter().map(|p| p.line.to_string().len()).max().unwrap_or(1);
        for place in &self.places {
            place.write(f, gutter)?;
        }
        for help in &self.help {
            write!(f, "\n{:gutter$} = {help}", "")?;
        }
        Ok(())
    }
}

/// Why a configuration is refused: every error that was found, and the warnings beside them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors {
    diagnostics: Vec<Diagnostic>,
}

impl Errors {
    pub(crate) const fn new(diagnostics: Vec<Diagnostic>) -> Self {
        Self { diagnostics }
    }

    /// Errors and warnings, by file and line.
    #[must_use]
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }
}

impl From<Vec<Diagnostic>> for Errors {
    fn from(diagnostics: Vec<Diagnostic>) -> Self {
        Self { diagnostics }
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.diagnostics.iter().enumerate() {
            let gap = if index == 0 { "" } else { "\n\n" };
            write!(f, "{gap}{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// What a problem is about, as far as reading on after it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A key that should not be there.
    Key,
    /// A value, or how values go together.
    Value,
    /// Something that should be there.
    Missing,
}

/// A problem while its sources are still at hand: it carries locations, not texts.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    severity: Severity,
    pub(crate) cause: Cause,
    pub(crate) at: Option<Location>,
    what: String,
    others: Vec<(Location, String)>,
    help: Vec<String>,
}

impl Problem {
    pub(crate) fn error(what: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            cause: Cause::Value,
            at: None,
            what: what.into(),
            others: Vec::new(),
            help: Vec::new(),
        }
    }

    /// Something that is understood and refused.
    pub(crate) fn not_supported(what: &str) -> Self {
        Self::error(format!("{what} is not supported yet"))
            .help("it is refused, because leaving it out would change what the file means")
    }

    pub(crate) fn warning(what: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(what) }
    }

    pub(crate) fn about(mut self, cause: Cause) -> Self {
        self.cause = cause;
        self
    }

    /// Where it is, unless that is known already: the innermost place wins.
    pub(crate) fn at(mut self, at: Location) -> Self {
        self.at.get_or_insert(at);
        self
    }

    pub(crate) fn other(mut self, at: Location, label: impl Into<String>) -> Self {
        self.others.push((at, label.into()));
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    /// Adds the nearest of `known` as a suggestion, or else the whole list if it is short.
    pub(crate) fn suggest<'a>(self, given: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        match nearest(given, &known) {
            Some(nearest) => self.help(format!("did you mean `{nearest}`?")),
            None if !known.is_empty() && known.len() <= 16 => {
                let list: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
                self.help(format!("known: {}", list.join(", ")))
            }
            None => self,
        }
    }

    /// Whether it says the same of the same place.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.at == other.at && self.what == other.what
    }

    pub(crate) const fn is_error(&self) -> bool {
        matches!(self.severity, Severity::Error)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Problem {}

/// Turns problems into diagnostics, in the order of files and lines; of very many the errors
/// among the first.
pub(crate) fn resolve(sources: &[Source], mut problems: Vec<Problem>) -> Vec<Diagnostic> {
    problems.sort_by_key(|problem| problem.at);
    if problems.len() > KEPT && problems.iter().any(Problem::is_error) {
        problems.retain(Problem::is_error);
    }
    problems.truncate(KEPT);
    problems
        .into_iter()
        .map(|problem| {
            let own = problem.at.map(|at| Place::new(sources, at, String::new()));
            let others =
                problem.others.into_iter().map(|(at, label)| Place::new(sources, at, label));
            Diagnostic {
                severity: problem.severity,
                what: problem.what,
                places: own.into_iter().chain(others).collect(),
                help: problem.help,
            }
        })
        .collect()
}

/// The known word that `given` is most likely a slip of: the same letters in another case, or at
/// most a third of them changed (Damerau-Levenshtein).
pub(crate) fn nearest<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    if given.len() > 80 {
        return None;
    }
    let lower = given.to_ascii_lowercase();
    known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(&lower, &name.to_ascii_lowercase()), *name))
        .filter(|(distance, name)| *distance * 3 <= name.len().max(given.len()).max(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_word() {
        let known = ["timeouts", "retry", "retryBudget", "balance"];
        assert_eq!(nearest("timout", &known), Some("timeouts"));
        assert_eq!(nearest("retrybudget", &known), Some("retryBudget"));
        assert_eq!(nearest("rerty", &known), Some("retry"));
        assert_eq!(nearest("colour", &known), None);
        assert_eq!(nearest(&"retry".repeat(1000), &known), None);
    }

    #[test]
    fn long_lines_and_control_characters_stay_readable() {
        let text = format!("{}\u{1b}[31mx", "a".repeat(500));
        let sources = [Source::new("f", text)];
        let at = Location { source: 0, line: 1, column: 505, width: 400 };
        let shown = resolve(&sources, vec![Problem::error("bad").at(at)])[0].to_string();
        assert!(shown.lines().all(|line| line.chars().count() < 140), "{shown}");
        assert!(!shown.contains('\u{1b}'));
        let (snippet, caret) = (shown.lines().nth(3), shown.lines().nth(4));
        let column = caret.and_then(|line| line.find('^')).expect("a caret");
        assert_eq!(snippet.and_then(|line| line.chars().nth(column)), Some('m'));
    }
}
