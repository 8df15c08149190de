//! Active health checks, on real sockets.

use super::tls::Folder;
use super::{LIMIT, attempts, call, get, mesh, policy, seen, service, state};
use http::{Method, StatusCode};
use mesh_core::config::Source;
use mesh_tower::{Body, Mesh};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::SeqCst};
use std::time::Duration;
use testkit::endpoint::{BlackHole, Reply, ScriptedEndpoint};
use testkit::net::Authority;
use testkit::until;
use tokio::time::timeout;

/// An endpoint with a health of its own: `/healthz` answers with a status that can be changed,
/// everything else with 200.
struct Patient {
    endpoint: ScriptedEndpoint,
    health: Arc<AtomicU16>,
}

impl Patient {
    async fn new() -> Self {
        let endpoint = ScriptedEndpoint::http1(Reply::status(200)).await;
        let health = Arc::new(AtomicU16::new(200));
        let status = health.clone();
        endpoint.plan(move |_, request| match request.uri.path() {
            "/healthz" => Reply::status(status.load(SeqCst)),
            _ => Reply::status(200),
        });
        Self { endpoint, health }
    }

    fn set(&self, status: u16) {
        self.health.store(status, SeqCst);
    }

    fn address(&self) -> SocketAddr {
        self.endpoint.address()
    }

    /// Requests by path.
    fn arrived(&self, path: &str) -> usize {
        self.endpoint.arrivals().iter().filter(|arrival| arrival.uri.path() == path).count()
    }
}

async fn patients(count: usize) -> Vec<Patient> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(Patient::new().await);
    }
    all
}

/// Short intervals, and `spec` besides.
fn check(spec: &str) -> String {
    format!("healthCheck: {{ interval: 10ms, noTrafficInterval: 10ms, timeout: 5s, {spec} }}")
}

const HTTP: &str = "http: { path: /healthz }, unhealthyThreshold: 2";

async fn shows(mesh: &Mesh, name: &str, address: SocketAddr, expected: &str) {
    until(expected, || state(mesh, name, address).starts_with(expected)).await;
}

async fn all_ready(mesh: &Mesh, name: &str, count: usize) {
    let ready = || {
        let endpoints = seen(mesh, name).endpoints;
        endpoints.len() == count && endpoints.iter().all(|one| one.state.to_string() == "ready")
    };
    until("all are ready", ready).await;
}

#[tokio::test]
async fn an_endpoint_whose_check_fails_takes_no_calls_until_it_succeeds_again() {
    let patients = patients(3).await;
    let all: Vec<_> = patients.iter().map(Patient::address).collect();
    let spec = format!("{}, pick: {{ policy: RoundRobin }}", check(HTTP));
    let mesh = mesh(&format!("{}{}", policy(&spec), service("inventory", &all)));
    all_ready(&mesh, "inventory", 3).await;

    patients[0].set(503);
    shows(&mesh, "inventory", all[0], "unhealthy: health check: HTTP 503").await;
    let before = patients[0].arrived("/");
    for _ in 0..30 {
        assert_eq!(get(&mesh, "http://inventory/").await.expect("an answer"), StatusCode::OK);
    }
    assert_eq!(patients[0].arrived("/"), before, "it takes no call");
    let rest: usize = patients[1..].iter().map(|one| one.arrived("/")).sum();
    assert_eq!(rest, 30);

    patients[0].set(200);
    shows(&mesh, "inventory", all[0], "ready").await;
    for _ in 0..3 {
        assert_eq!(get(&mesh, "http://inventory/").await.expect("an answer"), StatusCode::OK);
    }
    assert_eq!(patients[0].arrived("/"), before + 1, "it takes its share again");

    let checks = mesh.metrics().destination("inventory").checks().collect::<Vec<_>>();
    let count = |word| checks.iter().find(|(known, _)| *known == word).map_or(0, |(_, n)| *n);
    assert!(count("success") >= 3 && count("status") >= 1, "{checks:?}");
}

