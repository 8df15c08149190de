//! One line per second, for a pipe.

use super::Moment;

/// See the [module docs](self).
#[derive(Debug, Default)]
pub(crate) struct Plain {
    last: Option<u64>,
}

impl Plain {
    pub(super) fn draw(&mut self, moment: &Moment<'_>) {
        let left = moment.seconds_left();
        if self.last.replace(left) == Some(left) {
            return;
        }
        let endpoints = moment.endpoints();
        let states: Vec<String> =
            endpoints.iter().map(|(name, _, row)| format!("{name}: {}", row.state)).collect();
        let recent = moment.recent.tally();
        println!(
            "{left:>4} s left  {:<6} {:>5.0} calls/s {:>7.2} % good  p50 {:>5.1} ms  p99 {:>5.1} ms  {}",
            moment.phase,
            moment.recent.calls_per_second(),
            recent.success(),
            recent.ms(0.5),
            recent.ms(0.99),
            states.join("; "),
        );
    }
}
