use super::*;
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use mesh_core::GrpcCode;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::pending;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;
use tokio::time::Instant;
use tower::util::BoxCloneSyncService;
use tower::{ServiceExt, service_fn};

type Handler = BoxCloneSyncService<Request<Full<Bytes>>, Response<Full<Bytes>>, Infallible>;

const MS: Duration = Duration::from_millis(1);
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn layer(change: impl FnOnce(&mut Config)) -> ServerLayer {
    let mut config = Config::default();
    change(&mut config);
    ServerLayer::new(config)
}

fn request(fields: &[(&'static str, &str)]) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::default());
    for (name, value) in fields {
        request.headers_mut().append(*name, value.parse().expect("a value"));
    }
    request
}

fn grpc(fields: &[(&'static str, &str)]) -> Request<Full<Bytes>> {
    let mut request = request(fields);
    request.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    request
}

fn ok() -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::from("fine")))
}

fn code<B>(response: &Response<B>) -> Option<GrpcCode> {
    GrpcCode::from_headers(response.headers())
}

/// A handler that never answers, and says when it is dropped.
fn stuck() -> (Handler, Arc<()>) {
    let alive = Arc::new(());
    let held = alive.clone();
    let service = service_fn(move |_: Request<Full<Bytes>>| {
        let held = held.clone();
        async move {
            pending::<()>().await;
            drop(held);
            ok()
        }
    });
    (Handler::new(service), alive)
}

/// A body that does one thing after another.
struct Script(VecDeque<Step>);

enum Step {
    Data,
    Run(Box<dyn FnOnce() + Send>),
    Stuck,
}

impl Script {
    fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self(steps.into_iter().collect())
    }
}

