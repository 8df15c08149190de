//! Prints the tables of `docs/balancing.md`, and draws its plots:
//! `cargo run --release -p testkit --example world -- [SECONDS] [DIRECTORY OF THE PLOTS]`.
//!
//! Every case of the world with every policy and three seeds, `SECONDS` (20) measured. `MESH_SEED`
//! repeats a run: it is the first of the seeds. `MESH_CASES=S5a,S8` lives through these only. Ends with
//! what is aimed at, and fails if something is missed.

#[path = "world/aims.rs"]
mod aims;
#[path = "world/plot.rs"]
mod plot;

use mesh_core::{Policy, health::outlier, pick};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use testkit::world::{Report, Reports, World, cases, seed};

const SEEDS: u64 = 3;

/// A column of the tables.
struct Column {
    name: &'static str,
    kind: pick::Policy,
    reports: Reports,
    /// As another library has it: no outlier detection, and for tower, failures that look fast.
    foreign: bool,
}

const fn column(name: &'static str, kind: pick::Policy, reports: Reports) -> Column {
    Column { name, kind, reports, foreign: false }
}

const COLUMNS: &[Column] = &[
    column("default, probes", pick::Policy::ExpectedWait, Reports::Probed),
    column("default, reports", pick::Policy::ExpectedWait, Reports::Attached),
    column("default", pick::Policy::ExpectedWait, Reports::None),
    column("peak EWMA", pick::Policy::PeakEwma, Reports::None),
    column("least request", pick::Policy::LeastRequest, Reports::None),
    column("random", pick::Policy::Random, Reports::None),
    column("Prequal", pick::Policy::Prequal, Reports::Probed),
    column("weighted round robin", pick::Policy::WeightedRoundRobin, Reports::Attached),
    Column {
        name: "tower's peak EWMA",
        kind: pick::Policy::PeakEwma,
        reports: Reports::None,
        foreign: true,
    },
    Column {
        name: "gRPC's round robin",
        kind: pick::Policy::RoundRobin,
        reports: Reports::None,
        foreign: true,
    },
    Column {
        name: "gRPC's WRR",
        kind: pick::Policy::WeightedRoundRobin,
        reports: Reports::Attached,
        foreign: true,
    },
    Column {
        name: "plain Prequal",
        kind: pick::Policy::Prequal,
        reports: Reports::Probed,
        foreign: true,
    },
];

impl Column {
    fn world(&self, case: cases::Case, seed: u64, measured: Duration) -> World {
        let mut policy = Policy::default();
        policy.pick.policy = self.kind;
        if self.foreign {
            policy.outlier = outlier::Config::off();
            policy.pick.ewma.initial = Duration::from_secs(1);
        }
        let world = case(seed, policy, measured).reports(self.reports);
        if self.foreign { world.failures_look_fast() } else { world }
    }
}

/// What the runs of one case and one column were like, on average.
#[derive(Clone, Default)]
struct Cell {
    /// In ms; 0 if the case was left out.
    p99: f64,
    failed: f64,
    probes: f64,
    attempts: f64,
    surge: f64,
    /// Seconds after the surge; none if it never came.
    recovery: Option<f64>,
}

impl Cell {
    fn of(reports: &[Report]) -> Self {
        let mean = |value: &dyn Fn(&Report) -> f64| {
            reports.iter().map(value).sum::<f64>() / reports.len() as f64
        };
        let recovery = |report: &Report| {
            let at = report.good_since(cases::SURGE.end, 0.99)?;
            Some((at - cases::SURGE.end) as f64)
        };
        let recoveries: Option<Vec<f64>> = reports.iter().map(recovery).collect();
        Self {
            p99: mean(&|report| report.latency(0.99).as_secs_f64() * 1e3),
            failed: mean(&|report| report.failed_share() * 100.0),
            probes: mean(&Report::probes_per_call),
            attempts: mean(&Report::amplification),
            surge: mean(&|report| report.good_share(cases::SURGE) * 100.0),
            recovery: recoveries.map(|all| all.into_iter().fold(0.0, f64::max)),
        }
    }

