//! Global rate limits on real sockets: calls through the mesh, and calls that arrive at an axum
//! server under `mesh.server()`, with a tonic server that is asked.

use super::{LIMIT, mesh, policy, service};
use axum::{Router, routing::get};
use http::{HeaderMap, Request, StatusCode};
use mesh_tower::listen::Peer;
use mesh_tower::telemetry::GlobalLimit;
use mesh_tower::{Body, CallOptions, Error, ErrorKind, Listener, Mesh};
use std::net::SocketAddr;
use std::time::Duration;
use testkit::endpoint::{Reply, ScriptedEndpoint};
use testkit::rate_limit::{HeaderValue, RateLimitResponse, RateLimits, Says};
use testkit::until;
use tokio::time::timeout;
use tonic::Status;
use tower::ServiceExt;

const ACTIONS: &str = "rateLimits: [\
     { actions: [{ requestHeaders: { headerName: x-tenant, descriptorKey: tenant } }, \
                 { genericKey: { descriptorValue: all } }] }, \
     { actions: [{ requestHeaders: { headerName: ':path', descriptorKey: path } }, \
                 { destinationCluster: {} }], hitsAddend: 3 }]";

/// The `rateLimit` that asks the service `ratelimit`; longer than a machine under load may need.
fn asking(more: &str) -> String {
    format!(
        "rateLimit: {{ enableXRatelimitHeaders: DraftVersion03, \
         global: {{ service: ratelimit, domain: shop, timeout: 10s, {ACTIONS}{more} }} }}"
    )
}

async fn ask(mesh: &Mesh, tenant: Option<&str>) -> Result<(StatusCode, HeaderMap), Error> {
    let mut request = Request::get("http://back/items?page=2");
    if let Some(tenant) = tenant {
        request = request.header("x-tenant", tenant).header("x-plan", "my own");
    }
    let response = mesh.http().oneshot(request.body(Body::empty()).expect("valid")).await?;
    Ok((response.status(), response.headers().clone()))
}

fn field<'a>(fields: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    fields.get_all(name).iter().map(|value| value.to_str().expect("text")).collect()
}

fn results(counts: impl Iterator<Item = (GlobalLimit, u64)>) -> [u64; 4] {
    let counts: Vec<u64> = counts.map(|(_, count)| count).collect();
    counts.try_into().expect("ok, over_limit, error, failure_mode_allowed")
}

/// A mesh that asks `limits` before it calls `endpoint`.
fn outbound(endpoint: SocketAddr, limits: SocketAddr, rate_limit: &str) -> Mesh {
    let services = [service("back", &[endpoint]), service("ratelimit", &[limits])].concat();
    // For everything, so for the service that is asked as well: that must not make it ask.
    mesh(&format!("{}{services}", policy(rate_limit)))
}

