//! The whole agent, before a catalog in memory that can be away or refuse.

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;
use tokio::time::timeout;

use super::scratch::Scratch;
use super::*;
use CheckStatus::{Critical, Passing, Warning};

#[derive(Default)]
struct InMemory {
    /// By name of the node.
    nodes: Mutex<BTreeMap<String, OfNode>>,
    away: std::sync::atomic::AtomicBool,
    /// A service that it does not want.
    unwanted: Mutex<String>,
    calls: std::sync::atomic::AtomicUsize,
    changed: Notify,
}

impl InMemory {
    fn set_away(&self, away: bool) {
        self.away.store(away, std::sync::atomic::Ordering::SeqCst);
    }

    fn calls(&self) -> usize {
        self.calls.load(std::sync::atomic::Ordering::SeqCst)
    }

    fn answers(&self) -> Result<(), CatalogError> {
        self.calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        match self.away.load(std::sync::atomic::Ordering::SeqCst) {
            true => Err(CatalogError::Away("no server".to_owned())),
            false => Ok(()),
        }
    }

    /// In the order of their IDs: several are brought at once.
    fn services(&self) -> Vec<String> {
        let nodes = self.nodes.lock();
        let services = nodes.get("n1").into_iter().flat_map(|node| &node.services);
        let mut ids: Vec<_> = services.map(|service| service.id.clone()).collect();
        ids.sort_unstable();
        ids
    }

    fn check(&self, id: &str) -> Option<(CheckStatus, String)> {
        let nodes = self.nodes.lock();
        let check = nodes.get("n1")?.checks.iter().find(|check| check.id == id)?;
        Some((check.status, check.output.clone()))
    }

    /// Waits, by the clock of the test, until it has this.
    async fn until(&self, has: impl Fn(&Self) -> bool) {
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                if has(self) {
                    return;
                }
                changed.await;
            }
        };
        timeout(Duration::from_secs(600), waiting).await.expect("the catalog never had it");
    }
}

impl Catalog for InMemory {
    fn node<'a>(
        &'a self,
        node: &'a str,
        _index: u64,
    ) -> BoxFuture<'a, Result<(u64, Option<OfNode>), CatalogError>> {
        Box::pin(async move {
            self.answers()?;
            Ok((1, self.nodes.lock().get(node).cloned()))
        })
    }

    fn register(&self, what: Registration) -> BoxFuture<'_, Result<(), CatalogError>> {
        Box::pin(async move {
            self.answers()?;
            if what.service.as_ref().is_some_and(|service| service.name == *self.unwanted.lock()) {
                return Err(CatalogError::Refused("Permission denied".to_owned()));
            }
            let mut nodes = self.nodes.lock();
            let node = nodes.entry(what.node.name.clone()).or_default();
            node.node = what.node;
            if let Some(service) = what.service {
                node.services.retain(|there| there.id != service.id);
                node.services.push(service);
            }
            for check in what.checks {
                node.checks.retain(|there| there.id != check.id);
                node.checks.push(check);
            }
            self.changed.notify_waiters();
            Ok(())
        })
    }

    fn deregister(&self, what: Deregistration) -> BoxFuture<'_, Result<(), CatalogError>> {
        Box::pin(async move {
            self.answers()?;
            let mut nodes = self.nodes.lock();
            let Some(node) = nodes.get_mut(&what.node) else { return Ok(()) };
            match what.what {
                Gone::Service(id) => {
                    node.services.retain(|service| service.id != id);
                    node.checks.retain(|check| check.service_id != id);
                }
                Gone::Check(id) => node.checks.retain(|check| check.id != id),
            }
            self.changed.notify_waiters();
            Ok(())
        })
    }
}

fn config(scratch: Option<&Scratch>) -> Config {
    let node = Node { name: "n1".into(), address: "10.0.0.1".into(), ..Node::default() };
    let mut config = Config::new(node);
    config.data_dir = scratch.map(|scratch| scratch.path().join("agent"));
    config
}

async fn agent() -> (Agent, Arc<InMemory>) {
    let catalog = Arc::new(InMemory::default());
    (Agent::start(config(None), catalog.clone()).await.unwrap(), catalog)
}

fn read<T: serde::de::DeserializeOwned>(json: &str) -> T {
    serde_json::from_str(json).expect(json)
}

async fn register(agent: &Agent, json: &str) {
    agent.register_service(read(json), Terms::default()).await.expect(json);
}

fn status(agent: &Agent, check: &str) -> (CheckStatus, String) {
    let check = agent.checks().remove(check).unwrap_or_else(|| panic!("no check {check}"));
    (check.status, check.output)
}

