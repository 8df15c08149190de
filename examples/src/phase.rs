//! One part of the demo, from one step of the script to the next, and what the mesh did in it.

use crate::load::{Shared, Tally};
use crate::services::dashboard::{DestinationRow, EndpointRow};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;
use tokio::time::Instant;

/// Changes of state that a sentence tells.
const CHANGES: usize = 2;

/// Names of the instances of counting, by address.
pub(crate) type Names = BTreeMap<String, &'static str>;

/// See the [module docs](self).
#[derive(Debug)]
pub(crate) struct Phase {
    pub(crate) name: &'static str,
    /// The instance that the step is about.
    about: Option<&'static str>,
    names: Names,
    with: Shared,
    without: Shared,
    started: Instant,
    first: Vec<DestinationRow>,
    last: Vec<DestinationRow>,
    changes: Vec<String>,
}

/// What the mesh counted, over all destinations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) retries: u64,
    pub(crate) attempts: u64,
    pub(crate) ejections: u64,
}

impl Counts {
    fn of(rows: &[DestinationRow]) -> Self {
        rows.iter().fold(Self::default(), |sum, row| {
            sum.plus(Self {
                retries: row.retries,
                attempts: row.attempts,
                ejections: row.ejections,
            })
        })
    }

    pub(crate) const fn plus(self, other: Self) -> Self {
        Self {
            retries: self.retries + other.retries,
            attempts: self.attempts + other.attempts,
            ejections: self.ejections + other.ejections,
        }
    }

    const fn since(self, before: Self) -> Self {
        Self {
            retries: self.retries.saturating_sub(before.retries),
            attempts: self.attempts.saturating_sub(before.attempts),
            ejections: self.ejections.saturating_sub(before.ejections),
        }
    }

    /// Attempts per call; 1 without retries.
    pub(crate) fn amplification(self) -> f64 {
        let calls = self.attempts.saturating_sub(self.retries).max(1);
        self.attempts.max(1) as f64 / calls as f64
    }
}

impl Phase {
    pub(crate) fn new(
        name: &'static str,
        about: Option<&'static str>,
        names: Names,
        [with, without]: [Shared; 2],
        rows: &[DestinationRow],
    ) -> Self {
        let (first, last) = (rows.to_vec(), rows.to_vec());
        let started = Instant::now();
        Self { name, about, names, with, without, started, first, last, changes: Vec::new() }
    }

    /// Takes note of what the mesh says of itself now; an empty answer is none.
    pub(crate) fn watch(&mut self, rows: &[DestinationRow]) {
        if rows.is_empty() {
            return;
        }
        for now in endpoints(rows) {
            let before = endpoints(&self.last).find(|before| before.address == now.address);
            if let (Some(before), Some(name)) = (before, self.names.get(&now.address))
                && before.kind != now.kind
                && self.changes.len() < CHANGES
            {
                self.changes.push(change(name, now, self.started.elapsed()));
            }
        }
        self.last = rows.to_vec();
    }

    pub(crate) fn with(&self) -> Tally {
        self.with.tally()
    }

    pub(crate) fn without(&self) -> Tally {
        self.without.tally()
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts::of(&self.last).since(Counts::of(&self.first))
    }

    /// What the mesh did.
    pub(crate) fn sentence(&self) -> String {
        let (with, without) = (self.with(), self.without());
        let mut parts = self.changes.clone();
        match self.about {
            Some(name) => parts.push(format!("{name} got {} of the calls", self.share(name))),
            None => {
                let mut shares: Vec<String> = self
                    .names
                    .values()
                    .map(|name| format!("{name} {}", self.share(name)))
                    .collect();
                shares.sort();
                parts.push(format!("calls went to {}", shares.join(", ")));
            }
        }
        match self.counts().retries {
            0 => {}
            1 => parts.push("1 call tried again elsewhere".to_owned()),
            more => parts.push(format!("{more} calls tried again elsewhere")),
        }
        parts.push(format!(
            "{} of {} failed, p99 {:.0} ms (without the mesh {} of {}, {:.0} ms)",
            with.failed,
            with.calls,
            with.ms(0.99),
            without.failed,
            without.calls,
            without.ms(0.99),
        ));
        let mut sentence = parts.join("; ");
        if let Some(error) = &with.last_error {
            // Writing to a string does not fail.
            let _ = write!(sentence, "; the last error: {error}");
        }
        sentence
    }

