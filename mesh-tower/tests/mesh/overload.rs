//! Overload on real sockets: an axum server under `mesh.server()`, called through the mesh.

use super::{LIMIT, mesh, policy, service};
use axum::{Router, routing::get};
use http::{HeaderMap, Request, StatusCode};
use mesh_core::config::Source;
use mesh_tower::criticality::{CRITICALITY, Criticality};
use mesh_tower::server::ServerLayer;
use mesh_tower::{Body, CallOptions, Error, ErrorKind, Listener, Mesh};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use testkit::endpoint::{Reply, ScriptedEndpoint};
use testkit::until;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tower::ServiceExt;

async fn serve(app: Router, layer: ServerLayer) -> SocketAddr {
    let listener = Listener::bind("127.0.0.1:0", None).await.expect("a free port");
    let address = listener.local_addr();
    tokio::spawn(async move { axum::serve(listener, app.layer(layer)).await });
    address
}

/// The inbound layer by the server policy of a configuration.
fn receiving(spec: &str) -> ServerLayer {
    mesh(&format!(
        "apiVersion: mesh/v1\nkind: ServerPolicy\nmetadata: {{ name: everywhere }}\n\
         spec: {{ targetRef: {{ kind: Mesh }}, {spec} }}\n"
    ))
    .server()
}

async fn ask(mesh: &Mesh, options: CallOptions) -> Result<StatusCode, Error> {
    let request = Request::get("http://back/").extension(options).body(Body::empty());
    mesh.http().oneshot(request.expect("valid")).await.map(|response| response.status())
}

#[tokio::test]
async fn at_three_times_what_it_can_serve_a_server_sheds_the_least_critical() {
    const PLACES: usize = 4;
    let (gate, entered) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let handler = {
        let (gate, entered) = (gate.clone(), entered.clone());
        move || async move {
            entered.fetch_add(1, Relaxed);
            gate.acquire().await.expect("open").forget();
        }
    };
    // Nothing is shed because of time here: the spans are longer than the test.
    let layer = receiving(
        "maxRequests: 4, shedding: { maxQueue: 4, target: 1h, interval: 1h }, \
         criticality: SheddablePlus",
    );
    let back = serve(Router::new().route("/", get(handler)), layer.clone()).await;
    let calling =
        mesh(&format!("{}{}", policy("retry: { attempts: 0 }"), service("back", &[back])));
    let mut calls = JoinSet::new();
    let mut send = |level: Option<Criticality>| {
        let mesh = calling.clone();
        calls.spawn(async move {
            let options =
                level.map_or_else(CallOptions::new, |level| CallOptions::new().criticality(level));
            let status = ask(&mesh, options).await.expect("an answer");
            (level, status)
        });
    };
    // Four are served, four of each level follow: three times as many as there are places.
    (0..PLACES).for_each(|_| send(Some(Criticality::Sheddable)));
    until("all places are taken", || entered.load(Relaxed) == PLACES).await;
    for _ in 0..PLACES {
        send(Some(Criticality::Sheddable));
        send(None);
        send(Some(Criticality::CriticalPlus));
    }
    until("all arrived", || layer.serving() == PLACES && layer.waiting() == PLACES).await;
    let mut ended = Vec::new();
    for _ in 0..2 * PLACES {
        let shed = timeout(LIMIT, calls.join_next()).await.expect("shed at once");
        ended.push(shed.expect("a call").expect("no panic"));
    }
    for (level, status) in ended {
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{level:?}");
        assert_ne!(level, Some(Criticality::CriticalPlus));
    }
    gate.add_permits(2 * PLACES);
    while let Some(served) = timeout(LIMIT, calls.join_next()).await.expect("in time") {
        assert_eq!(served.expect("no panic").1, StatusCode::OK);
    }
    assert_eq!(entered.load(Relaxed), 2 * PLACES, "what was shed never reached the handler");
    until("all places are free", || (layer.serving(), layer.waiting()) == (0, 0)).await;
}

