//! Certificates through the whole stack.

use super::{get, mesh, seen};
use http::StatusCode;
use mesh_tower::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use testkit::endpoint::{Reply, ScriptedEndpoint};
use testkit::net::{Authority, Certificate, Validity};
use tokio::time::timeout;

/// A folder of its own, removed at the end.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("mesh-stack-{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a temporary folder");
        Self(path)
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// Replaces a file the way careful programs do.
    pub(super) fn put(&self, name: &str, text: &str) {
        let fresh = self.0.join(format!(".{name}.new"));
        std::fs::write(&fresh, text).expect("written");
        std::fs::rename(fresh, self.0.join(name)).expect("renamed");
    }

    pub(super) fn put_leaf(&self, leaf: &Certificate) {
        self.put("cert.pem", &leaf.cert_pem);
        self.put("key.pem", &leaf.key_pem);
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn service(address: SocketAddr, tls: &str) -> String {
    format!(
        "apiVersion: mesh/v1\nkind: Service\nmetadata: {{ name: inventory }}\n\
         spec: {{ endpoints: {{ static: ['{address}'] }}, tls: {{ {tls} }} }}\n"
    )
}

#[tokio::test]
async fn each_bad_certificate_has_its_flag() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let folder = Folder::new();
    folder.put("ca.pem", ours.pem());
    let ca = format!("ca: {}", folder.path("ca.pem"));
    let named = format!("{ca}, serverName: inventory");
    let identified = format!("{ca}, subjectAltNames: ['spiffe://example.com/inventory']");
    for (leaf, tls, kind) in [
        (ours.issue(&["elsewhere"]), &named, ErrorKind::TlsIdentity),
        (ours.issue(&["spiffe://example.com/orders"]), &identified, ErrorKind::TlsIdentity),
        (ours.issue_valid(&["inventory"], Validity::Expired), &named, ErrorKind::TlsExpired),
        (ours.issue_valid(&["inventory"], Validity::NotYet), &named, ErrorKind::TlsExpired),
        (theirs.issue(&["inventory"]), &named, ErrorKind::TlsUntrusted),
    ] {
        let config = ours.server(&leaf, false, &["h2", "http/1.1"]);
        let endpoint = ScriptedEndpoint::https1(config, Reply::status(200)).await;
        let mesh = mesh(&service(endpoint.address(), tls));
        // The first call finds out; the second is refused for what the first found.
        for _ in 0..2 {
            let error = get(&mesh, "http://inventory/").await.expect_err("a bad certificate");
            assert_eq!(error.kind(), kind, "{error}");
            assert_eq!(error.destination(), Some("inventory"));
            assert_eq!(error.endpoint(), Some(&*endpoint.address().to_string()), "{error}");
            assert!(!error.may_have_reached());
            assert!(
                error.message().starts_with("its only endpoint cannot be reached: "),
                "{error}"
            );
        }
        assert_eq!(endpoint.calls(), 0);
        let state = seen(&mesh, "inventory").endpoints[0].state.to_string();
        assert!(state.starts_with("unreachable: "), "{state}");
    }
}

#[tokio::test]
async fn mutual_tls_follows_its_files() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let server = ours.server(&ours.issue(&["inventory"]), true, &["http/1.1"]);
    let endpoint = ScriptedEndpoint::https1(server, Reply::status(200)).await;
    let folder = Folder::new();
    folder.put("ca.pem", theirs.pem());
    folder.put_leaf(&theirs.issue(&["spiffe://example.com/dashboard"]));
    let tls = format!(
        "serverName: inventory, ca: {}, cert: {}, key: {}",
        folder.path("ca.pem"),
        folder.path("cert.pem"),
        folder.path("key.pem")
    );
    let mesh = mesh(&service(endpoint.address(), &tls));
    let error = get(&mesh, "http://inventory/").await.expect_err("the wrong authority");
    assert_eq!(error.kind(), ErrorKind::TlsUntrusted, "{error}");

    // Ours now, but they do not know us yet.
    folder.put("ca.pem", ours.pem());
    let refused = timeout(super::LIMIT, async {
        loop {
            let error = get(&mesh, "http://inventory/").await.expect_err("not ours yet");
            if error.kind() != ErrorKind::TlsUntrusted {
                return error;
            }
            tokio::task::yield_now().await;
        }
    });
    let refused = refused.await.expect("the authority's file is read again");
    assert_ne!(refused.kind(), ErrorKind::NoHealthyEndpoint, "{refused}");
    assert_eq!(endpoint.calls(), 0);

    folder.put_leaf(&ours.issue(&["spiffe://example.com/dashboard"]));
    timeout(super::LIMIT, async {
        while get(&mesh, "http://inventory/").await.ok() != Some(StatusCode::OK) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the certificate's files are read again");
    assert!(endpoint.calls() > 0);
}
