//! Failover by labels: endpoints that are like the caller are used first.
//!
//! Of the labels `k1 … kn`, the first `m` of which an endpoint has with the caller's value, the
//! endpoint stands `n − m` levels behind the nearest: `m` counts until the first that differs.
//! This orders the endpoints of one priority; priorities that discovery gives come first.
//!
//! Region, zone and sub-zone go by the names `topology.kubernetes.io/region`,
//! `topology.kubernetes.io/zone` and `topology.istio.io/subzone`. A label that the caller does not
//! have is met by endpoints that do not have it either.
//!
//! Source: Istio `LocalityLoadBalancerSetting.failoverPriority`.

use super::caller::Caller;
use crate::endpoint::{EndpointSpec, Locality};

/// How many levels an endpoint stands behind the nearest.
pub(super) fn rank(labels: &[String], spec: &EndpointSpec, caller: &Caller) -> u32 {
    let same = |label: &&String| {
        let theirs = spec.metadata.get(*label).map(String::as_str);
        value(label, theirs, &spec.locality)
            == value(label, caller.labels.get(label), &caller.locality)
    };
    (labels.len() - labels.iter().take_while(same).count()) as u32
}

/// The value of a label; empty if it is not there.
fn value<'a>(label: &str, labelled: Option<&'a str>, locality: &'a Locality) -> &'a str {
    match (labelled, label) {
        (Some(value), _) => value,
        (None, "topology.kubernetes.io/region") => &locality.region,
        (None, "topology.kubernetes.io/zone") => &locality.zone,
        (None, "topology.istio.io/subzone") => &locality.sub_zone,
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::net::SocketAddr;

    fn labels(of: &[(&str, &str)]) -> BTreeMap<String, String> {
        of.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_first_labels_that_match_decide() {
        let order = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "version"]
            .map(str::to_owned);
        let caller =
            Caller::new(Locality::new("r", "z", "")).with_labels(labels(&[("version", "1")]));
        for (region, zone, version, expected) in [
            ("r", "z", "1", 0),
            ("r", "z", "2", 1),
            ("r", "y", "1", 2),
            ("q", "z", "1", 3),
            ("q", "y", "2", 3),
        ] {
            let spec = EndpointSpec::new(SocketAddr::from(([10, 0, 0, 1], 80)))
                .with_locality(Locality::new(region, zone, ""))
                .with_metadata(labels(&[("version", version)]));
            assert_eq!(rank(&order, &spec, &caller), expected, "{region} {zone} {version}");
        }
    }

    #[test]
    fn without_labels_all_are_alike() {
        let spec = EndpointSpec::new(SocketAddr::from(([10, 0, 0, 1], 80)));
        assert_eq!(rank(&[], &spec, &Caller::default()), 0);
    }
}
