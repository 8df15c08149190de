//! A linked mesh that finds services in a real Consul.

#![cfg(feature = "consul")]
#![allow(missing_docs)]

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use mesh_core::config::Source;
use mesh_discovery::consul::{Config, KvUpdate};
use mesh_tower::{Body, Error, Mesh, MeshBuilder};
use std::time::Duration;
use testkit::consul::Consul;
use testkit::endpoint::{Reply, ScriptedEndpoint};
use tokio::time::Instant;
use tower::ServiceExt;

/// Longer than any machine under load should need.
const PATIENCE: Duration = Duration::from_secs(30);

fn builder(consul: &Consul) -> MeshBuilder {
    let mut config = Config::default();
    config.address = consul.address().to_string().parse().expect("an address");
    Mesh::builder().consul(mesh_discovery::Consul::new(config))
}

async fn get(mesh: &Mesh, uri: &str) -> Result<(StatusCode, String), Error> {
    let request = Request::get(uri).body(Body::empty()).expect("a request");
    let response = mesh.http().oneshot(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await.expect("whole").to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// Calls until the answers of `count` calls in a row fit.
async fn until_calls(mesh: &Mesh, uri: &str, count: usize, fits: impl Fn(&str) -> bool) {
    let mut in_a_row = 0;
    let calling = async {
        while in_a_row < count {
            let (status, body) = get(mesh, uri).await.expect("no call fails");
            assert_eq!(status, StatusCode::OK, "{body}");
            in_a_row = if fits(&body) { in_a_row + 1 } else { 0 };
        }
    };
    tokio::time::timeout(PATIENCE, calling).await.expect("the answers come to fit");
}

async fn named(name: &'static str) -> ScriptedEndpoint {
    ScriptedEndpoint::http1(Reply::status(200).content(name)).await
}

/// The endpoints of the only destination.
fn endpoints(mesh: &Mesh) -> usize {
    mesh.destinations().iter().map(|destination| destination.endpoints.len()).sum()
}

#[tokio::test]
async fn calls_follow_the_catalog_and_go_on_without_it() {
    const TEST: &str = "calls_follow_the_catalog_and_go_on_without_it";
    let Some(mut consul) = Consul::start(TEST).await else { return };
    let (a, b, c) = (named("a").await, named("b").await, named("c").await);
    consul.register("web", "web-a", a.address()).await;
    consul.register("web", "web-b", b.address()).await;
    consul.settled("web", 2).await;
    let mesh = builder(&consul).names_by_consul().build().expect("a mesh");

    until_calls(&mesh, "http://web/", 1, |body| body == "a").await;
    until_calls(&mesh, "http://web.service.consul/", 1, |body| body == "b").await;

    // Critical is out, and comes back.
    consul.put("/v1/agent/check/fail/service:web-a", "").await;
    until_calls(&mesh, "http://web/", 50, |body| body == "b").await;
    consul.put("/v1/agent/check/pass/service:web-a", "").await;
    until_calls(&mesh, "http://web/", 1, |body| body == "a").await;

    // So is what is deregistered, of which no call fails.
    consul.put("/v1/agent/service/deregister/web-b", "").await;
    until_calls(&mesh, "http://web/", 50, |body| body == "a").await;

    // Without a Consul, and with one that has forgotten everything, calls go on.
    consul.kill();
    until_calls(&mesh, "http://web/", 100, |body| body == "a").await;
    consul.restart().await;
    until_calls(&mesh, "http://web/", 100, |body| body == "a").await;
    consul.register("web", "web-c", c.address()).await;
    // A Consul that has just started may take half a minute to bring it to its catalog.
    consul.settled("web", 1).await;
    until_calls(&mesh, "http://web/", 50, |body| body == "c").await;
    assert_eq!(
        consul.ask("GET", "/v1/status/leader", "").await.map(|(status, _)| status).ok(),
        Some(200)
    );
}

#[tokio::test]
async fn a_service_of_the_configuration_names_its_instances() {
    const TEST: &str = "a_service_of_the_configuration_names_its_instances";
    let Some(consul) = Consul::start(TEST).await else { return };
    let (old, new) = (named("old").await, named("new").await);
    for (endpoint, tag) in [(&old, "v1"), (&new, "v2")] {
        let address = endpoint.address();
        let definition = format!(
            r#"{{"Name":"web","ID":"{tag}","Address":"{}","Port":{},"Tags":["{tag}"]}}"#,
            address.ip(),
            address.port()
        );
        consul.put("/v1/agent/service/register", &definition).await;
    }
    consul.settled("web", 2).await;
    let config = "
apiVersion: mesh/v1
kind: Service
metadata: { name: shop }
spec: { endpoints: { consul: { service: web, tag: v2, datacenter: dc1, onlyPassing: true } } }
---
apiVersion: mesh/v1
kind: Service
metadata: { name: web }
spec: { endpoints: { consul: {} } }
";
    let mesh = builder(&consul).config_text("test", config).build().expect("a mesh");
    let told: Vec<String> =
        mesh.snapshot().destinations().iter().map(|known| known.endpoints.to_string()).collect();
    assert_eq!(told, ["consul://web?tag=v2&dc=dc1&passing", "consul://web"]);
    until_calls(&mesh, "http://shop/", 20, |body| body == "new").await;
    until_calls(&mesh, "http://web/", 1, |body| body == "old").await;
    assert_eq!(endpoints(&mesh), 3);
}

#[tokio::test]
async fn names_that_are_no_services_stay_with_dns() {
    // Nobody asks anything of this Consul.
    let nobody = "127.0.0.1:1".parse().expect("an address");
    let mut config = Config::default();
    config.address = nobody;
    let consul = mesh_discovery::Consul::new(config);
    let mesh = Mesh::builder().consul(consul).names_by_consul().build().expect("a mesh");
    let endpoint = named("here").await;
    let port = endpoint.address().port();
    for host in ["127.0.0.1", "localhost"] {
        let (status, _) = get(&mesh, &format!("http://{host}:{port}/")).await.expect("DNS");
        assert_eq!(status, StatusCode::OK);
    }
    let error = get(&mesh, "http://web/").await.expect_err("no Consul");
    assert!(error.to_string().contains("http://127.0.0.1:1/v1/health/service/web"), "{error}");
}

// With a thread besides the one that waits for the program.
#[tokio::test(flavor = "multi_thread")]
async fn the_environment_names_consul() {
    const ROLE: &str = "MESH_TEST_CONSUL";
    if let Some(uri) = std::env::var_os(ROLE) {
        let told = match Mesh::from_env() {
            Ok(mesh) => match get(&mesh, uri.to_str().expect("text")).await {
                Ok((_, body)) => body,
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        println!("told: {}", told.replace('\n', " "));
        return;
    }
    let run = |variables: &[(&str, &str)]| {
        let output = std::process::Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "the_environment_names_consul", "--nocapture"])
            .env_clear()
            .env(ROLE, "http://web/")
            .envs(variables.iter().copied())
            .output()
            .expect("it runs");
        let said = String::from_utf8(output.stdout).expect("text");
        let told = said.lines().find_map(|line| line.split_once("told: "));
        told.unwrap_or_else(|| panic!("{said}")).1.to_owned()
    };
    let told = run(&[("CONSUL_HTTP_ADDR", "unix:///run/consul.sock")]);
    assert!(told.starts_with("CONSUL_HTTP_ADDR cannot be read: "), "{told}");
    let told = run(&[("CONSUL_HTTP_ADDR", "127.0.0.1:1"), ("CONSUL_HTTP_TOKEN", "5ec4e7")]);
    assert!(told.contains("http://127.0.0.1:1/v1/health/service/web"), "{told}");
    assert!(!told.contains("5ec4e7"), "{told}");
    let Some(consul) = Consul::start("the_environment_names_consul").await else { return };
    let web = named("by the catalog").await;
    consul.register("web", "web", web.address()).await;
    consul.settled("web", 1).await;
    let address = consul.address().to_string();
    assert_eq!(run(&[("CONSUL_HTTP_ADDR", &address)]), "by the catalog");
}

#[tokio::test]
async fn configuration_entries_shift_traffic_live() {
    const TEST: &str = "configuration_entries_shift_traffic_live";
    let Some(consul) = Consul::start(TEST).await else { return };
    let (one, two) = (named("v1").await, named("v2").await);
    consul.register("web", "web-1", one.address()).await;
    consul.register("web-next", "web-2", two.address()).await;
    consul.settled("web", 1).await;
    consul.settled("web-next", 1).await;
    let write = async |entry: &str| consul.put("/v1/config", entry).await;
    for name in ["web", "web-next"] {
        write(&format!(r#"{{"Kind":"service-defaults","Name":"{name}","Protocol":"http"}}"#)).await;
    }
    let mesh = builder(&consul).names_by_consul().consul_entries().build().expect("a mesh");
    until_calls(&mesh, "http://web/", 10, |body| body == "v1").await;

    let all_to = |service: &str| {
        format!(
            r#"{{"Kind":"service-splitter","Name":"web","Splits":[{{"Weight":100,"Service":"{service}"}}]}}"#
        )
    };
    write(&all_to("web-next")).await;
    let written = Instant::now();
    until_calls(&mesh, "http://web/", 1, |body| body == "v2").await;
    testkit::figure(
        TEST,
        &format!("traffic follows a splitter {:?} after it is written", written.elapsed()),
    );
    until_calls(&mesh, "http://web/", 50, |body| body == "v2").await;

    // What cannot be put in force changes nothing, and says why.
    write(
        r#"{"Kind":"service-resolver","Name":"web-next",
            "Subsets":{"well":{"OnlyPassing":true}}}"#,
    )
    .await;
    testkit::until("the resolver is refused", || !mesh.refused_entries().is_empty()).await;
    let refused = mesh.refused_entries();
    assert_eq!((refused[0].kind, &*refused[0].name), ("service-resolver", "web-next"));
    assert!(refused[0].why.contains("`OnlyPassing` is not supported"), "{}", refused[0].why);
    until_calls(&mesh, "http://web/", 20, |body| body == "v2").await;

    // The others go on being followed meanwhile; what is taken away is gone.
    write(
        r#"{"Kind":"service-router","Name":"web","Routes":[{
            "Match":{"HTTP":{"PathPrefix":"/old"}},
            "Destination":{"Service":"web-next","PrefixRewrite":"/","NumRetries":1}}]}"#,
    )
    .await;
    write(&all_to("web")).await;
    until_calls(&mesh, "http://web/", 20, |body| body == "v1").await;
    until_calls(&mesh, "http://web/old/x", 20, |body| body == "v2").await;
    for kind in ["service-router", "service-splitter"] {
        let (status, said) = consul
            .ask("DELETE", &format!("/v1/config/{kind}/web"), "")
            .await
            .expect("consul answers");
        assert_eq!(status, 200, "{said}");
    }
    until_calls(&mesh, "http://web/old/x", 20, |body| body == "v1").await;
}