#[tokio::test]
async fn an_endpoint_that_is_new_takes_no_call_before_its_first_check_has_passed() {
    let patients = patients(4).await;
    patients[3].set(500);
    let all: Vec<_> = patients.iter().map(Patient::address).collect();
    let rules = policy(&check(HTTP));
    let mesh = mesh(&format!("{rules}{}", service("inventory", &all[..3])));
    all_ready(&mesh, "inventory", 3).await;

    let next = format!("{rules}{}", service("inventory", &all));
    mesh.configure(&[Source::new("next", next)]).expect("a valid configuration");
    until("it is asked", || patients[3].arrived("/healthz") > 0).await;
    for _ in 0..40 {
        assert_eq!(get(&mesh, "http://inventory/").await.expect("an answer"), StatusCode::OK);
    }
    assert_eq!(patients[3].arrived("/"), 0);
    assert_eq!(attempts(&mesh, "inventory", all[3]), 0);

    patients[3].set(200);
    shows(&mesh, "inventory", all[3], "ready").await;
}

#[tokio::test]
async fn without_a_panic_threshold_the_first_call_waits_for_the_first_check() {
    let endpoint = ScriptedEndpoint::http1(Reply::status(200)).await;
    endpoint.plan(|_, request| match request.uri.path() {
        "/healthz" => Reply::status(200).after(Duration::from_millis(200)),
        _ => Reply::status(204),
    });
    let spec = format!("{}, pick: {{ panicThreshold: 0 }}", check(HTTP));
    let mesh = mesh(&format!("{}{}", policy(&spec), service("inventory", &[endpoint.address()])));
    let status = get(&mesh, "http://inventory/").await.expect("an answer");
    assert_eq!(status, StatusCode::NO_CONTENT);
    let paths: Vec<_> = endpoint.arrivals().iter().map(|one| one.uri.path().to_owned()).collect();
    assert_eq!(paths[..2], ["/healthz", "/"], "the check came first");
}

#[tokio::test]
async fn the_check_is_asked_as_it_is_written_over_one_connection() {
    for (reuse, one) in [(true, true), (false, false)] {
        let endpoint = ScriptedEndpoint::http1(Reply::status(404)).await;
        let spec = check(&format!(
            "reuseConnection: {reuse}, http: {{ path: '/up?full=1', host: 'check.example:80', \
             method: HEAD, headers: [{{ name: x-check, value: 'yes' }}], \
             expectedStatuses: [404, 200-299] }}"
        ));
        let mesh =
            mesh(&format!("{}{}", policy(&spec), service("inventory", &[endpoint.address()])));
        until("it is asked often", || endpoint.calls() >= 5).await;
        let asked = endpoint.arrivals().remove(0);
        assert_eq!((asked.method, asked.uri.to_string()), (Method::HEAD, "/up?full=1".to_owned()));
        assert_eq!(asked.headers["host"], "check.example:80");
        assert_eq!(asked.headers["x-check"], "yes");
        assert_eq!(asked.headers["user-agent"], "mesh-health-check");
        assert_eq!(endpoint.connections() == 1, one, "{}", endpoint.connections());
        assert_eq!(state(&mesh, "inventory", endpoint.address()), "ready");
    }
}

#[tokio::test]
async fn checks_go_to_a_port_of_their_own() {
    for ask in ["http: { path: /healthz }", "tcp: {}"] {
        let serving = ScriptedEndpoint::http1(Reply::status(204)).await;
        let mut checked = ScriptedEndpoint::http1(Reply::status(200)).await;
        let port = checked.address().port();
        let spec = check(&format!("port: {port}, unhealthyThreshold: 1, {ask}"));
        let rules = format!("{}{}", policy(&spec), service("inventory", &[serving.address()]));
        let mesh = mesh(&rules);
        shows(&mesh, "inventory", serving.address(), "ready").await;
        until("it is asked again", || checked.connections() > 0).await;
        let status = get(&mesh, "http://inventory/").await.expect("an answer");
        assert_eq!(status, StatusCode::NO_CONTENT, "calls go where they always went: {ask}");
        for arrival in checked.arrivals() {
            assert_eq!(arrival.uri.path(), "/healthz");
            assert_eq!(arrival.headers["host"], "inventory");
        }
        assert_eq!(serving.arrivals().len(), 1, "the call alone: {ask}");

        checked.kill().await;
        shows(&mesh, "inventory", serving.address(), "unhealthy: health check: ").await;
    }
}

