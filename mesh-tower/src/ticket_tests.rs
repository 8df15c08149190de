use super::*;
use crate::destination::tests::destination;
use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Full};
use mesh_core::deadline::Expiry;
use mesh_core::health::breaker;
use mesh_core::{ErrorKind, Policy};
use std::time::Duration;
use tokio::time::advance;

const INITIAL: f64 = 0.03;

async fn ticket(grpc: bool) -> (Ticket, Arc<Endpoint>) {
    let (destination, endpoint) = destination(peak_ewma()).await;
    let call = Arc::new(Call::new(clock::now(), destination.policy(), grpc));
    // The estimate begins at the first look at it.
    assert!((seconds(&endpoint) - INITIAL).abs() < 1e-3);
    (Ticket::new(destination, call, endpoint.clone(), clock::now(), None), endpoint)
}

/// Of the policies that measure, the one that takes over latencies as they are.
fn peak_ewma() -> Policy {
    let mut policy = Policy::default();
    policy.pick.policy = mesh_core::pick::Policy::PeakEwma;
    policy
}

/// The load of an endpoint, in seconds.
fn seconds(endpoint: &Endpoint) -> f64 {
    endpoint.load().peak_ewma(clock::now(), &mesh_core::load::Config::default())
}

fn response(status: StatusCode) -> http::response::Builder {
    Response::builder().status(status)
}

#[tokio::test(start_paused = true)]
async fn the_head_records_the_latency_and_the_end_the_attempt() {
    let (mut ticket, endpoint) = ticket(false).await;
    advance(Duration::from_millis(200)).await;
    let mut head = response(StatusCode::OK).body(()).expect("valid");
    assert_eq!(ticket.head(&mut head), Outcome::Success);
    assert_eq!(endpoint.load().in_flight(), 1);
    assert!((seconds(&endpoint) - 0.4).abs() < 0.01, "twice 200 ms: {}", seconds(&endpoint));
    drop(ticket);
    assert_eq!(endpoint.load().in_flight(), 0);
    assert!((seconds(&endpoint) - 0.2).abs() < 0.01, "{}", seconds(&endpoint));
}

#[tokio::test(start_paused = true)]
async fn a_failure_weighs_five_seconds_or_what_the_server_asks_for() {
    for (asked, expected) in [(None, 5.0), (Some("60"), 60.0)] {
        let (mut ticket, endpoint) = ticket(false).await;
        let mut head = response(StatusCode::SERVICE_UNAVAILABLE);
        if let Some(asked) = asked {
            head = head.header("retry-after", asked);
        }
        assert!(ticket.head(&mut head.body(()).expect("valid")).is_failure());
        drop(ticket);
        assert!((seconds(&endpoint) - expected).abs() < 0.01, "{}", seconds(&endpoint));
    }
}

#[tokio::test(start_paused = true)]
async fn grpc_is_judged_by_its_trailers() {
    for (status, expected) in [(Some("0"), 0.1), (Some("14"), 5.0), (None, 5.0)] {
        let (mut ticket, endpoint) = ticket(true).await;
        advance(Duration::from_millis(100)).await;
        let mut head = response(StatusCode::OK).body(()).expect("valid");
        assert_eq!(ticket.head(&mut head), Outcome::Success, "no verdict yet");
        let trailers = status.map(|status| {
            Ok(HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                http::HeaderValue::from_static(status),
            )]))
        });
        let body = Full::new(Bytes::from_static(b"message"))
            .map_err(|never| match never {})
            .with_trailers(std::future::ready(trailers));
        let whole = Counted::new(body, ticket).collect().await;
        assert!(whole.is_ok());
        assert_eq!(endpoint.load().in_flight(), 0);
        assert!((seconds(&endpoint) - expected).abs() < 0.01, "{}", seconds(&endpoint));
    }
}

