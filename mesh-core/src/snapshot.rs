//! Snapshot: everything that configuration says, compiled, immutable, swapped whole.
//!
//! What is compiled here is never looked up by text again: a route holds indices of destinations
//! and merged policies.

mod consul;

pub use consul::ConsulService;

use crate::config::{
    AppProtocol, Diagnostic, Direction, ListenerProtocol, Origin, Origins, ServerPolicy,
};
use crate::draw::Draw;
use crate::endpoint::EndpointSpec;
use crate::name::DestinationName;
use crate::policy::Policy;
use crate::rate_limit;
use crate::route::filter::Filters;
use crate::route::{self, Backend, Entries, HostTable, RouteRequest, Rule};
use foldhash::fast::FixedState;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// A compiled configuration.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Snapshot {
    /// Grows with every configuration that is put in force; 0 is that of nothing.
    pub version: u64,
    pub(crate) destinations: Vec<DestinationConfig>,
    pub(crate) by_name: HashMap<DestinationName, DestinationId, FixedState>,
    pub(crate) hosts: HostTable<Entries>,
    /// By destination: its own rules, for whoever knows the destination already.
    pub(crate) own: Vec<Entries>,
    /// By destination: the rule of its connections.
    pub(crate) tcp: Vec<Arc<Rule>>,
    /// Those to which a `TCPRoute` is attached.
    pub(crate) tcp_routed: HashSet<DestinationId>,
    /// The rules of TLS connections by the name that clients ask for: by destination, and under
    /// `None` for whoever knows no destination.
    pub(crate) tls: HashMap<Option<DestinationId>, HostTable<Arc<Rule>>>,
    pub(crate) route_limits: Vec<RouteLimit>,
    pub(crate) listeners: Vec<ListenerConfig>,
    pub(crate) servers: ServerPolicies,
    pub(crate) default_policy: Arc<Policy>,
    pub(crate) default_origins: Arc<Origins>,
    pub(crate) warnings: Vec<Diagnostic>,
}

/// Server policies by the level they are written for.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServerPolicies {
    pub(crate) mesh: Arc<ServerPolicy>,
    pub(crate) namespaces: HashMap<String, Arc<ServerPolicy>>,
    pub(crate) services: HashMap<DestinationName, Arc<ServerPolicy>>,
}

/// The rate limit of a route: its calls count against buckets of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouteLimit {
    /// Kind, namespace and name of the route.
    pub route: Arc<str>,
    /// What is allowed.
    pub config: rate_limit::Config,
}

/// The index of a [`RouteLimit`] in one snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteLimitId(pub(crate) u32);

impl RouteLimitId {
    /// The index into [`Snapshot::route_limits`].
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// The index of a destination in one snapshot. Another snapshot numbers them anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DestinationId(pub(crate) u32);

impl DestinationId {
    /// The index into [`Snapshot::destinations`].
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl Snapshot {
    /// The snapshot of no configuration: no host is known, every policy is the default.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// Every destination; a [`DestinationId`] is an index into it.
    #[must_use]
    pub fn destinations(&self) -> &[DestinationConfig] {
        &self.destinations
    }

    /// The rate limits of routes; a [`RouteLimitId`] is an index into it.
    #[must_use]
    pub fn route_limits(&self) -> &[RouteLimit] {
        &self.route_limits
    }

    /// The destination of a name.
    #[must_use]
    pub fn destination(&self, name: &DestinationName) -> Option<DestinationId> {
        self.by_name.get(name).copied()
    }

    /// Decides on a request: by host, then rule, then weight.
    ///
    /// # Errors
    /// When nothing is configured for the host, no rule of it matches, or the rule that does
    /// sends no request anywhere.
    pub fn route<'a>(
        &'a self,
        request: &RouteRequest<'_>,
        draw: &mut impl Draw,
    ) -> Result<Routed<'a>, Unrouted> {
        match self.hosts.find(&route::canonical(request.authority)) {
            Some(entries) => route::first(entries, request, draw),
            None => Err(Unrouted::UnknownHost),
        }
    }

