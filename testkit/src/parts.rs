//! Real programs that a test runs against, when they are there.
//!
//! A test that needs one asks [`find`] and returns when there is none: the reason is then on
//! its output, with the way to install it. `cargo xtask test` installs them as root on Debian.
//!
//! ```
//! let Some(curl) = testkit::parts::find("h1_by_curl", "curl") else { return };
//! assert!(curl.is_absolute());
//! ```

use crate::figure::note;
use crate::target;
use std::env;
use std::path::PathBuf;
use std::process::Command;

/// One line per program: its name, and the Debian package that has it.
const PROGRAMS: &str = include_str!("../programs.txt");

/// The program's full path, or `None` after printing that `test` is skipped and why.
///
/// Looks in `PATH`, in the folders for system programs, and where `cargo xtask test` puts what it installs.
#[must_use]
pub fn find(test: &str, program: &str) -> Option<PathBuf> {
    let found = locate(program);
    if found.is_none() {
        let how = PROGRAMS
            .lines()
            .filter_map(|line| line.split_once(' '))
            .find(|(known, _)| *known == program)
            .map_or_else(
                || "cargo xtask test, or put it on PATH".to_owned(),
                |(_, package)| format!("apt-get install {package}"),
            );
        skip(test, &format!("{program} is not installed ({how})"));
    }
    found
}

fn locate(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into(), target().join("venv/bin")])
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

/// The interpreter of the virtual environment that `cargo xtask test` makes under `target/`, if
/// it can import `module`; otherwise prints the skip.
#[must_use]
pub fn find_python(test: &str, module: &str) -> Option<PathBuf> {
    let own = target().join("venv/bin/python");
    let python = if own.is_file() { own } else { find(test, "python3")? };
    let imports = Command::new(&python)
        .args(["-c", &format!("import {module}")])
        .output()
        .is_ok_and(|output| output.status.success());
    if !imports {
        let how = format!("cargo xtask test, or: pip install {}", package_of(module));
        skip(test, &format!("Python's {module} is not installed ({how})"));
        return None;
    }
    Some(python)
}

/// The distribution on PyPI that carries a module.
fn package_of(module: &str) -> &str {
    if module == "grpc" { "grpcio" } else { module }
}

/// Whether the test may make network namespaces; otherwise prints the skip.
#[must_use]
pub fn may_use_namespaces(test: &str) -> bool {
    let Some(ip) = find(test, "ip") else { return false };
    let name = format!("testkit-{}", std::process::id());
    let run = |verb: &str| {
        let output = Command::new(&ip).args(["netns", verb, &name]).output();
        output.is_ok_and(|output| output.status.success())
    };
    let may = run("add");
    if may {
        run("delete");
    } else {
        skip(test, "network namespaces need root (run the tests as root)");
    }
    may
}

/// Prints that `test` is skipped, and why.
///
/// Test harnesses hide what a passing test prints, so the line also goes to
/// `target/skipped.txt`, which `cargo xtask test` shows at its end.
pub fn skip(test: &str, reason: &str) {
    note("skipped.txt", &format!("skipped: {test}: {reason}\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_found_with_its_full_path() {
        let shell = find("parts", "sh").expect("every Unix has sh");
        assert!(shell.is_absolute());
    }

    #[test]
    fn what_is_not_there_is_not_made_up() {
        assert_eq!(locate("no-such-program-as-this"), None);
    }
}
