//! A service in Consul's catalog, as a source of endpoints.

use std::fmt;

/// Which instances of a service in Consul's catalog are endpoints.
///
/// ```
/// use mesh_core::snapshot::ConsulService;
///
/// let web = ConsulService::of_host("v1.web.service.dc2.consul").expect("a name in Consul's zone");
/// assert_eq!(web.to_string(), "consul://web?tag=v1&dc=dc2");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ConsulService {
    /// Its name in the catalog.
    pub service: String,
    /// Only instances that have all of these tags. None: all.
    pub tags: Vec<String>,
    /// The datacenter that is asked. `None`: that of the client's settings, or else of the agent.
    pub datacenter: Option<String>,
    /// Whether instances with a warning are left out.
    pub only_passing: bool,
    /// An expression that Consul selects instances by. `None`: all.
    pub filter: Option<String>,
}

impl ConsulService {
    /// All instances of a service.
    pub fn new(service: impl Into<String>) -> Self {
        Self { service: service.into(), ..Self::default() }
    }

    /// What a host stands for where Consul knows names: `web`, or as in Consul's DNS
    /// `[TAG.]web.service[.DATACENTER].consul`. `None` for other names, for addresses and for
    /// `localhost`.
    ///
    /// Source: Consul, "Query the DNS interface", standard lookup.
    #[must_use]
    pub fn of_host(host: &str) -> Option<Self> {
        let host = host.strip_suffix('.').unwrap_or(host);
        let labels: Vec<&str> = host.split('.').collect();
        let is_label = |label: &&str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if !labels.iter().all(is_label) || host.eq_ignore_ascii_case("localhost") {
            return None;
        }
        let (rest, datacenter) = match &labels[..] {
            // A number alone is an address in one of its older spellings.
            [name] if name.bytes().all(|b| b.is_ascii_digit()) => return None,
            [name] => return Some(Self::new(*name)),
            [rest @ .., "service", "consul"] => (rest, None),
            [rest @ .., "service", datacenter, "consul"] => (rest, Some((*datacenter).to_owned())),
            _ => return None,
        };
        let (tags, name) = match rest {
            [name] => (Vec::new(), name),
            // `_web._tcp` is the form of RFC 2782, which DNS answers.
            [tag, name] if !tag.starts_with('_') => (vec![(*tag).to_owned()], name),
            _ => return None,
        };
        Some(Self { tags, datacenter, ..Self::new(*name) })
    }
}

impl fmt::Display for ConsulService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "consul://{}", self.service)?;
        let tags = self.tags.iter().map(|tag| format!("tag={tag}"));
        let more = [
            self.datacenter.as_ref().map(|datacenter| format!("dc={datacenter}")),
            self.only_passing.then(|| "passing".to_owned()),
            self.filter.as_ref().map(|filter| format!("filter={filter}")),
        ];
        let more: Vec<String> = tags.chain(more.into_iter().flatten()).collect();
        if more.is_empty() { Ok(()) } else { write!(f, "?{}", more.join("&")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_label_and_of_consuls_zone_are_services() {
        let shown = |host: &str| ConsulService::of_host(host).map(|found| found.to_string());
        for (host, service) in [
            ("web", "consul://web"),
            ("web-v2", "consul://web-v2"),
            ("web.service.consul", "consul://web"),
            ("web.service.consul.", "consul://web"),
            ("web.service.dc2.consul", "consul://web?dc=dc2"),
            ("v1.web.service.consul", "consul://web?tag=v1"),
            ("v1.web.service.dc2.consul", "consul://web?tag=v1&dc=dc2"),
        ] {
            assert_eq!(shown(host).as_deref(), Some(service), "{host}");
        }
        for host in [
            "",
            ".",
            "localhost",
            "127.0.0.1",
            "::1",
            "2130706433",
            "web:80",
            "api.example.com",
            "web.default",
            "service.consul",
            "_web._tcp.service.consul",
            "vm.node.consul",
            "a/b",
        ] {
            assert_eq!(shown(host), None, "{host}");
        }
    }
}
