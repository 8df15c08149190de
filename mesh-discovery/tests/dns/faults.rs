//! Faults and bad input: D1 truncation, size and loops; D2 servers that fail; D3 extreme TTLs;
//! D4 rebinding; D5 what was not asked for.

use crate::server::{Server, Transport, address, alias, name, send, service};
use crate::{always, config, failure, ids, until_ids, watch, web};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RecordType;
use mesh_discovery::{Dns, Resolve};
use std::time::Duration;
use tokio::time::Instant;

// D1: truncation, size, loops

#[tokio::test]
async fn d1_a_truncated_answer_is_asked_for_again_over_tcp() {
    let server = Server::start(|asked| {
        if asked.transport == Transport::Udp {
            let mut reply = asked.reply(ResponseCode::NoError);
            reply.metadata.truncation = true;
            reply.add_answers(
                web(60, &["10.0.0.1"]).into_iter().filter(|_| asked.kind() == RecordType::A),
            );
            send(&reply)
        } else {
            asked.answer(&web(60, &["10.0.0.1", "10.0.0.2", "10.0.0.3"]))
        }
    })
    .await;
    let mut watch = watch(&server, "web.test", Some(80));
    assert_eq!(ids(&mut watch).await.len(), 3);
    assert!(server.count(RecordType::A, Transport::Tcp) >= 1);
}

#[tokio::test]
async fn d1_of_a_huge_answer_the_first_thousand_addresses_are_used() {
    let server = Server::start(|asked| {
        if asked.transport == Transport::Udp {
            let mut reply = asked.reply(ResponseCode::NoError);
            reply.metadata.truncation = asked.kind() == RecordType::A;
            return send(&reply);
        }
        let records: Vec<_> = (0..2_000u32)
            .rev()
            .map(|n| address("web.test.", 60, &format!("10.1.{}.{}", n / 250, n % 250)))
            .collect();
        asked.answer(&records)
    })
    .await;
    let ids = ids(&mut watch(&server, "web.test", Some(80))).await;
    assert_eq!(ids.len(), 1_000);
    assert_eq!(ids.first().map(String::as_str), Some("10.1.0.0:80"));
    assert_eq!(ids.last().map(String::as_str), Some("10.1.3.249:80"));
}

