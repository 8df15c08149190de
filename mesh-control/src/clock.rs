//! The time of day. Spans are measured on tokio's clock, which tests pause.

use std::time::SystemTime;

/// The time of day, for what is written down; it may be set back and forth.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place of this crate that reads it")]
pub(crate) fn wall() -> SystemTime {
    SystemTime::now()
}
