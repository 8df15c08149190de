//! The command as a user runs it: what it prints, and its exit codes.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Output, Stdio};

const CONFIG: &str = "\
apiVersion: mesh/v1
kind: Service
metadata: { name: inventory }
spec: { endpoints: { static: ['127.0.0.1:8080'] } }
---
apiVersion: mesh/v1
kind: TrafficPolicy
metadata: { name: all }
spec:
  targetRef: { kind: Mesh }
  timeouts: { request: 3s }
";

/// A route whose second rule is never reached.
const WARNS: &str = "\
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: r }
spec:
  parentRefs: [{ kind: Service, name: inventory }]
  rules:
  - backendRefs: [{ name: inventory }]
  - backendRefs: [{ name: inventory }]
";

fn mesh(args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_mesh"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    // It may exit without reading; then there is nobody to write to.
    let _unread = child.stdin.take().expect("input").write_all(input.as_bytes());
    child.wait_with_output().expect("the command ends")
}

fn code(args: &[&str], input: &str) -> i32 {
    mesh(args, input).status.code().expect("it exits by itself")
}

#[test]
fn exit_codes_tell_fine_failed_usage_and_warned() {
    let warns = format!("{CONFIG}{WARNS}");
    assert_eq!(code(&["config", "check", "-"], CONFIG), 0);
    assert_eq!(code(&["config", "check", "-"], &warns), 0);
    assert_eq!(code(&["config", "check", "--strict", "-"], CONFIG), 0);
    assert_eq!(code(&["config", "check", "--strict", "-"], &warns), 3);
    assert_eq!(code(&["config", "check", "-"], "kind: Nothing"), 1);
    assert_eq!(code(&["config", "check", "/no/such/file.yaml"], ""), 1);
    assert_eq!(code(&["config", "chek"], ""), 2);
    assert_eq!(code(&["explain", "GET", "/no-host", "--config", "-"], CONFIG), 2);
}

#[test]
fn check_points_at_the_error_and_prints_json() {
    let wrong = CONFIG.replace("request:", "requets:");
    let text = mesh(&["config", "check", "-"], &wrong).stderr;
    let text = String::from_utf8(text).expect("text");
    assert!(text.contains("--> -:11:15") && text.contains("did you mean `request`?"), "{text}");

    let json = mesh(&["config", "check", "-o", "json", "-"], &wrong).stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    assert_eq!(json["valid"], false);
    let place = &json["diagnostics"][0]["places"][0];
    assert_eq!((&place["line"], &place["column"]), (&11.into(), &15.into()));
}

#[test]
fn check_refuses_the_names_that_the_proxy_refuses() {
    for tls in ["serverName: not a name", "subjectAltNames: ['spiffe://Example.com/ns/a b']"] {
        let config = CONFIG.replace("8080'] } }", &format!("8080'] }}, tls: {{ {tls} }} }}"));
        let told = mesh(&["config", "check", "-"], &config);
        let text = String::from_utf8(told.stderr).expect("text");
        assert_eq!(told.status.code(), Some(1), "{tls}");
        assert!(text.contains("--> -:4:"), "{text}");
    }
}

#[test]
fn show_prints_values_with_their_origin() {
    let text = mesh(&["config", "show", "--origin", "-"], CONFIG).stdout;
    let text = String::from_utf8(text).expect("text");
    let line = |path: &str| {
        let found = text.lines().find(|line| line.trim_start().starts_with(path));
        found.unwrap_or_else(|| panic!("{path} in\n{text}")).split_whitespace().collect::<Vec<_>>()
    };
    assert_eq!(line("timeouts.request"), ["timeouts.request", "3s", "-:11"]);
    assert_eq!(line("timeouts.connect"), ["timeouts.connect", "1s", "default"]);
}

