//! The data directory: what was registered by the API, kept over a restart.
//!
//! ```text
//! <data>/services/<drawn>.json   a service with the checks that came with it
//! <data>/checks/<drawn>.json     a check that came by itself, or a maintenance
//! <data>/states/<drawn>.json     the last word on a check that waits to be told
//! ```
//!
//! One file per entry, written beside its place, synced, and renamed into it, with the directory
//! synced after: an entry is there whole or not at all. Files are readable by their owner alone, as
//! there are tokens in them. Names are drawn: an ID may be longer than a file name, and has what it
//! likes in it. States are not synced: after a crash of the machine their checks are critical until
//! the next word, as after a long absence.
//!
//! A file that cannot be read is set aside as `<name>.broken` and reported; the rest is loaded.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer};

use crate::check::SavedTtl;
use crate::types::{CheckDefinition, NodeService, Token};

/// What a file is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Folder {
    Services,
    Checks,
    States,
}

impl Folder {
    const ALL: [Self; 3] = [Self::Services, Self::Checks, Self::States];

    const fn name(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Checks => "checks",
            Self::States => "states",
        }
    }
}

/// A service as it is kept.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SavedService {
    pub(super) service: NodeService,
    pub(super) checks: Vec<CheckDefinition>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sidecar_of: Option<String>,
    #[serde(default, serialize_with = "reveal")]
    pub(super) token: Token,
}

/// A check that came by itself, as it is kept.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SavedCheck {
    #[serde(flatten)]
    pub(super) what: SavedWhat,
    #[serde(default, serialize_with = "reveal")]
    pub(super) token: Token,
}

/// What such a check is.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum SavedWhat {
    Check(Box<CheckDefinition>),
    Maintenance {
        /// Empty for the node's.
        service_id: String,
        reason: String,
    },
}

/// A token is kept as it is: the file is our own user's alone.
fn reveal<S: Serializer>(token: &Token, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(token.reveal())
}

/// A file's content: the ID that it is of stands in it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry<T> {
    #[serde(rename = "ID")]
    id: String,
    #[serde(flatten)]
    value: T,
}

/// All that was kept.
#[derive(Debug, Default)]
pub(super) struct Saved {
    pub(super) services: Vec<SavedService>,
    pub(super) checks: Vec<SavedCheck>,
    pub(super) states: HashMap<String, SavedTtl>,
}

/// See the [module docs](self). Without a directory nothing is kept.
#[derive(Debug)]
pub(super) struct Disk {
    root: Option<PathBuf>,
    names: HashMap<(Folder, String), PathBuf>,
}

impl Disk {
    /// Opens the directory, which is made where there is none, and reads what is in it.
    pub(super) fn open(root: Option<PathBuf>) -> io::Result<(Self, Saved)> {
        let mut disk = Self { root, names: HashMap::new() };
        let Some(root) = disk.root.clone() else { return Ok((disk, Saved::default())) };
        for folder in Folder::ALL {
            DirBuilder::new().recursive(true).mode(0o700).create(root.join(folder.name()))?;
        }
        let saved = Saved {
            services: disk.load(&root, Folder::Services)?.into_iter().map(|(_, it)| it).collect(),
            checks: disk.load(&root, Folder::Checks)?.into_iter().map(|(_, it)| it).collect(),
            states: disk.load(&root, Folder::States)?.into_iter().collect(),
        };
        Ok((disk, saved))
    }

