//! Calls that are asked why they went where they went.

use super::{LIMIT, addresses, mesh, policy, service, state};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use mesh_core::explain::{Asked, AttemptExplained, SplitBy};
use mesh_core::route::RouteRequest;
use mesh_tower::{Body, CallOptions, Error, Explanation, Mesh};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use testkit::endpoint::{Reply, ScriptedEndpoint};
use tower::ServiceExt;

async fn endpoint(status: u16) -> ScriptedEndpoint {
    ScriptedEndpoint::http1(Reply::status(status).content("text")).await
}

async fn endpoints(statuses: &[u16]) -> Vec<ScriptedEndpoint> {
    let mut all = Vec::new();
    for status in statuses {
        all.push(endpoint(*status).await);
    }
    all
}

async fn send(mesh: &Mesh, request: Request<Body>) -> Arc<Explanation> {
    match mesh.http().oneshot(request).await {
        Ok(response) => {
            let told = response.extensions().get::<Arc<Explanation>>().expect("asked for").clone();
            response.into_body().collect().await.expect("a whole body");
            told
        }
        Err(error) => Arc::new(error.explanation().expect("asked for").clone()),
    }
}

fn request(method: Method, url: &str, options: CallOptions) -> Request<Body> {
    let builder = Request::builder().method(method).uri(url).extension(options.explain());
    builder.body(Body::empty()).expect("valid")
}

async fn get(mesh: &Mesh, url: &str) -> Arc<Explanation> {
    send(mesh, request(Method::GET, url, CallOptions::new())).await
}

fn followed(attempt: &AttemptExplained) -> (bool, &str) {
    let followed = attempt.followed.as_ref().expect("it was considered");
    (followed.again, &followed.why)
}

#[tokio::test]
async fn a_call_that_does_not_ask_is_told_nothing() {
    let endpoints = endpoints(&[200]).await;
    let mesh = mesh(&service("inventory", &addresses(&endpoints)));
    let plain = |url: &str| Request::get(url).body(Body::empty()).expect("valid");
    let response = mesh.http().oneshot(plain("http://inventory/")).await.expect("an answer");
    assert!(response.extensions().get::<Arc<Explanation>>().is_none());
    let error: Error = mesh.http().oneshot(plain("/")).await.expect_err("no host");
    assert!(error.explanation().is_none());
}

