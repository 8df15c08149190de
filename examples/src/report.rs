//! The sum of all phases, as the demo ends with it.

use crate::load::Tally;
use crate::phase::{Counts, Phase};
use std::fmt;

/// Success below this, in percent and in any phase, and the demo has failed.
const GOOD: f64 = 99.9;

/// See the [module docs](self).
#[derive(Debug, Default)]
pub(crate) struct Report(Vec<Phase>);

impl Report {
    pub(crate) fn add(&mut self, phase: Phase) {
        self.0.push(phase);
    }

    /// The phase that was added last.
    pub(crate) fn last_mut(&mut self) -> Option<&mut Phase> {
        self.0.last_mut()
    }

    /// Whether there were calls, and success stayed high enough in every phase.
    pub(crate) fn is_good(&self) -> bool {
        let tallies: Vec<Tally> = self.0.iter().map(Phase::with).collect();
        tallies.iter().any(|tally| tally.calls > 0)
            && tallies.iter().all(|tally| tally.success() >= GOOD)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "         ┌────────── with the mesh ──────────┐ ┌───── without ─────┐")?;
        writeln!(f, "phase      calls failed retries p50 ms p99 ms   failed p50 ms p99 ms")?;
        let (mut sum, mut counts) = (Tally::new(), Counts::default());
        for phase in &self.0 {
            let (with, without, own) = (phase.with(), phase.without(), phase.counts());
            sum.add(&with);
            counts = counts.plus(own);
            writeln!(
                f,
                "{:<9} {:>6} {:>6} {:>7} {:>6.1} {:>6.0}   {:>4.1} % {:>6.1} {:>6.0}",
                phase.name,
                with.calls,
                with.failed,
                own.retries,
                with.ms(0.5),
                with.ms(0.99),
                100.0 - without.success(),
                without.ms(0.5),
                without.ms(0.99),
            )?;
        }
        writeln!(
            f,
            "\n{} calls, {} failed: {:.3} % good\nretries: {}, amplification: {:.4} attempts per call, ejections: {}",
            sum.calls,
            sum.failed,
            sum.success(),
            counts.retries,
            counts.amplification(),
            counts.ejections,
        )?;
        f.write_str(if self.is_good() {
            "Good: at least 99.9 % in every phase.\n"
        } else {
            "NOT good: below 99.9 % in a phase.\n"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Shared;
    use crate::phase::tests::{names, phase};
    use std::time::Duration;

    #[test]
    fn sums_over_phases() {
        let mut report = Report::default();
        assert!(!report.is_good(), "nothing was shown");
        report.add(phase(None));
        report.add(phase(Some("b")));
        let text = report.to_string();
        assert!(report.is_good());
        assert!(text.contains("180 calls, 0 failed: 100.000 % good\n"), "{text}");
        assert!(
            text.contains("\nretries: 4, amplification: 1.0111 attempts per call, ejections: 2\n"),
            "{text}"
        );
        assert!(text.contains(" 50.0 % "), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn one_bad_phase_is_not_made_good_by_others() {
        let tally = Shared::new();
        for call in 0..500 {
            tally.record(Duration::from_millis(1), (call == 7).then_some("reset"));
        }
        let mut report = Report::default();
        report.add(phase(None));
        report.add(Phase::new("killed", None, names(), [tally, Shared::new()], &[]));
        assert!(!report.is_good());
        assert!(report.to_string().contains("NOT good"));
    }
}
