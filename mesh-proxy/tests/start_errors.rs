//! What is said of files that the configuration names and that cannot be used, at the start and by
//! a reload: the place, the reason and a way out, and nothing of calls, since none was made.

mod common;

use common::process::{Process, folder};
use std::process::{Command, Output};

fn run(flags: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mesh-proxy"))
        .args(["--workers", "1", "--admin", "off"])
        .args(flags)
        .env_remove("MESH_CONFIG")
        .output()
        .unwrap()
}

const CONFIG: &str = "\
apiVersion: mesh/v1
kind: Service
metadata: { name: a }
spec: { endpoints: { static: ['127.0.0.1:1'] } }
---
apiVersion: mesh/v1
kind: Listener
metadata: { name: main }
spec:
  direction: Inbound
  address: 127.0.0.1:0
  service: a
";

#[test]
fn a_listener_whose_certificate_is_not_there_is_told_with_its_line() {
    let folder = folder("start-errors");
    let path = folder.join("mesh.yaml");
    let config = format!("{CONFIG}  tls:\n    cert: /nonexistent/cert.pem\n    key: /dev/null\n");
    std::fs::write(&path, config).unwrap();
    let output = run(&["--config", path.to_str().unwrap()]);
    let said = String::from_utf8(output.stderr).unwrap();
    let wanted = format!(
        "\
error: `tls.cert` of Listener `main` cannot be used: /nonexistent/cert.pem: No such file or directory (os error 2)
  --> {}:14:11
   |
14 |     cert: /nonexistent/cert.pem
   |           ^^^^^^^^^^^^^^^^^^^^^
   = name a readable PEM file with the certificate (BEGIN CERTIFICATE) and those that lead to its authority
",
        path.display()
    );
    assert_eq!(said, wanted);
    assert_eq!(output.status.code(), Some(1));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_flags_name_is_told_with_the_flag() {
    let to = ["--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:1"];
    let unusable = |flag: &str| format!("{flag} /nonexistent");
    for (flags, flag) in [
        (unusable("--upstream-ca"), "--upstream-ca"),
        ("--upstream-name spiffe://A/b".to_owned(), "--upstream-name"),
        ("--tls-cert /dev/null --tls-key /nonexistent".to_owned(), "--tls-key"),
    ] {
        let flags: Vec<&str> = to.into_iter().chain(flags.split(' ')).collect();
        let said = String::from_utf8(run(&flags).stderr).unwrap();
        assert!(said.contains(&format!("# {flag}\n")), "{flag} in:\n{said}");
        assert!(said.starts_with("error: `"), "{said}");
        assert!(!said.contains("call to") && !said.contains("handshake"), "{said}");
    }
}

#[test]
fn files_are_found_by_the_same_rule_as_everywhere() {
    let folder = folder("found");
    std::fs::create_dir_all(folder.join("user/mesh")).unwrap();
    let broken = format!("{CONFIG}  tls: {{ cert: /nonexistent, key: /dev/null }}\n");
    std::fs::write(folder.join("user/mesh/mesh.yaml"), &broken).unwrap();
    std::fs::write(folder.join("latin.yaml"), b"# caf\xe9\n").unwrap();
    let run = |flags: &[&str], variable: &str, value: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_mesh-proxy"))
            .args(["--workers", "1", "--admin", "off"])
            .args(flags)
            .current_dir(&folder)
            .env_remove("MESH_CONFIG")
            .env(variable, value)
            .output();
        String::from_utf8(output.unwrap().stderr).unwrap()
    };
    let user = folder.join("user");
    let said = run(&[], "XDG_CONFIG_HOME", user.to_str().unwrap());
    assert!(said.contains("user/mesh/mesh.yaml:13:"), "{said}");
    let said = run(&[], "MESH_CONFIG", "latin.yaml,user/mesh/mesh.yaml");
    assert!(said.contains("not UTF-8") && said.contains("latin.yaml:1:6"), "{said}");
    // Told by flags what to do, it reads what is named, and nothing that merely lies there.
    std::fs::write(folder.join("mesh.yaml"), broken).unwrap();
    let flags = ["--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:1"];
    let said = run(&flags, "MESH_CONFIG", "absent.yaml");
    assert_eq!(said, "error: cannot read absent.yaml: No such file or directory (os error 2)\n");
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_reload_that_is_refused_says_where_and_why() {
    let folder = folder("reload-errors");
    let path = folder.join("mesh.yaml");
    std::fs::write(&path, CONFIG).unwrap();
    let process = Process::start(&["--config", path.to_str().unwrap()]);
    let broken = CONFIG.replace("1'] } }", "1'] }, tls: { ca: /nonexistent/ca.pem } }");
    std::fs::write(&path, broken).unwrap();
    process.signal("HUP");
    let mut page = String::new();
    for _ in 0..3000 {
        page = process.admin("GET", "/config").await.1;
        if page.contains("nonexistent") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(page.contains("`tls.ca` of Service `a` cannot be used"), "{page}");
    assert!(page.contains("mesh.yaml:4:"), "{page}");
    assert!(!page.contains("call to") && !page.contains("handshake"), "{page}");
    std::fs::remove_dir_all(folder).unwrap();
}
