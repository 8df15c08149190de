//! Health: the instances of a service and their checks, as endpoints.
//!
//! | state of its checks, the worst counts | endpoint |
//! |---|---|
//! | maintenance (`_node_maintenance`, `_service_maintenance:…`) | draining |
//! | critical, or a word that is unknown | unhealthy: takes no call |
//! | warning | weight `Weights.Warning`; 0 takes no call |
//! | passing, or no check | weight `Weights.Passing` |
//!
//! The address is that of the service, else that of its node; it is also the endpoint's identity.
//! The locality is that of the service, else of its node (Consul 1.17 and later tell one).
//!
//! Metadata are the service's, as selectors of subsets expect them, and beside them `consul.id`,
//! `consul.node`, `consul.datacenter`, `consul.status` and `consul.tag.TAG` = `true` for each tag:
//! Consul allows no dot in its own keys, so these never clash.
//!
//! An instance without an address and a port that can be called is left out, with a warning. An
//! answer with instances of which none can be called counts as none.
//!
//! Source: Consul, API "Health", "List service instances"; "Weights" and "Maintenance" of its agent.

use super::client::Reply;
use super::follow::{Hear, Query};
use super::{Inner, failure, shown};
use crate::watch::Publisher;
use mesh_core::snapshot::ConsulService;
use mesh_core::{Declared, EndpointSpec, Locality};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// Most that Consul lets a weight be.
const MOST_WEIGHT: i64 = 65_535;