#[tokio::test]
async fn entries_stay_when_consul_goes_and_when_files_are_read_again() {
    const TEST: &str = "entries_stay_when_consul_goes_and_when_files_are_read_again";
    let Some(mut consul) = Consul::start(TEST).await else { return };
    let (one, two) = (named("v1").await, named("v2").await);
    let file = format!(
        "apiVersion: mesh/v1\nkind: Service\nmetadata: {{ name: web }}\n\
         spec: {{ endpoints: {{ static: ['{}'] }} }}\n---\n\
         apiVersion: mesh/v1\nkind: Service\nmetadata: {{ name: next }}\n\
         spec: {{ endpoints: {{ static: ['{}'] }} }}\n",
        one.address(),
        two.address()
    );
    for name in ["web", "next"] {
        let entry = format!(r#"{{"Kind":"service-defaults","Name":"{name}","Protocol":"http"}}"#);
        consul.put("/v1/config", &entry).await;
    }
    let split =
        r#"{"Kind":"service-splitter","Name":"web","Splits":[{"Weight":100,"Service":"next"}]}"#;
    consul.put("/v1/config", split).await;
    let mesh = builder(&consul).config_text("mesh.yaml", file.clone()).consul_entries();
    let mesh = mesh.build().expect("a mesh");
    until_calls(&mesh, "http://web/", 20, |body| body == "v2").await;
    consul.kill();
    until_calls(&mesh, "http://web/", 20, |body| body == "v2").await;
    mesh.configure(&[Source::new("mesh.yaml", file)]).expect("the same again");
    until_calls(&mesh, "http://web/", 20, |body| body == "v2").await;
    let wrong = mesh.configure(&[Source::new("mesh.yaml", "kind: Nothing")]);
    assert!(wrong.is_err(), "files are told as ever");
    until_calls(&mesh, "http://web/", 20, |body| body == "v2").await;
}

#[tokio::test]
async fn keys_are_watched_through_the_mesh() {
    let Some(consul) = Consul::start("keys_are_watched_through_the_mesh").await else { return };
    consul.put("/v1/kv/redis/config/devops", "value").await;
    let mesh = builder(&consul).build().expect("a mesh");
    let mut watch = mesh.watch_kv("redis/config/");
    let first = tokio::time::timeout(PATIENCE, watch.changed()).await.expect("a version is due");
    let Some(KvUpdate::Pairs(version)) = first else { panic!("{first:?}") };
    assert_eq!(version.get("redis/config/devops").map(|value| &value[..]), Some(&b"value"[..]));
}
