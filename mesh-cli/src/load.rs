//! Load: finds, reads and compiles configuration, by the rule of [`config_files`]; besides, `-` is
//! standard input.

use mesh_core::config::{self, Documents, Errors, MAX_BYTES, Source};
use mesh_core::snapshot::Snapshot;
use mesh_discovery::config_files::{self, ReadError};
use std::fmt;
use std::path::{Path, PathBuf};

/// Why there is no configuration.
#[derive(Debug)]
pub(crate) enum LoadError {
    NoFile,
    Unreadable(ReadError),
    Refused(Errors),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFile => f.write_str(
                "error: no configuration file: name one, set MESH_CONFIG, or put mesh.yaml here",
            ),
            Self::Unreadable(error) => write!(f, "error: {error}"),
            Self::Refused(errors) => errors.fmt(f),
        }
    }
}

impl From<ReadError> for LoadError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NotText(errors) => Self::Refused(errors),
            other => Self::Unreadable(other),
        }
    }
}

/// Reads and compiles configuration.
pub(crate) fn load(named: &[PathBuf]) -> Result<(Documents, Snapshot), LoadError> {
    let files = config_files::find(named);
    if files.is_empty() {
        return Err(LoadError::NoFile);
    }
    let sources = read(&files)?;
    let documents = config::parse(&sources).map_err(LoadError::Refused)?;
    let snapshot = config::compile(&documents, 1).map_err(LoadError::Refused)?;
    Ok((documents, snapshot))
}

fn read(files: &[PathBuf]) -> Result<Vec<Source>, ReadError> {
    let mut sources = Vec::with_capacity(files.len());
    for file in files {
        if file == Path::new("-") {
            sources.push(config_files::read_from("-", std::io::stdin(), MAX_BYTES)?);
        } else {
            sources.extend(config_files::read(std::slice::from_ref(file))?);
        }
    }
    Ok(sources)
}