    /// Decides on a request whose destination is known already, by the routes attached to it
    /// alone, whatever its authority.
    ///
    /// # Errors
    /// When no rule matches, or the rule that does sends no request anywhere.
    pub fn route_to<'a>(
        &'a self,
        destination: DestinationId,
        request: &RouteRequest<'_>,
        draw: &mut impl Draw,
    ) -> Result<Routed<'a>, Unrouted> {
        match self.own.get(destination.index()) {
            Some(entries) => route::first(entries, request, draw),
            None => Err(Unrouted::UnknownHost),
        }
    }

    /// Decides on a connection to a destination, by its `TCPRoute` if it has one.
    ///
    /// # Errors
    /// When its rule sends no connection anywhere.
    pub fn route_connection<'a>(
        &'a self,
        destination: DestinationId,
        draw: &mut impl Draw,
    ) -> Result<Routed<'a>, Unrouted> {
        let rule = self.tcp.get(destination.index()).ok_or(Unrouted::UnknownHost)?;
        match rule.choose(draw) {
            Some(backend) => Ok(Routed { rule, backend }),
            None => Err(Unrouted::NoBackend { rule: rule.name.clone() }),
        }
    }

    /// Decides on a TLS connection by the name that its client asks for (SNI): by the `TLSRoute`s
    /// attached to a destination, or by all where no destination is known.
    ///
    /// # Errors
    /// When no route is for the name, or its rule sends no connection anywhere.
    pub fn route_tls<'a>(
        &'a self,
        destination: Option<DestinationId>,
        name: &str,
        draw: &mut impl Draw,
    ) -> Result<Routed<'a>, Unrouted> {
        let found =
            self.tls.get(&destination).and_then(|names| names.find(&route::canonical(name)));
        let rule = found.ok_or_else(|| Unrouted::NoMatch { host: name.into() })?;
        match rule.choose(draw) {
            Some(backend) => Ok(Routed { rule, backend }),
            None => Err(Unrouted::NoBackend { rule: rule.name.clone() }),
        }
    }

    /// Whether a `TCPRoute` is attached to a destination.
    #[must_use]
    pub fn has_tcp_route(&self, destination: DestinationId) -> bool {
        self.tcp_routed.contains(&destination)
    }

    /// What is tried for the host of an authority, in order.
    pub(crate) fn entries(&self, authority: &str) -> Option<&Entries> {
        self.hosts.find(&route::canonical(authority))
    }

    /// What is tried for whoever knows the destination already, in order.
    pub(crate) fn own_entries(&self, destination: DestinationId) -> Option<&Entries> {
        self.own.get(destination.index())
    }

    /// The listeners of a proxy.
    #[must_use]
    pub fn listeners(&self) -> &[ListenerConfig] {
        &self.listeners
    }

    /// How a service receives: its own policy over that of its namespace over that of the mesh.
    #[must_use]
    pub fn server_policy(&self, name: &DestinationName) -> &Arc<ServerPolicy> {
        let servers = &self.servers;
        servers
            .services
            .get(name)
            .or_else(|| servers.namespaces.get(name.namespace()))
            .unwrap_or(&servers.mesh)
    }

    /// What holds for calls that arrive at a service without a name of its own.
    #[must_use]
    pub const fn default_server_policy(&self) -> &Arc<ServerPolicy> {
        &self.servers.mesh
    }

    /// The policy of what has none of its own: that of the mesh.
    #[must_use]
    pub const fn default_policy(&self) -> &Arc<Policy> {
        &self.default_policy
    }

    /// Where the values of [`Snapshot::default_policy`] come from.
    #[must_use]
    pub const fn default_origins(&self) -> &Arc<Origins> {
        &self.default_origins
    }

    /// What looked odd, though it could be compiled.
    #[must_use]
    pub fn warnings(&self) -> &[Diagnostic] {
        &self.warnings
    }
}

/// A decision on a request.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Routed<'a> {
    /// The rule that matched.
    pub rule: &'a Arc<Rule>,
    /// The one of its destinations that was drawn.
    pub backend: &'a Backend,
}

/// Why there is no decision.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Unrouted {
    /// Nothing is configured for the host. The caller may fall back to plain DNS.
    UnknownHost,
    /// The host is configured, and none of its rules matches.
    NoMatch {
        /// The host.
        host: Box<str>,
    },
    /// A rule matches, and all its weights are 0.
    NoBackend {
        /// The rule.
        rule: Arc<str>,
    },
    /// A rule matches, and answers by itself.
    Answered {
        /// The rule.
        rule: Arc<str>,
        /// What it does; `answer` is there.
        filters: Arc<Filters>,
    },
}

impl fmt::Display for Unrouted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownHost => f.write_str("nothing is configured for this host"),
            Self::NoMatch { host } => {
                write!(f, "no rule of host `{}` matches the request", host.escape_debug())
            }
            Self::NoBackend { rule } => write!(f, "all weights of rule `{rule}` are 0"),
            Self::Answered { rule, .. } => write!(f, "rule `{rule}` answers by itself"),
        }
    }
}

impl std::error::Error for Unrouted {}

/// One destination.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DestinationConfig {
    /// Its name.
    pub name: DestinationName,
    /// Where its endpoints come from.
    pub endpoints: EndpointSource,
    /// Its policy, merged from mesh, namespace and service.
    pub policy: Arc<Policy>,
    /// TLS to its endpoints; `None` is plain text.
    pub tls: Option<TlsConfig>,
    /// What its endpoints speak.
    pub app_protocol: AppProtocol,
    /// File with the descriptors of its gRPC services.
    pub descriptor_set: Option<PathBuf>,
    /// The hosts that stand for it.
    pub hosts: Vec<Box<str>>,
    /// Where it is written.
    pub origin: Origin,
    /// Where the values of its policy come from; under `tls.` those of its TLS settings, and
    /// `descriptorSet`.
    pub origins: Arc<Origins>,
}

