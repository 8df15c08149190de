use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use redb::StorageBackend;
use redb::backends::FileBackend;

use super::*;

fn kv(name: &str) -> Key {
    Key::new(Table::Kv, name)
}

fn put(name: &str, value: &'static str) -> Batch {
    let mut batch = Batch::default();
    batch.put(kv(name), value);
    batch
}

#[tokio::test]
async fn a_batch_is_applied_whole_at_one_revision_and_told() {
    let mut opened = Embedded::in_memory().expect("opens");
    let mut batch = put("a", "1");
    batch.put(kv("b"), "2");
    assert_eq!(opened.store.commit(batch).await.unwrap(), Commit::Applied(1));
    let mut batch = put("a", "3");
    batch.delete(kv("b"));
    assert_eq!(opened.store.commit(batch).await.unwrap(), Commit::Applied(2));

    let first = opened.updates.recv().await.expect("told");
    assert_eq!((first.revision, first.changes.len()), (1, 2));
    let second = opened.updates.recv().await.expect("told");
    let again =
        Record { key: kv("a"), value: Bytes::from_static(b"3"), create_index: 1, modify_index: 2 };
    assert_eq!(second.changes, [Changed::Put(again), Changed::Deleted(kv("b"))]);
}

#[tokio::test]
async fn what_is_newer_under_a_name_is_seen() {
    let opened = Embedded::in_memory().expect("opens");
    for name in ["a/1", "a/2", "b"] {
        opened.store.commit(put(name, "1")).await.unwrap();
    }
    for (under, revision, held) in
        [("a/", 2, true), ("a/", 1, false), ("c", 0, true), ("", 2, false), ("b", 2, false)]
    {
        let mut batch = Batch::default();
        batch.expect_settled(kv(under), revision);
        let commit = opened.store.commit(batch).await.unwrap();
        assert_eq!(matches!(commit, Commit::Applied(_)), held, "{under} {revision}");
    }
}

#[tokio::test]
async fn a_guard_that_does_not_hold_leaves_everything() {
    let opened = Embedded::in_memory().expect("opens");
    opened.store.commit(put("a", "1")).await.unwrap();
    for (key, modify_index) in [("a", None), ("a", Some(9)), ("absent", Some(1))] {
        let mut batch = put("b", "2");
        batch.expect(kv(key), modify_index);
        assert_eq!(opened.store.commit(batch).await.unwrap(), Commit::Conflict(1));
    }
    let mut batch = put("b", "2");
    batch.expect(kv("a"), Some(1));
    batch.expect(kv("b"), None);
    assert_eq!(opened.store.commit(batch).await.unwrap(), Commit::Applied(2));
}

const VALUE: &[u8] = b"a value that is written nowhere else";

/// Writes a store of many records, and closes it.
async fn fill(path: &Path) -> (u64, Vec<Record>) {
    let opened = Embedded::open(path).expect("opens");
    for round in 0..8 {
        let mut batch = Batch::default();
        for n in 0..40 {
            batch.put(kv(&format!("key/{round}/{n}")), VALUE);
        }
        opened.store.commit(batch).await.unwrap();
    }
    let held = opened.store.read().await.unwrap();
    opened.store.close().await.unwrap();
    held
}

/// Opening is refused, again and again, and leaves the file.
fn refused(path: &Path) -> String {
    let before = fs::read(path).unwrap();
    let error = Embedded::open(path).unwrap_err().to_string();
    assert_eq!(Embedded::open(path).unwrap_err().to_string(), error);
    assert!(fs::read(path).unwrap() == before, "the file was changed: {error}");
    error
}

#[tokio::test]
async fn what_was_written_is_there_after_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let held = fill(&path).await;
    assert_eq!((held.0, held.1.len()), (8, 320));
    let opened = Embedded::open(&path).unwrap();
    assert_eq!((opened.revision, opened.records), held);
    assert!(!path.with_extension("new").exists());
}

#[tokio::test]
async fn one_server_uses_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let opened = Embedded::open(&path).unwrap();
    let error = Embedded::open(&path).unwrap_err().to_string();
    assert!(error.contains("another server uses it"), "{error}");
    opened.store.close().await.unwrap();
    Embedded::open(&path).unwrap();
}

#[tokio::test]
async fn a_start_that_was_cut_off_is_no_obstacle() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    fs::write(path.with_extension("new"), "half of").unwrap();
    assert_eq!(Embedded::open(&path).unwrap().revision, 0);
}

#[tokio::test]
async fn a_damaged_file_is_refused_or_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let held = fill(&path).await;
    let good = fs::read(&path).unwrap();
    let used: Vec<_> = (0..good.len()).filter(|at| good[*at] != 0).collect();
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut draws = fastrand::Rng::with_seed(seed);
    let (mut flipped, mut cut) = (0, 0);
    for round in 0..32 {
        let mut bad = good.clone();
        let cuts = round % 4 == 0;
        if cuts {
            bad.truncate(draws.usize(1..good.len()));
        } else {
            bad[used[draws.usize(..used.len())]] ^= 1 << draws.u8(..8);
        }
        fs::write(&path, &bad).unwrap();
        match Embedded::open(&path) {
            // It hit what means nothing: free pages, padding.
            Ok(opened) => {
                assert_eq!((opened.revision, opened.records), held, "round {round}");
                opened.store.close().await.unwrap();
            }
            Err(error) => {
                *if cuts { &mut cut } else { &mut flipped } += 1;
                assert!(error.to_string().contains("restore a snapshot"), "{round}: {error}");
                assert_eq!(refused(&path), error.to_string(), "round {round}");
            }
        }
    }
    println!("refused: {flipped} of 24 flipped, {cut} of 8 cut off");
    assert!(cut > 0, "not even what was cut off is refused");
}

