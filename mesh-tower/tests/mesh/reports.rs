//! Load reports from endpoints to whom calls them, on real sockets.

use super::{LIMIT, addresses, attempts, get, mesh, policy, service};
use axum::Router;
use http::{Request, StatusCode};
use mesh_tower::{Body, Listener, Mesh};
use std::net::SocketAddr;
use testkit::endpoint::{Reply, ScriptedEndpoint};
use tokio::time::timeout;
use tower::ServiceExt;

const BIN: &str = "endpoint-load-metrics-bin";
const TEXT: &str = "endpoint-load-metrics";
const BY_REPORTS: &str = "pick: { policy: WeightedRoundRobin, weightedRoundRobin: \
                          { blackoutPeriod: 1ms, weightUpdatePeriod: 100ms } }";

/// Calls until the first endpoint gets less than a third of a hundred.
pub(super) async fn until_spared(mesh: &Mesh, loaded: SocketAddr) {
    let spared = async {
        loop {
            let before = attempts(mesh, "inventory", loaded);
            for _ in 0..100 {
                let status = get(mesh, "http://inventory/").await.expect("an answer");
                assert_eq!(status, StatusCode::OK);
            }
            if attempts(mesh, "inventory", loaded) - before < 33 {
                return;
            }
        }
    };
    timeout(LIMIT, spared).await.expect("weights follow the reports");
}

/// An axum server with `mesh.server()` whose application says how busy it is.
async fn server(utilization: f64) -> SocketAddr {
    let layer = mesh("").server();
    layer.reports().reporter().set_application_utilization(utilization);
    let listener = Listener::bind("127.0.0.1:0", None).await.expect("a free port");
    let address = listener.local_addr();
    let app = Router::new().route("/", axum::routing::get(|| async { "done" })).layer(layer);
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

#[tokio::test]
async fn calls_leave_the_server_that_says_it_is_busy() {
    let (busy, idle) = (server(0.9).await, server(0.1).await);
    let mesh = mesh(&format!("{}{}", policy(BY_REPORTS), service("inventory", &[busy, idle])));
    until_spared(&mesh, busy).await;
}

#[tokio::test]
async fn a_foreign_server_that_reports_by_hand_is_understood_and_its_report_goes_no_further() {
    let report = |utilization: f64| {
        let text = format!("TEXT rps_fractional=100, application_utilization={utilization}");
        Reply::status(200).header(TEXT, &text)
    };
    let endpoints =
        [ScriptedEndpoint::http1(report(0.9)).await, ScriptedEndpoint::http1(report(0.1)).await];
    let all = addresses(&endpoints);
    let mesh = mesh(&format!("{}{}", policy(BY_REPORTS), service("inventory", &all)));
    until_spared(&mesh, all[0]).await;

    let request = Request::get("http://inventory/").body(Body::empty()).expect("valid");
    let response = mesh.http().oneshot(request).await.expect("an answer");
    assert!(!response.headers().contains_key(TEXT));
    let asked = |arrival: &testkit::endpoint::Arrival| {
        arrival.headers.get("endpoint-load-metrics-format").is_some_and(|form| form == "BIN")
    };
    assert!(endpoints[1].arrivals().iter().all(asked));
}

#[tokio::test]
async fn absurd_reports_are_passed_over() {
    let long = format!("TEXT {}", "eps=1,".repeat(4_000));
    for (name, value) in [
        (TEXT, "TEXT rps_fractional=NaN, application_utilization=-inf, eps=1e999"),
        (TEXT, "TEXT named_metrics.mesh.in_flight=1e300,named_metrics.mesh.error_share=7"),
        (TEXT, "JSON {"),
        (TEXT, "\u{fe}\u{ff}"),
        (TEXT, &long),
        (BIN, "!!!!"),
        (BIN, "////////////////"),
    ] {
        for chosen in ["ExpectedWait", "WeightedRoundRobin"] {
            let endpoints = [
                ScriptedEndpoint::http1(Reply::status(200).header(name, value)).await,
                ScriptedEndpoint::http1(Reply::status(200)).await,
            ];
            let spec = format!("pick: {{ policy: {chosen} }}");
            let service = service("inventory", &addresses(&endpoints));
            let mesh = mesh(&format!("{}{service}", policy(&spec)));
            for _ in 0..20 {
                let status = get(&mesh, "http://inventory/").await.expect("an answer");
                assert_eq!(status, StatusCode::OK, "{value}");
            }
        }
    }
}

#[tokio::test]
async fn nothing_is_asked_for_that_is_not_used() {
    for (chosen, endpoints) in [("RoundRobin", 2), ("WeightedRoundRobin", 1)] {
        let mut all = Vec::new();
        for _ in 0..endpoints {
            all.push(ScriptedEndpoint::http1(Reply::status(200).header(TEXT, "TEXT eps=1")).await);
        }
        let spec = format!("pick: {{ policy: {chosen} }}");
        let mesh = mesh(&format!("{}{}", policy(&spec), service("inventory", &addresses(&all))));
        let request = Request::get("http://inventory/").body(Body::empty()).expect("valid");
        let response = mesh.http().oneshot(request).await.expect("an answer");
        assert!(response.headers().contains_key(TEXT), "left as it is");
        let arrivals = all.iter().flat_map(ScriptedEndpoint::arrivals);
        let mut asking =
            arrivals.filter(|seen| seen.headers.contains_key("endpoint-load-metrics-format"));
        assert!(asking.next().is_none(), "{chosen}");
    }
}
