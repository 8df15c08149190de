//! Destinations: services with their endpoints, hosts, TLS and merged policy.

use super::super::de::Located;
use super::super::kinds::{
    AppProtocol, ConsulEndpoints, EndpointBody, EndpointEntry, Kind, ServiceSpec,
};
use super::super::parse::Spec;
use super::super::source::{Location, Origin};
use super::tls::name_problem;
use super::{Compiler, Problem};
use crate::endpoint::{EndpointSpec, Locality};
use crate::name::{DEFAULT_NAMESPACE, DestinationName};
use crate::policy::Protocol;
use crate::snapshot::{ConsulService, DestinationConfig, EndpointSource, Snapshot};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// Longest text that Consul is asked by: it is sent in the request line.
const CONSUL_TEXT: usize = 2_048;

impl Compiler<'_> {
    pub(super) fn destinations(&mut self, snapshot: &mut Snapshot) {
        let mut hosts: HashMap<String, Location> = HashMap::new();
        for object in self.objects(Kind::Service) {
            let Spec::Service(spec) = &object.spec else { continue };
            let Ok(name) = DestinationName::new(&object.namespace, &object.name) else { continue };
            // A name that is defined twice is told already.
            if snapshot.by_name.contains_key(&name) {
                continue;
            }
            let Some(id) = self.services.get(&name).copied() else { continue };
            let merged = self.levels.of_destination(&name);
            let (mut policy, mut origins) = self.policy(&merged);
            let app_protocol = spec.app_protocol.as_ref().map_or(AppProtocol::Http, |p| p.value);
            if origins.of("protocol") == Origin::DEFAULT
                && let Some(protocol) = protocol(app_protocol)
            {
                Arc::make_mut(&mut policy).protocol = protocol;
                let at = spec.app_protocol.as_ref().map_or(Location::NOWHERE, |p| p.at);
                let origin = Origin::new(&self.documents.sources, at);
                Arc::make_mut(&mut origins).insert("protocol".to_owned(), origin);
            }
            let endpoints = self.endpoints(&object.name, spec);
            let tls = spec.tls.as_ref().map(|tls| self.tls(tls, Arc::make_mut(&mut origins)));
            if let Some(file) = &spec.descriptor_set {
                let origin = Origin::new(&self.documents.sources, file.at);
                Arc::make_mut(&mut origins).insert("descriptorSet".to_owned(), origin);
            }
            let hosts = self.hosts(&name, object.name.at, spec, &mut hosts);
            snapshot.by_name.insert(name.clone(), id);
            snapshot.destinations.push(DestinationConfig {
                name,
                endpoints,
                policy,
                tls,
                app_protocol,
                descriptor_set: spec.descriptor_set.as_ref().map(|file| file.value.clone()),
                hosts,
                origin: Origin::new(&self.documents.sources, object.name.at),
                origins,
            });
        }
    }

    fn endpoints(&mut self, name: &str, spec: &ServiceSpec) -> EndpointSource {
        let written = &spec.endpoints;
        let given = [
            written.fixed.as_ref().map(|_| "static"),
            written.dns.as_ref().map(|_| "dns"),
            written.file.as_ref().map(|_| "file"),
            written.consul.as_ref().map(|_| "consul"),
        ];
        let given: Vec<&str> = given.into_iter().flatten().collect();
        if given.len() != 1 {
            let found = if given.is_empty() { "none".to_owned() } else { given.join(" and ") };
            self.problems.push(
                Problem::error(format!(
                    "endpoints come from exactly one of `static`, `dns`, `file`, `consul`; found {found}"
                ))
                .at(written.at),
            );
        }
        if let Some(file) = &written.file {
            return EndpointSource::File(file.value.clone());
        }
        if let Some(dns) = &written.dns {
            return self.dns(dns);
        }
        if let Some(consul) = &written.consul {
            return self.consul(name, consul);
        }
        self.fixed(written.fixed.as_deref().unwrap_or_default())
    }

    fn consul(&mut self, name: &str, written: &ConsulEndpoints) -> EndpointSource {
        let tags: Vec<&Located<String>> = written.tag.iter().chain(&written.tags).collect();
        let texts = [&written.service, &written.datacenter, &written.filter];
        for text in texts.into_iter().flatten().chain(tags.iter().copied()) {
            let why = match text.value.as_str() {
                "" => "it is empty",
                long if long.len() > CONSUL_TEXT => "it is longer than 2,048 bytes",
                odd if odd.chars().any(char::is_control) => "it has control characters",
                _ => continue,
            };
            let shown: String = text.chars().take(40).collect();
            let what = format!("Consul cannot be asked by `{}`: {why}", shown.escape_debug());
            self.problems.push(Problem::error(what).at(text.at));
        }
        let text = |written: &Option<Located<String>>| written.as_ref().map(|it| it.value.clone());
        let mut service =
            ConsulService::new(text(&written.service).unwrap_or_else(|| name.to_owned()));
        service.tags = tags.into_iter().map(|tag| tag.value.clone()).collect();
        service.datacenter = text(&written.datacenter);
        service.only_passing = written.only_passing;
        service.filter = text(&written.filter);
        EndpointSource::Consul(service)
    }

    fn dns(&mut self, written: &Located<String>) -> EndpointSource {
        let (host, port) = match written.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (&***written, None),
        };
        let parsed = port.map(str::parse::<u16>);
        let name = host.strip_suffix('.').unwrap_or(host);
        let labels = name.len() <= 253
            && name.split('.').all(|label| {
                !label.is_empty()
                    && label.len() <= 63
                    && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            });
        if !labels || matches!(parsed, Some(Err(_) | Ok(0))) {
            self.problems.push(
                Problem::error(format!(
                    "`{}` is not a DNS name like `inventory.internal:8080`",
                    written.escape_debug()
                ))
                .at(written.at)
                .help("without a port, names and ports come from SRV records"),
            );
        }
        EndpointSource::Dns { host: host.to_owned(), port: parsed.and_then(Result::ok) }
    }

    fn fixed(&mut self, entries: &[Located<EndpointEntry>]) -> EndpointSource {
        let mut seen: HashMap<SocketAddr, Location> = HashMap::new();
        let mut endpoints = Vec::with_capacity(entries.len());
        for entry in entries {
            let body = &entry.value.0;
            // Written as plain `ip:port`, the place is that of the entry.
            let at = if body.address.at.line > 0 { body.address.at } else { entry.at };
            let Ok(address) = body.address.parse::<SocketAddr>() else {
                self.problems.push(
                    Problem::error(format!(
                        "`{}` is not an address like `127.0.0.1:8080`",
                        body.address.escape_debug()
                    ))
                    .at(at)
                    .help("names are resolved by `dns:` in place of `static:`"),
                );
                continue;
            };
            if let Some(first) = seen.insert(address, at) {
                self.problems.push(
                    Problem::error(format!("endpoint {address} is listed twice"))
                        .at(at)
                        .other(first, "first here")
                        .help("use `weight` to give it a larger share"),
                );
            }
            endpoints.push(self.endpoint(address, body));
        }
        EndpointSource::Static(endpoints)
    }

    fn endpoint(&mut self, address: SocketAddr, body: &EndpointBody) -> EndpointSpec {
        let mut endpoint = EndpointSpec::new(address);
        if let Some(weight) = &body.weight {
            if weight.value == 0 {
                self.problems.push(
                    Problem::error("the weight of an endpoint is at least 1")
                        .at(weight.at)
                        .help("take the endpoint out of the list to send it nothing"),
                );
            }
            endpoint.weight = weight.value;
        }
        endpoint.priority = body.priority.unwrap_or(0);
        endpoint.declared = body.health;
        if let Some(name) = &body.hostname
            && let Some(why) = name_problem(name)
        {
            self.problems.push(
                Problem::error(format!("`{}` is not a host name: {why}", name.escape_debug()))
                    .at(name.at),
            );
        }
        endpoint.hostname = body.hostname.as_ref().map(|name| name.value.as_str().into());
        endpoint.metadata = Arc::new(body.metadata.clone());
        if let Some(at) = &body.locality {
            endpoint.locality = Locality::new(&*at.region, &*at.zone, &*at.sub_zone);
        }
        endpoint
    }

    /// The hosts that stand for a service: `name.namespace`, `name` if no other service has a
    /// better claim to it, and those that are written.
    fn hosts(
        &mut self,
        name: &DestinationName,
        at: Location,
        spec: &ServiceSpec,
        taken: &mut HashMap<String, Location>,
    ) -> Vec<Box<str>> {
        let mut hosts = vec![format!("{}.{}", name.name(), name.namespace())];
        let in_default = DestinationName::new(DEFAULT_NAMESPACE, name.name())
            .is_ok_and(|known| self.services.contains_key(&known));
        if name.namespace() == DEFAULT_NAMESPACE
            || (!in_default && self.namesakes.get(name.name()) == Some(&1))
        {
            hosts.push(name.name().to_owned());
        }
        let own = hosts.into_iter().map(|host| (host, at));
        let written = spec.hostnames.iter().map(|host| (host.value.clone(), host.at));
        let mut kept: Vec<Box<str>> = Vec::new();
        for (host, at) in own.chain(written).collect::<Vec<_>>() {
            if let Some(why) = host_problem(&host, true) {
                self.problems.push(
                    Problem::error(format!("`{}` is not a host name: {why}", host.escape_debug()))
                        .at(at),
                );
            } else if kept.iter().any(|known| **known == *host) {
                // Written although it is implied.
            } else if let Some(first) = taken.get(&host) {
                self.problems.push(
                    Problem::error(format!("host `{host}` stands for two services"))
                        .at(at)
                        .other(*first, "and here"),
                );
            } else {
                taken.insert(host.clone(), at);
                kept.push(host.into());
            }
        }
        kept
    }
}

const fn protocol(app: AppProtocol) -> Option<Protocol> {
    match app {
        AppProtocol::Http2 | AppProtocol::Grpc => Some(Protocol::Http2),
        AppProtocol::WebSocket => Some(Protocol::Http1),
        AppProtocol::Http | AppProtocol::Tcp => None,
    }
}

/// Why a text is no host name, if it is none.
pub(super) fn host_problem(host: &str, wildcard: bool) -> Option<&'static str> {
    let name = match host.strip_prefix("*.") {
        Some(suffix) if wildcard => suffix,
        _ if wildcard && host == "*" => return None,
        _ => host,
    };
    if name.is_empty() {
        Some("it is empty")
    } else if name.len() > 253 {
        Some("it is longer than 253 characters")
    } else if name.contains(':') {
        Some("ports do not matter, leave them out")
    } else if name.contains('*') {
        Some("`*` stands alone or for the first labels, as in `*.example.com`")
    } else if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Some("write it in lower case")
    } else if !name.split('.').all(|label| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    }) {
        Some("it is made of labels of a-z, 0-9 and `-`, joined by dots")
    } else {
        None
    }
}
