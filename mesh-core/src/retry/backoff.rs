//! Back-off: how long to wait before retry `n`.
//!
//! `delay = random below min(base × 2^(n−1), max)`. With 25 ms and 250 ms the bounds are 25, 50,
//! 100, 200, 250 ms.
//!
//! Source: Envoy's jittered exponential back-off, as its code draws it (its text says otherwise).

use crate::Draw;
use crate::config::span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Settings of a back-off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Config {
    /// Bound of the first delay. 25 ms.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub base: Duration,
    /// Bound of every delay; `base` if that is longer. 250 ms.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub max: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self::new(Duration::from_millis(25), Duration::from_millis(250))
    }
}

impl Config {
    /// A back-off from `base`, doubling to `max`.
    #[must_use]
    pub const fn new(base: Duration, max: Duration) -> Self {
        Self { base, max }
    }

    /// Every delay before retry `n` (from 1) is below this; zero if the back-off is.
    #[must_use]
    pub fn bound(&self, n: u32) -> Duration {
        self.base
            .saturating_mul(2u32.saturating_pow(n.saturating_sub(1)))
            .min(self.max.max(self.base))
    }

    /// The delay before retry `n` (from 1).
    #[must_use]
    pub fn delay(&self, n: u32, draw: &mut impl Draw) -> Duration {
        self.bound(n).mul_f64(draw.unit())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bounds_double_from_25_to_250_ms() {
        let config = Config::default();
        let bounds: Vec<_> = (1..=6).map(|n| config.bound(n).as_millis()).collect();
        assert_eq!(bounds, [25, 50, 100, 200, 250, 250]);
        assert_eq!(config.delay(1, &mut || 0), Duration::ZERO);
        let long = Config { base: Duration::from_secs(1), ..config };
        assert_eq!(long.bound(3), Duration::from_secs(1), "not cut to the default of `max`");
    }

    proptest! {
        #[test]
        fn a_delay_is_below_its_bound(n in 0u32.., bits: u64, base in 1u64..1_000, more in 0u64..10_000) {
            let config = Config::new(Duration::from_millis(base), Duration::from_millis(base + more));
            let delay = config.delay(n, &mut || bits);
            prop_assert!(delay < config.bound(n));
            prop_assert!(config.bound(n) <= Duration::from_millis(base + more));
        }
    }
}
