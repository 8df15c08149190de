//! The `consul` command line, unchanged, against our server: what its users type and what they see.

use std::path::Path;
use std::time::Duration;

use mesh_control::server::{Server, Settings};
use tokio::process::Command;
use tokio::time::{Instant, timeout};

/// Longer than any machine under load should need for one command.
const PATIENCE: Duration = Duration::from_secs(60);

const FILES: [(&str, &str); 4] = [
    ("service.hcl", "service { name = \"shop\" port = 9003 }"),
    ("defaults.hcl", "Kind = \"service-defaults\"\nName = \"shop\"\nProtocol = \"http\"\n"),
    (
        "splitter.hcl",
        "Kind = \"service-splitter\"\nName = \"shop\"\nSplits = [\n  { Weight = 90 },\n  \
         { Weight = 10, Service = \"shop-next\" },\n]\n",
    ),
    ("short.hcl", "Kind = \"service-splitter\"\nName = \"shop\"\nSplits = [{ Weight = 90 }]\n"),
];

/// A command, whether it succeeds, and what it prints; a blank stands for one or many, and line
/// ends at the end do not count. Consul 1.8.7 prints the same for its own server, unless noted.
const STEPS: &[(&str, bool, &str)] = &[
    ("catalog datacenters", true, "dc1"),
    ("catalog services", true, "consul"),
    ("kv put a/b hello", true, "Success! Data written to: a/b"),
    ("kv put a/c 2", true, "Success! Data written to: a/c"),
    ("kv get a/b", true, "hello"),
    ("kv get -recurse a/", true, "a/b:hello\na/c:2"),
    ("kv get -keys a/", true, "a/b\na/c"),
    ("kv put -cas -modify-index=1 a/b no", false, "Error! Did not write to a/b: CAS failed"),
    ("kv delete -recurse a/", true, "Success! Deleted keys with prefix: a/"),
    ("kv get a/b", false, "Error! No key exists at: a/b"),
    ("services register service.hcl", true, "Registered service: shop"),
    ("catalog services", true, "consul\nshop"),
    ("services deregister -id=shop", true, "Deregistered service: shop"),
    ("catalog services", true, "consul"),
    (
        "config write splitter.hcl",
        false,
        "Error writing config entry service-splitter/shop: Unexpected response code: 500 \
         (discovery chain \"shop\" uses a protocol \"tcp\" that does not permit advanced routing \
         or splitting behavior)",
    ),
    ("config write defaults.hcl", true, "Config entry written: service-defaults/shop"),
    ("config write splitter.hcl", true, "Config entry written: service-splitter/shop"),
    // The sentence is that of the data plane.
    (
        "config write short.hcl",
        false,
        "Error writing config entry service-splitter/shop: Unexpected response code: 500 \
         (service-splitter/shop: the weights sum up to 90, not to 100)",
    ),
    ("config list -kind service-splitter", true, "shop"),
    (
        "config delete -kind service-defaults -name shop",
        false,
        "Error deleting config entry service-defaults/shop: Unexpected response code: 500 \
         (discovery chain \"shop\" uses a protocol \"tcp\" that does not permit advanced routing \
         or splitting behavior)",
    ),
    (
        "config delete -kind service-splitter -name shop",
        true,
        "Config entry deleted: service-splitter/shop",
    ),
    ("config list -kind service-splitter", true, ""),
    (
        "config read -kind service-splitter -name shop",
        false,
        "Error reading config entry service-splitter/shop: Unexpected response code: 404 \
         (Config entry not found for \"service-splitter\" / \"shop\")",
    ),
    ("maint -enable -reason upgrade", true, "Node maintenance is now enabled"),
    ("maint", true, "Node:\n Name: here\n Reason: upgrade"),
    ("maint -disable", true, "Node maintenance is now disabled"),
    ("maint", true, ""),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_people_type_does_what_they_know() {
    let test = "what_people_type_does_what_they_know";
    let Some(program) = testkit::consul::find(test) else { return };
    let mut settings = Settings::default();
    settings.http = ([127, 0, 0, 1], 0).into();
    settings.dns = None;
    "here".clone_into(&mut settings.node_name);
    let server = Server::start(settings).await.expect("it starts");
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in FILES {
        std::fs::write(folder.path().join(name), text).expect("a file");
    }
    let address = server.http().to_string();
    let run = async |line: &str| run(&program, folder.path(), &address, line).await;

    for &(line, succeeds, prints) in STEPS {
        let deadline = Instant::now() + PATIENCE;
        let mut said = run(line).await;
        // The agent brings what it was told to the catalog by itself.
        while line.starts_with("catalog") && said.1 != prints && Instant::now() < deadline {
            said = run(line).await;
        }
        assert_eq!(said, (succeeds, prints.to_owned()), "consul {line}");
    }

    let (succeeded, members) = run("members").await;
    let row = members.lines().nth(1).unwrap_or_default();
    let columns: Vec<&str> = row.split(' ').collect();
    assert!(succeeded, "{members}");
    assert_eq!((columns.first(), columns.get(2)), (Some(&"here"), Some(&"alive")), "{members}");
    let (_, nodes) = run("catalog nodes").await;
    let row = nodes.lines().nth(1).unwrap_or_default();
    assert!(row.starts_with("here ") && row.ends_with(" 127.0.0.1 dc1"), "{nodes}");

    let (_, entry) = run("config read -kind service-defaults -name shop").await;
    assert!(entry.contains("\"Protocol\": \"http\""), "{entry}");
    assert!(server.drain(PATIENCE).await);
}

/// Runs a command; whether it succeeded, and what it printed.
async fn run(program: &Path, folder: &Path, server: &str, line: &str) -> (bool, String) {
    let output = Command::new(program)
        .args(line.split(' '))
        .current_dir(folder)
        .env_clear()
        .env("CONSUL_HTTP_ADDR", server)
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE, output).await.expect("it ends").expect("it starts");
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8(printed).expect("text");
    let mut lines: Vec<String> = Vec::new();
    for line in printed.trim_end().lines() {
        let indent = if line.starts_with(' ') { " " } else { "" };
        let words: Vec<&str> = line.split_whitespace().collect();
        lines.push(format!("{indent}{}", words.join(" ")));
    }
    (output.status.success(), lines.join("\n"))
}
