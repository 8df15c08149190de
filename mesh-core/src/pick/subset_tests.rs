use super::*;
use crate::pick::{self, NoPick, PickArgs, Picker};
use crate::{EndpointSpec, Timestamp};
use std::net::SocketAddr;

const NOW: Timestamp = Timestamp::from_nanos(1_000_000_000);

/// Envoy's example: stage, version and type of seven endpoints, e1 to e7.
const ENDPOINTS: [&[(&str, &str)]; 7] = [
    &[("stage", "prod"), ("version", "1.0"), ("type", "std"), ("xlarge", "true")],
    &[("stage", "prod"), ("version", "1.0"), ("type", "std")],
    &[("stage", "prod"), ("version", "1.1"), ("type", "std")],
    &[("stage", "prod"), ("version", "1.1"), ("type", "std")],
    &[("stage", "prod"), ("version", "1.0"), ("type", "bigmem")],
    &[("stage", "prod"), ("version", "1.1"), ("type", "bigmem")],
    &[("stage", "dev"), ("version", "1.2-pre"), ("type", "std")],
];

fn selector(keys: &[&str]) -> Selector {
    let keys = keys.iter().map(|key| (*key).to_owned()).collect();
    Selector { keys, fallback: None, fallback_keys: BTreeSet::new() }
}

fn example() -> Config {
    Config {
        selectors: vec![
            selector(&["stage", "type"]),
            selector(&["stage", "version"]),
            selector(&["version"]),
            selector(&["xlarge", "version"]),
        ],
        fallback: Fallback::DefaultSubset,
        default_subset: Labels::from_iter([("stage", "prod"), ("version", "1.0"), ("type", "std")])
            .entries,
    }
}

fn picker(config: Config) -> Picker {
    let specs = ENDPOINTS.iter().zip(1u16..).map(|(labels, n)| {
        EndpointSpec::new(SocketAddr::from(([10, 0, 0, 1], n)))
            .with_metadata(Labels::from_iter(labels.iter().copied()).entries)
    });
    let (set, _) = EndpointSet::empty().update(specs.collect(), |_| ());
    Picker::new(set, pick::Config { subsets: Some(config), ..pick::Config::default() })
}

/// The numbers of the endpoints that such calls go to.
fn reached(picker: &Picker, wanted: &[Labels]) -> Result<Vec<usize>, NoPick> {
    let mut rng = fastrand::Rng::with_seed(3);
    let args = PickArgs::new(NOW).with_subset(wanted);
    let mut seen = BTreeSet::new();
    for _ in 0..200 {
        let picked = picker.pick(&args, &mut || rng.u64(..))?;
        seen.insert(usize::from(picked.member.spec.addresses[0].port()));
    }
    Ok(seen.into_iter().collect())
}

fn want(labels: &[(&str, &str)]) -> Labels {
    labels.iter().copied().collect()
}

#[test]
fn the_rows_of_envoys_example() {
    let picker = picker(example());
    for (labels, expected) in [
        (&[("stage", "prod"), ("type", "std")][..], &[1, 2, 3, 4][..]),
        (&[("stage", "prod"), ("type", "bigmem")], &[5, 6]),
        (&[("stage", "dev"), ("type", "std")], &[7]),
        (&[("stage", "prod"), ("version", "1.0")], &[1, 2, 5]),
        (&[("stage", "prod"), ("version", "1.1")], &[3, 4, 6]),
        (&[("version", "1.1")], &[3, 4, 6]),
        (&[("version", "1.2-pre")], &[7]),
        (&[("xlarge", "true"), ("version", "1.0")], &[1]),
        // No such values, no such selector, and no labels at all: the default subset.
        (&[("version", "3")], &[1, 2]),
        (&[("stage", "prod")], &[1, 2]),
        (&[], &[1, 2]),
    ] {
        let wanted = want(labels);
        let wanted = if labels.is_empty() { &[][..] } else { std::slice::from_ref(&wanted) };
        assert_eq!(reached(&picker, wanted).as_deref(), Ok(expected), "{labels:?}");
    }
}

#[test]
fn without_a_fallback_the_call_fails_and_says_what_it_wanted() {
    let picker = picker(Config { fallback: Fallback::NoFallback, ..example() });
    let error = reached(&picker, &[want(&[("version", "3")])]).expect_err("no such subset");
    assert_eq!(error.to_string(), "there is no subset version=3");
    assert_eq!(reached(&picker, &[]).map(|all| all.len()), Ok(7), "no labels, no restriction");
}

#[test]
fn any_endpoint_is_any_endpoint() {
    let picker = picker(Config { fallback: Fallback::AnyEndpoint, ..example() });
    assert_eq!(reached(&picker, &[want(&[("version", "3")])]).map(|all| all.len()), Ok(7));
}

#[test]
fn a_selector_has_a_fallback_of_its_own() {
    let mut config = Config { fallback: Fallback::AnyEndpoint, ..example() };
    config.selectors[1].fallback = Some(SelectorFallback::NoFallback);
    let picker = picker(config);
    assert!(reached(&picker, &[want(&[("stage", "dev"), ("version", "1.0")])]).is_err());
    assert_eq!(reached(&picker, &[want(&[("version", "3")])]).map(|all| all.len()), Ok(7));
}

#[test]
fn keys_are_left_out_until_there_is_a_subset() {
    let mut config = example();
    config.selectors[1].fallback = Some(SelectorFallback::KeysSubset);
    config.selectors[1].fallback_keys = ["version".to_owned()].into();
    let picker = picker(config);
    let dev = |version| want(&[("stage", "dev"), ("version", version)]);
    assert_eq!(reached(&picker, &[dev("1.1")]), Ok(vec![3, 4, 6]), "by version alone");
    assert_eq!(reached(&picker, &[dev("9")]), Ok(vec![1, 2]), "then the default subset");
}

#[test]
fn the_first_of_several_labels_with_a_subset_counts() {
    let picker = picker(example());
    let wanted = [want(&[("version", "3")]), want(&[("version", "1.2-pre")])];
    assert_eq!(reached(&picker, &wanted), Ok(vec![7]));
    let wanted = [want(&[("version", "3")]), want(&[("version", "4")])];
    assert_eq!(reached(&picker, &wanted), Ok(vec![1, 2]), "after the last, the fallback");
}

#[test]
fn a_subset_whose_endpoints_are_out_does_not_fall_back() {
    let picker = picker(Config { fallback: Fallback::AnyEndpoint, ..example() });
    let dev = &picker.set().members()[6].endpoint;
    dev.health().set_unreachable(NOW, Timestamp::MAX);
    assert!(matches!(
        reached(&picker, &[want(&[("version", "1.2-pre")])]),
        Err(NoPick::AllOut { .. })
    ));
}

#[test]
fn labels_without_selectors_name_nothing() {
    let set = picker(example()).set().clone();
    let picker = Picker::new(set, pick::Config::default());
    assert!(matches!(
        reached(&picker, &[want(&[("version", "1.0")])]),
        Err(NoPick::NoSubset { .. })
    ));
}

#[test]
fn labels_are_read_as_they_are_shown() {
    for text in ["", "a=1", "a=1, b=x=y"] {
        assert_eq!(text.parse::<Labels>().map(|labels| labels.to_string()), Ok(text.to_owned()));
    }
    for wrong in ["a", "=1", "a=1,a=2"] {
        assert!(wrong.parse::<Labels>().is_err(), "{wrong}");
    }
}
