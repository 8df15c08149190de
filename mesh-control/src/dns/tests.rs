use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::time::timeout;

use super::{Dns, Sockets, Transport};
use crate::registry::Registry;
use crate::registry::catalog::{Registration, register};
use crate::store::Embedded;
use crate::types::{CheckStatus, HealthCheck, NodeService, Weights};

/// More than any answer takes.
const LONG: Duration = Duration::from_secs(10);

struct World {
    registry: Registry,
    dns: Dns,
}

impl World {
    fn new() -> Self {
        let registry = Registry::start(Embedded::in_memory().unwrap()).unwrap();
        let dns = Dns::new(registry.clone(), "dc1");
        Self { registry, dns }
    }

    async fn put(&self, wanted: Registration) {
        self.registry.write(|view| register(view, &wanted, "dc1")).await.unwrap();
    }

    /// What Consul 1.8.7 was told, too, whose answers are those of the table below.
    async fn filled() -> Self {
        let world = Self::new();
        let weights = Weights { passing: 7, warning: 2 };
        let web = NodeService { weights, ..service("web", "web1", 80, "", &["v1", "Blue"]) };
        let mut n1 = on("n1", "10.0.0.1", web);
        n1.check = Some(check("web1", CheckStatus::Warning));
        n1.node_meta = [("k", "v"), ("rfc1035-x", "=y")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        let mut n2 = on("n2", "10.0.0.2", service("web", "web2", 81, "10.1.0.2", &["v2"]));
        n2.check = Some(check("web2", CheckStatus::Critical));
        let mut n6 = on("n6", "10.0.0.6", service("sick", "x", 85, "", &[]));
        n6.check = Some(check("", CheckStatus::Critical));
        for wanted in [
            n1,
            n2,
            on("n3", "fd00::3", service("web", "web3", 82, "", &["v3"])),
            on("n4", "host.example.com", service("named", "name1", 83, "", &[])),
            on("n5", "10.0.0.5", service("aliased", "name2", 84, "web.service.consul", &[])),
            n6,
            on("n7", "10.0.0.7", service("v4only", "x4", 86, "10.9.9.9", &["a.b"])),
            on("n.dot", "10.0.0.10", service("consul", "consul", 8300, "", &[])),
            on("ring", "10.0.0.11", service("ring", "ring", 1, "ring.service.consul", &[])),
        ] {
            world.put(wanted).await;
        }
        for i in 1..=200 {
            let (node, address) = (format!("m{i}"), format!("10.2.0.{i}"));
            world.put(on(&node, &address, service("many", "many", 90, "", &[]))).await;
        }
        world
    }

    fn ask(&self, name: &str, kind: RecordType) -> Message {
        let answer = self.dns.answer(&query(name, kind, None), Transport::Tcp).unwrap();
        Message::from_vec(&answer).unwrap()
    }
}

fn service(name: &str, id: &str, port: u16, address: &str, tags: &[&str]) -> NodeService {
    NodeService {
        name: name.to_owned(),
        id: id.to_owned(),
        port,
        address: address.to_owned(),
        tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
        ..NodeService::default()
    }
}

fn check(service: &str, status: CheckStatus) -> HealthCheck {
    HealthCheck {
        id: "c".to_owned(),
        name: "c".to_owned(),
        service_id: service.to_owned(),
        status,
        ..HealthCheck::default()
    }
}

fn on(node: &str, address: &str, service: NodeService) -> Registration {
    Registration {
        node: node.to_owned(),
        address: address.to_owned(),
        service: Some(service),
        ..Registration::default()
    }
}

fn query(name: &str, kind: RecordType, payload: Option<u16>) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.queries.push(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.edns = payload.map(|payload| {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        edns
    });
    message.to_vec().unwrap()
}

/// The data of records, in order of their text: the order on the wire is random.
fn data(records: &[Record]) -> Vec<String> {
    let mut data: Vec<_> =
        records.iter().map(|record| format!("{} {}", record.record_type(), record.data)).collect();
    data.sort();
    data
}

#[tokio::test]
async fn names_answer_as_consul_does() {
    use RecordType::{A, AAAA, ANY, NS, PTR, SRV, TXT};
    let world = World::filled().await;
    let none: &[&str] = &[];
    #[rustfmt::skip]
    let cases = [
        ("web.service.consul.", A, &["A 10.0.0.1"][..]),
        ("web.service.consul.", AAAA, &["AAAA fd00::3"]),
        ("web.service.consul.", ANY, &["A 10.0.0.1", "AAAA fd00::3"]),
        ("Web.SERVICE.dc1.Consul.", A, &["A 10.0.0.1"]),
        ("v1.web.service.consul.", A, &["A 10.0.0.1"]),
        ("blue.web.service.consul.", A, &["A 10.0.0.1"]),
        ("a.b.v4only.service.consul.", A, &["A 10.9.9.9"]),
        ("web.service.consul.", SRV, &["SRV 1 1 82 n3.node.dc1.consul.", "SRV 1 2 80 n1.node.dc1.consul."]),
        ("_web._tcp.service.consul.", SRV, &["SRV 1 1 82 n3.node.dc1.consul.", "SRV 1 2 80 n1.node.dc1.consul."]),
        ("_web._v1.service.dc1.consul.", SRV, &["SRV 1 2 80 n1.node.dc1.consul."]),
        ("_web._tcp.service.consul.", A, &["A 10.0.0.1"]),
        ("v4only.service.consul.", SRV, &["SRV 1 1 86 0a090909.addr.dc1.consul."]),
        ("named.service.consul.", SRV, &["SRV 1 1 83 host.example.com."]),
        ("named.service.consul.", A, &["CNAME host.example.com."]),
        ("aliased.service.consul.", A, &["A 10.0.0.1", "CNAME web.service.consul."]),
        ("aliased.service.consul.", SRV, &["SRV 1 1 84 web.service.consul."]),
        ("n1.node.consul.", A, &["A 10.0.0.1"]),
        ("n1.node.dc1.consul.", ANY, &["A 10.0.0.1", "TXT =y", "TXT k=v"]),
        ("n1.node.consul.", TXT, &["TXT =y", "TXT k=v"]),
        ("n1.node.consul.", SRV, none),
        ("n4.node.consul.", A, &["CNAME host.example.com."]),
        ("n.dot.node.consul.", A, &["A 10.0.0.10"]),
        ("0a000001.addr.consul.", A, &["A 10.0.0.1"]),
        ("fd000000000000000000000000000003.addr.dc1.consul.", AAAA, &["AAAA fd00::3"]),
        ("v4only.service.consul.", AAAA, none),
        ("consul.", NS, &["NS n.dot.node.dc1.consul."]),
        ("1.0.0.10.in-addr.arpa.", PTR, &["PTR n1.node.dc1.consul."]),
        ("9.9.9.10.in-addr.arpa.", PTR, &["PTR v4only.service.dc1.consul."]),
        ("3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", PTR, &["PTR n3.node.dc1.consul."]),
    ];
    for (name, kind, expected) in cases {
        let answer = world.ask(name, kind);
        assert_eq!(data(&answer.answers), expected, "{name} {kind}");
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError, "{name} {kind}");
        let flags = &answer.metadata;
        assert!(flags.authoritative && flags.recursion_desired, "{name} {kind}");
        assert!(!flags.recursion_available && !flags.truncation, "{name} {kind}");
        assert!(answer.answers.iter().all(|record| record.ttl == 0), "{name} {kind}");
        let ends = answer.authorities.iter().any(|record| record.record_type() == RecordType::SOA);
        assert_eq!(ends, expected.is_empty(), "{name} {kind}: SOA where there is no data");
    }
}

