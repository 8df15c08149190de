//! Load: finds and reads configuration files.
//!
//! Order: what the command line names; `MESH_CONFIG`; `mesh.yaml` here; `mesh/mesh.yaml` in the
//! user's configuration directory; `/etc/mesh/mesh.yaml`. All documents of all files named
//! together are one configuration.

use mesh_core::config::{self, Documents, Errors, Source};
use mesh_core::snapshot::Snapshot;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Bytes after which a file is read no further: what follows would be refused anyway.
const MAX_BYTES: u64 = (4 << 20) + 1;

/// Why there is no configuration.
#[derive(Debug)]
pub(crate) enum LoadError {
    NoFile,
    Unreadable(PathBuf, std::io::Error),
    Refused(Errors),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFile => f.write_str(
                "error: no configuration file: name one, set MESH_CONFIG, or put mesh.yaml here",
            ),
            Self::Unreadable(path, error) => {
                write!(f, "error: cannot read {}: {error}", path.display())
            }
            Self::Refused(errors) => errors.fmt(f),
        }
    }
}

/// The files to read.
pub(crate) fn files(named: &[PathBuf]) -> Result<Vec<PathBuf>, LoadError> {
    if !named.is_empty() {
        return Ok(named.to_vec());
    }
    if let Some(named) = std::env::var_os("MESH_CONFIG") {
        return Ok(vec![named.into()]);
    }
    let user = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".config")));
    let user = user.map(|folder| folder.join("mesh/mesh.yaml"));
    [Some("mesh.yaml".into()), user, Some("/etc/mesh/mesh.yaml".into())]
        .into_iter()
        .flatten()
        .find(|path| path.is_file())
        .map(|path| vec![path])
        .ok_or(LoadError::NoFile)
}

/// Reads and compiles configuration.
pub(crate) fn load(named: &[PathBuf]) -> Result<(Documents, Snapshot), LoadError> {
    let sources = files(named)?.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let documents = config::parse(&sources).map_err(LoadError::Refused)?;
    let snapshot = config::compile(&documents, 1).map_err(LoadError::Refused)?;
    Ok((documents, snapshot))
}

/// `-` is standard input.
fn read(path: PathBuf) -> Result<Source, LoadError> {
    let mut bytes = Vec::new();
    let name = path.display().to_string();
    let result = if name == "-" {
        std::io::stdin().take(MAX_BYTES).read_to_end(&mut bytes)
    } else {
        File::open(&path).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes))
    };
    match result {
        Ok(_) => Ok(Source::new(name, String::from_utf8_lossy(&bytes))),
        Err(error) => Err(LoadError::Unreadable(path, error)),
    }
}
