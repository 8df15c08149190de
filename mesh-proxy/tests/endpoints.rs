//! What the flags say of endpoints: TLS and identity, names, and many of them, some out of order.

mod common;

use common::{exchange, proxy, proxy_to, statuses};
use std::net::SocketAddr;
use std::path::PathBuf;
use testkit::endpoint::{BlackHole, Reply, ScriptedEndpoint};
use testkit::net::{Authority, Certificate, Validity};
use tokio::task::JoinSet;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
const IDENTITY: &str = "spiffe://mesh.test/ns/a/sa/endpoint";

/// Files of PEM, removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("mesh-proxy-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The answer to a GET.
async fn get(proxy: SocketAddr) -> String {
    String::from_utf8(exchange(proxy, GET).await).unwrap()
}

/// An endpoint that shows `leaf`, and demands a certificate of `authority` if `mutual`.
async fn endpoint(authority: &Authority, leaf: &Certificate, mutual: bool) -> ScriptedEndpoint {
    let tls = authority.server(leaf, mutual, &["http/1.1"]);
    ScriptedEndpoint::https1(tls, Reply::status(200)).await
}

#[tokio::test]
async fn endpoints_are_reached_over_tls_when_they_prove_who_they_are() {
    let folder = Folder::new("tls");
    let authority = Authority::new("mesh.test");
    let ca = folder.write("ca.pem", authority.pem());
    for name in ["inventory.test", IDENTITY] {
        let leaf = authority.issue(&[name]);
        let endpoint = endpoint(&authority, &leaf, false).await;
        let flags = ["--upstream-ca", &ca, "--upstream-name", name];
        let (_proxy, address) = proxy(endpoint.address(), &flags).await;
        let answer = get(address).await;
        assert_eq!(statuses(answer.as_bytes()), [200], "{name}: {answer}");
        assert_eq!(endpoint.calls(), 1);
    }
    let tls = authority.server(&authority.issue(&[IDENTITY]), false, &["h2"]);
    let endpoint = ScriptedEndpoint::https2(tls, Reply::status(200)).await;
    let name = ["--upstream-name", IDENTITY, "--upstream-protocol", "http2"];
    let (_proxy, address) =
        proxy(endpoint.address(), &[&["--upstream-ca", &ca], &name[..]].concat()).await;
    let answer = get(address).await;
    assert_eq!(statuses(answer.as_bytes()), [200], "HTTP/2: {answer}");
}

#[tokio::test]
async fn a_wrong_certificate_is_refused_and_the_caller_told_why() {
    let folder = Folder::new("refused");
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let ca = folder.write("ca.pem", ours.pem());
    for (signer, leaf, reason) in [
        (&ours, ours.issue(&["spiffe://mesh.test/ns/a/sa/other"]), "tls_identity_mismatch"),
        (&ours, ours.issue_valid(&[IDENTITY], Validity::Expired), "tls_expired"),
        (&ours, ours.issue_valid(&[IDENTITY], Validity::NotYet), "tls_expired"),
        (&theirs, theirs.issue(&[IDENTITY]), "tls_untrusted"),
    ] {
        let endpoint = endpoint(signer, &leaf, false).await;
        let flags = ["--upstream-ca", &ca, "--upstream-name", IDENTITY];
        let (_proxy, address) = proxy(endpoint.address(), &flags).await;
        // The second call finds the endpoint known as bad, and says the same.
        for call in ["first", "second"] {
            let answer = get(address).await;
            assert_eq!(statuses(answer.as_bytes()), [503], "{reason}, {call}: {answer}");
            let told =
                format!("proxy-status: mesh; error=tls_certificate_error; details=\"{reason}");
            assert!(answer.contains(&told), "{reason}, {call}: {answer}");
        }
        assert_eq!(endpoint.calls(), 0, "{reason}: nothing was sent");
    }
}