#[tokio::test]
async fn names_that_lead_to_nothing_fail_as_consul_says() {
    use ResponseCode::{NXDomain, NotImp, Refused, ServFail};
    let world = World::filled().await;
    for (name, kind, expected) in [
        ("v2.web.service.consul.", RecordType::A, NXDomain),
        ("sick.service.consul.", RecordType::A, NXDomain),
        ("web.service.dc9.consul.", RecordType::A, NXDomain),
        ("web.service.a.b.consul.", RecordType::A, NXDomain),
        ("_web._udp.service.consul.", RecordType::SRV, NXDomain),
        ("none.node.consul.", RecordType::A, NXDomain),
        ("service.consul.", RecordType::A, NXDomain),
        ("web.consul.", RecordType::A, NXDomain),
        ("consul.", RecordType::A, NXDomain),
        ("web.connect.consul.", RecordType::A, NXDomain),
        ("ga000001.addr.consul.", RecordType::A, NXDomain),
        ("1.2.addr.consul.", RecordType::A, NXDomain),
        ("99.9.9.10.in-addr.arpa.", RecordType::PTR, ServFail),
        ("9.10.in-addr.arpa.", RecordType::PTR, Refused),
        ("example.com.", RecordType::A, Refused),
        (".", RecordType::A, Refused),
        ("consul.", RecordType::AXFR, NotImp),
    ] {
        let answer = world.ask(name, kind);
        assert_eq!(answer.metadata.response_code, expected, "{name} {kind}");
        assert!(answer.answers.is_empty(), "{name} {kind}");
        let soa = answer.authorities.iter().any(|record| record.record_type() == RecordType::SOA);
        assert_eq!(
            (soa, answer.metadata.authoritative),
            (expected == NXDomain, expected == NXDomain)
        );
    }
}

