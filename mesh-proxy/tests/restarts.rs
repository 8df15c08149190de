//! Every endpoint behind the proxy's process is restarted once, one after another, and no call fails
//! for it.

mod common;

use common::listener;
use common::load::{Calls, gets, wanted_calls};
use common::process::{Process, folder};
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use testkit::endpoint::{Reply, ScriptedEndpoint, rolling_restart};
use testkit::greeter::proto::HelloRequest;
use testkit::greeter::proto::greeter_client::GreeterClient;
use tonic::transport::Endpoint;

const ENDPOINTS: usize = 10;

/// Ten endpoints, and the proxy in front of them with the default policy. Every eighth call takes
/// long enough to be in flight when its endpoint ends.
async fn ten(http2: bool, reply: Reply, more: &str) -> (Vec<ScriptedEndpoint>, Process, PathBuf) {
    let mut endpoints = Vec::new();
    let mut list = String::new();
    for _ in 0..ENDPOINTS {
        let endpoint = match http2 {
            true => ScriptedEndpoint::http2(reply.clone()).await,
            false => ScriptedEndpoint::http1(reply.clone()).await,
        };
        let reply = reply.clone();
        endpoint.plan(move |number, _| match number.is_multiple_of(8) {
            true => reply.clone().after(Duration::from_millis(5)),
            false => reply.clone(),
        });
        write!(list, "'{}', ", endpoint.address()).unwrap();
        endpoints.push(endpoint);
    }
    let yaml = format!(
        "apiVersion: mesh/v1\nkind: Service\nmetadata: {{ name: app }}\n\
         spec: {{ endpoints: {{ static: [{list}] }}{more} }}\n{}",
        listener("main", "auto", "app")
    );
    let folder = folder(if http2 { "restarts-2" } else { "restarts-1" });
    let path = folder.join("mesh.yaml");
    std::fs::write(&path, yaml).unwrap();
    let process = Process::start(&["--config", path.to_str().unwrap()]);
    (endpoints, process, folder)
}

async fn figures(
    test: &str,
    endpoints: &[ScriptedEndpoint],
    process: &Process,
    failed: usize,
    total: u64,
) {
    let (_, page) = process.admin("GET", "/metrics").await;
    let retries = page.lines().find(|line| line.starts_with("mesh_retry_attempts_total{"));
    let retries = retries.and_then(|line| line.rsplit(' ').next()).unwrap_or("no");
    let arrived: Vec<_> = endpoints.iter().map(ScriptedEndpoint::calls).collect();
    let per_call = arrived.iter().sum::<u64>() as f64 / total as f64;
    testkit::figure(
        test,
        &format!(
            "{failed} of {total} calls failed, {retries} retries, {per_call:.4} requests arrived per call; by endpoint {arrived:?}"
        ),
    );
}

#[tokio::test]
async fn restarting_every_endpoint_costs_no_get_through_the_proxy() {
    let reply = Reply::status(200).content("hello");
    let (mut endpoints, process, folder) = ten(false, reply, "").await;
    let (total, calls) = (2 * wanted_calls(), Arc::new(Calls::default()));
    let clients = gets(process.proxy, &calls, total);
    rolling_restart(&mut endpoints, true, total, || calls.over()).await;
    let failed = clients.join_all().await.concat();
    let test = "rolling restart, HTTP/1.1 through the proxy";
    figures(test, &endpoints, &process, failed.len(), total).await;
    assert_eq!(failed, Vec::<String>::new());
    // Calls in flight at a killed one may be enough to eject it for a while.
    let busy = endpoints.iter().filter(|endpoint| endpoint.calls() > total / 20).count();
    assert!(busy >= 6, "most have half of a fair share, though all were away");
    std::fs::remove_dir_all(folder).unwrap();
}

/// A gRPC call is a POST, which is not sent twice once bytes may have reached the application: GOAWAY
/// says that they have not.
#[tokio::test]
async fn restarting_every_endpoint_gently_costs_no_grpc_call_through_the_proxy() {
    let (mut endpoints, process, folder) = ten(true, Reply::grpc(0), ", appProtocol: grpc").await;
    let (total, calls) = (wanted_calls() / 2, Arc::new(Calls::default()));
    let proxy = Endpoint::from_shared(format!("http://{}", process.proxy)).unwrap();
    let client = GreeterClient::new(proxy.connect().await.unwrap());
    let clients = calls.each(total, move || {
        let mut client = client.clone();
        async move {
            let hello = HelloRequest { name: "ada".into() };
            client.say_hello(hello).await.map(drop).map_err(|status| status.to_string())
        }
    });
    rolling_restart(&mut endpoints, false, total, || calls.over()).await;
    let failed = clients.join_all().await.concat();
    figures("rolling restart, gRPC through the proxy", &endpoints, &process, failed.len(), total)
        .await;
    assert_eq!(failed, Vec::<String>::new());
    let arrived: u64 = endpoints.iter().map(ScriptedEndpoint::calls).sum();
    assert_eq!(arrived, total, "each was sent to one application once");
    std::fs::remove_dir_all(folder).unwrap();
}
