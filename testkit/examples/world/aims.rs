//! What the default is to reach in the world, and whether it does.

use super::{COLUMNS, Cell, is_storm};
use testkit::world::cases;

/// A figure, and its bound.
struct Aim {
    case: &'static str,
    column: &'static str,
    unit: &'static str,
    value: fn(&Cell) -> f64,
    most: f64,
}

const fn p99(case: &'static str, column: &'static str, most: f64) -> Aim {
    Aim { case, column, unit: "p99, ms", value: |cell| cell.p99, most }
}

const fn failed(case: &'static str, column: &'static str, most: f64) -> Aim {
    Aim { case, column, unit: "failed, %", value: |cell| cell.failed, most }
}

/// The default with all that endpoints can say, and with nothing that they say.
const TOLD: &str = "default, probes";
const ALONE: &str = "default";
/// By how much the default may be above the lowest p99 of the known policies.
const TOLERANCE: f64 = 1.02;

const AIMS: &[Aim] = &[
    p99("S2", TOLD, 195.0),
    p99("S8", TOLD, 400.0),
    p99("S10", TOLD, 320.0),
    p99("S11", TOLD, 12.0),
    failed("S4", TOLD, 0.02),
    failed("S5a", TOLD, 0.06),
    failed("S5c", TOLD, 0.03),
    failed("S6", TOLD, 0.01),
    p99("S2", ALONE, 255.0),
    p99("S3", ALONE, 260.0),
    failed("S5a", ALONE, 0.15),
];

/// Prints the table of aims; whether all of those were reached whose case was lived through.
pub(super) fn print(cells: &[Vec<Cell>]) -> bool {
    println!("\nAims\n\n| case | policy | figure | at most | is | |\n|---|---|---|---|---|---|");
    let mut all = true;
    let mut row = |case: &str, column: &str, unit: &str, most: f64, is: f64| {
        let reached = is <= most;
        all &= reached;
        let word = if reached { "reached" } else { "missed" };
        println!("| {case} | {column} | {unit} | {most:.3} | {is:.3} | {word} |");
    };
    let place = |name: &str| COLUMNS.iter().position(|column| column.name == name);
    let lived: Vec<_> =
        cases::ALL.iter().zip(cells).filter(|(_, row)| row.iter().any(|c| c.p99 > 0.0)).collect();
    for aim in AIMS {
        let cells = lived.iter().find(|((name, _), _)| *name == aim.case);
        if let (Some((_, cells)), Some(place)) = (cells, place(aim.column)) {
            row(aim.case, aim.column, aim.unit, aim.most, (aim.value)(&cells[place]));
        }
    }
    let ours = |name: &str| name.starts_with("default");
    for ((case, _), cells) in &lived {
        let known = COLUMNS.iter().zip(*cells).filter(|(column, _)| !ours(column.name));
        let lowest = known.map(|(_, cell)| cell.p99).fold(f64::INFINITY, f64::min);
        if let Some(place) = place(TOLD) {
            let unit = "p99, ms, against the lowest of the others";
            row(case, TOLD, unit, lowest * TOLERANCE, cells[place].p99);
        }
    }
    for (place, column) in COLUMNS.iter().enumerate().filter(|(_, column)| ours(column.name)) {
        let most = |value: fn(&Cell) -> f64| {
            lived.iter().map(|(_, cells)| value(&cells[place])).fold(0.0, f64::max)
        };
        row("all", column.name, "probes per call", 3.0, most(|cell| cell.probes));
        row("all", column.name, "attempts per call", 1.2, most(|cell| cell.attempts));
    }
    let storm = cells.iter().enumerate().find(|(case, _)| is_storm(*case)).map(|(_, row)| row);
    if let (Some(storm), Some(place)) = (storm.filter(|row| row[0].p99 > 0.0), place(TOLD)) {
        let cell = &storm[place];
        row("S9", TOLD, "calls of the surge that are not good, %", 36.0, 100.0 - cell.surge);
        let recovery = cell.recovery.unwrap_or(f64::INFINITY);
        row("S9", TOLD, "seconds until 99 % are good again", 5.0, recovery);
    }
    all
}
