//! Verdicts that Consul 1.8.7 gave, errors, limits and properties.
//!
//! `tests/verdicts.txt` holds expressions with what Consul kept of `tests/instances.json`. Where a
//! Consul is at hand, it is asked all of them again.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const VERDICTS: &str = include_str!("tests/verdicts.txt");

/// Where we answer otherwise, as the module doc says.
const OTHERWISE: &[(&str, &str)] = &[
    // Keys that are missing match nothing.
    (r#"Node.Meta.os matches "(?i)LIN""#, "w1"),
    (r#"Node.Meta.os matches "\\d""#, "none"),
    ("Node.Meta.os matches `[[:alpha:]]+`", "w1"),
    ("Node.Meta.nope matches `.*`", "none"),
    (r#"Service.Meta.d matches "e.b""#, "none"),
    (r#"Service.Meta.d matches "(?s)e.b""#, "v1"),
    (r#"Service.Meta.d matches "^break""#, "none"),
    (r#"Service.Meta.e matches "^.$""#, "v1"),
    (r"Service.Meta.e matches `^\pL$`", "v1"),
    (r#"Service.Meta.a matches """#, "v1"),
    // Letters of Unicode are letters.
    (r#"Service.Meta.e matches "^\\w$""#, "v1"),
    // Escapes that make no UTF-8.
    (r#"Service.Meta.e == "\xff""#, "error"),
    (r#"Service.Meta.a == "\ud800""#, "error"),
];

fn instances() -> Vec<Value> {
    serde_json::from_str(include_str!("tests/instances.json")).unwrap()
}

fn verdicts() -> impl Iterator<Item = (&'static str, &'static str)> {
    VERDICTS.lines().map(|line| line.split_once(" | ").unwrap())
}

fn verdict(expression: &str) -> String {
    let Ok(filter) = Filter::new(expression, &Shape::SERVICE_HEALTH) else {
        return "error".to_owned();
    };
    let mut kept = instances();
    filter.retain(&mut kept);
    let mut kept: Vec<_> = kept.iter().map(|it| it["Service"]["ID"].as_str().unwrap()).collect();
    kept.sort_unstable();
    if kept.is_empty() { "none".to_owned() } else { kept.join(" ") }
}

fn error(expression: &str) -> String {
    Filter::new(expression, &Shape::SERVICE_HEALTH).unwrap_err().to_string()
}

#[test]
fn verdicts_are_those_of_consul() {
    let otherwise = |expression| OTHERWISE.iter().find(|(it, _)| *it == expression);
    let mut wrong = Vec::new();
    for (theirs, expression) in verdicts() {
        let wanted = otherwise(expression).map_or(theirs, |(_, ours)| *ours);
        let ours = verdict(expression);
        if ours != wanted {
            wrong.push(format!("{expression}: {ours}, not {wanted}"));
        }
    }
    assert!(verdicts().count() > 300);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Asks a Consul, by HTTP/1.0: the body ends with the connection.
fn ask(address: &str, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let length = body.len();
    write!(stream, "{method} /v1/{path} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test]
async fn consul_still_gives_these_verdicts() {
    let Some(consul) = testkit::consul::Consul::start("consul_still_gives_these_verdicts").await
    else {
        return;
    };
    let consul = consul.address().to_string();
    let (no_id, no_checks) = (json!(""), json!([]));
    for instance in instances() {
        let node = &instance["Node"];
        let body = json!({
            "Node": node["Node"], "ID": node.get("ID").unwrap_or(&no_id),
            "Address": node["Address"], "TaggedAddresses": node["TaggedAddresses"],
            "NodeMeta": node["Meta"], "Service": instance["Service"],
            "Checks": instance.get("Checks").unwrap_or(&no_checks),
        });
        let (status, told) = ask(&consul, "PUT", "catalog/register", &body.to_string());
        assert_eq!(status, 200, "{told}");
    }
    let mut wrong = Vec::new();
    for (recorded, expression) in verdicts() {
        let query: String = expression.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let path = format!("health/service/mesh-filter?filter={query}");
        let now = match ask(&consul, "GET", &path, "") {
            (200, body) => {
                let kept: Vec<Value> = serde_json::from_str(&body).unwrap();
                let id = |it: &Value| it["Service"]["ID"].as_str().unwrap().to_owned();
                let mut kept: Vec<String> = kept.iter().map(id).collect();
                kept.sort_unstable();
                if kept.is_empty() { "none".to_owned() } else { kept.join(" ") }
            }
            (_, _) => "error".to_owned(),
        };
        if now != recorded {
            wrong.push(format!("{expression}: {now}, not {recorded}"));
        }
    }
    for instance in instances() {
        let body = json!({"Node": instance["Node"]["Node"]}).to_string();
        ask(&consul, "PUT", "catalog/deregister", &body);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn errors_say_where_and_what() {
    let prefix = "Failed to create boolean expression evaluator: ";
    for (expression, told) in [
        (
            "Service.ID = w1",
            "1:12: expected \"==\", \"!=\", \"contains\", \"in\", \"is empty\", \"matches\" or \"not\", found '='",
        ),
        ("Service.ID ==", "1:14: expected a value, the filter ends here"),
        ("(Service.ID == w1", "1:18: expected \")\", the filter ends here"),
        ("Service.ID == w1 AND x", "1:18: expected \"and\", \"or\" or the end, found 'A'"),
        (
            "Service.ID == w1 and\n  Service.Prot == 1",
            "2:3: Selector \"Service.Prot\" is not valid, did you mean \"Port\"?",
        ),
        ("Service.Meta[env] == qa", "1:14: expected a key in quotes, found 'e'"),
        (
            "Service.Weights is empty",
            "1:1: Invalid match operator \"Is Empty\" for selector \"Service.Weights\"",
        ),
        (
            "Service.Port == abc",
            "1:17: Failed to coerce value \"abc\" for selector \"Service.Port\": it is no whole number",
        ),
        ("Service.ID == \"w1", "1:18: Unterminated string literal"),
        ("Service.ID == 01", "1:16: Invalid number literal"),
        (
            "Service.ID matches `(`",
            "1:20: Failed to compile regular expression \"(\": unclosed group",
        ),
        (
            "not",
            "1:4: expected \"==\", \"!=\", \"contains\", \"in\", \"is empty\", \"matches\" or \"not\", the filter ends here",
        ),
    ] {
        assert_eq!(error(expression), format!("{prefix}{told}"), "{expression}");
    }
}

#[test]
fn what_is_not_told_is_empty() {
    let bare = [json!({})];
    for expression in [
        "Service.ID == \"\"",
        "Service.ID contains \"\"",
        "Service.Port == 0",
        "Service.EnableTagOverride == false",
        "Service.Tags is empty",
        "Checks is empty",
        "Service.Meta.env != qa",
        "Service.Meta.env not matches qa",
        "not Service.Meta.env matches `.*`",
        "not Checks.Status != passing",
    ] {
        let filter = Filter::new(expression, &Shape::SERVICE_HEALTH).unwrap();
        assert!(bare.iter().all(|it| filter.matches(it)), "{expression}");
        assert!(filter.matches(&json!({"Node": null, "Service": null, "Checks": null})));
    }
    assert!(Filter::new("", &Shape::NODE).unwrap().is_empty());
}

#[test]
fn what_explodes_is_refused() {
    let told = error(&format!("{}Service.Port == 1{}", "(".repeat(4000), ")".repeat(4000)));
    assert!(told.contains("nested deeper than 32"), "{told}");
    assert!(error(&format!("{} Service.Port == 1", "not ".repeat(1500))).contains("deeper"));
    assert!(error(&"a".repeat(9000)).contains("more than 8192"));
    assert!(error("Node.Node matches `(((a{100}){100}){100}){100}`").contains("1:19"));
    assert!(error(r"Node.Node matches `\pL{200}`").contains("size limit"));
    let many = vec!["Node.Node matches a"; 17].join(" or ");
    assert!(error(&many).contains("more than 16 patterns"));
    // A long row needs no stack.
    let row = vec!["Service.Port == 1"; 370].join(" or ");
    assert_eq!(verdict(&row), "none");
}

fn selectors() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "Service.ID",
        "Service.Port",
        "Service.Tags",
        "Service.Meta",
        "Service.Meta.env",
        "Service.Meta[\"env\"]",
        "Checks",
        "Checks.Status",
        "Node.Meta[`a.b`]",
        "not",
        "in",
        "Service.EnableTagOverride",
        "Checks.ServiceTags",
    ])
    .prop_map(str::to_owned)
}

fn values() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec!["w1", "qa", "primary", "8080", "-1", "true", "passing", "and"])
            .prop_map(str::to_owned),
        "[a-z ]{0,4}".prop_map(|text| format!("{text:?}")),
        "[a-z\\\\]{0,4}".prop_map(|text| format!("`{text}`")),
    ]
}

fn expressions() -> impl Strategy<Value = String> {
    let comparison = prop_oneof![
        (
            selectors(),
            prop::sample::select(vec!["==", " != ", " contains ", " not matches "]),
            values()
        )
            .prop_map(|(selector, operator, value)| format!("{selector}{operator}{value}")),
        (values(), prop::sample::select(vec!["in", "not  in"]), selectors())
            .prop_map(|(value, operator, selector)| format!("{value} {operator} {selector}")),
        (selectors(), prop::sample::select(vec!["is empty", "is not\tempty"]))
            .prop_map(|(selector, operator)| format!("{selector} {operator}")),
    ];
    comparison.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|inner| format!("not {inner}")),
            inner.clone().prop_map(|inner| format!("( {inner})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a} and {b}")),
            (inner.clone(), inner).prop_map(|(a, b)| format!("({a}) or\n({b})")),
        ]
    })
}

proptest! {
    #[test]
    fn any_text_is_answered(text in "\\PC{0,60}") {
        let _ = Filter::new(&text, &Shape::SERVICE_HEALTH);
    }

    #[test]
    fn generated_expressions_parse_and_negate(text in expressions()) {
        prop_assert!(parse::parse(&text).is_ok(), "{text}");
        let shape = &Shape::SERVICE_HEALTH;
        if let Ok(filter) = Filter::new(&text, shape) {
            let negated = Filter::new(&format!("not ({text})"), shape).unwrap();
            let twice = Filter::new(&format!("({text}) and ({text})"), shape).unwrap();
            for instance in instances() {
                let holds = filter.matches(&instance);
                prop_assert_eq!(negated.matches(&instance), !holds);
                prop_assert_eq!(twice.matches(&instance), holds);
            }
        }
    }
}
