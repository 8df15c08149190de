//! `cargo xtask fuzz`: each fuzz target for some seconds, from its committed seeds.

use crate::needs;
use crate::section::{self, Verdict};
use crate::{root, target};
use std::fs;
use std::process::Command;

/// Runs every target under `fuzz/fuzz_targets`.
pub(crate) fn run(install: bool, seconds: u32) -> Verdict {
    let Some(tool) = needs::cargo_tool(install, "cargo-fuzz", "0.13.2") else {
        return Verdict::Skipped("cargo-fuzz is not installed (cargo install cargo-fuzz)".into());
    };
    let fuzz = root().join("fuzz");
    let mut targets: Vec<_> = fs::read_dir(fuzz.join("fuzz_targets"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|file| Some(file.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    targets.sort();
    if targets.is_empty() {
        return Verdict::Failed("fuzz/fuzz_targets is empty".into());
    }
    let build = target().join("fuzz");
    for name in targets {
        println!("-- {name}");
        let corpus = build.join("corpus").join(&name);
        if let Err(error) = fs::create_dir_all(&corpus) {
            return Verdict::Failed(format!("{}: {error}", corpus.display()));
        }
        let mut command = Command::new(&tool);
        // No sanitizer: unsafe code is forbidden here, so what can go wrong panics, or hangs.
        // Coverage flags are for nightly compilers; RUSTC_BOOTSTRAP lets the stable one take
        // them.
        command
            .args(["fuzz", "run", "--sanitizer", "none", "--target-dir"])
            .arg(&build)
            .arg(&name)
            .arg(&corpus)
            .arg(fuzz.join("seeds").join(&name))
            .arg("--")
            .arg(format!("-max_total_time={seconds}"))
            .args(["-timeout=5", "-rss_limit_mb=1024", "-print_final_stats=1", "-verbosity=0"])
            .env("RUSTC_BOOTSTRAP", "1");
        if let Verdict::Failed(why) = section::run(&mut command) {
            return Verdict::Failed(format!("{name}: {why}"));
        }
    }
    Verdict::Passed
}
