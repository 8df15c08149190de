//! PEM files: read whole, and again when they change.
//!
//! The folders are watched, not the files: an editor or a mounted volume replaces a file by a
//! rename, or a symlink by another, and the old file itself never changes.

use super::load_error::LoadError;
use mesh_core::Swap;
use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecursiveMode, Watcher};
use parking_lot::Mutex;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{InconsistentKeys, RootCertStore};
use std::collections::BTreeSet;
use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use zeroize::Zeroizing;

/// A file, by the setting that names it.
pub(super) type File = (&'static str, PathBuf);

/// Files read together: their contents, wiped when dropped.
pub(super) struct Contents<'a>(Vec<(&'a File, Zeroizing<Vec<u8>>)>);

impl<'a> Contents<'a> {
    fn read(files: &'a [File]) -> Result<Self, LoadError> {
        let read = |file: &'a File| match std::fs::read(&file.1) {
            Ok(bytes) => Ok((file, Zeroizing::new(bytes))),
            Err(error) => Err(unusable(file, &error)),
        };
        files.iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// Tells one version from another; not meant to resist anyone.
    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (_, bytes) in &self.0 {
            hasher.write_usize(bytes.len());
            hasher.write(bytes);
        }
        hasher.finish()
    }

    fn file(&self, setting: &'static str) -> Result<(&'a File, &[u8]), LoadError> {
        let found = self.0.iter().find(|(file, _)| file.0 == setting);
        found
            .map(|(file, bytes)| (*file, bytes.as_slice()))
            .ok_or_else(|| LoadError::new(setting, "no file is named"))
    }

    /// The certificates of a file, at least one.
    fn certificates(
        &self,
        setting: &'static str,
    ) -> Result<(&'a File, Vec<CertificateDer<'static>>), LoadError> {
        let (file, bytes) = self.file(setting)?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(bytes)
            .collect::<Result<_, _>>()
            .map_err(|error| unusable(file, &error))?;
        if chain.is_empty() {
            return Err(unusable(file, &"it holds no certificate"));
        }
        Ok((file, chain))
    }

    /// The chain of `cert` with the private key of `key`, which leaves no copy of itself here.
    pub(super) fn certified(&self) -> Result<Arc<SingleCertAndKey>, LoadError> {
        let (cert, chain) = self.certificates("cert")?;
        let (key, bytes) = self.file("key")?;
        let der = PrivateKeyDer::from_pem_slice(bytes).map_err(|error| match error {
            pem::Error::NoItemsFound => unusable(key, &"it holds no private key"),
            error => unusable(key, &error),
        })?;
        let signer =
            any_supported_type(&Zeroizing::new(der)).map_err(|error| unusable(key, &error))?;
        let certified = CertifiedKey::new(chain, signer);
        match certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {
                Ok(Arc::new(certified.into()))
            }
            Err(_) => {
                let reason = format!("the key does not belong to {}", cert.1.display());
                Err(unusable(key, &reason))
            }
        }
    }

    /// The certificates of a file, as those we trust.
    pub(super) fn roots(&self, setting: &'static str) -> Result<RootCertStore, LoadError> {
        let (file, certificates) = self.certificates(setting)?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            roots.add(certificate).map_err(|error| unusable(file, &error))?;
        }
        Ok(roots)
    }
}

/// What to say of a file that cannot be used.
fn unusable((setting, path): &File, reason: &dyn fmt::Display) -> LoadError {
    LoadError::new(setting, format!("{}: {reason}", path.display()))
}

/// A value built from files, and built again when they change.
pub(super) struct Reloading<T> {
    shared: Arc<Shared<T>>,
    /// To the watching thread; `None` if there is none.
    wake: Option<SyncSender<()>>,
}

impl<T> Drop for Reloading<T> {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        if let Some(wake) = &self.wake {
            let _ = wake.try_send(());
        }
    }
}

