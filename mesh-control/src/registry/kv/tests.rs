use std::time::Duration;

use super::super::{Cas, Plan, Registry, View, Wait};
use super::*;
use crate::store::Embedded;

async fn put_one(registry: &Registry, key: &str, value: &'static str, cas: Cas) -> bool {
    let value = Bytes::from_static(value.as_bytes());
    let plan = |view: &View| {
        let mut draft = registry.draft(view);
        let done = draft.set(key, &value, 7, cas).is_some();
        Ok::<_, StoreError>(Plan::new(draft.into_batch(), done))
    };
    registry.write(plan).await.expect("writes").value
}

async fn delete(registry: &Registry, key: &str) {
    let plan = |view: &View| {
        let mut draft = registry.draft(view);
        draft.delete(key);
        Ok::<_, StoreError>(Plan::new(draft.into_batch(), ()))
    };
    registry.write(plan).await.expect("writes");
}

#[tokio::test]
async fn check_and_set_needs_the_revision_that_it_names() {
    let registry = Registry::start(Embedded::in_memory().unwrap()).unwrap();
    assert!(put_one(&registry, "a", "1", Cas::Absent).await);
    assert!(!put_one(&registry, "a", "2", Cas::Absent).await);
    assert!(!put_one(&registry, "a", "2", Cas::Unchanged(9)).await);
    assert!(put_one(&registry, "a", "2", Cas::Unchanged(1)).await);
    registry.read(|view| {
        let entry = view.kv().get("a");
        assert_eq!(entry.index, 2);
        let entry = entry.value.expect("there");
        assert_eq!((&entry.value[..], entry.flags), (&b"2"[..], 7));
        assert_eq!((entry.create_index, entry.modify_index), (1, 2));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocking_read_sees_the_change_that_it_waited_for() {
    let registry = Registry::start(Embedded::in_memory().unwrap()).unwrap();
    put_one(&registry, "dir/a", "1", Cas::Any).await;
    let reader = registry.clone();
    let waits = tokio::spawn(async move {
        let wait = Wait::new(1, Duration::from_secs(60));
        let topics = [Topic::Kv("dir/".to_owned())];
        let read = |view: &View| {
            Indexed::new(view.kv().index_under("dir/"), view.kv().under("dir/").count())
        };
        reader.blocking(Some(wait), &topics, read).await
    });
    put_one(&registry, "other", "1", Cas::Any).await;
    delete(&registry, "dir/a").await;
    assert_eq!(waits.await.unwrap(), Indexed::new(3, 0), "a deletion is a change");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_write_one_key_all_get_through() {
    let registry = Registry::start(Embedded::in_memory().unwrap()).unwrap();
    let writers = (0..100).map(|_| {
        let registry = registry.clone();
        tokio::spawn(async move {
            let plan = |view: &View| {
                let mut draft = registry.draft(view);
                let count = draft.get("n").map_or(0, |entry| entry.value.len());
                draft.set("n", &vec![b'x'; count + 1].into(), 0, Cas::Any);
                Ok::<_, StoreError>(Plan::new(draft.into_batch(), ()))
            };
            registry.write(plan).await.expect("writes");
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let length = registry.read(|view| view.kv().get("n").value.map(|entry| entry.value.len()));
    assert_eq!(length, Some(100), "no increment was lost");
}

#[test]
fn the_index_of_a_prefix_never_goes_back() {
    let record = |name: &str, modify_index| Record {
        key: crate::store::Key::new(crate::store::Table::Kv, name),
        value: KvEntry::new(Bytes::new(), 0, 0, None).encode(),
        create_index: modify_index,
        modify_index,
    };
    let mut table = KvTable::default();
    table.put(&record("a/1", 1)).unwrap();
    table.put(&record("a/2", 2)).unwrap();
    table.delete("a/2", 3);
    assert_eq!((table.index_under("a/"), table.index_under("b/")), (3, 3));
    table.put(&record("b/1", 4)).unwrap();
    assert_eq!((table.index_under("a/"), table.index_under("b/")), (3, 4));

    let mut revision = 4;
    for n in 0..=REMEMBERED {
        let key = format!("c/{n}");
        table.put(&record(&key, revision + 1)).unwrap();
        table.delete(&key, revision + 2);
        revision += 2;
    }
    assert!(table.index_under("a/") >= 3, "though the deletion of a/2 is forgotten");
    assert_eq!(table.index_under("c/"), revision);
    assert!(table.deleted.by_key.len() <= REMEMBERED && table.deleted.order.len() <= REMEMBERED);

    table.settle(revision);
    assert_eq!(table.index_under("a/"), revision, "as after a start");
}

#[test]
fn who_holds_which_lock_is_known_by_the_session() {
    let record = |session: Option<&str>| Record {
        key: crate::store::Key::new(crate::store::Table::Kv, "a"),
        value: KvEntry::new(Bytes::new(), 0, 1, session.map(str::to_owned)).encode(),
        create_index: 1,
        modify_index: 1,
    };
    let mut table = KvTable::default();
    let held = |table: &KvTable, session: &str| table.held_by(session).count();
    table.put(&record(Some("s"))).unwrap();
    assert_eq!((held(&table, "s"), held(&table, "t")), (1, 0));
    table.put(&record(Some("t"))).unwrap();
    assert_eq!((held(&table, "s"), held(&table, "t")), (0, 1));
    table.put(&record(None)).unwrap();
    assert_eq!(table.holders().count(), 0);
    table.put(&record(Some("s"))).unwrap();
    table.delete("a", 2);
    assert_eq!(table.holders().count(), 0);
}
