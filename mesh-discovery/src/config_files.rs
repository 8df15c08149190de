//! Configuration files: where they are looked for, and how they are read. One rule for the proxy,
//! for `Mesh::from_env` and for the `mesh` command.
//!
//! The first of these that names or holds anything:
//!
//! 1. the files that are given, by flags or as arguments;
//! 2. `MESH_CONFIG`: a file, or several with commas between them;
//! 3. `mesh.yaml` in the working directory;
//! 4. `mesh/mesh.yaml` in `$XDG_CONFIG_HOME`, or in `~/.config` where that is not set;
//! 5. `/etc/mesh/mesh.yaml`.
//!
//! All documents of all files are one configuration. It is read as far as
//! [`MAX_BYTES`], which the parser refuses more than.
//!
//! Source: XDG Base Directory Specification for 4.

use mesh_core::config::{Errors, MAX_BYTES, Source};
use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The files to read: those `given`, else those that `MESH_CONFIG` names, else the one that stands
/// in a usual place. Empty if there is none.
#[must_use]
pub fn find(given: &[PathBuf]) -> Vec<PathBuf> {
    find_in(given, &|name| env::var_os(name), &is_there)
}

/// The files that somebody named: those `given`, else those of `MESH_CONFIG`. For a program that
/// was told otherwise what to do, and reads no file that merely lies there.
#[must_use]
pub fn named(given: &[PathBuf]) -> Vec<PathBuf> {
    named_in(given, &|name| env::var_os(name))
}

type Variable<'a> = &'a dyn Fn(&str) -> Option<OsString>;

fn find_in(
    given: &[PathBuf],
    variable: Variable<'_>,
    is_there: &dyn Fn(&Path) -> bool,
) -> Vec<PathBuf> {
    let named = named_in(given, variable);
    if !named.is_empty() {
        return named;
    }
    let folder =
        |name: &str| variable(name).map(PathBuf::from).filter(|folder| folder.is_absolute());
    let user = folder("XDG_CONFIG_HOME").or_else(|| Some(folder("HOME")?.join(".config")));
    let usual = [
        Some(PathBuf::from("mesh.yaml")),
        user.map(|folder| folder.join("mesh/mesh.yaml")),
        Some(PathBuf::from("/etc/mesh/mesh.yaml")),
    ];
    usual.into_iter().flatten().find(|path| is_there(path)).into_iter().collect()
}

fn named_in(given: &[PathBuf], variable: Variable<'_>) -> Vec<PathBuf> {
    let full = |path: &PathBuf| !path.as_os_str().is_empty();
    let given: Vec<PathBuf> = given.iter().filter(|path| full(path)).cloned().collect();
    if !given.is_empty() {
        return given;
    }
    match variable("MESH_CONFIG").map(OsString::into_string) {
        Some(Ok(list)) => list.split(',').map(PathBuf::from).filter(full).collect(),
        // Not text: the name of one file.
        Some(Err(name)) => vec![name.into()],
        None => Vec::new(),
    }
}

/// A link that leads nowhere is there: reading it then says what is wrong.
fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| !found.is_dir())
}

/// Reads files, in their order.
///
/// # Errors
/// When one cannot be read or is not UTF-8.
pub fn read(paths: &[PathBuf]) -> Result<Vec<Source>, ReadError> {
    let mut left = MAX_BYTES;
    let mut sources = Vec::with_capacity(paths.len());
    for path in paths {
        let unreadable = |error| ReadError::Unreadable { path: path.clone(), error };
        let file = File::open(path).map_err(unreadable)?;
        let source = match read_from(&path.display().to_string(), file, left) {
            Err(ReadError::Unreadable { error, .. }) => return Err(unreadable(error)),
            other => other?,
        };
        left = left.saturating_sub(source.text().len());
        sources.push(source);
    }
    Ok(sources)
}

/// Reads one text, at most `limit` bytes of it and one more, so that the parser sees that it is
/// too large. `name` stands for the file in messages.
///
/// # Errors
/// As [`read`].
pub fn read_from(name: &str, reader: impl Read, limit: usize) -> Result<Source, ReadError> {
    let mut bytes = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    if let Err(error) = reader.take(most).read_to_end(&mut bytes) {
        return Err(ReadError::Unreadable { path: name.into(), error });
    }
    if bytes.len() > limit {
        // The last character may be cut in two, and all of it is refused anyway.
        return Ok(Source::new(name, String::from_utf8_lossy(&bytes)));
    }
    Source::from_bytes(name, &bytes).map_err(ReadError::NotText)
}