type Build<T> = Box<dyn Fn(&Contents<'_>) -> Result<T, LoadError> + Send + Sync>;

struct Shared<T> {
    current: Swap<T>,
    files: Vec<File>,
    build: Build<T>,
    seen: Mutex<Seen>,
    stopped: AtomicBool,
}

/// What the last look at the files found.
struct Seen {
    fingerprint: u64,
    complaint: Option<String>,
}

impl<T: Send + Sync + 'static> Reloading<T> {
    /// Builds the value from `files`, and keeps watching them.
    ///
    /// # Errors
    ///
    /// Names the setting and the file that does not load, and why.
    pub(super) fn new(
        files: Vec<File>,
        build: impl Fn(&Contents<'_>) -> Result<T, LoadError> + Send + Sync + 'static,
    ) -> Result<Self, LoadError> {
        let (first, fingerprint) = {
            let contents = Contents::read(&files)?;
            (build(&contents)?, contents.fingerprint())
        };
        let shared = Arc::new(Shared {
            current: Swap::new(first),
            files,
            build: Box::new(build),
            seen: Mutex::new(Seen { fingerprint, complaint: None }),
            stopped: AtomicBool::new(false),
        });
        if shared.files.is_empty() {
            return Ok(Self { shared, wake: None });
        }
        let wake = watch(&shared);
        if let Err(error) = &wake {
            tracing::warn!(files = ?shared.paths(), "changes of certificates go unseen: {error}");
        }
        Ok(Self { shared, wake: wake.ok() })
    }

    /// The value of the files as they last loaded.
    pub(super) fn get(&self) -> Arc<T> {
        self.shared.current.get()
    }
}

impl<T> Shared<T> {
    /// Loads the files again, if they differ from those loaded last.
    fn reload(&self) {
        let mut seen = self.seen.lock();
        let loaded = Contents::read(&self.files).and_then(|contents| {
            let fingerprint = contents.fingerprint();
            if fingerprint == seen.fingerprint {
                return Ok(None);
            }
            Ok(Some(((self.build)(&contents)?, fingerprint)))
        });
        match loaded {
            Ok(None) => seen.complaint = None,
            Ok(Some((value, fingerprint))) => {
                self.current.store(value);
                *seen = Seen { fingerprint, complaint: None };
                tracing::info!(files = ?self.paths(), "certificates reloaded");
            }
            Err(error) => {
                let complaint = error.to_string();
                if seen.complaint.as_ref() != Some(&complaint) {
                    tracing::warn!("certificates not reloaded, the old ones stay: {complaint}");
                    seen.complaint = Some(complaint);
                }
            }
        }
    }

    fn paths(&self) -> Vec<&PathBuf> {
        self.files.iter().map(|(_, path)| path).collect()
    }

    /// Where a change of the files shows: their folders, and those of what they link to.
    fn folders(&self) -> BTreeSet<PathBuf> {
        let folder = |path: &Path| match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
            Some(parent) => parent.to_owned(),
            None => PathBuf::from("/"),
        };
        let paths = self.paths();
        let real = paths.iter().filter_map(|path| path.canonicalize().ok());
        paths.iter().map(|path| (*path).clone()).chain(real).map(|path| folder(&path)).collect()
    }
}

/// Reloads on every change, from a thread of its own: a watcher cannot be told of further folders
/// from inside its own callback. Changes while one is handled count as one more.
fn watch<T: Send + Sync + 'static>(shared: &Arc<Shared<T>>) -> notify::Result<SyncSender<()>> {
    let (changed, changes) = sync_channel(1);
    let wake = changed.clone();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.map_or(true, |event| may_have_changed(event.kind)) {
            let _ = changed.try_send(());
        }
    })?;
    for folder in shared.folders() {
        watcher.watch(&folder, RecursiveMode::NonRecursive)?;
    }
    let weak = Arc::downgrade(shared);
    std::thread::Builder::new().name("mesh-files".to_owned()).spawn(move || {
        while let Ok(()) = changes.recv() {
            let Some(shared) = weak.upgrade() else { return };
            if shared.stopped.load(Ordering::Acquire) {
                return;
            }
            shared.reload();
            // A link may lead elsewhere now.
            for folder in shared.folders() {
                let _ = watcher.watch(&folder, RecursiveMode::NonRecursive);
            }
        }
    })?;
    // What changed between the first load and the watch.
    let _ = wake.try_send(());
    Ok(wake)
}

/// Leaves out the events that our own reading causes.
fn may_have_changed(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_load_leaves_the_old_value_and_one_complaint() {
        let folder = std::env::temp_dir().join(format!("mesh-files-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a temporary folder");
        let path = folder.join("number");
        std::fs::write(&path, "1").expect("written");
        let number = Reloading::new(vec![("ca", path.clone())], move |contents| {
            let (file, bytes) = contents.file("ca")?;
            let text = String::from_utf8_lossy(bytes).into_owned();
            text.parse::<u32>().map_err(|error| unusable(file, &error))
        })
        .expect("a number");
        let complaint = || number.shared.seen.lock().complaint.clone();
        assert_eq!((*number.get(), complaint()), (1, None));

        std::fs::write(&path, "one").expect("written");
        number.shared.reload();
        assert_eq!(*number.get(), 1);
        let told = complaint().expect("a complaint");
        assert!(told.contains("number: invalid digit"), "{told}");

        std::fs::write(&path, "2").expect("written");
        number.shared.reload();
        assert_eq!((*number.get(), complaint()), (2, None));
        std::fs::remove_dir_all(&folder).expect("removed");
    }
}
