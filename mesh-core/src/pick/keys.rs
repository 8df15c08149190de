//! Keys: what endpoints are placed by on a ring or in a table.
//!
//! The key of an endpoint is its label `hash_key`, else, if asked for, its hostname, else its id,
//! which is its address unless discovery names it otherwise. An endpoint that comes back at
//! another address keeps its place by a label, a hostname or an id of its own. What several
//! endpoints share tells none of them apart, so each of these adds its id: the addresses behind one
//! DNS name all get calls.
//!
//! Members are placed in the order of their keys, so that clients which learnt of them in different
//! orders send a call to the same one. Source: gRFC A76; Envoy `envoy.lb`, `hash_key`.

use super::members::Members;
use crate::endpoint::Member;
use std::borrow::Cow;
use std::collections::HashMap;

/// The label that names an endpoint's key.
const LABEL: &str = "hash_key";

/// A member as rings and tables see it.
#[derive(Debug)]
pub(super) struct Keyed<'a> {
    pub(super) key: Cow<'a, str>,
    /// At least 1.
    pub(super) weight: u32,
    /// Among the members.
    pub(super) place: u32,
}

/// The members in the order of their keys.
pub(super) fn keyed<C>(members: Members<'_, C>, use_hostname: bool) -> Vec<Keyed<'_>> {
    let mut owners: HashMap<&str, u32> = HashMap::new();
    for key in members.iter().filter_map(|member| own(member, use_hostname)) {
        *owners.entry(key).or_default() += 1;
    }
    let mut keyed: Vec<Keyed<'_>> = Vec::with_capacity(members.len());
    for (place, member) in (0..).zip(members.iter()) {
        let id = member.spec.id.as_str();
        let key = match own(member, use_hostname) {
            None => id.into(),
            Some(key) if owners.get(key) == Some(&1) => key.into(),
            Some(shared) => format!("{shared} {id}").into(),
        };
        keyed.push(Keyed { key, weight: member.spec.weight.max(1), place });
    }
    keyed.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    keyed
}

/// The key that discovery gives it.
fn own<C>(member: &Member<C>, use_hostname: bool) -> Option<&str> {
    let label = member.spec.metadata.get(LABEL).map(String::as_str);
    label.or_else(|| member.spec.hostname.as_deref().filter(|_| use_hostname))
}

#[cfg(test)]
mod tests {
    use super::super::members::Places;
    use super::*;
    use crate::endpoint::{EndpointSet, EndpointSpec};
    use std::net::SocketAddr;

    fn spec(port: u16) -> EndpointSpec {
        EndpointSpec::new(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    fn keys(specs: Vec<EndpointSpec>, use_hostname: bool) -> Vec<String> {
        let (set, _) = EndpointSet::<()>::empty().update(specs, |_| ());
        keyed(Places::Range(0..set.members().len()).of(set.members()), use_hostname)
            .into_iter()
            .map(|one| one.key.into_owned())
            .collect()
    }

    fn labelled(port: u16, key: &str) -> EndpointSpec {
        spec(port).with_metadata([(LABEL.to_owned(), key.to_owned())].into())
    }

    #[test]
    fn a_label_comes_before_a_hostname_and_that_before_the_id() {
        let specs = || vec![labelled(1, "a").with_hostname("h1"), spec(2).with_hostname("h2")];
        assert_eq!(keys(specs(), true), ["a", "h2"]);
        assert_eq!(keys(specs(), false), ["127.0.0.1:2", "a"]);
        assert_eq!(keys(vec![spec(3).with_id("pod-3")], true), ["pod-3"]);
    }

    #[test]
    fn what_several_share_is_told_apart_by_their_ids() {
        let shared = vec![labelled(1, "a"), labelled(2, "a"), labelled(3, "b")];
        assert_eq!(keys(shared, false), ["a 127.0.0.1:1", "a 127.0.0.1:2", "b"]);
        let dns = vec![spec(1).with_hostname("cache"), spec(2).with_hostname("cache")];
        assert_eq!(keys(dns, true), ["cache 127.0.0.1:1", "cache 127.0.0.1:2"]);
    }
}
