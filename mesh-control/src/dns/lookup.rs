//! From a question to records.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};

use super::question::{Asked, Zone};
use super::record::{self, Place, wanted};
use crate::registry::catalog::{Catalog, Instance, Instances};
use crate::types::{CheckStatus, Node};

/// Names of our own zone that one answer goes through: what they lead to may be a ring.
const HOPS: u8 = 3;
/// Servers that are told as those of the zone.
const SERVERS: usize = 3;
/// The service that the servers are in the catalog.
const SERVER: &str = "consul";

/// A record of the answer with what explains it: they are sent together or not at all.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) record: Record,
    pub(super) with: Vec<Record>,
}

impl Entry {
    fn alone(record: Record) -> Self {
        Self { record, with: Vec::new() }
    }
}

/// What was found, before it is fitted into a packet.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) code: ResponseCode,
    pub(super) authoritative: bool,
    pub(super) answers: Vec<Entry>,
    pub(super) authorities: Vec<Record>,
    pub(super) additionals: Vec<Record>,
}

impl Found {
    fn failed(code: ResponseCode) -> Self {
        Self {
            code,
            authoritative: false,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
        }
    }

    fn answers(answers: Vec<Entry>) -> Self {
        Self { authoritative: true, answers, ..Self::failed(ResponseCode::NoError) }
    }

    fn no_such_name() -> Self {
        Self { authoritative: true, ..Self::failed(ResponseCode::NXDomain) }
    }
}

/// Finds what `query` asks for; `serial` is the version of the zone.
pub(super) fn find(zone: &Zone, catalog: &Catalog, query: &Query, serial: u32) -> Found {
    if !matches!(query.query_class, DNSClass::IN | DNSClass::ANY) {
        return Found::failed(ResponseCode::Refused);
    }
    if matches!(query.query_type, RecordType::AXFR | RecordType::IXFR) {
        return Found::failed(ResponseCode::NotImp);
    }
    let lookup = Lookup { zone, catalog };
    let mut found = match (zone.read(&query.name), query.query_type) {
        (Asked::Outside, _) => return Found::failed(ResponseCode::Refused),
        (Asked::Pointer(ip), asked) => match lookup.owner_of(ip) {
            // We do not know who else has addresses, so it is not that there is none.
            None => return Found::failed(ResponseCode::ServFail),
            Some(_) if !wanted(asked, RecordType::PTR) => Found::answers(Vec::new()),
            Some(owner) => Found::answers(vec![Entry::alone(record::pointer(&query.name, owner))]),
        },
        (_, RecordType::NS) => Found::answers(lookup.servers()),
        (_, RecordType::SOA) => {
            let mut found =
                Found::answers(zone.soa(serial).map(Entry::alone).into_iter().collect());
            for Entry { record, with } in lookup.servers() {
                found.authorities.push(record);
                found.additionals.extend(with);
            }
            found
        }
        (asked, kind) => lookup.records(&query.name, &asked, kind, HOPS),
    };
    if found.answers.is_empty() {
        found.authorities.extend(zone.soa(serial));
    }
    found
}

struct Lookup<'a> {
    zone: &'a Zone,
    catalog: &'a Catalog,
}