#[tokio::test]
async fn answers_that_are_slow_endless_or_broken_are_bounded() {
    let slow = ScriptedEndpoint::http1(Reply::hang()).await;
    let endless = ScriptedEndpoint::http1(Reply::status(200).body(u64::MAX / 2)).await;
    let broken = ScriptedEndpoint::http1(Reply::reset()).await;
    let hole = BlackHole::open().expect("a full backlog");
    let all = [slow.address(), endless.address(), broken.address(), hole.address()];
    let spec = "healthCheck: { interval: 10ms, noTrafficInterval: 10ms, timeout: 300ms, \
                unhealthyThreshold: 1, http: {} }";
    let mesh = mesh(&format!("{}{}", policy(spec), service("inventory", &all)));
    for (address, expected) in [
        (all[0], "unhealthy: health check: no answer in time"),
        (all[1], "ready"),
        (all[2], "unhealthy: health check: the connection broke"),
        (all[3], "unhealthy: health check: no answer in time"),
    ] {
        shows(&mesh, "inventory", address, expected).await;
    }
    until("what is not read is cut off", || endless.open_connections() <= 1).await;
}

#[tokio::test]
async fn a_header_of_an_answer_takes_the_endpoint_out_until_its_check_succeeds() {
    let patients = patients(3).await;
    let all: Vec<_> = patients.iter().map(Patient::address).collect();
    let spec = "healthCheck: { interval: 10ms, noTrafficInterval: 10ms, timeout: 2s, \
                http: { path: /healthz } }";
    let mesh = mesh(&format!("{}{}", policy(spec), service("inventory", &all)));
    all_ready(&mesh, "inventory", 3).await;
    for patient in &patients {
        patient.endpoint.plan(|_, request| match request.uri.path() {
            "/healthz" => Reply::hang(),
            _ => Reply::status(200).header("x-envoy-immediate-health-check-fail", "true"),
        });
    }
    until("no check can pass", || patients.iter().all(|one| one.endpoint.in_flight() > 0)).await;

    assert_eq!(get(&mesh, "http://inventory/").await.expect("an answer"), StatusCode::OK);
    let hit = patients.iter().find(|one| one.arrived("/") > 0).expect("one of them");
    let told = state(&mesh, "inventory", hit.address());
    assert_eq!(told, "unhealthy: an answer said so");
    patients.iter().for_each(|one| one.endpoint.set(Reply::status(200)));
    all_ready(&mesh, "inventory", 3).await;
}

#[tokio::test]
async fn an_endpoint_whose_check_answers_degraded_takes_what_the_others_leave_until_it_does_not() {
    let patients = patients(4).await;
    let all: Vec<_> = patients.iter().map(Patient::address).collect();
    let spec = format!("{}, pick: {{ policy: RoundRobin }}", check(HTTP));
    let mesh = mesh(&format!("{}{}", policy(&spec), service("inventory", &all)));
    all_ready(&mesh, "inventory", 4).await;
    let calls = async |count: usize| {
        let before = patients[0].arrived("/");
        for _ in 0..count {
            assert_eq!(get(&mesh, "http://inventory/").await.expect("an answer"), StatusCode::OK);
        }
        patients[0].arrived("/") - before
    };

    patients[0].endpoint.plan(|_, request| match request.uri.path() {
        "/healthz" => Reply::status(200).header("x-envoy-degraded", ""),
        _ => Reply::status(200),
    });
    shows(&mesh, "inventory", all[0], "ready: degraded, its health check says so").await;
    assert_eq!(calls(30).await, 0, "three of four are enough");

    patients[1..].iter().for_each(|one| one.set(503));
    for address in &all[1..] {
        shows(&mesh, "inventory", *address, "unhealthy: health check: HTTP 503").await;
    }
    // Two of four are not fewer than the panic threshold, and may take half of all calls each.
    patients[1].set(200);
    shows(&mesh, "inventory", all[1], "ready").await;
    let share = calls(200).await;
    assert!((20..180).contains(&share), "half and half with the other one: {share}");

    patients[2..].iter().for_each(|one| one.set(200));
    patients[0].endpoint.set(Reply::status(200));
    all_ready(&mesh, "inventory", 4).await;
    assert_eq!(calls(40).await, 10, "it takes its share again");
}

