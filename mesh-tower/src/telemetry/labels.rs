//! The labels by which things are counted.

use super::by_label::{ByLabel, Label};
use mesh_core::health::check::Cause;
use mesh_core::{ErrorKind, Outcome};

macro_rules! labels {
    ($(
        $(#[$doc:meta])*
        $label:ident { $($(#[$of_value:meta])* $value:ident = $word:literal,)* }
    )*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $label { $($(#[$of_value])* $value,)* }

        impl $label {
            /// The label.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$value => $word,)* }
            }
        }

        impl Label for $label {
            const ALL: &'static [Self] = &[$(Self::$value),*];
        }
    )*};
}

labels! {
    /// How a call ended, as a label.
    Ended {
        /// With an answer that is no failure.
        Success = "success",
        /// With a failure of the endpoint or of the mesh.
        Failure = "failure",
        /// The caller went away first.
        Cancelled = "cancelled",
    }

    /// State of a breaker, as a label.
    BreakerState {
        /// Calls flow.
        Closed = "closed",
        /// Calls are refused.
        Open = "open",
        /// One call is let through to see.
        HalfOpen = "half_open",
    }

    /// How a probe of an endpoint ended (see [`report`](crate::report)), as a label.
    Probed {
        /// With a report, in time.
        Answered = "answered",
        /// Not in time, or the connection broke.
        Unanswered = "unanswered",
        /// With something else: the endpoint does not know what a probe is.
        Refused = "refused",
    }

    /// What came of asking the rate limit service, as a label. The words are Envoy's.
    GlobalLimit {
        /// Within all limits.
        Ok = "ok",
        /// Over one.
        OverLimit = "over_limit",
        /// No answer, or none that can be used.
        Error = "error",
        /// Of the errors, those that let the call pass.
        FailureModeAllowed = "failure_mode_allowed",
    }

    /// How a caller's TLS handshake ended, as a label.
    Handshake {
        /// The connection is secured.
        Success = "success",
        /// The caller showed no certificate, or none that is trusted.
        ClientCertificate = "client_certificate",
        /// It took too long.
        Timeout = "timeout",
        /// The caller went away, refused our certificate, or spoke no TLS that we do.
        Failure = "failure",
    }
}

impl From<Outcome> for Ended {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Success => Self::Success,
            Outcome::Cancelled => Self::Cancelled,
            _ => Self::Failure,
        }
    }
}

impl Label for ErrorKind {
    const ALL: &'static [Self] = Self::ALL;
}

/// A count for each kind of error.
pub(super) type ByKind = ByLabel<ErrorKind, { ErrorKind::ALL.len() }>;

/// Whether a limit is enforced.
impl Label for bool {
    const ALL: &'static [Self] = &[false, true];
}

/// How an active health check ended, by the word for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Checked(pub(super) &'static str);

impl From<Result<(), Cause>> for Checked {
    fn from(seen: Result<(), Cause>) -> Self {
        Self(seen.map_or_else(Cause::as_str, |()| "success"))
    }
}

impl Label for Checked {
    const ALL: &'static [Self] = &{
        let mut all = [Self("success"); 1 + Cause::WORDS.len()];
        let mut at = 0;
        while at < Cause::WORDS.len() {
            all[1 + at] = Self(Cause::WORDS[at]);
            at += 1;
        }
        all
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_of_a_check_is_a_label() {
        assert!(Checked::ALL.contains(&Ok(()).into()));
        for cause in [Cause::Unchecked, Cause::Status(503), Cause::Connect, Cause::TooLong] {
            assert!(Checked::ALL.contains(&Err(cause).into()), "{cause:?}");
        }
    }
}
