//! What the end-to-end tests share: a proxy on loopback, and raw clients.
#![allow(dead_code, unused_imports, unused_macros, reason = "each test file uses its own part")]

pub(crate) mod load;
pub(crate) mod process;
pub(crate) mod recorder;

use clap::Parser;
use mesh_proxy::{Args, Proxy};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Longest a step of a test may take.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// Runs each test under both protocols that a listener for HTTP may be given: what the endpoint sees
/// must not depend on which.
macro_rules! in_both_modes {
    ($($test:ident),+ $(,)?) => {
        mod auto { $(#[tokio::test] async fn $test() { super::$test(&["--protocol", "auto"]).await; })+ }
        mod http { $(#[tokio::test] async fn $test() { super::$test(&["--protocol", "http"]).await; })+ }
    };
}
pub(crate) use in_both_modes;

/// A proxy in this process, with one worker and one listener for one endpoint.
pub(crate) async fn proxy(endpoint: SocketAddr, flags: &[&str]) -> (Proxy, SocketAddr) {
    proxy_to(&endpoint.to_string(), &[&["--workers", "1"], flags].concat()).await
}

/// A proxy in this process, with one listener for what `--upstream` may say.
pub(crate) async fn proxy_to(upstream: &str, flags: &[&str]) -> (Proxy, SocketAddr) {
    let given = ["mesh-proxy", "--listen", "127.0.0.1:0", "--upstream", upstream];
    let args = Args::try_parse_from(given.into_iter().chain(flags.iter().copied())).unwrap();
    let proxy = Proxy::start(args).await.unwrap();
    let address = proxy.addresses().await[0];
    (proxy, address)
}

/// A configuration file, removed when dropped.
pub(crate) struct File(PathBuf);

impl File {
    pub(crate) fn new(yaml: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mesh-proxy-{}-{number}.yaml", std::process::id());
        let file = Self(std::env::temp_dir().join(name));
        file.set(yaml);
        file
    }

    pub(crate) fn set(&self, yaml: &str) {
        std::fs::write(&self.0, yaml).unwrap();
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    /// A proxy in this process, with its listeners.
    pub(crate) async fn proxy(&self) -> Proxy {
        let given = ["mesh-proxy", "--workers", "1", "--config", self.path()];
        Proxy::start(Args::try_parse_from(given).unwrap()).await.unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A proxy in this process, with the listeners of a file.
pub(crate) async fn proxy_of(yaml: &str) -> (Proxy, Vec<SocketAddr>) {
    let proxy = File::new(yaml).proxy().await;
    let addresses = proxy.addresses().await;
    (proxy, addresses)
}

/// A `Service` with one endpoint, and more of its `spec`.
pub(crate) fn service(name: &str, endpoint: SocketAddr, more: &str) -> String {
    format!(
        "---\napiVersion: mesh/v1\nkind: Service\nmetadata: {{ name: {name} }}\n\
         spec: {{ endpoints: {{ static: ['{endpoint}'] }}{more} }}\n"
    )
}

/// An inbound `Listener` for a service.
pub(crate) fn listener(name: &str, protocol: &str, service: &str) -> String {
    format!(
        "---\napiVersion: mesh/v1\nkind: Listener\nmetadata: {{ name: {name} }}\n\
         spec: {{ direction: Inbound, address: '127.0.0.1:0', protocol: {protocol}, service: {service} }}\n"
    )
}

/// A route of one rule, attached to a service; `rule` is the rule in flow style.
pub(crate) fn route(kind: &str, name: &str, parent: &str, rule: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{ name: {name} }}\n\
         spec:\n  parentRefs: [{{ kind: Service, name: {parent} }}]\n  rules:\n  - {rule}\n"
    )
}

/// An endpoint that answers with what it is sent.
pub(crate) async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            });
        }
    });
    address
}

/// Sends bytes as they are, ends our side, and returns all that comes back.
pub(crate) async fn exchange(to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).await.unwrap();
    // A proxy that has seen enough may close before it has read all.
    let _ = stream.write_all(bytes).await;
    read(&mut stream).await
}

/// All that comes until the other side ends, is reset, or has nothing to say for long.
pub(crate) async fn read(stream: &mut TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut answer)).await;
    answer
}

/// The status codes in a stream of responses.
pub(crate) fn statuses(answer: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(answer);
    text.match_indices("HTTP/1.1 ")
        .filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok())
        .collect()
}
