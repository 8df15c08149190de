//! Whether config entries make sense: each alone as Consul sees it, and all together as the data
//! plane compiles them.
//!
//! A change is refused for what it makes wrong, and not for what was wrong before it.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::config::{self, Severity, Source};
use mesh_core::{DEFAULT_NAMESPACE, DestinationName};
use serde_json::{Value, json};

use crate::types::{ConfigEntry, EntryKind, ProxyDefaults};

type Entries = BTreeMap<(EntryKind, String), ConfigEntry>;

/// What is wrong with one entry, in Consul's words.
pub(super) fn alone(entry: &ConfigEntry) -> Result<(), String> {
    if entry.name().is_empty() {
        return Err("Name is required".to_owned());
    }
    if entry.name().contains('\0') {
        return Err("Name holds a NUL".to_owned());
    }
    match entry {
        ConfigEntry::ServiceSplitter(splitter) if splitter.splits.is_empty() => {
            Err("no splits configured".to_owned())
        }
        ConfigEntry::ServiceResolver(resolver)
            if !resolver.default_subset.is_empty()
                && !resolver.subsets.contains_key(&resolver.default_subset) =>
        {
            Err(format!("DefaultSubset {:?} is not a valid subset", resolver.default_subset))
        }
        _ => Ok(()),
    }
}

/// What is wrong with the entries as they are after a change, and was not before it.
pub(super) fn together(before: &Entries, after: &Entries) -> Result<(), String> {
    let wrong = wrong(after);
    if wrong.is_empty() {
        return Ok(());
    }
    let known = self::wrong(before);
    wrong.into_iter().find(|what| !known.contains(what)).map_or(Ok(()), Err)
}

fn wrong(entries: &Entries) -> Vec<String> {
    let mut wrong = Vec::new();
    for ((kind, _), entry) in entries {
        let protocol = protocol(entries, entry.name());
        if matches!(kind, EntryKind::ServiceRouter | EntryKind::ServiceSplitter)
            && !["http", "http2", "grpc"].contains(&protocol)
        {
            wrong.push(format!(
                "discovery chain {:?} uses a protocol {protocol:?} that does not permit advanced \
                 routing or splitting behavior",
                entry.name()
            ));
        }
    }
    if wrong.is_empty() {
        compile(entries, &mut wrong);
    }
    wrong
}

/// The protocol of a service: its own, that of all proxies, or bytes.
fn protocol<'a>(entries: &'a Entries, service: &str) -> &'a str {
    let own = entries.get(&(EntryKind::ServiceDefaults, service.to_lowercase()));
    if let Some(ConfigEntry::ServiceDefaults(defaults)) = own
        && !defaults.protocol.is_empty()
    {
        return &defaults.protocol;
    }
    let all = entries.get(&(EntryKind::ProxyDefaults, ProxyDefaults::NAME.to_owned()));
    match all {
        Some(ConfigEntry::ProxyDefaults(defaults)) => {
            defaults.config.get("protocol").and_then(Value::as_str).unwrap_or("tcp")
        }
        _ => "tcp",
    }
}

/// Compiles the entries as the data plane does, over services that stand for those they name.
fn compile(entries: &Entries, wrong: &mut Vec<String>) {
    let mut named = BTreeSet::new();
    let mut sources = Vec::new();
    let mut keys = BTreeMap::new();
    for entry in entries.values() {
        if matches!(entry.kind(), EntryKind::ServiceDefaults | EntryKind::ProxyDefaults) {
            continue;
        }
        let value = serde_json::to_value(entry).expect("an entry's keys are texts");
        named.insert(entry.name().to_owned());
        services_of(&value, &mut named);
        if let ConfigEntry::ServiceResolver(resolver) = entry {
            let filters = resolver.subsets.values().map(|subset| keys_of(&subset.filter));
            keys.insert(entry.name(), filters.filter(|keys| !keys.is_empty()).collect());
        }
        let name = format!("{}/{}", entry.kind(), entry.name().escape_debug());
        // Over several lines, so that a message can show the one that is wrong.
        sources.push(Source::new(name, format!("{value:#}")));
    }
    named.retain(|name| DestinationName::new(DEFAULT_NAMESPACE, name).is_ok());
    for name in &named {
        let none = BTreeSet::new();
        let keys = keys.get(name.as_str()).unwrap_or(&none);
        let protocol = match protocol(entries, name) {
            known @ ("http2" | "grpc") => known,
            _ => "http",
        };
        sources.push(Source::new(format!("service/{name}"), service(name, protocol, keys)));
    }
    let compiled = config::parse(&sources).and_then(|documents| config::compile(&documents, 0));
    let Err(errors) = compiled else { return };
    let errors = errors.diagnostics().iter().filter(|told| told.severity == Severity::Error);
    wrong.extend(errors.map(|error| {
        let place = error.places.first();
        let place = place.map(|place| format!("{}: ", place.file)).unwrap_or_default();
        let help: String = error.help.iter().flat_map(|help| ["; ", help]).collect();
        format!("{place}{}{help}", error.what)
    }));
}

/// The services that an entry sends to: the texts under `Service`, wherever they stand.
fn services_of(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::String(name) if key == "Service" => {
                        found.insert(name.clone());
                    }
                    // Maps whose keys are anybody's.
                    _ if ["Meta", "RequestHeaders", "ResponseHeaders"].contains(&key.as_str()) => {}
                    _ => services_of(value, found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| services_of(value, found)),
        _ => {}
    }
}

/// The keys of metadata that a subset asks for.
fn keys_of(filter: &str) -> Vec<String> {
    let keys = filter.split(" and ").filter_map(|condition| {
        let (selector, _) = condition.split_once("==")?;
        Some(selector.trim().strip_prefix("Service.Meta.")?.to_owned())
    });
    keys.collect::<BTreeSet<_>>().into_iter().collect()
}

/// A service whose subsets may be told apart by these keys.
fn service(name: &str, protocol: &str, keys: &BTreeSet<Vec<String>>) -> String {
    let service = json!({
        "apiVersion": "mesh/v1",
        "kind": "Service",
        "metadata": { "name": name },
        "spec": { "endpoints": { "consul": { "service": name } }, "appProtocol": protocol },
    });
    let selectors: Vec<Value> = keys.iter().map(|keys| json!({ "keys": keys })).collect();
    if selectors.is_empty() {
        return service.to_string();
    }
    let policy = json!({
        "apiVersion": "mesh/v1",
        "kind": "TrafficPolicy",
        "metadata": { "name": name },
        "spec": {
            "targetRef": { "kind": "Service", "name": name },
            "pick": { "subsets": { "selectors": selectors } },
        },
    });
    format!("{service}\n---\n{policy}\n")
}
