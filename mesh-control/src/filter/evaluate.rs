//! Whether a value, as the API tells it, passes.

use serde_json::Value;

use super::compile::{Expression, Step, Test};

pub(super) fn holds(expression: &Expression, value: &Value) -> bool {
    match expression {
        Expression::Or(items) => items.iter().any(|item| holds(item, value)),
        Expression::And(items) => items.iter().all(|item| holds(item, value)),
        Expression::Not(inner) => !holds(inner, value),
        Expression::Match { path, test, negated } => follow(path, Some(value), test, *negated),
    }
}

/// `None` is a field that is not told, hence empty.
fn follow(path: &[Step], value: Option<&Value>, test: &Test, negated: bool) -> bool {
    let Some((step, rest)) = path.split_first() else {
        return passes(test, value.unwrap_or(&Value::Null)) != negated;
    };
    match step {
        Step::Field(name) => follow(rest, value.and_then(|value| value.get(name)), test, negated),
        Step::Key(key) => match value.and_then(|value| value.get(key)) {
            Some(value) => follow(rest, Some(value), test, negated),
            // Nothing is true of it, hence every negation.
            None => negated,
        },
        Step::Each => value
            .and_then(Value::as_array)
            .is_some_and(|items| items.iter().any(|item| follow(rest, Some(item), test, negated))),
    }
}

fn passes(test: &Test, value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    match test {
        Test::IsText(wanted) => text == wanted,
        Test::IsWhole(wanted) => value.as_i64().unwrap_or_default() == *wanted,
        Test::IsTruth(wanted) => value.as_bool().unwrap_or_default() == *wanted,
        Test::Has(wanted) => match value {
            Value::Array(items) => items.iter().any(|item| item.as_str() == Some(wanted)),
            Value::Object(entries) => entries.contains_key(wanted),
            _ => false,
        },
        Test::HasPart(wanted) => text.contains(wanted),
        Test::Empty => match value {
            Value::Array(items) => items.is_empty(),
            Value::Object(entries) => entries.is_empty(),
            _ => true,
        },
        Test::Matches(pattern) => pattern.is_match(text),
    }
}
