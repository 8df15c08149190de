//! Endpoint files on a real file system: rewrites, renames, links as Kubernetes moves them, and
//! files that are wrong.

#![allow(missing_docs)]

use mesh_core::{Declared, EndpointSpec};
use mesh_discovery::{EndpointFile, Failure, Resolve, Update, Watch};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Far below the poll, so that what passes was seen by a watch and not by it.
const SOON: Duration = Duration::from_secs(6);

/// A directory of one test, removed with it.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a directory for the test");
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().expect("parent")).expect("directories");
        fs::write(&path, text).expect("write");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

async fn next(watch: &mut Watch) -> Update {
    tokio::time::timeout(SOON, watch.changed())
        .await
        .expect("an update was due")
        .expect("the source goes on")
}

async fn set(watch: &mut Watch) -> Vec<EndpointSpec> {
    match next(watch).await {
        Update::Endpoints(set) => set,
        other => panic!("a set was due, not {other:?}"),
    }
}

async fn ids(watch: &mut Watch) -> Vec<String> {
    set(watch).await.iter().map(|spec| spec.id.to_string()).collect()
}

async fn failure(watch: &mut Watch) -> Failure {
    match next(watch).await {
        Update::Failed(failure) => failure,
        other => panic!("a failure was due, not {other:?}"),
    }
}

#[tokio::test]
async fn every_field_is_read_from_yaml_and_from_json() {
    let folder = Folder::new("fields");
    let yaml = folder.write(
        "a.yaml",
        "- 10.0.0.2:80\n\
         - address: 10.0.0.1:80\n  additionalAddresses: ['[fd00::1]:80']\n  hostname: one.test\n  \
           weight: 3\n  priority: 1\n  locality: { region: eu, zone: eu-1, subZone: rack-7 }\n  \
           health: Draining\n  metadata: { version: v2 }\n",
    );
    let json = folder.write(
        "a.json",
        r#"[{"address":"10.0.0.2:80"},
            {"address":"10.0.0.1:80","additionalAddresses":["[fd00::1]:80"],"hostname":"one.test",
             "weight":3,"priority":1,"locality":{"region":"eu","zone":"eu-1","subZone":"rack-7"},
             "health":"Draining","metadata":{"version":"v2"}}]"#,
    );
    let told = set(&mut EndpointFile::new(yaml).watch()).await;
    assert_eq!(told, set(&mut EndpointFile::new(json).watch()).await);

    let [plain, full] = told.as_slice() else { panic!("two endpoints: {told:?}") };
    assert_eq!(*plain, EndpointSpec::new("10.0.0.2:80".parse().expect("address")));
    assert_eq!(full.id.as_str(), "10.0.0.1:80");
    assert_eq!(full.addresses.len(), 2);
    assert_eq!(full.hostname.as_deref(), Some("one.test"));
    assert_eq!((full.weight, full.priority), (3, 1));
    assert_eq!((&*full.locality.zone, &*full.locality.sub_zone), ("eu-1", "rack-7"));
    assert_eq!(full.declared, Declared::Draining);
    assert_eq!(full.metadata.get("version").map(String::as_str), Some("v2"));
}

#[tokio::test]
async fn a_file_written_in_place_is_read_again() {
    let folder = Folder::new("in-place");
    let path = folder.write("e.yaml", "[{address: '10.0.0.1:80'}]");
    let mut watch = EndpointFile::new(&path).watch();
    assert_eq!(ids(&mut watch).await, ["10.0.0.1:80"]);
    folder.write("e.yaml", "[{address: '10.0.0.1:80'}, {address: '10.0.0.2:80'}]");
    assert_eq!(ids(&mut watch).await, ["10.0.0.1:80", "10.0.0.2:80"]);
}

#[tokio::test]
async fn a_file_replaced_by_a_rename_is_read_again_and_again() {
    let folder = Folder::new("rename");
    let path = folder.write("e.yaml", "[{address: '10.0.0.1:80'}]");
    let mut watch = EndpointFile::new(&path).watch();
    assert_eq!(ids(&mut watch).await, ["10.0.0.1:80"]);
    for host in 2..5 {
        let fresh = folder.write("e.yaml.new", &format!("[{{address: '10.0.0.{host}:80'}}]"));
        fs::rename(fresh, &path).expect("rename");
        assert_eq!(ids(&mut watch).await, [format!("10.0.0.{host}:80")]);
    }
}

