//! `Mesh::from_env` finds its configuration where the proxy and the command find theirs.

use mesh_tower::Mesh;
use std::path::Path;
use std::process::Command;

/// Set where this test runs as the program whose environment it is about.
const ROLE: &str = "MESH_TEST_FROM_ENV";

/// What `from_env` says in a process of its own, in `folder`, with these variables.
fn from_env(folder: &Path, variables: &[(&str, String)]) -> String {
    let output = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "files_are_found_by_the_environment", "--nocapture"])
        .current_dir(folder)
        .env_clear()
        .env(ROLE, "1")
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .output()
        .expect("it runs");
    let said = String::from_utf8(output.stdout).expect("text");
    let told = said.lines().find_map(|line| line.split_once("told: "));
    told.unwrap_or_else(|| panic!("{said}")).1.to_owned()
}

fn service(name: &str) -> String {
    format!(
        "apiVersion: mesh/v1\nkind: Service\nmetadata: {{ name: {name} }}\n\
         spec: {{ endpoints: {{ static: ['127.0.0.1:1'] }} }}\n"
    )
}

#[tokio::test]
async fn files_are_found_by_the_environment() {
    if std::env::var_os(ROLE).is_some() {
        let told = match Mesh::from_env() {
            Ok(mesh) => {
                let snapshot = mesh.snapshot();
                let names: Vec<_> =
                    snapshot.destinations().iter().map(|known| known.name.to_string()).collect();
                names.join(" ")
            }
            Err(error) => error.to_string().replace('\n', " "),
        };
        println!("told: {told}");
        return;
    }
    let folder = std::env::temp_dir().join(format!("mesh-from-env-{}", std::process::id()));
    let user = folder.join("user/mesh");
    std::fs::create_dir_all(&user).expect("a folder");
    let write = |name: &str, text: &[u8]| std::fs::write(folder.join(name), text).expect("written");
    write("user/mesh/mesh.yaml", service("of-the-user").as_bytes());
    write("a.yaml", service("a").as_bytes());
    write("b.yaml", service("b").as_bytes());
    write("latin.yaml", b"# caf\xe9\n");
    let xdg = ("XDG_CONFIG_HOME", folder.join("user").display().to_string());
    let named = |files: &str| ("MESH_CONFIG", files.to_owned());

    assert_eq!(from_env(&folder, std::slice::from_ref(&xdg)), "of-the-user");
    assert_eq!(from_env(&folder, &[xdg.clone(), named("a.yaml,b.yaml")]), "a b");
    let said = from_env(&folder, &[named("latin.yaml")]);
    assert!(said.contains("not UTF-8: byte 0xe9") && said.contains("latin.yaml:1:6"), "{said}");
    let said = from_env(&folder, &[named("absent.yaml")]);
    assert!(said.starts_with("cannot read absent.yaml: "), "{said}");
    write("mesh.yaml", service("here").as_bytes());
    assert_eq!(from_env(&folder, &[xdg]), "here");
    std::fs::remove_dir_all(folder).expect("removed");
}