#[tokio::test]
async fn it_tells_rule_split_candidates_and_each_retry() {
    let mut all = endpoints(&[503, 200, 200]).await;
    all[1].plan(|_, _| Reply::status(200).content("text"));
    let yaml = service("one", &addresses(&all[..2]))
        + &service("two", &addresses(&all[2..]))
        + &policy("pick: { policy: LeastRequest }")
        + "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
           metadata: { name: shop }\nspec: { hostnames: [shop], rules: [{ backendRefs: \
           [{ name: one, weight: 3 }, { name: two, weight: 1 }] }] }\n";
    let mesh = Mesh::builder().seed(3).config_text("shop.yaml", yaml).build().expect("a mesh");
    let mut retried = 0;
    for _ in 0..40 {
        let told = get(&mesh, "http://shop/cart?x=1").await;
        assert_eq!(told.request, "GET shop/cart?x=1");
        assert_eq!(told.route.as_ref().map(|route| &*route.rule), Some("shop/0"));
        let split = told.split.as_ref().expect("two destinations");
        let SplitBy::Draw { number, of, .. } = split.by else { panic!("{split:?}") };
        assert_eq!(
            (of, split.index),
            (4, usize::from(number == 3)),
            "numbers 0 to 2 are those of one"
        );
        let chosen = ["one", "two"][split.index];
        assert!(told.attempts.iter().all(|attempt| attempt.destination == chosen), "{told}");
        let ended = told.ended.as_ref().expect("an end");
        assert_eq!((&*ended.outcome, &ended.flag), ("200 OK", &None));

        let [first, second] = &told.attempts[..] else { continue };
        retried += 1;
        assert_eq!(first.outcome.as_deref(), Some("503 Service Unavailable"));
        assert_eq!(first.endpoint, Some(all[0].address().to_string()));
        assert_eq!(first.candidates.len(), 2);
        assert!(first.candidates.iter().all(|one| one.included && one.looked_at), "{told}");
        assert_eq!(followed(first), (true, "condition gateway-error"));
        let reasons: Vec<_> = second.candidates.iter().map(|one| &*one.reason).collect();
        let tried = "the call has tried it";
        assert!(reasons == [tried, "ready"] || reasons == ["ready", tried], "{told}");
        assert_eq!(
            (second.number, second.endpoint.as_deref()),
            (2, Some(&*all[1].address().to_string()))
        );
        assert!(second.after >= first.after + first.took.expect("a time"), "{told}");
        assert_eq!(second.followed, None, "it went well");
        let text = told.to_string();
        let picked = format!("  picked  {}", all[0].address());
        let parts = [
            "split        to one, by number",
            "attempt 1    to one",
            &picked,
            "  then    again: condition gateway-error",
        ];
        for part in parts {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
        let json = serde_json::to_string(&*told).expect("JSON");
        let read: Explanation = serde_json::from_str(&json).expect("the same value");
        assert_eq!(read.to_string(), text);
    }
    assert!(retried > 0);
    all.clear();
}

#[tokio::test]
async fn it_tells_what_refused_a_retry() {
    let cases = [
        ("retry: { attempts: 0 }", Method::GET, "retries are off"),
        (
            "retry: { attempts: 1 }",
            Method::POST,
            "the request may have been processed and is not idempotent",
        ),
        ("retry: { attempts: 2, on: [502] }", Method::GET, "no retry condition matches"),
        (
            "budget: { percent: 0, minRetriesPerSecond: 0 }",
            Method::GET,
            "condition gateway-error, but the retry budget is spent",
        ),
        (
            "retryThrottling: { maxTokens: 1, tokenRatio: 0.1 }",
            Method::GET,
            "condition gateway-error, but `retryThrottling` has too few tokens left",
        ),
        ("limits: { maxRetries: 0 }", Method::GET, "condition gateway-error, but"),
        (
            "retry: { backoff: { base: 1h, max: 1h } }, timeouts: { request: 5s }",
            Method::GET,
            "condition gateway-error, but the deadline of the call comes first",
        ),
    ];
    for (spec, method, why) in cases {
        let endpoints = endpoints(&[503, 503]).await;
        let yaml = service("inventory", &addresses(&endpoints));
        let mesh = mesh(&(yaml + &policy(spec)));
        let told = send(&mesh, request(method, "http://inventory/", CallOptions::new())).await;
        let [only] = &told.attempts[..] else { panic!("{spec}\n{told}") };
        let (again, said) = followed(only);
        assert!(!again && said.starts_with(why), "{spec}\n{told}");
        assert!(
            told.ended.as_ref().is_some_and(|ended| ended.outcome.starts_with("503")),
            "{told}"
        );
    }
    let two = endpoints(&[503, 503]).await;
    let mesh = mesh(&service("inventory", &addresses(&two)));
    let told = get(&mesh, "http://inventory/").await;
    assert_eq!(followed(&told.attempts[1]), (false, "all attempts are used"));
    let mut long = request(Method::PUT, "http://inventory/", CallOptions::new().idempotent(true));
    let body = Full::new(bytes::Bytes::from(vec![0; 100_000])).map_frame(|frame| frame);
    *long.body_mut() = Body::new(body);
    let told = send(&mesh, long).await;
    let long = "condition gateway-error, but the body is longer than `retry.bodyLimit`";
    assert_eq!(followed(&told.attempts[0]), (false, long), "{told}");
}

/// gRPC fails with HTTP status 200.
#[tokio::test]
async fn it_tells_what_refused_a_retry_of_a_grpc_call() {
    let busy = ScriptedEndpoint::http2(Reply::grpc_trailers_only(14)).await;
    let mesh = mesh(&service("items", &[busy.address()]));
    let mut asked = request(Method::POST, "http://items/shop.Items/Add", CallOptions::new());
    asked.headers_mut().insert("content-type", "application/grpc".parse().expect("a value"));
    let told = send(&mesh, asked).await;
    let [only] = &told.attempts[..] else { panic!("{told}") };
    let why = "the request may have been processed and is not idempotent";
    assert_eq!(followed(only), (false, why), "{told}");
}

#[tokio::test]
async fn it_tells_who_stood_in() {
    let other = endpoints(&[200]).await;
    let config = service("app", &[])
        + &service("backup", &addresses(&other))
        + "Kind: service-resolver\nName: app\nFailover: { '*': { Service: backup } }\n";
    let mesh = mesh(&config);
    // The first call may come before it is known that `app` has nobody.
    let _early = get(&mesh, "http://app/").await;
    let told = get(&mesh, "http://app/").await;
    assert_eq!(told.notes, ["no endpoint of app can take the call: backup stands in"], "{told}");
    assert_eq!(told.attempts[0].destination, "backup");
}

#[tokio::test]
async fn it_tells_why_endpoints_are_out() {
    let mut all = endpoints(&[200, 200, 200]).await;
    let [one, two, three] = [0, 1, 2].map(|index| all[index].address());
    let yaml = format!(
        "apiVersion: mesh/v1\nkind: Service\nmetadata: {{ name: inventory }}\nspec: {{ endpoints: \
         {{ static: ['{one}', {{ address: '{two}', health: Draining }}, {{ address: '{three}', \
         priority: 1 }}] }} }}\n---\n{}",
        policy("pick: { policy: LeastRequest }")
    );
    let mesh = mesh(&yaml);
    let told = get(&mesh, "http://inventory/").await;
    let reason = |told: &Explanation, address: SocketAddr| {
        let mut candidates = told.attempts[0].candidates.iter();
        let found = candidates.find(|one| one.endpoint == address.to_string()).expect("known");
        (found.included, found.reason.clone())
    };
    let ready = (true, "ready, of those that share 70.0 %".to_owned());
    assert_eq!(reason(&told, one), ready);
    assert_eq!(reason(&told, two), (false, "draining: discovery says so".to_owned()));
    assert_eq!(reason(&told, three), (true, "ready, of those that share 30.0 %".to_owned()));
    all[0].kill().await;
    // Three calls in ten go to the other level, and find out nothing.
    while !state(&mesh, "inventory", one).starts_with("unreachable") {
        let _ = get(&mesh, "http://inventory/").await;
    }
    let told = get(&mesh, "http://inventory/").await;
    let (included, why) = reason(&told, one);
    assert!(!included && why.starts_with("unreachable: ") && why.contains("refused"), "{told}");
    assert_eq!(told.attempts[0].endpoint, Some(three.to_string()));

    all.clear();
    let told = get(&mesh, "http://inventory/").await;
    let ended = told.ended.as_ref().expect("an end");
    assert!(ended.flag.is_some(), "{told}");
}

#[tokio::test]
async fn it_tells_what_answered_in_place_of_an_endpoint() {
    let endpoints = endpoints(&[200]).await;
    let routed = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: r }\n\
        spec: { parentRefs: [{ kind: Service, name: inventory }], rules: [{ matches: [{ path: { value: \
        /old } }], filters: [{ type: RequestRedirect, requestRedirect: { scheme: https } }] }, \
        { backendRefs: [{ name: inventory }] }] }\n---\n";
    let yaml = service("inventory", &addresses(&endpoints)) + routed;
    let told = get(&mesh(&yaml), "http://inventory/old").await;
    assert_eq!(told.answered, ["redirect: 302, scheme https"]);
    assert!(told.attempts.is_empty());
    assert_eq!(told.ended.as_ref().map(|ended| &*ended.outcome), Some("302 Found"));

    let aborts = "fault: { delay: { fixedDelay: 2ms, percentage: 100 }, abort: { httpStatus: 418, percentage: 100 } }";
    let told = get(&mesh(&(yaml.clone() + &policy(aborts))), "http://inventory/").await;
    assert_eq!(
        told.faults,
        ["delayed by 2ms on purpose", "aborted with HTTP status 418 on purpose"]
    );
    assert!(told.attempts.is_empty());

    let limit = "rateLimit: { tokenBucket: { maxTokens: 1, fillInterval: 1h } }";
    let limited = mesh(&(yaml.clone() + &policy(limit)));
    get(&limited, "http://inventory/").await;
    let told = get(&limited, "http://inventory/").await;
    let ended = told.ended.as_ref().expect("an end");
    assert_eq!(ended.flag.as_deref(), Some("rate_limited"));
    assert!(told.attempts.is_empty() && told.to_string().contains("ended        after"), "{told}");

    let told = get(&mesh(&yaml), "http://nobody.invalid/").await;
    assert_eq!(told.unrouted.as_deref(), Some("nothing is configured for this host"));
    assert_eq!(
        told.ended.as_ref().and_then(|ended| ended.flag.as_deref()),
        Some("dns_resolution_failed")
    );
}

