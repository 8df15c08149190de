use super::super::*;
use crate::CallOptions;
use crate::call::{Call, Exhausted, Shared};
use crate::deadline::Expiry;
use crate::telemetry::Metrics;
use http::{HeaderValue, Method, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use mesh_core::limit::Limits;
use mesh_core::{Policy, hedge};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use tower::{ServiceExt, service_fn};

const MS: Duration = Duration::from_millis(1);

type Fields = &'static [(&'static str, &'static str)];

/// What an attempt is answered with, after how many milliseconds.
#[derive(Clone, Copy, Debug)]
struct Step(u64, u16, Fields);

const SLOW: Step = Step(60_000, 200, &[]);

/// An inner service of which each attempt follows a step, and that keeps when each began and ended.
#[derive(Clone)]
struct Script(Arc<Mutex<Inner>>);

struct Inner {
    steps: Vec<Step>,
    born: Instant,
    begun: Vec<(Duration, http::request::Parts, Option<Arc<Call>>)>,
    cancelled: Vec<usize>,
}

/// Notes an attempt that is dropped before its end.
struct Guard(Script, usize, bool);

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.2 {
            self.0.0.lock().cancelled.push(self.1);
        }
    }
}

impl Script {
    fn new(steps: &[Step]) -> Self {
        let (steps, born) = (steps.to_vec(), Instant::now());
        let inner = Inner { steps, born, begun: Vec::new(), cancelled: Vec::new() };
        Self(Arc::new(Mutex::new(inner)))
    }

    fn service(
        &self,
    ) -> impl Service<Request<Body>, Response = Response<Body>, Error = Error, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static {
        let script = self.clone();
        service_fn(move |mut request: Request<Body>| {
            let script = script.clone();
            let call = call::unpin(&mut request);
            if let Some(call) = &call
                && call.hedged
            {
                let _ = call.at.set(format!("127.0.0.1:{}", script.0.lock().begun.len()).into());
            }
            let (head, body) = request.into_parts();
            let (number, Step(after, code, fields)) = {
                let mut inner = script.0.lock();
                let number = inner.begun.len();
                let at = inner.born.elapsed();
                inner.begun.push((at, head, call));
                (number, *inner.steps.get(number).expect("no more attempts than steps"))
            };
            let guard = Guard(script, number, false);
            async move {
                let mut guard = guard;
                let _ = body.collect().await;
                sleep(Duration::from_millis(after)).await;
                guard.2 = true;
                if code == 0 {
                    return Err(Error::from(ErrorKind::ConnectionClosed).after_send());
                }
                let mut response = Response::new(Body::from("answer"));
                *response.status_mut() = StatusCode::from_u16(code).expect("valid");
                for (name, value) in fields {
                    response.headers_mut().insert(*name, HeaderValue::from_static(value));
                }
                response.extensions_mut().insert(number);
                Ok(response)
            }
        })
    }

    async fn run(
        &self,
        layer: &RetryLayer,
        request: Request<Body>,
    ) -> Result<Response<Body>, Error> {
        layer.layer(self.service()).oneshot(request).await
    }

    /// When each attempt began, in milliseconds.
    fn begun(&self) -> Vec<u128> {
        self.0.lock().begun.iter().map(|(at, ..)| at.as_millis()).collect()
    }

    /// The attempts that were given up, by number from 0.
    fn cancelled(&self) -> Vec<usize> {
        let mut cancelled = self.0.lock().cancelled.clone();
        cancelled.sort_unstable();
        cancelled
    }
}

fn hedging(delay: u64, attempts: u32) -> RetryLayer {
    let config = hedge::Config::after(Duration::from_millis(delay)).with_max_attempts(attempts);
    RetryLayer::new().hedge(config)
}

fn get() -> Request<Body> {
    Request::new(Body::empty())
}

fn grpc() -> Request<Body> {
    let mut request = Request::post("http://greeter/").body(Body::empty()).expect("valid");
    request.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    request.extensions_mut().insert(CallOptions::new().idempotent(true));
    request
}

fn served(answer: Result<Response<Body>, Error>) -> usize {
    *answer.expect("a response").extensions().get().expect("its number")
}

