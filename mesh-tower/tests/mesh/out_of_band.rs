//! Load reports on streams of their own, on real sockets: what a mesh that listens makes of them.

use super::reports::until_spared;
use super::{addresses, get, mesh, policy, service};
use axum::Router;
use http::{HeaderMap, StatusCode};
use mesh_core::config::Source;
use mesh_tower::{Listener, Mesh};
use std::net::SocketAddr;
use testkit::endpoint::{Reply, ScriptedEndpoint};

const METHOD: &str = "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics";
const OUT_OF_BAND: &str = "protocol: Http2, pick: { policy: WeightedRoundRobin, outOfBand: true, \
                           oobReportingPeriod: 1s, weightedRoundRobin: \
                           { blackoutPeriod: 1ms, weightUpdatePeriod: 100ms } }";

/// A server that says how busy it is, and fails calls that ask for it.
async fn server(utilization: f64) -> SocketAddr {
    let layer = mesh("").server();
    layer.reports().reporter().set_application_utilization(utilization);
    let listener = Listener::bind("127.0.0.1:0", None).await.expect("a free port");
    let address = listener.local_addr();
    let handler = axum::routing::get(|headers: HeaderMap| async move {
        match headers.contains_key("endpoint-load-metrics-format") {
            true => StatusCode::INTERNAL_SERVER_ERROR,
            false => StatusCode::OK,
        }
    });
    let app = Router::new().route("/", handler).layer(layer);
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// How often an endpoint was asked for a stream.
fn streams(endpoint: &ScriptedEndpoint) -> usize {
    endpoint.arrivals().iter().filter(|seen| seen.uri.path() == METHOD).count()
}

/// An endpoint that answers calls, and requests for a stream so.
async fn endpoint(stream: impl Fn() -> Reply + Send + Sync + 'static) -> ScriptedEndpoint {
    let endpoint = ScriptedEndpoint::http2(Reply::status(200)).await;
    endpoint.plan(move |_, head| match head.uri.path() {
        METHOD => stream(),
        _ => Reply::status(200),
    });
    endpoint
}

async fn called(mesh: &Mesh) {
    assert_eq!(get(mesh, "http://inventory/").await.expect("an answer"), StatusCode::OK);
}

#[tokio::test]
async fn calls_leave_a_busy_server_without_asking_for_reports() {
    let (busy, idle) = (server(0.9).await, server(0.1).await);
    let mesh = mesh(&format!("{}{}", policy(OUT_OF_BAND), service("inventory", &[busy, idle])));
    until_spared(&mesh, busy).await;
}

#[tokio::test]
async fn who_has_no_such_service_is_asked_once_and_who_fails_again_and_again() {
    let endpoints = [
        endpoint(|| Reply::grpc_trailers_only(12)).await,
        endpoint(|| Reply::status(404)).await,
        endpoint(|| Reply::grpc_trailers_only(14)).await,
    ];
    let service = service("inventory", &addresses(&endpoints));
    let mesh = mesh(&format!("{}{service}", policy(OUT_OF_BAND)));
    called(&mesh).await;
    testkit::until("it is asked again", || streams(&endpoints[2]) >= 3).await;
    assert_eq!([streams(&endpoints[0]), streams(&endpoints[1])], [1, 1]);
    called(&mesh).await;
}

#[tokio::test]
async fn a_stream_begins_with_a_call_and_ends_when_its_endpoint_leaves() {
    let endpoints =
        [endpoint(Reply::hang).await, endpoint(Reply::hang).await, endpoint(Reply::hang).await];
    let all = addresses(&endpoints);
    let config =
        |all: &[SocketAddr]| format!("{}{}", policy(OUT_OF_BAND), service("inventory", all));
    let mesh = mesh(&config(&all));
    testkit::until("they are known", || mesh.destinations()[0].endpoints.len() == 3).await;
    assert!(endpoints.iter().all(|endpoint| streams(endpoint) == 0), "nobody has called");
    called(&mesh).await;
    testkit::until("all are asked", || endpoints.iter().all(|one| one.in_flight() == 1)).await;

    mesh.configure(&[Source::new("test", config(&all[..2]))]).expect("valid");
    testkit::until("its stream is over", || endpoints[2].in_flight() == 0).await;
    assert!(endpoints[..2].iter().all(|endpoint| streams(endpoint) == 1), "the others stay");

    mesh.configure(&[Source::new("test", service("inventory", &all))]).expect("valid");
    testkit::until("all are over", || endpoints.iter().all(|one| one.in_flight() == 0)).await;
}
