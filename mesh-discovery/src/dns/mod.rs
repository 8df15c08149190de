//! DNS: A and AAAA, or SRV, asked again when the TTL ends.
//!
//! - **Plain name and port**: A and AAAA are asked side by side. At most one address of each
//!   family is one machine with two addresses, hence one endpoint; more are one endpoint per
//!   address. The identity of an endpoint is its address (IPv4 if it has both) and port.
//! - **Name without port**: SRV, with priority, weight and port; see RFC 2782.
//! - **IP literal**: that address; nobody is asked. **`localhost`**: the loopback addresses
//!   (RFC 6761). Names in the hosts file, read once: the addresses there.
//! - **When**: TTL within [`Config::min_refresh`] and [`Config::max_refresh`], ±10 %; sooner on a
//!   [nudge](crate::Watch::nudge), at most once per second; after failures a back-off with full
//!   jitter up to 30 s. One name server after the other, until one answers.
//! - **What is believed**: an answer with addresses, whole, however few. SERVFAIL, timeouts and
//!   empty answers change nothing. NXDOMAIN is believed at the third in a row.
//! - **What is refused**: loopback, link-local, metadata and other addresses that point back at
//!   us, unless [`Config::allow_local`]; records that nobody asked for; more than
//!   [`Config::max_endpoints`].
//!
//! Names with fewer dots than the system's `ndots` are tried with its search domains first, as
//! the C library does. A and AAAA always come from the same one of these names.

mod address;
mod host;
mod records;
mod refresh;
mod schedule;
mod servers;
mod srv;

use crate::{Resolve, StaticList, Watch};
use hickory_resolver::Hosts;
use hickory_resolver::config::ResolverOpts;
use hickory_resolver::proto::rr::Name;
use hickory_resolver::system_conf::read_system_conf;
use host::Last;
use mesh_core::EndpointSpec;
use refresh::{Answer, Ask, Trouble, dns_failure, run};
use schedule::Schedule;
use servers::Servers;
use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Settings of [`Dns`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Name servers, asked in this order. Empty, the default: those of the system
    /// (`/etc/resolv.conf`), with its search domains, `ndots` and EDNS setting.
    pub servers: Vec<SocketAddr>,
    /// Longest wait for one server, over UDP and again over TCP. 2 s, or the system's if that is
    /// shorter.
    pub timeout: Duration,
    /// No answer is believed for less, whatever its TTL; 1 s to 1 h. 5 s: a dead address is met
    /// by a nudge, so the floor only delays *new* endpoints, while servers that say 0 (Consul
    /// does) would otherwise be asked by every client every second.
    pub min_refresh: Duration,
    /// No answer is believed for longer; up to 1 h. 1 h.
    pub max_refresh: Duration,
    /// Whether answers may name loopback, link-local and metadata addresses. No.
    pub allow_local: bool,
    /// Most endpoints taken from one name: those with the lowest priority number and address.
    /// 1,000.
    pub max_endpoints: usize,
    /// Seed of the jitter, for tests. None: drawn.
    pub seed: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            timeout: Duration::from_secs(2),
            min_refresh: Duration::from_secs(5),
            max_refresh: schedule::LONGEST,
            allow_local: false,
            max_endpoints: 1_000,
            seed: None,
        }
    }
}

/// The way to the name servers; cheap to clone, shared by all destinations.
///
/// ```
/// use mesh_discovery::{Dns, Resolve, Update};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let mut watch = Dns::system().resolver("127.0.0.1", Some(8080)).watch();
/// let Some(Update::Endpoints(set)) = watch.changed().await else { panic!() };
/// assert_eq!(set[0].id.as_str(), "127.0.0.1:8080");
/// # }
/// ```
#[derive(Clone)]
pub struct Dns {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    /// Or why there are none: literals and `localhost` still work.
    servers: Result<Servers, String>,
    search: Vec<Name>,
    ndots: usize,
    hosts: Hosts,
}

impl Dns {
    /// The system's name servers, and defaults.
    #[must_use]
    pub fn system() -> Self {
        Self::new(Config::default())
    }