#[tokio::test]
async fn the_proxy_shows_its_own_certificate_to_endpoints_that_ask() {
    let folder = Folder::new("mtls");
    let authority = Authority::new("mesh.test");
    let ca = folder.write("ca.pem", authority.pem());
    let own = authority.issue(&["spiffe://mesh.test/ns/a/sa/proxy"]);
    let (cert, key) =
        (folder.write("own.pem", &own.cert_pem), folder.write("own.key", &own.key_pem));
    let endpoint = endpoint(&authority, &authority.issue(&[IDENTITY]), true).await;
    let trust = ["--upstream-ca", &ca, "--upstream-name", IDENTITY];
    let (_without, address) = proxy(endpoint.address(), &trust).await;
    let answer = get(address).await;
    assert_eq!(statuses(answer.as_bytes()), [503], "without a certificate: {answer}");
    assert_eq!(endpoint.calls(), 0);

    let shown = ["--upstream-cert", &cert, "--upstream-key", &key];
    let (_with, address) = proxy(endpoint.address(), &[&trust[..], &shown].concat()).await;
    let answer = get(address).await;
    assert_eq!(statuses(answer.as_bytes()), [200], "{answer}");
    assert_eq!(endpoint.calls(), 1);
}

#[tokio::test]
async fn an_upstream_may_be_a_name() {
    let endpoint = ScriptedEndpoint::http1(Reply::status(200)).await;
    let upstream = format!("dns://localhost:{}", endpoint.address().port());
    let (_proxy, address) = proxy_to(&upstream, &["--workers", "1"]).await;
    for _ in 0..20 {
        let answer = get(address).await;
        assert_eq!(statuses(answer.as_bytes()), [200], "{answer}");
    }
    assert_eq!(endpoint.calls(), 20);
}

/// Sends this many GETs by eight clients, each on new connections; says what failed.
async fn load(proxy: SocketAddr, calls: usize) -> Vec<String> {
    let mut clients = JoinSet::new();
    for _ in 0..8 {
        clients.spawn(async move {
            let mut failed = Vec::new();
            for _ in 0..calls / 8 {
                let answer = get(proxy).await;
                if statuses(answer.as_bytes()) != [200] {
                    failed.push(answer);
                }
            }
            failed
        });
    }
    clients.join_all().await.concat()
}

#[tokio::test]
async fn two_workers_answer_everything() {
    let endpoints = [
        ScriptedEndpoint::http1(Reply::status(200)).await,
        ScriptedEndpoint::http1(Reply::status(200)).await,
    ];
    let [one, two] = endpoints.each_ref().map(ScriptedEndpoint::address);
    let (_proxy, address) = proxy_to(&format!("{one},{two}"), &["--workers", "2"]).await;
    assert_eq!(load(address, 800).await, Vec::<String>::new());
    let calls = endpoints.each_ref().map(ScriptedEndpoint::calls);
    assert_eq!(calls[0] + calls[1], 800);
    assert!(calls.iter().all(|calls| *calls > 100), "both are used: {calls:?}");
}

#[tokio::test]
async fn gets_succeed_past_an_endpoint_that_swallows_connections() {
    let hole = BlackHole::open().expect("a full backlog");
    let good = ScriptedEndpoint::http1(Reply::status(200)).await;
    let upstream = format!("{},{}", hole.address(), good.address());
    let (_proxy, address) = proxy_to(&upstream, &["--workers", "1"]).await;
    assert_eq!(load(address, 400).await, Vec::<String>::new());
    assert_eq!(good.calls(), 400);
}

#[tokio::test]
async fn gets_succeed_while_an_endpoint_is_killed() {
    let good = ScriptedEndpoint::http1(Reply::status(200)).await;
    let mut doomed = ScriptedEndpoint::http1(Reply::status(200)).await;
    let upstream = format!("{},{}", doomed.address(), good.address());
    let (_proxy, address) = proxy_to(&upstream, &["--workers", "1"]).await;
    let calls = tokio::spawn(load(address, 800));
    testkit::until("the endpoint has work", || doomed.calls() >= 50).await;
    doomed.kill().await;
    assert!(!calls.is_finished(), "killed under load");
    assert_eq!(calls.await.unwrap(), Vec::<String>::new());
    let before = good.calls();
    assert_eq!(load(address, 80).await, Vec::<String>::new());
    assert_eq!(good.calls(), before + 80, "all go to the one that is left");
}
