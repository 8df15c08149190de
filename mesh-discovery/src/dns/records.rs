//! What of an answer was asked for.
//!
//! A server may add records to an answer that nobody asked for. Only those count that belong to
//! the name asked for, or to the one that its CNAMEs lead to; of the additional section, only
//! addresses of SRV targets of the same answer.

use hickory_resolver::lookup::Lookup;
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

/// The longest chain of CNAMEs that is followed.
const LONGEST_CHAIN: usize = 16;

/// Addresses of one SRV target that came with the answer, and their shortest TTL in seconds.
pub(super) type Additional = (BTreeSet<IpAddr>, u32);

/// The addresses of `name` and the shortest TTL, in seconds, on the way to them.
pub(super) fn addresses(
    lookup: &Lookup,
    name: &Name,
    kind: RecordType,
) -> Result<(BTreeSet<IpAddr>, u32), String> {
    let (owner, ttl) = follow(lookup.answers(), name)?;
    let mut found = (BTreeSet::new(), ttl);
    for record in lookup.answers() {
        if record.name == *owner && record.record_type() == kind {
            add(record, &mut found);
        }
    }
    Ok(found)
}

/// The SRV records of `name` and the shortest TTL on the way to them.
pub(super) fn services<'a>(lookup: &'a Lookup, name: &Name) -> Result<(Vec<&'a SRV>, u32), String> {
    let (owner, mut ttl) = follow(lookup.answers(), name)?;
    let mut found = Vec::new();
    for record in lookup.answers().iter().filter(|record| record.name == *owner) {
        if let RData::SRV(srv) = &record.data {
            found.push(srv);
            ttl = ttl.min(record.ttl);
        }
    }
    Ok((found, ttl))
}

/// What the additional section says, by name in lower case.
pub(super) fn additional(lookup: &Lookup) -> HashMap<Name, Additional> {
    let mut found = HashMap::new();
    for record in lookup.additionals() {
        if record.data.ip_addr().is_some() {
            let name = record.name.to_lowercase();
            add(record, found.entry(name).or_insert((BTreeSet::new(), u32::MAX)));
        }
    }
    found
}

fn add(record: &Record, (ips, ttl): &mut Additional) {
    if let Some(ip) = record.data.ip_addr() {
        ips.insert(ip);
        *ttl = (*ttl).min(record.ttl);
    }
}

/// The name that the CNAMEs of `name` lead to, and their shortest TTL.
fn follow<'a>(answers: &'a [Record], name: &'a Name) -> Result<(&'a Name, u32), String> {
    let mut owner = name;
    let mut ttl = u32::MAX;
    for _ in 0..=LONGEST_CHAIN {
        let next = answers.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == *owner => Some((&target.0, record.ttl)),
            _ => None,
        });
        let Some((target, alias_ttl)) = next else { return Ok((owner, ttl)) };
        owner = target;
        ttl = ttl.min(alias_ttl);
    }
    Err(format!("its chain of CNAMEs is a loop or longer than {LONGEST_CHAIN}"))
}