#[tokio::test]
async fn it_tells_the_hash_and_what_it_is_of() {
    let all = endpoints(&[200, 200, 200]).await;
    let spec = "pick: { policy: RingHash }, hash: [{ header: x-user }, { queryParameter: q }]";
    let mesh = mesh(&(service("inventory", &addresses(&all)) + &policy(spec)));
    let mut asked = request(Method::GET, "http://inventory/?q=7", CallOptions::new());
    asked.headers_mut().insert("x-user", "ada".parse().expect("a value"));
    let told = send(&mesh, asked).await;
    let hash = told.hash.as_ref().expect("a hash");
    assert_eq!(hash.from, ["header x-user", "query parameter q"]);
    let key = mesh_core::hash::xxh64(b"ada").rotate_left(1) ^ mesh_core::hash::xxh64(b"7");
    assert_eq!(hash.hash, format!("{key:016x}"));
    let own = CallOptions::new().hash(0x1234);
    let told = send(&mesh, request(Method::GET, "http://inventory/", own)).await;
    let hash = told.hash.as_ref().expect("a hash");
    assert_eq!(
        (&*hash.hash, &hash.from[..]),
        ("0000000000001234", &["the caller's own key".to_owned()][..])
    );
}

/// Each destination goes by its own hash, whichever of them the split is to.
#[tokio::test]
async fn it_tells_where_the_hash_of_each_destination_leads() {
    let all = endpoints(&[200, 200, 200]).await;
    let hashed = |name: &str| {
        format!(
            "{}apiVersion: mesh/v1\nkind: TrafficPolicy\nmetadata: {{ name: {name} }}\n\
             spec: {{ targetRef: {{ kind: Service, name: {name} }}, pick: {{ policy: RingHash }}, \
             hash: [{{ header: x-{name} }}] }}\n---\n",
            service(name, &addresses(&all))
        )
    };
    let mesh = mesh(
        &(hashed("one")
            + &hashed("two")
            + "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: shop }\n\
               spec: { hostnames: [shop], rules: [{ backendRefs: [{ name: one }, { name: two }] }] }\n"),
    );
    get(&mesh, "http://one/").await;
    get(&mesh, "http://two/").await;
    let mut led = std::collections::HashSet::new();
    for user in 0..40_i32 {
        let mut headers = http::HeaderMap::new();
        headers.insert("x-one", user.into());
        headers.insert("x-two", 7_i32.into());
        let asked = RouteRequest::new("shop", &Method::GET, "/", None, &headers);
        let told = mesh.explain(None, &Asked::new(asked), None);
        let mut candidates = told.destinations[1].candidates.iter();
        let marked = candidates.find(|one| one.reason.ends_with("where the hash leads"));
        led.insert(marked.expect("it leads somewhere").endpoint.clone());
    }
    assert_eq!(led.len(), 1, "x-two is the same in all of them");
}

#[tokio::test]
async fn it_tells_hedged_attempts_and_which_was_given_up() {
    let all = endpoints(&[200, 200]).await;
    let spec = "hedge: { delay: 20ms, maxAttempts: 2 }, pick: { policy: RoundRobin }";
    let mesh = mesh(&(service("inventory", &addresses(&all)) + &policy(spec)));
    all[0].set(Reply::status(200).after(LIMIT));
    let mut hedged = 0;
    for _ in 0..4 {
        let told = get(&mesh, "http://inventory/").await;
        let [slow, quick] = &told.attempts[..] else { continue };
        hedged += 1;
        assert!(quick.beside && !slow.beside, "{told}");
        assert_eq!(quick.outcome.as_deref(), Some("200 OK"));
        assert!(quick.after >= Duration::from_millis(20).as_secs_f64(), "{told}");
        assert_eq!(slow.endpoint, Some(all[0].address().to_string()));
        assert_eq!(
            slow.outcome.as_deref(),
            Some("given up: another attempt was quicker"),
            "{told}"
        );
    }
    assert!(hedged > 0, "calls in turn meet the slow endpoint");
}
