//! The sentences of the module doc, by the shapes that Consul's API speaks.

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::types::{CheckDefinition, ServiceDefinition, ServiceKind};

fn body(text: &str) -> Result<ServiceDefinition, String> {
    from_json(text.as_bytes()).map_err(|error| error.to_string())
}

fn file(value: &Value) -> Result<ServiceDefinition, String> {
    Options::of(Dialect::File).read_value(value).map_err(|error| error.to_string())
}

fn entry(value: &Value) -> Result<ServiceDefinition, String> {
    Options::of(Dialect::Entry).read_value(value).map_err(|error| error.to_string())
}

#[test]
fn case_and_underscores_do_not_matter_for_fields_and_do_in_free_maps() {
    let text = r#"{"NAME": "web", "iD": "w1", "tagged_addresses": {"some_Lan": {"ADDRESS": "::1"}},
        "proxy": {"CONFIG": {"a_B": {"c_D": null}}, "upstreams": [{"local_bind_port": 5000}]},
        "Check": {"deregister_critical_service_after": "2m", "header": {"X_a": ["1"]}}}"#;
    let web = body(text).unwrap();
    assert_eq!((&*web.name, &*web.id), ("web", "w1"));
    assert_eq!(web.tagged_addresses["some_Lan"].address, "::1");
    let proxy = web.proxy.unwrap();
    assert_eq!(proxy.config["a_B"], json!({"c_D": null}));
    assert_eq!(proxy.upstreams[0].local_bind_port, 5000);
    let check = web.check.unwrap();
    assert_eq!(check.deregister_critical_service_after.0, Duration::from_secs(120));
    assert_eq!(check.header["X_a"], ["1"]);
}

#[test]
fn null_is_not_given() {
    let text = r#"{"Name": "web", "Tags": null, "Weights": null, "Meta": {"a": null}, "Port": null,
        "Check": {"Interval": null, "TTL": "1s", "Status": null}, "Nobody": null, "Kind": null}"#;
    let web = body(text).unwrap();
    assert_eq!((web.tags.len(), web.weights, web.port), (0, None, 0));
    assert_eq!((&*web.meta["a"], web.kind), ("", ServiceKind::Typical));
    assert_eq!(web.check.unwrap().ttl.0, Duration::from_secs(1));
    assert_eq!(body("null").unwrap(), ServiceDefinition::default());
    assert!(file(&json!({"nobody": null})).is_err(), "a file that says nothing of nobody");
}

#[test]
fn the_last_of_two_counts() {
    let web = body(r#"{"Name": "a", "name": "b", "NAME": null}"#).unwrap();
    assert_eq!(web.name, "b");
    let error = body(r#"{"Check": {"ID": "a", "CheckID": "b"}}"#).unwrap_err();
    assert!(error.starts_with("Check"), "{error}");
}

#[test]
fn errors_say_where_and_what() {
    for (text, told) in [
        (r#"{"Port": "80"}"#, "Port: expected a whole number up to 65535, found the text \"80\""),
        (r#"{"Port": 80.0}"#, "Port: expected a whole number up to 65535, found the number 80"),
        (r#"{"port": 70000}"#, "port: expected a whole number up to 65535, found the number 70000"),
        (r#"{"Meta": {"a": 1}}"#, "Meta.a: expected a text, found the number 1"),
        (r#"{"Tags": "a"}"#, "Tags: expected a list, found the text \"a\""),
        (r#"{"Tags": ["a", {}]}"#, "Tags[1]: expected a text, found a map"),
        (
            r#"{"Checks": [{}, {"Timeout": "1"}]}"#,
            "Checks[1].Timeout: \"1\" is no duration: write a number with a unit, as in 10s, 1m30s or 500ms",
        ),
        (
            r#"{"Check": {"Status": "passin"}}"#,
            "Check.Status: unknown value \"passin\", did you mean \"passing\"?",
        ),
        (r#"{"Bogus": 1}"#, "unknown field \"Bogus\""),
        (r#"{"Prot": 1}"#, "unknown field \"Prot\", did you mean \"Port\"?"),
        (
            r#"{"Weights": {"Normal": 1}}"#,
            "Weights: unknown field \"Normal\", known: \"Passing\", \"Warning\"",
        ),
        (r#"{"Weights": [{"Passing": 1}]}"#, "Weights: expected a map, found a list"),
        ("[]", "expected a map, found a list"),
        (" ", "EOF: the body is empty"),
    ] {
        assert_eq!(body(text).unwrap_err(), told, "{text}");
    }
    assert!(body("not json").unwrap_err().contains("line 1 column 2"));
    assert!(body(r#"{"Name": "a"} b"#).unwrap_err().contains("trailing"));
}

#[test]
fn unknown_fields_can_be_passed_over() {
    let value = json!({"Name": "web", "Bogus": 1, "Check": {"More": 2, "TTL": "1s"}});
    let web: ServiceDefinition = Options::default().ignore_unknown().read_value(&value).unwrap();
    assert!(!web.check.unwrap().ttl.is_zero());
}

#[test]
fn only_entries_take_texts_for_numbers() {
    let weak = json!({"name": 7, "port": "80", "enable_tag_override": "true", "tags": [true, 1.5]});
    let web = entry(&weak).unwrap();
    assert_eq!((&*web.name, web.port, web.enable_tag_override), ("7", 80, true));
    assert_eq!(web.tags, ["1", "1.5"]);
    assert!(file(&weak).is_err());
    assert!(entry(&json!({"port": "80x"})).is_err());
    assert!(entry(&json!({"enable_tag_override": "yes"})).is_err());
    assert!(entry(&json!({"enable_tag_override": 1})).unwrap().enable_tag_override);
}

#[test]
fn only_files_take_one_for_a_list_of_one() {
    let one = json!({"check": [{"ttl": "1s"}], "checks": {"ttl": "2s"}, "port": 80.0});
    let web = file(&one).unwrap();
    assert!(web.check.is_some());
    assert_eq!((web.checks.len(), web.port), (1, 80));
    assert!(from_value::<ServiceDefinition>(&one).is_err());
    assert!(file(&json!({"check": [{}, {}]})).unwrap_err().contains("found a list"));
    assert!(file(&json!({"port": 80.5})).is_err());
}

#[test]
fn a_bare_number_is_nanoseconds_except_in_files() {
    let check: CheckDefinition = from_json(br#"{"TTL": 10000000000}"#).unwrap();
    assert_eq!(check.ttl.0, Duration::from_secs(10));
    let error = file(&json!({"check": {"ttl": 10}})).unwrap_err();
    assert_eq!(error, "check.ttl: the duration 10 has no unit, as in \"10s\"");
}

#[test]
fn bombs_are_refused() {
    let deep = format!("{}1{}", r#"{"a":"#.repeat(100), "}".repeat(100));
    let deep = format!(r#"{{"Proxy": {{"Config": {deep}}}}}"#);
    assert!(body(&deep).unwrap_err().contains("nested deeper than 64"), "too deep");
    let deeper = "[".repeat(1_000_000);
    assert!(body(&deeper).is_err());
    let large = format!(r#"{{"Name": "{}"}}"#, "x".repeat(3 << 20));
    assert!(body(&large).unwrap_err().contains("more than 2097152"), "too large");
    assert!(
        Options::default()
            .max_bytes(4 << 20)
            .read_json::<ServiceDefinition>(large.as_bytes())
            .is_ok()
    );
    let named = format!(r#"{{"{}": 1}}"#, "x".repeat(1 << 20));
    assert!(body(&named).unwrap_err().len() < 200, "a long key is not repeated whole");
}
