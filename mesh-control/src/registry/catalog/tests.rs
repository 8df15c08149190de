use std::time::Duration;

use serde_json::{Value, json};

use super::super::{Registry, Wait};
use super::*;
use crate::store::Embedded;
use crate::types::CheckStatus;

fn start() -> Registry {
    Registry::start(Embedded::in_memory().unwrap()).unwrap()
}

async fn registered(registry: &Registry, body: Value) -> Result<u64, String> {
    let wanted: Registration = crate::decode::from_value(&body).expect("a registration");
    let written = registry.write(|view| register(view, &wanted, "dc1")).await;
    written.map(|written| written.index).map_err(|error| error.to_string())
}

async fn deregistered(registry: &Registry, body: Value) -> u64 {
    let wanted: Deregistration = crate::decode::from_value(&body).expect("a deregistration");
    registry.write(|view| deregister(view, &wanted)).await.expect("removes").index
}

fn node(name: &str) -> Value {
    json!({"Node": name, "Address": "10.0.0.1"})
}

fn service(node: &str, name: &str, id: &str) -> Value {
    json!({"Node": node, "Address": "10.0.0.1", "Service": {"Service": name, "ID": id}})
}

fn check(node: &str, id: &str, service: &str, status: &str) -> Value {
    json!({"Node": node, "Address": "10.0.0.1",
        "Check": {"CheckID": id, "ServiceID": service, "Status": status}})
}

fn index(registry: &Registry, service: &str) -> u64 {
    registry.read(|view| view.catalog().instances(service, Instances::Named).index)
}

#[tokio::test]
async fn a_registration_is_seen_whole_at_one_revision() {
    let registry = start();
    let mut body = service("N1", "Web", "web-1");
    body["Service"]["Tags"] = json!(["v1"]);
    body["Checks"] = json!([
        {"Name": "of it", "ServiceID": "WEB-1", "Status": "passing"},
        {"Name": "of the node"},
    ]);
    assert_eq!(registered(&registry, body.clone()).await, Ok(1));
    registry.read(|view| {
        let found = view.catalog().instances("wEB", Instances::Named);
        assert_eq!((found.index, found.value.len()), (1, 1));
        let instance = &found.value[0];
        assert_eq!((&*instance.node.name, instance.node.create_index), ("N1", 1));
        assert_eq!((&*instance.service.id, instance.service.modify_index), ("web-1", 1));
        let of_it = instance.checks.iter().find(|check| check.id == "of it").expect("there");
        assert_eq!((&*of_it.service_name, &*of_it.service_tags), ("Web", &["v1".to_owned()][..]));
        assert_eq!(instance.status(), CheckStatus::Critical, "a check begins as critical");
        assert!(instance.has_tag("V1") && !instance.has_tag("v2"));
    });
    // Once more the same: nothing is written, nobody is woken.
    assert_eq!(registered(&registry, body).await, Ok(1));
}

#[tokio::test]
async fn each_service_has_an_index_of_its_own() {
    let registry = start();
    registered(&registry, service("n1", "web", "web")).await.unwrap();
    registered(&registry, service("n2", "api", "api")).await.unwrap();
    assert_eq!((index(&registry, "web"), index(&registry, "api")), (1, 2));
    // A check of the instance, and one of the node.
    registered(&registry, check("n1", "c", "web", "passing")).await.unwrap();
    assert_eq!((index(&registry, "web"), index(&registry, "api")), (3, 2));
    registered(&registry, check("n2", "serf", "", "passing")).await.unwrap();
    assert_eq!((index(&registry, "web"), index(&registry, "api")), (3, 4));
    // The node itself.
    let mut moved = node("n1");
    moved["Address"] = json!("10.0.0.9");
    registered(&registry, moved).await.unwrap();
    assert_eq!((index(&registry, "web"), index(&registry, "api")), (5, 4));
    // A removal, also of the last, never lets it go back.
    deregistered(&registry, json!({"Node": "n1", "CheckID": "C"})).await;
    assert_eq!(index(&registry, "web"), 6);
    deregistered(&registry, json!({"Node": "n1", "ServiceID": "web"})).await;
    assert_eq!((index(&registry, "web"), index(&registry, "api")), (7, 4));
    registered(&registry, node("n3")).await.unwrap();
    assert_eq!((index(&registry, "web"), index(&registry, "api")), (7, 4));
}

