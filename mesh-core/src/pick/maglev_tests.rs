use super::*;

fn table(weights: &[(&str, u32)], size: u32) -> Vec<u32> {
    let keys = weights.iter().zip(0..).map(|((key, weight), place)| Keyed {
        key: (*key).into(),
        weight: *weight,
        place,
    });
    Table::new(&keys.collect::<Vec<_>>(), size).slots.into()
}

fn of_ports(ports: &[(u32, u32)], size: u32) -> Vec<u32> {
    let mut names: Vec<(String, u32, u32)> = ports
        .iter()
        .zip(0..)
        .map(|((port, weight), place)| (format!("127.0.0.1:{port}"), *weight, place))
        .collect();
    names.sort();
    let keyed: Vec<Keyed<'_>> = names
        .iter()
        .map(|(key, weight, place)| Keyed { key: key.into(), weight: *weight, place: *place })
        .collect();
    Table::new(&keyed, size).slots.into()
}

/// The tables that Envoy's own tests expect (`maglev_lb_test.cc`: Basic, BasicWithHostName,
/// Weighted, LocalityWeightedSameLocalityWeights, LocalityWeightedDifferentLocalityWeights).
#[test]
fn the_table_is_envoys() {
    let ports = [90, 91, 92, 93, 94, 95];
    assert_eq!(of_ports(&ports.map(|port| (port, 1)), 7), [2, 4, 0, 1, 5, 0, 3]);
    let names = ["90", "91", "92", "93", "94", "95"].map(|name| (name, 1));
    assert_eq!(table(&names, 7), [2, 5, 0, 3, 4, 1, 0]);
    for (weights, expected) in [
        ([1, 2], [1, 0, 0, 1, 0, 1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 0, 1]),
        ([1, 1], [1, 0, 0, 1, 0, 1, 1, 0, 0, 1, 0, 1, 0, 0, 1, 0, 1]),
        ([8, 2], [1, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0]),
    ] {
        assert_eq!(of_ports(&[(90, weights[0]), (91, weights[1])], 17), expected, "{weights:?}");
    }
}

/// Envoy's LocalityWeightedLopsided: the light get a slot each, the heavy one all the rest.
#[test]
fn everyone_has_a_slot() {
    let weights: Vec<(u32, u32)> =
        (0..1024).map(|n| (n, if n == 0 { u32::MAX } else { 1 })).collect();
    let table = of_ports(&weights, 65_537);
    let mut counts = vec![0; 1024];
    table.iter().for_each(|place| counts[*place as usize] += 1);
    assert_eq!(counts[0], 65_537 - 1023);
    assert!(counts[1..].iter().all(|count| *count == 1));
}

#[test]
fn shares_are_within_one_percent_of_the_weights() {
    for weights in [&[1, 1, 1][..], &[1, 2, 3, 4], &[5, 1, 1], &[1, 999], &[7; 100]] {
        let ports: Vec<(u32, u32)> = (0..).zip(weights.iter().copied()).collect();
        let table = of_ports(&ports, 65_537);
        let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        for (place, weight) in (0..).zip(weights) {
            let slots = table.iter().filter(|slot| **slot == place).count() as f64;
            let expected = 65_537.0 * f64::from(*weight) / total;
            assert!((slots / expected - 1.0).abs() < 0.01, "{weights:?} {place}: {slots}");
        }
    }
}

#[test]
fn a_table_smaller_than_the_set_grows() {
    let ports: Vec<(u32, u32)> = (0..10).map(|port| (port, 1)).collect();
    assert_eq!(of_ports(&ports, 7).len(), 655_373);
    assert_eq!(of_ports(&ports, 11).len(), 11);
    for size in [0, 1, 4, 65_536, u32::MAX] {
        assert_eq!(of_ports(&ports, size).len() % 655_373, 0, "{size} is no prime in bounds");
    }
    assert_eq!(of_ports(&[(1, 1)], 2), [0, 0]);
    assert!(of_ports(&[], 7).is_empty());
}

#[test]
fn sizes_are_primes_within_the_bound() {
    assert!([2, 3, 17, 65_537, 655_373, 5_000_011].into_iter().all(is_prime));
    assert!(![0, 1, 4, 65_536, 5_000_010].into_iter().any(is_prime));
    for (text, read) in [("7", true), ("65537", true), ("5000011", true), ("0", false)]
        .into_iter()
        .chain([("1", false), ("65536", false), ("5000023", false), ("-7", false)])
    {
        let config = serde_json::from_str::<Config>(&format!("{{\"tableSize\":{text}}}"));
        assert_eq!(config.is_ok(), read, "{text}");
    }
}
