//! Slow start: an endpoint that is new takes fewer calls at first.
//!
//! An endpoint that has taken calls for `t` counts with
//! `weight · max(minWeightPercent, (t / window)^(1 / aggression))`. It is *new* when it joined a
//! set that was in use, or came back from being unreachable or ejected; `t` runs from the first
//! look at it. Those that a caller finds when it starts are not new to it: it knows of no
//! difference between them.
//!
//! A drawn endpoint that is new is kept with the probability of that factor, and another is drawn
//! otherwise, up to five times. So nothing is built anew while endpoints warm up.
//!
//! It holds for the policies that draw or rotate; not for `PickFirst` and those by hash.
//! Source: Envoy `SlowStartConfig`.

use crate::Draw;
use crate::config::{percent, span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Settings of slow start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Config {
    /// Time until an endpoint counts in full. 30 s.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub window: Duration,
    /// What it counts at least, in percent. 10.
    #[serde(deserialize_with = "percent::deserialize")]
    #[schemars(with = "percent::Number")]
    pub min_weight_percent: u8,
    /// How fast it grows: 1 is even, more is faster at first; above 0. 1.0.
    pub aggression: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { window: Duration::from_secs(30), min_weight_percent: 10, aggression: 1.0 }
    }
}

impl Config {
    /// What an endpoint counts, from 0 to 1, after it has taken calls for `age`.
    #[must_use]
    pub fn factor(&self, age: Duration) -> f64 {
        if age >= self.window {
            return 1.0;
        }
        let grown = (age.as_secs_f64() / self.window.as_secs_f64()).powf(1.0 / self.aggression);
        grown.max(f64::from(self.min_weight_percent) / 100.0).min(1.0)
    }

    /// Whether an endpoint of this age takes this call.
    pub(super) fn admits(&self, age: Duration, draw: &mut impl Draw) -> bool {
        age >= self.window || draw.unit() < self.factor(age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weight_grows_from_the_least_to_all() {
        let config = Config::default();
        let at = |seconds| config.factor(Duration::from_secs(seconds));
        for (seconds, expected) in
            [(0, 0.1), (2, 0.1), (3, 0.1), (15, 0.5), (29, 29.0 / 30.0), (30, 1.0)]
        {
            assert!((at(seconds) - expected).abs() < 1e-9, "{seconds}: {}", at(seconds));
        }
    }

    #[test]
    fn more_aggression_is_faster_at_first() {
        let config = Config { aggression: 2.0, ..Config::default() };
        let quarter = config.factor(config.window / 4);
        assert!((quarter - 0.5).abs() < 1e-9, "(1/4)^(1/2): {quarter}");
    }

    #[test]
    fn absurd_settings_stay_within_bounds() {
        for aggression in [f64::NAN, -1.0, 0.0, f64::INFINITY, f64::MIN_POSITIVE] {
            let config = Config { aggression, ..Config::default() };
            let factor = config.factor(Duration::from_secs(10));
            assert!((0.1..=1.0).contains(&factor), "{aggression}: {factor}");
        }
        let none = Config { window: Duration::ZERO, ..Config::default() };
        assert!((none.factor(Duration::ZERO) - 1.0).abs() < 1e-9);
    }
}
