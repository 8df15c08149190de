//! Consul, for the tests that want a real one: Debian had it up to bullseye, whose package runs on
//! later ones as it is. It is unpacked under `target/`, where `testkit::consul` looks; nothing is
//! installed.
//!
//! The package is a file `consul_*.deb` in the folder that `MESH_TEST_PARTS` names, or else comes
//! from the mirror that the machine's own `apt` uses. Bullseye may leave mirrors any day: tests
//! that want Consul are skipped then.

use crate::section::succeeds;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The suite that has the package.
const SUITE: &str = "bullseye";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Unpacks it unless it is there already.
pub(crate) fn unpack() {
    let parts = crate::target().join("parts");
    let home = parts.join("consul");
    if crate::needs::find("consul").is_some() || home.join("usr/bin/consul").is_file() {
        return;
    }
    let scratch = parts.join("consul.new");
    let _ = fs::remove_dir_all(&scratch);
    let unpacked = fs::create_dir_all(&scratch).is_ok()
        && given().or_else(|| downloaded(&scratch)).is_some_and(|package| {
            let tree = scratch.join("tree");
            succeeds(Command::new("dpkg").arg("-x").arg(package).arg(&tree))
                && fs::rename(tree, &home).is_ok()
        });
    let _ = fs::remove_dir_all(&scratch);
    if !unpacked {
        println!("no Consul: tests that need it are skipped (put consul 1.8 or later on PATH)");
    }
}

/// The package that somebody put there.
fn given() -> Option<PathBuf> {
    package_in(Path::new(&env::var_os("MESH_TEST_PARTS")?))
}

fn package_in(folder: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(folder).ok()?.flatten().map(|file| file.path());
    files.into_iter().find(|file| {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("consul_") && name.ends_with(".deb")
    })
}

/// By `apt` with lists of its own, which leaves those of the machine alone.
fn downloaded(scratch: &Path) -> Option<PathBuf> {
    let mirror = mirror()?;
    let scratch = scratch.canonicalize().ok()?;
    let at = |name: &str| scratch.join(name).display().to_string();
    fs::create_dir_all(scratch.join("lists/partial")).ok()?;
    let line = format!("deb [signed-by={KEYRING}] {mirror} {SUITE} main\n");
    fs::write(scratch.join("suite.list"), line).ok()?;
    let apt_get = |verb: &[&str]| {
        let mut command = Command::new("apt-get");
        for option in [
            format!("Dir::Etc::sourcelist={}", at("suite.list")),
            "Dir::Etc::sourceparts=-".to_owned(),
            format!("Dir::State::Lists={}", at("lists")),
            format!("Dir::Cache::pkgcache={}", at("pkgcache")),
            format!("Dir::Cache::srcpkgcache={}", at("srcpkgcache")),
        ] {
            command.args(["-o", &option]);
        }
        command.args(["-q", "-q"]).args(verb).current_dir(&scratch);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if !(apt_get(&["update"]) && apt_get(&["download", "consul"])) {
        return None;
    }
    package_in(&scratch)
}

/// Where the machine's own packages come from.
fn mirror() -> Option<String> {
    let deb822 = fs::read_to_string("/etc/apt/sources.list.d/debian.sources").unwrap_or_default();
    let one_line = fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
    let uris = deb822.lines().filter_map(|line| line.strip_prefix("URIs:"));
    let debs = one_line.lines().filter(|line| line.starts_with("deb "));
    uris.chain(debs)
        .flat_map(str::split_whitespace)
        .find(|word| word.starts_with("http://") || word.starts_with("https://"))
        .map(str::to_owned)
}
