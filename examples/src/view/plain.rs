//! One line per second, for a pipe.

use super::Moment;
use std::time::Duration;

/// See the [module docs](self).
#[derive(Default)]
pub(crate) struct Plain {
    last: Option<Duration>,
}

impl Plain {
    pub(crate) fn say(&self, sentence: &str) {
        if !sentence.is_empty() {
            println!("* {sentence}");
        }
    }

    pub(crate) fn draw(&mut self, moment: &Moment<'_>) {
        if self.last.is_some_and(|last| last.saturating_sub(moment.left) < Duration::from_secs(1)) {
            return;
        }
        self.last = Some(moment.left);
        let states: Vec<String> = moment
            .rows
            .iter()
            .flat_map(|row| {
                row.endpoints.iter().map(|endpoint| {
                    format!("{}: {}", moment.who(&row.name, &endpoint.address).0, endpoint.state)
                })
            })
            .collect();
        println!(
            "{:>3} s left  {:<7} {:>5.0}/s  {:>6.2} % good  p50 {:>5.1} ms  p99 {:>5.0} ms  {}",
            moment.left.as_secs(),
            moment.phase,
            moment.rate(),
            moment.recent.success(),
            moment.recent.ms(0.5),
            moment.recent.ms(0.99),
            states.join(", "),
        );
    }
}
