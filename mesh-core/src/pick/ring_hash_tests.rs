use super::*;
use proptest::prelude::*;

fn keyed_of(weights: &[(&str, u32)]) -> Vec<Keyed<'static>> {
    let keys = weights.iter().zip(0..).map(|((key, weight), place)| Keyed {
        key: (*key).to_owned().into(),
        weight: *weight,
        place,
    });
    keys.collect()
}

fn config(minimum: u32, maximum: u32) -> Config {
    Config { minimum_ring_size: Some(minimum), maximum_ring_size: maximum, ..Config::default() }
}

/// The rings that Envoy's own tests expect (`ring_hash_lb_test.cc`: Basic, BasicWithHostname,
/// UnevenHosts).
#[test]
fn the_ring_is_envoys() {
    let ports = ["90", "91", "92", "93", "94", "95"].map(|port| format!("127.0.0.1:{port}"));
    let ports: Vec<(&str, u32)> = ports.iter().map(|port| (&**port, 1)).collect();
    let by_address: &[(u64, u32)] = &[
        (833_437_586_790_550_860, 4),
        (928_266_305_478_181_108, 2),
        (1_033_482_794_131_418_490, 0),
        (3_551_244_743_356_806_947, 5),
        (3_851_675_632_748_031_481, 3),
        (5_583_722_120_771_150_861, 1),
        (6_311_230_543_546_372_928, 1),
        (7_700_377_290_971_790_572, 3),
        (13_144_177_310_400_110_813, 5),
        (13_444_792_449_719_432_967, 2),
        (15_516_499_411_664_133_160, 4),
        (16_117_243_373_044_804_889, 0),
    ];
    let names = [("90", 1), ("91", 1), ("92", 1), ("93", 1), ("94", 1), ("95", 1)];
    let by_name: &[(u64, u32)] = &[
        (1_975_508_444_536_362_413, 5),
        (2_376_063_919_839_173_711, 5),
        (2_386_806_903_309_390_596, 3),
        (6_749_904_478_991_551_885, 4),
        (6_803_900_775_736_438_537, 3),
        (7_225_015_537_174_310_577, 2),
        (8_787_465_352_164_086_522, 0),
        (11_282_020_843_382_717_940, 2),
        (13_723_418_369_486_627_818, 1),
        (13_776_502_110_861_797_421, 0),
        (14_338_313_586_354_474_791, 1),
        (15_364_271_037_087_512_980, 4),
    ];
    let uneven: &[(u64, u32)] = &[
        (5_454_692_015_285_649_509, 0),
        (7_859_399_908_942_313_493, 1),
        (13_838_424_394_637_650_569, 0),
        (16_064_866_803_292_627_174, 1),
    ];
    let two = [("127.0.0.1:80", 1), ("127.0.0.1:81", 1)];
    for (weights, minimum, expected) in
        [(&ports[..], 12, by_address), (&names, 12, by_name), (&two, 3, uneven)]
    {
        let ring = Ring::new(&keyed_of(weights), &config(minimum, MAX_SIZE));
        let entries: Vec<_> = ring.entries.iter().map(|entry| (entry.hash, entry.place)).collect();
        assert_eq!(entries, expected);
    }
}

#[test]
fn a_hash_finds_the_first_entry_at_or_after_it_and_wraps() {
    let names = ["90", "91", "92", "93", "94", "95"].map(|port| format!("127.0.0.1:{port}"));
    let weights: Vec<(&str, u32)> = names.iter().map(|name| (&**name, 1)).collect();
    let ring = Ring::new(&keyed_of(&weights), &config(12, MAX_SIZE));
    for (hash, place) in [
        (0, 4),
        (u64::MAX, 4),
        (3_551_244_743_356_806_947, 5),
        (3_551_244_743_356_806_948, 3),
        (16_117_243_373_044_804_880, 0),
    ] {
        assert_eq!(ring.walk(hash).next(), Some(place), "{hash}");
    }
    // Envoy's BasicWithRetryHostPredicate: the next endpoint on the ring.
    assert_eq!(ring.walk(0).find(|place| *place != 4), Some(2));
    assert_eq!(ring.walk(0).count(), 12, "each entry once");
}