#[test]
fn explain_tells_route_destination_and_candidates() {
    let config = format!("{CONFIG}{WARNS}");
    let told = mesh(&["explain", "GET", "http://inventory/x", "--config", "-"], &config);
    let text = String::from_utf8(told.stdout).expect("text");
    for part in ["route        r/0 (-:", "destination  inventory (-:3)", "in   127.0.0.1:8080"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert!(!text.contains("timeouts.connect "), "{text}");
    let all = mesh(&["explain", "GET", "http://inventory/x", "--config", "-", "--all"], &config);
    let all = String::from_utf8(all.stdout).expect("text");
    assert!(all.contains("timeouts.connect "), "{all}");
    let told = mesh(&["explain", "GET", "http://other/", "--config", "-", "-o", "json"], &config);
    assert_eq!(told.status.code(), Some(0), "it is called by its DNS name");
    let json: serde_json::Value = serde_json::from_slice(&told.stdout).expect("JSON");
    assert_eq!(json["unrouted"], "nothing is configured for this host");
    assert_eq!(json["destinations"][0]["endpoints"], "dns://other:80");
    let url = "http://inventory/%2fx";
    assert_eq!(code(&["explain", "GET", url, "--config", "-"], &config), 1, "refused");
}

#[test]
fn the_schema_is_that_of_all_kinds() {
    let schema = mesh(&["config", "schema"], "").stdout;
    let schema: serde_json::Value = serde_json::from_slice(&schema).expect("JSON");
    let kinds: Vec<&str> = schema["oneOf"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|kind| {
            kind["properties"]["kind"]["const"].as_str().or_else(|| kind["$ref"].as_str())
        })
        .filter_map(|name| name.rsplit('/').next())
        .collect();
    let ours = ["Service", "HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute", "HTTPRouteFilter"];
    let policies = ["TrafficPolicy", "ServerPolicy", "Listener"];
    let consul = ["ServiceRouter", "ServiceSplitter", "ServiceResolver"];
    assert_eq!(kinds, [&ours[..], &policies, &consul].concat());
}

#[test]
fn files_are_found_by_the_same_rule_as_everywhere() {
    let folder = std::env::temp_dir().join(format!("mesh-cli-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("user/mesh")).expect("a folder");
    let write = |name: &str, text: &[u8]| std::fs::write(folder.join(name), text).expect("written");
    write("user/mesh/mesh.yaml", CONFIG.as_bytes());
    let (one, two) = CONFIG.split_at(CONFIG.find("---").expect("two documents"));
    write("a.yaml", one.as_bytes());
    write("b.yaml", two.as_bytes());
    write("latin.yaml", b"# caf\xe9\n");
    let check = |variable: &str, value: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_mesh"))
            .args(["config", "check"])
            .current_dir(&folder)
            .env_remove("MESH_CONFIG")
            .env(variable, value)
            .output()
            .expect("it runs");
        String::from_utf8([output.stdout, output.stderr].concat()).expect("text")
    };
    let user = folder.join("user").display().to_string();
    assert_eq!(check("XDG_CONFIG_HOME", &user), "fine: 2 objects\n");
    assert_eq!(check("MESH_CONFIG", "a.yaml,b.yaml"), "fine: 2 objects\n");
    let told = Command::new(env!("CARGO_BIN_EXE_mesh"))
        .args(["explain", "GET", "http://anything/"])
        .current_dir(&folder)
        .env_clear()
        .output()
        .expect("it runs");
    // Unless the machine has a configuration of its own, there is none.
    if !std::path::Path::new("/etc/mesh/mesh.yaml").exists() {
        assert_eq!(told.status.code(), Some(0));
        assert!(String::from_utf8_lossy(&told.stdout).contains("dns://anything:80"));
    }
    let said = check("MESH_CONFIG", "latin.yaml");
    assert!(said.contains("not UTF-8") && said.contains("latin.yaml:1:6"), "{said}");
    std::fs::remove_dir_all(folder).expect("removed");
}

/// A running proxy, killed when dropped, with the address of its admin pages.
struct Proxy(std::process::Child, String);

impl Proxy {
    fn start(config: &std::path::Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mesh"))
            .args(["proxy", "--workers", "1", "--admin", "127.0.0.1:0", "--config"])
            .arg(config)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the proxy starts");
        let mut lines = BufReader::new(child.stderr.take().expect("its log")).lines();
        let admin = loop {
            let line = lines.next().expect("it says where its pages are").expect("text");
            if let Some(address) = line.strip_prefix("admin on http://") {
                break address.to_owned();
            }
        };
        std::thread::spawn(move || lines.for_each(drop));
        Self(child, admin)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _ended = self.0.wait();
    }
}

#[test]
fn explain_asks_a_running_proxy() {
    let file = std::env::temp_dir().join(format!("mesh-cli-live-{}.yaml", std::process::id()));
    let listener = "---\napiVersion: mesh/v1\nkind: Listener\nmetadata: { name: in }\n\
                    spec: { direction: Inbound, address: '127.0.0.1:0', service: inventory }\n";
    std::fs::write(&file, format!("{CONFIG}{listener}")).expect("written");
    let proxy = Proxy::start(&file);
    let ask = |more: &[&str]| {
        let args = [&["explain", "--proxy", &proxy.1, "GET", "http://inventory/x?a=b%20c"], more];
        mesh(&args.concat(), "")
    };
    let told = ask(&["-H", "x-user: ada & bob"]);
    let text = String::from_utf8(told.stdout).expect("text");
    assert_eq!(told.status.code(), Some(0), "{text}");
    for part in
        ["request      GET inventory/x?a=b%20c\n", "destination  inventory (", "0 in flight"]
    {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let json = ask(&["-o", "json", "--listener", "in"]).stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    let candidate = &json["destinations"][0]["candidates"][0];
    assert_eq!(candidate["endpoint"], "127.0.0.1:8080");
    assert!(candidate["load"].is_number(), "{candidate:#}");

    let wrong = ask(&["--listener", "out"]);
    let said = String::from_utf8(wrong.stderr).expect("text");
    assert_eq!(wrong.status.code(), Some(1));
    assert_eq!(said, "error: no listener `out`; there are: in\n");
    let admin = proxy.1.clone();
    drop(proxy);
    let away = mesh(&["explain", "--proxy", &admin, "GET", "http://inventory/"], "");
    let said = String::from_utf8(away.stderr).expect("text");
    assert_eq!(away.status.code(), Some(1));
    assert!(
        said.starts_with(&format!("error: cannot ask the proxy at http://{admin}: ")),
        "{said}"
    );
    assert_eq!(code(&["explain", "--proxy", "here", "GET", "http://a/"], ""), 2);
    std::fs::remove_file(file).expect("removed");
}