#[tokio::test(start_paused = true)]
async fn only_errors_that_the_endpoint_made_count_against_it() {
    for (kind, expected) in [
        (ErrorKind::Connect, 5.0),
        (ErrorKind::RemoteReset, 5.0),
        (ErrorKind::CallerGone, INITIAL),
        (ErrorKind::LocalReset, INITIAL),
    ] {
        let (mut ticket, endpoint) = ticket(false).await;
        ticket.error(&kind.into());
        drop(ticket);
        assert!((seconds(&endpoint) - expected).abs() < 0.01, "{kind:?}: {}", seconds(&endpoint));
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_dropped_when_its_time_is_over_is_a_timeout() {
    let (destination, endpoint) = destination(peak_ewma()).await;
    for (expiry, hung) in [(Some(Duration::from_secs(1)), true), (None, false)] {
        let mut call = Call::new(clock::now(), destination.policy(), false);
        call.expiry = expiry.map(|span| Expiry(clock::now() + span));
        let call = Arc::new(call);
        let begin = || {
            let (destination, endpoint) = (destination.clone(), endpoint.clone());
            Ticket::new(destination, call.clone(), endpoint, clock::now(), None)
        };
        let (early, late, answered) = (begin(), begin(), begin());
        drop(early);
        let before = seconds(&endpoint);
        advance(Duration::from_secs(1)).await;
        let mut answered = answered;
        answered.head(&mut response(StatusCode::OK).body(()).expect("valid"));
        drop(answered);
        assert_eq!(call.at.get(), None, "neither gave up, nor had no answer");
        drop(late);
        assert_eq!(call.at.get(), hung.then(|| endpoint.id()));
        assert_eq!(seconds(&endpoint) > before + 3.0, hung, "{}", seconds(&endpoint));
    }
}

#[tokio::test(start_paused = true)]
async fn the_timeout_of_an_attempt_is_one_whatever_the_call_may_still_take() {
    let (destination, endpoint) = destination(peak_ewma()).await;
    let mut call = Call::new(clock::now(), destination.policy(), false);
    call.expiry = Some(Expiry(clock::now() + Duration::from_secs(15)));
    call.sent = Some(Arc::default());
    call.sent.as_ref().expect("just set").begin();
    call.cut = Some(clock::now() + Duration::from_secs(1));
    let call = Arc::new(call);
    let ticket = Ticket::new(destination, call.clone(), endpoint.clone(), clock::now(), None);
    advance(Duration::from_secs(1)).await;
    drop(ticket);
    assert_eq!(call.at.get(), Some(endpoint.id()), "the next attempt goes elsewhere");
    assert!(seconds(&endpoint) > 4.0, "{}", seconds(&endpoint));
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_here_is_no_latency_of_a_hedged_attempt() {
    let (destination, endpoint) = destination(peak_ewma()).await;
    let mut call = Call::new(clock::now(), destination.policy(), false);
    call.hedged = true;
    let call = Arc::new(call);
    let begin = || {
        let (destination, endpoint) = (destination.clone(), endpoint.clone());
        Ticket::new(destination, call.clone(), endpoint, clock::now(), None)
    };
    let before = seconds(&endpoint);
    begin().error(&ErrorKind::Overflow.into());
    begin().over();
    assert!((seconds(&endpoint) - before).abs() < 1e-9, "{}", seconds(&endpoint));
    let lost = begin();
    advance(Duration::from_secs(1)).await;
    drop(lost);
    assert!(seconds(&endpoint) > before, "another was quicker than one second");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_attempt_says_nothing_and_gives_the_probe_back() {
    let mut policy = Policy::default();
    let mut config = breaker::Config::default();
    (config.consecutive_failures, config.jitter) = (1, 0);
    policy.breaker = Some(config.clone());
    let (destination, endpoint) = destination(policy).await;
    let open = |admission| {
        let call = Arc::new(Call::new(clock::now(), destination.policy(), false));
        let (destination, endpoint) = (destination.clone(), endpoint.clone());
        Ticket::new(destination, call, endpoint, clock::now(), Some(admission))
    };
    let admission = endpoint.breaker().try_acquire(clock::now(), &config).expect("closed");
    open(admission).error(&ErrorKind::RemoteReset.into());
    assert!(endpoint.breaker().try_acquire(clock::now(), &config).is_err(), "open");

    advance(Duration::from_secs(2)).await;
    let probe = endpoint.breaker().try_acquire(clock::now(), &config).expect("half-open");
    assert!(endpoint.breaker().try_acquire(clock::now(), &config).is_err(), "one probe");
    drop(open(probe));
    let probe = endpoint.breaker().try_acquire(clock::now(), &config).expect("the next probe");
    open(probe).head(&mut response(StatusCode::OK).body(()).expect("valid"));
    assert!(endpoint.breaker().is_closed());
    assert_eq!(endpoint.load().in_flight(), 0);
}
