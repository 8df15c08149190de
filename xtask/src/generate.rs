//! `cargo xtask gen`: files that are written by a program and checked in.
//!
//! | file | from |
//! |---|---|
//! | `docs/mesh.schema.json` | `mesh config schema` |

use crate::root;
use crate::section::{Verdict, cargo};
use std::fs;

/// File, and the arguments of `mesh` that print it.
const FILES: &[(&str, &[&str])] = &[("docs/mesh.schema.json", &["config", "schema"])];

/// Writes every file, or with `check` only compares.
pub(crate) fn run(check: bool) -> Verdict {
    let mut different = Vec::new();
    for (file, args) in FILES {
        let mut mesh = cargo();
        // All features, as in every other section: nothing is built twice.
        mesh.args(["run", "--quiet", "--locked", "--all-features", "--package", "mesh-cli"]);
        let printed =
            match mesh.args(["--bin", "mesh", "--"]).args(*args).current_dir(root()).output() {
                Ok(output) if output.status.success() => output.stdout,
                Ok(output) => {
                    let why = String::from_utf8_lossy(&output.stderr).into_owned();
                    return Verdict::Failed(format!("mesh {}: {why}", args.join(" ")));
                }
                Err(error) => return Verdict::Failed(format!("cargo run: {error}")),
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
