//! Files as people write them, what they mean, and what is told where they are wrong.

use std::fs;

use mesh_core::config::Source;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn one(name: &str, text: &str) -> Result<Definitions, String> {
    read(&[Source::new(name, text)]).map_err(|errors| errors.to_string())
}

fn hcl(text: &str) -> Result<Definitions, String> {
    one("f.hcl", text)
}

/// The first service, as JSON.
fn service(read: &Definitions) -> Value {
    serde_json::to_value(&read.services[0].value).unwrap()
}

const COUNTING: &str = r#"
service {
  id   = "counting-1"
  name = "counting"
  port = 9003

  connect {
    sidecar_service {}
  }

  check {
    id       = "counting-check"
    http     = "http://localhost:9003/health"
    method   = "GET"
    interval = "1s"
    timeout  = "1s"
  }
}
"#;

const DASHBOARD: &str = r#"
service {
  name = "dashboard"
  port = 9002

  connect {
    sidecar_service {
      proxy {
        upstreams = [
          {
            destination_name = "counting"
            local_bind_port  = 5000
          }
        ]
      }
    }
  }

  check {
    id       = "dashboard-check"
    http     = "http://localhost:9002/health"
    interval = "1s"
    timeout  = "1s"
  }
}
"#;

const SERVER: &str = r#"
datacenter = "dc1"   # where it is
data_dir = "/tmp/mesh"
log_level = "INFO"
node_name = "server-1"
server = true
addresses = { http = "0.0.0.0" }
ports { http = 8500, dns = -1 }
retry_join = ["10.0.0.1"]
"#;

#[test]
fn the_tutorial_reads() {
    let files = [("counting", COUNTING), ("dashboard", DASHBOARD), ("server", SERVER)];
    let sources = files.map(|(name, text)| Source::new(format!("{name}.hcl"), text));
    let read = read(&sources).unwrap();
    let counting = &read.services[0];
    assert_eq!((&*counting.value.id, counting.value.port), ("counting-1", 9003));
    assert_eq!(counting.origin.line(), Some(("counting.hcl", 2)));
    let sidecar = sidecar(&read.services[1].value, |_| Ok(21000)).unwrap().unwrap();
    let proxy = sidecar.proxy.unwrap();
    assert_eq!(proxy.upstreams[0].destination_name, "counting");
    assert_eq!((proxy.upstreams[0].local_bind_port, proxy.local_service_port), (5000, 9002));
    let settings = read.settings;
    assert_eq!(settings.datacenter.as_deref(), Some("dc1"));
    assert_eq!(settings.log_level, Some(LogLevel::Info));
    assert_eq!(settings.server, Some(true));
    assert_eq!(settings.ports.http, Some(Port::At(8500)));
    assert_eq!(settings.ports.dns, Some(Port::Off));
    assert_eq!(settings.addresses.http, Some(Listen(vec!["0.0.0.0".parse().unwrap()])));
    let told = read.warnings.iter().map(ToString::to_string).collect::<String>();
    let wanted = "warning: `retry_join` has no effect\n --> server.hcl:9:1";
    assert!(told.starts_with(wanted), "{told}");
}

#[test]
fn three_languages_say_the_same() {
    let json = r#"{"service": {"Name": "web", "tags": ["a"], "meta": {"a-B": "c"},
        "checks": [{"TTL": "1s"}, {"tcp": "h:1", "interval": "1s"}],
        "connect": {"sidecarService": {"proxy": {"config": {"a": {"b_C": [1, 2.5, null]}}}}}}}"#;
    let yaml = "
service:
  name: web
  tags: [a]
  meta: { a-B: c }
  checks:
    - ttl: 1s
    - { tcp: 'h:1', interval: 1s }
  connect: { sidecar_service: { proxy: { config: { a: { b_C: [1, 2.5, null] } } } } }
";
    let text = r#"
