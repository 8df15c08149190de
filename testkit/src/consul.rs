//! A real Consul agent in development mode, for tests.
//!
//! It keeps everything in memory: one that was killed and started again knows nothing of what it
//! was told. Its ports are free ones on loopback.

use crate::{parts, target};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longer than any machine under load should need.
const PATIENCE: Duration = Duration::from_secs(60);

/// See the [module docs](self). Dropping it ends the agent.
#[derive(Debug)]
pub struct Consul {
    program: PathBuf,
    http: u16,
    child: Option<Child>,
}

impl Consul {
    /// An agent that has a leader and is healthy; or `None`, after printing that `test` is skipped
    /// and why.
    ///
    /// # Panics
    /// When it does not get ready.
    pub async fn start(test: &str) -> Option<Self> {
        let program = find(test)?;
        let mut consul = Self { program, http: port(), child: None };
        consul.restart().await;
        Some(consul)
    }

    /// Where its HTTP API is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.http).into()
    }

    /// Ends it as by `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it, on the port that it had.
    ///
    /// # Panics
    /// When it does not get ready.
    pub async fn restart(&mut self) {
        self.kill();
        let [lan, server] = [port(), port()].map(|port| port.to_string());
        let child = Command::new(&self.program)
            .args(["agent", "-dev", "-bind", "127.0.0.1", "-client", "127.0.0.1"])
            .args(["-http-port", &self.http.to_string(), "-grpc-port", "-1", "-dns-port", "-1"])
            .args(["-serf-lan-port", &lan, "-serf-wan-port", "-1", "-server-port", &server])
            .args(["-disable-host-node-id", "-node", "test", "-log-level", "err"])
            .args(["-hcl", "disable_update_check=true"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.child = Some(child.expect("consul starts"));
        let ready = async {
            loop {
                let known = self.ask("GET", "/v1/health/service/consul?passing=1", "").await;
                if known.is_ok_and(|(status, body)| status == 200 && body.contains("serfHealth")) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let ready = tokio::time::timeout(PATIENCE, ready).await;
        assert!(ready.is_ok(), "consul was not ready within {PATIENCE:?}");
    }

    /// One request to its API: status and body.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn ask(
        &self,
        method: &str,
        target: &str,
        body: &str,
    ) -> std::io::Result<(u16, String)> {
        let mut stream = TcpStream::connect(self.address()).await?;
        // HTTP/1.0, so that the answer ends with the connection.
        let request = format!(
            "{method} {target} HTTP/1.0\r\nHost: consul\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        Ok((status.unwrap_or(0), body.to_owned()))
    }

    /// A request that must succeed: what was answered.
    ///
    /// # Panics
    /// When it does not.
    pub async fn put(&self, target: &str, body: &str) -> String {
        let (status, answer) = self.ask("PUT", target, body).await.expect("consul answers");
        assert_eq!(status, 200, "PUT {target}: {answer}");
        answer
    }

    /// Registers an instance of a service at an address, with a check that its owner updates:
    /// `check/service:ID`, passing at first.
    ///
    /// # Panics
    /// When Consul refuses it.
    pub async fn register(&self, service: &str, id: &str, address: SocketAddr) {
        let (ip, port) = (address.ip(), address.port());
        let definition = format!(
            r#"{{"Name":"{service}","ID":"{id}","Address":"{ip}","Port":{port},
                "Check":{{"TTL":"10m","Status":"passing"}}}}"#
        );
        self.put("/v1/agent/service/register", &definition).await;
    }

    /// Waits until the catalog has what the agent was told: the agent hands it on by itself.
    ///
    /// # Panics
    /// After a while.
    pub async fn settled(&self, service: &str, instances: usize) {
        let counted = async {
            loop {
                let target = format!("/v1/health/service/{service}?passing=1");
                let (_, body) = self.ask("GET", &target, "").await.expect("consul answers");
                if body.matches("\"Service\": {").count() == instances {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let counted = tokio::time::timeout(PATIENCE, counted).await;
        assert!(counted.is_ok(), "{service} has not come to {instances} passing instances");
    }
}

impl Drop for Consul {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The program, where `cargo xtask test` unpacks it or on `PATH`; without it, `None` with a printed
/// reason.
#[must_use]
pub fn find(test: &str) -> Option<PathBuf> {
    let unpacked = target().join("parts/consul/usr/bin/consul");
    if unpacked.is_file() {
        return Some(unpacked);
    }
    parts::find(test, "consul")
}

/// A port that is free for TCP and UDP at this moment: Consul cannot pick one itself.
fn port() -> u16 {
    loop {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = tcp.local_addr().expect("bound");
        if UdpSocket::bind(address).is_ok() {
            return address.port();
        }
    }
}