#[tokio::test]
async fn d1_loops_end_with_an_error_and_chains_with_the_address() {
    let server = Server::start(|asked| match asked.name().as_str() {
        // A name that points at itself: bytes 12 and 13 are a pointer to byte 12.
        "loop.test." => {
            let mut bytes = asked.reply(ResponseCode::NoError).to_vec().expect("encoded");
            bytes.truncate(12);
            bytes.extend([0xc0, 0x0c, 0, 1, 0, 1]);
            vec![bytes]
        }
        "ring.test." => {
            asked.answer(&[alias("ring.test.", "b.test."), alias("b.test.", "ring.test.")])
        }
        "endless.test." => {
            let chain: Vec<_> = (0..100)
                .map(|n| {
                    let owner =
                        if n == 0 { "endless.test.".to_owned() } else { format!("c{n}.test.") };
                    alias(&owner, &format!("c{}.test.", n + 1))
                })
                .chain([
                    address("c100.test.", 60, "10.0.0.1"),
                    address("c100.test.", 60, "fd00::1"),
                ])
                .collect();
            asked.answer(&chain)
        }
        _ => asked.answer(&[
            alias("short.test.", "b.test."),
            alias("b.test.", "c.test."),
            address("c.test.", 60, "10.0.0.1"),
        ]),
    })
    .await;
    let started = Instant::now();
    for host in ["loop.test", "ring.test", "endless.test"] {
        let told = failure(&mut watch(&server, host, Some(80))).await;
        assert!(told.message().starts_with(host), "{told}");
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(ids(&mut watch(&server, "short.test", Some(80))).await, ["10.0.0.1:80"]);
}

// D2: servers that fail

#[tokio::test]
async fn d2_servfail_silence_and_empty_answers_keep_the_last_good_set() {
    let server = Server::start(always(web(1, &["10.0.0.1"]))).await;
    let address = server.address;
    let mut watch = watch(&server, "web.test", Some(80));
    assert_eq!(ids(&mut watch).await, ["10.0.0.1:80"]);

    server.change(|asked| asked.nothing(ResponseCode::ServFail));
    let told = failure(&mut watch).await;
    assert_eq!(
        told.message(),
        format!(
            "web.test. did not resolve: {address} answered SERVFAIL to A; {address} answered SERVFAIL to AAAA"
        )
    );
    assert_eq!(told.kind(), mesh_core::ErrorKind::Dns);

    server.change(|_| Vec::new());
    let told = failure(&mut watch).await;
    assert!(told.message().contains(&format!("{address} did not answer within 500ms")), "{told}");

    server.change(|asked| asked.nothing(ResponseCode::NoError));
    let told = failure(&mut watch).await;
    assert_eq!(told.message(), "web.test. has neither A nor AAAA records");

    server.change(|asked| asked.nothing(ResponseCode::NXDomain));
    let told = failure(&mut watch).await;
    assert_eq!(told.message(), format!("web.test. does not exist (NXDOMAIN from {address})"));

    server.change(always(web(1, &["10.0.0.1"])));
    assert_eq!(ids(&mut watch).await, ["10.0.0.1:80"], "no other set came between");
}

#[tokio::test]
async fn d2_nxdomain_is_believed_after_three() {
    let server = Server::start(always(web(1, &["10.0.0.1"]))).await;
    let mut watch = watch(&server, "web.test", Some(80));
    assert_eq!(ids(&mut watch).await, ["10.0.0.1:80"]);
    server.change(|asked| asked.nothing(ResponseCode::NXDomain));
    let before = server.count(RecordType::A, Transport::Udp);
    assert_eq!(ids(&mut watch).await, Vec::<String>::new());
    assert!(server.count(RecordType::A, Transport::Udp) >= before + 3);
}

#[tokio::test]
async fn d2_a_family_that_fails_keeps_its_addresses_while_the_other_goes_on() {
    let server = Server::start(always(web(60, &["10.0.0.1", "10.0.0.2", "fd00::1"]))).await;
    let mut watch = watch(&server, "web.test", Some(80));
    assert_eq!(ids(&mut watch).await.len(), 3);
    server.change(|asked| match asked.kind() {
        RecordType::A => asked.answer(&web(60, &["10.0.0.1", "10.0.0.3"])),
        _ => asked.nothing(ResponseCode::ServFail),
    });
    until_ids(&mut watch, &["10.0.0.1:80", "10.0.0.3:80", "[fd00::1]:80"]).await;
}

#[tokio::test]
async fn d2_the_next_server_is_asked_when_one_fails_and_stays_first() {
    let broken = Server::start(|asked| asked.nothing(ResponseCode::ServFail)).await;
    let good = Server::start(always(web(1, &["10.0.0.1"]))).await;
    let dns = Dns::new(config(&[broken.address, good.address]));
    let mut watch = dns.resolver("web.test", Some(80)).watch();
    assert_eq!(ids(&mut watch).await, ["10.0.0.1:80"]);
    let asked_of_broken = broken.names().len();
    assert_eq!(asked_of_broken, 2, "A and AAAA");
    testkit::until("asked again", || good.names().len() >= 6).await;
    assert_eq!(broken.names().len(), asked_of_broken);
}

// D3: extreme TTLs

#[tokio::test]
async fn d3_ttl_zero_and_constant_nudges_make_one_query_per_second() {
    let server = Server::start(always(web(0, &["10.0.0.1"]))).await;
    let mut watch = watch(&server, "web.test", Some(80));
    let start = Instant::now();
    ids(&mut watch).await;
    while start.elapsed() < Duration::from_millis(3_500) {
        watch.nudge();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let asked = server.count(RecordType::A, Transport::Udp);
    assert!((2..=4).contains(&asked), "{asked} queries for A in 3.5 s");
}

#[tokio::test]
async fn d3_an_endless_ttl_is_not_an_error() {
    let server = Server::start(always(web(u32::MAX, &["10.0.0.1"]))).await;
    assert_eq!(ids(&mut watch(&server, "web.test", Some(80))).await, ["10.0.0.1:80"]);
}

// D4: rebinding

#[tokio::test]
async fn d4_addresses_that_point_back_at_us_are_refused() {
    let all = ["127.0.0.1", "169.254.169.254", "169.254.1.1", "::1", "fe80::1", "::ffff:127.0.0.1"];
    let server = Server::start(always(web(60, &all))).await;
    let told = failure(&mut watch(&server, "web.test", Some(80))).await;
    assert!(told.message().contains("addresses that are refused by default"), "{told}");
    assert!(told.message().contains("(loopback)"), "{told}");

    server.change(always(web(60, &["127.0.0.1", "10.0.0.1", "169.254.169.254"])));
    assert_eq!(ids(&mut watch(&server, "web.test", Some(80))).await, ["10.0.0.1:80"]);

    // By way of a name that is local by standard.
    server.change(always(vec![alias("web.test.", "localhost.")]));
    let told = failure(&mut watch(&server, "web.test", Some(80))).await;
    assert!(told.message().starts_with("web.test."), "{told}");
}

#[tokio::test]
async fn d4_local_addresses_can_be_allowed() {
    let server = Server::start(always(web(60, &["127.0.0.1", "127.0.0.2"]))).await;
    let mut config = config(&[server.address]);
    config.allow_local = true;
    let mut watch = Dns::new(config).resolver("web.test", Some(80)).watch();
    assert_eq!(ids(&mut watch).await, ["127.0.0.1:80", "127.0.0.2:80"]);
}

#[tokio::test]
async fn d4_srv_targets_are_under_the_same_rule() {
    let server = Server::start(|asked| {
        let mut reply = asked.reply(ResponseCode::NoError);
        if asked.kind() == RecordType::SRV {
            reply.add_answer(service("_web._tcp.test.", 0, 1, 80, "a.test."));
            reply.add_additional(address("a.test.", 60, "127.0.0.1"));
        }
        send(&reply)
    })
    .await;
    let told = failure(&mut watch(&server, "_web._tcp.test", None)).await;
    assert!(told.message().contains("127.0.0.1 (loopback)"), "{told}");
}

// D5: what was not asked for

#[tokio::test]
async fn d5_wrong_ids_and_other_questions_are_passed_over() {
    let server = Server::start(|asked| {
        let mut wrong_id = asked.reply(ResponseCode::NoError);
        wrong_id.metadata.id = asked.request.id.wrapping_add(1);
        wrong_id.add_answer(address("web.test.", 60, "10.6.6.6"));
        let mut other_question = asked.reply(ResponseCode::NoError);
        other_question.queries.clear();
        let mut query = asked.query.clone();
        query.set_name(name("evil.test."));
        other_question.add_query(query);
        other_question.add_answer(address("web.test.", 60, "10.6.6.7"));
        [&wrong_id, &other_question]
            .into_iter()
            .flat_map(send)
            .chain(asked.answer(&web(60, &["10.0.0.1"])))
            .collect()
    })
    .await;
    assert_eq!(ids(&mut watch(&server, "web.test", Some(80))).await, ["10.0.0.1:80"]);
}

#[tokio::test]
async fn d5_records_of_other_names_are_not_used() {
    let server = Server::start(|asked| {
        let mut reply = asked.reply(ResponseCode::NoError);
        if asked.kind() == RecordType::A {
            reply.add_answers([
                address("web.test.", 60, "10.0.0.1"),
                address("evil.test.", 60, "10.6.6.6"),
            ]);
            reply.add_additional(address("web.test.", 60, "10.6.6.7"));
            reply.add_authority(address("web.test.", 60, "10.6.6.8"));
        }
        send(&reply)
    })
    .await;
    assert_eq!(ids(&mut watch(&server, "web.test", Some(80))).await, ["10.0.0.1:80"]);
}
