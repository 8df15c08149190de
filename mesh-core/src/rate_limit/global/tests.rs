use super::*;
use crate::rate_limit::Told;
use http::{HeaderMap, Method};
use std::net::IpAddr;

/// Reads rules as they are written.
fn config(rules: &str) -> Config {
    let text = format!(r#"{{"service":"ratelimit","domain":"shop","rateLimits":{rules}}}"#);
    serde_json::from_str(&text).expect("valid")
}

fn global(rules: &str) -> Global {
    Global::new(&config(rules), XRatelimitHeaders::DraftVersion03)
}

fn fields(of: &[(&'static str, &str)]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for (name, value) in of {
        fields.append(*name, value.parse().expect("a value"));
    }
    fields
}

/// The descriptors of one call, as `key=value` joined by `;`.
fn made(rules: &str, headers: &HeaderMap, query: Option<&str>) -> Vec<String> {
    let asked = Asked::new(headers, &Method::PUT, "/items/7")
        .target(Some("shop.example"), query)
        .from(Some("spiffe://a/b"), "10.1.2.3".parse().ok())
        .between(Some("web"), Some("cart"));
    let one = |made: Made<'_>| {
        let entries = made.entries.iter().map(|(key, value)| format!("{key}={value}"));
        entries.collect::<Vec<_>>().join(";")
    };
    global(rules).descriptors(&asked).into_iter().map(one).collect()
}

#[test]
fn each_action_makes_its_entry_and_a_descriptor_lacks_what_the_call_lacks() {
    let call = fields(&[("x-tenant", "ada"), ("x-tenant", "eve"), ("x-empty", "")]);
    let query = Some("page=2&q=a%20b&none=");
    for (actions, expected) in [
        (
            r#"{"sourceCluster":{}},{"destinationCluster":{}}"#,
            Some("source_cluster=web;destination_cluster=cart"),
        ),
        (r#"{"sourceIdentity":{}}"#, Some("source_identity=spiffe://a/b")),
        (r#"{"remoteAddress":{}}"#, Some("remote_address=10.1.2.3")),
        (r#"{"maskedRemoteAddress":{}}"#, Some("masked_remote_address=10.1.2.3/32")),
        (
            r#"{"maskedRemoteAddress":{"v4PrefixMaskLen":12}}"#,
            Some("masked_remote_address=10.0.0.0/12"),
        ),
        (
            r#"{"maskedRemoteAddress":{"v4PrefixMaskLen":0}}"#,
            Some("masked_remote_address=0.0.0.0/0"),
        ),
        (r#"{"genericKey":{"descriptorValue":"all"}}"#, Some("generic_key=all")),
        (r#"{"genericKey":{"descriptorValue":"all","descriptorKey":"plan"}}"#, Some("plan=all")),
        (r#"{"requestHeaders":{"headerName":"x-tenant","descriptorKey":"t"}}"#, Some("t=ada")),
        (
            r#"{"requestHeaders":{"headerName":":path","descriptorKey":"p"}}"#,
            Some("p=/items/7?page=2&q=a%20b&none="),
        ),
        (r#"{"requestHeaders":{"headerName":":method","descriptorKey":"m"}}"#, Some("m=PUT")),
        (
            r#"{"requestHeaders":{"headerName":":authority","descriptorKey":"a"}}"#,
            Some("a=shop.example"),
        ),
        (r#"{"requestHeaders":{"headerName":"x-empty","descriptorKey":"e"}}"#, None),
        (
            r#"{"requestHeaders":{"headerName":"x-none","descriptorKey":"e"}},{"remoteAddress":{}}"#,
            None,
        ),
        (
            r#"{"requestHeaders":{"headerName":"x-none","descriptorKey":"e","skipIfAbsent":true}},{"remoteAddress":{}}"#,
            Some("remote_address=10.1.2.3"),
        ),
        (
            r#"{"requestHeaders":{"headerName":"x-none","descriptorKey":"e","skipIfAbsent":true}}"#,
            None,
        ),
        (r#"{"queryParameters":{"queryParameterName":"q","descriptorKey":"q"}}"#, Some("q=a b")),
        (r#"{"queryParameters":{"queryParameterName":"none","descriptorKey":"q"}}"#, None),
        (
            r#"{"queryParameters":{"queryParameterName":"z","descriptorKey":"q","skipIfAbsent":true}},{"sourceCluster":{}}"#,
            Some("source_cluster=web"),
        ),
    ] {
        let rules = format!(r#"[{{"actions":[{actions}]}}]"#);
        let expected: Vec<&str> = expected.into_iter().collect();
        assert_eq!(made(&rules, &call, query), expected, "{actions}");
        let read = config(&rules);
        let text = serde_json::to_string(&read).expect("plain");
        assert_eq!(serde_json::from_str::<Config>(&text).expect("round trip"), read);
    }
}

#[test]
fn a_match_gives_its_value_where_all_is_as_it_expects() {
    let call = fields(&[("x-tier", "gold")]);
    let present =
        |name: &str, invert: bool| format!(r#"{{"name":"{name}","invertMatch":{invert}}}"#);
    let exact = |value: &str, invert: bool| {
        format!(r#"{{"name":"x-tier","value":"{value}","invertMatch":{invert}}}"#)
    };
    let expression = r#"{"name":"x-tier","type":"RegularExpression","value":"g.*"}"#.to_owned();
    let absent = |invert: bool| format!(r#"{{"name":"x-no","value":"a","invertMatch":{invert}}}"#);
    for (headers, holds) in [
        (vec![present("x-tier", false)], true),
        (vec![present("x-tier", true)], false),
        (vec![present("x-no", false)], false),
        (vec![present("x-no", true)], true),
        (vec![exact("gold", false)], true),
        (vec![exact("gol", false)], false),
        (vec![exact("gold", true)], false),
        (vec![exact("silver", true)], true),
        (vec![expression.clone()], true),
        (vec![absent(false)], false),
        (vec![absent(true)], false),
        (vec![expression, exact("silver", false)], false),
    ] {
        for expect in [true, false] {
            let rules = format!(
                r#"[{{"actions":[{{"headerValueMatch":{{"descriptorValue":"v","expectMatch":{expect},"headers":[{}]}}}}]}}]"#,
                headers.join(",")
            );
            let expected: &[&str] = if holds == expect { &["header_match=v"] } else { &[] };
            assert_eq!(made(&rules, &call, None), expected, "{headers:?} {expect}");
        }
    }
    let rules = r#"[{"actions":[{"queryParameterValueMatch":{"descriptorValue":"v","queryParameters":[{"name":"page","value":"2"}]}}]}]"#;
    assert_eq!(made(rules, &call, Some("a=1&page=2")), ["query_match=v"]);
    assert!(made(rules, &call, Some("page=3")).is_empty());
    assert!(made(rules, &call, None).is_empty());
}

#[test]
fn networks_of_any_length_have_their_last_bits_zero() {
    let headers = HeaderMap::new();
    for (address, v6, expected) in [
        ("2001:db8::ff", 128, "2001:db8::ff/128"),
        ("2001:db8:1:2:3::", 32, "2001:db8::/32"),
        ("2001:db8::1", 0, "::/0"),
        ("::ffff:10.1.2.3", 64, "10.1.2.3/32"),
    ] {
        let rules =
            format!(r#"[{{"actions":[{{"maskedRemoteAddress":{{"v6PrefixMaskLen":{v6}}}}}]}}]"#);
        let asked =
            Asked::new(&headers, &Method::GET, "/").from(None, address.parse::<IpAddr>().ok());
        let global = global(&rules);
        assert_eq!(global.descriptors(&asked)[0].entries[0].1, expected);
    }
}

#[test]
fn long_values_are_cut_between_letters_and_bytes_that_are_no_text_are_replaced() {
    let rules = r#"[{"actions":[{"requestHeaders":{"headerName":"x-key","descriptorKey":"k"}}]}]"#;
    let global = global(rules);
    let value = |bytes: &[u8]| {
        let mut headers = HeaderMap::new();
        headers.insert("x-key", http::HeaderValue::from_bytes(bytes).expect("a value"));
        let asked = Asked::new(&headers, &Method::GET, "/");
        global.descriptors(&asked).remove(0).entries.remove(0).1.into_owned()
    };
    assert_eq!(value(&[b'a'; 9_000]).len(), MAX_VALUE);
    let mut text = "a".repeat(MAX_VALUE - 1);
    text.push('é');
    assert_eq!(value(text.as_bytes()).len(), MAX_VALUE - 1);
    assert_eq!(value(&[b'a', 0xff, b'b']), "a\u{fffd}b");
}

#[test]
fn a_question_is_the_message_that_the_protocol_wants() {
    let rules = r#"[{"actions":[{"genericKey":{"descriptorValue":"v"}}]},{"actions":[{"sourceCluster":{}}],"hitsAddend":300}]"#;
    let global = global(rules);
    let headers = HeaderMap::new();
    let asked = Asked::new(&headers, &Method::GET, "/").between(Some("w"), None);
    let question = global.question(&asked).expect("two descriptors");
    assert_eq!(question.descriptors, 2);
    let mut expected = vec![0, 0, 0, 0, 54];
    expected.extend_from_slice(b"\x0a\x04shop");
    expected.extend_from_slice(b"\x12\x12\x0a\x10\x0a\x0bgeneric_key\x12\x01v");
    expected
        .extend_from_slice(b"\x12\x1a\x0a\x13\x0a\x0esource_cluster\x12\x01w\x1a\x03\x08\xac\x02");
    assert_eq!(question.message, expected);
    let nowhere = Asked::new(&headers, &Method::GET, "/");
    assert!(
        Global::new(&config(r#"[{"actions":[{"sourceCluster":{}}]}]"#), XRatelimitHeaders::Off)
            .question(&nowhere)
            .is_none()
    );
}

/// A field of a message.
fn bytes(number: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = value.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(value);
    out
}

fn header(name: &str, value: &str) -> Vec<u8> {
    [bytes(1, name.as_bytes()), bytes(2, value.as_bytes())].concat()
}

/// A status: `requests` per unit, how many are left, seconds until there are all.
fn status(requests: u8, unit: u8, name: &str, left: u8, reset: u8) -> Vec<u8> {
    let mut limit = vec![1 << 3, requests, 2 << 3, unit];
    limit.extend(bytes(3, name.as_bytes()));
    let mut status = vec![1 << 3, 1];
    status.extend(bytes(2, &limit));
    status.extend([3 << 3, left]);
    status.extend(bytes(4, &[1 << 3, reset]));
    bytes(2, &status)
}

#[test]
fn an_answer_is_read_with_its_fields_and_the_tightest_of_its_statuses() {
    let global = global(r#"[{"actions":[{"sourceCluster":{}}]}]"#);
    let message = [
        vec![1 << 3, 2],
        status(10, 2, "per-tenant", 3, 41),
        status(100, 1, "", 99, 1),
        bytes(3, &header("x-plan", "gold")),
        bytes(4, &[bytes(1, b"x-raw"), bytes(3, b"r")].concat()),
        bytes(5, b"a body that nobody sends"),
    ]
    .concat();
    let answer = global.answer(&message, 2).expect("an answer");
    assert_eq!(answer.code, Code::OverLimit);
    assert_eq!(answer.response, fields(&[("x-plan", "gold")]));
    assert_eq!(answer.request, fields(&[("x-raw", "r")]));
    let told = Told { limit: 10, remaining: 3, reset: 41 };
    assert_eq!(answer.told, Some((told, ", 10;w=60;name=\"per-tenant\", 100;w=1".to_owned())));
    for wrong in [1, 3] {
        let answer = global.answer(&message, wrong).expect("an answer");
        assert_eq!((answer.code, answer.told), (Code::OverLimit, None), "{wrong} descriptors");
    }
    let silent = Global::new(&config("[]"), XRatelimitHeaders::Off);
    assert_eq!(silent.answer(&message, 2).expect("an answer").told, None);
    assert_eq!(global.answer(&[1 << 3, 1], 1).expect("an answer").code, Code::Ok);
}

#[test]
fn what_is_no_answer_is_none_and_no_answer_adds_what_frames_a_message() {
    let global = global(r#"[{"actions":[{"sourceCluster":{}}]}]"#);
    let many: Vec<u8> = (0..65).flat_map(|n| bytes(3, &header(&format!("x-{n}"), "1"))).collect();
    let huge = bytes(3, &header("x-huge", &"v".repeat(17_000)));
    for (message, why) in [
        (vec![], "nothing"),
        (vec![1 << 3, 0], "neither yes nor no"),
        (vec![1 << 3, 3], "an unknown code"),
        (vec![1 << 3], "cut"),
        (vec![1 << 3, 1, 2 << 3 | 2, 9], "cut"),
        (vec![0x0b], "no field"),
        (vec![1 << 3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], "too long"),
        ([vec![1 << 3, 1], many].concat(), "65 fields"),
        ([vec![1 << 3, 1], huge].concat(), "a huge field"),
    ] {
        assert_eq!(global.answer(&message, 1), None, "{why}");
    }
    let mut message = vec![1 << 3, 1];
    for name in [
        "Transfer-Encoding",
        "content-length",
        "connection",
        "host",
        "grpc-status",
        ":path",
        "a b",
        "",
    ] {
        message.extend(bytes(3, &header(name, "1")));
        message.extend(bytes(4, &header(name, "1")));
    }
    message.extend(bytes(3, &header("x-split", "a\r\nb: c")));
    message.extend(bytes(3, &header("X-Good", "1")));
    let answer = global.answer(&message, 1).expect("an answer");
    assert_eq!(answer.response, fields(&[("x-good", "1")]));
    assert!(answer.request.is_empty());
}

proptest::proptest! {
    #[test]
    fn no_bytes_panic(message in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let global = global(r#"[{"actions":[{"sourceCluster":{}}]}]"#);
        let _ = global.answer(&message, 1);
    }
}