#[tokio::test]
async fn calls_over_the_rate_limit_of_a_policy_fail_before_they_are_sent() {
    let endpoint = ScriptedEndpoint::http1(Reply::status(200)).await;
    let limit = "rateLimit: { tokenBucket: { maxTokens: 3, fillInterval: 1h } }";
    let mesh = mesh(&format!("{}{}", policy(limit), service("back", &[endpoint.address()])));
    for _ in 0..3 {
        assert_eq!(ask(&mesh, CallOptions::new()).await.expect("an answer"), StatusCode::OK);
    }
    let error = ask(&mesh, CallOptions::new()).await.expect_err("over the limit");
    assert_eq!((error.kind(), error.flag()), (ErrorKind::RateLimited, "rate_limited"), "{error}");
    assert_eq!((error.destination(), error.attempts()), (Some("back"), 0), "{error}");
    assert!(!error.is_retryable());
    assert_eq!(endpoint.calls(), 3);
    let metrics = mesh.metrics().destination("back");
    assert_eq!(metrics.sheds().collect::<Vec<_>>(), [(ErrorKind::RateLimited, 1)]);
    assert_eq!(metrics.rate_limits().collect::<Vec<_>>(), [(false, 0), (true, 1)]);
}

#[tokio::test]
async fn a_client_that_is_refused_asks_less_for_that_criticality_only() {
    let endpoint = ScriptedEndpoint::http1(Reply::status(503)).await;
    endpoint.plan(|_, head| {
        let sheddable = head.headers.get(CRITICALITY).is_some_and(|told| told == "SHEDDABLE");
        Reply::status(if sheddable { 503 } else { 200 })
    });
    let throttle = "throttle: { window: 1h }, retry: { attempts: 0 }, \
                    outlier: { consecutive5xx: 0 }";
    let mesh = mesh(&format!("{}{}", policy(throttle), service("back", &[endpoint.address()])));
    let mut refused = 0;
    for _ in 0..100 {
        let low = CallOptions::new().criticality(Criticality::Sheddable);
        match ask(&mesh, low).await {
            Ok(status) => assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Shed, "{error}");
                assert!(error.message().starts_with("throttled here"), "{error}");
                refused += 1;
            }
        }
        assert_eq!(ask(&mesh, CallOptions::new()).await.expect("an answer"), StatusCode::OK);
    }
    // Of 100 calls none is accepted: the nth is sent with probability 1/n, about 5 in all.
    assert!((80..100).contains(&refused), "{refused} of 100 were refused here");
    assert_eq!(endpoint.calls(), 200 - refused);
}

#[tokio::test]
async fn a_handler_hands_the_criticality_on_to_the_calls_it_makes() {
    let show = |fields: HeaderMap| async move {
        fields.get(CRITICALITY).map_or("-", |told| told.to_str().unwrap_or("?")).to_owned()
    };
    let back = serve(Router::new().route("/", get(show)), ServerLayer::default()).await;
    let own = mesh(&format!("{}{}", policy("criticality: Sheddable"), service("back", &[back])));
    let calling = move || {
        let mesh = own.clone();
        async move {
            let request = Request::get("http://back/").body(Body::empty()).expect("valid");
            let response = mesh.http().oneshot(request).await.expect("an answer");
            axum::body::Body::new(response.into_body())
        }
    };
    let front = serve(Router::new().route("/", get(calling)), ServerLayer::default()).await;
    let mesh = mesh(&service("front", &[front]));
    for (level, expected) in [
        (None, "SHEDDABLE"),
        (Some(Criticality::CriticalPlus), "CRITICAL_PLUS"),
        (Some(Criticality::SheddablePlus), "SHEDDABLE_PLUS"),
    ] {
        let options =
            level.map_or_else(CallOptions::new, |level| CallOptions::new().criticality(level));
        let request = Request::get("http://front/").extension(options).body(Body::empty());
        let response = mesh.http().oneshot(request.expect("valid")).await.expect("an answer");
        let body = http_body_util::BodyExt::collect(response.into_body()).await.expect("whole");
        assert_eq!(body.to_bytes(), expected);
    }
}

fn route(name: &str, path: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
         metadata: {{ name: {name} }}\nspec:\n  parentRefs: [{{ kind: Service, name: back }}]\n  rules:\n  \
         - {{ matches: [{{ path: {{ value: {path} }} }}], backendRefs: [{{ name: back }}, {{ name: other }}] }}\n"
    )
}

