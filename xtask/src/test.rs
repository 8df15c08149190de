//! `cargo xtask test`: what CI runs, in CI's order.
//!
//! One target folder, one profile, one feature set (all): whatever is built for one section is
//! there for the next.

use crate::section::{self, Sections, Verdict, cargo, succeeds};
use crate::{fuzz, generate, needs, root, target};
use std::env;
use std::fs;
use std::process::{Command, ExitCode};

/// How many calls the load tests make: as many as it takes to say that none of 100,000 fails. By
/// themselves they make fewer.
const CALLS: &str = "MESH_TEST_CALLS";
const ALL: &[&str] = &["--workspace", "--all-features", "--locked"];

fn sections(install: bool, fuzz_seconds: u32) -> Sections {
    let mut sections = Sections::default();
    if install {
        sections.section("needs", needs::install);
    }
    sections.section("fmt", || section::run(cargo().args(["fmt", "--all", "--check"])));
    sections.section("clippy", || {
        section::run(cargo().arg("clippy").args(ALL).args([
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]))
    });
    sections.section("test", tests);
    sections.section("doc tests", || {
        section::run(cargo().args(["test", "--quiet", "--doc"]).args(ALL))
    });
    sections.section("doc", || {
        let mut doc = cargo();
        section::run(doc.arg("doc").args(ALL).arg("--no-deps").env("RUSTDOCFLAGS", "-D warnings"))
    });
    sections.section("deny", || deny(install));
    sections.section("gen", || generate::run(true));
    if fuzz_seconds > 0 {
        sections.section("fuzz", || fuzz::run(install, fuzz_seconds));
    }
    sections
}

/// Runs every section, prints what tests measured, the skipped ones and a summary; fails if a section has.
pub(crate) fn run(install: bool, fuzz_seconds: u32) -> ExitCode {
    let notes = [("figures", "figures.txt"), ("skipped tests", "skipped.txt")]
        .map(|(title, file)| (title, target().join(file)));
    for (_, file) in &notes {
        let _ = fs::remove_file(file);
    }
    let sections = sections(install, fuzz_seconds);
    for (title, file) in &notes {
        if let Ok(lines) = fs::read_to_string(file) {
            println!("\n== {title}");
            print!("{lines}");
        }
    }
    sections.finish()
}

fn tests() -> Verdict {
    let mut test = cargo();
    if succeeds(cargo().args(["nextest", "--version"])) {
        test.args(["nextest", "run", "--no-fail-fast"]);
    } else {
        test.args(["test", "--quiet", "--no-fail-fast", "--lib", "--bins", "--tests"]);
    }
    if env::var_os(CALLS).is_none() {
        test.env(CALLS, "100000");
    }
    section::run(test.args(ALL))
}

fn deny(install: bool) -> Verdict {
    let Some(tool) = needs::cargo_tool(install, "cargo-deny", "0.20.2") else {
        return Verdict::Skipped("cargo-deny is not installed (cargo install cargo-deny)".into());
    };
    let deny = || {
        let mut command = Command::new(&tool);
        command.arg("deny");
        command
    };
    section::run(deny().args(["check", "bans", "licenses", "sources"])).then(|| {
        if succeeds(deny().current_dir(root()).args(["fetch", "db"])) {
            section::run(deny().args(["check", "--disable-fetch", "advisories"]))
        } else {
            println!("skipped: advisories: their database cannot be reached from here");
            Verdict::Passed
        }
    })
}