/// Sizes that gRPC's and Envoy's documents and statistics name.
#[test]
fn sizes_follow_weights_within_their_bounds() {
    for (weights, minimum, maximum, expected) in [
        (&[1, 1, 1][..], 1024, MAX_SIZE, &[342, 342, 342][..]),
        (&[1, 1, 1], 512, MAX_SIZE, &[171, 171, 171]),
        (&[1, 1], 3, MAX_SIZE, &[2, 2]),
        (&[1], 1024, MAX_SIZE, &[1024]),
        // gRPC's ring_test.go: weights 3, 3, 4.
        (&[3, 3, 4], 1, 20, &[3, 3, 4].map(|part: u32| part.div_ceil(3))),
        (&[3, 3, 4], 10, 20, &[3, 3, 4]),
        (&[1, 2, 3], 6, MAX_SIZE, &[1, 2, 3]),
        // The largest size caps; fractions are carried on.
        (&[1, 1, 1], 1024, 4, &[2, 1, 1]),
        (&[1, 1, 1, 1], 1024, 2, &[1, 0, 1, 0]),
        // A light one gets its entry, and the heavy one as many as the bound leaves.
        (&[1, u32::MAX], 1024, 1000, &[1, 999]),
    ] {
        let names: Vec<String> = (0..weights.len()).map(|n| n.to_string()).collect();
        let weights: Vec<(&str, u32)> =
            names.iter().map(|name| &**name).zip(weights.iter().copied()).collect();
        let counts = counts(&keyed_of(&weights), &config(minimum, maximum));
        assert_eq!(counts, expected, "{weights:?} {minimum} {maximum}");
    }
}

/// Where no size is written, an endpoint keeps its entries whoever comes or goes.
#[test]
fn entries_of_an_endpoint_do_not_depend_on_the_others() {
    for (endpoints, each) in [
        (1, 256..=256),
        (2, 256..=256),
        (64, 256..=256),
        (65, 252..=253),
        (1_000, 16..=17),
        (20_000, 1..=1),
    ] {
        let names: Vec<String> = (0..endpoints).map(|n: u32| n.to_string()).collect();
        let weights: Vec<(&str, u32)> = names.iter().map(|name| (&**name, 7)).collect();
        let counts = counts(&keyed_of(&weights), &Config::default());
        assert!(counts.iter().all(|count| each.contains(count)), "{endpoints}: {counts:?}");
    }
    let of = |weights: &[(&str, u32)]| counts(&keyed_of(weights), &Config::default());
    assert_eq!(of(&[("a", 1), ("b", 2), ("c", 5)]), [256, 512, 1280]);
    let [light, heavy] = of(&[("a", 1), ("b", u32::MAX)])[..] else { panic!("two") };
    assert!((1..=2).contains(&light) && (16_383..=16_384).contains(&heavy), "{light} {heavy}");
    assert!(of(&[]).is_empty());
    let small = Config { maximum_ring_size: 100, ..Config::default() };
    assert_eq!(counts(&keyed_of(&[("a", 1), ("b", 1)]), &small), [50, 50]);
}

#[test]
fn no_setting_makes_a_ring_beyond_the_bounds() {
    let weights = [("a", 1), ("b", u32::MAX), ("c", 7)];
    for (minimum, maximum) in [(0, 0), (u32::MAX, 0), (0, 1), (u32::MAX, 5), (9, 3)] {
        let counts = counts(&keyed_of(&weights), &config(minimum, maximum));
        assert_eq!(counts.iter().sum::<u32>(), maximum.max(1), "{minimum} {maximum}");
    }
    let empty = Ring::new(&[], &config(1024, MAX_SIZE));
    assert_eq!(empty.walk(7).next(), None);
}

proptest! {
    /// The index by upper bits finds what a search of the whole ring does.
    #[test]
    fn the_index_changes_nothing(
        hashes in prop::collection::vec(any::<u64>(), 1..200),
        near in any::<prop::sample::Index>(),
        offset in -1i64..=1,
        anywhere: u64,
    ) {
        let mut entries: Vec<Entry> =
            hashes.iter().zip(0..).map(|(hash, place)| Entry { hash: *hash, place }).collect();
        entries.sort_unstable();
        let ring = Ring::index(entries.into());
        for hash in [anywhere, near.get(&hashes).wrapping_add_signed(offset), 0, u64::MAX] {
            let expected = ring.entries.partition_point(|entry| entry.hash < hash);
            prop_assert_eq!(ring.find(hash), expected);
        }
    }

    #[test]
    fn counts_are_those_of_the_formula(
        weights in prop::collection::vec(1u32..1000, 1..20),
        minimum in 1u32..2000,
    ) {
        let names: Vec<String> = (0..weights.len()).map(|n| n.to_string()).collect();
        let keyed: Vec<(&str, u32)> =
            names.iter().map(|name| &**name).zip(weights.iter().copied()).collect();
        let counts = counts(&keyed_of(&keyed), &config(minimum, MAX_SIZE));
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        let least = u64::from(*weights.iter().min().unwrap());
        let scale = (least * u64::from(minimum)).div_ceil(total) as f64 / least as f64;
        for (count, weight) in counts.iter().zip(&weights) {
            prop_assert!((f64::from(*count) - scale * f64::from(*weight)).abs() < 1.0 + 1e-6);
        }
        prop_assert!(counts.iter().sum::<u32>() >= minimum);
    }
}