service {
  name = "web", tags = ["a"]
  meta { "a-B" = "c" }
  checks { ttl = "1s" }
  checks { tcp = "h:1" interval = "1s" }
  connect { sidecar_service { proxy { config { a { b_C = [1, 2.5, 0] } } } } }
}"#;
    let json = service(&one("f.json", json).unwrap());
    assert_eq!(service(&one("f.yaml", yaml).unwrap()), json);
    let mut other = service(&hcl(text).unwrap());
    // HCL has no null.
    *other.pointer_mut("/Connect/SidecarService/Proxy/Config/a/b_C/2").unwrap() = Value::Null;
    assert_eq!(other, json);
}

#[test]
fn hcl_means_what_it_means_to_consul() {
    let text = r#"
service {
  name = "web"
  meta {
    plain = <<EOF
one
  two
EOF
    dash = <<-END
      one
        two
      END
    ragged = <<-END
      one
    two
      END
    interp = "a${"x"}b${c { d } }"
    esc = "\u00fc\x41\102\t\"\\"
    "quo-ted" = "v"
    dot_ted = "w"
    win = "a\r\n"
  }
  tags = ["a", "b",]
  port = 0x50 weights { passing = 010 warning = 1e0 }
}"#;
    let read = service(&hcl(text).unwrap());
    // What Consul 1.8.7 tells of it.
    let meta = json!({
        "plain": "one\n  two\n", "dash": "one\n  two\n", "ragged": "      one\n    two\n",
        "interp": "a${\"x\"}b${c { d } }", "esc": "üAB\t\"\\", "quo-ted": "v", "dot_ted": "w",
        "win": "a\r\n",
    });
    assert_eq!(read["Meta"], meta);
    assert_eq!((&read["Port"], &read["Tags"]), (&json!(80), &json!(["a", "b"])));
    assert_eq!(read["Weights"], json!({"Passing": 8, "Warning": 1}));

    let windows = "service { name = \"web\" meta { a = <<EOF\r\none\r\nEOF\r\n } }";
    assert_eq!(service(&hcl(windows).unwrap())["Meta"], json!({"a": "one\n"}));
}

#[test]
fn what_consul_takes_is_taken() {
    for text in [
        "",
        "# nothing",
        "services { name=\"a\" port=80 } services { name=\"b\" }",
        "services = [{ name=\"a\" port=80 }, { name=\"b\" }]",
        "service = [{ name=\"a\" port=80 }]",
        "service { name=\"a\", port=80, }",
        "service { \"name\" = \"a\" \"port\" = 1 }",
        "{\"service\":{\"name\":\"a\"}}",
        "check { id=\"x\" name=\"y\" args=[\"a\"] interval=\"10s\" } enable_script_checks=true",
        "check { name=\"y\" http=\"http://x\" interval=\"10s\" header { \"X-a\" = [\"1\"] } }",
        "service { name = \"a\" /* c */ // d\n # e\n}",
        "config_entries { bootstrap { kind=\"service-defaults\" name=\"x\" protocol=\"http\" } }",
        "SERVICE { Name=\"a\" PORT=80 Enable_Tag_Override=true }",
        // Consul takes one of these alone.
        "service { name = \"a\" } service { name = \"b\" }",
        "ports { http = 8500 }",
        "service { name = \"a\" proxy { upstreams { destination_name = \"b\" } } }",
        "performance { raft_multiplier = 1 } telemetry { disable_hostname = true }",
        "http_config { response_headers { \"X\" = \"y\" } }",
    ] {
        assert!(hcl(text).is_ok(), "{text}: {}", hcl(text).unwrap_err());
    }
}

