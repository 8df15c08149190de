use std::time::Duration;

use serde_json::json;

use super::*;
use crate::registry::Wait;
use crate::store::Embedded;

fn entry(written: &serde_json::Value) -> ConfigEntry {
    ConfigEntry::read_json(written.to_string().as_bytes()).expect("it is an entry")
}

fn defaults(name: &str, protocol: &str) -> ConfigEntry {
    entry(&json!({"Kind": "service-defaults", "Name": name, "Protocol": protocol}))
}

async fn put(registry: &Registry, written: serde_json::Value) -> Result<bool, String> {
    registry.put_entry(&entry(&written), Cas::Any).await.map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_counts_every_change_and_nothing_else() {
    let registry = Registry::start(Embedded::in_memory().unwrap()).unwrap();
    let index = || registry.read(|view| view.entries().of_kind(EntryKind::ServiceRouter).index);
    assert_eq!(index(), 1, "one can wait for the first");
    let web = defaults("web", "http");
    assert!(registry.put_entry(&web, Cas::Any).await.unwrap());
    let first = index();
    assert!(registry.put_entry(&web, Cas::Any).await.unwrap());
    assert_eq!(index(), first, "it is there as it is");
    assert!(!registry.put_entry(&defaults("WEB", "grpc"), Cas::Absent).await.unwrap());
    assert!(registry.put_entry(&defaults("Web", "grpc"), Cas::Unchanged(first)).await.unwrap());
    let second = index();
    assert!(second > first);
    let kind = EntryKind::ServiceDefaults;
    let kept = registry.read(|view| view.entries().get(kind, "wEb").value).unwrap();
    assert_eq!((kept.entry.name(), kept.create_index, kept.modify_index), ("Web", first, second));

    let wait = Some(Wait::new(second, Duration::from_secs(60)));
    let topics = [Topic::ConfigEntries];
    let waits = registry.blocking(wait, &topics, |view| view.entries().of_kind(kind));
    let deletes = async {
        assert!(!registry.delete_entry(kind, "web", Some(first)).await.unwrap());
        registry.delete_entry(kind, "web", Some(second)).await.unwrap()
    };
    let (waited, deleted) = tokio::join!(waits, deletes);
    assert!(deleted && waited.value.is_empty() && waited.index > second, "{waited:?}");
    assert!(registry.delete_entry(kind, "web", None).await.unwrap(), "it is gone");
    assert_eq!(index(), waited.index);
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_that_make_no_sense_together_are_refused_on_either_side() {
    let registry = Registry::start(Embedded::in_memory().unwrap()).unwrap();
    let splitter = json!({"Kind": "service-splitter", "Name": "web", "Splits": [
        {"Weight": 60}, {"Weight": 40, "ServiceSubset": "v2"}]});
    let tcp = "discovery chain \"web\" uses a protocol \"tcp\" that does not permit advanced \
               routing or splitting behavior";
    assert_eq!(put(&registry, splitter.clone()).await, Err(tcp.to_owned()));
    put(&registry, json!({"Kind": "proxy-defaults", "Config": {"protocol": "http"}}))
        .await
        .unwrap();
    let why = put(&registry, splitter.clone()).await.unwrap_err();
    assert!(why.starts_with("service-splitter/web: ") && why.contains("v2"), "{why}");
    let resolver = json!({"Kind": "service-resolver", "Name": "web",
        "Subsets": {"v2": {"Filter": "Service.Meta.version == v2"}}});
    put(&registry, resolver).await.unwrap();
    put(&registry, splitter).await.unwrap();

    let delete = async |kind, name| {
        let deleted = registry.delete_entry(kind, name, None).await;
        deleted.map_err(|error| error.to_string())
    };
    let why = delete(EntryKind::ServiceResolver, "web").await.unwrap_err();
    assert!(why.contains("v2"), "{why}");
    assert_eq!(delete(EntryKind::ProxyDefaults, "global").await, Err(tcp.to_owned()));
    for kind in [EntryKind::ServiceSplitter, EntryKind::ServiceResolver, EntryKind::ProxyDefaults] {
        let name = if kind == EntryKind::ProxyDefaults { "global" } else { "web" };
        assert_eq!(delete(kind, name).await, Ok(true));
    }
}