#[tokio::test]
async fn a_call_leaves_or_not_as_the_service_says_of_its_descriptors() {
    let limits = RateLimits::start(|number, _| {
        let field = |key, value| vec![HeaderValue::new(key, value)];
        Says::Answer(if number < 2 {
            let mut ok = RateLimitResponse::ok().with_status(10, 4, 30).with_status(9, 5, 7);
            ok.request_headers_to_add = field("x-plan", "gold");
            ok.response_headers_to_add = field("x-note", "soon");
            ok
        } else {
            let mut over = RateLimitResponse::over_limit().with_status(10, 0, 20);
            over.response_headers_to_add = field("retry-after", "20");
            over.response_headers_to_add.extend(field("content-length", "7"));
            over
        })
    })
    .await;
    let endpoint = ScriptedEndpoint::http1(Reply::status(200)).await;
    endpoint.plan(|_, head| {
        let plan = field(&head.headers, "x-plan").join("+");
        Reply::status(200).header("x-seen", &plan).header("x-note", "mine")
    });
    let mesh = outbound(endpoint.address(), limits.address(), &asking(""));

    let (status, fields) = ask(&mesh, Some("ada")).await.expect("within the limit");
    assert_eq!((status, field(&fields, "x-seen")), (StatusCode::OK, vec!["gold"]));
    assert_eq!(field(&fields, "x-note"), ["mine", "soon"]);
    assert_eq!(
        field(&fields, "x-ratelimit-limit"),
        ["10, 10;w=60;name=\"test\", 9;w=60;name=\"test\""]
    );
    assert_eq!(field(&fields, "x-ratelimit-remaining"), ["4"]);
    assert_eq!(field(&fields, "x-ratelimit-reset"), ["30"]);

    let (_, fields) = ask(&mesh, None).await.expect("within the limit");
    assert_eq!(field(&fields, "x-ratelimit-limit"), <[&str; 0]>::default(), "one status too many");

    let error = ask(&mesh, None).await.expect_err("over the limit");
    assert_eq!((error.kind(), error.destination()), (ErrorKind::RateLimited, Some("back")));
    let answer = mesh_tower::answer::response::<bytes::Bytes>(&error, false);
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(field(answer.headers(), "x-envoy-ratelimited"), ["true"]);
    assert_eq!(field(answer.headers(), "retry-after"), ["20"]);
    assert_eq!(field(answer.headers(), "x-ratelimit-remaining"), ["0"]);
    assert!(!answer.headers().contains_key("content-length"), "it frames a message");

    assert_eq!(endpoint.calls(), 2, "what is refused is not sent");
    let path = "path=/items?page=2;destination_cluster=back*3";
    let told: Vec<_> = limits.asked().iter().map(|asked| asked.told()).collect();
    assert_eq!(told, [vec!["tenant=ada;generic_key=all", path], vec![path], vec![path]]);
    assert!(limits.asked().iter().all(|asked| asked.domain == "shop"));
    let metrics = mesh.metrics().destination("back");
    assert_eq!(results(metrics.global_limits()), [2, 1, 0, 0]);
    assert_eq!(metrics.sheds().collect::<Vec<_>>(), [(ErrorKind::RateLimited, 1)]);
    assert_eq!(mesh.metrics().destination("ratelimit").counts().retries, 0);
}