#[tokio::test(start_paused = true)]
async fn a_service_reaches_the_catalog_and_leaves_it() {
    let (agent, catalog) = agent().await;
    register(&agent, r#"{"ID": "web-1", "Name": "web", "Port": 80, "Check": {"TTL": "10s"}}"#)
        .await;
    catalog.until(|there| there.services() == ["web-1"]).await;
    assert_eq!(catalog.check("service:web-1"), Some((Critical, String::new())));

    agent.update_ttl("service:web-1", Passing, "fine").await.unwrap();
    catalog.until(|there| there.check("service:web-1") == Some((Passing, "fine".into()))).await;

    assert!(agent.deregister_service("web-1").await.unwrap());
    assert!(!agent.deregister_service("web-1").await.unwrap());
    catalog.until(|there| there.services().is_empty()).await;
    assert_eq!(catalog.check("service:web-1"), None);
}

#[tokio::test(start_paused = true)]
async fn what_the_catalog_lost_or_others_added_is_mended_within_a_round() {
    let (agent, catalog) = agent().await;
    register(&agent, r#"{"Name": "web", "Port": 80}"#).await;
    catalog.until(|there| there.services() == ["web"]).await;
    catalog.until(|_| agent.is_synced()).await;
    {
        let mut nodes = catalog.nodes.lock();
        let node = nodes.get_mut("n1").unwrap();
        node.services[0].port = 1;
        node.services.push(NodeService { id: "stray".into(), ..NodeService::default() });
    }
    let begin = Instant::now();
    catalog.until(|there| there.services() == ["web"]).await;
    catalog.until(|there| there.nodes.lock()["n1"].services[0].port == 80).await;
    assert!(begin.elapsed() <= Duration::from_secs(73), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn local_truth_stays_while_servers_are_away_and_is_brought_afterwards() {
    let (agent, catalog) = agent().await;
    register(&agent, r#"{"Name": "old", "Port": 80}"#).await;
    catalog.until(|there| there.services() == ["old"]).await;

    catalog.set_away(true);
    let before = catalog.calls();
    agent.deregister_service("old").await.unwrap();
    register(&agent, r#"{"Name": "new", "Port": 81, "Check": {"TTL": "1h"}}"#).await;
    agent.update_ttl("service:new", Warning, "hm").await.unwrap();
    tokio::time::sleep(Duration::from_secs(600)).await;
    // Waits of up to 1, 2, 4, … 60 s: on average 20 tries, and surely not hundreds.
    let tries = catalog.calls() - before;
    assert!((5..200).contains(&tries), "{tries} tries in 10 min");
    assert_eq!(agent.services().keys().collect::<Vec<_>>(), ["new"]);
    assert_eq!(catalog.services(), ["old"]);
    assert!(!agent.is_synced());

    catalog.set_away(false);
    catalog.until(|there| there.services() == ["new"]).await;
    catalog.until(|there| there.check("service:new") == Some((Warning, "hm".into()))).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_holds_back_nothing_else() {
    let (agent, catalog) = agent().await;
    *catalog.unwanted.lock() = "secret".to_owned();
    register(&agent, r#"{"Name": "secret"}"#).await;
    register(&agent, r#"{"Name": "web"}"#).await;
    catalog.until(|there| there.services() == ["web"]).await;
    // And is tried again.
    catalog.unwanted.lock().clear();
    catalog.until(|there| there.services() == ["secret", "web"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_ttl_expires_and_lives_again() {
    let (agent, _) = agent().await;
    let check = r#"{"Name": "beat", "TTL": "10s"}"#;
    agent.register_check(read(check), Terms::default()).await.unwrap();
    for _ in 0..3 {
        agent.update_ttl("beat", Passing, "here").await.unwrap();
        tokio::time::sleep(Duration::from_secs(9)).await;
        assert_eq!(status(&agent, "beat"), (Passing, "here".into()));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let expired = "TTL expired (last output before timeout follows): here";
    assert_eq!(status(&agent, "beat"), (Critical, expired.into()));
    agent.update_ttl("beat", Warning, "back").await.unwrap();
    assert_eq!(status(&agent, "beat"), (Warning, "back".into()));
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(status(&agent, "beat").0, Critical);

    let error = agent.update_ttl("never", Passing, "").await.unwrap_err();
    assert_eq!(error.to_string(), "CheckID \"never\" does not have associated TTL");
    let long = "é".repeat(4_000);
    agent.update_ttl("beat", Passing, &long).await.unwrap();
    assert_eq!(status(&agent, "beat").1.len(), 4_096);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_critical_for_too_long_goes_with_its_sidecar() {
    let (agent, catalog) = agent().await;
    register(
        &agent,
        r#"{"Name": "web", "Port": 80, "Connect": {"SidecarService": {"Check": {"TTL": "1h"}}},
            "Check": {"TTL": "1h", "DeregisterCriticalServiceAfter": "90s"}}"#,
    )
    .await;
    catalog.until(|there| there.services() == ["web", "web-sidecar-proxy"]).await;
    assert_eq!(agent.services()["web-sidecar-proxy"].service.port, 21000);
    tokio::time::sleep(Duration::from_secs(89)).await;
    assert_eq!(agent.services().len(), 2);
    // It is looked for every 30 s.
    tokio::time::sleep(Duration::from_secs(32)).await;
    assert!(agent.services().is_empty());
    catalog.until(|there| there.services().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn maintenance_is_a_critical_check_with_its_reason() {
    let (agent, _) = agent().await;
    register(&agent, r#"{"Name": "web", "Tags": ["a"]}"#).await;
    assert_eq!(agent.health_by_id("web").unwrap().status, Passing);
    agent.begin_service_maintenance("web", "", Token::default()).await.unwrap();
    agent.begin_service_maintenance("web", "another", Token::default()).await.unwrap();
    let check = agent.checks().remove("_service_maintenance:web").unwrap();
    assert_eq!(
        (check.name.as_str(), check.kind.as_str(), check.service_name.as_str()),
        ("Service Maintenance Mode", "maintenance", "web")
    );
    assert!(check.notes.starts_with("Maintenance mode is enabled for this service, but no reason"));
    assert_eq!(agent.health_by_id("web").unwrap().status, Critical);
    agent.end_service_maintenance("web").await.unwrap();
    assert!(agent.checks().is_empty());

    agent.begin_node_maintenance("why", Token::default()).await.unwrap();
    assert_eq!(agent.checks()["_node_maintenance"].notes, "why");
    assert_eq!(agent.health_by_name("web")[0].status, Critical);
    agent.end_node_maintenance().await.unwrap();
    agent.end_node_maintenance().await.unwrap();

    let error = agent.begin_service_maintenance("nope", "", Token::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "No service registered with ID \"nope\"");
    assert_eq!(error.status(), 404);
}

#[tokio::test(start_paused = true)]
async fn checks_stay_or_go_as_the_registration_says() {
    let (agent, _) = agent().await;
    register(&agent, r#"{"Name": "web", "Check": {"TTL": "1h"}}"#).await;
    agent.update_ttl("service:web", Passing, "x").await.unwrap();
    let extra = r#"{"Name": "extra", "TTL": "1h", "ServiceID": "web"}"#;
    agent.register_check(read(extra), Terms::default()).await.unwrap();
    let ids = || agent.checks().into_keys().collect::<Vec<_>>();
    let two = r#"{"Name": "web", "Checks": [{"TTL": "1h"}, {"TTL": "1h"}]}"#;
    register(&agent, two).await;
    assert_eq!(ids(), ["extra", "service:web", "service:web:1", "service:web:2"]);
    let one = read(r#"{"Name": "web", "Check": {"TTL": "1h", "Status": "warning"}}"#);
    agent.register_service(one, Terms::default().replacing_checks(true)).await.unwrap();
    assert_eq!(ids(), ["service:web"]);
    // How it stood still holds.
    assert_eq!(status(&agent, "service:web"), (Passing, "x".into()));

    let orphan = read(r#"{"Name": "orphan", "TTL": "1s", "ServiceID": "none"}"#);
    let error = agent.register_check(orphan, Terms::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "ServiceID \"none\" does not exist");
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_comes_and_goes_with_its_service() {
    let (agent, _) = agent().await;
    let ids = || agent.services().into_keys().collect::<Vec<_>>();
    let with = r#"{"Name": "web", "Port": 80, "Connect": {"SidecarService": {}}}"#;
    register(&agent, with).await;
    register(&agent, r#"{"Name": "db", "Connect": {"SidecarService": {}}}"#).await;
    assert_eq!(agent.services()["db-sidecar-proxy"].service.port, 21001);
    register(&agent, with).await;
    assert_eq!(agent.services()["web-sidecar-proxy"].service.port, 21000);
    let aliasing = "service:web-sidecar-proxy:2";
    assert_eq!(agent.checks()[aliasing].kind, "alias");
    let mut changes = agent.changes();
    let passing = async {
        while status(&agent, aliasing).0 != Passing {
            changes.changed().await.unwrap();
        }
    };
    timeout(Duration::from_secs(5), passing).await.expect("an alias follows its service");

    register(&agent, r#"{"Name": "web", "Port": 80}"#).await;
    assert_eq!(ids(), ["db", "db-sidecar-proxy", "web"]);
    agent.deregister_service("db").await.unwrap();
    assert_eq!(ids(), ["web"]);
}

#[tokio::test(start_paused = true)]
async fn a_read_waits_for_another_hash() {
    let (agent, _) = agent().await;
    register(&agent, r#"{"Name": "web", "Port": 80}"#).await;
    let first = agent.service("web").unwrap();
    let begin = Instant::now();
    let wait = Duration::from_secs(30);
    let same = agent.service_other_than("web", &first.content_hash, wait).await;
    assert_eq!((same, begin.elapsed()), (Some(first.clone()), wait));

    let waiting = agent.service_other_than("web", &first.content_hash, wait);
    let changing = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        register(&agent, r#"{"Name": "web", "Port": 81}"#).await;
    };
    let (other, ()) = tokio::join!(waiting, changing);
    assert_eq!(other.as_ref().map(|other| other.service.port), Some(81));
    assert_ne!(other.unwrap().content_hash, first.content_hash);
    assert_eq!(
        agent.service_other_than("web", &first.content_hash, wait).await.unwrap().service.port,
        81
    );
    assert_eq!(agent.service_other_than("nope", "x", wait).await, None);
}

#[tokio::test(start_paused = true)]
async fn scripts_run_only_where_they_may() {
    let check = r#"{"Name": "s", "Args": ["true"], "Interval": "1s"}"#;
    for (scripts, by_api, by_file) in
        [(Scripts::Off, false, false), (Scripts::Local, false, true), (Scripts::All, true, true)]
    {
        let mut config = config(None);
        config.scripts = scripts;
        let agent = Agent::start(config, Arc::new(InMemory::default())).await.unwrap();
        let api = agent.register_check(read(check), Terms::default()).await;
        assert_eq!(api.is_ok(), by_api, "{scripts:?}");
        if let Err(error) = api {
            assert!(
                error.to_string().starts_with("Scripts are disabled on this agent from remote")
            );
        }
        let file = agent.reload(vec![], vec![read(check)]).await;
        assert_eq!(file.is_ok(), by_file, "{scripts:?}: {file:?}");
        // Not by the way of a sidecar, either.
        let hidden = r#"{"Name": "web", "Connect": {"SidecarService":
            {"Check": {"Args": ["true"], "Interval": "1s"}}}}"#;
        let hidden = agent.register_service(read(hidden), Terms::default()).await;
        assert_eq!(hidden.is_ok(), by_api, "{scripts:?}");
    }
}

/// An agent that is stopped, and the next one on what it left.
async fn restarted(agent: Agent, scratch: &Scratch) -> Agent {
    drop(agent);
    Agent::start(config(Some(scratch)), Arc::new(InMemory::default())).await.unwrap()
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let scratch = Scratch::new();
    let catalog = Arc::new(InMemory::default());
    let agent = Agent::start(config(Some(&scratch)), catalog).await.unwrap();
    let token = Terms::api(Token::new("t0ken"));
    let web = r#"{"ID": "web-1", "Name": "web", "Port": 80, "Tags": ["a"],
        "Check": {"TTL": "1h"}, "Connect": {"SidecarService": {}}}"#;
    agent.register_service(read(web), token).await.unwrap();
    register(&agent, r#"{"Name": "gone", "Check": {"TTL": "1h"}}"#).await;
    let extra = r#"{"Name": "extra", "TCP": "127.0.0.1:1", "Interval": "1h", "ServiceID": "web-1", "Status": "warning"}"#;
    agent.register_check(read(extra), Terms::default()).await.unwrap();
    let beat = r#"{"Name": "beat", "TTL": "1h"}"#;
    agent.register_check(read(beat), Terms::default()).await.unwrap();
    agent.update_ttl("beat", Warning, "hm").await.unwrap();
    agent.update_ttl("service:web-1", Passing, "fine").await.unwrap();
    agent.begin_service_maintenance("web-1", "because", Token::default()).await.unwrap();
    agent.deregister_service("gone").await.unwrap();
    let (services, checks) = (agent.services(), agent.checks());

    let agent = restarted(agent, &scratch).await;
    assert_eq!(agent.services(), services);
    let again = agent.checks();
    assert_eq!(again.keys().collect::<Vec<_>>(), checks.keys().collect::<Vec<_>>());
    for (id, check) in &checks {
        // A run may have come in between on either side.
        if !matches!(check.kind.as_str(), "alias" | "tcp") {
            assert_eq!(again[id], *check, "{id}");
        }
    }
    assert_eq!(status(&agent, "service:web-1"), (Passing, "fine".into()));

    // Changed again on what was loaded: in place of it, not beside it.
    agent.deregister_check("service:web-1").await.unwrap();
    agent.deregister_check("extra").await.unwrap();
    agent.end_service_maintenance("web-1").await.unwrap();
    let agent = restarted(agent, &scratch).await;
    let checks = agent.checks();
    let ids: Vec<_> = checks.keys().filter(|id| !id.contains("sidecar")).collect();
    assert_eq!(ids, ["beat"]);
    agent.deregister_service("web-1").await.unwrap();
    agent.deregister_check("beat").await.unwrap();
    let agent = restarted(agent, &scratch).await;
    assert!(agent.services().is_empty() && agent.checks().is_empty());
    let left = |folder: &str| {
        std::fs::read_dir(scratch.path().join("agent").join(folder)).unwrap().count()
    };
    assert_eq!(["services", "checks", "states"].map(left), [0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_change_that_the_disk_refuses_does_not_happen() {
    let scratch = Scratch::new();
    let catalog = Arc::new(InMemory::default());
    let agent = Agent::start(config(Some(&scratch)), catalog).await.unwrap();
    register(&agent, r#"{"Name": "web", "Port": 80}"#).await;
    std::fs::remove_dir_all(scratch.path()).unwrap();
    let change = read(r#"{"Name": "web", "Port": 81}"#);
    let error = agent.register_service(change, Terms::default()).await.unwrap_err();
    assert!(error.to_string().starts_with("the data directory refuses: "), "{error}");
    assert_eq!(agent.services()["web"].service.port, 80);
    std::fs::create_dir(scratch.path()).unwrap();
}

#[tokio::test]
async fn files_say_all_that_they_have_and_win_over_the_api() {
    let scratch = Scratch::new();
    let catalog = Arc::new(InMemory::default());
    let agent = Agent::start(config(Some(&scratch)), catalog).await.unwrap();
    register(&agent, r#"{"Name": "api", "Port": 1}"#).await;
    register(&agent, r#"{"Name": "both", "Port": 1}"#).await;
    let services = |json: &str| -> Vec<ServiceDefinition> { read(json) };
    let files = services(
        r#"[{"Name": "both", "Port": 2}, {"Name": "file", "Port": 2, "Checks": [{"TTL": "1h"}, {"TTL": "1h"}],
             "Connect": {"SidecarService": {"Check": {"TTL": "1h"}}}}]"#,
    );
    let check = read(r#"{"Name": "disk", "TTL": "1h"}"#);
    agent.reload(files.clone(), vec![check]).await.unwrap();
    let ports = |agent: &Agent| -> Vec<_> {
        agent.services().into_iter().map(|(id, it)| format!("{id}:{}", it.service.port)).collect()
    };
    assert_eq!(ports(&agent), ["api:1", "both:2", "file:2", "file-sidecar-proxy:21000"]);
    agent.update_ttl("disk", Passing, "").await.unwrap();

    // One that is wrong: nothing changes.
    let wrong = services(r#"[{"Name": "new"}, {"Name": "bad", "Check": {"HTTP": "x"}}]"#);
    let error = agent.reload(wrong, vec![]).await.unwrap_err().to_string();
    assert!(error.starts_with("service \"bad\": Invalid check: Interval must be"), "{error}");
    assert_eq!(ports(&agent).len(), 4);

    let mut fewer = files;
    fewer.truncate(2);
    fewer[1].checks.truncate(1);
    fewer[1].connect = None;
    agent.reload(fewer, vec![read(r#"{"Name": "disk", "TTL": "2h"}"#)]).await.unwrap();
    assert_eq!(ports(&agent), ["api:1", "both:2", "file:2"]);
    assert_eq!(agent.checks().keys().collect::<Vec<_>>(), ["disk", "service:file"]);
    assert_eq!(status(&agent, "disk").0, Passing);

    // Of files nothing is kept, and what they replaced is gone.
    let agent = restarted(agent, &scratch).await;
    assert_eq!(ports(&agent), ["api:1"]);
}

#[tokio::test(start_paused = true)]
async fn it_ends_with_its_last_clone() {
    let (agent, catalog) = agent().await;
    register(
        &agent,
        r#"{"Name": "web", "Check": {"TTL": "1h"}, "Connect": {"SidecarService": {}}}"#,
    )
    .await;
    catalog.until(|_| agent.is_synced()).await;
    let shared = Arc::downgrade(&agent.inner.shared);
    drop(agent);
    let before = catalog.calls();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(catalog.calls(), before);
    assert_eq!(shared.strong_count(), 0);
}
