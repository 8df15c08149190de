//! Registering: from what somebody defined to what the agent keeps, or why not.
//!
//! Texts are those of Consul 1.8.7.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::AgentError;
use crate::check::Kind;
use crate::types::{
    CheckDefinition, Connect, HealthCheck, NodeService, ServiceDefinition, ServiceKind, Upstream,
};

/// Pairs of metadata of a service; longest key, longest value. Source: Consul.
const META_PAIRS: usize = 64;
const META_KEY: usize = 128;
const META_VALUE: usize = 512;
/// A weight is told by DNS SRV, which has 16 bits for it.
const HEAVIEST: u32 = 65_535;

/// The key of a service at its agent: its ID, or its name.
#[must_use]
pub fn instance_id(service: &ServiceDefinition) -> &str {
    if service.id.is_empty() { &service.name } else { &service.id }
}

/// Several problems as Consul lists them.
pub(super) fn list(problems: &[impl AsRef<str>]) -> String {
    let (count, plural) = (problems.len(), if problems.len() == 1 { "" } else { "s" });
    let mut text = format!("{count} error{plural} occurred:\n");
    for problem in problems {
        let _ = writeln!(text, "\t* {}", problem.as_ref());
    }
    text.push('\n');
    text
}

/// The instance that the catalog is to have.
///
/// # Errors
///
/// The definition contradicts itself, or has too much of something.
pub(super) fn instance(definition: &ServiceDefinition) -> Result<NodeService, AgentError> {
    if definition.name.is_empty() {
        return Err(AgentError::MissingServiceName);
    }
    let invalid = |text: String| Err(AgentError::InvalidService(text));
    if matches!(definition.address.as_str(), "0.0.0.0" | "::" | "[::]") {
        return invalid("Invalid service address".to_owned());
    }
    let weights = definition.weights.unwrap_or_default();
    if weights.passing == 0 {
        return invalid("Invalid Weights: Passing must be greater than 0".to_owned());
    }
    if weights.passing > HEAVIEST || weights.warning > HEAVIEST {
        return invalid("Invalid Weights: DNS Weight must be between 0 and 65535".to_owned());
    }
    if let Err(problem) = meta(&definition.meta) {
        return invalid(format!("Invalid Service Meta: {problem}"));
    }
    let mut proxy = definition.proxy.clone().unwrap_or_default();
    let native = definition.connect.as_ref().is_some_and(|connect| connect.native);
    if definition.kind == ServiceKind::ConnectProxy {
        let mut problems = Vec::new();
        if proxy.destination_service_name.trim().is_empty() {
            problems.push(
                "Proxy.DestinationServiceName must be non-empty for Connect proxy services"
                    .to_owned(),
            );
        }
        if definition.port == 0 {
            problems.push("Port must be set for a Connect proxy".to_owned());
        }
        if native {
            problems
                .push("A Proxy cannot also be Connect Native, only typical services".to_owned());
        }
        upstreams(&proxy.upstreams, &mut problems);
        if !problems.is_empty() {
            return invalid(list(&problems));
        }
    }
    for upstream in &mut proxy.upstreams {
        if upstream.destination_type.is_empty() {
            "service".clone_into(&mut upstream.destination_type);
        }
    }
    Ok(NodeService {
        kind: definition.kind,
        id: instance_id(definition).to_owned(),
        name: definition.name.clone(),
        tags: definition.tags.clone(),
        address: definition.address.clone(),
        tagged_addresses: definition.tagged_addresses.clone(),
        meta: definition.meta.clone(),
        port: definition.port,
        weights,
        enable_tag_override: definition.enable_tag_override,
        proxy,
        connect: Connect { native, ..Connect::default() },
        ..NodeService::default()
    })
}

fn upstreams(upstreams: &[Upstream], problems: &mut Vec<String>) {
    let mut places = BTreeSet::new();
    for upstream in upstreams {
        if upstream.destination_name.is_empty() {
            problems.push("upstream destination name cannot be empty".to_owned());
            continue;
        }
        if upstream.local_bind_port == 0 {
            problems.push("upstream local bind port cannot be zero".to_owned());
            continue;
        }
        let address = match upstream.local_bind_address.as_str() {
            "" => "127.0.0.1",
            address => address,
        };
        if !places.insert((address, upstream.local_bind_port)) {
            problems.push(format!(
                "upstreams cannot contain duplicates by local bind address and port; \"{address}:{}\" is specified twice",
                upstream.local_bind_port
            ));
        }
    }
}

fn meta(meta: &BTreeMap<String, String>) -> Result<(), String> {
    if meta.len() > META_PAIRS {
        return Err(format!("Node metadata cannot contain more than {META_PAIRS} key/value pairs"));
    }
    for (key, value) in meta {
        let wrong = if key.is_empty() {
            "Key cannot be blank".to_owned()
        } else if !key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte)) {
            "Key contains invalid characters".to_owned()
        } else if key.len() > META_KEY {
            format!("Key is too long (limit: {META_KEY} characters)")
        } else if key.starts_with("consul-") {
            "Key prefix 'consul-' is reserved for internal use".to_owned()
        } else if value.len() > META_VALUE {
            format!("Value is too long (limit: {META_VALUE} characters)")
        } else {
            continue;
        };
        return Err(format!("Couldn't load metadata pair ('{key}', '{value}'): {wrong}"));
    }
    Ok(())
}

