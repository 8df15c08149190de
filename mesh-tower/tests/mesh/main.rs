//! The linked stack end to end: `Mesh`, `Channel` and every layer between a call and real loopback
//! sockets, under faults and under changes of configuration.

mod affinity;
mod cancel;
mod chains;
mod config;
mod down;
mod explained;
mod faults;
mod filters;
#[cfg(feature = "tonic")]
mod grpc;
mod health;
mod hedging;
mod idempotency;
mod limits;
mod load;
mod mirrors;
mod names;
#[cfg(feature = "axum")]
mod out_of_band;
mod outlier;
#[cfg(feature = "axum")]
mod overload;
#[cfg(feature = "axum")]
mod probes;
#[cfg(all(feature = "axum", feature = "tonic"))]
mod rate_limits;
mod relay;
#[cfg(feature = "axum")]
mod reports;
mod restarts;
mod retries;
mod sets;
mod tls;
mod upgrades;

use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use mesh_tower::{Body, DestinationState, EndpointView, Error, Mesh};
use std::net::SocketAddr;
use std::time::Duration;
use testkit::endpoint::ScriptedEndpoint;
use tower::ServiceExt;

/// Longer than anything here takes on a machine under load.
const LIMIT: Duration = Duration::from_secs(20);

/// A mesh with this configuration.
fn mesh(config: &str) -> Mesh {
    match Mesh::builder().config_text("test", config).build() {
        Ok(mesh) => mesh,
        Err(error) => panic!("{error}"),
    }
}

/// The document of a service with a list of endpoints.
fn service(name: &str, endpoints: &[SocketAddr]) -> String {
    let list: Vec<_> = endpoints.iter().map(|address| format!("'{address}'")).collect();
    format!(
        "apiVersion: mesh/v1\nkind: Service\nmetadata: {{ name: {name} }}\n\
         spec: {{ endpoints: {{ static: [{}] }} }}\n---\n",
        list.join(", ")
    )
}

/// The document of a policy for everything; `spec` is what follows the target.
fn policy(spec: &str) -> String {
    format!(
        "apiVersion: mesh/v1\nkind: TrafficPolicy\nmetadata: {{ name: everywhere }}\n\
         spec: {{ targetRef: {{ kind: Mesh }}, {spec} }}\n---\n"
    )
}

fn addresses(endpoints: &[ScriptedEndpoint]) -> Vec<SocketAddr> {
    endpoints.iter().map(ScriptedEndpoint::address).collect()
}

/// One call, with its body read to the end.
async fn call(mesh: &Mesh, method: Method, url: &str, body: Body) -> Result<StatusCode, Error> {
    let request = Request::builder().method(method).uri(url).body(body).expect("a valid request");
    let response = mesh.http().oneshot(request).await?;
    let status = response.status();
    response.into_body().collect().await.expect("a whole body");
    Ok(status)
}

async fn get(mesh: &Mesh, url: &str) -> Result<StatusCode, Error> {
    call(mesh, Method::GET, url, Body::empty()).await
}

/// What the mesh shows of a destination.
fn seen(mesh: &Mesh, name: &str) -> DestinationState {
    let mut all = mesh.destinations().into_iter();
    all.find(|destination| &*destination.name == name).expect("a known destination")
}

/// What the mesh shows of an endpoint of a destination, once discovery has named it.
fn view(mesh: &Mesh, name: &str, address: SocketAddr) -> Option<EndpointView> {
    let id = address.to_string();
    seen(mesh, name).endpoints.into_iter().find(|endpoint| endpoint.id.as_str() == id)
}

fn state(mesh: &Mesh, name: &str, address: SocketAddr) -> String {
    view(mesh, name, address).map_or_else(String::new, |view| view.state.to_string())
}

fn attempts(mesh: &Mesh, name: &str, address: SocketAddr) -> u64 {
    view(mesh, name, address).map_or(0, |view| view.attempts)
}