#[test]
fn errors_in_hcl_say_where_and_what() {
    for (text, at, told) in [
        (
            "service { port=\"80\" }",
            "1:16",
            "service.port: expected a whole number up to 65535, found the text \"80\"",
        ),
        ("service \"a\" { port=80 }", "1:9", "unknown field \"a\" of service"),
        ("service { tags=\"x\" }", "1:16", "service.tags: expected a list, found the text \"x\""),
        ("service { name=a }", "1:16", "`a` is no value"),
        ("service { port=1 }", "1:9", "a service has no name"),
        ("check { ttl=10 }", "1:13", "check.ttl: the duration 10 has no unit"),
        ("check { http = \"http://x\" }", "1:7", "Interval must be > 0 for Script"),
        (
            "service { name = \"a\" checks { ttl = \"1s\" interval = \"1s\" } }",
            "1:29",
            "Interval and TTL cannot both be specified",
        ),
        (
            "check { ttl=\"1x\" }",
            "1:13",
            "check.ttl: \"1x\" is no duration: write a number with a unit, as in 10s, 1m30s or 500ms",
        ),
        ("service { name = \"a\"", "1:21", "expected a name or `}`, the file ends here"),
        ("service { name = \"a\" } }", "1:24", "expected a name or the end of the file, found `}`"),
        ("service { name = }", "1:18", "expected a value, found `}`"),
        ("service { name : \"a\" }", "1:16", "expected `=` or `{`, found `:`"),
        ("service { tags = [\"x\" \"y\"] }", "1:23", "expected `,` or `]`, found `\\\"`"),
        ("service { name = \"a\\qb\" }", "1:20", "no such escape in a text"),
        ("service { name = \"a\nb\" }", "1:20", "a text ends on the line where it begins"),
        ("a = <<EOF\nx\n", "1:5", "this text does not end: no line is `EOF`"),
        ("/* a", "1:1", "this comment does not end"),
        ("a = 1 b", "1:8", "expected `=` or `{`, the file ends here"),
        ("port = 0x", "1:8", "this is no number that can be read"),
        ("node_name = \"a\"\nnode_name = \"b\"", "2:1", "`node_name` stands here twice"),
        ("service.name = \"a\"", "1:1", "unknown field \"service.name\""),
        ("prots { http = 1 }", "1:1", "unknown field \"prots\""),
        (
            "ports { http = \"8500\" }",
            "1:16",
            "ports.http: expected a whole number, found the text \"8500\"",
        ),
        ("ports { http = 70000 }", "1:16", "ports.http: 70000 is no port: they end at 65535"),
        (
            "addresses { http = \"localhost\" }",
            "1:20",
            "addresses.http: \"localhost\" is no IP address; names, sockets of unix and templates are not supported",
        ),
        ("log_level = \"weird\"", "1:13", "log_level: unknown value \"weird\""),
        ("verify_incoming = true", "1:1", "`verify_incoming` is not supported yet"),
        ("acl { tokens { agent = \"x\" } }", "1:16", "`tokens.agent` is not supported yet"),
        (
            "config_entries { bootstrap { name = \"x\" } }",
            "1:28",
            "a configuration entry has no kind",
        ),
        ("config_entries { boot { } }", "1:18", "unknown field \"boot\" of config_entries"),
    ] {
        let found = hcl(text).unwrap_err();
        let is_there = found.contains(&format!("\n --> f.hcl:{at}\n"));
        assert!(is_there && found.starts_with(&format!("error: {told}")), "{text}:\n{found}");
    }
    let wanted = "\
error: unknown field \"prots\"
 --> f.hcl:2:1
  |
2 | prots { http = 1 }
  | ^^^^^
  = did you mean \"ports\"?";
    assert_eq!(hcl("\nprots { http = 1 }").unwrap_err(), wanted);
}

