//! One child process: this very program in another role, with a log file of its own.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

/// How long a process may take until it listens.
const STARTED: Duration = Duration::from_secs(20);

/// Lines of the log that are shown when it does not.
const LAST_LINES: usize = 12;

/// See the [module docs](self). Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Child {
    name: String,
    log: PathBuf,
    args: Vec<String>,
    process: tokio::process::Child,
}

impl Child {
    /// Starts the role that `args` begin with.
    pub(crate) fn start(name: &str, args: Vec<String>, folder: &Path) -> io::Result<Self> {
        let log = folder.join(format!("{}.log", name.replace(' ', "-")));
        let process = spawn(&args, &log)?;
        Ok(Self { name: name.to_owned(), log, args, process })
    }

    /// As `kill -9`.
    pub(crate) async fn kill(&mut self) -> io::Result<()> {
        self.process.kill().await
    }

    /// The same again.
    pub(crate) fn restart(&mut self) -> io::Result<()> {
        self.process = spawn(&self.args, &self.log)?;
        Ok(())
    }

    /// Waits until the process accepts connections at `address`.
    pub(crate) async fn listening(&mut self, address: SocketAddr) -> io::Result<()> {
        let start = Instant::now();
        while let Err(error) = TcpStream::connect(address).await {
            let why = if let Some(status) = self.process.try_wait()? {
                format!("ended at its start ({status})")
            } else if start.elapsed() > STARTED {
                format!("does not listen on {address} after {STARTED:?}: {error}")
            } else {
                sleep(Duration::from_millis(20)).await;
                continue;
            };
            return Err(io::Error::other(format!("{} {why}{}", self.name, self.last_words())));
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let last = lines.get(lines.len().saturating_sub(LAST_LINES)..).unwrap_or_default();
        last.iter().map(|line| format!("\n  {line}")).collect()
    }
}

fn spawn(args: &[String], log: &Path) -> io::Result<tokio::process::Child> {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
    Command::new(std::env::current_exe()?)
        .args(args)
        // Ends the child should this process be killed: see `end_with_parent`.
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log)
        // A Ctrl-C is for this process alone.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// In a child: exits when the standard input closes, which is when the parent is gone.
pub(crate) fn end_with_parent() {
    std::thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(0);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a test this very program is the test runner, which refuses what it does not know.
    #[tokio::test]
    async fn a_child_that_ends_at_its_start_says_why() {
        let folder = std::env::temp_dir().join(format!("mesh-demo-test-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        // Nobody listens on the port of a listener that is gone.
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let args = vec!["--no-such-option".to_owned()];
        let mut child = Child::start("counting a", args, &folder).unwrap();
        let error = child.listening(nobody).await.unwrap_err().to_string();
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(error.starts_with("counting a ended at its start (exit status: "), "{error}");
        assert!(error.contains("\n  error: Unrecognized option: 'no-such-option'"), "{error}");
    }
}
