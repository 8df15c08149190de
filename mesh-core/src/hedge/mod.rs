//! Hedging: a second attempt beside a first that takes long, and the answer of whichever comes first.
//!
//! ```text
//! attempt 1 ├──────────────────────────────────────────╳ cancelled
//!           │  delay  │
//!           └─────────┤ attempt 2 ├── answer ──► the call's
//! ```
//!
//! Attempt `k` begins `delay` after attempt `k − 1`, up to [`Config::max_attempts`], while none has
//! answered. What an attempt ends with decides:
//!
//! | end | the call |
//! |---|---|
//! | an answer that no retry condition names | has it; the other attempts are cancelled |
//! | a failure that a condition names | the next attempt begins at once; the others go on |
//! | the same, with a pushback of `n` ms | the next begins in `n` ms, further ones `delay` later each |
//! | the same, with "do not retry" | no further attempt; the others go on |
//! | the failure of the last one | has it |
//!
//! Only calls that do no harm when repeated are hedged, whole requests only (see
//! [`retry`](crate::retry)), and each further attempt is one of the retry budget.
//!
//! The delay is one of
//! - `delay`: a fixed span (gRPC);
//! - `percentile`: what so many per cent of the destination's first attempts take, by those of the
//!   last 10 to 20 s ([`Latencies`]). With 98 about 2 % of the calls are sent twice, whatever the
//!   destination's speed (Finagle `BackupRequestFilter`);
//! - `onPerTryTimeout`: `retry.perTryTimeout`, which then cuts nothing; `retry.attempts` bounds
//!   the number (Envoy), up to 5 attempts.
//!
//! Source: gRFC A6 "Hedging Policy" and its summary table; Dean and Barroso, "The Tail at Scale".

mod latencies;

pub use latencies::Latencies;

use crate::config::span;
use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use std::time::Duration;

/// Attempts of one call at most, the first included, whatever settings ask for (gRFC A6).
pub const MAX_ATTEMPTS: u32 = 5;

/// Settings of hedging; one of `delay`, `percentile` and `onPerTryTimeout` is set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Config {
    /// Attempts of one call at most, the first included; 2 to 5. 2.
    #[serde(deserialize_with = "max_attempts")]
    #[schemars(range(min = 2, max = 5))]
    pub max_attempts: u32,
    /// How long after an attempt the next begins.
    #[serde(with = "span::optional")]
    #[schemars(with = "Option<span::Text>")]
    pub delay: Option<Duration>,
    /// The share of first attempts, in percent, that are given the time to answer; 50 to 99.9.
    #[serde(deserialize_with = "percentile")]
    #[schemars(range(min = 50.0, max = 99.9))]
    pub percentile: Option<f64>,
    /// Whether an attempt that exceeds `retry.perTryTimeout` goes on beside the next. No.
    pub on_per_try_timeout: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_attempts: 2, delay: None, percentile: None, on_per_try_timeout: false }
    }
}

impl Config {
    /// A fixed delay.
    #[must_use]
    pub fn after(delay: Duration) -> Self {
        Self { delay: Some(delay), ..Self::default() }
    }

    /// The time in which `percentile` of the first attempts answer.
    #[must_use]
    pub fn at_percentile(percentile: f64) -> Self {
        Self { percentile: Some(percentile), ..Self::default() }
    }

    /// After `retry.perTryTimeout`, which then cuts nothing.
    #[must_use]
    pub fn on_per_try_timeout() -> Self {
        Self { on_per_try_timeout: true, ..Self::default() }
    }

    /// With up to so many attempts per call, the first included.
    #[must_use]
    pub fn with_max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts.clamp(2, MAX_ATTEMPTS);
        self
    }

    /// Why the settings make no sense together, if they do not.
    #[must_use]
    pub fn contradiction(&self) -> Option<&'static str> {
        let said = [self.delay.is_some(), self.percentile.is_some(), self.on_per_try_timeout];
        match said.iter().filter(|said| **said).count() {
            1 => None,
            0 => Some("`hedge` does not say when: set `delay`, `percentile` or `onPerTryTimeout`"),
            _ => Some("`delay`, `percentile` and `onPerTryTimeout` exclude each other"),
        }
    }
}

fn max_attempts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let attempts = u32::deserialize(deserializer)?;
    if (2..=MAX_ATTEMPTS).contains(&attempts) {
        return Ok(attempts);
    }
    Err(D::Error::custom("`maxAttempts` is a whole number from 2 to 5"))
}

fn percentile<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    match Option::<f64>::deserialize(deserializer)? {
        Some(percentile) if !(50.0..=99.9).contains(&percentile) => {
            Err(D::Error::custom("`percentile` is a number from 50 to 99.9"))
        }
        percentile => Ok(percentile),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_way_of_saying_when_and_no_other() {
        assert!(Config::default().contradiction().is_some());
        assert_eq!(Config::after(Duration::from_millis(5)).contradiction(), None);
        assert_eq!(Config::at_percentile(98.0).contradiction(), None);
        let mut both = Config::at_percentile(98.0);
        both.on_per_try_timeout = true;
        assert!(both.contradiction().is_some());
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for text in [
            r#"{"maxAttempts":1}"#,
            r#"{"maxAttempts":6}"#,
            r#"{"percentile":49.9}"#,
            r#"{"percentile":100}"#,
            r#"{"percentile":-1}"#,
            r#"{"delay":5}"#,
        ] {
            assert!(serde_json::from_str::<Config>(text).is_err(), "{text}");
        }
    }
}
