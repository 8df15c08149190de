//! Many GETs through the proxy's process while endpoints are killed and come back.

mod common;

use common::listener;
use common::load::{Calls, gets, wanted_calls};
use common::process::{PATIENCE, Process, folder};
use std::sync::Arc;
use std::time::Duration;
use testkit::endpoint::{Reply, ScriptedEndpoint};
use tokio::time::{Instant, sleep};

#[tokio::test]
async fn killed_endpoints_cost_no_get_through_the_proxy() {
    let mut endpoints = Vec::new();
    for _ in 0..3 {
        endpoints.push(ScriptedEndpoint::http1(Reply::status(200).content("hello")).await);
    }
    let addresses: Vec<_> = endpoints.iter().map(|one| one.address().to_string()).collect();
    // The calls in flight on the killed one may be enough to eject it, which is to be over soon.
    let yaml = format!(
        "apiVersion: mesh/v1\nkind: TrafficPolicy\nmetadata: {{ name: everywhere }}\n\
         spec: {{ targetRef: {{ kind: Mesh }}, outlier: {{ interval: 100ms, baseEjectionTime: 200ms }} }}\n---\n\
         apiVersion: mesh/v1\nkind: Service\nmetadata: {{ name: app }}\n\
         spec: {{ endpoints: {{ static: {addresses:?} }} }}\n{}",
        listener("main", "auto", "app")
    );
    let folder = folder("kills");
    let path = folder.join("mesh.yaml");
    std::fs::write(&path, yaml).unwrap();
    let process = Process::start(&["--config", path.to_str().unwrap()]);
    let (total, calls) = (wanted_calls(), Arc::new(Calls::default()));
    let clients = gets(process.proxy, &calls, total);

    calls.reach(total / 4).await;
    endpoints[0].kill().await;
    calls.reach(total / 2).await;
    endpoints[0].restart();
    // Before the next one dies the first can be picked again, by itself.
    let ready = format!("  {:<24} ready, ", addresses[0]);
    let until = Instant::now() + PATIENCE;
    loop {
        let (_, page) = process.admin("GET", "/endpoints").await;
        if page.contains(&ready) {
            break;
        }
        assert!(Instant::now() < until, "never ready again: {page}");
        sleep(Duration::from_millis(20)).await;
    }
    calls.reach(total * 3 / 4).await;
    endpoints[1].kill().await;
    assert!(calls.over() < total, "killed under load");

    let failed = clients.join_all().await.concat();
    let answered: Vec<_> = endpoints.iter().map(ScriptedEndpoint::calls).collect();
    println!("{} of {total} GETs failed; endpoints saw {answered:?}", failed.len());
    assert_eq!(failed, Vec::<String>::new());
    assert!(answered.iter().sum::<u64>() >= total);
    std::fs::remove_dir_all(folder).unwrap();
}