pub(super) fn query(service: &ConsulService, consul: &Inner) -> Query {
    let mut parameters: Vec<(&'static str, String)> = Vec::new();
    parameters.extend(service.tags.iter().map(|tag| ("tag", tag.clone())));
    let datacenter = service.datacenter.as_ref().or(consul.config.datacenter.as_ref());
    parameters.extend(datacenter.map(|datacenter| ("dc", datacenter.clone())));
    if service.only_passing {
        parameters.push(("passing", "1".to_owned()));
    }
    parameters.extend(service.filter.as_ref().map(|filter| ("filter", filter.clone())));
    let path = format!("/v1/health/service/{}", super::client::segment(&service.service));
    Query { path, parameters }
}

/// Tells what it hears to whoever watches.
pub(super) struct Health {
    pub(super) service: String,
    pub(super) publisher: Publisher,
    /// What was left out of the last answer.
    pub(super) noted: Option<String>,
}

impl Hear for Health {
    fn heard(&mut self, reply: &Reply) -> Result<(), String> {
        if !reply.found {
            return Err("404 Not Found".to_owned());
        }
        let (specs, note) = read(&reply.body)?;
        if note != self.noted {
            if let Some(note) = &note {
                tracing::warn!("Consul's service {}: {note}", self.service);
            }
            self.noted = note;
        }
        self.publisher.endpoints(specs);
        Ok(())
    }

    fn failed(&mut self, why: String) {
        self.publisher.failed(failure(why));
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Instance {
    node: Node,
    service: Service,
    #[serde(default)]
    checks: Option<Vec<Check>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    #[serde(default)]
    node: String,
    #[serde(default)]
    address: String,
    #[serde(default)]
    datacenter: String,
    #[serde(default)]
    locality: Option<Place>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    #[serde(default, rename = "ID")]
    id: String,
    #[serde(default)]
    address: String,
    #[serde(default)]
    port: i64,
    #[serde(default)]
    tags: Option<Vec<String>>,
    #[serde(default)]
    meta: Option<BTreeMap<String, String>>,
    #[serde(default)]
    weights: Option<Weights>,
    #[serde(default)]
    locality: Option<Place>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    passing: i64,
    warning: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Place {
    #[serde(default)]
    region: String,
    #[serde(default)]
    zone: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Check {
    #[serde(default, rename = "CheckID")]
    id: String,
    #[serde(default)]
    status: String,
}

/// The endpoints of an answer, and what of it was left out.
fn read(body: &[u8]) -> Result<(Vec<EndpointSpec>, Option<String>), String> {
    // Go writes an empty list as `null` at times.
    let instances: Option<Vec<Instance>> = serde_json::from_slice(body)
        .map_err(|error| format!("its answer is no list of instances: {error}"))?;
    let instances = instances.unwrap_or_default();
    let total = instances.len();
    let mut specs = Vec::with_capacity(total);
    let mut odd = None;
    for instance in instances {
        match endpoint(instance) {
            Ok(spec) => specs.push(spec),
            Err(why) => odd = odd.or(Some(why)),
        }
    }
    let Some(why) = odd else { return Ok((specs, None)) };
    if specs.is_empty() {
        return Err(format!("none of its {total} instances can be called: {why}"));
    }
    let left_out = total - specs.len();
    Ok((specs, Some(format!("{left_out} of {total} instances are left out: {why}"))))
}

fn endpoint(instance: Instance) -> Result<EndpointSpec, String> {
    let Instance { node, service, checks } = instance;
    let host = if service.address.is_empty() { &node.address } else { &service.address };
    let instance = || shown(if service.id.is_empty() { &node.node } else { &service.id });
    let Ok(ip) = host.parse::<IpAddr>() else {
        return Err(format!("the address of {} is not an IP address: {}", instance(), shown(host)));
    };
    let Some(port) = u16::try_from(service.port).ok().filter(|port| *port != 0) else {
        return Err(format!("{} has no port: {}", instance(), service.port));
    };
    let status = Status::of(checks.as_deref().unwrap_or_default());
    let weights = service.weights.unwrap_or(Weights { passing: 1, warning: 1 });
    let (weight, declared) = match status {
        Status::Passing => (weights.passing.max(1), Declared::Healthy),
        Status::Warning if weights.warning <= 0 => (1, Declared::Unhealthy),
        Status::Warning => (weights.warning, Declared::Healthy),
        Status::Maintenance => (weights.passing.max(1), Declared::Draining),
        Status::Critical => (weights.passing.max(1), Declared::Unhealthy),
    };
    let mut metadata = service.meta.unwrap_or_default();
    for tag in service.tags.unwrap_or_default() {
        metadata.insert(format!("consul.tag.{tag}"), "true".to_owned());
    }
    let own = [
        ("consul.id", service.id),
        ("consul.node", node.node),
        ("consul.datacenter", node.datacenter),
        ("consul.status", status.word().to_owned()),
    ];
    let own = own.into_iter().filter(|(_, value)| !value.is_empty());
    metadata.extend(own.map(|(key, value)| (key.to_owned(), value)));
    let place = service.locality.or(node.locality);
    let weight = u32::try_from(weight.min(MOST_WEIGHT)).unwrap_or(1);
    let spec = EndpointSpec::new(SocketAddr::new(ip, port))
        .with_weight(weight)
        .with_declared(declared)
        .with_metadata(metadata);
    Ok(match place {
        Some(place) => spec.with_locality(Locality::new(place.region, place.zone, "")),
        None => spec,
    })
}

/// The worst of an instance's checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Status {
    Passing,
    Warning,
    Critical,
    Maintenance,
}

impl Status {
    fn of(checks: &[Check]) -> Self {
        let each = checks.iter().map(|check| match check.status.as_str() {
            _ if check.id == "_node_maintenance"
                || check.id.starts_with("_service_maintenance:") =>
            {
                Self::Maintenance
            }
            "passing" => Self::Passing,
            "warning" => Self::Warning,
            _ => Self::Critical,
        });
        each.max().unwrap_or(Self::Passing)
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Maintenance => "maintenance",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(service: &str, checks: &[(&str, &str)]) -> String {
        let checks: Vec<String> = checks
            .iter()
            .map(|(id, status)| format!(r#"{{"CheckID":"{id}","Status":"{status}"}}"#))
            .collect();
        format!(
            r#"[{{"Node":{{"Node":"vm","Address":"10.0.0.9","Datacenter":"dc1"}},
                 "Service":{{{service}}},"Checks":[{}]}}]"#,
            checks.join(",")
        )
    }

    fn only(body: &str) -> EndpointSpec {
        let (specs, note) = read(body.as_bytes()).expect("it can be read");
        assert_eq!((specs.len(), note), (1, None), "{body}");
        specs.into_iter().next().expect("one")
    }

    #[test]
    fn the_worst_check_decides() {
        let service = r#""ID":"web-1","Port":80,"Weights":{"Passing":10,"Warning":3}"#;
        use Declared::{Draining, Healthy, Unhealthy};
        for (checks, weight, declared, word) in [
            (&[][..], 10, Healthy, "passing"),
            (&[("serfHealth", "passing"), ("web", "passing")], 10, Healthy, "passing"),
            (&[("serfHealth", "passing"), ("web", "warning")], 3, Healthy, "warning"),
            (&[("web", "critical"), ("b", "warning")], 10, Unhealthy, "critical"),
            (&[("serfHealth", "critical"), ("web", "passing")], 10, Unhealthy, "critical"),
            (&[("web", "")], 10, Unhealthy, "critical"),
            (&[("web", "PASSING")], 10, Unhealthy, "critical"),
            (&[("_node_maintenance", "critical")], 10, Draining, "maintenance"),
            (
                &[("_service_maintenance:web-1", "critical"), ("web", "critical")],
                10,
                Draining,
                "maintenance",
            ),
        ] {
            let spec = only(&instance(service, checks));
            assert_eq!((spec.weight, spec.declared), (weight, declared), "{checks:?}");
            assert_eq!(spec.metadata.get("consul.status").map(String::as_str), Some(word));
        }
    }

    #[test]
    fn weights_are_bounded_and_a_warning_may_take_an_instance_out() {
        let weighted = |weights: &str, status: &str| {
            let service = format!(r#""Port":80,"Weights":{weights}"#);
            let spec = only(&instance(&service, &[("web", status)]));
            (spec.weight, spec.declared)
        };
        let healthy = |weight| (weight, Declared::Healthy);
        assert_eq!(weighted("null", "passing"), healthy(1));
        assert_eq!(weighted(r#"{"Passing":0,"Warning":0}"#, "passing"), healthy(1));
        assert_eq!(weighted(r#"{"Passing":-7,"Warning":1}"#, "passing"), healthy(1));
        assert_eq!(
            weighted(r#"{"Passing":9223372036854775807,"Warning":1}"#, "passing"),
            healthy(65_535)
        );
        assert_eq!(weighted(r#"{"Passing":9,"Warning":0}"#, "warning"), (1, Declared::Unhealthy));
        assert_eq!(weighted(r#"{"Passing":9,"Warning":-1}"#, "warning").1, Declared::Unhealthy);
    }

    #[test]
    fn the_address_is_the_services_else_the_nodes() {
        let of = |service: &str| only(&instance(service, &[])).id.to_string();
        assert_eq!(of(r#""Port":80"#), "10.0.0.9:80");
        assert_eq!(of(r#""Address":"","Port":80"#), "10.0.0.9:80");
        assert_eq!(of(r#""Address":"10.0.0.1","Port":81"#), "10.0.0.1:81");
        assert_eq!(of(r#""Address":"fd00::1","Port":81"#), "[fd00::1]:81");
    }

    #[test]
    fn metadata_and_locality_are_told() {
        let spec = only(&instance(
            r#""ID":"web-1","Port":80,"Tags":["v1","a"],"Meta":{"version":"2"},
               "Locality":{"Region":"eu","Zone":"eu-1"}"#,
            &[],
        ));
        let all: Vec<(&str, &str)> =
            spec.metadata.iter().map(|(key, value)| (&**key, &**value)).collect();
        let wanted = [
            ("consul.datacenter", "dc1"),
            ("consul.id", "web-1"),
            ("consul.node", "vm"),
            ("consul.status", "passing"),
            ("consul.tag.a", "true"),
            ("consul.tag.v1", "true"),
            ("version", "2"),
        ];
        assert_eq!(all, wanted);
        assert_eq!(spec.locality, Locality::new("eu", "eu-1", ""));
    }

    #[test]
    fn an_instance_that_cannot_be_called_is_left_out_and_told() {
        let good = instance(r#""ID":"web-1","Port":80"#, &[]);
        let with = |service: &str| {
            let bad = instance(service, &[]);
            format!("{},{}", &good[..good.len() - 1], &bad[1..])
        };
        for (service, why) in [
            (r#""ID":"web-2","Port":0"#, "web-2 has no port: 0"),
            (r#""ID":"web-2","Port":70000"#, "web-2 has no port: 70000"),
            (r#""ID":"web-2","Port":-1"#, "web-2 has no port: -1"),
            (
                r#""ID":"web-2","Address":"api.example.com","Port":80"#,
                "the address of web-2 is not an IP address: api.example.com",
            ),
            (r#""ID":"web-2","Address":"1\u001b[2J","Port":80"#, "address: 1\\u{1b}[2J"),
        ] {
            let (specs, note) = read(with(service).as_bytes()).expect("one is well");
            assert_eq!(specs.len(), 1);
            let note = note.expect("something is left out");
            assert!(
                note.starts_with("1 of 2 instances are left out: ") && note.ends_with(why),
                "{note}"
            );
            let none = read(instance(service, &[]).as_bytes()).expect_err("none is well");
            assert!(none.starts_with("none of its 1 instances can be called"), "{none}");
        }
    }

    #[test]
    fn what_is_no_list_of_instances_is_refused() {
        assert_eq!(read(b"[]").map(|(specs, _)| specs.len()), Ok(0));
        assert_eq!(read(b"null").map(|(specs, _)| specs.len()), Ok(0));
        let deep = "[".repeat(100_000);
        for body in [
            "",
            "{}",
            "[{}]",
            "[1]",
            "\u{feff}[]",
            "[] []",
            r#"[{"Node":{},"Service":{"Port":"80"}}]"#,
            r#"[{"Node":{},"Service":{"Port":1e400}}]"#,
            r#"[{"Node":null,"Service":null}]"#,
            &deep,
            "<html>",
        ] {
            let told = read(body.as_bytes()).expect_err(body);
            assert!(told.starts_with("its answer is no list of instances: "), "{told}");
            assert!(told.len() < 300, "{told}");
        }
    }
}
