//! The server layer and the listener under real servers: axum and tonic on loopback.
#![cfg(all(feature = "axum", feature = "tonic", feature = "prometheus"))]

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::routing::get;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use mesh_core::load::Report;
use mesh_tower::Listener;
use mesh_tower::listen::{Drain, Peer};
use mesh_tower::report::LoadReports;
use mesh_tower::server::{Config, Context, ServerLayer};
use mesh_tower::telemetry::{Metrics, prometheus};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use testkit::greeter::Hello;
use testkit::greeter::proto::greeter_client::GreeterClient;
use testkit::greeter::proto::greeter_server::GreeterServer;
use testkit::greeter::proto::{HelloManyRequest, HelloReply, HelloRequest};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tonic::{Code, Status};

const LIMIT: Duration = Duration::from_secs(10);

type Http1 = hyper::client::conn::http1::SendRequest<Empty<Bytes>>;

async fn http1(address: SocketAddr) -> Http1 {
    let stream = TcpStream::connect(address).await.expect("listening");
    let (sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("no bytes yet");
    tokio::spawn(connection);
    sender
}

async fn ask(
    connection: &mut Http1,
    path: &str,
    fields: &[(&str, &str)],
) -> (u16, HeaderMap, String) {
    let mut request = Request::get(path).header("host", "test");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    connection.ready().await.expect("the connection lives");
    let request = request.body(Empty::new()).expect("valid");
    let answer = timeout(LIMIT, connection.send_request(request)).await.expect("in time");
    let (head, body) = answer.expect("an answer").into_parts();
    let body = body.collect().await.expect("complete").to_bytes();
    (head.status.as_u16(), head.headers, String::from_utf8_lossy(&body).into_owned())
}

/// An axum server: its address, the handle to drain it, and its end.
async fn axum(app: Router) -> (SocketAddr, Drain, tokio::task::JoinHandle<std::io::Result<()>>) {
    let listener = Listener::bind("127.0.0.1:0", None).await.expect("a free port");
    let (address, drain) = (listener.local_addr(), listener.drain());
    let app = app.into_make_service_with_connect_info::<Peer>();
    let server = axum::serve(listener, app).with_graceful_shutdown(drain.started());
    (address, drain, tokio::spawn(async move { server.await }))
}

#[tokio::test]
async fn axum_handlers_see_the_callers_deadline_span_and_address() {
    let app = Router::new().route(
        "/items/{id}",
        get(|ConnectInfo(peer): ConnectInfo<Peer>| async move {
            let context = Context::current().expect("inside the server layer");
            assert_eq!(context.peer, Some(peer.clone()));
            assert!(context.expiry.is_some());
            let trace = context.trace.map(|trace| trace.to_string()).unwrap_or_default();
            format!("{trace} {}", peer.address().ip())
        }),
    );
    let metrics = Metrics::new();
    let (address, ..) =
        axum(app.layer(ServerLayer::with_metrics(Config::default(), &metrics))).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let fields = [("traceparent", trace), ("x-envoy-expected-rq-timeout-ms", "5000")];
    let mut connection = http1(address).await;
    let (status, _, body) = ask(&mut connection, "/items/7", &fields).await;
    // Nobody records a span here, so further calls stay children of the caller's.
    assert_eq!((status, body), (200, format!("{trace} 127.0.0.1")));
}

#[tokio::test]
async fn a_panic_costs_one_request_and_is_counted() {
    async fn planted() {
        panic!("planted");
    }
    let app = Router::new().route("/panic", get(planted)).route("/", get(|| async { "fine" }));
    let metrics = Metrics::new();
    let (address, ..) =
        axum(app.layer(ServerLayer::with_metrics(Config::default(), &metrics))).await;
    let mut connection = http1(address).await;
    let (status, fields, body) = ask(&mut connection, "/panic", &[]).await;
    assert_eq!((status, &*body), (500, "handler_panicked: the handler panicked\n"));
    assert_eq!(
        fields["proxy-status"],
        "mesh; error=proxy_internal_error; details=\"handler_panicked\""
    );
    let (status, _, body) = ask(&mut connection, "/", &[]).await;
    assert_eq!((status, &*body), (200, "fine"), "on the same connection");
    counted(&metrics, &[
        "http_server_request_duration_seconds_count{http_request_method=\"GET\",http_response_status_code=\"500\",error_type=\"handler_panicked\"} 1",
        "http_server_request_duration_seconds_count{http_request_method=\"GET\",http_response_status_code=\"200\"} 1",
    ])
    .await;
}

/// Waits until the metrics page has these lines: a server ends a request after its last byte.
async fn counted(metrics: &Metrics, lines: &[&str]) {
    for line in lines {
        let found = || prometheus::page(metrics, None).text.lines().any(|shown| shown == *line);
        testkit::until(line, found).await;
    }
}

#[tokio::test]
async fn a_handler_is_cancelled_when_its_deadline_passes_or_its_caller_goes_away() {
    let (entered, cancelled) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    struct OnDrop(Arc<Notify>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let (enter, cancel) = (entered.clone(), cancelled.clone());
    let app = Router::new().route(
        "/",
        get(move || async move {
            let _guard = OnDrop(cancel);
            enter.notify_one();
            std::future::pending::<()>().await;
        }),
    );
    let layer = ServerLayer::new(Config::default());
    let (address, ..) = axum(app.layer(layer.clone())).await;

    let mut connection = http1(address).await;
    let fields = [("x-envoy-expected-rq-timeout-ms", "50")];
    let (status, ..) = ask(&mut connection, "/", &fields).await;
    assert_eq!(status, 504);
    timeout(LIMIT, cancelled.notified()).await.expect("dropped at the deadline");
    entered.notified().await;

    let mut connection = http1(address).await;
    let request = Request::get("/").header("host", "test").body(Empty::new()).expect("valid");
    let call = tokio::spawn(async move { connection.send_request(request).await });
    timeout(LIMIT, entered.notified()).await.expect("the handler runs");
    call.abort();
    timeout(LIMIT, cancelled.notified()).await.expect("dropped with its caller");
    testkit::until("both places are free", || layer.serving() == 0).await;
}

#[tokio::test]
async fn an_answer_of_announced_length_is_complete_though_its_stream_stays_open() {
    let body = || async {
        let endless =
            tokio_stream::iter([Ok::<_, Infallible>("12345")]).chain(tokio_stream::pending());
        Response::builder().header("content-length", "5").body(Body::from_stream(endless)).unwrap()
    };
    let metrics = Metrics::new();
    let app = Router::new().route("/", get(body));
    let (address, ..) =
        axum(app.layer(ServerLayer::with_metrics(Config::default(), &metrics))).await;
    let mut connection = http1(address).await;
    let (status, _, body) = ask(&mut connection, "/", &[]).await;
    assert_eq!((status, &*body), (200, "12345"));
    counted(&metrics, &["http_server_request_duration_seconds_count{http_request_method=\"GET\",http_response_status_code=\"200\"} 1"]).await;
}

#[tokio::test]
async fn draining_finishes_what_runs_and_ends_the_server() {
    let (entered, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (enter, leave) = (entered.clone(), go.clone());
    let app = Router::new().route(
        "/",
        get(move || async move {
            enter.notify_one();
            leave.notified().await;
            "done"
        }),
    );
    let (address, drain, server) = axum(app.layer(ServerLayer::default())).await;
    let mut connection = http1(address).await;
    let call = tokio::spawn(async move { ask(&mut connection, "/", &[]).await });
    entered.notified().await;
    drain.start();
    go.notify_one();
    assert_eq!(call.await.expect("no panic").2, "done");
    timeout(LIMIT, server).await.expect("ends").expect("no panic").expect("no error");
    assert!(TcpStream::connect(address).await.is_err());
}

/// A tonic server: its address, and the layer.
async fn tonic(layer: ServerLayer) -> (SocketAddr, Drain, tokio::task::JoinHandle<()>) {
    let listener = Listener::bind("127.0.0.1:0", None).await.expect("a free port");
    let (address, drain) = (listener.local_addr(), listener.drain());
    let stopped = drain.started();
    let server = tokio::spawn(async move {
        tonic::transport::Server::builder()
            .layer(layer)
            .add_service(GreeterServer::new(Hello::new("one")))
            .serve_with_incoming_shutdown(listener.incoming(), stopped)
            .await
            .expect("serves until drained");
    });
    (address, drain, server)
}

async fn client(address: SocketAddr) -> GreeterClient<tonic::transport::Channel> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"));
    GreeterClient::new(endpoint.expect("valid").connect().await.expect("listening"))
}

fn hello(name: &str) -> HelloRequest {
    HelloRequest { name: name.into() }
}

#[tokio::test]
async fn all_four_shapes_of_a_grpc_call_pass_the_layer() {
    let metrics = Metrics::new();
    let layer = ServerLayer::with_metrics(Config::default(), &metrics);
    let (address, drain, server) = tonic(layer.clone()).await;
    let mut client = client(address).await;

    let reply = client.say_hello(hello("ada")).await.expect("a reply").into_inner();
    assert_eq!(reply, HelloReply { message: "hello, ada".into(), served_by: "one".into() });
    assert_eq!(
        client.say_hello(hello("")).await.expect_err("no name").code(),
        Code::InvalidArgument
    );

    let many = HelloManyRequest { name: "ada".into(), count: 3, interval_ms: 1 };
    let mut replies = client.say_hello_many(many).await.expect("a stream").into_inner();
    let mut count = 0;
    while replies.message().await.expect("no error").is_some() {
        count += 1;
    }
    assert_eq!(count, 3);

    let names = tokio_stream::iter(["ada", "grace"].map(hello));
    let reply = client.say_hello_to_all(names).await.expect("a reply").into_inner();
    assert_eq!(reply.message, "hello, ada and grace");

    let names = tokio_stream::iter(["ada", "grace"].map(hello));
    let mut replies = client.chat(names).await.expect("a stream").into_inner();
    for name in ["ada", "grace"] {
        let reply = replies.message().await.expect("no error").expect("a reply");
        assert_eq!(reply.message, format!("hello, {name}"));
    }
    assert!(replies.message().await.expect("a clean end").is_none());

    drop((client, replies));
    drain.start();
    timeout(LIMIT, server).await.expect("ends").expect("no panic");
    assert_eq!(layer.serving(), 0);
    counted(&metrics, &[
        "rpc_server_call_duration_seconds_count{rpc_system_name=\"grpc\",rpc_response_status_code=\"OK\"} 4",
        "rpc_server_call_duration_seconds_count{rpc_system_name=\"grpc\",rpc_response_status_code=\"INVALID_ARGUMENT\"} 1",
    ])
    .await;
}

#[tokio::test]
async fn a_grpc_deadline_ends_a_running_stream_with_its_status() {
    let (address, ..) = tonic(ServerLayer::default()).await;
    let mut client = client(address).await;
    let many = HelloManyRequest { name: "ada".into(), count: 1_000_000, interval_ms: 5 };
    let mut request = tonic::Request::new(many);
    request.metadata_mut().insert("grpc-timeout", "100m".parse().expect("valid"));
    let mut replies = client.say_hello_many(request).await.expect("a stream").into_inner();
    let end: Status = timeout(LIMIT, async {
        loop {
            if let Err(status) = replies.message().await {
                return status;
            }
        }
    })
    .await
    .expect("the server ends it");
    assert_eq!(end.code(), Code::DeadlineExceeded);
    assert!(end.message().starts_with("upstream_request_timeout"), "ours, not tonic's: {end}");
}

#[tokio::test]
async fn grpc_calls_beyond_the_limit_are_resource_exhausted() {
    let mut config = Config::default();
    config.max_requests = Some(1);
    let (address, ..) = tonic(ServerLayer::new(config)).await;
    let mut client = client(address).await;
    let many = HelloManyRequest { name: "ada".into(), count: 1_000_000, interval_ms: 5 };
    let running = client.say_hello_many(many).await.expect("a stream");
    let shed = client.say_hello(hello("grace")).await.expect_err("shed");
    assert_eq!(shed.code(), Code::ResourceExhausted);
    drop(running);
}

const ASK: &str = "endpoint-load-metrics-format";

#[tokio::test]
async fn axum_tells_a_caller_that_asks_how_busy_it_is_in_the_form_it_asks_for() {
    let (entered, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (enter, leave) = (entered.clone(), go.clone());
    let held = get(move || async move {
        enter.notify_one();
        leave.notified().await;
    });
    let app = Router::new().route("/held", held).route("/", get(|| async { "done" }));
    let layer = ServerLayer::default();
    layer.reports().reporter().set_application_utilization(0.7);
    let (address, ..) = axum(app.layer(layer)).await;

    let mut busy = http1(address).await;
    let held = tokio::spawn(async move { ask(&mut busy, "/held", &[(ASK, "BIN")]).await });
    entered.notified().await;
    let mut connection = http1(address).await;
    for (form, begins) in [("BIN", ""), ("TEXT", "TEXT application_"), ("json", "JSON {")] {
        let (_, fields, _) = ask(&mut connection, "/", &[(ASK, form)]).await;
        let report = Report::of(&fields, &[]).expect("a report").expect("that can be read");
        assert_eq!((report.in_flight, report.application_utilization), (Some(1), 0.7), "{form}");
        assert!(report.service_time.is_some() && report.qps > 0.0, "{form}");
        let text = fields.get("endpoint-load-metrics").map(|value| value.to_str().expect("text"));
        assert!(text.unwrap_or_default().starts_with(begins), "{text:?}");
    }
    let (_, fields, _) = ask(&mut connection, "/", &[]).await;
    assert!(Report::of(&fields, &[]).is_none(), "nobody asked");
    go.notify_one();
    held.await.expect("no panic");
}

#[tokio::test]
async fn strangers_hear_nothing_and_a_policy_may_tell_all_or_none() {
    let app = || Router::new().route("/", get(|| async { "done" }));
    for (policy, trust, asking, told) in [
        (LoadReports::Asked, false, true, false),
        (LoadReports::Never, true, true, false),
        (LoadReports::Always, false, false, true),
    ] {
        let mut config = Config::default();
        (config.load_reports, config.trust_callers) = (policy, trust);
        let (address, ..) = axum(app().layer(ServerLayer::new(config))).await;
        let fields: &[_] = if asking { &[(ASK, "TEXT")] } else { &[] };
        let (_, fields, _) = ask(&mut http1(address).await, "/", fields).await;
        assert_eq!(Report::of(&fields, &[]).is_some(), told, "{policy:?}");
    }
}

/// What a probe is answered with.
async fn probe(connection: &mut Http1) -> (u16, Option<Report>) {
    let request = Request::options("*").header("host", "test").header(ASK, "BIN");
    let request = request.header("max-forwards", "0").body(Empty::new()).expect("valid");
    connection.ready().await.expect("the connection lives");
    let answer = timeout(LIMIT, connection.send_request(request)).await.expect("in time");
    let (head, body) = answer.expect("an answer").into_parts();
    body.collect().await.expect("complete");
    let report = Report::of(&head.headers, &[]).map(|report| report.expect("that can be read"));
    (head.status.as_u16(), report)
}

#[tokio::test]
async fn a_probe_is_answered_at_once_by_a_server_that_is_full_and_counts_nowhere() {
    let (entered, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (enter, leave) = (entered.clone(), go.clone());
    let held = get(move || async move {
        enter.notify_one();
        leave.notified().await;
    });
    let mut config = Config::default();
    config.max_requests = Some(1);
    let metrics = Metrics::new();
    let layer = ServerLayer::with_metrics(config, &metrics);
    let (address, ..) = axum(Router::new().route("/", held).layer(layer)).await;
    let mut connection = http1(address).await;
    let (status, report) = probe(&mut connection).await;
    assert_eq!((status, report.and_then(|report| report.in_flight)), (204, Some(0)));

    let mut busy = http1(address).await;
    let held = tokio::spawn(async move { ask(&mut busy, "/", &[]).await });
    entered.notified().await;
    for _ in 0..3 {
        let (status, report) = probe(&mut connection).await;
        assert_eq!((status, report.and_then(|report| report.in_flight)), (204, Some(1)));
    }
    go.notify_one();
    assert_eq!(held.await.expect("no panic").0, 200);
    let count = "http_server_request_duration_seconds_count{http_request_method=\"GET\",http_response_status_code=\"200\"} 1";
    counted(&metrics, &[count]).await;
    assert!(!prometheus::page(&metrics, None).text.contains("OPTIONS"));
}

#[tokio::test]
async fn a_stranger_that_probes_meets_the_application() {
    for (policy, trust, status) in [
        (LoadReports::Asked, false, 404),
        (LoadReports::Never, true, 404),
        (LoadReports::Always, false, 204),
    ] {
        let mut config = Config::default();
        (config.load_reports, config.trust_callers) = (policy, trust);
        let app = Router::new().route("/", get(|| async { "done" }));
        let (address, ..) = axum(app.layer(ServerLayer::new(config))).await;
        let (answered, report) = probe(&mut http1(address).await).await;
        assert_eq!((answered, report.is_some()), (status, status == 204), "{policy:?}");
    }
}

#[tokio::test]
async fn tonic_tells_it_in_trailers_and_a_refusal_counts_as_an_error() {
    let mut config = Config::default();
    config.max_requests = Some(1);
    let (address, ..) = tonic(ServerLayer::new(config)).await;
    let mut client = client(address).await;
    let asking = |name: &str| {
        let mut request = tonic::Request::new(hello(name));
        request.metadata_mut().insert(ASK, "BIN".parse().expect("valid"));
        request
    };
    let read = |metadata: &tonic::metadata::MetadataMap| {
        let report = Report::of(&metadata.clone().into_headers(), &[]);
        report.expect("a report").expect("that can be read")
    };
    let reply = client.say_hello(asking("ada")).await.expect("a reply");
    let report = read(reply.metadata());
    assert_eq!((report.in_flight, report.error_share), (Some(0), Some(0.0)));

    let many = HelloManyRequest { name: "ada".into(), count: 1_000_000, interval_ms: 5 };
    let running = client.say_hello_many(many).await.expect("a stream");
    let shed = client.say_hello(asking("grace")).await.expect_err("shed");
    let report = read(shed.metadata());
    assert_eq!(report.in_flight, Some(1), "the stream");
    assert!(report.eps > 0.0 && report.error_share > Some(0.0), "{report:?}");
    drop(running);
}

/// ORCA's service, as its clients see it.
mod orca {
    use std::collections::HashMap;

    pub(super) const METHOD: &str = "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics";

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Request {
        #[prost(message, optional, tag = "1")]
        pub(super) report_interval: Option<Span>,
        #[prost(string, repeated, tag = "2")]
        pub(super) request_cost_names: Vec<String>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Span {
        #[prost(int64, tag = "1")]
        pub(super) seconds: i64,
        #[prost(int32, tag = "2")]
        pub(super) nanos: i32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Report {
        #[prost(double, tag = "6")]
        pub(super) rps_fractional: f64,
        #[prost(map = "string, double", tag = "8")]
        pub(super) named_metrics: HashMap<String, f64>,
        #[prost(double, tag = "9")]
        pub(super) application_utilization: f64,
    }
}

/// Asks for reports as any gRPC client does.
async fn reports_of(
    address: SocketAddr,
    interval: orca::Span,
) -> Result<tonic::Streaming<orca::Report>, Status> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"));
    let channel = endpoint.expect("valid").connect().await.expect("listening");
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.expect("connected");
    let request =
        orca::Request { report_interval: Some(interval), request_cost_names: vec!["a".into()] };
    let codec = tonic_prost::ProstCodec::<orca::Request, orca::Report>::default();
    let method = http::uri::PathAndQuery::from_static(orca::METHOD);
    let answer = client.server_streaming(tonic::Request::new(request), method, codec).await?;
    Ok(answer.into_inner())
}

#[tokio::test]
async fn a_grpc_client_is_told_at_intervals_beside_axum_whatever_else_is_served() {
    let metrics = Metrics::new();
    let mut config = Config::default();
    config.max_requests = Some(1);
    let layer = ServerLayer::with_metrics(config, &metrics);
    layer.reports().reporter().set_application_utilization(0.7);
    let app = Router::new().route("/", get(|| async { "done" }));
    let (address, ..) = axum(app.layer(layer.clone())).await;

    let start = tokio::time::Instant::now();
    let span = orca::Span { seconds: 0, nanos: 1 };
    let mut reports = reports_of(address, span).await.expect("a stream");
    let first = reports.message().await.expect("well").expect("a report");
    assert_eq!(first.application_utilization, 0.7);
    assert_eq!(first.named_metrics.get("mesh.in_flight"), Some(&0.0));
    assert_eq!(layer.serving(), 0, "a stream takes no place");
    assert_eq!(ask(&mut http1(address).await, "/", &[]).await.0, 200);
    let second = reports.message().await.expect("well").expect("a report");
    assert!(second.rps_fractional > 0.0);
    assert!(start.elapsed() >= Duration::from_secs(1), "the shortest interval");
    assert!(
        !prometheus::page(&metrics, None).text.contains("rpc_server_call_duration_seconds_count")
    );
}

#[tokio::test]
async fn a_stranger_that_asks_for_a_stream_meets_the_application() {
    for (policy, trust) in [(LoadReports::Asked, false), (LoadReports::Never, true)] {
        let mut config = Config::default();
        (config.load_reports, config.trust_callers) = (policy, trust);
        let (address, ..) = tonic(ServerLayer::new(config)).await;
        let span = orca::Span { seconds: 1, nanos: 0 };
        let refused = reports_of(address, span).await.expect_err("unknown to the application");
        assert_eq!(refused.code(), Code::Unimplemented, "{policy:?}");
    }
}

#[tokio::test]
async fn a_stream_does_not_hold_up_a_shutdown() {
    let mesh = mesh_tower::Mesh::builder().build().expect("valid");
    let listener = mesh.listen("127.0.0.1:0").await.expect("a free port");
    let (address, drain) = (listener.local_addr(), listener.drain());
    let server = tonic::transport::Server::builder()
        .layer(mesh.server())
        .add_service(GreeterServer::new(Hello::new("one")))
        .serve_with_incoming_shutdown(listener.incoming(), drain.started());
    let server = tokio::spawn(server);
    let span = orca::Span { seconds: 10, nanos: 0 };
    let mut reports = reports_of(address, span).await.expect("a stream");
    assert!(reports.message().await.expect("well").is_some());
    drain.start();
    timeout(LIMIT, server).await.expect("in time").expect("no panic").expect("ends well");
    assert_eq!(reports.message().await.expect("ends well"), None);
}