impl DestinationConfig {
    /// What an authority without configuration gets: the host as a DNS name, with the port that is
    /// written or that of the scheme (80, `https` 443), and TLS for `https`. `None`: the authority
    /// is not `host` or `host:port`.
    #[must_use]
    pub fn of_authority(authority: &str, https: bool, policy: Arc<Policy>) -> Option<Self> {
        let (host, port) = host_and_port(authority, if https { 443 } else { 80 })?;
        let mut config = Self::plain(host, port, policy);
        if https {
            config.tls = Some(TlsConfig::for_host(host));
        }
        Some(config)
    }

    /// The same where Consul knows names: a name without a port that
    /// [`ConsulService::of_host`] takes is a service in its catalog, in place of a DNS name.
    #[must_use]
    pub fn found_by_consul(mut self, authority: &str) -> Self {
        if let Some(service) = ConsulService::of_host(authority) {
            self.endpoints = EndpointSource::Consul(service);
        }
        self
    }

    /// What a host without configuration gets: its DNS name and a port.
    ///
    /// A host whose first labels make no destination name is called `plain`.
    #[must_use]
    pub fn plain(host: &str, port: u16, policy: Arc<Policy>) -> Self {
        Self {
            name: host.parse().unwrap_or_else(|_| DestinationName::plain()),
            endpoints: EndpointSource::Dns { host: host.to_owned(), port: Some(port) },
            policy,
            tls: None,
            app_protocol: AppProtocol::Http,
            descriptor_set: None,
            hosts: vec![host.into()],
            origin: Origin::DEFAULT,
            origins: Arc::default(),
        }
    }
}

/// Splits `host`, `host:port`, `[v6]` and `[v6]:port`.
fn host_and_port(authority: &str, default: u16) -> Option<(&str, u16)> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
        _ => (authority, default),
    };
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    (!host.is_empty() && !authority.contains('@')).then_some((host, port))
}

/// Where endpoints come from.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum EndpointSource {
    /// A list that does not change.
    Static(Vec<EndpointSpec>),
    /// A DNS name.
    Dns {
        /// The name.
        host: String,
        /// The port of all its addresses; `None`: names and ports by SRV records.
        port: Option<u16>,
    },
    /// A file that lists them; it is watched.
    File(PathBuf),
    /// A service in Consul's catalog.
    Consul(ConsulService),
}

impl fmt::Display for EndpointSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Static(endpoints) => write!(f, "a list of {}", endpoints.len()),
            Self::Dns { host, port: Some(port) } => write!(f, "dns://{host}:{port}"),
            Self::Dns { host, port: None } => write!(f, "dns+srv://{host}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Consul(service) => service.fmt(f),
        }
    }
}

/// TLS to the endpoints of a destination.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct TlsConfig {
    /// The name asked for (SNI) and, without `subject_alt_names`, the one the certificate must
    /// bear. `None`: each endpoint's host name, or else its IP address.
    pub server_name: Option<String>,
    /// PEM file of the trusted authorities; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// PEM file of the certificate to show.
    pub cert: Option<PathBuf>,
    /// PEM file of its key.
    pub key: Option<PathBuf>,
    /// Protocols to offer; empty: by the protocol of the policy.
    pub alpn: Vec<String>,
    /// DNS names, addresses or `spiffe://` identities of which the certificate must bear one.
    pub subject_alt_names: Vec<String>,
}

impl TlsConfig {
    /// TLS to a host by its name, trusting the authorities of the system.
    #[must_use]
    pub fn for_host(host: &str) -> Self {
        Self { server_name: Some(host.to_owned()), ..Self::default() }
    }
}

/// Where a proxy accepts connections, and where they go.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListenerConfig {
    /// Its name.
    pub name: Arc<str>,
    /// The side of the proxy.
    pub direction: Direction,
    /// Where it listens; port 0 lets the system choose.
    pub address: SocketAddr,
    /// What is spoken.
    pub protocol: ListenerProtocol,
    /// TLS; `None` is plain text.
    pub tls: Option<ListenerTls>,
    /// Where everything goes ([`Snapshot::route_to`], [`Snapshot::route_connection`]); `None`:
    /// the authority of each request decides ([`Snapshot::route`]).
    pub destination: Option<DestinationId>,
    /// Where it is written.
    pub origin: Origin,
    /// Where its TLS settings are written, under `tls.`.
    pub origins: Origins,
}

/// TLS of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ListenerTls {
    /// PEM file of the certificate chain.
    pub cert: PathBuf,
    /// PEM file of its key.
    pub key: PathBuf,
    /// PEM file of authorities; with it, every client must show a certificate of one of them.
    pub client_ca: Option<PathBuf>,
}
