//! Resolvers: what Consul's `service-resolver` says of how calls are made, as a policy of its Service.
//!
//! It stands on the level of a TrafficPolicy for the Service: what both state is an error.
//!
//! Source: Consul, configuration entry `service-resolver`.

use super::super::consul::{
    ConsulHashPolicy, ConsulLoadBalancer, HashField, LoadBalancerPolicy, ServiceResolver,
};
use super::super::de::Located;
use super::super::source::Location;
use super::super::span;
use super::super::tree::{Node, Value};
use super::Problem;
use super::merge::{entry, join, nothing};

/// The policy that a resolver states.
pub(super) fn policy(resolver: &ServiceResolver, problems: &mut Vec<Problem>) -> Node {
    let mut policy = nothing();
    for (key, written) in
        [("connect", &resolver.connect_timeout), ("request", &resolver.request_timeout)]
    {
        if let Some(written) = written
            && let Some(timeout) = written.value.0
        {
            let value = Value::Text(span::format(timeout));
            set(&mut policy, &["timeouts", key], written.at, value);
        }
    }
    if let Some(written) = &resolver.load_balancer {
        load_balancer(written, &mut policy, problems);
    }
    policy
}

fn load_balancer(written: &ConsulLoadBalancer, policy: &mut Node, problems: &mut Vec<Problem>) {
    let chosen = written.policy.as_ref().map(|chosen| chosen.value);
    let mut needs = |is: bool, key: &str, wanted: &str, at: Option<Location>| {
        if let (false, Some(at)) = (is, at) {
            let what = format!("`{key}` has no effect without policy {wanted}");
            problems.push(Problem::error(what).at(at));
        }
    };
    let least = written.least_request_config.as_ref();
    let is_least = chosen == Some(LoadBalancerPolicy::LeastRequest);
    needs(is_least, "LeastRequestConfig", "`least_request`", least.map(|least| least.at));
    let ring = written.ring_hash_config.as_ref();
    let is_ring = chosen == Some(LoadBalancerPolicy::RingHash);
    needs(is_ring, "RingHashConfig", "`ring_hash`", ring.map(|ring| ring.at));
    let hashed = written.hash_policies.first().map(|first| first.at);
    let is_hash = is_ring || chosen == Some(LoadBalancerPolicy::Maglev);
    needs(is_hash, "HashPolicies", "`ring_hash` or `maglev`", hashed);
    if let Some(chosen) = &written.policy {
        let name = match chosen.value {
            LoadBalancerPolicy::Random => "Random",
            LoadBalancerPolicy::RoundRobin => "RoundRobin",
            LoadBalancerPolicy::LeastRequest => "LeastRequest",
            LoadBalancerPolicy::RingHash => "RingHash",
            LoadBalancerPolicy::Maglev => "Maglev",
        };
        set(policy, &["pick", "policy"], chosen.at, Value::Text(name.to_owned()));
    }
    if let Some(count) = least.and_then(|least| least.choice_count.as_ref()) {
        set(policy, &["pick", "choiceCount"], count.at, Value::Unsigned(count.value.into()));
    }
    if let Some(ring) = ring {
        for (key, size) in [
            ("minimumRingSize", &ring.minimum_ring_size),
            ("maximumRingSize", &ring.maximum_ring_size),
        ] {
            if let Some(size) = size {
                set(policy, &["pick", "ringHash", key], size.at, Value::Unsigned(size.value));
            }
        }
    }
    let entries: Vec<Node> =
        written.hash_policies.iter().filter_map(|written| hash(written, problems)).collect();
    if let Some(first) = written.hash_policies.first() {
        set(policy, &["hash"], first.at, Value::List(entries));
    }
}

/// An entry of `hash`.
fn hash(written: &Located<ConsulHashPolicy>, problems: &mut Vec<Problem>) -> Option<Node> {
    let at = written.at;
    let ConsulHashPolicy { field, field_value, cookie_config, source_ip, terminal } =
        &written.value;
    let mut hash = nothing();
    hash.at = at;
    match (field, field_value, source_ip) {
        (None, None, true) => set(&mut hash, &["sourceAddress"], at, Value::Bool(true)),
        (Some(field), Some(name), false) => {
            let path: &[&str] = match field.value {
                HashField::Header => &["header"],
                HashField::Cookie => &["cookie", "name"],
                HashField::QueryParameter => &["queryParameter"],
            };
            set(&mut hash, path, name.at, Value::Text(name.value.clone()));
        }
        _ => {
            let what = "a hash policy has `Field` and `FieldValue`, or `SourceIP`";
            problems.push(Problem::error(what).at(at));
            return None;
        }
    }
    if let Some(cookie) = cookie_config {
        if field.as_ref().map(|field| field.value) != Some(HashField::Cookie) {
            let what = "`CookieConfig` is for a cookie";
            problems.push(Problem::error(what).at(cookie.at));
            return None;
        }
        let ttl = cookie.ttl.as_ref().and_then(|ttl| Some((ttl.value.0?, ttl.at)));
        let ttl = match (cookie.session, ttl) {
            (true, Some((_, at))) => {
                let what = "a cookie for a session has no `TTL`";
                problems.push(Problem::error(what).at(at));
                return None;
            }
            (true, None) => Some(("0s".to_owned(), cookie.at)),
            (false, ttl) => ttl.map(|(ttl, at)| (span::format(ttl), at)),
        };
        if let Some((ttl, at)) = ttl {
            set(&mut hash, &["cookie", "ttl"], at, Value::Text(ttl));
        }
        if let Some(path) = &cookie.path {
            set(&mut hash, &["cookie", "path"], path.at, Value::Text(path.value.clone()));
        }
    }
    if *terminal {
        set(&mut hash, &["terminal"], at, Value::Bool(true));
    }
    Some(hash)
}

/// Adds a value that is not there yet.
pub(super) fn set(policy: &mut Node, path: &[&str], at: Location, value: Value) {
    let value = Node { at, value };
    let nested = path.iter().rev().fold(value, |node, key| entry(key, at, node));
    join(policy, &nested, &mut Vec::new());
}
