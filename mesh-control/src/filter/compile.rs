//! From names to steps through a shape, and from texts to what they are compared as.

use regex::{Regex, RegexBuilder};

use super::Fault;
use super::parse::{Match, Operator, Selector, Syntax};
use super::shape::Shape;

/// Most patterns of a filter.
const MAX_PATTERNS: usize = 16;
/// Most bytes of a compiled pattern.
const MAX_PATTERN_BYTES: usize = 64 << 10;

/// An expression that fits its shape.
#[derive(Clone, Debug)]
pub(super) enum Expression {
    Or(Vec<Self>),
    And(Vec<Self>),
    Not(Box<Self>),
    Match { path: Vec<Step>, test: Test, negated: bool },
}

/// A step towards a value.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// The field of a record, which is empty where it is not told.
    Field(&'static str),
    /// The value at a key of a map, which may not be there.
    Key(String),
    /// Every item of a list.
    Each,
}

/// What is asked of the value.
#[derive(Clone, Debug)]
pub(super) enum Test {
    IsText(String),
    IsWhole(i64),
    IsTruth(bool),
    /// A list has this item, a map this key.
    Has(String),
    /// A text has this part.
    HasPart(String),
    Empty,
    Matches(Regex),
}

pub(super) fn compile(syntax: &Syntax, shape: &'static Shape) -> Result<Expression, Fault> {
    let mut patterns = 0;
    expression(syntax, shape, &mut patterns)
}

fn expression(
    syntax: &Syntax,
    shape: &'static Shape,
    patterns: &mut usize,
) -> Result<Expression, Fault> {
    let mut all = |items: &[Syntax]| -> Result<Vec<Expression>, Fault> {
        items.iter().map(|item| expression(item, shape, patterns)).collect()
    };
    Ok(match syntax {
        Syntax::Or(items) => Expression::Or(all(items)?),
        Syntax::And(items) => Expression::And(all(items)?),
        Syntax::Not(inner) => Expression::Not(Box::new(expression(inner, shape, patterns)?)),
        Syntax::Match(found) => {
            let (path, target) = path(&found.selector, shape)?;
            let test = test(found, target, patterns)?;
            Expression::Match { path, test, negated: found.negated }
        }
    })
}

/// The steps to what is selected, and its shape.
fn path(selector: &Selector, shape: &'static Shape) -> Result<(Vec<Step>, &'static Shape), Fault> {
    let mut steps = Vec::with_capacity(selector.names.len());
    let mut current = shape;
    for (index, name) in selector.names.iter().enumerate() {
        current = match current {
            Shape::Map(values) => {
                steps.push(Step::Key(name.clone()));
                values
            }
            _ => {
                let fields = current.fields();
                let Some((known, inner)) = fields.iter().find(|(known, _)| known == name) else {
                    let up_to = selector.names.get(..=index).unwrap_or_default();
                    return Err(unknown(selector.at, up_to, name, fields));
                };
                if let Shape::Records(_) = current {
                    steps.push(Step::Each);
                }
                steps.push(Step::Field(known));
                inner
            }
        };
    }
    Ok((steps, current))
}

