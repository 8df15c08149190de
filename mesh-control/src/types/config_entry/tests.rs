use serde_json::{Value, json};

use super::*;

fn told(written: &Value) -> Value {
    let entry = ConfigEntry::read_json(written.to_string().as_bytes()).expect("it is an entry");
    serde_json::to_value(&entry).expect("it can be written")
}

/// What Consul 1.8.7 tells of what it was given so.
#[test]
fn an_entry_is_told_in_its_canonical_form() {
    for (written, canonical) in [
        (
            json!({"kind": "service-defaults", "name": "a", "protocol": "HTTP", "meta": null}),
            json!({"Kind": "service-defaults", "Name": "a", "Protocol": "http", "MeshGateway": {}, "Expose": {}}),
        ),
        (
            json!({"Kind": "service-defaults", "Name": "a", "external_sni": "x",
                "meshgateway": {"mode": "remote"}, "ModifyIndex": 0,
                "expose": {"checks": true, "paths": [{"path": "/a", "local_path_port": 5, "listener_port": 6}]}}),
            json!({"Kind": "service-defaults", "Name": "a", "ExternalSNI": "x",
                "MeshGateway": {"Mode": "remote"},
                "Expose": {"Checks": true, "Paths": [{"ListenerPort": 6, "Path": "/a",
                    "LocalPathPort": 5, "ParsedFromCheck": false}]}}),
        ),
        (
            json!({"Kind": "proxy-defaults", "Name": "other", "Config": {"N": {"A_b": 1}}}),
            json!({"Kind": "proxy-defaults", "Name": "global", "Config": {"N": {"A_b": 1}},
                "MeshGateway": {}, "Expose": {}}),
        ),
        (
            json!({"Kind": "proxy-defaults"}),
            json!({"Kind": "proxy-defaults", "Name": "global", "Config": null,
                "MeshGateway": {}, "Expose": {}}),
        ),
        (
            json!({"kind": "service-splitter", "name": "w", "splits": [
                {"weight": 33.337}, {"weight": "66.663", "service": "z", "service_subset": "v"}]}),
            json!({"Kind": "service-splitter", "Name": "w", "Splits": [
                {"Weight": 33.34}, {"Weight": 66.66, "Service": "z", "ServiceSubset": "v"}]}),
        ),
        (
            json!({"kind": "service-resolver", "name": "r", "connect_timeout": 5_000_000_000_u64,
                "subsets": {"V_2": {"only_passing": "true"}},
                "failover": {"*": {"datacenters": ["dc2"]}}}),
            json!({"Kind": "service-resolver", "Name": "r", "ConnectTimeout": "5s",
                "Subsets": {"V_2": {"OnlyPassing": true}},
                "Failover": {"*": {"Datacenters": ["dc2"]}}}),
        ),
        (
            json!({"kind": "service-router", "name": "w", "routes": [
                {"match": {"http": {"path_prefix": "/a", "methods": ["get"]}},
                 "destination": {"service": "x", "request_timeout": "5s", "num_retries": 3}}, {}]}),
            json!({"Kind": "service-router", "Name": "w", "Routes": [
                {"Match": {"HTTP": {"PathPrefix": "/a", "Methods": ["GET"]}},
                 "Destination": {"Service": "x", "Namespace": "default", "RequestTimeout": "5s", "NumRetries": 3}}, {}]}),
        ),
    ] {
        assert_eq!(told(&written), canonical);
        assert_eq!(told(&canonical), canonical, "what is told can be written back");
    }
}

#[test]
fn what_is_no_entry_is_refused() {
    for (written, why) in [
        ("", "EOF: the body is empty"),
        ("{}", "Payload does not contain a kind/Kind key at the top level"),
        (r#"{"Kind":7}"#, "Kind value in payload is not a string"),
        (
            r#"{"Kind":"service-spliter"}"#,
            "invalid config entry kind: service-spliter, did you mean \"service-splitter\"?",
        ),
        (r#"{"Kind":"ingress-gateway"}"#, "invalid config entry kind: ingress-gateway"),
        (
            r#"{"Kind":"service-defaults","Name":"a","protocl":"http"}"#,
            "unknown field \"protocl\", did you mean \"Protocol\"?",
        ),
        (
            r#"{"Kind":"service-splitter","Name":"a","Splits":[{"weight":"x"}]}"#,
            "Splits[0].weight: expected a number, found the text \"x\"",
        ),
    ] {
        let error = ConfigEntry::read_json(written.as_bytes()).expect_err(written);
        assert_eq!(error.to_string(), why);
    }
}
