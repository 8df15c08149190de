//! The file of the embedded engine: made whole, checked whole, used by one process.
//!
//! A new file is prepared under another name and renamed, so that a crash never leaves half of one.
//! At a start every page is checked against its checksum, in a copy in memory: redb mends what it
//! opens, and mending may go back to the transaction before. So a file that is damaged, cut off,
//! empty, or of another version is refused, stays as it is, and is refused again the next time.
//!
//! Two damages are beyond this: that of the very last transaction in a file that was not closed
//! looks like a transaction that never ended, and is taken back as one; and after an `fsync` that
//! failed, what the kernel shows of the file is believed.

use std::fmt::Display;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use redb::backends::{FileBackend, InMemoryBackend};
use redb::{Database, ReadableDatabase as _, StorageBackend as _};

use super::{prepare, records};
use crate::store::{Record, StoreError};

/// Read at once for the check, in bytes.
const PIECE: usize = 1 << 20;

fn refused(path: &Path, error: impl Display) -> StoreError {
    StoreError::Open(format!("{}: {error}", path.display()))
}

fn damaged(path: &Path, error: impl Display) -> StoreError {
    refused(path, format!("it is damaged: {error}; put it aside and restore a snapshot"))
}

/// For our own user alone: values may be secrets.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

/// Takes the lock beside the file. It is held for as long as the answer lives, also while the file
/// itself is closed after a failure.
pub(super) fn lock(path: &Path) -> Result<File, StoreError> {
    let lock = private().create(true).truncate(false).open(path.with_extension("lock"));
    let lock = lock.map_err(|error| refused(path, error))?;
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => refused(path, "another server uses it; stop that one"),
        TryLockError::Error(error) => refused(path, error),
    })?;
    Ok(lock)
}

/// What it holds, if nothing of it is damaged; `None` when there is no such file.
pub(super) fn check(path: &Path) -> Result<Option<(u64, Vec<Record>)>, StoreError> {
    let copy = match copy(path) {
        Ok(copy) => copy,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refused(path, error)),
    };
    if copy.len().is_ok_and(|length| length == 0) {
        return Err(damaged(path, "it is empty, which a store never is"));
    }
    let read = || {
        let mut database =
            Database::builder().create_with_backend(copy).map_err(|error| damaged(path, error))?;
        match database.check_integrity() {
            Ok(true) => {}
            Ok(false) => return Err(damaged(path, "its pages do not agree")),
            Err(error) => return Err(damaged(path, error)),
        }
        records(&database.begin_read().map_err(|error| damaged(path, error))?)
    };
    // Lengths and offsets that are wrong make redb panic here and there.
    let held = catch_unwind(AssertUnwindSafe(read));
    held.unwrap_or_else(|_| Err(damaged(path, "it cannot be read"))).map(Some)
}

fn copy(path: &Path) -> io::Result<InMemoryBackend> {
    let mut file = File::open(path)?;
    let copy = InMemoryBackend::new();
    copy.set_len(file.metadata()?.len())?;
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(copy),
            length => {
                copy.write(at, &piece[..length])?;
                at += length as u64;
            }
        }
    }
}

/// Opens a file that was checked.
pub(super) fn open(path: &Path) -> Result<Database, StoreError> {
    let file = private().open(path).map_err(|error| refused(path, error))?;
    let backend = FileBackend::new(file).map_err(|error| refused(path, error))?;
    Database::builder().create_with_backend(backend).map_err(|error| refused(path, error))
}

/// Makes an empty store.
pub(super) fn make(path: &Path) -> Result<Database, StoreError> {
    let made = || -> Result<(), redb::Error> {
        let new = path.with_extension("new");
        // One may be left of a start that was cut off.
        let file = private().create(true).truncate(true).open(&new)?;
        prepare(&Database::builder().create_with_backend(FileBackend::new(file)?)?)?;
        fs::rename(&new, path)?;
        // A name is durable when its folder is.
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    };
    made().map_err(|error| refused(path, error))?;
    open(path)
}