#[tokio::test]
async fn a_check_that_succeeds_ends_an_ejection_unless_told_otherwise() {
    for (unejects, expected) in [(true, "ready"), (false, "ejected: 1 consecutive 5xx")] {
        let patients = patients(2).await;
        let all: Vec<_> = patients.iter().map(Patient::address).collect();
        let spec = format!(
            "{}, outlier: {{ consecutive5xx: 1, baseEjectionTime: 1h, \
             successfulActiveHealthCheckUnejectHost: {unejects} }}",
            check(HTTP)
        );
        let mesh = mesh(&format!("{}{}", policy(&spec), service("inventory", &all)));
        all_ready(&mesh, "inventory", 2).await;
        for patient in &patients {
            patient.endpoint.plan(|_, request| match request.uri.path() {
                "/fails" => Reply::status(500),
                _ => Reply::status(200),
            });
        }
        let post = call(&mesh, Method::POST, "http://inventory/fails", Body::empty()).await;
        assert_eq!(post.expect("an answer"), StatusCode::INTERNAL_SERVER_ERROR);
        let hit = patients.iter().find(|one| one.arrived("/fails") > 0).expect("one of them");
        let checked = hit.arrived("/healthz");
        until("it was checked since", || hit.arrived("/healthz") > checked + 1).await;
        shows(&mesh, "inventory", hit.address(), expected).await;
        assert_eq!(seen(&mesh, "inventory").ejections, 1);
    }
}

#[tokio::test]
async fn a_check_that_is_configured_away_keeps_nobody_out() {
    let sick = ScriptedEndpoint::http1(Reply::status(500)).await;
    let service = service("inventory", &[sick.address()]);
    let mesh = mesh(&format!("{}{service}", policy(&check("http: {}"))));
    shows(&mesh, "inventory", sick.address(), "unhealthy: health check: HTTP 500").await;

    mesh.configure(&[Source::new("next", service)]).expect("a valid configuration");
    shows(&mesh, "inventory", sick.address(), "ready").await;
    let asked = sick.calls();
    assert!(get(&mesh, "http://inventory/").await.is_ok());
    assert!(sick.calls() <= asked + 3, "one call with its retry, and perhaps one last check");
}

/// A server that reads what it is sent, and answers with `answer` for each `PING`.
async fn bytes_server(answer: &'static [&'static str]) -> SocketAddr {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 4];
                while stream.read_exact(&mut buffer).await.is_ok() && &buffer == b"PING" {
                    for part in answer {
                        stream.write_all(part.as_bytes()).await?;
                        stream.flush().await?;
                        tokio::task::yield_now().await;
                    }
                    if answer.is_empty() {
                        break;
                    }
                }
                Ok::<_, std::io::Error>(())
            });
        }
    });
    address
}

#[tokio::test]
async fn a_tcp_check_looks_for_blocks_in_their_order() {
    let good = bytes_server(&["+PO", "NG then ", "bye"]).await;
    let wrong = bytes_server(&["bye", "PONG"]).await;
    let closes = bytes_server(&[]).await;
    let spec = "healthCheck: { interval: 10ms, noTrafficInterval: 10ms, timeout: 300ms, \
                unhealthyThreshold: 1, \
                tcp: { send: { text: PING }, receive: [{ hex: '504f4e47' }, { text: bye }] } }";
    let mesh = mesh(&format!("{}{}", policy(spec), service("inventory", &[good, wrong, closes])));
    shows(&mesh, "inventory", good, "ready").await;
    shows(&mesh, "inventory", wrong, "unhealthy: health check: no answer in time").await;
    shows(&mesh, "inventory", closes, "unhealthy: health check: other than").await;
    let passed = || {
        let metrics = mesh.metrics().destination("inventory");
        metrics.checks().any(|(result, count)| result == "success" && count > 5)
    };
    until("it passes again over the connection that is kept", passed).await;
}

