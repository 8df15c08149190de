//! The command line and the environment: nothing that is asked for is left out in silence.

mod common;

use common::process::{PATIENCE, Process, folder};
use common::recorder::Recorder;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use tokio::time::{Instant, sleep};

fn spawn(flags: &[&str], environment: &[(&str, &str)]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_mesh-proxy"))
        .args(flags)
        .envs(environment.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What a proxy says that ends by itself.
async fn run(flags: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut child = spawn(flags, environment);
    let until = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > until {
            child.kill().unwrap();
        }
        sleep(Duration::from_millis(5)).await;
    }
    child.wait_with_output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn flags_of_a_listener_are_refused_where_there_is_none() {
    let endpoint = Recorder::start().await;
    let folder = folder("flags");
    let path = folder.join("mesh.yaml");
    let file = format!(
        "apiVersion: mesh/v1\nkind: Service\nmetadata: {{name: app}}\nspec:\n  endpoints: {{static: ['{}']}}\n\
         ---\napiVersion: mesh/v1\nkind: Listener\nmetadata: {{name: main}}\nspec: {{direction: Inbound, address: '127.0.0.1:0', service: app}}\n",
        endpoint.address()
    );
    std::fs::write(&path, file).unwrap();
    let config = ["--config", path.to_str().unwrap(), "--admin", "off"];
    for (flag, variable, value) in [
        ("--protocol", "MESH_PROTOCOL", "http"),
        ("--upstream-protocol", "MESH_UPSTREAM_PROTOCOL", "http2"),
        ("--tls-cert", "MESH_TLS_CERT", "/nonexistent"),
        ("--tls-key", "MESH_TLS_KEY", "/nonexistent"),
        ("--tls-client-ca", "MESH_TLS_CLIENT_CA", "/nonexistent"),
        ("--upstream-tls", "MESH_UPSTREAM_TLS", "true"),
        ("--upstream-ca", "MESH_UPSTREAM_CA", "/nonexistent"),
        ("--upstream-cert", "MESH_UPSTREAM_CERT", "/nonexistent"),
        ("--upstream-key", "MESH_UPSTREAM_KEY", "/nonexistent"),
        ("--upstream-name", "MESH_UPSTREAM_NAME", "inventory"),
    ] {
        let mut flags = config.to_vec();
        flags.push(flag);
        flags.extend((flag != "--upstream-tls").then_some(value));
        // What a pair of files needs besides is there, so that only the listener is missing.
        match flag {
            "--tls-cert" => flags.extend(["--tls-key", value]),
            "--tls-key" | "--tls-client-ca" => flags.extend(["--tls-cert", value]),
            "--upstream-cert" => flags.extend(["--upstream-key", value]),
            "--upstream-key" => flags.extend(["--upstream-cert", value]),
            _ => {}
        }
        if flag == "--tls-client-ca" {
            flags.extend(["--tls-key", value]);
        }
        let output = run(&flags, &[]).await;
        assert_eq!(output.status.code(), Some(2), "{flag}: {}", said(&output));
        assert!(said(&output).contains("--listen"), "{flag}: {}", said(&output));

        let output = run(&config, &[(variable, value)]).await;
        assert_eq!(output.status.code(), Some(2), "{variable}: {}", said(&output));
        assert!(said(&output).contains("--listen"), "{variable}: {}", said(&output));
    }
    let without = Process::start(&config[..2]);
    assert_eq!(without.admin("GET", "/live").await.0, 200, "the file alone is fine");
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn help_tells_of_the_default_admin_address() {
    let help = run(&["--help"], &[]).await;
    let text = String::from_utf8_lossy(&help.stdout);
    assert!(text.contains("[default: 127.0.0.1:19000]"), "{text}");
}

#[tokio::test]
async fn a_taken_admin_port_is_said_with_its_flag() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let flags = ["--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:1"];
    let by_flag = run(&[&flags[..], &["--admin", &address]].concat(), &[]).await;
    let by_variable = run(&flags, &[("MESH_ADMIN_LISTEN", &address)]).await;
    for output in [by_flag, by_variable] {
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("--admin") && said.contains(&address), "{said}");
        assert!(!said.contains("listening on"), "it served before it knew: {said}");
    }
}

#[test]
fn admin_pages_can_be_turned_off() {
    let flags = ["--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:1"];
    let by_flag = spawn(&[&flags[..], &["--admin", "off"]].concat(), &[]);
    let by_variable = spawn(&flags, &[("MESH_ADMIN_LISTEN", "off")]);
    for mut child in [by_flag, by_variable] {
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        assert!(lines.any(|line| line.starts_with("listening on ")), "it ended");
        let id = child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        let said: Vec<String> = lines.collect();
        assert!(child.wait().unwrap().success());
        assert!(!said.iter().any(|line| line.starts_with("admin on")), "{said:?}");
    }
}

#[tokio::test]
async fn log_settings_that_cannot_be_read_are_said() {
    let flags = ["--admin", "off", "--config", "/nonexistent/mesh.yaml"];
    for (name, value, expected) in [
        ("MESH_LOG", "[[[", "warning: MESH_LOG=[[["),
        ("RUST_LOG", "mesh=loud", "warning: RUST_LOG=mesh=loud"),
        ("MESH_LOG_FORMAT", "jsn", "warning: MESH_LOG_FORMAT=jsn"),
    ] {
        let said = said(&run(&flags, &[(name, value)]).await);
        assert!(said.contains(expected), "{said}");
        assert!(said.contains("/nonexistent"), "it went on: {said}");
    }
    for (name, value) in [("MESH_LOG", "debug"), ("MESH_LOG_FORMAT", "text"), ("MESH_LOG", "")] {
        let said = said(&run(&flags, &[(name, value)]).await);
        assert!(!said.contains("warning"), "{name}={value}: {said}");
    }
}