    fn load<T: DeserializeOwned>(
        &mut self,
        root: &Path,
        folder: Folder,
    ) -> io::Result<Vec<(String, T)>> {
        let mut loaded = Vec::new();
        for entry in fs::read_dir(root.join(folder.name()))? {
            let path = entry?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => {}
                // What a crash left behind while it was written.
                Some("tmp") => {
                    fs::remove_file(&path)?;
                    continue;
                }
                _ => continue,
            }
            match serde_json::from_slice::<Entry<T>>(&fs::read(&path)?) {
                Ok(Entry { id, value }) => {
                    self.names.insert((folder, id.clone()), path);
                    loaded.push((id, value));
                }
                Err(error) => {
                    let aside = path.with_extension("json.broken");
                    tracing::error!(file = %path.display(), %error, "registration is broken and set aside: register it again");
                    fs::rename(&path, aside)?;
                }
            }
        }
        Ok(loaded)
    }

    /// Keeps `value` as that of `id`.
    pub(super) fn put<T: Serialize>(
        &mut self,
        folder: Folder,
        id: &str,
        value: T,
    ) -> io::Result<()> {
        let Some(root) = &self.root else { return Ok(()) };
        let directory = root.join(folder.name());
        let place = self.names.get(&(folder, id.to_owned())).cloned();
        let place =
            place.unwrap_or_else(|| directory.join(format!("{:032x}.json", fastrand::u128(..))));
        let beside = place.with_extension("tmp");
        let bytes = serde_json::to_vec(&Entry { id: id.to_owned(), value })?;
        let durable = folder != Folder::States;
        let written = write(&beside, &bytes, durable).and_then(|()| fs::rename(&beside, &place));
        if let Err(error) = written {
            // Nothing refers to it; the next start removes it where this does not.
            let _ = fs::remove_file(&beside);
            return Err(error);
        }
        if durable {
            File::open(&directory)?.sync_all()?;
        }
        self.names.insert((folder, id.to_owned()), place);
        Ok(())
    }

    /// Keeps nothing of `id` any more.
    pub(super) fn remove(&mut self, folder: Folder, id: &str) -> io::Result<()> {
        let Some(root) = &self.root else { return Ok(()) };
        let key = (folder, id.to_owned());
        let Some(place) = self.names.get(&key) else { return Ok(()) };
        match fs::remove_file(place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        if folder != Folder::States {
            File::open(root.join(folder.name()))?.sync_all()?;
        }
        self.names.remove(&key);
        Ok(())
    }
}

fn write(path: &Path, bytes: &[u8], durable: bool) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    if durable { file.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::agent::scratch::Scratch;

    fn service(name: &str) -> SavedService {
        let service = NodeService { id: name.into(), name: name.into(), ..NodeService::default() };
        SavedService { service, checks: vec![], sidecar_of: None, token: Token::new("secret") }
    }

    #[test]
    fn what_was_put_is_there_again_and_only_its_owner_reads_it() {
        let scratch = Scratch::new();
        let root = scratch.path().join("data");
        let awkward = "../../web/".repeat(100);
        let (mut disk, saved) = Disk::open(Some(root.clone())).unwrap();
        assert!(saved.services.is_empty());
        disk.put(Folder::Services, &awkward, service("one")).unwrap();
        disk.put(Folder::Services, &awkward, service("two")).unwrap();
        disk.put(Folder::Services, "other", service("other")).unwrap();
        disk.remove(Folder::Services, "other").unwrap();
        disk.remove(Folder::Services, "never").unwrap();

        let (mut disk, saved) = Disk::open(Some(root.clone())).unwrap();
        let [kept] = &saved.services[..] else { panic!("{:?}", saved.services) };
        assert_eq!((kept.service.name.as_str(), kept.token.reveal()), ("two", "secret"));
        assert!(!format!("{kept:?}").contains("secret"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&root.join("services")), 0o700);
        let files: Vec<_> = fs::read_dir(root.join("services")).unwrap().collect();
        let [Ok(file)] = &files[..] else { panic!("{files:?}") };
        assert_eq!(mode(&file.path()), 0o600);

        disk.remove(Folder::Services, &awkward).unwrap();
        assert!(Disk::open(Some(root)).unwrap().1.services.is_empty());
    }

    #[test]
    fn a_broken_file_is_set_aside_and_half_of_one_removed() {
        let scratch = Scratch::new();
        let root = scratch.path().to_owned();
        let (mut disk, _) = Disk::open(Some(root.clone())).unwrap();
        disk.put(Folder::Services, "web", service("web")).unwrap();
        fs::write(root.join("services/torn.json"), b"{\"ID\": \"to").unwrap();
        fs::write(root.join("services/half.tmp"), b"{").unwrap();

        let (_, saved) = Disk::open(Some(root.clone())).unwrap();
        assert_eq!(saved.services.len(), 1);
        assert!(root.join("services/torn.json.broken").exists());
        assert!(!root.join("services/half.tmp").exists());
    }

    #[test]
    fn without_a_directory_nothing_is_kept() {
        let (mut disk, _) = Disk::open(None).unwrap();
        disk.put(Folder::Services, "web", service("web")).unwrap();
        disk.remove(Folder::Services, "web").unwrap();
    }
}
