//! Global rate limits through the proxy, inbound and outbound; and that a real Envoy asks the same.

mod common;

use common::{exchange, listener, proxy_of, service};
use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use testkit::endpoint::{Reply, ScriptedEndpoint};
use testkit::parts;
use testkit::rate_limit::{HeaderValue, RateLimitRequest, RateLimitResponse, RateLimits, Says};
use testkit::until;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tonic::Status;

const SOON: Duration = Duration::from_secs(20);

/// One request by HTTP/1.1; the answer in lower case.
async fn get(to: SocketAddr, target: &str, fields: &str) -> String {
    let head = format!("GET {target} HTTP/1.1\r\nHost: app\r\n{fields}Connection: close\r\n\r\n");
    String::from_utf8_lossy(&exchange(to, head.as_bytes()).await).to_ascii_lowercase()
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("-")
}

fn field<'a>(answer: &'a str, name: &str) -> &'a str {
    let found = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    found.unwrap_or("-")
}

/// A policy of the proxy that asks the service `ratelimit`; `limits` are its `rateLimits`.
fn asks(kind: &str, more: &str, limits: &str) -> String {
    format!(
        "---\napiVersion: mesh/v1\nkind: {kind}\nmetadata: {{ name: asks }}\n\
         spec:\n  targetRef: {{ kind: Service, name: app }}\n  rateLimit:\n    \
         enableXRatelimitHeaders: DraftVersion03\n    \
         global:\n      service: ratelimit\n      domain: shop\n      timeout: 10s\n{more}      \
         rateLimits:\n{limits}"
    )
}

const BY_TENANT: &str = "      - actions:\n        \
     - requestHeaders: { headerName: x-tenant, descriptorKey: tenant }\n        \
     - remoteAddress: {}\n        - destinationCluster: {}\n";

#[tokio::test]
async fn what_comes_to_an_inbound_listener_is_asked_about() {
    let limits = RateLimits::start(|number, _| match number {
        0 => {
            let mut ok = RateLimitResponse::ok().with_status(10, 4, 30);
            ok.request_headers_to_add = vec![HeaderValue::new("x-plan", "gold")];
            Says::Answer(ok)
        }
        1 | 2 => Says::Answer(RateLimitResponse::over_limit().with_status(10, 0, 20)),
        3 => Says::Fail(Status::unavailable("busy")),
        _ => Says::Nothing,
    })
    .await;
    let endpoint = ScriptedEndpoint::http1(Reply::status(200)).await;
    endpoint.plan(|_, head| {
        let plan = head.headers.get("x-plan").and_then(|plan| plan.to_str().ok());
        Reply::status(200).header("x-seen", plan.unwrap_or("none"))
    });
    let yaml = [
        service("app", endpoint.address(), ""),
        service("ratelimit", limits.address(), ", appProtocol: grpc"),
        listener("main", "http", "app"),
        asks("ServerPolicy", "      failureModeDeny: true\n", BY_TENANT),
    ]
    .concat();
    let (proxy, addresses) = proxy_of(&yaml).await;
    let own = addresses[0];
    let passed = get(own, "/", "x-tenant: ada\r\nx-plan: my own\r\n").await;
    assert_eq!((status(&passed), field(&passed, "x-seen")), ("200", "gold"), "{passed}");
    assert_eq!(field(&passed, "x-ratelimit-remaining"), "4");
    let over = get(own, "/", "x-tenant: ada\r\n").await;
    assert_eq!((status(&over), field(&over, "x-envoy-ratelimited")), ("429", "true"), "{over}");
    assert_eq!(field(&over, "x-ratelimit-reset"), "20");
    assert!(field(&over, "proxy-status").contains("rate_limited"), "{over}");
    let grpc = get(own, "/a.B/C", "x-tenant: ada\r\ncontent-type: application/grpc\r\n").await;
    assert_eq!((status(&grpc), field(&grpc, "grpc-status")), ("200", "8"), "{grpc}");
    let failed = get(own, "/", "x-tenant: ada\r\n").await;
    assert_eq!(status(&failed), "500");
    assert!(field(&failed, "proxy-status").contains("rate_limit_service_error"), "{failed}");
    let unasked = get(own, "/", "").await;
    assert_eq!((status(&unasked), field(&unasked, "x-seen")), ("200", "none"));
    assert_eq!(limits.asked().len(), 4, "without the field there is nothing to ask");

    // A client that goes away takes its question along.
    let mut client = TcpStream::connect(own).await.unwrap();
    let head = b"GET / HTTP/1.1\r\nHost: app\r\nx-tenant: eve\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut client, head).await.unwrap();
    until("it is asked", || limits.open() == 1).await;
    drop(client);
    until("the question is cancelled", || limits.open() == 0).await;

    let told: Vec<_> = limits.asked().iter().map(RateLimitRequest::told).collect();
    let of = |tenant: &str| {
        vec![format!("tenant={tenant};remote_address=127.0.0.1;destination_cluster=app")]
    };
    assert_eq!(told, [of("ada"), of("ada"), of("ada"), of("ada"), of("eve")]);
    assert_eq!(endpoint.calls(), 2);
    drop(proxy);
}

