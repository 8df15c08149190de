//! Reload: notices that a configuration file changed.
//!
//! The folder is watched, not the file: editors and orchestrators replace a file or a symbolic
//! link instead of writing into it. Events are gathered until none came for [`SETTLE`], so that a
//! file written in pieces is read once.

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Quiet time after the last event.
const SETTLE: Duration = Duration::from_millis(100);

/// Watches some files.
#[derive(Debug)]
pub(crate) struct Changes {
    events: mpsc::Receiver<()>,
    /// Watches while it lives; `None` if there is nothing to watch.
    _watcher: Option<RecommendedWatcher>,
}

impl Changes {
    /// Begins to watch.
    ///
    /// # Errors
    /// When the system refuses to watch a folder.
    pub(crate) fn of(files: &[PathBuf]) -> notify::Result<Self> {
        let (changed, events) = mpsc::channel(1);
        if files.is_empty() {
            return Ok(Self { events, _watcher: None });
        }
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                // A full queue already says that something changed.
                if event.is_ok_and(|event| !event.kind.is_access()) {
                    let _ = changed.try_send(());
                }
            })?;
        let folders: BTreeSet<&Path> = files
            .iter()
            .map(|file| match file.parent() {
                Some(folder) if !folder.as_os_str().is_empty() => folder,
                _ => Path::new("."),
            })
            .collect();
        for folder in folders {
            watcher.watch(folder, RecursiveMode::NonRecursive)?;
        }
        Ok(Self { events, _watcher: Some(watcher) })
    }

    /// Resolves when something changed and has settled; never if there is nothing to watch.
    pub(crate) async fn next(&mut self) {
        if self.events.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
        while timeout(SETTLE, self.events.recv()).await.is_ok_and(|event| event.is_some()) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_replaced_file_is_noticed() {
        let folder = std::env::temp_dir().join(format!("mesh-proxy-reload-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("mesh.yaml");
        std::fs::write(&file, "a").unwrap();
        let mut changes = Changes::of(std::slice::from_ref(&file)).unwrap();
        std::fs::write(folder.join("new"), "b").unwrap();
        std::fs::rename(folder.join("new"), &file).unwrap();
        timeout(Duration::from_secs(5), changes.next()).await.expect("no event");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_to_watch_never_changes() {
        let mut changes = Changes::of(&[]).unwrap();
        assert!(timeout(Duration::from_secs(3600), changes.next()).await.is_err());
    }
}
