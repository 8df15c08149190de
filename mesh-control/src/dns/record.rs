//! Records, and the names in them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::question::Zone;

/// Nothing may be kept: who is well changes at any moment. Seconds.
const TTL: u32 = 0;
/// Longest string of a TXT record, in bytes (RFC 1035 §3.3).
const STRING: usize = 255;
/// Refresh, retry and expiry of the zone, in seconds, as Consul has them.
const SOA_TIMES: (i32, i32, i32) = (3600, 600, 86_400);

/// Where something is reached.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    Ip(IpAddr),
    Name(Name),
}

impl Place {
    /// As somebody wrote it; `None` for what no record can hold.
    pub(super) fn of(address: &str) -> Option<Self> {
        match address.parse() {
            Ok(ip) => Some(Self::Ip(ip)),
            Err(_) => dotted(address).filter(|name| !name.is_root()).map(Self::Name),
        }
    }
}

/// A name from text with dots.
fn dotted(text: &str) -> Option<Name> {
    let text = text.strip_suffix('.').unwrap_or(text);
    Name::from_labels(text.split('.').map(str::as_bytes)).ok()
}

impl Zone {
    /// `REST.KIND.DC.consul.`; `None` where that is too long for a name.
    fn named(&self, rest: &str, kind: &str) -> Option<Name> {
        dotted(&format!("{rest}.{kind}.{}", self.datacenter))?.append_name(&self.domain).ok()
    }

    pub(super) fn of_node(&self, node: &str) -> Option<Name> {
        self.named(node, "node")
    }

    pub(super) fn of_service(&self, service: &str) -> Option<Name> {
        self.named(service, "service")
    }

    pub(super) fn of_address(&self, ip: IpAddr) -> Option<Name> {
        let hex = match ip {
            IpAddr::V4(ip) => format!("{:08x}", ip.to_bits()),
            IpAddr::V6(ip) => format!("{:032x}", ip.to_bits()),
        };
        self.named(&hex, "addr")
    }

    pub(super) fn soa(&self, serial: u32) -> Option<Record> {
        let name = |label: &str| dotted(label)?.append_name(&self.domain).ok();
        let (refresh, retry, expire) = SOA_TIMES;
        let (first, who) = (name("ns")?, name("hostmaster")?);
        let soa = SOA::new(first, who, serial, refresh, retry, expire, TTL);
        Some(Record::from_rdata(self.domain.clone(), TTL, RData::SOA(soa)))
    }

    pub(super) fn ns(&self, server: Name) -> Record {
        Record::from_rdata(self.domain.clone(), TTL, RData::NS(NS(server)))
    }
}

/// Whether a record of this type belongs into the answer section.
pub(super) fn wanted(asked: RecordType, own: RecordType) -> bool {
    asked == own || asked == RecordType::ANY
}

pub(super) fn address(owner: &Name, ip: IpAddr) -> Record {
    let data = match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    };
    Record::from_rdata(owner.clone(), TTL, data)
}

pub(super) fn alias(owner: &Name, target: Name) -> Record {
    Record::from_rdata(owner.clone(), TTL, RData::CNAME(CNAME(target)))
}

pub(super) fn pointer(owner: &Name, target: Name) -> Record {
    Record::from_rdata(owner.clone(), TTL, RData::PTR(PTR(target)))
}

/// Consul's priority of all instances is 1.
pub(super) fn srv(owner: &Name, weight: u32, port: u16, target: Name) -> Record {
    let weight = u16::try_from(weight).unwrap_or(u16::MAX);
    Record::from_rdata(owner.clone(), TTL, RData::SRV(SRV::new(1, weight, port, target)))
}

/// A TXT record for each entry, as attributes by RFC 1464; the value alone where the key begins
/// with `rfc1035-`.
pub(super) fn texts(owner: &Name, meta: &BTreeMap<String, String>) -> Vec<Record> {
    let texts = meta.iter().map(|(key, value)| {
        let plain = key.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("rfc1035-"));
        if plain { value.clone() } else { attribute(key, value) }
    });
    let record = |text: String| {
        let strings = text.as_bytes().chunks(STRING).collect();
        Record::from_rdata(owner.clone(), TTL, RData::TXT(TXT::from_bytes(strings)))
    };
    texts.map(record).collect()
}

/// `key=value`, with backquotes before what would be read otherwise (RFC 1464 §2).
fn attribute(key: &str, value: &str) -> String {
    let (start, end) = (key.len() - key.trim_start().len(), key.trim_end().len());
    let mut text = String::with_capacity(key.len() + value.len() + 1);
    for (at, letter) in key.char_indices() {
        let outer = letter.is_whitespace() && (at < start || at >= end);
        if outer || matches!(letter, '`' | '=') {
            text.push('`');
        }
        text.push(letter);
    }
    text.push('=');
    text.push_str(&value.replace('`', "``"));
    text
}
