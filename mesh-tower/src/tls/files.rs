//! PEM files: read whole, and again when they change.
//!
//! The folders are watched, not the files: an editor or a mounted volume replaces a file by a
//! rename, or a symlink by another, and the old file itself never changes.

use mesh_core::{Error, ErrorKind, Swap};
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

/// Files read together: their contents, wiped when dropped, in the order they were asked for.
pub(super) struct Contents<'a>(Vec<(&'a Path, Zeroizing<Vec<u8>>)>);

impl<'a> Contents<'a> {
    fn read(paths: &'a [PathBuf]) -> Result<Self, Error> {
        let read = |path: &'a PathBuf| match std::fs::read(path) {
            Ok(bytes) => Ok((path.as_path(), Zeroizing::new(bytes))),
            Err(error) => Err(unusable(path, &error)),
        };
        paths.iter().map(read).collect::<Result<_, _>>().map(Self)
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

    fn file(&self, path: &Path) -> Result<&[u8], Error> {
        let found = self.0.iter().find(|(of, _)| *of == path);
        found.map(|(_, bytes)| bytes.as_slice()).ok_or_else(|| unusable(path, &"not read"))
    }

    /// The certificates of a file, at least one.
    pub(super) fn certificates(&self, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(self.file(path)?)
            .collect::<Result<_, _>>()
            .map_err(|error| unusable(path, &error))?;
        if chain.is_empty() {
            return Err(unusable(path, &"it holds no certificate"));
        }
        Ok(chain)
    }

    /// A certificate chain with its private key, which leaves no copy of itself here.
    pub(super) fn certified(
        &self,
        cert: &Path,
        key: &Path,
    ) -> Result<Arc<SingleCertAndKey>, Error> {
        let chain = self.certificates(cert)?;
        let der = PrivateKeyDer::from_pem_slice(self.file(key)?).map_err(|error| match error {
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
                let reason = format!("the key does not belong to {}", cert.display());
                Err(unusable(key, &reason))
            }
        }
    }

    /// The certificates of a file, as those we trust.
    pub(super) fn roots(&self, path: &Path) -> Result<RootCertStore, Error> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates(path)? {
            roots.add(certificate).map_err(|error| unusable(path, &error))?;
        }
        Ok(roots)
    }
}

/// What to say of a file that cannot be used.
pub(super) fn unusable(path: &Path, reason: &dyn fmt::Display) -> Error {
    Error::new(ErrorKind::Tls, format!("{}: {reason}", path.display()))
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

type Build<T> = Box<dyn Fn(&Contents<'_>) -> Result<T, Error> + Send + Sync>;

struct Shared<T> {
    current: Swap<T>,
    paths: Vec<PathBuf>,
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
    /// Builds the value from the files at `paths`, and keeps watching them.
    ///
    /// # Errors
    ///
    /// Names the file that does not load, and why.
    pub(super) fn new(
        paths: Vec<PathBuf>,
        build: impl Fn(&Contents<'_>) -> Result<T, Error> + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let (first, fingerprint) = {
            let contents = Contents::read(&paths)?;
            (build(&contents)?, contents.fingerprint())
        };
        let shared = Arc::new(Shared {
            current: Swap::new(first),
            paths,
            build: Box::new(build),
            seen: Mutex::new(Seen { fingerprint, complaint: None }),
            stopped: AtomicBool::new(false),
        });
        if shared.paths.is_empty() {
            return Ok(Self { shared, wake: None });
        }
        let wake = watch(&shared);
        if let Err(error) = &wake {
            tracing::warn!(files = ?shared.paths, "changes of certificates go unseen: {error}");
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
        let loaded = Contents::read(&self.paths).and_then(|contents| {
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
                tracing::info!(files = ?self.paths, "certificates reloaded");
            }
            Err(error) => {
                let complaint = error.message().to_owned();
                if seen.complaint.as_ref() != Some(&complaint) {
                    tracing::warn!("certificates not reloaded, the old ones stay: {complaint}");
                    seen.complaint = Some(complaint);
                }
            }
        }
    }

    /// Where a change of the files shows: their folders, and those of what they link to.
    fn folders(&self) -> BTreeSet<PathBuf> {
        let folder = |path: &Path| match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
            Some(parent) => parent.to_owned(),
            None => PathBuf::from("/"),
        };
        let real = self.paths.iter().filter_map(|path| path.canonicalize().ok());
        self.paths.iter().cloned().chain(real).map(|path| folder(&path)).collect()
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
        let of = path.clone();
        let number = Reloading::new(vec![path.clone()], move |contents| {
            let text = String::from_utf8_lossy(contents.file(&of)?).into_owned();
            text.parse::<u32>().map_err(|error| unusable(&of, &error))
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
