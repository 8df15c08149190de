//! What the end-to-end tests share: a proxy on loopback, and raw clients.
#![allow(dead_code, reason = "each test file uses its own part")]

pub(crate) mod process;
pub(crate) mod recorder;

use clap::Parser;
use mesh_proxy::{Args, Proxy};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest a step of a test may take.
pub(crate) const SOON: Duration = Duration::from_secs(10);

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