impl Lookup<'_> {
    fn records(&self, owner: &Name, asked: &Asked, kind: RecordType, hops: u8) -> Found {
        match asked {
            Asked::Service { name, tag, connect } => {
                let instances = self.well(name, tag.as_deref(), *connect);
                if instances.is_empty() {
                    return Found::no_such_name();
                }
                Found::answers(match kind {
                    RecordType::SRV => self.ports(owner, &instances, hops),
                    _ => self.addresses(owner, &instances, kind, hops),
                })
            }
            Asked::Node(name) => match self.catalog.node(name) {
                Some(node) => self.node(owner, node, kind, hops),
                None => Found::no_such_name(),
            },
            Asked::Address(ip) => {
                let record = record::address(owner, *ip);
                if wanted(kind, record.record_type()) {
                    return Found::answers(vec![Entry::alone(record)]);
                }
                Found { additionals: vec![record], ..Found::answers(Vec::new()) }
            }
            Asked::Pointer(_) | Asked::Nothing | Asked::Outside => Found::no_such_name(),
        }
    }

    /// The instances that are not critical, in random order.
    fn well(&self, name: &str, tag: Option<&str>, connect: bool) -> Vec<Instance> {
        let which = if connect { Instances::Connect } else { Instances::Named };
        let mut instances = self.catalog.instances(name, which).value;
        instances.retain(|instance| {
            instance.status() != CheckStatus::Critical
                && tag.is_none_or(|tag| instance.has_tag(tag))
        });
        fastrand::shuffle(&mut instances);
        instances
    }

    fn addresses(
        &self,
        owner: &Name,
        instances: &[Instance],
        kind: RecordType,
        hops: u8,
    ) -> Vec<Entry> {
        let addresses: HashSet<_> = instances.iter().map(reached_at).collect();
        let places: Vec<_> = addresses.into_iter().filter_map(Place::of).collect();
        let ips = places.iter().filter_map(|place| match place {
            Place::Ip(ip) => Some(*ip),
            Place::Name(_) => None,
        });
        let mut records: Vec<_> = ips.map(|ip| record::address(owner, ip)).collect();
        // A name that is an alias is nothing else (RFC 1034 §3.6.2): only where there is no address.
        if records.is_empty() {
            let alias = places.into_iter().find_map(|place| match place {
                Place::Name(target) => Some(target),
                Place::Ip(_) => None,
            });
            return alias.map_or_else(Vec::new, |target| self.alias(owner, target, kind, hops));
        }
        records.retain(|record| wanted(kind, record.record_type()));
        fastrand::shuffle(&mut records);
        records.into_iter().map(Entry::alone).collect()
    }

    /// That the owner is another name, and what that one is if it is ours.
    fn alias(&self, owner: &Name, target: Name, kind: RecordType, hops: u8) -> Vec<Entry> {
        let mut further = match hops.checked_sub(1) {
            Some(hops) if kind != RecordType::CNAME => self.follow(&target, kind, hops),
            _ => Vec::new(),
        };
        further.insert(0, Entry::alone(record::alias(owner, target)));
        further
    }

    fn follow(&self, target: &Name, kind: RecordType, hops: u8) -> Vec<Entry> {
        let asked = self.zone.read(target);
        self.records(target, &asked, kind, hops).answers
    }

    fn ports(&self, owner: &Name, instances: &[Instance], hops: u8) -> Vec<Entry> {
        let mut seen = BTreeSet::new();
        let mut entries = Vec::with_capacity(instances.len());
        for instance in instances {
            let Some((target, with)) = self.target(instance, hops) else { continue };
            let port = instance.service.port;
            if seen.insert((target.clone(), port)) {
                let record = record::srv(owner, weight(instance), port, target);
                entries.push(Entry { record, with });
            }
        }
        entries
    }

    /// The name that an instance is reached by, and what to know of that name.
    fn target(&self, instance: &Instance, hops: u8) -> Option<(Name, Vec<Record>)> {
        let node = &instance.node;
        match Place::of(reached_at(instance))? {
            Place::Name(target) => {
                let with = hops.checked_sub(1).map_or_else(Vec::new, |hops| {
                    let found = self.follow(&target, RecordType::ANY, hops);
                    found.into_iter().map(|entry| entry.record).collect()
                });
                Some((target, with))
            }
            Place::Ip(ip) => {
                let own = instance.service.address.is_empty();
                let of_node = if own { self.zone.of_node(&node.name) } else { None };
                if let Some(name) = of_node {
                    let mut with = vec![record::address(&name, ip)];
                    with.extend(record::texts(&name, &node.meta));
                    return Some((name, with));
                }
                let name = self.zone.of_address(ip)?;
                let with = vec![record::address(&name, ip)];
                Some((name, with))
            }
        }
    }

    fn node(&self, owner: &Name, node: &Node, kind: RecordType, hops: u8) -> Found {
        let mut answers = match Place::of(&node.address) {
            Some(Place::Ip(ip)) => vec![Entry::alone(record::address(owner, ip))],
            Some(Place::Name(target)) => {
                return Found::answers(self.alias(owner, target, kind, hops));
            }
            None => Vec::new(),
        };
        answers.retain(|entry| wanted(kind, entry.record.record_type()));
        let texts = record::texts(owner, &node.meta);
        if wanted(kind, RecordType::TXT) {
            answers.extend(texts.into_iter().map(Entry::alone));
            return Found::answers(answers);
        }
        let additionals =
            if matches!(kind, RecordType::A | RecordType::AAAA) { texts } else { Vec::new() };
        Found { additionals, ..Found::answers(answers) }
    }

    /// The name of the node that has this address, or else of a service that does.
    fn owner_of(&self, ip: IpAddr) -> Option<Name> {
        let is = |address: &str| address.parse() == Ok(ip);
        let nodes = self.catalog.nodes().value;
        if let Some(node) = nodes.iter().find(|node| is(&node.address)) {
            return self.zone.of_node(&node.name);
        }
        let services = nodes.iter().filter_map(|node| self.catalog.node_services(&node.name).value);
        let mut services = services.flat_map(|on| on.services);
        let service = services.find(|service| is(&service.address))?;
        self.zone.of_service(&service.name)
    }

    /// The servers of the zone that are not critical, each with its address.
    fn servers(&self) -> Vec<Entry> {
        let servers = self.well(SERVER, None, false);
        let named = servers.iter().filter_map(|server| {
            let name = self.zone.of_node(&server.node.name)?;
            let with = match Place::of(&server.node.address) {
                Some(Place::Ip(ip)) => vec![record::address(&name, ip)],
                _ => Vec::new(),
            };
            Some(Entry { record: self.zone.ns(name), with })
        });
        named.take(SERVERS).collect()
    }
}

/// The address of an instance: its own, or its node's.
fn reached_at(instance: &Instance) -> &str {
    let own = &instance.service.address;
    if own.is_empty() { &instance.node.address } else { own }
}

fn weight(instance: &Instance) -> u32 {
    let weights = instance.service.weights;
    match instance.status() {
        CheckStatus::Passing => weights.passing,
        _ => weights.warning,
    }
}