#[tokio::test]
async fn a_tcp_check_without_bytes_asks_for_a_connection() {
    let mut endpoint = ScriptedEndpoint::http1(Reply::status(500)).await;
    let there = endpoint.address();
    let mesh = mesh(&format!("{}{}", policy(&check("tcp: {}")), service("inventory", &[there])));
    shows(&mesh, "inventory", there, "ready").await;
    assert_eq!(endpoint.calls(), 0, "no request was sent");
    endpoint.kill().await;
    shows(&mesh, "inventory", there, "unhealthy: health check: no connection").await;
    endpoint.restart();
    shows(&mesh, "inventory", there, "ready").await;
}

#[tokio::test]
async fn all_but_one_being_sick_the_calls_still_go_somewhere() {
    let patients = patients(3).await;
    patients.iter().for_each(|one| one.set(503));
    let all: Vec<_> = patients.iter().map(Patient::address).collect();
    let mesh = mesh(&format!("{}{}", policy(&check(HTTP)), service("inventory", &all)));
    for address in &all {
        shows(&mesh, "inventory", *address, "unhealthy: health check: HTTP 503").await;
    }
    // Below the panic threshold.
    for _ in 0..10 {
        let answer = timeout(LIMIT, get(&mesh, "http://inventory/")).await.expect("in time");
        assert_eq!(answer.expect("an answer"), StatusCode::OK);
    }
}

#[tokio::test]
async fn checks_show_the_certificate_that_calls_show_and_ask_for_the_same_name() {
    let authority = Authority::new("ours");
    let folder = Folder::new();
    folder.put("ca.pem", authority.pem());
    folder.put_leaf(&authority.issue(&["client"]));
    let ca = format!("ca: {}", folder.path("ca.pem"));
    let own = format!("cert: {}, key: {}", folder.path("cert.pem"), folder.path("key.pem"));
    for (tls, expected) in [
        (format!("{ca}, {own}, serverName: inventory"), "ready"),
        (format!("{ca}, serverName: inventory"), "unhealthy: health check: "),
        (format!("{ca}, {own}, serverName: other"), "unhealthy: health check: no connection"),
    ] {
        let server = authority.server(&authority.issue(&["inventory"]), true, &["http/1.1"]);
        let endpoint = ScriptedEndpoint::https1(server, Reply::status(200)).await;
        let service = service("inventory", &[endpoint.address()]);
        let service = service.replace("] } }", &format!("] }}, tls: {{ {tls} }} }}"));
        let spec = check("http: {}, unhealthyThreshold: 1");
        let mesh = mesh(&format!("{}{service}", policy(&spec)));
        shows(&mesh, "inventory", endpoint.address(), expected).await;
        assert_eq!(endpoint.calls() > 0, expected == "ready");
    }
}

#[cfg(feature = "tonic")]
mod grpc {
    use super::{all_ready, check, mesh, policy, service, shows, state};
    use std::net::SocketAddr;
    use testkit::endpoint::{Reply, ScriptedEndpoint};
    use testkit::greeter::Hello;
    use testkit::greeter::proto::greeter_server::GreeterServer;
    use testkit::until;
    use tonic::transport::Server;
    use tonic::transport::server::TcpIncoming;
    use tonic_health::ServingStatus;
    use tonic_health::server::HealthReporter;