#[tokio::test(start_paused = true)]
async fn it_keeps_the_contract() {
    testkit::contract::check(
        |inner| hedging(50, 3).layer(inner),
        || Request::new(Body::empty()),
        || Response::new(Body::empty()),
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_first_good_answer_is_the_calls_and_the_loser_is_cancelled() {
    let script = Script::new(&[SLOW, Step(30, 200, &[])]);
    assert_eq!(served(script.run(&hedging(50, 2), get()).await), 1);
    assert_eq!(script.begun(), [0, 50]);
    assert_eq!(script.cancelled(), [0]);

    let script = Script::new(&[Step(70, 200, &[]), SLOW]);
    assert_eq!(served(script.run(&hedging(50, 2), get()).await), 0);
    assert_eq!(script.cancelled(), [1]);

    let script = Script::new(&[Step(49, 200, &[])]);
    assert_eq!(served(script.run(&hedging(50, 2), get()).await), 0);
    assert_eq!(script.begun(), [0], "quick enough");
}

/// gRFC A6: "after 1ms there would be one outstanding RPC, after 501ms two, after 1001ms three,
/// and after 1501ms four".
#[tokio::test(start_paused = true)]
async fn attempt_k_begins_k_minus_1_delays_after_the_first() {
    let script = Script::new(&[SLOW, SLOW, SLOW, Step(200, 200, &[])]);
    assert_eq!(served(script.run(&hedging(500, 4), get()).await), 3);
    assert_eq!(script.begun(), [0, 500, 1_000, 1_500]);
    assert_eq!(script.cancelled(), [0, 1, 2]);

    let script = Script::new(&[SLOW, SLOW, Step(5, 200, &[])]);
    assert_eq!(served(script.run(&hedging(0, 3), get()).await), 2);
    assert_eq!(script.begun(), [0, 0, 0], "a delay of zero sends all at once");
}

/// gRFC A6, "Summary of Retry and Hedging Logic", all five rows.
#[tokio::test(start_paused = true)]
async fn what_an_attempt_ends_with_decides() {
    const OK: Fields = &[];
    const FATAL: Fields = &[("grpc-status", "3")];
    const BUSY: Fields = &[("grpc-status", "14")];
    const NEVER: Fields = &[("grpc-status", "14"), ("grpc-retry-pushback-ms", "-1")];
    const LATER: Fields = &[("grpc-status", "14"), ("grpc-retry-pushback-ms", "70")];
    let slow = SLOW;
    for (steps, begun, winner, cancelled) in [
        // 1. OK: the others are cancelled.
        (vec![slow, Step(20, 200, OK)], vec![0, 100], 1, vec![0]),
        // 2. Fatal: the others are cancelled too.
        (vec![slow, Step(20, 200, FATAL)], vec![0, 100], 1, vec![0]),
        // 3. Not fatal: the next at once, further ones a delay later.
        (vec![Step(30, 200, BUSY), slow, Step(5, 200, OK)], vec![0, 30, 130], 2, vec![1]),
        (vec![slow, Step(30, 200, BUSY), Step(5, 200, OK)], vec![0, 100, 130], 2, vec![0]),
        // 4. Not again: the others go on, no further ones.
        (vec![Step(150, 200, OK), Step(30, 200, NEVER)], vec![0, 100], 0, vec![]),
        (vec![Step(30, 200, NEVER)], vec![0], 0, vec![]),
        // 5. In 70 ms: the next then, further ones a delay later.
        (vec![Step(30, 200, LATER), slow, Step(5, 200, OK)], vec![0, 100, 200], 2, vec![1]),
        (
            vec![slow, Step(30, 200, LATER), slow, Step(5, 200, OK)],
            vec![0, 100, 200, 300],
            3,
            vec![0, 2],
        ),
    ] {
        let script = Script::new(&steps);
        assert_eq!(served(script.run(&hedging(100, 4), grpc()).await), winner, "{steps:?}");
        assert_eq!((script.begun(), script.cancelled()), (begun, cancelled), "{steps:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn when_all_fail_the_last_failure_is_the_calls() {
    let script = Script::new(&[Step(80, 503, &[]), Step(10, 502, &[]), Step(90, 504, &[])]);
    let response = script.run(&hedging(50, 3), get()).await.expect("a response");
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(response.extensions().get(), Some(&Exhausted(ErrorKind::RetryLimit)));
    assert_eq!(script.begun(), [0, 50, 60]);

    let script = Script::new(&[Step(80, 0, &[]), Step(10, 0, &[])]);
    let error = script.run(&hedging(50, 2), get()).await.expect_err("both broke");
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::ConnectionClosed, 2));
    assert_eq!(error.exhausted(), Some(ErrorKind::RetryLimit));
}

#[tokio::test(start_paused = true)]
async fn the_budget_is_that_of_retries() {
    let mut none = budget::Config::default();
    (none.percent, none.min_retries_per_second) = (0, 0);
    let layer = hedging(50, 3).budget(none);
    let script = Script::new(&[Step(500, 200, &[])]);
    assert_eq!(served(script.run(&layer, get()).await), 0);
    assert_eq!(script.begun(), [0]);

    let script = Script::new(&[Step(500, 503, &[])]);
    let response = script.run(&layer, get()).await.expect("a response");
    assert_eq!(response.extensions().get(), Some(&Exhausted(ErrorKind::RetryBudget)));

    let mut config = throttling::Config::default();
    (config.max_tokens, config.token_ratio) = (2, 0.001);
    let throttled =
        hedging(50, 2).throttling(config).layer(Script::new(&[Step(10, 503, &[]), SLOW]).service());
    let response = throttled.clone().oneshot(get()).await.expect("a response");
    assert_eq!(response.status(), 503, "one failure takes two tokens to half");
}

#[tokio::test(start_paused = true)]
async fn only_what_does_no_harm_when_repeated_is_hedged() {
    for (method, options, begun) in [
        (Method::GET, CallOptions::new(), 2),
        (Method::POST, CallOptions::new(), 1),
        (Method::PUT, CallOptions::new(), 1),
        (Method::POST, CallOptions::new().idempotent(true), 2),
        (Method::GET, CallOptions::new().idempotent(false), 1),
        (Method::GET, CallOptions::new().no_retry(), 1),
        (Method::GET, CallOptions::new().retries(1), 2),
        (Method::GET, CallOptions::new().retries(2), 3),
        (Method::GET, CallOptions::new().retries(9), 3),
    ] {
        let most = if options.retries.is_some_and(|retries| retries > 1) { 3 } else { 2 };
        let script = Script::new(&[Step(500, 200, &[]), SLOW, SLOW]);
        let mut request = get();
        *request.method_mut() = method.clone();
        request.extensions_mut().insert(options.clone());
        assert_eq!(served(script.run(&hedging(50, most), request).await), 0);
        assert_eq!(script.begun().len(), begun, "{method} {options:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_is_sent_beside_itself_once_it_is_whole() {
    struct Upload(tokio::sync::mpsc::Receiver<&'static str>);
    impl futures_core::Stream for Upload {
        type Item = Result<Frame<Bytes>, BoxError>;
        fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            self.0
                .poll_recv(cx)
                .map(|text| Some(Ok(Frame::data(Bytes::from_static(text?.as_bytes())))))
        }
    }
    let (feed, frames) = tokio::sync::mpsc::channel(4);
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let (born, begun) = (Instant::now(), Arc::new(Mutex::new(Vec::new())));
    let (seen, starts) = (bodies.clone(), begun.clone());
    let inner = service_fn(move |request: Request<Body>| {
        let (seen, number) = (seen.clone(), starts.lock().len());
        starts.lock().push(born.elapsed().as_millis());
        async move {
            let body = request.into_body().collect().await.expect("whole").to_bytes();
            seen.lock().push(body);
            sleep(Duration::from_millis(if number == 0 { 500 } else { 10 })).await;
            Ok::<_, Error>(Response::new(Body::empty()))
        }
    });
    let mut request = get();
    *request.body_mut() = Body::new(StreamBody::new(Upload(frames)));
    let upload = async move {
        feed.send("one").await.expect("read");
        sleep(120 * MS).await;
        feed.send("two").await.expect("read");
    };
    let ((), answer) = tokio::join!(upload, hedging(50, 2).layer(inner).oneshot(request));
    answer.expect("a response");
    assert_eq!(*begun.lock(), [0, 150], "asked again every 50 ms");
    assert_eq!(*bodies.lock(), ["onetwo", "onetwo"]);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_may_go_on_beyond_its_own_timeout() {
    let mut config = hedge::Config::default();
    config.on_per_try_timeout = true;
    let layer = RetryLayer::new().attempts(2).per_try_timeout(100 * MS).hedge(config);
    let script = Script::new(&[Step(250, 200, &[]), SLOW, SLOW]);
    assert_eq!(served(script.run(&layer, get()).await), 0);
    assert_eq!(script.begun(), [0, 100, 200]);

    // With another delay it cuts each attempt.
    let layer = hedging(60, 2).per_try_timeout(100 * MS);
    let script = Script::new(&[SLOW, SLOW]);
    let error = script.run(&layer, get()).await.expect_err("both take too long");
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::Deadline, 2));
    assert_eq!((script.begun(), script.cancelled()), (vec![0, 60], vec![0, 1]));
}

#[tokio::test(start_paused = true)]
async fn nobody_gets_more_than_five_attempts() {
    let mut config = hedge::Config::default();
    config.on_per_try_timeout = true;
    let layer = RetryLayer::new().attempts(u32::MAX).per_try_timeout(100 * MS).hedge(config);
    let script = Script::new(&[SLOW; 5]);
    assert_eq!(served(script.run(&layer, get()).await), 0);
    assert_eq!(script.begun(), [0, 100, 200, 300, 400]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_left_out_is_sent_again_beside_others() {
    let frames = ["one", "two"].map(|text| Ok::<_, BoxError>(Frame::data(Bytes::from(text))));
    let mut request = get();
    *request.body_mut() = Body::new(StreamBody::new(tokio_stream::iter(frames)));
    let begun = Arc::new(Mutex::new(0));
    let counted = begun.clone();
    let inner = service_fn(move |request: Request<Body>| {
        let number = {
            let mut begun = counted.lock();
            *begun += 1;
            *begun
        };
        async move {
            if number == 2 {
                // It is still being connected when the first turns out to be left out.
                sleep(100 * MS).await;
            }
            let body = request.into_body().collect().await?.to_bytes();
            assert_eq!(body, "onetwo");
            match number {
                1 => {
                    sleep(60 * MS).await;
                    Err(Error::from(ErrorKind::RemoteReset).into())
                }
                2 => Ok::<_, BoxError>(Response::new(Body::empty())),
                _ => std::future::pending().await,
            }
        }
    });
    let inner = inner.map_err(|error| match error.downcast::<Error>() {
        Ok(error) => *error,
        Err(other) => Error::new(ErrorKind::CallerGone, other.to_string()).after_send(),
    });
    hedging(50, 2).layer(inner).oneshot(request).await.expect("the second has the body still");
    assert_eq!(*begun.lock(), 3);
}

#[tokio::test(start_paused = true)]
async fn each_attempt_avoids_the_endpoints_of_the_others() {
    let script = Script::new(&[SLOW, Step(20, 503, &[]), Step(5, 200, &[])]);
    let mut request = get();
    let mut policy = Policy::default();
    policy.hedge = Some(hedge::Config::after(50 * MS).with_max_attempts(3));
    let shared = Shared {
        budget: Budget::default(),
        throttling: Throttling::new(),
        guard: crate::guard::Guard::new(&Policy::default()),
        limits: Limits::default(),
        metrics: Metrics::new().destination("inventory"),
        latencies: std::sync::OnceLock::new(),
    };
    let mut call = Call::new(clock::now(), Arc::new(policy), false);
    call.shared = Some(Arc::new(shared));
    call.expiry = Some(Expiry(call.started + 5_000 * MS));
    let metrics = call.metrics().expect("there").clone();
    call::pin(&mut request, call);
    assert_eq!(served(script.run(&RetryLayer::new(), request).await), 2);
    let inner = script.0.lock();
    let tried: Vec<Vec<String>> = inner
        .begun
        .iter()
        .map(|(_, _, call)| {
            call.as_ref().expect("pinned").tried.iter().map(ToString::to_string).collect()
        })
        .collect();
    let [a, b] = ["127.0.0.1:0".to_owned(), "127.0.0.1:1".to_owned()];
    assert_eq!(tried, [vec![], vec![a.clone()], vec![a, b]]);
    assert_eq!((metrics.counts().hedges, metrics.counts().retries), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn dropping_the_call_cancels_every_attempt() {
    let script = Script::new(&[SLOW, SLOW]);
    let layer = hedging(50, 2);
    let call = script.run(&layer, get());
    assert!(tokio::time::timeout(80 * MS, call).await.is_err());
    assert_eq!(script.cancelled(), [0, 1]);
}

/// A service of which one attempt in a hundred takes a second, and the others 5 to 15 ms.
async fn tail(layer: &RetryLayer, seed: u64, calls: usize) -> (Duration, f64) {
    let random = Arc::new(Mutex::new(fastrand::Rng::with_seed(seed)));
    let executed = Arc::new(Mutex::new(0usize));
    let count = executed.clone();
    let service = layer.layer(service_fn(move |_: Request<Body>| {
        *count.lock() += 1;
        let mut random = random.lock();
        let took = if random.u64(0..100) == 0 { 1_000_000 } else { random.u64(5_000..15_000) };
        async move {
            sleep(Duration::from_micros(took)).await;
            Ok::<_, Error>(Response::new(Body::empty()))
        }
    }));
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..calls {
        sleep(2 * MS).await;
        let service = service.clone();
        running.spawn(async move {
            let begin = Instant::now();
            service.oneshot(get()).await.expect("a response");
            begin.elapsed()
        });
    }
    let mut took = running.join_all().await;
    took.sort_unstable();
    let executed = *executed.lock() as f64 / calls as f64;
    (took[calls * 999 / 1_000], executed)
}

#[tokio::test(start_paused = true)]
async fn a_slow_tail_of_one_per_cent_is_cut_for_less_than_three_per_cent_of_calls() {
    for seed in [1, 2, 3] {
        let (without, _) = tail(&RetryLayer::new(), seed, 20_000).await;
        let hedged = RetryLayer::new().hedge(hedge::Config::at_percentile(98.0));
        let (with, executed) = tail(&hedged, seed, 20_000).await;
        println!(
            "seed {seed}: p99.9 {without:?} without, {with:?} with, {executed:.4} executed per call"
        );
        assert!(with * 2 <= without, "seed {seed}: {with:?} against {without:?}");
        assert!(executed < 1.03, "seed {seed}: {executed} executed per call");
    }
}

#[tokio::test(start_paused = true)]
async fn before_enough_calls_were_seen_none_is_hedged_by_percentile() {
    let layer = RetryLayer::new().hedge(hedge::Config::at_percentile(90.0));
    let script = Script::new(&[Step(5_000, 200, &[])]);
    assert_eq!(served(script.run(&layer, get()).await), 0);
}

#[test]
fn a_call_that_is_not_hedged_pays_nothing_for_it() {
    #[expect(dead_code, reason = "only its size is looked at")]
    enum State<F> {
        Attempt { inner: F, timer: Option<Pin<Box<Sleep>>> },
        Wait { timer: Pin<Box<Sleep>> },
        Ready,
    }
    #[expect(dead_code, reason = "only its size is looked at")]
    struct Without<F> {
        state: State<F>,
        repeat: Option<Box<u8>>,
        attempt: u32,
        per_try: Option<Duration>,
    }
    type Inner = [u64; 32];
    assert_eq!(size_of::<ResponseFuture<(), Inner>>(), size_of::<Without<Inner>>());
}

/// However attempts end: a call that is not idempotent is sent once; one that is, at most as often
/// as the settings say, and never more in all than calls and budget.
#[tokio::test(start_paused = true)]
async fn attempts_stay_within_settings_and_budget() {
    let seed = std::env::var("MESH_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("MESH_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..300 {
        let steps: Vec<_> = (0..60)
            .map(|_| Step(random.u64(0..100), [0, 200, 404, 503][random.usize(0..4)], &[]))
            .collect();
        let (most, delay, idempotent) = (random.u32(2..=5), random.u64(0..100), random.bool());
        let mut budget = budget::Config::default();
        (budget.percent, budget.min_retries_per_second) = (random.u8(0..=100), random.u32(0..2));
        let allowed = |calls: usize| {
            calls * usize::from(budget.percent) / 100 + 10 * budget.min_retries_per_second as usize
        };
        let script = Script::new(&steps);
        let service = hedging(delay, most).budget(budget.clone()).layer(script.service());
        let mut before = 0;
        for calls in 1..=12 {
            let mut request = get();
            request.extensions_mut().insert(CallOptions::new().idempotent(idempotent));
            let _ = service.clone().oneshot(request).await;
            let begun = script.begun().len();
            let made = begun - before;
            assert!(made <= if idempotent { most as usize } else { 1 }, "{made} attempts");
            assert!(begun - calls <= allowed(calls), "{begun} attempts of {calls} calls");
            before = begun;
        }
    }
}
