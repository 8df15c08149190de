//! Every endpoint is restarted once, one after another, and no call fails for it.

use super::load::{Load, wanted_calls};
use super::{addresses, mesh, policy, seen, service};
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use testkit::endpoint::{Reply, ScriptedEndpoint, rolling_restart};

const ENDPOINTS: usize = 10;

/// Every eighth call takes long enough to be in flight when its endpoint ends.
fn reply(number: u64, reply: &Reply) -> Reply {
    let reply = reply.clone();
    if number.is_multiple_of(8) { reply.after(Duration::from_millis(5)) } else { reply }
}

async fn endpoints(http2: bool, answer: Reply) -> Vec<ScriptedEndpoint> {
    let mut endpoints = Vec::new();
    for _ in 0..ENDPOINTS {
        let answer = answer.clone();
        let endpoint = match http2 {
            true => ScriptedEndpoint::http2(Reply::status(200)).await,
            false => ScriptedEndpoint::http1(Reply::status(200)).await,
        };
        endpoint.plan(move |number, _| reply(number, &answer));
        endpoints.push(endpoint);
    }
    endpoints
}

fn figures(test: &str, endpoints: &[ScriptedEndpoint], total: u64, failed: usize, retries: u64) {
    let arrived: Vec<_> = endpoints.iter().map(ScriptedEndpoint::calls).collect();
    let per_call = arrived.iter().sum::<u64>() as f64 / total as f64;
    testkit::figure(
        test,
        &format!(
            "{failed} of {total} calls failed, {retries} retries, {per_call:.4} requests arrived per call; by endpoint {arrived:?}"
        ),
    );
}

/// GETs with the default policy.
async fn gets(test: &str, endpoints: &mut [ScriptedEndpoint], more: &str, total: u64) {
    let mesh = mesh(&format!("{more}{}", service("inventory", &addresses(endpoints))));
    let load = Load::start(&mesh.http(), "http://inventory/", total);
    rolling_restart(endpoints, true, total, || load.made.load(SeqCst)).await;
    let failed = load.end().await;
    let retries = seen(&mesh, "inventory").retries;
    figures(test, endpoints, total, failed.len(), retries);
    assert_eq!(failed, Vec::<String>::new());
    assert!(retries > 0, "some were in flight where an endpoint was killed");
    // Calls in flight at a killed one may be enough to eject it for a while.
    let busy = endpoints.iter().filter(|endpoint| endpoint.calls() > total / 20).count();
    assert!(busy >= 6, "most have half of a fair share, though all were away");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarting_every_endpoint_costs_no_get_over_http1() {
    let mut endpoints = endpoints(false, Reply::status(200).body(100)).await;
    gets("rolling restart, HTTP/1.1 in process", &mut endpoints, "", 2 * wanted_calls()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarting_every_endpoint_costs_no_get_over_http2() {
    let mut endpoints = endpoints(true, Reply::status(200).body(100)).await;
    gets(
        "rolling restart, HTTP/2 in process",
        &mut endpoints,
        &policy("protocol: Http2"),
        wanted_calls() / 2,
    )
    .await;
}

/// A gRPC call is a POST, which is not sent twice once bytes may have reached the application: GOAWAY
/// says that they have not.
#[cfg(feature = "tonic")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarting_every_endpoint_gently_costs_no_grpc_call() {
    use testkit::greeter::proto::{HelloRequest, greeter_client::GreeterClient};

    let mut endpoints = endpoints(true, Reply::grpc(0)).await;
    let mesh = mesh(&service("greeter", &addresses(&endpoints)));
    let total = wanted_calls() / 2;
    let client = GreeterClient::new(mesh.channel("greeter"));
    let load = Load::of(total, move || {
        let mut client = client.clone();
        async move {
            let hello = HelloRequest { name: "ada".into() };
            client.say_hello(hello).await.map(drop).map_err(|status| status.to_string())
        }
    });
    rolling_restart(&mut endpoints, false, total, || load.made.load(SeqCst)).await;
    let failed = load.end().await;
    let retries = seen(&mesh, "greeter").retries;
    figures("rolling restart, gRPC in process", &endpoints, total, failed.len(), retries);
    assert_eq!(failed, Vec::<String>::new());
    let arrived: u64 = endpoints.iter().map(ScriptedEndpoint::calls).sum();
    assert_eq!(arrived, total, "each was sent to one application once");
}
