//! Files and directories of definitions, read in the order in which Consul reads them.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use mesh_core::config::{Errors, Source};

use super::read::{Definitions, read};
use super::text::MAX_FILE;

/// Most files of a set.
const MAX_FILES: usize = 10_000;
/// Most bytes of a set. 64 MiB.
const MAX_BYTES: u64 = 64 << 20;

/// Why definitions cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A file or a directory cannot be read.
    #[error("cannot read {path}: {error}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// There are too many, or they are too large.
    #[error("{path}: {what}")]
    TooMuch {
        /// The first one that is too much.
        path: PathBuf,
        /// In what.
        what: String,
    },
    /// What they say is wrong.
    #[error(transparent)]
    Wrong(#[from] Errors),
}

/// Loads files, and the files `*.hcl`, `*.json`, `*.yaml` and `*.yml` of directories in the order
/// of their names. Directories within directories, and names that begin with a dot, are left out.
/// What comes later counts.
///
/// # Errors
/// When something cannot be read, or is wrong.
pub fn load(paths: &[PathBuf]) -> Result<Definitions, LoadError> {
    let mut names = Vec::new();
    for path in paths {
        let io = |error| LoadError::Io { path: path.clone(), error };
        if fs::metadata(path).map_err(io)?.is_dir() {
            let mut inside = Vec::new();
            for entry in fs::read_dir(path).map_err(io)? {
                let path = entry.map_err(io)?.path();
                if is_definition(&path) && path.is_file() {
                    inside.push(path);
                }
            }
            inside.sort_unstable();
            names.extend(inside);
        } else {
            names.push(path.clone());
        }
    }
    let mut sources = Vec::with_capacity(names.len().min(MAX_FILES));
    let mut left = MAX_BYTES;
    for path in names {
        if sources.len() == MAX_FILES {
            let what = format!("there are more than {MAX_FILES} files");
            return Err(LoadError::TooMuch { path, what });
        }
        // One byte more than may be, so that it shows.
        let mut bytes = Vec::new();
        fs::File::open(&path)
            .and_then(|file| file.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes))
            .map_err(|error| LoadError::Io { path: path.clone(), error })?;
        left = match left.checked_sub(bytes.len() as u64) {
            Some(left) => left,
            None => {
                let what = format!("the files have more than {} MiB", MAX_BYTES >> 20);
                return Err(LoadError::TooMuch { path, what });
            }
        };
        sources.push(Source::from_bytes(path.to_string_lossy().into_owned(), &bytes)?);
    }
    Ok(read(&sources)?)
}

fn is_definition(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
    let known = path
        .extension()
        .is_some_and(|end| ["hcl", "json", "yaml", "yml"].into_iter().any(|known| end == known));
    known && !hidden
}