#[test]
fn errors_in_json_and_yaml_say_where_and_what() {
    for (name, text, at, told) in [
        (
            "f.json",
            "{\n \"service\": {\"name\": \"a\",\n\t\"prot\": 1}}",
            "3:2",
            "unknown field \"prot\" of service",
        ),
        (
            "f.json",
            "{\"service\": {\"name\": \"a\",}}",
            "1:26",
            "cannot read this as JSON: key must be a string",
        ),
        (
            "f.json",
            "{\"service\": {\"name\": \"ü\", \"port\": true}}",
            "1:35",
            "service.port: expected a whole number up to 65535, found true",
        ),
        ("f.json", "// x\n{}", "1:1", "cannot read this as JSON: expected value"),
        (
            "f.json",
            "{\"node_name\":\"a\",\n\"node_name\":\"b\"}",
            "2:1",
            "`node_name` stands here twice",
        ),
        (
            "f.hcl",
            "{\"service\": {\"name\": true}}",
            "1:22",
            "service.name: expected a text, found true",
        ),
        ("f.yaml", "service:\n  name: web\n  prot: 1", "3:3", "unknown field \"prot\" of service"),
        ("f.yml", "- a", "1:1", "expected a map of settings and definitions"),
        ("f.txt", "a", "1:1", "the name does not tell the language"),
    ] {
        let found = one(name, text).unwrap_err();
        let wanted = format!("error: {told}\n --> {name}:{at}\n");
        assert!(found.starts_with(&wanted), "{text}:\n{found}\nnot\n{wanted}");
    }
    let found = one("f.yaml", "service: {name: a").unwrap_err();
    assert!(found.starts_with("error: cannot read this as YAML: "), "{found}");
}

