//! The source against a real Consul agent.

use crate::{consul, failure, ids, next, web};
use mesh_core::snapshot::ConsulService;
use mesh_core::{Declared, EndpointSpec};
use mesh_discovery::consul::{KvPairs, KvUpdate, KvWatch};
use mesh_discovery::{Resolve, Update, Watch};
use std::net::SocketAddr;
use std::sync::Arc;
use testkit::consul::Consul;

fn at(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// Waits for the set that fits.
async fn until_set(watch: &mut Watch, fits: impl Fn(&[EndpointSpec]) -> bool) -> Vec<EndpointSpec> {
    loop {
        if let Update::Endpoints(set) = next(watch).await
            && fits(&set)
        {
            return set;
        }
    }
}

#[tokio::test]
async fn instances_come_go_and_fall_ill() {
    let Some(mut real) = Consul::start("instances_come_go_and_fall_ill").await else { return };
    let mut watch = web(real.address());
    assert_eq!(ids(&mut watch).await, Vec::<String>::new(), "nobody serves it yet");

    real.register("web", "web-1", at(9001)).await;
    let set = until_set(&mut watch, |set| {
        set.len() == 1 && set.iter().all(|spec| spec.declared == Declared::Healthy)
    });
    let set = set.await;
    assert_eq!(set[0].addresses, [at(9001)]);
    assert_eq!(set[0].metadata.get("consul.id").map(String::as_str), Some("web-1"));

    real.put(
        "/v1/agent/service/register",
        r#"{"Name":"web","ID":"web-2","Address":"127.0.0.1","Port":9002,"Tags":["v2"],
            "Meta":{"version":"2"},"Weights":{"Passing":10,"Warning":3},
            "Check":{"TTL":"10m","Status":"passing"}}"#,
    )
    .await;
    let second = |set: &[EndpointSpec]| {
        let found = set.iter().find(|spec| spec.addresses == [at(9002)]);
        found.map(|spec| (spec.weight, spec.declared))
    };
    until_set(&mut watch, |set| second(set) == Some((10, Declared::Healthy))).await;

    let mut tagged = ConsulService::new("web");
    tagged.tags = vec!["v2".to_owned()];
    tagged.filter = Some("Service.Meta.version == 2".to_owned());
    let mut tagged = consul(real.address()).service(tagged).watch();
    assert_eq!(ids(&mut tagged).await, ["127.0.0.1:9002"]);

    real.put("/v1/agent/check/warn/service:web-2", "").await;
    until_set(&mut watch, |set| second(set) == Some((3, Declared::Healthy))).await;
    real.put("/v1/agent/check/fail/service:web-2", "").await;
    until_set(&mut watch, |set| second(set) == Some((10, Declared::Unhealthy))).await;
    real.put("/v1/agent/check/pass/service:web-2", "").await;
    until_set(&mut watch, |set| second(set) == Some((10, Declared::Healthy))).await;
    real.put("/v1/agent/service/maintenance/web-2?enable=true&reason=test", "").await;
    until_set(&mut watch, |set| second(set) == Some((10, Declared::Draining))).await;
    real.put("/v1/agent/service/maintenance/web-2?enable=false", "").await;
    until_set(&mut watch, |set| second(set) == Some((10, Declared::Healthy))).await;

    real.put("/v1/agent/service/deregister/web-1", "").await;
    until_set(&mut watch, |set| set.len() == 1 && second(set).is_some()).await;

    // It comes back without what it knew, and with a lower index.
    real.kill();
    failure(&mut watch).await;
    real.restart().await;
    real.register("web", "web-3", at(9003)).await;
    until_set(&mut watch, |set| set.iter().any(|spec| spec.addresses == [at(9003)])).await;
}

#[tokio::test]
async fn a_filter_that_consul_does_not_understand_is_told_in_its_words() {
    const TEST: &str = "a_filter_that_consul_does_not_understand_is_told_in_its_words";
    let Some(real) = Consul::start(TEST).await else { return };
    let mut service = ConsulService::new("web");
    service.filter = Some("Service.Nothing ==".to_owned());
    let mut watch = consul(real.address()).service(service).watch();
    let told = failure(&mut watch).await.to_string();
    assert!(told.contains("Failed to create boolean expression evaluator"), "{told}");
}

#[tokio::test]
async fn keys_below_a_prefix_are_seen_version_by_version() {
    const TEST: &str = "keys_below_a_prefix_are_seen_version_by_version";
    let Some(mut real) = Consul::start(TEST).await else { return };
    let mut watch = consul(real.address()).watch_kv("redis/config/");
    assert!(pairs(&mut watch).await.pairs.is_empty(), "no key is a version, too");
    let unset = watch.latest().expect("a version").index;
    // Both keys change in one transaction: no version has one without the other.
    for number in 0..20 {
        let value = |key: &str| {
            format!(
                r#"{{"KV":{{"Verb":"set","Key":"redis/config/{key}","Value":"{}"}}}}"#,
                B64[number % 4]
            )
        };
        real.put("/v1/txn", &format!("[{},{}]", value("a"), value("b"))).await;
        real.put("/v1/kv/other", "unseen").await;
    }
    let last = loop {
        let version = pairs(&mut watch).await;
        let (a, b) = (version.get("redis/config/a"), version.get("redis/config/b"));
        assert!(a.is_some() && a == b && version.pairs.len() == 2, "{version:?}");
        if a.is_some_and(|a| a == "3") && version.index >= last_index(&real).await {
            break version;
        }
    };
    assert!(last.index > unset);

    // The last version stays while Consul is away; what it has afterwards is the next.
    real.kill();
    assert!(matches!(told(&mut watch).await, KvUpdate::Failed(_)));
    assert_eq!(watch.latest().as_ref(), Some(&last));
    real.restart().await;
    real.put("/v1/kv/redis/config/c?flags=7", "x").await;
    let back = loop {
        let version = pairs(&mut watch).await;
        if version.pairs.contains_key("redis/config/c") {
            break version;
        }
    };
    assert_eq!((back.pairs.len(), back.pairs["redis/config/c"].flags), (1, 7));
}

/// `0` to `3`.
const B64: [&str; 4] = ["MA==", "MQ==", "Mg==", "Mw=="];

async fn told(watch: &mut KvWatch) -> KvUpdate {
    tokio::time::timeout(crate::PATIENCE, watch.changed()).await.expect("due").expect("it goes on")
}

/// The next version, past failures.
async fn pairs(watch: &mut KvWatch) -> Arc<KvPairs> {
    loop {
        if let KvUpdate::Pairs(version) = told(watch).await {
            return version;
        }
    }
}

/// When one of the keys was written last.
async fn last_index(real: &Consul) -> u64 {
    let (_, body) = real.ask("GET", "/v1/kv/redis/config/a", "").await.expect("consul answers");
    let (_, rest) = body.split_once("\"ModifyIndex\": ").expect("a pair");
    rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().expect("a number")
}
