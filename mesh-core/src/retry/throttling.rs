//! Retry throttling: no retry while more calls fail than succeed.
//!
//! ```text
//! tokens start at maxTokens, and stay within 0 and maxTokens
//! success                                         tokens + tokenRatio
//! failure on a condition, or "do not retry"       tokens − 1
//! may retry or hedge                         ⇔    tokens > maxTokens / 2
//! ```
//!
//! One bucket per destination. With 10 and 0.1, retries stop once more than one call in eleven
//! fails. A retry that cannot have reached the application changes nothing.
//!
//! Tokens are counted in thousandths, so a ratio has three decimals; further ones are cut off.
//! Source: gRFC A6, `retryThrottling`. Beside the [`budget`](super::budget): both must allow a
//! retry.

use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Thousandths of one token.
const TOKEN: u32 = 1_000;

/// Settings of retry throttling.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Config {
    /// Tokens at the start and at most, 1 to 1,000. 10.
    #[serde(deserialize_with = "max_tokens")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_tokens: u32,
    /// Tokens that a success gives back, at least 0.001. 0.1.
    #[serde(deserialize_with = "token_ratio")]
    #[schemars(range(min = 0.001, max = 1000.0))]
    pub token_ratio: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_tokens: 10, token_ratio: 0.1 }
    }
}

impl Config {
    fn most(&self) -> u32 {
        self.max_tokens.clamp(1, 1_000) * TOKEN
    }

    fn ratio(&self) -> u32 {
        // What is written with three decimals may lie a hair below them as a float.
        (self.token_ratio * f64::from(TOKEN) + 1e-6) as u32
    }
}

fn max_tokens<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let tokens = u32::deserialize(deserializer)?;
    if (1..=1_000).contains(&tokens) {
        return Ok(tokens);
    }
    Err(D::Error::custom("`maxTokens` is a whole number from 1 to 1000"))
}

fn token_ratio<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let ratio = f64::deserialize(deserializer)?;
    if (0.001..=1_000.0).contains(&ratio) {
        return Ok(ratio);
    }
    Err(D::Error::custom("`tokenRatio` is a number from 0.001 to 1000"))
}

/// The tokens of one destination.
#[derive(Debug)]
pub struct Throttling {
    /// Tokens that are missing to the most, so that zero is a full bucket of any size.
    missing: AtomicU32,
}

impl Default for Throttling {
    fn default() -> Self {
        Self::new()
    }
}

impl Throttling {
    /// A full bucket.
    #[must_use]
    pub const fn new() -> Self {
        Self { missing: AtomicU32::new(0) }
    }

    /// A call succeeded.
    pub fn succeeded(&self, config: &Config) {
        // The usual case writes nothing.
        if self.missing.load(Relaxed) > 0 {
            self.change(|missing| missing.saturating_sub(config.ratio()));
        }
    }

    /// A call failed on a condition of the policy, or the server asked not to be called again.
    pub fn failed(&self, config: &Config) {
        self.change(|missing| missing.saturating_add(TOKEN).min(config.most()));
    }

    /// Whether a retry or a hedge may be sent.
    #[must_use]
    pub fn allows(&self, config: &Config) -> bool {
        self.missing.load(Relaxed) < config.most() / 2
    }

    /// The tokens there are.
    #[must_use]
    pub fn tokens(&self, config: &Config) -> f64 {
        f64::from(config.most().saturating_sub(self.missing.load(Relaxed))) / f64::from(TOKEN)
    }

    fn change(&self, next: impl Fn(u32) -> u32) {
        // Always `Ok`: the closure never refuses.
        let _ = self.missing.fetch_update(Relaxed, Relaxed, |missing| Some(next(missing)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config(max_tokens: u32, token_ratio: f64) -> Config {
        Config { max_tokens, token_ratio }
    }

    #[test]
    fn retries_stop_at_half_and_resume_above_it() {
        let config = config(10, 0.1);
        let throttling = Throttling::new();
        for failures in 1..=5 {
            assert!(throttling.allows(&config), "{failures}");
            throttling.failed(&config);
        }
        assert_eq!(throttling.tokens(&config), 5.0);
        assert!(!throttling.allows(&config), "half is not above half");
        throttling.succeeded(&config);
        assert!(throttling.allows(&config));
    }

    #[test]
    fn tokens_stay_between_none_and_the_most() {
        let config = config(2, 1.0);
        let throttling = Throttling::new();
        throttling.succeeded(&config);
        assert_eq!(throttling.tokens(&config), 2.0);
        (0..5).for_each(|_| throttling.failed(&config));
        assert_eq!(throttling.tokens(&config), 0.0);
        throttling.succeeded(&config);
        assert_eq!(throttling.tokens(&config), 1.0);
    }

    #[test]
    fn a_ratio_has_three_decimals() {
        for (ratio, thousandths) in
            [(0.5466, 546), (0.001, 1), (0.1, 100), (0.29, 290), (0.999, 999), (1000.0, 1_000_000)]
        {
            assert_eq!(config(10, ratio).ratio(), thousandths, "{ratio}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            r#"{"maxTokens":0}"#,
            r#"{"maxTokens":1001}"#,
            r#"{"maxTokens":-1}"#,
            r#"{"maxTokens":1.5}"#,
            r#"{"tokenRatio":0}"#,
            r#"{"tokenRatio":0.0009}"#,
            r#"{"tokenRatio":-1}"#,
            r#"{"tokenRatio":1e9}"#,
            r#"{"tokens":1}"#,
        ] {
            assert!(serde_json::from_str::<Config>(text).is_err(), "{text}");
        }
        let nan = serde::de::value::F64Deserializer::<serde::de::value::Error>::new(f64::NAN);
        assert!(token_ratio(nan).is_err());
    }

    proptest! {
        /// The count is that of the specification, in whatever order calls end.
        #[test]
        fn the_count_is_that_of_the_specification(
            max_tokens in 1u32..=1_000,
            thousandths in 1u32..=2_000,
            ends in prop::collection::vec(any::<bool>(), 0..200),
        ) {
            let config = config(max_tokens, f64::from(thousandths) / 1e3);
            let throttling = Throttling::new();
            let mut tokens = i64::from(max_tokens) * 1_000;
            for good in ends {
                if good {
                    throttling.succeeded(&config);
                    tokens += i64::from(thousandths);
                } else {
                    throttling.failed(&config);
                    tokens -= 1_000;
                }
                tokens = tokens.clamp(0, i64::from(max_tokens) * 1_000);
                prop_assert_eq!(throttling.tokens(&config), tokens as f64 / 1e3);
                prop_assert_eq!(throttling.allows(&config), 2 * tokens > i64::from(max_tokens) * 1_000);
            }
        }
    }
}