    /// With these settings. A system configuration that cannot be read is told by each name that
    /// needs it.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let mut options = ResolverOpts::default();
        let mut addresses = config.servers.clone();
        let mut search = Vec::new();
        let mut unread = None;
        if addresses.is_empty() {
            match read_system_conf() {
                Ok((system, system_options)) => {
                    options = system_options;
                    addresses = system
                        .name_servers()
                        .iter()
                        .filter_map(|server| {
                            Some(SocketAddr::new(server.ip, server.connections.first()?.port))
                        })
                        .collect();
                    search = system.domain().into_iter().chain(system.search()).cloned().collect();
                }
                Err(error) => unread = Some(format!("the system's DNS settings: {error}")),
            }
        }
        options.timeout = options.timeout.min(config.timeout);
        let servers = match unread {
            Some(why) => Err(why),
            None => Servers::new(&addresses, &options),
        };
        let hosts = Hosts::from_system().unwrap_or_default();
        Self { inner: Arc::new(Inner { config, servers, search, ndots: options.ndots, hosts }) }
    }

    /// The source for one name: with a port A and AAAA, without one SRV.
    #[must_use]
    pub fn resolver(&self, host: &str, port: Option<u16>) -> DnsName {
        DnsName { inner: self.inner.clone(), host: host.into(), port }
    }
}

impl fmt::Debug for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dns").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

impl Inner {
    fn servers(&self) -> Result<&Servers, String> {
        self.servers.as_ref().map_err(Clone::clone)
    }

    /// The names to try for `host`, in order, all absolute.
    fn candidates(&self, host: &str) -> Result<Vec<Name>, String> {
        // IDNA reads "_tcp" as a mistake; plain ASCII needs none.
        let parsed = if host.is_ascii() { Name::from_ascii(host) } else { Name::from_utf8(host) };
        let name = parsed
            .map_err(|error| format!("\"{}\" is no DNS name: {error}", host.escape_debug()))?;
        if name.is_root() {
            return Err("the name to resolve is empty".to_owned());
        }
        let mut absolute = name.clone();
        absolute.set_fqdn(true);
        if name.is_fqdn() || name.is_localhost() {
            return Ok(vec![absolute]);
        }
        let dots = usize::from(name.num_labels()).saturating_sub(1);
        let searched = self.search.iter().filter_map(|domain| {
            let mut candidate = name.clone().append_domain(domain).ok()?;
            candidate.set_fqdn(true);
            Some(candidate)
        });
        let mut candidates: Vec<Name> = if dots >= self.ndots {
            std::iter::once(absolute.clone()).chain(searched).collect()
        } else {
            searched.chain(std::iter::once(absolute.clone())).collect()
        };
        let mut seen = BTreeSet::new();
        candidates.retain(|candidate| seen.insert(candidate.clone()));
        Ok(candidates)
    }
}

/// One name as a source of endpoints.
#[derive(Clone)]
pub struct DnsName {
    inner: Arc<Inner>,
    host: Arc<str>,
    port: Option<u16>,
}

impl fmt::Debug for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DnsName").field("host", &self.host).field("port", &self.port).finish()
    }
}

impl Resolve for DnsName {
    fn watch(&self) -> Watch {
        let bare = self.host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if let Ok(ip) = bare.unwrap_or(&self.host).parse::<IpAddr>() {
            return match self.port {
                Some(port) => {
                    StaticList::new(vec![EndpointSpec::new(SocketAddr::new(ip, port))]).watch()
                }
                None => Watch::of_failure(dns_failure(format!(
                    "{ip} is an address without a port: write {}",
                    SocketAddr::new(ip, 80)
                ))),
            };
        }
        let candidates = match self.inner.candidates(&self.host) {
            Ok(candidates) => candidates,
            Err(why) => return Watch::of_failure(dns_failure(why)),
        };
        let inner = self.inner.clone();
        let schedule = Schedule::new(&inner.config);
        let rng = inner.config.seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        match self.port {
            Some(port) => {
                let host = self.host.clone();
                let ask = Host { inner, candidates, host, port, last: Last::default() };
                Watch::spawn(|publisher, nudged| run(ask, schedule, rng, publisher, nudged))
            }
            None => {
                let ask = srv::Services::new(inner, candidates);
                Watch::spawn(|publisher, nudged| run(ask, schedule, rng, publisher, nudged))
            }
        }
    }
}

