//! Capacity: the weight of an endpoint by its load reports.
//!
//! `weight = qps / (utilization + penalty × eps / qps)`: the calls per second at which it would be
//! fully used. A report without calls or utilization says nothing. A weight counts from the
//! *blackout period* after the first report on, because the first ones are those of a cold
//! endpoint, until the *expiration period* has passed without any.
//!
//! Source: gRFC A58.

use super::Report;
use crate::Timestamp;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// What reports said of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Capacity {
    /// `utilization / qps` and `eps / qps²`, as `f32` each; 0 before the first report.
    parts: AtomicU64,
    /// Nanoseconds of the first report of an unbroken row, and of the last.
    since: AtomicU64,
    last: AtomicU64,
}

impl Capacity {
    pub(super) const fn new() -> Self {
        Self { parts: AtomicU64::new(0), since: AtomicU64::new(0), last: AtomicU64::new(0) }
    }

    /// Takes over a report, if it says enough.
    pub(super) fn told(&self, now: Timestamp, report: &Report) {
        let utilization = report.utilization();
        if report.qps <= 0.0 || utilization <= 0.0 {
            return;
        }
        let per_call = (utilization / report.qps) as f32;
        let errors = (report.eps / report.qps / report.qps) as f32;
        let word = (u64::from(per_call.to_bits()) << 32) | u64::from(errors.to_bits());
        self.parts.store(word, Relaxed);
        let now = now.as_nanos().max(1);
        if self.since.load(Relaxed) == 0 {
            self.since.store(now, Relaxed);
        }
        self.last.store(now, Relaxed);
    }

    /// Its weight, if one can be told.
    pub(super) fn weight(
        &self,
        now: Timestamp,
        penalty: f64,
        blackout: Duration,
        expiration: Duration,
    ) -> Option<f64> {
        let word = self.parts.load(Relaxed);
        let at = |word: &AtomicU64| Timestamp::from_nanos(word.load(Relaxed));
        if word == 0 {
            return None;
        }
        if now.since(at(&self.last)) >= expiration {
            // The next report begins a new row.
            self.since.store(0, Relaxed);
            return None;
        }
        let since = at(&self.since);
        if since == Timestamp::ZERO || now.since(since) < blackout {
            return None;
        }
        let part = |bits: u64| f64::from(f32::from_bits(bits as u32));
        let weight = 1.0 / (part(word >> 32) + penalty * part(word));
        (weight.is_finite() && weight > 0.0).then_some(weight)
    }
}
