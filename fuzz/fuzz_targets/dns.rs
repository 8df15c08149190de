//! Queries of DNS: never a panic; an answer has the query's ID, is one that a client can read, and
//! has no more bytes than the transport takes; nothing answers what is an answer itself.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use mesh_control::dns::{Dns, Transport};
use mesh_control::registry::Registry;
use mesh_control::registry::catalog::{Registration, register};
use mesh_control::store::Embedded;
use mesh_control::types::NodeService;

static DNS: LazyLock<Dns> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let dns = runtime.block_on(async {
        let registry = Registry::start(Embedded::in_memory().unwrap()).unwrap();
        for (id, address) in [("web1", ""), ("web2", "10.0.0.2"), ("web3", "web.service.consul")] {
            let mut service = NodeService::default();
            (service.id, service.name, service.port) = (id.to_owned(), "web".to_owned(), 80);
            service.address = address.to_owned();
            service.tags = vec!["v1".to_owned()];
            let mut wanted = Registration::default();
            (wanted.node, wanted.address) = ("n1".to_owned(), "10.0.0.1".to_owned());
            wanted.service = Some(service);
            registry.write(|view| register(view, &wanted, "dc1")).await.unwrap();
        }
        Dns::new(registry, "dc1")
    });
    std::mem::forget(runtime);
    dns
});

fuzz_target!(|query: &[u8]| {
    for (over, most) in [(Transport::Udp, 4096), (Transport::Tcp, 65_535)] {
        if let Some(answer) = DNS.answer(query, over) {
            assert!(answer.len() <= most);
            assert_eq!(answer[..2], query[..2]);
            assert!(query[2] & 0x80 == 0 && answer[2] & 0x80 != 0);
            assert!(hickory_proto::op::Message::from_vec(&answer).is_ok());
            assert!(DNS.answer(&answer, over).is_none());
        }
    }
});