#[tokio::test]
async fn without_an_answer_the_policy_decides() {
    let endpoint = ScriptedEndpoint::http1(Reply::status(200)).await;
    let limits = RateLimits::start(|number, _| {
        let field = |count: usize, value: &str| {
            (0..count).map(|n| HeaderValue::new(format!("x-{n}"), value)).collect()
        };
        match number % 6 {
            0 => Says::Fail(Status::unavailable("busy")),
            1 => Says::Answer(RateLimitResponse { overall_code: 9, ..RateLimitResponse::ok() }),
            2 => Says::Answer(RateLimitResponse::default()),
            3 => Says::Answer(RateLimitResponse {
                response_headers_to_add: field(65, "1"),
                ..RateLimitResponse::ok()
            }),
            4 => Says::Answer(RateLimitResponse {
                request_headers_to_add: field(1, &"v".repeat(20_000)),
                ..RateLimitResponse::ok()
            }),
            _ => Says::Answer(RateLimitResponse {
                response_headers_to_add: field(10, &"v".repeat(10_000)),
                ..RateLimitResponse::ok()
            }),
        }
    })
    .await;
    let open = outbound(endpoint.address(), limits.address(), &asking(""));
    let closed = outbound(endpoint.address(), limits.address(), &asking(", failureModeDeny: true"));
    for number in 0..6 {
        assert!(ask(&open, None).await.is_ok(), "{number}");
    }
    assert_eq!(endpoint.calls(), 6);
    for number in 0..6 {
        let error = ask(&closed, None).await.expect_err("it cannot be asked");
        assert_eq!(error.kind(), ErrorKind::RateLimitService, "{number}");
        let answer = mesh_tower::answer::response::<bytes::Bytes>(&error, false);
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
    assert_eq!((endpoint.calls(), limits.asked().len()), (6, 12));
    assert_eq!(results(open.metrics().destination("back").global_limits()), [0, 0, 6, 6]);
    assert_eq!(results(closed.metrics().destination("back").global_limits()), [0, 0, 6, 0]);

    let nobody =
        std::net::TcpListener::bind("127.0.0.1:0").expect("free").local_addr().expect("bound");
    let down = outbound(endpoint.address(), nobody, &asking(", failureModeDeny: true"));
    let error = ask(&down, None).await.expect_err("nobody is there");
    assert_eq!(error.kind(), ErrorKind::RateLimitService);
    assert!(error.message().starts_with("rate limit service ratelimit failed: "), "{error}");
    assert!(ask(&outbound(endpoint.address(), nobody, &asking("")), None).await.is_ok());
}

#[tokio::test]
async fn a_service_that_is_slow_is_waited_for_no_longer_than_its_timeout_and_the_calls_own() {
    let endpoint = ScriptedEndpoint::http1(Reply::status(200)).await;
    let limits = RateLimits::start(|_, _| Says::Nothing).await;
    // The default of 20 ms: however slow the machine, the call passes, and the question is given up.
    let short = asking("").replace("timeout: 10s, ", "");
    let mesh = outbound(endpoint.address(), limits.address(), &short);
    let answer = timeout(LIMIT, ask(&mesh, None)).await.expect("in time");
    assert_eq!(answer.expect("it passes").0, StatusCode::OK);
    until("the question is given up", || limits.open() == 0).await;
    assert_eq!(results(mesh.metrics().destination("back").global_limits()), [0, 0, 1, 1]);

    // The call's own deadline is shorter than the timeout.
    let patient = asking("").replace("10s", "1h");
    let mesh = outbound(endpoint.address(), limits.address(), &patient);
    let own = CallOptions::new().timeout(Duration::from_millis(50));
    let request = Request::get("http://back/").extension(own).body(Body::empty()).expect("valid");
    let answer = timeout(LIMIT, mesh.http().oneshot(request)).await.expect("in time");
    assert_eq!(answer.expect_err("late").kind(), ErrorKind::Deadline);
    until("the question is given up", || limits.open() == 0).await;

    // A caller that goes away takes its question along.
    let asked = limits.asked().len();
    let gone = {
        let mesh = mesh.clone();
        tokio::spawn(async move { ask(&mesh, None).await })
    };
    until("it is asked", || limits.asked().len() > asked && limits.open() == 1).await;
    gone.abort();
    until("the question is cancelled", || limits.open() == 0).await;
    assert_eq!(endpoint.calls(), 1);
}

#[tokio::test]
async fn a_route_asks_for_itself_and_the_local_limit_comes_first() {
    let limits = RateLimits::start(|_, _| Says::Answer(RateLimitResponse::ok())).await;
    let endpoint = ScriptedEndpoint::http1(Reply::status(200)).await;
    let services =
        [service("back", &[endpoint.address()]), service("ratelimit", &[limits.address()])]
            .concat();
    let mesh = mesh(&format!(
        "{services}\
         apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: items }}\n\
         spec:\n  parentRefs: [{{ kind: Service, name: back }}]\n  rules:\n  \
         - {{ matches: [{{ path: {{ value: /items }} }}], backendRefs: [{{ name: back }}] }}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: rest }}\n\
         spec:\n  parentRefs: [{{ kind: Service, name: back }}]\n  rules:\n  \
         - {{ backendRefs: [{{ name: back }}] }}\n---\n\
         apiVersion: mesh/v1\nkind: TrafficPolicy\nmetadata: {{ name: items }}\n\
         spec:\n  targetRef: {{ kind: HTTPRoute, name: items }}\n  rateLimit:\n    \
         tokenBucket: {{ maxTokens: 1, fillInterval: 1h }}\n    \
         global: {{ service: ratelimit, domain: shop, timeout: 10s, {ACTIONS} }}\n"
    ));
    assert!(ask(&mesh, None).await.is_ok());
    assert_eq!(ask(&mesh, None).await.expect_err("over").kind(), ErrorKind::RateLimited);
    let rest = Request::get("http://back/other").body(Body::empty()).expect("valid");
    assert!(mesh.http().oneshot(rest).await.is_ok());
    assert_eq!(limits.asked().len(), 1, "neither what is over the local limit nor another route");
}

/// An axum server under a mesh that asks `limits` about what arrives.
async fn serving(limits: SocketAddr, more: &str) -> (SocketAddr, Mesh) {
    let own = mesh(&format!(
        "{}apiVersion: mesh/v1\nkind: ServerPolicy\nmetadata: {{ name: everywhere }}\n\
         spec:\n  targetRef: {{ kind: Mesh }}\n  {}\n",
        service("ratelimit", &[limits]),
        asking(more).replace("{ destinationCluster: {} }", "{ remoteAddress: {} }"),
    ));
    let show = async |fields: HeaderMap| field(&fields, "x-plan").join("+");
    let app = Router::new().route("/items", get(show)).layer(own.server());
    let listener = Listener::bind("127.0.0.1:0", None).await.expect("a free port");
    let address = listener.local_addr();
    let app = app.into_make_service_with_connect_info::<Peer>();
    tokio::spawn(async move { axum::serve(listener, app).await });
    (address, own)
}

#[tokio::test]
async fn what_arrives_is_served_or_not_as_the_service_says() {
    let limits = RateLimits::start(|number, _| match number {
        0 => {
            let mut ok = RateLimitResponse::ok().with_status(10, 4, 30);
            ok.request_headers_to_add = vec![HeaderValue::new("x-plan", "gold")];
            Says::Answer(ok)
        }
        1 | 2 => Says::Answer(RateLimitResponse::over_limit()),
        3 => Says::Fail(Status::internal("")),
        _ => Says::Nothing,
    })
    .await;
    let (address, own) = serving(limits.address(), ", failureModeDeny: true").await;
    let client =
        mesh(&format!("{}{}", policy("retry: { attempts: 0 }"), service("back", &[address])));
    let call = |grpc: bool, timeout: Option<Duration>| {
        let mut request = Request::get("http://back/items").header("x-plan", "my own");
        if grpc {
            request = request.header("content-type", "application/grpc");
        }
        if let Some(timeout) = timeout {
            request =
                request.header("x-envoy-expected-rq-timeout-ms", timeout.as_millis().to_string());
        }
        client.http().oneshot(request.body(Body::empty()).expect("valid"))
    };
    let served = call(false, None).await.expect("an answer");
    assert_eq!(field(served.headers(), "x-ratelimit-remaining"), ["4"]);
    let body = http_body_util::BodyExt::collect(served.into_body()).await.expect("whole");
    assert_eq!(body.to_bytes(), "gold", "in place of what the caller wrote");
    let refused = call(false, None).await.expect("an answer");
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(field(refused.headers(), "x-envoy-ratelimited"), ["true"]);
    let refused = call(true, None).await.expect("an answer");
    assert_eq!(field(refused.headers(), "grpc-status"), ["8"]);
    let failed = call(false, None).await.expect("an answer");
    assert_eq!(failed.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let why = field(failed.headers(), "proxy-status").join("");
    assert!(why.contains("details=\"rate_limit_service_error"), "{why}");
    let late = call(false, Some(Duration::from_millis(50))).await;
    assert!(late.map_or(true, |late| late.status().is_server_error()));
    until("the question is given up", || limits.open() == 0).await;

    let told = limits.asked();
    assert_eq!(told[0].told(), ["path=/items;remote_address=127.0.0.1*3"]);
    let metrics = own.metrics().server();
    assert_eq!(results(metrics.global_limits())[..2], [1, 2]);
    let sheds: Vec<_> = metrics.sheds().collect();
    assert!(sheds.contains(&(ErrorKind::RateLimited, 2)), "{sheds:?}");
}