#[test]
fn everything_is_told_at_once() {
    let text = "service { name = \"a\" prot = 1\n port = true tgas = [] }
service { port = 1 }\nsevrer = true\nports { http = \"x\" }";
    let told = hcl(text).unwrap_err();
    let errors: Vec<&str> = told.lines().filter(|line| line.starts_with("error")).collect();
    assert_eq!(errors.len(), 6, "{told}");
    for word in ["prot", "tgas", "service.port", "no name", "sevrer", "ports.http"] {
        assert!(errors.iter().any(|error| error.contains(word)), "{word} in {told}");
    }
}

#[test]
fn later_files_count_and_lists_add_up() {
    let first = "node_name = \"a\" node_meta { x = \"1\" y = \"1\" } ports { http = 1 dns = 1 }
service { name = \"web\" }
acl { enabled = true tokens { master = \"s3cret\" } }";
    let second = "{\"node_name\": \"b\", \"node_meta\": {\"y\": \"2\"}, \"ports\": {\"dns\": 2},
        \"check\": {\"ttl\": \"1s\"}}";
    let sources = [
        ("a.hcl", first),
        ("b.json", second),
        ("c.yaml", "services: [{name: web}, {name: db}]\n---\ndomain: mesh.\n"),
        ("d.yaml", "apiVersion: mesh/v1\nkind: Service\n"),
    ]
    .map(|(name, text)| Source::new(name, text));
    let read = read(&sources).unwrap();
    assert_eq!(read.settings.node_name.as_deref(), Some("b"));
    assert_eq!(json!(read.settings.node_meta), json!({"x": "1", "y": "2"}));
    assert_eq!(read.settings.ports.http, Some(Port::At(1)));
    assert_eq!(read.settings.ports.dns, Some(Port::At(2)));
    assert_eq!(read.settings.domain.as_deref(), Some("mesh."));
    assert_eq!(read.settings.acl.enabled, Some(true));
    let management = read.settings.acl.tokens.management.as_ref().unwrap();
    assert_eq!(management.reveal(), "s3cret");
    assert!(!format!("{:?}", read.settings).contains("s3cret"), "a secret is never shown");
    assert_eq!((read.services.len(), read.checks.len(), read.objects.len()), (3, 1, 1));
    let told = read.warnings[0].to_string();
    assert!(told.contains("service \"web\" is defined twice"), "{told}");
    assert!(told.contains("c.yaml:1:12") && told.contains("a.hcl:2:9 (first here)"), "{told}");
}

#[test]
fn bombs_are_refused() {
    let told = |name: &str, text: &str| one(name, text).map(|_| ()).unwrap_err();
    for text in
        ["a { ".repeat(100_000), format!("a = {}", "[".repeat(100_000)), "a ".repeat(99_999)]
    {
        assert!(told("f.hcl", &text).contains("deeper than 32"));
    }
    let deep = format!("{{\"a\": {}1{}}}", "[".repeat(100), "]".repeat(100));
    assert!(told("f.json", &deep).contains("deeper than 32"));
    let deeper = format!("{}{}", "[".repeat(500_000), "]".repeat(500_000));
    assert!(told("f.json", &deeper).contains("deeper than 32"));
    let wide: String = (0..110_000).map(|n| format!("a{n}=1 ")).collect();
    assert!(told("f.hcl", &format!("node_meta {{ {wide} }}")).contains("more than"));
    let laughs = (0..9).fold("a0: &a0 [x, x]\n".to_owned(), |text, n| {
        let list = vec![format!("*a{n}"); 9].join(", ");
        format!("{text}a{}: &a{} [{list}]\n", n + 1, n + 1)
    });
    assert!(told("f.yaml", &laughs).contains("cannot read this as YAML"));
    for name in ["f.hcl", "f.json", "f.yaml"] {
        assert!(told(name, &"a".repeat(10 << 20)).contains("more than 1048576"));
    }
}

#[test]
fn directories_are_read_in_the_order_of_names() {
    let folder = std::env::temp_dir().join(format!("mesh-definitions-{}", std::process::id()));
    fs::create_dir_all(folder.join("sub")).unwrap();
    for (name, text) in [
        ("b.json", "{\"node_name\": \"b\"}"),
        ("a.hcl", "node_name = \"a\" server = true"),
        (".hidden.hcl", "broken {"),
        ("readme.txt", "broken {"),
        ("sub/c.hcl", "broken {"),
    ] {
        fs::write(folder.join(name), text).unwrap();
    }
    let read = load(std::slice::from_ref(&folder));
    fs::write(folder.join("a.hcl"), b"node_name = \"\xff\"").unwrap();
    let no_text = load(std::slice::from_ref(&folder)).unwrap_err().to_string();
    let missing = load(&[folder.join("none.hcl")]).unwrap_err().to_string();
    fs::remove_dir_all(&folder).unwrap();
    let settings = read.unwrap().settings;
    assert_eq!((settings.node_name.as_deref(), settings.server), (Some("b"), Some(true)));
    assert!(no_text.contains("is not UTF-8") && no_text.contains("a.hcl:1:14"), "{no_text}");
    assert!(missing.starts_with("cannot read ") && missing.contains("none.hcl"), "{missing}");
}

/// Values that HCL and JSON both have.
fn values() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
    ];
    scalar.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("\\PC{0,6}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// A value as HCL.
fn written(value: &Value) -> String {
    match value {
        Value::Object(entries) => {
            let entry = |(key, value): (&String, &Value)| {
                format!("{} = {}", written(&json!(key)), written(value))
            };
            format!("{{ {} }}", entries.iter().map(entry).collect::<Vec<_>>().join("\n"))
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(written).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

proptest! {
    #[test]
    fn any_text_is_answered(text in "[a{}=\\[\\]\"<\\-$\\\\/*#,\n 0-9x.]{0,60}") {
        for name in ["f.hcl", "f.json", "f.yaml"] {
            let _ = one(name, &text);
        }
    }

    #[test]
    fn hcl_and_json_agree(value in prop::collection::btree_map("\\PC{0,6}", values(), 0..4)) {
        let value = Value::Object(value.into_iter().collect());
        prop_assume!(!value.to_string().contains("${"));
        let text = format!("service {{ name = \"a\" proxy {{ config = {} }} }}", written(&value));
        let from_hcl = hcl(&text).unwrap();
        let json = json!({"service": {"name": "a", "proxy": {"config": value}}}).to_string();
        let from_json = one("f.json", &json).unwrap();
        prop_assert_eq!(&service(&from_hcl), &service(&from_json));
        let (read, nothing) = (service(&from_json), json!({}));
        prop_assert_eq!(read.pointer("/Proxy/Config").unwrap_or(&nothing), &value);
    }
}
