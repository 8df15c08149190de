//! What is made of answers.

use crate::server::{Asked, Server, address, send, service};
use crate::{always, failure, ids, next, until_ids, watch, web};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Record, RecordType};
use mesh_discovery::Update;
use std::net::SocketAddr;

#[tokio::test]
async fn each_address_is_one_endpoint() {
    let server = Server::start(always(web(60, &["10.0.0.2", "10.0.0.1", "fd00::7"]))).await;
    let mut watch = watch(&server, "web.test", Some(80));
    assert_eq!(ids(&mut watch).await, ["10.0.0.1:80", "10.0.0.2:80", "[fd00::7]:80"]);
}

#[tokio::test]
async fn one_address_of_each_family_is_one_dual_stack_endpoint() {
    let server = Server::start(always(web(60, &["fd00::1", "10.0.0.1"]))).await;
    let Update::Endpoints(set) = next(&mut watch(&server, "web.test", Some(80))).await else {
        panic!("a set was due")
    };
    assert_eq!(set.len(), 1);
    assert_eq!(set[0].id.as_str(), "10.0.0.1:80");
    let both: [SocketAddr; 2] =
        ["10.0.0.1:80".parse().expect("v4"), "[fd00::1]:80".parse().expect("v6")];
    assert_eq!(set[0].addresses, both);
    assert_eq!(set[0].hostname.as_deref(), Some("web.test"));
}

#[tokio::test]
async fn a_change_comes_by_the_ttl_alone_and_what_stays_keeps_its_identity() {
    let server = Server::start(always(web(1, &["10.0.0.1", "10.0.0.2"]))).await;
    let mut watch = watch(&server, "web.test", Some(80));
    assert_eq!(ids(&mut watch).await, ["10.0.0.1:80", "10.0.0.2:80"]);
    server.change(always(web(1, &["10.0.0.2", "10.0.0.3"])));
    assert_eq!(ids(&mut watch).await, ["10.0.0.2:80", "10.0.0.3:80"]);
}

#[tokio::test]
async fn a_nudge_does_not_wait_for_the_ttl() {
    let server = Server::start(always(web(3600, &["10.0.0.1"]))).await;
    let mut watch = watch(&server, "web.test", Some(80));
    assert_eq!(ids(&mut watch).await, ["10.0.0.1:80"]);
    server.change(always(web(3600, &["10.0.0.9"])));
    watch.nudge();
    assert_eq!(ids(&mut watch).await, ["10.0.0.9:80"]);
}

#[tokio::test]
async fn literals_and_localhost_ask_nobody() {
    let server = Server::start(|asked| asked.nothing(ResponseCode::ServFail)).await;
    for (host, wanted) in [
        ("127.0.0.1", "127.0.0.1:80"),
        ("[::1]", "[::1]:80"),
        ("::1", "[::1]:80"),
        ("localhost", "127.0.0.1:80"),
        ("app.localhost", "127.0.0.1:80"),
    ] {
        assert_eq!(ids(&mut watch(&server, host, Some(80))).await, [wanted], "{host}");
    }
    assert_eq!(server.names(), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_no_name_is_said_at_once() {
    let server = Server::start(|asked| asked.nothing(ResponseCode::ServFail)).await;
    let long = format!("{}.test", "x".repeat(64));
    for (host, port, says) in [
        (long.as_str(), Some(80), "is no DNS name"),
        ("a..b", Some(80), "is no DNS name"),
        (".", Some(80), "is empty"),
        ("10.0.0.1", None, "10.0.0.1 is an address without a port: write 10.0.0.1:80"),
    ] {
        let mut watch = watch(&server, host, port);
        let told = failure(&mut watch).await.to_string();
        assert!(told.contains(says), "{host}: {told}");
        assert_eq!(watch.changed().await, None);
    }
    assert_eq!(server.names(), Vec::<String>::new());
}

#[tokio::test]
async fn srv_gives_port_priority_weight_and_the_addresses_of_its_targets() {
    let server = Server::start(|asked| match (asked.kind(), asked.name().as_str()) {
        (RecordType::SRV, "_web._tcp.test.") => {
            let mut reply = asked.reply(ResponseCode::NoError);
            reply.add_answers([
                service("_web._tcp.test.", 0, 3, 8080, "A.test."),
                service("_web._tcp.test.", 0, 0, 8081, "b.test."),
                service("_web._tcp.test.", 5, 1, 8082, "b.test."),
            ]);
            // Of a.test as in many servers; the last was not asked for.
            reply.add_additionals([
                address("a.test.", 60, "10.0.0.1"),
                address("a.test.", 60, "fd00::1"),
                address("evil.test.", 60, "10.6.6.6"),
            ]);
            send(&reply)
        }
        (RecordType::A, "b.test.") => asked.answer(&[address("b.test.", 60, "10.0.0.2")]),
        _ => asked.nothing(ResponseCode::NoError),
    })
    .await;
    let mut watch = watch(&server, "_web._tcp.test", None);
    let Update::Endpoints(set) = next(&mut watch).await else { panic!("a set was due") };
    let told: Vec<_> = set
        .iter()
        .map(|spec| (spec.id.to_string(), spec.priority, spec.weight, spec.addresses.len()))
        .collect();
    assert_eq!(
        told,
        [
            ("10.0.0.1:8080".to_owned(), 0, 3, 2),
            ("10.0.0.2:8081".to_owned(), 0, 1, 1),
            ("10.0.0.2:8082".to_owned(), 5, 1, 1),
        ]
    );
    assert_eq!(set[0].hostname.as_deref(), Some("a.test"));
    assert!(server.names().iter().all(|name| name != "a.test."), "its addresses came along");
}

#[tokio::test]
async fn a_target_that_fails_keeps_the_address_it_had() {
    let members = [
        service("_web._tcp.test.", 0, 1, 80, "a.test."),
        service("_web._tcp.test.", 0, 1, 80, "b.test."),
    ];
    let hosts = [address("a.test.", 60, "10.0.0.1"), address("b.test.", 60, "10.0.0.2")];
    let (members_before, hosts_before) = (members.clone(), hosts.clone());
    let server = Server::start(move |asked| match asked.kind() {
        RecordType::SRV => asked.answer(&members_before),
        _ => asked.answer(&of_name(&hosts_before, asked)),
    })
    .await;
    let mut watch = watch(&server, "_web._tcp.test", None);
    assert_eq!(ids(&mut watch).await, ["10.0.0.1:80", "10.0.0.2:80"]);

    let [a, b] = members;
    let c = service("_web._tcp.test.", 0, 1, 80, "c.test.");
    let records = [a, b, c];
    server.change(move |asked| match (asked.kind(), asked.name().as_str()) {
        (RecordType::SRV, _) => asked.answer(&records),
        (RecordType::A, "c.test.") => asked.answer(&[address("c.test.", 60, "10.0.0.3")]),
        (_, "a.test.") => asked.nothing(ResponseCode::ServFail),
        _ => asked.answer(&of_name(&hosts, asked)),
    });
    until_ids(&mut watch, &["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]).await;
}

fn of_name(records: &[Record], asked: &Asked) -> Vec<Record> {
    records.iter().filter(|record| record.name == *asked.query.name()).cloned().collect()
}

#[tokio::test]
async fn a_service_that_is_not_offered_is_an_empty_answer() {
    let server = Server::start(always(vec![service("_web._tcp.test.", 0, 0, 0, ".")])).await;
    let told = failure(&mut watch(&server, "_web._tcp.test", None)).await;
    assert_eq!(told.message(), "_web._tcp.test. says that the service is not offered");
}
