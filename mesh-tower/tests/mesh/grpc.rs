//! gRPC through a channel: tonic's client against tonic's server and scripted ones.

use super::{mesh, policy, seen, service, state};
use mesh_tower::{CallOptions, Error, ErrorKind};
use std::net::SocketAddr;
use testkit::endpoint::{Reply, ScriptedEndpoint};
use testkit::greeter::Hello;
use testkit::greeter::proto::greeter_client::GreeterClient;
use testkit::greeter::proto::greeter_server::GreeterServer;
use testkit::greeter::proto::{HelloManyRequest, HelloRequest};
use tonic::Code;
use tonic::transport::server::TcpIncoming;

const UNAVAILABLE: u32 = 14;
const INTERNAL: u32 = 13;

async fn greeter(name: &str) -> SocketAddr {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().expect("valid")).expect("a free port");
    let address = incoming.local_addr().expect("bound");
    let server = tonic::transport::Server::builder()
        .add_service(GreeterServer::new(Hello::new(name)))
        .serve_with_incoming(incoming);
    tokio::spawn(server);
    address
}

fn hello(name: &str) -> HelloRequest {
    HelloRequest { name: name.into() }
}

#[tokio::test]
async fn calls_are_spread_over_endpoints_and_streams_stay_where_they_are() {
    let endpoints = [greeter("one").await, greeter("two").await];
    let service = service("greeter", &endpoints);
    let mesh = mesh(&format!("{}{service}", policy("pick: { policy: RoundRobin }")));
    let mut greeter = GreeterClient::new(mesh.channel("greeter"));
    let mut served = [0, 0];
    for _ in 0..10 {
        let reply = greeter.say_hello(hello("ada")).await.expect("a reply").into_inner();
        served[usize::from(reply.served_by == "two")] += 1;
    }
    assert_eq!(served, [5, 5]);

    let many = HelloManyRequest { name: "ada".into(), count: 100, interval_ms: 0 };
    let mut replies = greeter.say_hello_many(many).await.expect("a stream").into_inner();
    let mut by = Vec::new();
    while let Some(reply) = replies.message().await.expect("no error") {
        by.push(reply.served_by);
    }
    assert_eq!(by.len(), 100);
    by.dedup();
    assert_eq!(by.len(), 1, "one attempt, one endpoint");

    let status = greeter.say_hello(hello("")).await.expect_err("no name");
    assert_eq!(status.code(), Code::InvalidArgument);
    let all = seen(&mesh, "greeter");
    assert_eq!(all.retries, 0);
    assert!(all.endpoints.iter().all(|one| one.connections == 1), "{all:?}");
}

#[tokio::test]
async fn unavailable_before_the_first_message_is_tried_elsewhere() {
    let busy = ScriptedEndpoint::http2(Reply::grpc_trailers_only(UNAVAILABLE)).await;
    let service = service("greeter", &[busy.address(), greeter("two").await]);
    let safe = "pick: { policy: RoundRobin }, retry: { idempotent: true }";
    let mesh = mesh(&format!("{}{service}", policy(safe)));
    let mut greeter = GreeterClient::new(mesh.channel("greeter"));
    for _ in 0..50 {
        let reply = greeter.say_hello(hello("ada")).await.expect("a reply");
        assert_eq!(reply.into_inner().served_by, "two");
    }
    assert_eq!(seen(&mesh, "greeter").retries, 5);
    assert_eq!(busy.calls(), 5, "then it is ejected");
    let state = state(&mesh, "greeter", busy.address());
    assert!(state.starts_with("ejected: 5 consecutive 5xx"), "{state}");
}

#[tokio::test]
async fn a_caller_may_declare_a_call_safe_to_repeat() {
    let busy = ScriptedEndpoint::http2(Reply::grpc_trailers_only(UNAVAILABLE)).await;
    let mesh = mesh(&service("greeter", &[busy.address()]));
    let mut greeter = GreeterClient::new(mesh.channel("greeter"));
    for (declared, attempts) in [(None, 1), (Some(true), 2), (Some(false), 1)] {
        let before = busy.calls();
        let mut request = tonic::Request::new(hello("ada"));
        if let Some(declared) = declared {
            request.extensions_mut().insert(CallOptions::new().idempotent(declared));
        }
        let status = greeter.say_hello(request).await.expect_err("it is busy");
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(busy.calls() - before, attempts, "{declared:?}");
    }
}

#[tokio::test]
async fn a_status_in_the_trailers_counts_against_the_endpoint() {
    for code in [UNAVAILABLE, INTERNAL] {
        let bad = ScriptedEndpoint::http2(Reply::grpc(code)).await;
        let service = service("greeter", &[bad.address(), greeter("two").await]);
        let mesh = mesh(&format!("{}{service}", policy("pick: { policy: RoundRobin }")));
        let mut greeter = GreeterClient::new(mesh.channel("greeter"));
        let mut failed = 0;
        for _ in 0..50 {
            failed += u32::from(greeter.say_hello(hello("ada")).await.is_err());
        }
        assert_eq!((failed, bad.calls()), (5, 5), "a message is never sent for again, code {code}");
        let state = state(&mesh, "greeter", bad.address());
        assert!(state.starts_with("ejected: 5 consecutive 5xx"), "{state}");
    }
}

#[tokio::test]
async fn without_an_endpoint_the_status_says_why() {
    let mut dead = ScriptedEndpoint::http2(Reply::grpc(0)).await;
    dead.kill().await;
    let mesh = mesh(&service("greeter", &[dead.address()]));
    let mut greeter = GreeterClient::new(mesh.channel("greeter"));
    let status = greeter.say_hello(hello("ada")).await.expect_err("nobody is there");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("refused the connection"), "{status}");
    let error = std::error::Error::source(&status).and_then(|error| error.downcast_ref::<Error>());
    assert_eq!(
        error.map(Error::kind),
        Some(ErrorKind::NoHealthyEndpoint),
        "our own error is there"
    );
}
