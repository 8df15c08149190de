//! Figures: what a test measured, for whoever runs it.

use crate::target;
use std::fs::OpenOptions;
use std::io::Write;

/// Prints what `test` measured.
///
/// Test harnesses hide what a passing test prints, so the line also goes to
/// `target/figures.txt`, which `cargo xtask test` shows at its end.
pub fn figure(test: &str, measured: &str) {
    note("figures.txt", &format!("{test}: {measured}\n"));
}

/// Prints a line, and adds it to a file of the target folder.
pub(crate) fn note(file: &str, line: &str) {
    eprint!("{line}");
    let file = OpenOptions::new().create(true).append(true).open(target().join(file));
    // Without the file the line is still on the test's own output.
    let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
}
