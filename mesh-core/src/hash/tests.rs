use super::*;
use http::header::COOKIE;

fn policies(text: &str) -> Vec<Config> {
    serde_json::from_str(text).unwrap()
}

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    let pairs = fields.iter().map(|(name, value)| {
        (HeaderName::from_static(name), HeaderValue::try_from(*value).unwrap())
    });
    pairs.collect()
}

fn hash_of(policy: &str, input: &Input<'_>) -> Option<u64> {
    let hashed = hash(&policies(policy), input, &mut || 0);
    assert!(hashed.cookies.is_empty());
    hashed.hash
}

/// The values that the reference implementation gives (xxHash, `XXH64`, seed 0).
#[test]
fn xxh64_is_that_of_the_reference() {
    for (text, expected) in [
        ("", 0xef46_db37_51d8_e999),
        ("a", 0xd24e_c4f1_a98c_6e5b),
        ("abc", 0x44bc_2cf5_ad77_0999),
        ("Nobody inspects the spammish repetition", 0xfbce_a83c_8a37_8bf1),
    ] {
        assert_eq!(xxh64(text.as_bytes()), expected, "{text:?}");
    }
}

#[test]
fn each_source_hashes_its_value() {
    let headers =
        headers(&[("x-user", "ada"), ("cookie", "a=0; sid=s1"), ("x-many", "1"), ("x-many", "2")]);
    let input = Input::new(&headers)
        .with_query(Some("x=1&user=b%6Fb&user=eve"))
        .with_source(Some([10, 0, 0, 7].into()));
    for (policy, value) in [
        (r#"[{"header":"x-user"}]"#, Some("ada")),
        (r#"[{"header":"X-User"}]"#, Some("ada")),
        (r#"[{"header":"x-many"}]"#, Some("1,2")),
        (r#"[{"cookie":{"name":"sid"}}]"#, Some("s1")),
        (r#"[{"queryParameter":"user"}]"#, Some("bob")),
        (r#"[{"queryParameter":"x"}]"#, Some("1")),
        (r#"[{"sourceAddress":true}]"#, Some("10.0.0.7")),
        (r#"[{"header":"x-none"}]"#, None),
        (r#"[{"cookie":{"name":"none"}}]"#, None),
        (r#"[{"queryParameter":"none"}]"#, None),
        ("[]", None),
    ] {
        assert_eq!(hash_of(policy, &input), value.map(|value| xxh64(value.as_bytes())), "{policy}");
    }
    assert_eq!(hash_of(r#"[{"sourceAddress":true}]"#, &Input::new(&headers)), None);
}

#[test]
fn one_address_hashes_alike_in_both_families() {
    let headers = HeaderMap::new();
    let of = |address: &str| {
        let source = Some(address.parse().unwrap());
        hash_of(r#"[{"sourceAddress":true}]"#, &Input::new(&headers).with_source(source))
    };
    assert_eq!(of("::ffff:10.0.0.7"), of("10.0.0.7"));
    let longest = "1111:2222:3333:4444:5555:6666:7777:8888";
    assert_eq!(of(longest), Some(xxh64(longest.as_bytes())));
}

#[test]
fn hashes_are_rotated_and_xored_and_a_terminal_entry_ends_the_list() {
    let headers = headers(&[("a", "1"), ("b", "2")]);
    let input = Input::new(&headers);
    let (one, two) = (xxh64(b"1"), xxh64(b"2"));
    for (policy, expected) in [
        (r#"[{"header":"a"},{"header":"b"}]"#, one.rotate_left(1) ^ two),
        (r#"[{"header":"b"},{"header":"a"}]"#, two.rotate_left(1) ^ one),
        (r#"[{"header":"a"},{"header":"a"}]"#, one.rotate_left(1) ^ one),
        (r#"[{"header":"a","terminal":true},{"header":"b"}]"#, one),
        (r#"[{"header":"x","terminal":true},{"header":"b"}]"#, two),
        (r#"[{"header":"a"},{"header":"x","terminal":true},{"header":"b"}]"#, one),
        (r#"[{"header":"a"},{"header":"x"},{"header":"b"}]"#, one.rotate_left(1) ^ two),
    ] {
        assert_eq!(hash_of(policy, &input), Some(expected), "{policy}");
    }
}

#[test]
fn a_cookie_with_a_ttl_is_made_for_a_call_without_it_and_hashes_as_it_will() {
    let policies = policies(r#"[{"cookie":{"name":"sid","ttl":"1h","path":"/"}}]"#);
    let none = HeaderMap::new();
    let made = hash(&policies, &Input::new(&none), &mut || 0xab);
    assert_eq!(made.cookies, ["sid=00000000000000ab; Max-Age=3600; Path=/; HttpOnly"]);

    let mut next = HeaderMap::new();
    next.insert(COOKIE, HeaderValue::from_static("sid=00000000000000ab"));
    let read = hash(&policies, &Input::new(&next), &mut || 0xcd);
    assert_eq!(read.hash, made.hash);
    assert!(read.hash.is_some() && read.cookies.is_empty());
}

#[test]
fn a_cookie_after_a_terminal_hash_is_not_made() {
    let policies =
        policies(r#"[{"header":"a","terminal":true},{"cookie":{"name":"sid","ttl":"0s"}}]"#);
    let with = headers(&[("a", "1")]);
    assert!(hash(&policies, &Input::new(&with), &mut || 1).cookies.is_empty());
    let none = HeaderMap::new();
    let made = hash(&policies, &Input::new(&none), &mut || 1);
    assert_eq!(made.cookies, ["sid=0000000000000001; HttpOnly"]);
}

#[test]
fn an_entry_has_one_source_with_a_name_that_can_be_one() {
    for text in [
        "{}",
        r#"{"terminal":true}"#,
        r#"{"sourceAddress":false}"#,
        r#"{"header":"a","queryParameter":"b"}"#,
        r#"{"header":"a b"}"#,
        r#"{"header":""}"#,
        r#"{"cookie":{"name":"a;b"}}"#,
        r#"{"cookie":{}}"#,
        r#"{"cookie":{"name":"a","ttl":"-1s"}}"#,
        r#"{"unknown":1}"#,
    ] {
        assert!(serde_json::from_str::<Config>(text).is_err(), "{text}");
    }
}

#[test]
fn what_is_written_reads_back() {
    for text in [
        r#"{"header":"x-user","terminal":true}"#,
        r#"{"cookie":{"name":"sid","ttl":"1h","path":"/"}}"#,
        r#"{"queryParameter":"user"}"#,
        r#"{"sourceAddress":true}"#,
    ] {
        let config: Config = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&config).unwrap(), text);
    }
}

/// A megabyte of what a stranger chose is passed over once, whatever it looks like.
#[test]
fn large_and_odd_values_are_hashed_as_they_are() {
    let cookie = "a=;".repeat(300_000) + "sid=1";
    let headers = headers(&[("cookie", &cookie), ("x-user", &"x".repeat(1 << 20))]);
    let query = "%&=".repeat(300_000) + "&user=%zz";
    let input = Input::new(&headers).with_query(Some(&query));
    assert_eq!(hash_of(r#"[{"cookie":{"name":"sid"}}]"#, &input), Some(xxh64(b"1")));
    assert_eq!(hash_of(r#"[{"queryParameter":"user"}]"#, &input), Some(xxh64(b"%zz")));
    let long = xxh64("x".repeat(1 << 20).as_bytes());
    assert_eq!(hash_of(r#"[{"header":"x-user"}]"#, &input), Some(long));

    let mut bytes = HeaderMap::new();
    bytes.insert("x-user", HeaderValue::from_bytes(&[0xff, 0xfe]).unwrap());
    assert_eq!(
        hash_of(r#"[{"header":"x-user"}]"#, &Input::new(&bytes)),
        Some(xxh64(&[0xff, 0xfe]))
    );
}