impl HttpBody for Script {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.0.pop_front() {
            None => return Poll::Ready(None),
            Some(Step::Data) => {}
            Some(Step::Run(run)) => run(),
            Some(Step::Stuck) => {
                self.0.push_front(Step::Stuck);
                return Poll::Pending;
            }
        }
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_and_its_body_see_the_remaining_time_the_trace_and_the_peer() {
    let peer = Peer::new(([127, 0, 0, 1], 7).into());
    let expected = peer.clone();
    let check = move || {
        let context = Context::current().expect("inside a server layer");
        let Expiry(at) = context.expiry.expect("the caller's");
        assert_eq!(context.peer.as_ref(), Some(&expected));
        assert_eq!(context.baggage.expect("the caller's"), "a=1,b=2");
        assert_eq!(context.trace_state.expect("the caller's"), "x=1");
        let trace = context.trace.expect("the caller's");
        assert_eq!(trace.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        at.since(clock::now())
    };
    let service = layer(|_| {}).layer(service_fn(move |_: Request<Full<Bytes>>| {
        let check = check.clone();
        async move {
            tokio::time::sleep(30 * MS).await;
            assert_eq!(check(), 70 * MS);
            let body = Script::new([Step::Run(Box::new(move || assert_eq!(check(), 70 * MS)))]);
            Ok::<_, Infallible>(Response::new(body))
        }
    }));
    let mut request = request(&[
        ("x-envoy-expected-rq-timeout-ms", "100"),
        ("traceparent", PARENT),
        ("tracestate", "x=1"),
        ("baggage", "a=1"),
        ("baggage", "b=2"),
    ]);
    request.extensions_mut().insert(peer);

    let response = service.oneshot(request).await.unwrap_or_else(|never| match never {});

    response.into_body().collect().await.expect("no panic in the body");
    assert!(Context::current().is_none());
}

#[tokio::test(start_paused = true)]
async fn when_the_deadline_passes_the_handler_is_dropped_and_the_answer_is_504() {
    let start = Instant::now();
    let (service, alive) = stuck();
    let request = request(&[("x-envoy-expected-rq-timeout-ms", "100")]);
    let Ok(response) = layer(|_| {}).layer(service).oneshot(request).await;
    assert_eq!((response.status().as_u16(), start.elapsed()), (504, 100 * MS));
    assert_eq!(
        response.headers()["proxy-status"],
        "mesh; error=http_response_timeout; details=\"upstream_request_timeout\""
    );
    assert_eq!(Arc::strong_count(&alive), 1, "what the handler held is free");
}

#[tokio::test(start_paused = true)]
async fn a_grpc_caller_is_told_deadline_exceeded_without_trailers() {
    let start = Instant::now();
    let (service, alive) = stuck();
    let Ok(response) = layer(|_| {}).layer(service).oneshot(grpc(&[("grpc-timeout", "50m")])).await;
    assert_eq!((response.status().as_u16(), start.elapsed()), (200, 50 * MS));
    assert_eq!(code(&response), Some(GrpcCode::DEADLINE_EXCEEDED));
    assert!(response.body().is_end_stream());
    assert_eq!(Arc::strong_count(&alive), 1);
}

#[tokio::test(start_paused = true)]
async fn the_tighter_of_ours_and_the_callers_deadline_wins() {
    for (caller, after) in [("100", 100), ("9000", 200)] {
        let start = Instant::now();
        let request = request(&[("x-envoy-expected-rq-timeout-ms", caller)]);
        let layer = layer(|config| config.timeout = Some(200 * MS));
        let Ok(response) = layer.layer(stuck().0).oneshot(request).await;
        assert_eq!((response.status().as_u16(), start.elapsed()), (504, after * MS));
    }
}

#[tokio::test(start_paused = true)]
async fn an_outer_layer_cannot_be_outlived() {
    let start = Instant::now();
    let stack = layer(|config| config.timeout = Some(10 * MS)).layer(
        layer(|config| config.timeout = Some(500 * MS)).layer(service_fn(
            |_: Request<Full<Bytes>>| async {
                let expiry = Context::with(|context| context.expiry).flatten();
                assert_eq!(expiry, Some(Expiry(clock::now() + 10 * MS)));
                pending::<()>().await;
                ok()
            },
        )),
    );
    let Ok(response) = stack.oneshot(request(&[])).await;
    assert_eq!((response.status().as_u16(), start.elapsed()), (504, 10 * MS));
}

/// A handler that counts its calls.
fn counted() -> (Handler, Arc<AtomicU32>) {
    let calls = Arc::new(AtomicU32::new(0));
    let count = calls.clone();
    let service = service_fn(move |_: Request<Full<Bytes>>| {
        count.fetch_add(1, SeqCst);
        async { ok() }
    });
    (Handler::new(service), calls)
}

#[tokio::test(start_paused = true)]
async fn what_came_too_late_or_malformed_never_reaches_the_handler() {
    let (service, calls) = counted();
    let service = layer(|_| {}).layer(service);
    for (field, value, http, grpc_code) in [
        ("grpc-timeout", "0n", 504, GrpcCode::DEADLINE_EXCEEDED),
        ("grpc-timeout", "", 400, GrpcCode::INTERNAL),
        ("grpc-timeout", "5", 400, GrpcCode::INTERNAL),
        ("grpc-timeout", "-5S", 400, GrpcCode::INTERNAL),
        ("grpc-timeout", "5 S", 400, GrpcCode::INTERNAL),
        ("grpc-timeout", "999999999S", 400, GrpcCode::INTERNAL),
    ] {
        let Ok(response) = service.clone().oneshot(request(&[(field, value)])).await;
        assert_eq!(response.status(), http, "{value:?}");
        let Ok(response) = service.clone().oneshot(grpc(&[(field, value)])).await;
        assert_eq!(code(&response), Some(grpc_code), "{value:?}");
    }
    assert_eq!(calls.load(SeqCst), 0);
    let Ok(response) = service.oneshot(grpc(&[("grpc-timeout", "99999999H")])).await;
    assert_eq!((response.status().as_u16(), calls.load(SeqCst)), (200, 1));
}

#[tokio::test(start_paused = true)]
async fn strangers_are_not_believed() {
    let service = layer(|config| config.trust_callers = false).layer(service_fn(
        |_: Request<Full<Bytes>>| async {
            let context = Context::current().expect("inside a server layer");
            assert!(context.expiry.is_none() && context.trace.is_none());
            assert!(context.baggage.is_none() && context.trace_state.is_none());
            ok()
        },
    ));
    let fields =
        [("grpc-timeout", "x"), ("traceparent", PARENT), ("tracestate", "x=1"), ("baggage", "a=1")];
    let Ok(response) = service.oneshot(request(&fields)).await;
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn more_than_the_limit_is_shed_until_a_response_body_ends() {
    let (service, calls) = counted();
    let layer = layer(|config| config.max_requests = Some(1));
    let service = layer.layer(service);
    let Ok(first) = service.clone().oneshot(request(&[])).await;
    assert_eq!((first.status().as_u16(), layer.serving()), (200, 1));

    let Ok(second) = service.clone().oneshot(request(&[])).await;
    assert_eq!(second.status(), 503);
    let text = second.into_body().collect().await.expect("in memory").to_bytes();
    assert_eq!(text, "overload_shed: 1 requests are being served, which is the limit\n");
    let Ok(third) = service.clone().oneshot(grpc(&[])).await;
    assert_eq!(code(&third), Some(GrpcCode::RESOURCE_EXHAUSTED));
    assert_eq!(calls.load(SeqCst), 1, "shed requests never reach the handler");

    first.into_body().collect().await.expect("in memory");
    assert_eq!(layer.serving(), 0);
    let Ok(fourth) = service.oneshot(request(&[])).await;
    assert_eq!(fourth.status(), 200);
}

#[tokio::test]
async fn a_panic_before_during_and_after_the_head_is_an_answer() {
    #[derive(Clone, Copy)]
    enum When {
        Called,
        Polled,
        Streaming,
    }
    let service_of = |when: When| {
        layer(|_| {}).layer(service_fn(move |_: Request<Full<Bytes>>| {
            assert!(!matches!(when, When::Called), "planted");
            async move {
                assert!(!matches!(when, When::Polled), "planted");
                let last = Step::Run(Box::new(|| panic!("planted")));
                Ok::<_, Infallible>(Response::new(Script::new([Step::Data, last])))
            }
        }))
    };
    for when in [When::Called, When::Polled] {
        let Ok(response) = service_of(when).oneshot(request(&[])).await;
        assert_eq!(response.status(), 500);
        let Ok(response) = service_of(when).oneshot(grpc(&[])).await;
        assert_eq!(code(&response), Some(GrpcCode::INTERNAL));
    }
    let Ok(response) = service_of(When::Streaming).oneshot(request(&[])).await;
    assert!(response.into_body().collect().await.is_err(), "an answer cut short is no answer");
    let Ok(response) = service_of(When::Streaming).oneshot(grpc(&[])).await;
    let body = response.into_body().collect().await.expect("ended by trailers");
    let status = body.trailers().and_then(GrpcCode::from_headers);
    assert_eq!(status, Some(GrpcCode::INTERNAL));
}

#[tokio::test]
async fn the_services_own_error_is_left_alone() {
    #[derive(Debug, PartialEq)]
    struct Own;
    let service = layer(|_| {}).layer(service_fn(|_: Request<Full<Bytes>>| async {
        Err::<Response<Full<Bytes>>, _>(Own)
    }));
    assert_eq!(service.oneshot(request(&[])).await.err(), Some(Own));
}

#[tokio::test(start_paused = true)]
async fn a_grpc_deadline_ends_the_stream_and_an_http_one_only_the_wait_for_its_head() {
    let endless = || {
        layer(|_| {}).layer(service_fn(|_: Request<Full<Bytes>>| async {
            Ok::<_, Infallible>(Response::new(Script::new([Step::Data, Step::Stuck])))
        }))
    };
    let start = Instant::now();
    let Ok(response) = endless().oneshot(grpc(&[("grpc-timeout", "80m")])).await;
    let body = response.into_body().collect().await.expect("ended by trailers");
    let status = body.trailers().and_then(GrpcCode::from_headers);
    assert_eq!((status, start.elapsed()), (Some(GrpcCode::DEADLINE_EXCEEDED), 80 * MS));

    let request = request(&[("x-envoy-expected-rq-timeout-ms", "80")]);
    let Ok(response) = endless().oneshot(request).await;
    let body = response.into_body().collect();
    assert!(tokio::time::timeout(Duration::from_secs(60), body).await.is_err());
}

#[tokio::test]
async fn dropping_the_response_drops_the_handler_and_its_place() {
    let (service, alive) = stuck();
    let layer = ServerLayer::default();
    let mut response = Box::pin(layer.layer(service).oneshot(request(&[])));
    assert!(poll_once(response.as_mut()).is_pending());
    assert_eq!((layer.serving(), Arc::strong_count(&alive)), (1, 2));
    drop(response);
    assert_eq!((layer.serving(), Arc::strong_count(&alive)), (0, 1));
}

fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut task::Context::from_waker(task::Waker::noop()))
}

#[tokio::test(start_paused = true)]
async fn the_criticality_of_a_request_is_its_own_or_the_policys() {
    for (trusted, told, policy, expected) in [
        (true, None, None, None),
        (true, Some("SHEDDABLE"), None, Some(Criticality::Sheddable)),
        (true, Some("nonsense"), None, None),
        (true, Some("SHEDDABLE"), Some(Criticality::CriticalPlus), Some(Criticality::Sheddable)),
        (true, None, Some(Criticality::CriticalPlus), Some(Criticality::CriticalPlus)),
        (false, Some("CRITICAL_PLUS"), None, None),
        (false, Some("CRITICAL_PLUS"), Some(Criticality::Sheddable), Some(Criticality::Sheddable)),
    ] {
        let layer = layer(|config| {
            config.trust_callers = trusted;
            config.criticality = policy;
        });
        let service = layer.layer(service_fn(move |_: Request<Full<Bytes>>| async move {
            assert_eq!(Context::with(|context| context.criticality), Some(expected), "{told:?}");
            ok()
        }));
        let fields: Vec<_> = told.map(|told| ("x-mesh-criticality", told)).into_iter().collect();
        let Ok(response) = service.oneshot(request(&fields)).await;
        assert_eq!(response.status(), 200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waited_is_served_by_what_was_ready_for_it() {
    let layer = layer(|config| {
        config.max_requests = Some(1);
        config.shedding = Some(mesh_core::shed::Config::default());
    });
    let (service, calls) = counted();
    let service = layer.layer(service);
    let Ok(first) = service.clone().oneshot(request(&[])).await;
    let mut second = Box::pin(service.clone().oneshot(request(&[])));
    assert!(poll_once(second.as_mut()).is_pending());
    assert_eq!((layer.serving(), layer.waiting(), calls.load(SeqCst)), (1, 1, 1));
    drop(first);
    let Ok(second) = second.await;
    assert_eq!((second.status().as_u16(), calls.load(SeqCst)), (200, 2));
    assert_eq!((layer.serving(), layer.waiting()), (1, 0));
    drop(second);
    assert_eq!(layer.serving(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_in_vain_is_answered_and_counted() {
    let layer = layer(|config| {
        config.max_requests = Some(1);
        config.shedding = Some(mesh_core::shed::Config::default());
    });
    let (service, _alive) = stuck();
    let service = layer.layer(service);
    let mut served = Box::pin(service.clone().oneshot(request(&[])));
    assert!(poll_once(served.as_mut()).is_pending());
    let start = Instant::now();
    let late = request(&[("x-envoy-expected-rq-timeout-ms", "50")]);
    let Ok(late) = service.clone().oneshot(late).await;
    assert_eq!((late.status().as_u16(), start.elapsed()), (504, 50 * MS));
    let waits = [grpc(&[]), grpc(&[])].map(|request| service.clone().oneshot(request));
    let [older, newer] = waits.map(tokio::spawn);
    let Ok(shed) = older.await.expect("no panic");
    assert_eq!((code(&shed), start.elapsed()), (Some(GrpcCode::RESOURCE_EXHAUSTED), 150 * MS));
    assert_eq!(layer.waiting(), 1, "the newer one is next, whenever that is");
    let counts: Vec<_> = layer.shared.metrics.sheds().collect();
    assert_eq!(counts, [(ErrorKind::Deadline, 1), (ErrorKind::Shed, 1)]);
    newer.abort();
    assert!(newer.await.is_err());
    assert_eq!((layer.waiting(), layer.serving()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_over_a_rate_limit_is_refused_before_it_takes_a_place() {
    use crate::rate_limit::{By, Descriptor, Entry, TokenBucket};
    let rate = TokenBucket::new(2, 1, 1000 * MS);
    let by_address = Descriptor::new([Entry::by(By::RemoteAddress)], rate);
    let layer = layer(|config| {
        let mut limit = mesh_core::rate_limit::Config::default();
        limit.descriptors = vec![by_address];
        config.rate_limit = Some(limit);
    });
    let (service, calls) = counted();
    let service = layer.layer(service);
    let send = async |mut request: Request<Full<Bytes>>, last: u8| {
        request.extensions_mut().insert(Peer::new(([127, 0, 0, last], 7).into()));
        let Ok(response) = service.clone().oneshot(request).await;
        response
    };
    for _ in 0..2 {
        assert_eq!(send(request(&[]), 1).await.status(), 200);
    }
    let refused = send(request(&[]), 1).await;
    assert_eq!((refused.status().as_u16(), layer.serving()), (429, 0));
    assert_eq!(refused.headers()["x-envoy-ratelimited"], "true");
    assert_eq!(
        refused.headers()["proxy-status"],
        "mesh; error=http_request_denied; details=\"rate_limited\""
    );
    let refused = send(grpc(&[]), 1).await;
    assert_eq!(code(&refused), Some(GrpcCode::RESOURCE_EXHAUSTED));
    assert_eq!(send(request(&[]), 2).await.status(), 200, "each address has a bucket");
    tokio::time::advance(1000 * MS).await;
    assert_eq!(send(request(&[]), 1).await.status(), 200);
    assert_eq!(calls.load(SeqCst), 4, "what is refused never reaches the handler");
    assert_eq!(layer.shared.metrics.rate_limits().collect::<Vec<_>>(), [(false, 0), (true, 2)]);
    assert_eq!(layer.shared.metrics.sheds().collect::<Vec<_>>(), [(ErrorKind::RateLimited, 2)]);
}

#[tokio::test(start_paused = true)]
async fn it_keeps_the_contract_of_layers() {
    let layer = layer(|config| config.timeout = Some(3600 * 1000 * MS));
    let response = || Response::new(Full::<Bytes>::default());
    testkit::contract::check(|inner| layer.layer(inner), || request(&[]), response).await;
}