fn of_route(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: mesh/v1\nkind: TrafficPolicy\nmetadata: {{ name: {name} }}\n\
         spec: {{ targetRef: {{ kind: HTTPRoute, name: {name} }}, {spec} }}\n"
    )
}

#[tokio::test]
async fn a_route_has_buckets_of_its_own_which_outlive_a_configuration_that_keeps_them() {
    let endpoint = ScriptedEndpoint::http1(Reply::status(200)).await;
    let services = format!(
        "{}{}",
        service("back", &[endpoint.address()]),
        service("other", &[endpoint.address()])
    );
    let limit = |most: u32| {
        format!(
            "rateLimit: {{ enableXRatelimitHeaders: DraftVersion03, \
             tokenBucket: {{ maxTokens: {most}, fillInterval: 1h }} }}"
        )
    };
    let with = |of_search: u32| {
        let services = services.trim_end_matches("---\n");
        [
            &*policy(&limit(3)),
            services,
            &route("search", "/search"),
            &route("items", "/items"),
            &of_route("search", &limit(of_search)),
        ]
        .concat()
    };
    let mesh = mesh(&with(2));
    let told = |path: &'static str| {
        let mesh = mesh.clone();
        async move {
            let uri = format!("http://back{path}");
            let response = mesh
                .http()
                .oneshot(Request::get(uri).body(Body::empty()).expect("valid"))
                .await
                .map_err(|error| (error.kind(), error.fields().cloned().unwrap_or_default()));
            let read = |fields: &HeaderMap| {
                let value = |name| fields.get(name)?.to_str().ok()?.parse::<u64>().ok();
                ["x-ratelimit-limit", "x-ratelimit-remaining"].map(|name| value(name).unwrap_or(99))
            };
            match response {
                Ok(response) => Ok(read(response.headers())),
                Err((ErrorKind::RateLimited, fields)) => Err(read(&fields)),
                Err((other, _)) => panic!("{other:?}"),
            }
        }
    };
    // The two destinations of the route share what is the route's.
    assert_eq!(told("/search").await, Ok([2, 1]));
    assert_eq!(told("/search").await, Ok([2, 0]));
    assert_eq!(told("/search").await, Err([2, 0]));
    // The other route has no limit of its own: each destination's holds.
    for _ in 0..2 {
        assert!(told("/items").await.is_ok());
    }

    mesh.configure(&[Source::new("test", with(2))]).expect("the same again");
    assert_eq!(told("/search").await, Err([2, 0]), "what was counted stays");
    mesh.configure(&[Source::new("test", with(5))]).expect("another limit");
    assert_eq!(told("/search").await, Ok([5, 4]), "a new bucket is full");
    assert_eq!(endpoint.calls(), 5);
}

#[tokio::test]
async fn of_an_inbound_limit_callers_are_told_with_each_answer() {
    let layer = receiving(
        "rateLimit: { enableXRatelimitHeaders: DraftVersion03, \
         rateLimitedAsResourceExhausted: false, \
         tokenBucket: { maxTokens: 1, fillInterval: 10s } }",
    );
    let back = serve(Router::new().route("/", get(async || "hello")), layer).await;
    let mesh = mesh(&service("back", &[back]));
    let mut seen = Vec::new();
    for grpc in [false, false, true] {
        let mut request = Request::get("http://back/");
        if grpc {
            request = request.header("content-type", "application/grpc");
        }
        let request = request.body(Body::empty()).expect("valid");
        let response = mesh.http().oneshot(request).await.expect("an answer");
        let field = |name| {
            response
                .headers()
                .get(name)
                .map_or("-", |value| value.to_str().expect("text"))
                .to_owned()
        };
        seen.push((
            response.status().as_u16(),
            ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "grpc-status"]
                .map(field),
        ));
    }
    let told = |code: &str| ["1", "0", "10", code].map(str::to_owned);
    assert_eq!(seen, [(200, told("-")), (429, told("-")), (200, told("14"))]);
}
