//! The one clock of the runtime side; tests pause it.

use mesh_core::Timestamp;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

static ORIGIN: OnceLock<Instant> = OnceLock::new();

/// How far the origin lies before the first look at the clock, so that instants shortly before
/// it can be told apart.
const BEFORE: Duration = Duration::from_secs(3600);

/// The present instant: tokio's clock, which `tokio::time::pause` stops.
#[must_use]
pub fn now() -> Timestamp {
    timestamp(Instant::now())
}

/// The time of day, for what peers state as a date; it does not pause.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place that reads it")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// The same instant, as the core writes it.
#[must_use]
pub fn timestamp(instant: Instant) -> Timestamp {
    let origin = origin();
    match instant.checked_duration_since(origin) {
        // Whole seconds in 64 bits of nanoseconds: no process lives longer.
        Some(after) => Timestamp::from_nanos(
            (BEFORE.as_secs() + after.as_secs()) * 1_000_000_000 + u64::from(after.subsec_nanos()),
        ),
        None => Timestamp::ZERO + BEFORE - (origin - instant),
    }
}

/// The same instant, as timers take it.
#[must_use]
pub fn instant(timestamp: Timestamp) -> Instant {
    let since = Duration::from_nanos(timestamp.as_nanos());
    let moved = match since.checked_sub(BEFORE) {
        Some(after) => origin().checked_add(after),
        None => origin().checked_sub(BEFORE - since),
    };
    moved.unwrap_or_else(|| origin() + Duration::from_secs(86_400 * 365))
}

/// Read off the real clock: a paused one may have been moved far ahead by whoever asks first, and
/// what other runtimes read then would lie before the origin.
#[expect(
    clippy::disallowed_methods,
    reason = "the origin is the same for all clocks, paused or not"
)]
fn origin() -> Instant {
    *ORIGIN.get_or_init(|| Instant::from_std(std::time::Instant::now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_moves_with_the_paused_clock() {
        let start = now();
        tokio::time::advance(Duration::from_millis(250)).await;
        assert_eq!(now().since(start), Duration::from_millis(250));
        assert_eq!(timestamp(instant(start)), start);
    }

    #[tokio::test(start_paused = true)]
    async fn an_instant_before_the_first_look_keeps_its_distance() {
        let origin = origin();
        let (early, late) = (origin - Duration::from_secs(5), origin - Duration::from_secs(2));
        assert_eq!(timestamp(late).since(timestamp(early)), Duration::from_secs(3));
        assert_eq!(instant(timestamp(early)), early);
    }
}