/// Asks for the addresses of a name.
struct Host {
    inner: Arc<Inner>,
    candidates: Vec<Name>,
    host: Arc<str>,
    port: u16,
    last: Last,
}

impl Ask for Host {
    async fn ask(&mut self) -> Result<Answer, Trouble> {
        let found = self.inner.first_host(&self.candidates, &mut self.last).await?;
        let max = self.inner.config.max_endpoints;
        let specs = endpoints(&found.ips, self.port, &self.host)
            .into_iter()
            .take(max)
            .map(|(spec, _)| spec)
            .collect();
        let note = if found.ips.len() > max {
            let count = found.ips.len();
            Some(format!("{} has {count} addresses, of which the first {max} are used", self.host))
        } else {
            found.note
        };
        Ok(Answer { specs, ttl: found.ttl, note })
    }
}

/// The endpoints behind the addresses of one name, each with the number of those that share
/// the name.
fn endpoints(ips: &BTreeSet<IpAddr>, port: u16, hostname: &str) -> Vec<(EndpointSpec, u32)> {
    let hostname: Arc<str> = hostname.into();
    let addresses: Vec<SocketAddr> = ips.iter().map(|&ip| SocketAddr::new(ip, port)).collect();
    let spec = |address| EndpointSpec::new(address).with_hostname(hostname.clone());
    match *addresses {
        [v4, v6] if v4.is_ipv4() && v6.is_ipv6() => {
            vec![(spec(v4).with_address(v6), 1)]
        }
        _ => {
            let share = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
            addresses.into_iter().map(|address| (spec(address), share)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inner(search: &[&str], ndots: usize, hosts: &str) -> Inner {
        let mut table = Hosts::default();
        table.read_hosts_conf(hosts.as_bytes()).expect("a hosts file");
        Inner {
            config: Config::default(),
            servers: Err("there are no servers here".to_owned()),
            search: search.iter().map(|name| Name::from_ascii(name).expect("name")).collect(),
            ndots,
            hosts: table,
        }
    }

    #[test]
    fn search_domains_come_first_for_names_with_few_dots() {
        let cluster = inner(&["a.svc.local", "svc.local.", "a.svc.local"], 2, "");
        for (host, wanted) in [
            ("web", vec!["web.a.svc.local.", "web.svc.local.", "web."]),
            ("web.b", vec!["web.b.a.svc.local.", "web.b.svc.local.", "web.b."]),
            ("web.b.test", vec!["web.b.test.", "web.b.test.a.svc.local.", "web.b.test.svc.local."]),
            ("web.", vec!["web."]),
            ("localhost", vec!["localhost."]),
            ("bücher.test.", vec!["xn--bcher-kva.test."]),
        ] {
            let names = cluster.candidates(host).expect("a name");
            assert_eq!(names.iter().map(Name::to_ascii).collect::<Vec<_>>(), wanted, "{host}");
        }
    }

    #[tokio::test]
    async fn the_hosts_file_is_believed_even_of_loopback_and_without_servers() {
        let inner = inner(&["svc.local"], 1, "127.0.0.1 app.test\nfd00::1 web.svc.local\n");
        let mut last = Last::default();
        let names = inner.candidates("app.test").expect("a name");
        let found = inner.first_host(&names, &mut last).await.expect("it is in the file");
        assert_eq!(found.ips, ["127.0.0.1".parse().expect("address")].into());

        let names = inner.candidates("web").expect("a name");
        let found = inner.first_host(&names, &mut last).await.expect("by the search domain");
        assert_eq!(found.ips, ["fd00::1".parse().expect("address")].into());

        let names = inner.candidates("other.test").expect("a name");
        let trouble = inner.first_host(&names, &mut last).await.expect_err("nobody to ask");
        assert_eq!(trouble.sentence(), "there are no servers here");
    }
}
