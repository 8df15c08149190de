//! The workspace's own chores.
//!
//! - `cargo xtask test`: everything that must pass before a change lands, in the order CI runs
//!   it, after installing what the tests need.
//! - `cargo xtask gen`: writes the generated files; `--check` only says whether they differ.
//! - `cargo xtask fuzz`: runs each fuzz target for some seconds.

mod consul;
mod fuzz;
mod generate;
mod needs;
mod section;
mod test;

use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The workspace's own chores")]
struct Args {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Install what the tests need, then run every check in CI's order.
    Test {
        /// Use only what is installed; what is missing is skipped with its reason.
        #[arg(long)]
        no_install: bool,
        /// How long each fuzz target runs; 0 leaves fuzzing out.
        #[arg(long, default_value_t = 5)]
        fuzz_seconds: u32,
    },
    /// Write the generated files.
    Gen {
        /// Change nothing; fail if a file differs from what would be written.
        #[arg(long)]
        check: bool,
    },
    /// Run each fuzz target.
    Fuzz {
        /// How long each target runs.
        #[arg(long, default_value_t = 5)]
        seconds: u32,
    },
}

fn main() -> ExitCode {
    match Args::parse().chore {
        Chore::Test { no_install, fuzz_seconds } => test::run(!no_install, fuzz_seconds),
        Chore::Gen { check } => section::alone("gen", || generate::run(check)),
        Chore::Fuzz { seconds } => section::alone("fuzz", || fuzz::run(true, seconds)),
    }
}

/// The root of the checkout.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or_else(|| Path::new("."))
}

/// Where builds go.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}