#[tokio::test]
async fn what_an_outbound_listener_sends_is_asked_about_and_passes_while_nobody_answers() {
    let limits = RateLimits::start(|number, _| match number {
        0 => Says::Answer(RateLimitResponse::over_limit()),
        _ => Says::Nothing,
    })
    .await;
    let endpoint = ScriptedEndpoint::http1(Reply::status(200)).await;
    let yaml = [
        service("app", endpoint.address(), ""),
        service("ratelimit", limits.address(), ", appProtocol: grpc"),
        listener("main", "http", "app").replace("Inbound", "Outbound"),
        asks("TrafficPolicy", "", "      - actions: [{ destinationCluster: {} }]\n")
            .replace("timeout: 10s", "timeout: 100ms"),
    ]
    .concat();
    let (proxy, addresses) = proxy_of(&yaml).await;
    let over = get(addresses[0], "/", "").await;
    assert_eq!((status(&over), field(&over, "x-envoy-ratelimited")), ("429", "true"), "{over}");
    assert_eq!(endpoint.calls(), 0);
    let slow = timeout(SOON, get(addresses[0], "/", "")).await.expect("in time");
    assert_eq!(status(&slow), "200", "{slow}");
    until("the question is given up", || limits.open() == 0).await;
    let told: Vec<_> = limits.asked().iter().flat_map(RateLimitRequest::told).collect();
    assert_eq!(told, ["destination_cluster=app", "destination_cluster=app"]);
    drop(proxy);
}

/// The same limits in our words and in Envoy's: what follows `actions`, as (ours, Envoy's).
const ALIKE: [(&str, &str); 6] = [
    (
        "{ sourceCluster: {} }, { destinationCluster: {} }",
        "{ source_cluster: {} }, { destination_cluster: {} }",
    ),
    (
        "{ requestHeaders: { headerName: x-tenant, descriptorKey: tenant } }, { requestHeaders: { headerName: x-none, descriptorKey: none, skipIfAbsent: true } }",
        "{ request_headers: { header_name: x-tenant, descriptor_key: tenant } }, { request_headers: { header_name: x-none, descriptor_key: none, skip_if_absent: true } }",
    ),
    (
        "{ remoteAddress: {} }, { requestHeaders: { headerName: ':path', descriptorKey: path } }, { requestHeaders: { headerName: ':method', descriptorKey: method } }",
        "{ remote_address: {} }, { request_headers: { header_name: ':path', descriptor_key: path } }, { request_headers: { header_name: ':method', descriptor_key: method } }",
    ),
    (
        "{ maskedRemoteAddress: { v4PrefixMaskLen: 8 } }, { genericKey: { descriptorValue: all } }, { genericKey: { descriptorKey: plan, descriptorValue: any } }",
        "{ masked_remote_address: { v4_prefix_mask_len: 8 } }, { generic_key: { descriptor_value: all } }, { generic_key: { descriptor_key: plan, descriptor_value: any } }",
    ),
    (
        "{ headerValueMatch: { descriptorValue: gold, headers: [{ name: x-tier, value: gold }] } }",
        "{ header_value_match: { descriptor_value: gold, headers: [{ name: x-tier, string_match: { exact: gold } }] } }",
    ),
    (
        "{ queryParameterValueMatch: { descriptorValue: second, queryParameters: [{ name: page, value: '2' }] } }",
        "{ query_parameter_value_match: { descriptor_value: second, query_parameters: [{ name: page, string_match: { exact: '2' } }] } }",
    ),
];

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn envoy_config(listen: u16, app: SocketAddr, limits: SocketAddr) -> String {
    let cluster = |name: &str, at: SocketAddr, more: &str| {
        format!(
            "  - name: {name}\n    type: STATIC\n    load_assignment:\n      cluster_name: {name}\n      \
             endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: {}, port_value: {} }} }} }} }}] }}]\n{more}",
            at.ip(),
            at.port()
        )
    };
    let http2 = "    typed_extension_protocol_options:\n      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n        \
                 \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n        \
                 explicit_http_config: { http2_protocol_options: {} }\n";
    let mut rate_limits = String::new();
    for (number, (_, actions)) in ALIKE.iter().enumerate() {
        let hits = if number == 0 { ", hits_addend: { number: 7 }" } else { "" };
        writeln!(rate_limits, "                    - {{ actions: [{actions}]{hits} }}").unwrap();
    }
    format!(
        "node: {{ id: test, cluster: app }}\nstatic_resources:\n  listeners:\n  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {listen} }} }}\n    \
         filter_chains:\n    - filters:\n      - name: envoy.filters.network.http_connection_manager\n        typed_config:\n          \
         \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n          \
         stat_prefix: test\n          use_remote_address: true\n          http_filters:\n          \
         - name: envoy.filters.http.ratelimit\n            typed_config:\n              \
         \"@type\": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit\n              \
         domain: shop\n              timeout: 10s\n              enable_x_ratelimit_headers: DRAFT_VERSION_03\n              \
         rate_limit_service: {{ transport_api_version: V3, grpc_service: {{ envoy_grpc: {{ cluster_name: ratelimit }} }} }}\n          \
         - name: envoy.filters.http.router\n            typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}\n          \
         route_config:\n            virtual_hosts:\n            - name: all\n              domains: ['*']\n              routes:\n              \
         - match: {{ prefix: / }}\n                route: {{ cluster: app }}\n                typed_per_filter_config:\n                  \
         envoy.filters.http.ratelimit:\n                    \
         \"@type\": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute\n                    \
         rate_limits:\n{rate_limits}  clusters:\n{}{}",
        cluster("app", app, ""),
        cluster("ratelimit", limits, http2),
    )
}