#[tokio::test]
async fn what_explains_a_record_comes_with_it() {
    let world = World::filled().await;
    let answer = world.ask("v1.web.service.consul.", RecordType::SRV);
    assert_eq!(data(&answer.additionals), ["A 10.0.0.1", "TXT =y", "TXT k=v"]);
    let answer = world.ask("aliased.service.consul.", RecordType::SRV);
    assert_eq!(data(&answer.additionals), ["A 10.0.0.1", "AAAA fd00::3"]);
    let answer = world.ask("v4only.service.consul.", RecordType::SRV);
    assert_eq!(data(&answer.additionals), ["A 10.9.9.9"]);
    let answer = world.ask("consul.", RecordType::SOA);
    assert_eq!(data(&answer.authorities), ["NS n.dot.node.dc1.consul."]);
    assert_eq!(data(&answer.additionals), ["A 10.0.0.10"]);
}

#[tokio::test]
async fn a_ring_of_names_ends() {
    let world = World::filled().await;
    let answer = world.ask("ring.service.consul.", RecordType::A);
    assert_eq!(data(&answer.answers), ["CNAME ring.service.consul."; 4]);
}

#[tokio::test]
async fn datagrams_have_as_much_as_the_client_takes() {
    let world = World::filled().await;
    let ask = |kind, payload| {
        let query = query("many.service.consul.", kind, payload);
        let bytes = world.dns.answer(&query, Transport::Udp).unwrap();
        (bytes.len(), Message::from_vec(&bytes).unwrap())
    };
    let (_, plain) = ask(RecordType::A, None);
    assert_eq!((plain.answers.len(), plain.metadata.truncation), (3, false));
    assert!(plain.edns.is_none());
    for kind in [RecordType::A, RecordType::SRV] {
        for (payload, most) in [(1232, 1232), (4096, 4096), (65_535, 4096)] {
            let (length, cut) = ask(kind, Some(payload));
            let whole = cut.answers.len() == 200;
            assert!(length <= most, "{kind} {payload}: {length}");
            assert_eq!(cut.metadata.truncation, !whole, "{kind} {payload}");
            // One record more would not have fitted.
            let each = length / cut.answers.len() + 1;
            assert!(whole || length + 2 * each > most, "{kind} {payload}: {length}");
            if kind == RecordType::SRV {
                assert_eq!(cut.additionals.len(), cut.answers.len());
            }
            assert_eq!(cut.edns.unwrap().max_payload(), 1232);
        }
    }
    assert_eq!(world.ask("many.service.consul.", RecordType::SRV).answers.len(), 200);
}