/// The checks of a service, each with the ID and name that it is kept under: `service:<ID>`, with
/// its place behind it where there are several.
///
/// # Errors
///
/// One of them is no check.
pub(super) fn checks_of(service: &ServiceDefinition) -> Result<Vec<CheckDefinition>, AgentError> {
    // Consul takes an empty `Check {}` for none.
    let single = service.check.iter().filter(|check| **check != CheckDefinition::default());
    let mut checks: Vec<_> = single.chain(&service.checks).cloned().collect();
    let (id, many) = (instance_id(service), checks.len() > 1);
    for (place, check) in checks.iter_mut().enumerate() {
        check.kind()?;
        if check.id.is_empty() {
            check.id = match many {
                true => format!("service:{id}:{}", place + 1),
                false => format!("service:{id}"),
            };
        }
        if check.name.is_empty() {
            check.name = format!("Service '{}' check", service.name);
        }
        id.clone_into(&mut check.service_id);
    }
    Ok(checks)
}

/// A check by itself, with its ID.
///
/// # Errors
///
/// It has no name, or is no check.
pub(super) fn single_check(mut check: CheckDefinition) -> Result<CheckDefinition, AgentError> {
    if check.name.is_empty() {
        return Err(AgentError::MissingCheckName);
    }
    check.kind()?;
    if check.id.is_empty() {
        check.id.clone_from(&check.name);
    }
    Ok(check)
}

/// What the catalog is to have of a check that has had no result yet.
pub(super) fn health_of(
    check: &CheckDefinition,
    kind: Kind,
    node: &str,
    service: Option<&NodeService>,
) -> HealthCheck {
    HealthCheck {
        node: node.to_owned(),
        id: check.id.clone(),
        name: check.name.clone(),
        status: check.status.unwrap_or_default(),
        notes: check.notes.clone(),
        service_id: check.service_id.clone(),
        service_name: service.map(|service| service.name.clone()).unwrap_or_default(),
        service_tags: service.map(|service| service.tags.clone()).unwrap_or_default(),
        kind: kind.as_str().to_owned(),
        ..HealthCheck::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> ServiceDefinition {
        serde_json::from_str(json).expect(json)
    }

    #[test]
    fn a_wrong_service_is_refused_in_consuls_words() {
        let long = "x".repeat(513);
        for (json, expected) in [
            (r#"{"ID": "a"}"#.to_owned(), "Missing service name"),
            (r#"{"Name": "a", "Address": "0.0.0.0"}"#.to_owned(), "Invalid service address"),
            (
                r#"{"Name": "a", "Weights": {"Passing": 0}}"#.to_owned(),
                "Invalid Weights: Passing must be greater than 0",
            ),
            (
                r#"{"Name": "a", "Weights": {"Passing": 70000}}"#.to_owned(),
                "Invalid Weights: DNS Weight must be between 0 and 65535",
            ),
            (
                r#"{"Name": "a", "Meta": {"bad key": "x"}}"#.to_owned(),
                "Invalid Service Meta: Couldn't load metadata pair ('bad key', 'x'): Key contains invalid characters",
            ),
            (
                format!(r#"{{"Name": "a", "Meta": {{"k": "{long}"}}}}"#),
                "Invalid Service Meta: Couldn't load metadata pair ('k', 'xxx",
            ),
            (
                r#"{"Name": "a", "Kind": "connect-proxy"}"#.to_owned(),
                "2 errors occurred:\n\t* Proxy.DestinationServiceName must be non-empty for Connect proxy services\n\t* Port must be set for a Connect proxy\n\n",
            ),
            (
                r#"{"Name": "a", "Kind": "connect-proxy", "Port": 5, "Proxy": {"DestinationServiceName": "a",
                    "Upstreams": [{"DestinationName": "x", "LocalBindPort": 7}, {"DestinationName": "y", "LocalBindPort": 7}]}}"#
                    .to_owned(),
                "1 error occurred:\n\t* upstreams cannot contain duplicates by local bind address and port; \"127.0.0.1:7\" is specified twice\n\n",
            ),
        ] {
            let error = instance(&read(&json)).expect_err(&json);
            assert!(error.to_string().starts_with(expected), "{json}: {error}");
            assert_eq!(error.status(), 400);
        }
    }

    #[test]
    fn checks_get_the_ids_that_consul_gives() {
        let ids = |json: &str| -> Vec<(String, String)> {
            let checks = checks_of(&read(json)).expect(json);
            assert!(checks.iter().all(|check| check.service_id == "web-1"));
            checks.into_iter().map(|check| (check.id, check.name)).collect()
        };
        assert_eq!(
            ids(r#"{"ID": "web-1", "Name": "web", "Check": {"TTL": "1s"}}"#),
            [("service:web-1".to_owned(), "Service 'web' check".to_owned())]
        );
        assert_eq!(ids(r#"{"ID": "web-1", "Name": "web", "Check": {}}"#), []);
        let own = r#"{"ID": "web-1", "Name": "web", "Check": {"TTL": "1s"},
            "Checks": [{"Name": "named", "TTL": "1s"}, {"CheckID": "own", "TTL": "1s"}]}"#;
        let ids: Vec<_> = ids(own).into_iter().map(|(id, name)| format!("{id} {name}")).collect();
        assert_eq!(
            ids,
            [
                "service:web-1:1 Service 'web' check",
                "service:web-1:2 named",
                "own Service 'web' check"
            ]
        );
        let error = checks_of(&read(r#"{"Name": "a", "Checks": [{}]}"#)).unwrap_err().to_string();
        assert!(error.starts_with("Invalid check: TTL must be > 0 for TTL checks"), "{error}");
    }
}
