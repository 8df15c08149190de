//! Addresses that a DNS answer may not name (rebinding): whoever controls a name must not turn
//! our calls to the machine we run on or to the cloud's metadata service.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Metadata and platform services of clouds outside the link-local block: Alibaba, Oracle, Azure.
const METADATA_V4: [Ipv4Addr; 3] = [
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
    Ipv4Addr::new(168, 63, 129, 16),
];
/// Amazon's and Google's.
const METADATA_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

/// Why an address is refused; `None` if it may be used.
pub(super) fn refusal(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) => refusal_v4(v4),
        IpAddr::V6(v6) => refusal_v6(v6),
    }
}

fn refusal_v4(v4: Ipv4Addr) -> Option<&'static str> {
    if v4.is_loopback() {
        Some("loopback")
    } else if METADATA_V4.contains(&v4) || v4 == Ipv4Addr::new(169, 254, 169, 254) {
        Some("a cloud's metadata service")
    } else if v4.is_link_local() {
        Some("link-local")
    } else if v4.octets()[0] == 0 {
        Some("unspecified")
    } else if v4.is_multicast() || v4.is_broadcast() {
        Some("not one machine")
    } else {
        None
    }
}

fn refusal_v6(v6: Ipv6Addr) -> Option<&'static str> {
    if let Some(v4) = embedded(v6) {
        return refusal_v4(v4);
    }
    if v6.is_loopback() {
        Some("loopback")
    } else if METADATA_V6.contains(&v6) {
        Some("a cloud's metadata service")
    } else if v6.is_unicast_link_local() {
        Some("link-local")
    } else if v6.is_unspecified() {
        Some("unspecified")
    } else if v6.is_multicast() {
        Some("not one machine")
    } else {
        None
    }
}

/// The IPv4 address that the network makes of it: mapped (`::ffff:0:0/96`), NAT64
/// (`64:ff9b::/96`), 6to4 (`2002::/16`).
fn embedded(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let pair = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match (a, b) {
        (0x64, 0xff9b) if [c, d, e, f] == [0; 4] => Some(pair(g, h)),
        (0x2002, high) => Some(pair(high, c)),
        _ => v6.to_ipv4_mapped(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_points_back_at_us_is_refused_in_every_spelling() {
        for text in [
            "127.0.0.1",
            "127.8.9.10",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.1.1",
            "169.254.169.254",
            "100.100.100.200",
            "192.0.0.192",
            "168.63.129.16",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::1",
        ] {
            assert!(refusal(text.parse().expect("address")).is_some(), "{text}");
        }
    }

    #[test]
    fn what_services_live_on_is_not() {
        for text in [
            "10.0.0.1",
            "192.168.1.1",
            "172.16.0.1",
            "100.64.0.1",
            "8.8.8.8",
            "fd12::1",
            "2001:db8::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
        ] {
            assert_eq!(refusal(text.parse().expect("address")), None, "{text}");
        }
    }
}
