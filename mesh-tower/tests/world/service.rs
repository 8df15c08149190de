//! What calls cost.

use std::time::Duration;

const SIGMA: f64 = 0.7;
const DEAR: Duration = Duration::from_millis(1500);

/// How long calls keep a slot of an endpoint that is well.
#[derive(Clone, Copy)]
pub(crate) enum Service {
    /// By its mean, with σ 0.7 as in the world.
    Lognormal(Duration),
    /// By its mean.
    Exponential(Duration),
    /// By what most cost; one of a hundred costs 1.5 s.
    Mixed(Duration),
}

/// What one call costs.
#[derive(Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) span: Duration,
    /// Whether it is one of the dear ones, whose latency says nothing about the endpoint.
    pub(crate) dear: bool,
}

impl Service {
    pub(crate) fn mean(self) -> Duration {
        match self {
            Self::Lognormal(mean) | Self::Exponential(mean) => mean,
            Self::Mixed(cheap) => (cheap * 99 + DEAR) / 100,
        }
    }

    pub(crate) fn draw(self, rng: &mut fastrand::Rng) -> Cost {
        let (span, dear) = match self {
            Self::Lognormal(mean) => {
                let radius = (2.0 * exponential(rng)).sqrt();
                let normal = radius * (std::f64::consts::TAU * rng.f64()).cos();
                (mean.mul_f64((SIGMA * normal - SIGMA * SIGMA / 2.0).exp()), false)
            }
            Self::Exponential(mean) => (mean.mul_f64(exponential(rng)), false),
            Self::Mixed(_) if rng.u32(..100) == 0 => (DEAR, true),
            Self::Mixed(cheap) => (cheap, false),
        };
        Cost { span, dear }
    }
}

/// A draw from the exponential distribution with mean 1.
pub(crate) fn exponential(rng: &mut fastrand::Rng) -> f64 {
    -(1.0 - rng.f64()).ln()
}
