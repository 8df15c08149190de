//! Why an endpoint was ejected.

use std::fmt;

/// Why an endpoint was ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// So many 5xx in a row.
    Consecutive5xx(u32),
    /// So many gateway failures in a row.
    ConsecutiveGatewayFailure(u32),
    /// So many failures on the way in a row.
    ConsecutiveLocalOrigin(u32),
    /// A success rate below that of the others; both in tenths of a percent.
    SuccessRate {
        /// Of the endpoint.
        rate: u32,
        /// What it should have been at least.
        required: u32,
    },
    /// So many percent of the calls failed.
    FailurePercentage(u32),
    /// In split mode: it could be reached less often than the others; both in tenths of a percent.
    LocalOriginSuccessRate {
        /// Of the endpoint.
        rate: u32,
        /// What it should have been at least.
        required: u32,
    },
    /// In split mode: so many percent of the calls failed on the way.
    LocalOriginFailurePercentage(u32),
    /// It was slower than the others; both in tenths of a millisecond.
    Latency {
        /// Of the endpoint.
        latency: u32,
        /// The median of all.
        median: u32,
    },
    /// The call that should have shown that it is well again failed.
    Probation,
}

/// Largest number that [`Reason::pack`] keeps; larger ones are cut to it.
pub(super) const MAX_PACKED: u32 = (1 << 24) - 1;

impl Reason {
    pub(in crate::health) fn pack(self) -> u64 {
        let (code, a, b) = match self {
            Self::Consecutive5xx(n) => (1, n, 0),
            Self::ConsecutiveGatewayFailure(n) => (2, n, 0),
            Self::ConsecutiveLocalOrigin(n) => (3, n, 0),
            Self::SuccessRate { rate, required } => (4, rate, required),
            Self::FailurePercentage(n) => (5, n, 0),
            Self::LocalOriginSuccessRate { rate, required } => (6, rate, required),
            Self::LocalOriginFailurePercentage(n) => (7, n, 0),
            Self::Latency { latency, median } => (8, latency, median),
            Self::Probation => (9, 0, 0),
        };
        code << 48 | u64::from(a.min(MAX_PACKED)) << 24 | u64::from(b.min(MAX_PACKED))
    }

    pub(in crate::health) fn unpack(word: u64) -> Self {
        let a = (word >> 24) as u32 & MAX_PACKED;
        let b = word as u32 & MAX_PACKED;
        match word >> 48 {
            2 => Self::ConsecutiveGatewayFailure(a),
            3 => Self::ConsecutiveLocalOrigin(a),
            4 => Self::SuccessRate { rate: a, required: b },
            5 => Self::FailurePercentage(a),
            6 => Self::LocalOriginSuccessRate { rate: a, required: b },
            7 => Self::LocalOriginFailurePercentage(a),
            8 => Self::Latency { latency: a, median: b },
            9 => Self::Probation,
            _ => Self::Consecutive5xx(a),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Consecutive5xx(n) => write!(f, "{n} consecutive 5xx"),
            Self::ConsecutiveGatewayFailure(n) => write!(f, "{n} consecutive gateway failures"),
            Self::ConsecutiveLocalOrigin(n) => write!(f, "{n} consecutive connection failures"),
            Self::SuccessRate { rate, required } => {
                write!(f, "success rate {} %, below {} %", Tenths(*rate), Tenths(*required))
            }
            Self::FailurePercentage(n) => write!(f, "{n} % of calls failed"),
            Self::LocalOriginSuccessRate { rate, required } => {
                write!(f, "reached in {} % of calls, below {} %", Tenths(*rate), Tenths(*required))
            }
            Self::LocalOriginFailurePercentage(n) => write!(f, "{n} % of calls failed on the way"),
            Self::Latency { latency, median } => {
                write!(f, "latency {} ms, the median is {} ms", Tenths(*latency), Tenths(*median))
            }
            Self::Probation => f.write_str("failed on probation"),
        }
    }
}

struct Tenths(u32);

impl fmt::Display for Tenths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 / 10, self.0 % 10)
    }
}
