//! Addresses of one name: A and AAAA together.
//!
//! Each family stands alone: one that fails keeps the addresses it had, as long as the other
//! answers, so that a server that cannot do AAAA takes nothing away.

use super::Inner;
use super::address::refusal;
use super::records::{self, Additional};
use super::refresh::Trouble;
use super::schedule::LONGEST;
use super::servers::{Reply, Servers};
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// The last addresses of each family.
#[derive(Clone, Debug, Default)]
pub(super) struct Last {
    v4: BTreeSet<IpAddr>,
    v6: BTreeSet<IpAddr>,
}

impl Last {
    fn addresses(&self, name: &Name, ttl: u32, refused: &[String]) -> Result<Addresses, Trouble> {
        let ips: BTreeSet<IpAddr> = self.v4.union(&self.v6).copied().collect();
        let examples = refused.get(..3).unwrap_or(refused).join(", ");
        if ips.is_empty() {
            return Err(Trouble::Failed(format!(
                "{name} resolved only to addresses that are refused by default: {examples}"
            )));
        }
        let note = (!refused.is_empty()).then(|| {
            format!("{name}: addresses left out because they point back at us: {examples}")
        });
        Ok(Addresses { ips, ttl: Duration::from_secs(ttl.into()), note })
    }
}

/// Addresses in ascending order, IPv4 first.
#[derive(Clone, Debug)]
pub(super) struct Addresses {
    pub(super) ips: BTreeSet<IpAddr>,
    pub(super) ttl: Duration,
    /// What of the answer was left out, and why.
    pub(super) note: Option<String>,
}

enum Family {
    Found(BTreeSet<IpAddr>, u32),
    NoData,
    NoSuchName(SocketAddr),
    Failed(String),
}

impl Inner {
    /// The addresses of the first of these names that has some.
    pub(super) async fn first_host(
        &self,
        candidates: &[Name],
        last: &mut Last,
    ) -> Result<Addresses, Trouble> {
        let mut trouble = Trouble::Failed("there is no name to ask for".to_owned());
        for (index, name) in candidates.iter().enumerate() {
            match self.host(name, last).await {
                Err(missing @ Trouble::NoRecord(_)) => trouble = missing,
                Err(missing @ Trouble::NoSuchName(_)) => {
                    // That an earlier candidate exists says more.
                    if index == 0 || matches!(trouble, Trouble::NoSuchName(_)) {
                        trouble = missing;
                    }
                }
                decided => return decided,
            }
        }
        Err(trouble)
    }

    /// The addresses of one name.
    pub(super) async fn host(&self, name: &Name, last: &mut Last) -> Result<Addresses, Trouble> {
        if name.is_localhost() {
            let ips = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()].into();
            return Ok(Addresses { ips, ttl: LONGEST, note: None });
        }
        if let Some(ips) = self.of_hosts_file(name) {
            return Ok(Addresses { ips, ttl: LONGEST, note: None });
        }
        let servers = self.servers().map_err(Trouble::Failed)?;
        let (v4, v6) = tokio::join!(
            family(servers, name, RecordType::A),
            family(servers, name, RecordType::AAAA)
        );
        self.merge(name, v4, v6, last)
    }

    fn merge(
        &self,
        name: &Name,
        v4: Family,
        v6: Family,
        last: &mut Last,
    ) -> Result<Addresses, Trouble> {
        match (&v4, &v6) {
            (Family::Found(..), _) | (_, Family::Found(..)) => {}
            (Family::Failed(a), Family::Failed(b)) if a != b => {
                return Err(Trouble::Failed(format!("{name} did not resolve: {a}; {b}")));
            }
            (Family::Failed(why), _) | (_, Family::Failed(why)) => {
                return Err(Trouble::Failed(format!("{name} did not resolve: {why}")));
            }
            (Family::NoSuchName(server), _) | (_, Family::NoSuchName(server)) => {
                return Err(Trouble::no_such_name(name, *server));
            }
            (Family::NoData, Family::NoData) => {
                return Err(Trouble::NoRecord(format!("{name} has neither A nor AAAA records")));
            }
        }

        let mut ttl = u32::MAX;
        let mut refused = Vec::new();
        for (family, kept) in [(v4, &mut last.v4), (v6, &mut last.v6)] {
            match family {
                Family::Found(ips, of_family) => {
                    *kept = self.permitted(ips, &mut refused);
                    ttl = ttl.min(of_family);
                }
                Family::NoData | Family::NoSuchName(_) => kept.clear(),
                Family::Failed(_) => {}
            }
        }
        last.addresses(name, ttl, &refused)
    }

    /// What came unasked with an SRV answer, under the same rules.
    pub(super) fn given(
        &self,
        name: &Name,
        (ips, ttl): Additional,
        last: &mut Last,
    ) -> Result<Addresses, Trouble> {
        let mut refused = Vec::new();
        let ips = self.permitted(ips, &mut refused);
        (last.v4, last.v6) = ips.into_iter().partition(IpAddr::is_ipv4);
        last.addresses(name, ttl, &refused)
    }

    fn permitted(&self, mut ips: BTreeSet<IpAddr>, refused: &mut Vec<String>) -> BTreeSet<IpAddr> {
        if !self.config.allow_local {
            ips.retain(|&ip| match refusal(ip) {
                Some(why) => {
                    refused.push(format!("{ip} ({why})"));
                    false
                }
                None => true,
            });
        }
        ips
    }

    /// What the administrator of this machine wrote down is asked first, and may be local.
    fn of_hosts_file(&self, name: &Name) -> Option<BTreeSet<IpAddr>> {
        let ips: BTreeSet<_> = [RecordType::A, RecordType::AAAA]
            .into_iter()
            .filter_map(|kind| self.hosts.lookup_static_host(&Query::query(name.clone(), kind)))
            .flat_map(|lookup| {
                lookup
                    .answers()
                    .iter()
                    .filter_map(|record| record.data.ip_addr())
                    .collect::<Vec<_>>()
            })
            .collect();
        (!ips.is_empty()).then_some(ips)
    }
}

async fn family(servers: &Servers, name: &Name, kind: RecordType) -> Family {
    match servers.ask(name, kind).await {
        Reply::Answer(lookup) => match records::addresses(&lookup, name, kind) {
            Ok((ips, _)) if ips.is_empty() => Family::NoData,
            Ok((ips, ttl)) => Family::Found(ips, ttl),
            Err(why) => Family::Failed(why),
        },
        Reply::NoData => Family::NoData,
        Reply::NoSuchName(server) => Family::NoSuchName(server),
        Reply::Failed(why) => Family::Failed(why),
    }
}
