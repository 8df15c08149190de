//! Why a check failed.

use crate::GrpcCode;
use std::fmt;

/// What `grpc.health.v1.Health` says of a service. Source: gRPC "Health checking protocol".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Serving {
    /// Nothing is known; also what a number stands for that the standard does not know.
    Unknown,
    /// It serves.
    Serving,
    /// It does not.
    NotServing,
    /// There is no such service. Said by `Watch` alone.
    ServiceUnknown,
}

impl Serving {
    /// The status with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        match number {
            1 => Self::Serving,
            2 => Self::NotServing,
            3 => Self::ServiceUnknown,
            _ => Self::Unknown,
        }
    }

    /// Whether calls may be sent there.
    ///
    /// # Errors
    /// Why not.
    pub const fn verdict(self) -> Result<(), Cause> {
        match self {
            Self::Serving => Ok(()),
            other => Err(Cause::NotServing(other)),
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "UNKNOWN",
            Self::Serving => "SERVING",
            Self::NotServing => "NOT_SERVING",
            Self::ServiceUnknown => "SERVICE_UNKNOWN",
        }
    }
}

/// Why an endpoint did not pass a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// No check has ended yet.
    Unchecked,
    /// It answered with a status that is neither expected nor retriable.
    Status(u16),
    /// It answered with a status that is retriable.
    RetriableStatus(u16),
    /// It answered a gRPC check with this code.
    Grpc(GrpcCode),
    /// It answered a gRPC check with this.
    NotServing(Serving),
    /// One of its answers bore `x-envoy-immediate-health-check-fail`.
    ImmediateFail,
    /// There was no connection.
    Connect,
    /// There was no answer, or not the whole of it, in time.
    Timeout,
    /// The connection broke.
    Reset,
    /// It answered with what is not the protocol that was spoken, or with other bytes than were
    /// expected.
    Garbage,
    /// Its answer was too long.
    TooLong,
}

impl Cause {
    /// Whether the endpoint itself said that it is not well, so that no row is waited for.
    #[must_use]
    pub const fn is_immediate(self) -> bool {
        matches!(self, Self::Status(_) | Self::Grpc(_) | Self::NotServing(_) | Self::ImmediateFail)
    }

    /// All words that [`Cause::as_str`] gives.
    pub const WORDS: [&'static str; 10] = [
        "unchecked",
        "status",
        "grpc_status",
        "not_serving",
        "immediate_fail",
        "connect",
        "timeout",
        "reset",
        "garbage",
        "too_long",
    ];

    /// The word for labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unchecked => "unchecked",
            Self::Status(_) | Self::RetriableStatus(_) => "status",
            Self::Grpc(_) => "grpc_status",
            Self::NotServing(_) => "not_serving",
            Self::ImmediateFail => "immediate_fail",
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Garbage => "garbage",
            Self::TooLong => "too_long",
        }
    }

    /// One word of memory, for an atomic.
    pub(in crate::health) const fn pack(self) -> u64 {
        let (code, value) = match self {
            Self::Unchecked => (0, 0),
            Self::Status(status) => (1, status as u32),
            Self::RetriableStatus(status) => (2, status as u32),
            Self::Grpc(code) => (3, code.number()),
            Self::NotServing(status) => (4, status as u32),
            Self::ImmediateFail => (5, 0),
            Self::Connect => (6, 0),
            Self::Timeout => (7, 0),
            Self::Reset => (8, 0),
            Self::Garbage => (9, 0),
            Self::TooLong => (10, 0),
        };
        code << 32 | value as u64
    }

    pub(in crate::health) const fn unpack(word: u64) -> Self {
        let value = word as u32;
        match word >> 32 {
            1 => Self::Status(value as u16),
            2 => Self::RetriableStatus(value as u16),
            3 => Self::Grpc(GrpcCode::new(value)),
            4 => Self::NotServing(match value {
                0 => Serving::Unknown,
                1 => Serving::Serving,
                2 => Serving::NotServing,
                _ => Serving::ServiceUnknown,
            }),
            5 => Self::ImmediateFail,
            6 => Self::Connect,
            7 => Self::Timeout,
            8 => Self::Reset,
            9 => Self::Garbage,
            10 => Self::TooLong,
            _ => Self::Unchecked,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unchecked => f.write_str("no health check has ended yet"),
            Self::Status(status) | Self::RetriableStatus(status) => {
                write!(f, "health check: HTTP {status}")
            }
            Self::Grpc(code) => write!(f, "health check: gRPC {code}"),
            Self::NotServing(status) => write!(f, "health check: {}", status.as_str()),
            Self::ImmediateFail => f.write_str("an answer said so"),
            Self::Connect => f.write_str("health check: no connection"),
            Self::Timeout => f.write_str("health check: no answer in time"),
            Self::Reset => f.write_str("health check: the connection broke"),
            Self::Garbage => f.write_str("health check: other than the expected answer"),
            Self::TooLong => f.write_str("health check: the answer is too long"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_survive_their_word() {
        for cause in [
            Cause::Unchecked,
            Cause::Status(599),
            Cause::RetriableStatus(503),
            Cause::Grpc(GrpcCode::new(u32::MAX)),
            Cause::NotServing(Serving::Unknown),
            Cause::NotServing(Serving::Serving),
            Cause::NotServing(Serving::NotServing),
            Cause::NotServing(Serving::ServiceUnknown),
            Cause::ImmediateFail,
            Cause::Connect,
            Cause::Timeout,
            Cause::Reset,
            Cause::Garbage,
            Cause::TooLong,
        ] {
            assert_eq!(Cause::unpack(cause.pack()), cause);
        }
    }
}