    fn text(&self) -> String {
        let failed = match self.failed {
            0.0 => "0".to_owned(),
            share if share < 1.0 => format!("{share:.3}"),
            share => format!("{share:.1}"),
        };
        let digits = usize::from(self.p99 < 20.0);
        format!("{:.digits$} ({failed})", self.p99)
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let seconds = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(20);
    let plots = arguments.next();
    let (first, measured) = (seed(), Duration::from_secs(seconds));

    let wanted = std::env::var("MESH_CASES").ok();
    let is_wanted = |case: &usize| {
        let name = cases::ALL[*case].0;
        wanted.as_ref().is_none_or(|list| list.split(',').any(|one| one == name))
    };
    let jobs: Vec<(usize, usize)> = (0..cases::ALL.len())
        .filter(is_wanted)
        .flat_map(|case| (0..=COLUMNS.len()).map(move |column| (case, column)))
        .filter(|(case, column)| *column < COLUMNS.len() || is_storm(*case))
        .collect();
    let cells = Mutex::new(vec![vec![Cell::default(); COLUMNS.len() + 1]; cases::ALL.len()]);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((case, column)) = jobs.get(next.fetch_add(1, Relaxed)) {
                    let cell = live(*case, *column, first, measured);
                    cells.lock().expect("no panic")[*case][*column] = cell;
                }
            });
        }
    });
    let cells = cells.into_inner().expect("no panic");
    print(&cells, seconds, first);
    let reached = aims::print(&cells);
    if let Some(directory) = plots {
        let names: Vec<_> = COLUMNS.iter().map(|column| column.name).collect();
        let rows = |case: usize, value: fn(&Cell) -> f64| -> Vec<(&str, f64)> {
            names.iter().copied().zip(cells[case].iter().map(value)).collect()
        };
        for (name, title, value) in [
            ("p99", "p99 of good calls, ms", (|cell| cell.p99) as fn(&Cell) -> f64),
            ("failed", "failed calls, %", |cell| cell.failed),
        ] {
            let panels: Vec<_> = cases::ALL
                .iter()
                .enumerate()
                .map(|(case, (name, _))| (*name, rows(case, value)))
                .collect();
            let path = Path::new(&directory).join(format!("{name}.svg"));
            std::fs::write(&path, plot::bars(title, &panels)).expect("the plot can be written");
        }
    }
    if reached { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn is_storm(case: usize) -> bool {
    cases::ALL[case].0 == "S9"
}

/// The column after the last is the default without its protections.
fn live(case: usize, column: usize, first: u64, measured: Duration) -> Cell {
    let (_, case) = cases::ALL[case];
    let runs = (0..SEEDS).map(|n| {
        let seed = first.wrapping_add(n);
        let report = match COLUMNS.get(column) {
            Some(column) => column.world(case, seed, measured).run(),
            None => cases::naive(COLUMNS[2].world(case, seed, measured)).run(),
        };
        report.assert_sound();
        report
    });
    Cell::of(&runs.collect::<Vec<_>>())
}

fn print(cells: &[Vec<Cell>], seconds: u64, seed: u64) {
    println!("p99 of good calls in ms (failed %), {seconds} s, {SEEDS} seeds from {seed}\n");
    let names: Vec<_> = COLUMNS.iter().map(|column| column.name).collect();
    println!("| case | {} |", names.join(" | "));
    println!("|---|{}", "---|".repeat(names.len()));
    for ((name, _), row) in cases::ALL.iter().zip(cells) {
        let texts: Vec<_> = row.iter().take(names.len()).map(Cell::text).collect();
        println!("| {name} | {} |", texts.join(" | "));
    }
    println!("\n| | {} |", names.join(" | "));
    println!("|---|{}", "---|".repeat(names.len()));
    for (name, value) in [
        ("most probes per call", (|cell| cell.probes) as fn(&Cell) -> f64),
        ("most attempts per call", |cell| cell.attempts),
    ] {
        let most = |column: usize| cells.iter().map(|row| value(&row[column])).fold(0.0, f64::max);
        let texts: Vec<_> = (0..names.len()).map(|n| format!("{:.2}", most(n))).collect();
        println!("| {name} | {} |", texts.join(" | "));
    }
    println!(
        "\nS9: good calls during the surge, seconds until 99 % are good again, attempts per call\n"
    );
    println!("| | good | recovery | attempts |\n|---|---|---|---|");
    let storm = cells.iter().enumerate().find(|(case, _)| is_storm(*case)).map(|(_, row)| row);
    for (name, cell) in
        names.iter().chain(&["default, naive retries"]).zip(storm.into_iter().flatten())
    {
        let recovery =
            cell.recovery.map_or_else(|| "not in 25 s".to_owned(), |after| format!("{after:.0} s"));
        println!("| {name} | {:.1} % | {recovery} | {:.2} |", cell.surge, cell.attempts);
    }
}