    /// The part of the attempts at counting that an instance got.
    fn share(&self, name: &str) -> String {
        let (mut own, mut all) = (0, 0);
        for row in endpoints(&self.last) {
            let Some(known) = self.names.get(&row.address) else { continue };
            let before = endpoints(&self.first).find(|before| before.address == row.address);
            let attempts = row.attempts.saturating_sub(before.map_or(0, |before| before.attempts));
            all += attempts;
            own += if *known == name { attempts } else { 0 };
        }
        percent(own, all)
    }
}

fn endpoints(rows: &[DestinationRow]) -> impl Iterator<Item = &EndpointRow> {
    rows.iter().flat_map(|row| &row.endpoints)
}

fn change(name: &str, row: &EndpointRow, after: Duration) -> String {
    let after = after.as_secs_f64();
    if row.reason.is_empty() {
        format!("{name} {} after {after:.1} s", row.kind)
    } else {
        format!("{name} {} after {after:.1} s ({})", row.kind, row.reason)
    }
}

/// Whole percent; one digit more below ten, where a few calls are what matters.
fn percent(part: u64, of: u64) -> String {
    let percent = 100.0 * part as f64 / of.max(1) as f64;
    if percent >= 10.0 || part == 0 { format!("{percent:.0} %") } else { format!("{percent:.1} %") }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn names() -> Names {
        [("1".to_owned(), "a"), ("2".to_owned(), "b")].into()
    }

    /// Counting with two endpoints that were tried so often, and greeter with one.
    pub(crate) fn rows(tried: [u64; 2], retries: u64, kind: &str) -> Vec<DestinationRow> {
        let endpoint = |address: &str, attempts, kind: &str, reason: &str| EndpointRow {
            address: address.to_owned(),
            kind: kind.to_owned(),
            reason: reason.to_owned(),
            attempts,
            ..EndpointRow::default()
        };
        let reason = if kind == "ready" { "" } else { "1 consecutive 5xx" };
        let counting = DestinationRow {
            name: "counting".to_owned(),
            retries,
            attempts: tried.iter().sum(),
            ejections: u64::from(kind == "ejected"),
            endpoints: vec![
                endpoint("1", tried[0], "ready", ""),
                endpoint("2", tried[1], kind, reason),
            ],
        };
        let attempts = tried.iter().sum::<u64>() - retries;
        let greeter = DestinationRow {
            name: "greeter".to_owned(),
            attempts,
            endpoints: vec![endpoint("3", attempts, "ready", "")],
            ..DestinationRow::default()
        };
        vec![counting, greeter]
    }

    pub(crate) fn phase(about: Option<&'static str>) -> Phase {
        let tallies = [Shared::new(), Shared::new()];
        for _ in 0..90 {
            tallies[0].record(Duration::from_millis(3), None);
        }
        tallies[1].record(Duration::from_millis(2), None);
        tallies[1].record(Duration::from_millis(1), Some("counting answered 503"));
        let mut phase = Phase::new("errors", about, names(), tallies, &rows([10, 10], 0, "ready"));
        phase.watch(&rows([50, 12], 1, "ejected"));
        phase.watch(&[]);
        phase.watch(&rows([100, 12], 2, "ejected"));
        phase
    }

    #[test]
    fn counts_are_those_of_the_phase_alone() {
        let counts = phase(None).counts();
        // Counting 112 − 20 attempts, greeter 110 − 20.
        assert_eq!(counts, Counts { retries: 2, attempts: 182, ejections: 1 });
        assert!((counts.amplification() - 182.0 / 180.0).abs() < 1e-9);
        assert!((Counts::default().amplification() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn the_sentence_says_what_changed_and_what_it_cost() {
        let sentence = phase(Some("b")).sentence();
        assert!(sentence.starts_with("b ejected after 0.0 s (1 consecutive 5xx); "), "{sentence}");
        assert!(sentence.contains("b got 2.2 % of the calls; 2 calls tried again"), "{sentence}");
        assert!(
            sentence.ends_with("0 of 90 failed, p99 3 ms (without the mesh 1 of 2, 2 ms)"),
            "{sentence}"
        );
        assert!(phase(None).sentence().contains("calls went to a 98 %, b 2.2 %"));
    }
}
