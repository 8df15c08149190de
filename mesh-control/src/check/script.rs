//! A check by a script: exit code 0 passes, 1 warns, all else is critical.
//!
//! There is no shell between: `Args` is the program and its arguments. It runs in a process group of
//! its own, which is killed whole when the timeout is over or the check is taken away, so that no
//! child stays behind. It has come to an end when it has exited and its output, of which the last
//! bytes are kept, is closed.
//!
//! Source: Consul "Check Definition".

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::CheckResult;
use super::output::Tail;
use crate::types::{CheckDefinition, CheckStatus};

/// See the [module docs](self).
#[derive(Clone, Debug)]
pub struct Script {
    args: Vec<String>,
}

impl Script {
    /// That of a definition.
    #[must_use]
    pub fn new(definition: &CheckDefinition) -> Self {
        Self { args: definition.args.clone() }
    }

    /// Asks once, for at most `longest`, and keeps the last `limit` bytes of what it says.
    pub async fn ask(&self, limit: usize, longest: Duration) -> CheckResult {
        let mut tail = Tail::new(limit);
        let ended = match timeout(longest, run(&self.args, &mut tail)).await {
            Ok(ended) => ended,
            Err(_elapsed) => {
                let said = tail.into_text();
                return CheckResult::critical(format!(
                    "Timed out ({longest:?}) running check\n{said}"
                ));
            }
        };
        match ended {
            Ok(status) => {
                let verdict = match status.code() {
                    Some(0) => CheckStatus::Passing,
                    Some(1) => CheckStatus::Warning,
                    _ => CheckStatus::Critical,
                };
                CheckResult::new(verdict, tail.into_text())
            }
            Err(error) => {
                let program = self.args.first().map_or("", String::as_str);
                CheckResult::critical(format!("cannot run {program:?}: {error}"))
            }
        }
    }
}

/// Runs a program to its end; its output goes into `tail`. If this is dropped before, the program
/// and its children are killed.
pub(super) async fn run(args: &[String], tail: &mut Tail) -> io::Result<ExitStatus> {
    let Some((program, args)) = args.split_first() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no program"));
    };
    let child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let mut group = Group { child };
    let (mut out, mut err) = (group.child.stdout.take(), group.child.stderr.take());
    let (mut out_buffer, mut err_buffer) = ([0; 4096], [0; 4096]);
    // Read to the end before the process is waited for: until then its number, which is the
    // group's, is nobody else's.
    while out.is_some() || err.is_some() {
        tokio::select! {
            read = some(&mut out, &mut out_buffer), if out.is_some() => match read? {
                0 => out = None,
                n => tail.push(&out_buffer[..n]),
            },
            read = some(&mut err, &mut err_buffer), if err.is_some() => match read? {
                0 => err = None,
                n => tail.push(&err_buffer[..n]),
            },
        }
    }
    group.child.wait().await
}

async fn some(from: &mut Option<impl AsyncRead + Unpin>, buffer: &mut [u8]) -> io::Result<usize> {
    match from {
        Some(from) => from.read(buffer).await,
        None => std::future::pending().await,
    }
}

/// A process that leads its own group.
struct Group {
    child: Child,
}

impl Drop for Group {
    fn drop(&mut self) {
        // None once it has been waited for.
        let id = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(id) = id {
            // It may be gone by itself.
            let _ = kill_process_group(id, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use CheckStatus::{Critical, Passing, Warning};
    use tokio::io::AsyncBufReadExt as _;

    const LONG: Duration = Duration::from_secs(60);

    fn sh(script: &str) -> Script {
        Script { args: ["sh", "-c", script].map(str::to_owned).to_vec() }
    }

    #[tokio::test]
    async fn exit_codes_are_states_and_both_outputs_are_kept() {
        for (script, status, output) in [
            ("echo fine", Passing, "fine\n"),
            ("echo hm >&2; exit 1", Warning, "hm\n"),
            ("exit 2", Critical, ""),
            ("kill -9 $$", Critical, ""),
        ] {
            let seen = sh(script).ask(4096, LONG).await;
            assert_eq!(seen, CheckResult::new(status, output), "{script}");
        }
        // No shell: this is one name.
        let seen = Script { args: vec!["echo fine".to_owned()] }.ask(4096, LONG).await;
        assert_eq!(seen.status, Critical);
        assert!(seen.output.starts_with("cannot run \"echo fine\": "), "{seen:?}");
    }

    #[tokio::test]
    async fn of_much_output_the_end_is_kept() {
        let seen = sh("head -c 100000 /dev/zero | tr '\\0' x; echo end").ask(10, LONG).await;
        let expected = "Captured 10 of 100004 bytes\n...\nxxxxxxend\n";
        assert_eq!(seen, CheckResult::passing(expected));
    }

    /// Runs a script whose child holds the write end of a named pipe open; gives back once that
    /// child runs, and what reads the end of the pipe when it is gone.
    async fn with_child(
        script: &str,
        longest: Duration,
    ) -> (tokio::task::JoinHandle<CheckResult>, impl Future<Output = ()> + use<>) {
        let scratch = crate::agent::scratch::Scratch::new();
        let pipe = scratch.path().join("pipe");
        let made = Command::new("mkfifo").arg(&pipe).status().await.unwrap();
        assert!(made.success());
        let script = format!("{{ echo up; exec sleep 1000; }} > {} & {script}", pipe.display());
        let asking = tokio::spawn(async move { sh(&script).ask(4096, longest).await });
        let reader = tokio::fs::File::open(&pipe).await.unwrap();
        let mut reader = tokio::io::BufReader::new(reader);
        let mut line = String::new();
        reader.read_line(&mut line).await.unwrap();
        assert_eq!(line, "up\n");
        let gone = async move {
            let mut rest = String::new();
            let ended = timeout(LONG, reader.read_to_string(&mut rest)).await;
            assert_eq!(ended.expect("the child was killed").unwrap(), 0);
            drop(scratch);
        };
        (asking, gone)
    }

    #[tokio::test]
    async fn after_the_timeout_no_child_is_left() {
        let (asking, gone) = with_child("echo here; wait", Duration::from_secs(1)).await;
        let seen = asking.await.unwrap();
        assert_eq!(seen, CheckResult::critical("Timed out (1s) running check\nhere\n"));
        gone.await;
    }

    #[tokio::test]
    async fn a_check_that_is_taken_away_leaves_no_child() {
        let (asking, gone) = with_child("wait", LONG).await;
        asking.abort();
        gone.await;
    }
}