#[tokio::test]
async fn a_removed_node_takes_everything_with_it() {
    let registry = start();
    let body = json!({"Node": "n1", "Address": "a", "ID": "40e4a748-2192-161a-0510-9bf59fe950b5",
        "Service": {"Service": "web", "Connect": {"Native": true}},
        "Checks": [{"Name": "s", "ServiceID": "web"}, {"Name": "n"}]});
    registered(&registry, body).await.unwrap();
    assert_eq!(deregistered(&registry, json!({"Node": "N1"})).await, 2);
    registry.read(|view| {
        let catalog = view.catalog();
        assert_eq!(catalog.nodes(), super::super::Indexed::new(2, Vec::new()));
        for which in [Instances::Named, Instances::Connect] {
            let found = catalog.instances("web", which);
            assert_eq!((found.index, found.value.len()), (2, 0), "{which:?}");
        }
        assert_eq!(catalog.checks(None).value, []);
        assert_eq!(catalog.node_services("n1").index, 2);
        assert!(catalog.hosts.is_empty() && catalog.ids.is_empty() && catalog.services.is_empty());
    });
}

#[tokio::test]
async fn a_node_that_comes_with_the_id_of_another_replaces_it() {
    let registry = start();
    let id = "40e4a748-2192-161a-0510-9bf59fe950b5";
    registered(
        &registry,
        json!({"Node": "old", "Address": "a", "ID": id,
        "Service": {"Service": "web"}}),
    )
    .await
    .unwrap();
    registered(&registry, json!({"Node": "new", "Address": "a", "ID": id})).await.unwrap();
    registry.read(|view| {
        let nodes = view.catalog().nodes().value;
        assert_eq!(nodes.iter().map(|node| &*node.name).collect::<Vec<_>>(), ["new"]);
        assert!(view.catalog().instances("web", Instances::Named).value.is_empty());
    });
    // Unless its name is that of an agent which is there.
    let mut alive = check("new", "serfHealth", "", "passing");
    alive["SkipNodeUpdate"] = json!(true);
    registered(&registry, alive).await.unwrap();
    let other = "50e4a748-2192-161a-0510-9bf59fe950b5";
    let error = registered(&registry, json!({"Node": "new", "Address": "a", "ID": other})).await;
    assert!(error.unwrap_err().contains("Node name new is reserved by node"));
}

#[tokio::test]
async fn a_sidecar_is_found_by_what_it_stands_before() {
    let registry = start();
    let mut sidecar = service("n1", "web-sidecar-proxy", "p");
    sidecar["Service"]["Kind"] = json!("connect-proxy");
    assert_eq!(
        registered(&registry, sidecar.clone()).await.unwrap_err(),
        "2 errors occurred:\n\t* Proxy.DestinationServiceName must be non-empty for Connect proxy \
         services\n\t* Port must be set for a Connect proxy\n\n"
    );
    sidecar["Service"]["Port"] = json!(21000);
    sidecar["Service"]["Proxy"] = json!({"DestinationServiceName": "web"});
    registered(&registry, sidecar.clone()).await.unwrap();
    let of = |name: &str| {
        registry.read(|view| view.catalog().instances(name, Instances::Connect).value.len())
    };
    assert_eq!((of("WEB"), of("web-sidecar-proxy")), (1, 0));
    sidecar["Service"]["Proxy"] = json!({"DestinationServiceName": "api"});
    registered(&registry, sidecar).await.unwrap();
    assert_eq!((of("web"), of("api")), (0, 1));
}

#[tokio::test]
async fn a_check_follows_its_service() {
    let registry = start();
    registered(&registry, service("n1", "web", "1")).await.unwrap();
    registered(&registry, check("n1", "c", "1", "passing")).await.unwrap();
    let mut renamed = service("n1", "web2", "1");
    renamed["Service"]["Tags"] = json!(["v2"]);
    registered(&registry, renamed).await.unwrap();
    registry.read(|view| {
        let checks = view.catalog().service_checks("web2").value;
        assert_eq!(checks.len(), 1);
        assert_eq!((&*checks[0].1.service_name, checks[0].1.service_tags.len()), ("web2", 1));
        assert!(view.catalog().service_checks("web").value.is_empty());
    });
}