#[tokio::test]
async fn a_flipped_bit_in_a_value_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    fill(&path).await;
    let mut bad = fs::read(&path).unwrap();
    // Older pages hold some of them, too: one that is in use is among these.
    let places: Vec<_> =
        (0..bad.len() - VALUE.len()).filter(|at| bad[*at..].starts_with(VALUE)).collect();
    assert!(places.len() >= 320, "{}", places.len());
    for at in places {
        bad[at] ^= 1;
    }
    fs::write(&path, &bad).unwrap();
    let error = refused(&path);
    assert!(error.contains("damaged") && error.contains("restore a snapshot"), "{error}");
}

#[tokio::test]
async fn what_is_no_store_of_this_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    fill(&path).await;
    let database = Database::open(&path).unwrap();
    let write = database.begin_write().unwrap();
    write.open_table(META).unwrap().insert("format", 2).unwrap();
    write.commit().unwrap();
    drop(database);
    let error = refused(&path);
    assert!(error.contains("a file of format 2") && error.contains("use the version"), "{error}");

    fs::write(&path, "").unwrap();
    let error = refused(&path);
    assert!(error.contains("it is empty"), "{error}");
    fs::write(&path, "not a store at all").unwrap();
    refused(&path);
}

/// Nothing fails.
const FINE: u8 = 0;
/// Writing fails.
const FULL: u8 = 1;
/// Only the step that makes it durable fails, and it is durable all the same.
const UNSURE: u8 = 2;

/// A file on a disk that fails as it is told to.
#[derive(Debug)]
struct Disk {
    file: FileBackend,
    fails: Arc<AtomicU8>,
}

impl Disk {
    fn step(&self, how: u8) -> io::Result<()> {
        if self.fails.load(Ordering::SeqCst) == how {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        Ok(())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.step(FULL)?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.step(FULL)?;
        self.file.sync_data()?;
        self.step(UNSURE)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.step(FULL)?;
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}

/// A store on such a disk.
fn on_disk(path: &Path, fails: &Arc<AtomicU8>) -> Opened {
    drop(file::make(path).unwrap());
    let (path, fails) = (path.to_owned(), Arc::clone(fails));
    let reopen: Reopen = Box::new(move || {
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let disk = Disk { file: FileBackend::new(file).unwrap(), fails: Arc::clone(&fails) };
        let database = Database::builder().create_with_backend(disk);
        database.map_err(|error| StoreError::Open(error.to_string()))
    });
    Embedded::start(reopen().unwrap(), (0, Vec::new()), Some(reopen), None).unwrap()
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_not_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let fails = Arc::new(AtomicU8::new(FINE));
    let mut opened = on_disk(&folder.path().join("store"), &fails);
    opened.store.commit(put("a", "1")).await.unwrap();
    fails.store(FULL, Ordering::SeqCst);
    for _ in 0..3 {
        let error = opened.store.commit(put("lost", "2")).await.unwrap_err().to_string();
        assert!(error.starts_with("the store cannot be"), "{error}");
    }
    fails.store(FINE, Ordering::SeqCst);
    assert_eq!(opened.store.commit(put("b", "3")).await.unwrap(), Commit::Applied(2));
    let (revision, held) = opened.store.read().await.unwrap();
    assert_eq!(revision, 2);
    assert_eq!(held.iter().map(|record| &*record.key.name).collect::<Vec<_>>(), ["a", "b"]);
    for revision in [1, 2] {
        assert_eq!(opened.updates.try_recv().unwrap().revision, revision);
    }
    opened.updates.try_recv().unwrap_err();
}

#[tokio::test]
async fn a_write_that_failed_and_is_there_is_told_before_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let fails = Arc::new(AtomicU8::new(FINE));
    let mut opened = on_disk(&folder.path().join("store"), &fails);
    opened.store.commit(put("a", "1")).await.unwrap();
    fails.store(UNSURE, Ordering::SeqCst);
    let error = opened.store.commit(put("unsure", "2")).await.unwrap_err();
    assert!(matches!(error, StoreError::Write(_)), "{error}");
    fails.store(FINE, Ordering::SeqCst);
    assert_eq!(opened.store.commit(put("b", "3")).await.unwrap(), Commit::Applied(3));
    let (_, held) = opened.store.read().await.unwrap();
    let names: Vec<_> = held.iter().map(|record| &*record.key.name).collect();
    assert_eq!(names, ["a", "b", "unsure"]);
    for (revision, name) in [(1, "a"), (2, "unsure"), (3, "b")] {
        let told = opened.updates.try_recv().unwrap();
        assert_eq!(told.revision, revision);
        assert!(matches!(&told.changes[..], [Changed::Put(record)] if record.key == kv(name)));
    }
    opened.updates.try_recv().unwrap_err();
}

#[tokio::test]
async fn a_file_that_went_back_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (path, older) = (folder.path().join("store"), folder.path().join("older"));
    drop(file::make(&older).unwrap());
    let fails = Arc::new(AtomicU8::new(FINE));
    let opened = on_disk(&path, &fails);
    opened.store.commit(put("a", "1")).await.unwrap();
    fails.store(FULL, Ordering::SeqCst);
    opened.store.commit(put("b", "2")).await.unwrap_err();
    fs::rename(&older, &path).unwrap();
    fails.store(FINE, Ordering::SeqCst);
    let error = opened.store.commit(put("b", "2")).await.unwrap_err().to_string();
    assert!(error.contains("it is at revision 0, but 1 was written"), "{error}");
}
