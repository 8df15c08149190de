//! The proxy as a process of its own.

use super::{exchange, statuses};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Longest that a process may take for a step.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A running `mesh-proxy`, killed when dropped.
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) proxy: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Process {
    /// Started with one worker, and flags.
    pub(crate) fn start(flags: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mesh-proxy"))
            .args(["--workers", "1", "--admin", "127.0.0.1:0"])
            .args(flags)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut find = |prefix: &str| loop {
            let line = lines.next().expect("the proxy has ended").unwrap();
            if let Some(rest) = line.strip_prefix(prefix) {
                return rest.parse().unwrap();
            }
        };
        let proxy = find("listening on ");
        let admin = find("admin on http://");
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, proxy, admin }
    }

    /// Sends a signal, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
    }

    /// How it ended.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "still running");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Most memory that was resident, in KiB.
    pub(crate) fn peak_memory(&self) -> u64 {
        let mut status = String::new();
        let path = format!("/proc/{}/status", self.child.id());
        std::fs::File::open(path).unwrap().read_to_string(&mut status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches("kB").trim().parse().unwrap()
    }

    /// Status and text of an admin page.
    pub(crate) async fn admin(&self, method: &str, path: &str) -> (u16, String) {
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let answer = exchange(self.admin, head.as_bytes()).await;
        (statuses(&answer)[0], String::from_utf8_lossy(&answer).into_owned())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder of this test's own.
pub(crate) fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("mesh-proxy-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}