    async fn server(healthy: bool) -> (SocketAddr, HealthReporter) {
        let (reporter, health) = tonic_health::server::health_reporter();
        let status = if healthy { ServingStatus::Serving } else { ServingStatus::NotServing };
        reporter.set_service_status("greeter.Greeter", status).await;
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().expect("valid")).expect("a port");
        let address = incoming.local_addr().expect("bound");
        let greeter = GreeterServer::new(Hello::new("one"));
        let server = Server::builder().add_service(health).add_service(greeter);
        tokio::spawn(server.serve_with_incoming(incoming));
        (address, reporter)
    }

    #[tokio::test]
    async fn check_and_watch_follow_what_the_server_says() {
        for watch in [false, true] {
            let (one, reporter) = server(true).await;
            let (two, _other) = server(false).await;
            let spec = check(&format!("grpc: {{ serviceName: greeter.Greeter, watch: {watch} }}"));
            let mesh = mesh(&format!("{}{}", policy(&spec), service("greeter", &[one, two])));
            shows(&mesh, "greeter", one, "ready").await;
            shows(&mesh, "greeter", two, "unhealthy: health check: NOT_SERVING").await;
            reporter.set_service_status("greeter.Greeter", ServingStatus::NotServing).await;
            shows(&mesh, "greeter", one, "unhealthy: health check: NOT_SERVING").await;
            reporter.set_service_status("greeter.Greeter", ServingStatus::Serving).await;
            shows(&mesh, "greeter", one, "ready").await;
        }
    }

    #[tokio::test]
    async fn the_server_as_a_whole_is_asked_about_without_a_service_name() {
        let (one, _reporter) = server(false).await;
        for watch in [false, true] {
            let spec = check(&format!("grpc: {{ watch: {watch} }}"));
            let mesh = mesh(&format!("{}{}", policy(&spec), service("greeter", &[one])));
            all_ready(&mesh, "greeter", 1).await;
        }
    }

    #[tokio::test]
    async fn a_service_that_is_not_known_is_not_healthy() {
        let (one, _reporter) = server(true).await;
        for (watch, expected) in [
            (false, "unhealthy: health check: gRPC NOT_FOUND"),
            (true, "unhealthy: health check: "),
        ] {
            let spec = check(&format!("grpc: {{ serviceName: other, watch: {watch} }}"));
            let mesh = mesh(&format!("{}{}", policy(&spec), service("greeter", &[one])));
            shows(&mesh, "greeter", one, expected).await;
        }
    }

    #[tokio::test]
    async fn a_server_that_does_not_implement_watch_is_healthy_and_asked_once() {
        const UNIMPLEMENTED: u32 = 12;
        let old = ScriptedEndpoint::http2(Reply::grpc_trailers_only(UNIMPLEMENTED)).await;
        let there = old.address();
        let watch = policy(&check("grpc: { watch: true }"));
        let watching = mesh(&format!("{watch}{}", service("greeter", &[there])));
        shows(&watching, "greeter", there, "ready").await;
        assert_eq!(old.calls(), 1);
        let checking =
            mesh(&format!("{}{}", policy(&check("grpc: {}")), service("greeter", &[there])));
        let expected = "unhealthy: health check: gRPC UNIMPLEMENTED";
        shows(&checking, "greeter", there, expected).await;
        until("it is checked again and again", || old.calls() > 3).await;
        let watches =
            old.arrivals().iter().filter(|one| one.uri.path().ends_with("/Watch")).count();
        assert_eq!(watches, 1);
        assert_eq!(state(&watching, "greeter", there), "ready");
    }

    #[tokio::test]
    async fn a_watched_endpoint_that_dies_is_out_and_comes_back() {
        let (one, _reporter) = server(true).await;
        let door = testkit::net::FaultProxy::start(one).await;
        let spec = policy(&check("grpc: { watch: true }"));
        let mesh = mesh(&format!("{spec}{}", service("greeter", &[door.address()])));
        shows(&mesh, "greeter", door.address(), "ready").await;
        door.set(testkit::net::Fault::Refuse);
        let out = "unhealthy: health check";
        shows(&mesh, "greeter", door.address(), out).await;
        door.set(testkit::net::Fault::Pass);
        shows(&mesh, "greeter", door.address(), "ready").await;
    }
}