/// Why a configuration file could not be read.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReadError {
    /// The system refused.
    #[non_exhaustive]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It is not UTF-8; the error names the place.
    NotText(Errors),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, error } => {
                write!(f, "cannot read {}: {error}", path.display())
            }
            Self::NotText(errors) => errors.fmt(f),
        }
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable { error, .. } => Some(error),
            Self::NotText(errors) => Some(errors),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const XDG: &str = "/xdg/mesh/mesh.yaml";
    const HOME: &str = "/home/me/.config/mesh/mesh.yaml";
    const ETC: &str = "/etc/mesh/mesh.yaml";

    fn found(given: &[&str], variables: &[(&str, &str)], there: &[&str]) -> Vec<String> {
        let given: Vec<PathBuf> = given.iter().map(PathBuf::from).collect();
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
        };
        let is_there = |path: &Path| there.iter().any(|known| path == Path::new(known));
        let files = find_in(&given, &variable, &is_there);
        files.iter().map(|file| file.display().to_string()).collect()
    }

    #[test]
    fn the_first_place_that_holds_anything_decides() {
        let all = ["mesh.yaml", XDG, HOME, ETC];
        let variables =
            [("MESH_CONFIG", "c.yaml,d.yaml"), ("XDG_CONFIG_HOME", "/xdg"), ("HOME", "/home/me")];
        assert_eq!(found(&["a", "b"], &variables, &all), ["a", "b"]);
        assert_eq!(found(&[], &variables, &all), ["c.yaml", "d.yaml"]);
        assert_eq!(found(&[], &variables[1..], &all), ["mesh.yaml"]);
        assert_eq!(found(&[], &variables[1..], &all[1..]), [XDG]);
        assert_eq!(found(&[], &variables[2..], &all[1..]), [HOME]);
        assert_eq!(found(&[], &variables[1..], &[HOME, ETC]), [ETC], "not in the XDG folder");
        assert_eq!(found(&[], &[], &all[1..]), [ETC]);
        assert!(found(&[], &variables[1..], &[]).is_empty());
    }

    #[test]
    fn what_is_empty_names_nothing_and_relative_folders_do_not_count() {
        assert_eq!(found(&[""], &[("MESH_CONFIG", "")], &[ETC]), [ETC]);
        assert_eq!(found(&[], &[("MESH_CONFIG", ",a,,b,")], &[ETC]), ["a", "b"]);
        let variables = [("XDG_CONFIG_HOME", ""), ("HOME", "/home/me")];
        assert_eq!(found(&[], &variables, &[HOME, ETC]), [HOME]);
        let variables = [("XDG_CONFIG_HOME", "xdg"), ("HOME", "/home/me")];
        assert_eq!(found(&[], &variables, &["xdg/mesh/mesh.yaml", HOME]), [HOME]);
    }

    #[test]
    fn no_more_is_read_than_the_parser_would_take() {
        let endless = read_from("endless", io::repeat(b'#'), MAX_BYTES).expect("read");
        assert_eq!(endless.text().len(), MAX_BYTES + 1);
        let errors = mesh_core::config::parse(&[endless]).expect_err("too large");
        assert!(errors.to_string().contains("larger than 4 MiB"), "{errors}");

        let folder = env::temp_dir().join(format!("mesh-config-files-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let (first, second) = (folder.join("a.yaml"), folder.join("b.yaml"));
        std::fs::write(&first, vec![b'#'; MAX_BYTES - 1]).expect("written");
        std::fs::write(&second, "##\n##").expect("written");
        let sources = read(&[first.clone(), second]).expect("read");
        assert_eq!(sources[1].text(), "##", "as much as is left, and one byte");
        let errors = mesh_core::config::parse(&sources).expect_err("too large together");
        assert!(errors.to_string().contains("b.yaml:1:1"), "{errors}");

        std::fs::write(&first, b"a: \xff").expect("written");
        let error = read(&[first]).expect_err("not text");
        assert!(error.to_string().contains("a.yaml:1:4"), "{error}");
        let error = read(&[folder.join("absent")]).expect_err("not there");
        assert!(error.to_string().starts_with("cannot read "), "{error}");
        std::fs::remove_dir_all(folder).expect("removed");
    }
}
