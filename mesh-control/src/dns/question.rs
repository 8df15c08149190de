//! What a name asks for.
//!
//! The rightmost label that is a kind (`service`, `node`, …) parts the name: what is before it is
//! whose, and what is after it is the datacenter, in one label or none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::Name;

/// The zone that is answered for.
#[derive(Debug)]
pub(super) struct Zone {
    /// `consul.`
    pub(super) domain: Name,
    /// The datacenter that the catalog is of.
    pub(super) datacenter: String,
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Instances of a service.
    Service {
        name: String,
        /// Only those with this tag.
        tag: Option<String>,
        /// Those that speak mutual TLS for it.
        connect: bool,
    },
    /// A node.
    Node(String),
    /// An address, which is in the name itself.
    Address(IpAddr),
    /// Who has this address.
    Pointer(IpAddr),
    /// The zone has no such name.
    Nothing,
    /// It is a name of another zone.
    Outside,
}

impl Zone {
    pub(super) fn new(datacenter: &str) -> Self {
        let domain = Name::from_labels([&b"consul"[..]]).unwrap_or_else(|_| Name::root());
        Self { domain, datacenter: datacenter.to_owned() }
    }

    pub(super) fn read(&self, name: &Name) -> Asked {
        if !self.domain.zone_of(name) {
            return pointer(name).map_or(Asked::Outside, Asked::Pointer);
        }
        // Not by `num_labels`, which leaves out a `*`.
        let own = name.iter().count().saturating_sub(self.domain.iter().count());
        let labels = name.iter().take(own).map(|label| std::str::from_utf8(label).ok());
        let Some(labels) = labels.collect::<Option<Vec<_>>>() else { return Asked::Nothing };
        self.parts(&labels).unwrap_or(Asked::Nothing)
    }

    fn parts(&self, labels: &[&str]) -> Option<Asked> {
        let is_kind = |label: &&str| {
            ["service", "connect", "node", "addr"]
                .iter()
                .any(|kind| label.eq_ignore_ascii_case(kind))
        };
        let at = labels.iter().rposition(is_kind)?;
        let (before, rest) = labels.split_at_checked(at)?;
        let (kind, after) = rest.split_first()?;
        match after {
            [] => {}
            [datacenter] if datacenter.eq_ignore_ascii_case(&self.datacenter) => {}
            _ => return None,
        }
        let (last, others) = before.split_last()?;
        match &*kind.to_ascii_lowercase() {
            "service" => service(before),
            "connect" => {
                Some(Asked::Service { name: (*last).to_owned(), tag: None, connect: true })
            }
            "node" => Some(Asked::Node(before.join("."))),
            _ if others.is_empty() => Some(Asked::Address(address(last)?)),
            _ => None,
        }
    }
}

fn service(before: &[&str]) -> Option<Asked> {
    if let [name, tag] = before
        && let (Some(name), Some(tag)) = (name.strip_prefix('_'), tag.strip_prefix('_'))
    {
        let tag = (!tag.eq_ignore_ascii_case("tcp")).then(|| tag.to_owned());
        return Some(Asked::Service { name: name.to_owned(), tag, connect: false });
    }
    let (name, tag) = before.split_last()?;
    // A tag may have dots.
    let tag = (!tag.is_empty()).then(|| tag.join("."));
    Some(Asked::Service { name: (*name).to_owned(), tag, connect: false })
}

/// The address that hexadecimal digits spell: 8 of IPv4, 32 of IPv6.
fn address(hex: &str) -> Option<IpAddr> {
    if !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    match hex.len() {
        8 => u32::from_str_radix(hex, 16).ok().map(|bits| Ipv4Addr::from_bits(bits).into()),
        32 => u128::from_str_radix(hex, 16).ok().map(|bits| Ipv6Addr::from_bits(bits).into()),
        _ => None,
    }
}

/// The address that a name under `in-addr.arpa` or `ip6.arpa` spells, if it does so whole.
fn pointer(name: &Name) -> Option<IpAddr> {
    let net = name.parse_arpa_name().ok()?;
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}
