//! The client's side of `grpc.health.v1.Health/Watch` at one endpoint.
//!
//! | heard | the endpoint | then |
//! |---|---|---|
//! | SERVING | is in | the next message is waited for |
//! | any other status | is out | the same |
//! | the call ended with UNIMPLEMENTED | is in | it is not asked again |
//! | the call ended otherwise, OK included | is out | asked again: at once if there was a message since it was asked last, else after a back-off |
//!
//! The back-off before try `n` is `min(1 s × 1.6^(n−1), max)`, with ±20 % jitter. `max` is the
//! check's `interval`: an endpoint that restarts is not kept out for gRPC's two minutes.
//!
//! Source: gRFC A17; gRPC "Connection backoff" for the back-off.

use super::{Cause, Serving};
use crate::{Draw, GrpcCode};
use std::time::Duration;

const BASE: Duration = Duration::from_secs(1);
const FACTOR: f64 = 1.6;
const JITTER: f64 = 0.2;

/// What a watching call brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Heard {
    /// A message.
    Status(Serving),
    /// The end, with this status.
    Ended(GrpcCode),
    /// The end, without a status.
    Lost(Cause),
}

/// What is to be done then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Next {
    /// Wait for the next message.
    Listen,
    /// Ask again after this time.
    AskAfter(Duration),
    /// Ask no more.
    Stop,
}

/// The client's side of `grpc.health.v1.Health/Watch` at one endpoint (gRFC A17): what follows from
/// what was heard, without I/O.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// Tries in a row that brought no message.
    silent: u32,
    /// The call under way has brought one.
    heard: bool,
}

impl Watch {
    /// A watch that has not asked yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { silent: 0, heard: false }
    }

    /// Whether the call under way has brought a message.
    #[must_use]
    pub const fn has_heard(&self) -> bool {
        self.heard
    }

    /// Takes in what was heard: whether the endpoint is well, and what to do.
    pub fn record(
        &mut self,
        heard: Heard,
        max: Duration,
        draw: &mut impl Draw,
    ) -> (Result<(), Cause>, Next) {
        match heard {
            Heard::Status(status) => {
                (self.silent, self.heard) = (0, true);
                (status.verdict(), Next::Listen)
            }
            Heard::Ended(GrpcCode::UNIMPLEMENTED) => (Ok(()), Next::Stop),
            Heard::Ended(code) => (Err(Cause::Grpc(code)), self.again(max, draw)),
            Heard::Lost(cause) => (Err(cause), self.again(max, draw)),
        }
    }

    fn again(&mut self, max: Duration, draw: &mut impl Draw) -> Next {
        if std::mem::take(&mut self.heard) {
            return Next::AskAfter(Duration::ZERO);
        }
        let grown =
            BASE.as_secs_f64() * FACTOR.powi(i32::try_from(self.silent).unwrap_or(i32::MAX));
        let bounded = grown.min(max.as_secs_f64());
        self.silent = self.silent.saturating_add(1);
        let jittered = bounded * (1.0 + JITTER * (2.0 * draw.unit() - 1.0));
        Next::AskAfter(Duration::try_from_secs_f64(jittered).unwrap_or(max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_secs(5);

    fn middle() -> u64 {
        1 << 63
    }

    #[test]
    fn a_message_decides_and_the_next_is_waited_for() {
        let mut watch = Watch::new();
        for (status, well) in [
            (Serving::Serving, true),
            (Serving::NotServing, false),
            (Serving::ServiceUnknown, false),
            (Serving::Unknown, false),
        ] {
            let (verdict, next) = watch.record(Heard::Status(status), MAX, &mut middle);
            assert_eq!((verdict.is_ok(), next), (well, Next::Listen), "{status:?}");
        }
    }

    #[test]
    fn unimplemented_is_healthy_and_not_asked_again() {
        let end = Heard::Ended(GrpcCode::UNIMPLEMENTED);
        assert_eq!(Watch::new().record(end, MAX, &mut middle), (Ok(()), Next::Stop));
    }

    #[test]
    fn any_other_end_is_unhealthy_and_asked_again_ever_later() {
        let mut watch = Watch::new();
        let ends = [
            Heard::Ended(GrpcCode::OK),
            Heard::Ended(GrpcCode::UNAVAILABLE),
            Heard::Lost(Cause::Connect),
            Heard::Lost(Cause::Reset),
            Heard::Lost(Cause::Timeout),
        ];
        for (end, millis) in ends.into_iter().zip([1000, 1600, 2560, 4096, 5000]) {
            let (verdict, next) = watch.record(end, MAX, &mut middle);
            assert!(verdict.is_err(), "{end:?}");
            assert_eq!(next, Next::AskAfter(Duration::from_millis(millis)), "{end:?}");
        }
    }

    #[test]
    fn a_message_resets_the_back_off_and_the_next_try_is_at_once() {
        let mut watch = Watch::new();
        let lost = Heard::Lost(Cause::Reset);
        for heard in [lost, lost, Heard::Status(Serving::Serving)] {
            let _ = watch.record(heard, MAX, &mut middle);
        }
        let mut next = || watch.record(lost, MAX, &mut middle).1;
        assert_eq!(next(), Next::AskAfter(Duration::ZERO));
        assert_eq!(next(), Next::AskAfter(Duration::from_secs(1)));
    }

    #[test]
    fn however_often_it_fails_the_back_off_is_bounded() {
        let mut watch = Watch { silent: u32::MAX, heard: false };
        for bits in [0, u64::MAX] {
            let (_, next) = watch.record(Heard::Lost(Cause::Connect), MAX, &mut || bits);
            let Next::AskAfter(wait) = next else { panic!("{next:?}") };
            assert!(MAX.mul_f64(0.79) < wait && wait <= MAX.mul_f64(1.2), "{wait:?}");
        }
    }
}