#[tokio::test]
async fn what_is_missing_is_said_as_consul_says_it() {
    let registry = start();
    let long = "n".repeat(513);
    for (body, message) in [
        (json!({}), "Must provide node"),
        (json!({"Node": "n"}), "Must provide address if SkipNodeUpdate is not set"),
        (
            json!({"Node": "n", "Address": "a", "ID": "abc"}),
            "Bad node ID: uuid string is wrong length",
        ),
        (
            json!({"Node": "n", "Address": "a", "Service": {"ID": "x"}}),
            "Must provide service name with ID",
        ),
        (
            check("n", "c", "absent", "passing"),
            "failed inserting check: Missing service registration on node \"n\"",
        ),
        (
            json!({"Node": "n", "Address": "a", "Check": {"Name": "c", "Node": "other"}}),
            "check node \"other\" does not match node \"n\"",
        ),
        (json!({"Node": long, "Address": "a"}), "the node name has 513 bytes; at most 512"),
        (json!({"Node": "a\u{0}b", "Address": "a"}), "the node name holds a NUL character"),
    ] {
        assert_eq!(registered(&registry, body.clone()).await, Err(message.to_owned()), "{body}");
    }
    let skip = json!({"Node": "n", "Address": "2", "SkipNodeUpdate": true});
    registered(&registry, node("n")).await.unwrap();
    assert_eq!(registered(&registry, skip).await, Ok(1), "a node that is there is left");
}

/// Two that change the same node at once: whoever is later sees what the other did.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_node_that_was_removed_while_services_came() {
    let registry = start();
    for round in 0..50 {
        registered(&registry, node("n")).await.unwrap();
        let (one, other) = (registry.clone(), registry.clone());
        let name = format!("s{round}");
        let registers = tokio::spawn(async move {
            let body = json!({"Node": "n", "Address": "10.0.0.1", "Service": {"Service": name},
                "Check": {"Name": "c", "ServiceID": name}});
            registered(&one, body).await.unwrap();
        });
        let removes = tokio::spawn(async move { deregistered(&other, json!({"Node": "n"})).await });
        registers.await.unwrap();
        removes.await.unwrap();
        registry.read(|view| {
            for host in view.catalog().hosts.values() {
                assert!(host.node.is_some(), "round {round}: {host:?}");
            }
        });
        deregistered(&registry, json!({"Node": "n"})).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_for_one_service_waits_for_that_one() {
    let registry = start();
    registered(&registry, service("n1", "web", "web")).await.unwrap();
    let reader = registry.clone();
    let waits = tokio::spawn(async move {
        let wait = Wait::new(1, Duration::from_secs(60));
        let read = |view: &super::super::View| view.catalog().instances("web", Instances::Named);
        reader.blocking(Some(wait), &[Topic::service("WEB")], read).await
    });
    registered(&registry, service("n2", "api", "api")).await.unwrap();
    registered(&registry, service("n2", "web", "web")).await.unwrap();
    let found = waits.await.unwrap();
    assert_eq!((found.index, found.value.len()), (3, 2));
}

#[test]
fn what_a_store_held_when_it_was_opened_has_the_revision_of_the_store() {
    let record = |key, value: Value| Record {
        key,
        value: value.to_string().into(),
        create_index: 1,
        modify_index: 1,
    };
    let records = vec![
        record(Key::new(Table::Node, "n1"), json!({"Node": "N1", "Address": "a"})),
        record(Key::pair(Table::Service, "n1", "web"), json!({"ID": "web", "Service": "web"})),
    ];
    // Revisions 2 to 9 removed something that is not known any more.
    let view = super::super::View::of(9, &records).unwrap();
    let of = |name: &str| view.catalog().instances(name, Instances::Named);
    assert_eq!((of("web").index, of("web").value.len()), (9, 1));
    assert_eq!((of("gone").index, view.catalog().nodes().index), (9, 9));
}