#[tokio::test]
async fn envoy_asks_the_same_and_makes_the_same_of_the_answer() {
    let Some(envoy) = parts::find("envoy_asks_the_same", "envoy") else { return };
    let limits = RateLimits::start(|number, question| {
        let answer =
            if number % 2 == 0 { RateLimitResponse::ok() } else { RateLimitResponse::over_limit() };
        let answers = question.descriptors.iter().zip([(10, 4, 30), (9, 2, 7), (8, 2, 3)]);
        let mut answer = answers
            .fold(answer, |answer, (_, (most, left, reset))| answer.with_status(most, left, reset));
        let rest = question.descriptors.len().saturating_sub(answer.statuses.len());
        answer.statuses.extend((0..rest).map(|_| Default::default()));
        answer.response_headers_to_add = vec![HeaderValue::new("x-note", "told")];
        Says::Answer(answer)
    })
    .await;
    let endpoint = ScriptedEndpoint::http1(Reply::status(200)).await;
    let mut ours = String::new();
    for (number, (actions, _)) in ALIKE.iter().enumerate() {
        let hits = if number == 0 { ", hitsAddend: 7" } else { "" };
        writeln!(ours, "      - {{ actions: [{actions}]{hits} }}").unwrap();
    }
    let yaml = [
        service("app", endpoint.address(), ""),
        service("ratelimit", limits.address(), ", appProtocol: grpc"),
        listener("main", "http", "app"),
        asks("ServerPolicy", "", &ours),
    ]
    .concat();
    let (proxy, addresses) = proxy_of(&yaml).await;

    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let config = envoy_config(port, endpoint.address(), limits.address());
    let mut running = Running(
        Command::new(envoy)
            .args(["--concurrency", "1", "--base-id", &port.to_string(), "--config-yaml", &config])
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let other = SocketAddr::from(([127, 0, 0, 1], port));
    let ready = async {
        while TcpStream::connect(other).await.is_err() {
            assert!(running.0.try_wait().unwrap().is_none(), "envoy has ended:\n{config}");
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(SOON, ready).await.expect("envoy listens");

    for (target, fields) in [
        ("/items?page=2&q=a%20b", "x-tenant: ada\r\nx-tier: gold\r\n"),
        ("/", "x-tier: silver\r\n"),
        ("/items?page=3", "x-tenant: eve\r\nx-tenant: ada\r\nx-none: here\r\n"),
    ] {
        let before = limits.asked().len();
        let mut seen = Vec::new();
        for to in [addresses[0], other] {
            for _ in 0..2 {
                let answer = get(to, target, fields).await;
                let told = [
                    "x-ratelimit-limit",
                    "x-ratelimit-remaining",
                    "x-ratelimit-reset",
                    "x-note",
                    "x-envoy-ratelimited",
                ]
                .map(|name| field(&answer, name).to_owned());
                seen.push((status(&answer).to_owned(), told));
            }
        }
        let asked = limits.asked().split_off(before);
        assert_eq!(asked.len(), 4, "{target}");
        assert_eq!(asked[0], asked[2], "{target}: what Envoy asks");
        assert_eq!(seen[..2], seen[2..], "{target}: what Envoy answers");
        assert_eq!((&*seen[0].0, &*seen[1].0), ("200", "429"));
    }
    drop(proxy);
}
