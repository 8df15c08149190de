//! `cargo xtask gen`: files that are written by a program and checked in.
//!
//! | file | from |
//! |---|---|
//! | `docs/consul-compatibility.md` | `mesh-control/examples/consul_compatibility.rs` |
//! | `docs/mesh.schema.json` | `mesh-core/examples/schema.rs` |

use crate::section::{self, Verdict, cargo};
use crate::{root, target};
use std::fs;
use std::process::Command;

/// File, and the example that prints it.
const FILES: &[(&str, &str)] = &[
    ("docs/consul-compatibility.md", "consul_compatibility"),
    ("docs/mesh.schema.json", "schema"),
];

/// Writes every file, or with `check` only compares.
pub(crate) fn run(check: bool) -> Verdict {
    let mut different = Vec::new();
    for (file, example) in FILES {
        let printed = match print(example) {
            Ok(printed) => printed,
            Err(why) => return Verdict::Failed(format!("example {example}: {why}")),
        };
        let path = root().join(file);
        if fs::read(&path).is_ok_and(|now| now == printed) {
            continue;
        }
        if check {
            different.push(*file);
        } else if let Err(error) = fs::write(&path, printed) {
            return Verdict::Failed(format!("{file}: {error}"));
        } else {
            println!("written: {file}");
        }
    }
    if different.is_empty() {
        Verdict::Passed
    } else {
        Verdict::Failed(format!("{} out of date: run `cargo xtask gen`", different.join(", ")))
    }
}

fn print(example: &str) -> Result<Vec<u8>, String> {
    // Built as part of the whole workspace, so that dependencies keep the features they were
    // built with: `cargo run` would build some of them once more.
    let mut build = cargo();
    build.args(["build", "--quiet", "--workspace", "--all-features", "--locked", "--example"]);
    if let Verdict::Failed(why) = section::run(build.arg(example)) {
        return Err(why);
    }
    let program = target().join("debug/examples").join(example);
    match Command::new(program).current_dir(root()).output() {
        Ok(output) if output.status.success() => Ok(output.stdout),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Err(error.to_string()),
    }
}