fn unknown(at: usize, path: &[String], name: &str, fields: &[(&'static str, Shape)]) -> Fault {
    let mut what = format!("Selector {:?} is not valid", path.join("."));
    let names: Vec<&str> = fields.iter().map(|(known, _)| *known).collect();
    if let Some(near) = crate::decode::nearest(name, &names) {
        what.push_str(&format!(", did you mean {near:?}?"));
    } else if !names.is_empty() {
        what.push_str(&format!(", known: {}", names.join(", ")));
    }
    Fault { at, what }
}

fn test(found: &Match, shape: &Shape, patterns: &mut usize) -> Result<Test, Fault> {
    let (text, at) = &found.value;
    Ok(match (found.operator, shape) {
        (Operator::Equal, Shape::Text) => Test::IsText(text.clone()),
        (Operator::Equal, Shape::Whole) => {
            Test::IsWhole(whole(text).ok_or_else(|| coerce(found, "no whole number"))?)
        }
        (Operator::Equal, Shape::Truth) => Test::IsTruth(match &**text {
            // The words of Go's ParseBool.
            "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
            "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
            _ => return Err(coerce(found, "neither true nor false")),
        }),
        (Operator::In, Shape::Text) => Test::HasPart(text.clone()),
        (Operator::In, Shape::Texts | Shape::Map(_)) => Test::Has(text.clone()),
        (Operator::Empty, Shape::Texts | Shape::Map(_) | Shape::Records(_)) => Test::Empty,
        (Operator::Matches, Shape::Text) => {
            *patterns += 1;
            if *patterns > MAX_PATTERNS {
                return Err(Fault { at: *at, what: format!("more than {MAX_PATTERNS} patterns") });
            }
            let pattern = RegexBuilder::new(text).size_limit(MAX_PATTERN_BYTES).build();
            Test::Matches(pattern.map_err(|error| {
                // The last line is the sentence; those before draw the place.
                let error = error.to_string();
                let why = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
                let what = format!("Failed to compile regular expression {text:?}: {why}");
                Fault { at: *at, what }
            })?)
        }
        _ => {
            let what = format!(
                "Invalid match operator {:?} for selector {:?}",
                operator(found),
                found.selector.names.join(".")
            );
            return Err(Fault { at: found.selector.at, what });
        }
    })
}

fn coerce(found: &Match, why: &str) -> Fault {
    let (text, at) = &found.value;
    let selector = found.selector.names.join(".");
    let what = format!("Failed to coerce value {text:?} for selector {selector:?}: it is {why}");
    Fault { at: *at, what }
}

/// Consul's name of it.
const fn operator(found: &Match) -> &'static str {
    match (found.operator, found.negated) {
        (Operator::Equal, false) => "Equal",
        (Operator::Equal, true) => "Not Equal",
        (Operator::In, false) => "In",
        (Operator::In, true) => "Not In",
        (Operator::Empty, false) => "Is Empty",
        (Operator::Empty, true) => "Is Not Empty",
        (Operator::Matches, false) => "Matches",
        (Operator::Matches, true) => "Not Matches",
    }
}

/// A whole number as Go's `ParseInt` reads it with base 0: `-1`, `0x1f`, `0o17`, `017`, `0b1`,
/// `1_000`.
fn whole(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.get(..2) {
        Some("0x") => (16, lower.get(2..)?),
        Some("0o") => (8, lower.get(2..)?),
        Some("0b") => (2, lower.get(2..)?),
        Some(_) if lower.starts_with('0') => (8, lower.get(1..)?),
        _ => (10, &*lower),
    };
    // One underscore between digits, or after the prefix.
    let digits = if radix == 10 { digits } else { digits.strip_prefix('_').unwrap_or(digits) };
    if digits.starts_with(['_', '+', '-']) || digits.ends_with('_') || digits.contains("__") {
        return None;
    }
    i64::from_str_radix(&format!("{sign}{}", digits.replace('_', "")), radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_those_of_go() {
        for (text, number) in [
            ("8080", Some(8080)),
            ("-1", Some(-1)),
            ("+8080", Some(8080)),
            ("0x1F90", Some(8080)),
            ("-0x1", Some(-1)),
            ("017620", Some(8080)),
            ("0o17", Some(15)),
            ("0b11", Some(3)),
            ("8_080", Some(8080)),
            ("0x_1f", Some(31)),
            ("0", Some(0)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("1_", None),
            ("_1", None),
            ("1__0", None),
            ("0x", None),
            ("", None),
            ("-", None),
            ("+-1", None),
            ("09", None),
            (" 8", None),
            ("8080.0", None),
        ] {
            assert_eq!(whole(text), number, "{text:?}");
        }
    }
}
