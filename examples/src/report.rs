//! What the mesh did about each fault, in a sentence, and the sum of it all.

use crate::load::Tally;
use crate::processes::Instance;
use crate::services::dashboard::{DestinationRow, EndpointRow};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;
use tokio::time::Instant;

/// Success below this, in any phase, and the demo has failed.
const GOOD: f64 = 99.9;

/// One part of the demo, from one step of the script to the next.
pub(crate) struct Phase {
    pub(crate) name: &'static str,
    with: Tally,
    without: Tally,
    started: Instant,
    before: Counts,
    now: Counts,
    names: BTreeMap<String, &'static str>,
    /// First change of each endpoint of counting: when, and the state in words.
    changes: Vec<(Duration, &'static str, String)>,
    ready: BTreeMap<String, bool>,
    /// Attempts at each endpoint, from its own first to its last sight in this phase.
    attempts: BTreeMap<String, (u64, u64)>,
}

/// Counters of the meshed destinations.
#[derive(Clone, Copy, Default)]
struct Counts {
    retries: u64,
    attempts: u64,
    ejections: u64,
}

impl Counts {
    fn of(rows: &[DestinationRow]) -> Self {
        rows.iter().fold(Self::default(), |sum, row| Self {
            retries: sum.retries + row.retries,
            attempts: sum.attempts + row.attempts,
            ejections: sum.ejections + row.ejections,
        })
    }

    const fn since(self, before: Self) -> Self {
        Self {
            retries: self.retries.saturating_sub(before.retries),
            attempts: self.attempts.saturating_sub(before.attempts),
            ejections: self.ejections.saturating_sub(before.ejections),
        }
    }
}

impl Phase {
    pub(crate) fn new(name: &'static str, rows: &[DestinationRow], instances: &[Instance]) -> Self {
        let before = Counts::of(rows);
        Self {
            name,
            with: Tally::new(),
            without: Tally::new(),
            started: Instant::now(),
            before,
            now: before,
            names: instances.iter().map(|one| (one.address.to_string(), one.name)).collect(),
            changes: Vec::new(),
            ready: counting(rows).map(|row| (row.address.clone(), row.ready)).collect(),
            attempts: BTreeMap::new(),
        }
    }

    pub(crate) fn watch(&mut self, with: &Tally, without: &Tally, rows: &[DestinationRow]) {
        self.with.add(with);
        self.without.add(without);
        if rows.is_empty() {
            return;
        }
        self.now = Counts::of(rows);
        for row in counting(rows) {
            let seen =
                self.attempts.entry(row.address.clone()).or_insert((row.attempts, row.attempts));
            seen.1 = row.attempts;
            let was = self.ready.insert(row.address.clone(), row.ready);
            if was.is_some_and(|was| was != row.ready)
                && let Some(name) = self.names.get(&row.address)
            {
                self.changes.push((self.started.elapsed(), name, row.state.clone()));
            }
        }
    }

    /// What the mesh did.
    pub(crate) fn sentence(&self) -> String {
        let counts = self.now.since(self.before);
        let mut parts = Vec::new();
        for (after, name, state) in self.changes.iter().take(2) {
            parts.push(format!("after {:.1} s {name} was {state}", after.as_secs_f64()));
        }
        if self.name == "slow"
            && let Some(share) = self.share("c")
        {
            parts.push(format!("c was sent {share:.0} % of the calls"));
        }
        if counts.retries > 0 {
            parts.push(format!("{} calls were tried again elsewhere", counts.retries));
        }
        parts.push(format!(
            "{} of {} failed (without the mesh {} of {})",
            self.with.failed, self.with.calls, self.without.failed, self.without.calls
        ));
        let mut sentence = format!("{}: {}", self.name, parts.join("; "));
        if let Some(error) = &self.with.last_error {
            sentence.push_str(&format!(" — last: {error}"));
        }
        sentence
    }

    fn share(&self, name: &str) -> Option<f64> {
        let count = |(first, last): &(u64, u64)| last - first;
        let all: u64 = self.attempts.values().map(count).sum();
        let address = self.names.iter().find(|(_, known)| **known == name)?.0;
        let own = count(self.attempts.get(address)?);
        (all > 0).then(|| 100.0 * own as f64 / all as f64)
    }
}

fn counting(rows: &[DestinationRow]) -> impl Iterator<Item = &EndpointRow> {
    rows.iter().filter(|row| row.name == "counting").flat_map(|row| &row.endpoints)
}

/// All phases.
#[derive(Default)]
pub(crate) struct Report(Vec<Phase>);

impl Report {
    pub(crate) fn add(&mut self, phase: Phase) {
        self.0.push(phase);
    }

    pub(crate) fn is_good(&self) -> bool {
        !self.0.is_empty()
            && self.0.iter().all(|phase| phase.with.calls > 0 && phase.with.success() >= GOOD)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "                    with the mesh               without: in turn, no retry")?;
        writeln!(
            f,
            "{:<10} {:>7} {:>7} {:>9} {:>7}   {:>7} {:>9} {:>7}",
            "phase", "calls", "failed", "p50 ms", "p99 ms", "failed", "p50 ms", "p99 ms"
        )?;
        let mut sum = Tally::new();
        let mut counts = Counts::default();
        for phase in &self.0 {
            sum.add(&phase.with);
            let own = phase.now.since(phase.before);
            counts.retries += own.retries;
            counts.attempts += own.attempts;
            counts.ejections += own.ejections;
            let without =
                if phase.without.calls == 0 { 0.0 } else { 100.0 - phase.without.success() };
            writeln!(
                f,
                "{:<10} {:>7} {:>7} {:>9.1} {:>7.0}   {:>5.1} % {:>9.1} {:>7.0}",
                phase.name,
                phase.with.calls,
                phase.with.failed,
                phase.with.ms(0.5),
                phase.with.ms(0.99),
                without,
                phase.without.ms(0.5),
                phase.without.ms(0.99)
            )?;
        }
        let first = counts.attempts.saturating_sub(counts.retries).max(1);
        writeln!(f)?;
        writeln!(
            f,
            "{} calls, {} failed ({:.3} % good); {} retries, amplification {:.3}; {} ejections",
            sum.calls,
            sum.failed,
            sum.success(),
            counts.retries,
            counts.attempts as f64 / first as f64,
            counts.ejections
        )?;
        writeln!(
            f,
            "{}",
            if self.is_good() {
                "good: at least 99.9 % in every phase"
            } else {
                "NOT good: below 99.9 % in some phase"
            }
        )
    }
}
