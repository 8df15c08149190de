//! The catalog by DNS, as Consul tells it on port 8600.
//!
//! | name | answers |
//! |---|---|
//! | `[TAG.]SERVICE.service[.DC].consul` | A, AAAA, SRV of the instances that are not critical |
//! | `_SERVICE._TAG.service[.DC].consul` | the same by RFC 2782; `_tcp` stands for every tag |
//! | `SERVICE.connect[.DC].consul` | what speaks mutual TLS for it |
//! | `NODE.node[.DC].consul` | A or AAAA, and TXT of its metadata |
//! | `HEX.addr[.DC].consul` | the address that is written in it |
//! | `….in-addr.arpa`, `….ip6.arpa` | PTR to the node, or else the service, of that address |
//!
//! A service or node whose address is a name answers CNAME. Checks of the node count for all that
//! is on it; one that warns serves, with its weight for that. Records come in random order with a
//! TTL of 0. A name that leads to nothing is NXDOMAIN; one that has other types than those asked
//! for has no data; other zones are refused.
//!
//! By UDP an answer has up to 512 bytes and three records, or with EDNS (RFC 6891) as many bytes as
//! the client takes, at most 4,096. What is cut off for its size is marked truncated, and whole by
//! TCP. Consul marks only if configured to, and answers some types that were not asked for.
//!
//! `question` reads names, `lookup` finds records, `message` fits them into a packet, and
//! `listen` has the sockets.

mod listen;
mod lookup;
mod message;
mod question;
mod record;

use std::fmt;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use crate::clock;
use crate::registry::Registry;

pub(crate) use listen::Sockets;
use message::Read;
use question::Zone;

/// What a query came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transport {
    /// Datagrams: answers are cut to what the client takes.
    Udp,
    /// A stream: answers are whole up to 64 KiB.
    Tcp,
}

/// Answers queries from a registry. See the [module docs](self).
#[derive(Clone)]
pub struct Dns {
    registry: Registry,
    zone: Arc<Zone>,
}

impl fmt::Debug for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dns").field("zone", &self.zone).finish_non_exhaustive()
    }
}

impl Dns {
    /// Answers for this datacenter.
    #[must_use]
    pub fn new(registry: Registry, datacenter: &str) -> Self {
        Self { registry, zone: Arc::new(Zone::new(datacenter)) }
    }

    /// The answer to one query, both as on the wire; `None` for what is no query at all.
    #[must_use]
    pub fn answer(&self, query: &[u8], over: Transport) -> Option<Vec<u8>> {
        let ask = match message::read(query) {
            Read::Drop => return None,
            Read::Refused(reply) => return reply.to_vec().ok(),
            Read::Ask(ask) => ask,
        };
        // Secondary servers, of which there are none, would see a new version at each query.
        let now = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let serial = u32::try_from(now & u64::from(u32::MAX)).unwrap_or_default();
        let found =
            self.registry.read(|view| lookup::find(&self.zone, view.catalog(), &ask.query, serial));
        message::write(&ask, found, over)
    }
}

#[cfg(test)]
mod tests;
