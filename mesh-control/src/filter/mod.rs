//! Filters: expressions over what an endpoint of the API lists, as in `?filter=`.
//!
//! ```text
//! or        = and { "or" and }
//! and       = not { "and" not }
//! not       = "not" not | "(" or ")" | match
//! match     = selector ("==" | "!=") value
//!           | selector ["not"] ("contains" | "matches") value
//!           | selector "is" ["not"] "empty"
//!           | value ["not"] "in" selector
//! selector  = name { "." name | "[" string "]" }
//! value     = selector (for its text) | number | string
//! ```
//!
//! Words stand apart by white space; `==`, `!=`, brackets and the inside of parentheses need none.
//! A string is `"…"` with the escapes of Go, or `` `…` `` without any.
//!
//! Which selectors there are and what may be asked of them follows from the [`Shape`] of what is
//! listed; everything else is an error, before anything is looked at. A selector through a list
//! (`Checks.Status`) is true if it is for one of its items. A key that a map does not have is
//! equal to nothing, contains nothing and matches nothing.
//!
//! Limits: 8 KiB of text, 32 levels, 16 patterns of at most 64 KiB compiled each. Patterns run in
//! linear time. Evaluation does not recurse deeper than the text.
//!
//! Differences to Consul 1.8.7: there, a missing key is true for `matches` and for `not matches`;
//! later releases answer as here. `\d`, `\s`, `\w` and `\b` know Unicode here, ASCII there. A
//! string whose escapes make no UTF-8 is an error here, and equal to nothing there.
//!
//! Source: Consul's API reference, "Filtering"; go-bexpr's README; answers of Consul 1.8.7.

mod compile;
mod evaluate;
mod parse;
mod shape;

pub use shape::{Field, Shape};

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use compile::Expression;

/// Most bytes of a filter. 8 KiB.
pub const MAX_BYTES: usize = 8 << 10;

/// An expression that fits the shape that it was made for. Lets everything pass by default.
///
/// ```
/// use mesh_control::filter::{Filter, Shape};
/// use serde_json::json;
///
/// let filter = Filter::new("Meta.env == qa and primary in Tags", &Shape::SERVICE).unwrap();
/// assert!(filter.matches(&json!({"Meta": {"env": "qa"}, "Tags": ["v1", "primary"]})));
/// assert!(!filter.matches(&json!({"Meta": {"env": "qa"}})));
///
/// let error = Filter::new("Tags == primary", &Shape::SERVICE).unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "Failed to create boolean expression evaluator: 1:1: \
///      Invalid match operator \"Equal\" for selector \"Tags\""
/// );
/// ```
#[derive(Clone, Debug, Default)]
pub struct Filter {
    root: Option<Expression>,
}

impl Filter {
    /// Reads an expression over things of a shape. The empty text lets everything pass.
    ///
    /// # Errors
    /// What is wrong, with line and column: no expression, a selector that the shape does not
    /// have, an operator that its type does not have, a number that is none, a pattern that is
    /// none, or a limit. Consul answers these with 500.
    pub fn new(text: &str, shape: &'static Shape) -> Result<Self, FilterError> {
        if text.is_empty() {
            return Ok(Self { root: None });
        }
        if text.len() > MAX_BYTES {
            let what = format!("the filter has {} bytes, more than {MAX_BYTES}", text.len());
            return Err(Fault { at: 0, what }.within(""));
        }
        let read = parse::parse(text).and_then(|syntax| compile::compile(&syntax, shape));
        match read {
            Ok(root) => Ok(Self { root: Some(root) }),
            Err(fault) => Err(fault.within(text)),
        }
    }

    /// Whether it lets everything pass.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// Whether a thing passes, given as the API tells it. What is left out there is empty or zero.
    #[must_use]
    pub fn matches(&self, value: &Value) -> bool {
        self.root.as_ref().is_none_or(|root| evaluate::holds(root, value))
    }

    /// Keeps what passes.
    pub fn retain<T: Serialize>(&self, items: &mut Vec<T>) {
        if !self.is_empty() {
            items.retain(|item| serde_json::to_value(item).is_ok_and(|value| self.matches(&value)));
        }
    }
}

/// Why a text is no filter.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FilterError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong there.
    pub what: String,
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, column, what } = self;
        write!(f, "Failed to create boolean expression evaluator: {line}:{column}: {what}")
    }
}

impl std::error::Error for FilterError {}

/// An error by its offset.
#[derive(Debug)]
struct Fault {
    at: usize,
    what: String,
}

impl Fault {
    fn within(self, text: &str) -> FilterError {
        let before = text.get(..self.at).unwrap_or_default();
        let begin = before.rfind('\n').map_or(0, |end| end + 1);
        FilterError {
            line: before.matches('\n').count() + 1,
            column: before.get(begin..).unwrap_or_default().chars().count() + 1,
            what: self.what,
        }
    }
}

#[cfg(test)]
mod tests;
