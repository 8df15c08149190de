//! The last two seconds, which the table shows.

use crate::load::Tally;
use crate::services::dashboard::{DestinationRow, EndpointRow};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

const SPAN: Duration = Duration::from_secs(2);

/// See the [module docs](self).
#[derive(Debug, Default)]
pub(crate) struct Recent(VecDeque<Frame>);

/// What came until a moment, and what the mesh said of itself then.
#[derive(Debug)]
struct Frame {
    at: Instant,
    tally: Tally,
    rows: Vec<DestinationRow>,
}

impl Recent {
    pub(crate) fn push(&mut self, tally: Tally, rows: &[DestinationRow]) {
        let at = Instant::now();
        self.0.push_back(Frame { at, tally, rows: rows.to_vec() });
        // The oldest only says where the span begins.
        while self.0.get(1).is_some_and(|second| at - second.at >= SPAN) {
            self.0.pop_front();
        }
    }

    /// All calls but those of the oldest frame, which ended before the span.
    pub(crate) fn tally(&self) -> Tally {
        let mut sum = Tally::new();
        self.0.iter().skip(1).for_each(|frame| sum.add(&frame.tally));
        sum
    }

    /// Calls that came to their end, per second.
    pub(crate) fn calls_per_second(&self) -> f64 {
        self.per_second(self.tally().calls)
    }

    /// Attempts at an endpoint, per second.
    pub(crate) fn attempts_per_second(&self, address: &str) -> f64 {
        let attempts = |frame: &Frame| {
            let mut endpoints = frame.rows.iter().flat_map(|row| &row.endpoints);
            endpoints.find(|row: &&EndpointRow| row.address == address).map(|row| row.attempts)
        };
        let first = self.0.iter().find_map(attempts).unwrap_or(0);
        let last = self.0.iter().rev().find_map(attempts).unwrap_or(0);
        self.per_second(last.saturating_sub(first))
    }

    fn per_second(&self, count: u64) -> f64 {
        match (self.0.front(), self.0.back()) {
            (Some(first), Some(last)) if last.at > first.at => {
                count as f64 / (last.at - first.at).as_secs_f64()
            }
            _ => 0.0,
        }
    }
}
