use super::*;
use crate::telemetry::Metrics;
use crate::workers::Worker;
use mesh_core::pick::{PickArgs, Reason};
use mesh_core::{EndpointSpec, Error, ErrorKind};
use mesh_discovery::Dns;

/// A destination with this endpoint, found by discovery.
pub(crate) async fn destination(policy: Policy) -> (Arc<Destination>, Arc<Endpoint>) {
    let destination = start("127.0.0.1", policy);
    destination.resolved().await;
    let Ok((endpoint, _)) = pick(&destination) else { panic!("an endpoint") };
    (destination, endpoint)
}

fn start(host: &str, policy: Policy) -> Arc<Destination> {
    let config = DestinationConfig::plain(host, 9, Arc::new(policy));
    start_with(&config, host, connect::Settings::default())
}

/// A destination that is reached in this way.
pub(crate) fn start_with(
    config: &DestinationConfig,
    label: &str,
    connect: connect::Settings,
) -> Arc<Destination> {
    let mut dns = mesh_discovery::dns::Config::default();
    // Nobody listens there.
    dns.servers = vec![([127, 0, 0, 1], 1).into()];
    let environment = Environment {
        sources: Sources::new(Dns::new(dns)),
        names_by_consul: false,
        runtime: Handle::current(),
        workers: 1,
        caller: Arc::default(),
        draws: Draws::default(),
        methods: Arc::default(),
    };
    let metrics = Metrics::new().destination(label);
    Destination::start(label.into(), config, Arc::new(connect), &environment, metrics)
}

fn pick(destination: &Destination) -> Result<(Arc<Endpoint>, Reason), Unpicked> {
    destination.pick(&PickArgs::new(clock::now()), &mut || fastrand::u64(..))
}

pub(super) fn refusal(destination: &Destination) -> Option<Error> {
    match pick(destination) {
        Err(Unpicked::Final(error)) => Some(error),
        Err(Unpicked::Unresolved) | Ok(_) => None,
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_call_waits_for_discovery() {
    let destination = start("127.0.0.1", Policy::default());
    assert!(matches!(pick(&destination), Err(Unpicked::Unresolved)));
    destination.resolved().await;
    let Ok((endpoint, reason)) = pick(&destination) else { panic!("resolved") };
    assert_eq!((endpoint.id().as_str(), reason), ("127.0.0.1:9", Reason::Only));
    destination.resolved().await;
}

#[tokio::test(start_paused = true)]
async fn a_name_that_does_not_resolve_fails_calls_with_the_reason() {
    let destination = start("nowhere.example", Policy::default());
    destination.resolved().await;
    let error = refusal(&destination).expect("discovery has failed");
    assert_eq!((error.kind(), error.destination()), (ErrorKind::Dns, Some("nowhere.example")));
    assert!(error.message().contains("nowhere.example"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_empty_set_is_an_answer() {
    let mut policy = Policy::default();
    policy.pick.empty_set_grace = Duration::ZERO;
    let (destination, _) = destination(policy).await;
    let generation = destination.source.lock().generation;
    destination.update(generation, false, Vec::new());
    let error = refusal(&destination).expect("nobody serves it");
    assert_eq!(
        (error.kind(), error.message()),
        (ErrorKind::NoHealthyEndpoint, "it has no endpoints")
    );
}

#[tokio::test]
async fn an_endpoint_that_moves_is_called_where_it_is_now() {
    use testkit::endpoint::{Reply, ScriptedEndpoint};

    let (destination, before) = destination(Policy::default()).await;
    let server = ScriptedEndpoint::http1(Reply::status(200)).await;
    let mut spec = EndpointSpec::new(server.address()).with_id(before.id().as_str());
    let generation = destination.source.lock().generation;
    destination.update(generation, false, vec![spec.clone()]);
    let Ok((moved, _)) = pick(&destination) else { panic!("an endpoint") };
    assert_eq!(moved.id(), before.id());
    let connections = moved.connections.of(Worker::default());
    connections.probe(mesh_core::policy::Protocol::Http1).await.expect("at its new address");
    testkit::until("it is there", || server.connections() == 1).await;

    spec = spec.with_weight(7);
    destination.update(generation, false, vec![spec]);
    let Ok((same, _)) = pick(&destination) else { panic!("an endpoint") };
    assert!(Arc::ptr_eq(&same, &moved), "it keeps its connections");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_was_replaced_is_not_believed() {
    let (destination, endpoint) = destination(Policy::default()).await;
    let generation = destination.source.lock().generation;
    destination.update(generation - 1, false, Vec::new());
    let Ok((still, _)) = pick(&destination) else { panic!("unchanged") };
    assert!(Arc::ptr_eq(&still, &endpoint));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_can_reach_says_so_until_it_can() {
    let (destination, endpoint) = destination(Policy::default()).await;
    let refused = Error::new(ErrorKind::Connect, "it refused").with_endpoint(endpoint.id());
    destination.unreachable(&endpoint, &refused);
    for _ in 0..2 {
        let error = refusal(&destination).expect("unreachable");
        assert_eq!(error.kind(), ErrorKind::NoHealthyEndpoint);
        assert_eq!(error.message(), "its only endpoint cannot be reached: it refused");
        assert_eq!(error.endpoint(), Some("127.0.0.1:9"));
        // A further failure is no news: neither the state nor the task is a second one.
        destination.unreachable(&endpoint, &refused);
    }

    endpoint.health().set_reachable(clock::now());
    endpoint.connections.found();
    let expired = Error::new(ErrorKind::TlsExpired, "it has expired");
    destination.unreachable(&endpoint, &expired);
    assert_eq!(refusal(&destination).expect("unreachable").kind(), ErrorKind::TlsExpired);
}

#[tokio::test(start_paused = true)]
async fn a_destination_ends_with_its_last_user() {
    let (destination, _) = destination(Policy::default()).await;
    let task = destination.source.lock().task.clone().expect("it runs");
    drop(destination);
    while !task.is_finished() {
        tokio::task::yield_now().await;
    }
}