#[tokio::test]
async fn the_order_is_random() {
    let world = World::filled().await;
    let first = |_| world.ask("many.service.consul.", RecordType::A).answers[0].data.to_string();
    let firsts: std::collections::BTreeSet<_> = (0..64).map(first).collect();
    // All the same by chance once in 200^63.
    assert!(firsts.len() > 1, "{firsts:?}");
}

#[tokio::test]
async fn what_is_no_question_is_refused_or_dropped() {
    let world = World::new();
    let code = |bytes: &[u8]| {
        let answer = world.dns.answer(bytes, Transport::Udp)?;
        Some(Message::from_vec(&answer).unwrap().metadata.response_code)
    };
    let good = query("web.service.consul.", RecordType::A, None);
    assert_eq!(code(&good), Some(ResponseCode::NXDomain));
    for length in 0..12 {
        assert_eq!(code(&good[..length]), None, "{length} bytes");
    }
    for length in 12..good.len() {
        assert_eq!(code(&good[..length]), Some(ResponseCode::FormErr), "{length} bytes");
    }
    let changed = |at: usize, to: u8| {
        let mut bytes = good.clone();
        bytes[at] = to;
        bytes
    };
    assert_eq!(code(&changed(2, 0x80)), None, "an answer");
    assert_eq!(code(&changed(2, 0x10)), Some(ResponseCode::NotImp), "a status query");
    assert_eq!(code(&changed(5, 0)), Some(ResponseCode::FormErr), "no question");
    let mut chaos = good.clone();
    *chaos.last_mut().unwrap() = 3;
    assert_eq!(code(&chaos), Some(ResponseCode::Refused), "class CH");
    let mut message = Message::from_vec(&good).unwrap();
    message.edns = Some(Edns::new());
    message.edns.as_mut().unwrap().set_version(1);
    // 16 is BADVERS with EDNS, and BADSIG without.
    assert_eq!(code(&message.to_vec().unwrap()).map(u16::from), Some(16));
}

#[tokio::test]
async fn sockets_answer_and_drain() {
    let world = World::filled().await;
    let sockets = Sockets::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await.unwrap();
    let address = sockets.address();
    let (drain, drained) = watch::channel(false);
    let serves = tokio::spawn(sockets.serve(world.dns.clone(), drained));
    let ask = query("many.service.consul.", RecordType::SRV, Some(1232));

    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    client.send_to(b"not a query", address).await.unwrap();
    client.send_to(&ask, address).await.unwrap();
    let mut buffer = [0; 4096];
    let length = timeout(LONG, client.recv(&mut buffer)).await.unwrap().unwrap();
    let cut = Message::from_vec(&buffer[..length]).unwrap();
    assert!(cut.metadata.truncation && cut.metadata.id == 7);

    let mut stream = TcpStream::connect(address).await.unwrap();
    for _ in 0..2 {
        let length = u16::try_from(ask.len()).unwrap();
        stream.write_u16(length).await.unwrap();
        stream.write_all(&ask).await.unwrap();
        let length = timeout(LONG, stream.read_u16()).await.unwrap().unwrap();
        let mut answer = vec![0; usize::from(length)];
        timeout(LONG, stream.read_exact(&mut answer)).await.unwrap().unwrap();
        let whole = Message::from_vec(&answer).unwrap();
        assert_eq!((whole.answers.len(), whole.metadata.truncation), (200, false));
    }

    drain.send_replace(true);
    timeout(LONG, serves).await.unwrap().unwrap();
    assert_eq!(timeout(LONG, stream.read(&mut buffer)).await.unwrap().unwrap(), 0);
}