#[cfg(unix)]
#[tokio::test]
async fn links_that_move_as_in_a_config_map_are_followed() {
    use std::os::unix::fs::symlink;

    let folder = Folder::new("config-map");
    folder.write("..2026_1/e.yaml", "[{address: '10.0.0.1:80'}]");
    symlink("..2026_1", folder.0.join("..data")).expect("link");
    symlink("..data/e.yaml", folder.0.join("e.yaml")).expect("link");
    let mut watch = EndpointFile::new(folder.0.join("e.yaml")).watch();
    assert_eq!(ids(&mut watch).await, ["10.0.0.1:80"]);

    for version in 2..4 {
        let fresh = format!("..2026_{version}");
        folder.write(&format!("{fresh}/e.yaml"), &format!("[{{address: '10.0.0.{version}:80'}}]"));
        symlink(&fresh, folder.0.join("..data_tmp")).expect("link");
        fs::rename(folder.0.join("..data_tmp"), folder.0.join("..data")).expect("rename");
        fs::remove_dir_all(folder.0.join(format!("..2026_{}", version - 1))).expect("remove");
        assert_eq!(ids(&mut watch).await, [format!("10.0.0.{version}:80")]);
    }
}

#[tokio::test]
async fn a_file_that_comes_later_is_found() {
    let folder = Folder::new("later");
    let mut watch = EndpointFile::new(folder.0.join("e.yaml")).watch();
    let told = failure(&mut watch).await;
    assert!(told.message().starts_with("cannot read "), "{told}");
    folder.write("e.yaml", "[{address: '10.0.0.1:80'}]");
    assert_eq!(ids(&mut watch).await, ["10.0.0.1:80"]);
}

#[tokio::test]
async fn a_broken_file_keeps_the_last_good_set_and_says_where_it_is_broken() {
    let folder = Folder::new("broken");
    let good = "[{address: '10.0.0.1:80'}]";
    let path = folder.write("e.yaml", good);
    let mut watch = EndpointFile::new(&path).watch();
    assert_eq!(ids(&mut watch).await, ["10.0.0.1:80"]);

    for (text, place, says) in [
        ("- address: 10.0.0.1:80\n- address: nonsense\n", ":2:12", "socket address"),
        ("- address: 10.0.0.1:80\n  wieght: 3\n", ":2:3", "wieght"),
        ("- address: 10.0.0.1:80\n  weight: 0\n", ":2:3", "nonzero"),
        ("- nowhere:80\n", ":1:3", "socket address"),
        ("- weight: 2\n", ":1:3", "address"),
        ("- address: 10.0.0.1:80\n  address: 10.0.0.2:80\n", ":2:3", "duplicate"),
        ("- {address: '10.0.0.1:80'\n", "", ""),
        ("", " is empty: write [] for no endpoints", ""),
    ] {
        folder.write("e.yaml", text);
        let told = failure(&mut watch).await.to_string();
        let start = format!("{}{place}", path.display());
        assert!(told.starts_with(&start) && told.contains(says), "{text:?}: {told}");
        assert!(!told.contains('\n') && !told.contains(" at line "), "one sentence: {told}");
    }

    folder.write("e.yaml", good);
    assert_eq!(ids(&mut watch).await, ["10.0.0.1:80"], "no other set came between");
}

#[tokio::test]
async fn an_empty_list_is_believed() {
    let folder = Folder::new("empty-list");
    let path = folder.write("e.yaml", "[{address: '10.0.0.1:80'}]");
    let mut watch = EndpointFile::new(&path).watch();
    assert_eq!(ids(&mut watch).await, ["10.0.0.1:80"]);
    folder.write("e.yaml", "[]\n");
    assert_eq!(ids(&mut watch).await, Vec::<String>::new());
}

#[tokio::test]
async fn bombs_and_giants_are_refused_quickly() {
    let folder = Folder::new("bombs");
    let mut aliases = "- &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (this, last) in ('b'..='z').zip('a'..='y') {
        let ten = vec![format!("*{last}"); 10].join(", ");
        aliases.push_str(&format!("- &{this} [{ten}]\n"));
    }
    for (name, text) in [
        ("aliases", aliases),
        ("nesting", "[".repeat(100_000)),
        ("giant", " ".repeat(9 * 1024 * 1024)),
    ] {
        let path = folder.write(name, &text);
        let started = tokio::time::Instant::now();
        let told = failure(&mut EndpointFile::new(&path).watch()).await;
        assert!(told.message().starts_with(&*path.to_string_lossy()), "{told}");
        assert!(started.elapsed() < Duration::from_secs(2), "{name}: {:?}", started.elapsed());
    }
}
