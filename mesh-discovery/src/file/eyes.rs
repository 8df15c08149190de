//! Eyes on a file: the directories of everything that, when replaced, makes its path mean
//! another file.

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// The most symbolic links followed on the way to a file; Linux follows as many.
const MOST_LINKS: usize = 40;

pub(super) struct Eyes {
    /// None if the system gives no watcher: the poll remains.
    watcher: Option<RecommendedWatcher>,
    /// What a change must touch to count: the links on the way, and the file.
    names: Arc<Mutex<BTreeSet<PathBuf>>>,
    directories: BTreeSet<PathBuf>,
}

impl Eyes {
    /// Wakes `changed` at each change of what was last looked at.
    pub(super) fn new(changed: Arc<Notify>) -> Self {
        let names = Arc::new(Mutex::new(BTreeSet::new()));
        let of_interest = names.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let counts = match &event {
                Ok(event) if event.need_rescan() => true,
                // Our own reading opens the file too.
                Ok(event) if event.kind.is_access() => {
                    event.kind == EventKind::Access(AccessKind::Close(AccessMode::Write))
                        && touches(&of_interest, &event.paths)
                }
                Ok(event) => touches(&of_interest, &event.paths),
                Err(_) => true,
            };
            if counts {
                changed.notify_one();
            }
        });
        let watcher = watcher
            .inspect_err(|error| {
                tracing::warn!(
                    "endpoint files are polled, because changes cannot be watched: {error}"
                );
            })
            .ok();
        Self { watcher, names, directories: BTreeSet::new() }
    }

    /// Looks at the way to `path` as it is now. Watches are set anew each time, because a
    /// directory may have been replaced by another of its name.
    pub(super) fn look_at(&mut self, path: &Path) {
        let Some(watcher) = &mut self.watcher else { return };
        let names = way_to(path);
        let directories: BTreeSet<PathBuf> =
            names.iter().filter_map(|name| name.parent().map(Path::to_owned)).collect();
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = names;
        for gone in &self.directories {
            // An error means that the directory is gone, and its watch with it.
            let _ = watcher.unwatch(gone);
        }
        self.directories = directories;
        for directory in &self.directories {
            if let Err(error) = watcher.watch(directory, RecursiveMode::NonRecursive) {
                tracing::debug!("cannot watch {}: {error}", directory.display());
            }
        }
    }
}

fn touches(names: &Mutex<BTreeSet<PathBuf>>, paths: &[PathBuf]) -> bool {
    let names = names.lock().unwrap_or_else(PoisonError::into_inner);
    paths.iter().any(|path| names.contains(path))
}

/// The symbolic links that an absolute path leads over, and where it ends: at the file, or at
/// the first name that does not exist. No name has a link in its parent.
fn way_to(path: &Path) -> BTreeSet<PathBuf> {
    let mut names = BTreeSet::new();
    let mut at = PathBuf::new();
    let mut rest: VecDeque<OsString> = components(path);
    let mut links = 0;
    while let Some(component) = rest.pop_front() {
        if component == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&component);
        match next.read_link() {
            Ok(target) => {
                names.insert(next);
                links += 1;
                if links > MOST_LINKS {
                    return names;
                }
                let mut target = components(&target);
                target.append(&mut rest);
                rest = target;
            }
            Err(_) if rest.is_empty() || !next.exists() => {
                names.insert(next);
                return names;
            }
            Err(_) => at = next,
        }
    }
    names
}

/// The parts of a path; joining a root to a path starts anew, as it should.
fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter(|component| !matches!(component, Component::CurDir))
        .map(|component| component.as_os_str().to_owned())
        .collect()
}
