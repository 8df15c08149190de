//! One section of a run: a heading, some commands, a verdict.

use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

/// How a section ended.
pub(crate) enum Verdict {
    /// All is well.
    Passed,
    /// Not run; the reason.
    Skipped(String),
    /// What went wrong.
    Failed(String),
}

impl Verdict {
    /// Goes on with `next` after a pass.
    pub(crate) fn then(self, next: impl FnOnce() -> Self) -> Self {
        match self {
            Self::Passed => next(),
            other => other,
        }
    }
}

/// Runs a command with its output shown.
pub(crate) fn run(command: &mut Command) -> Verdict {
    let program = command.get_program().to_string_lossy().into_owned();
    let first = command.get_args().next().unwrap_or_default().to_string_lossy().into_owned();
    match command.current_dir(crate::root()).status() {
        Ok(status) if status.success() => Verdict::Passed,
        Ok(status) => Verdict::Failed(format!("{program} {first}: {status}")),
        Err(error) => Verdict::Failed(format!("{program} cannot be run: {error}")),
    }
}

/// Whether a command runs and succeeds; its output is not shown.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .current_dir(crate::root())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// `cargo`, as the one that runs us.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs named sections one after another and sums them up at the end.
#[derive(Default)]
pub(crate) struct Sections {
    done: Vec<(&'static str, Duration, Verdict)>,
}

impl Sections {
    /// Runs one section; a failure does not keep the next ones from running.
    pub(crate) fn section(&mut self, name: &'static str, body: impl FnOnce() -> Verdict) {
        println!("\n== {name}");
        let start = now();
        let verdict = body();
        self.done.push((name, now().saturating_sub(start), verdict));
    }

    /// Prints the summary; fails if a section has.
    pub(crate) fn finish(self) -> ExitCode {
        println!("\n== summary");
        let mut code = ExitCode::SUCCESS;
        for (name, took, verdict) in self.done {
            let seconds = took.as_secs();
            match verdict {
                Verdict::Passed => println!("{name:<10} {seconds:>5} s  passed"),
                Verdict::Skipped(why) => println!("{name:<10} {seconds:>5} s  skipped: {why}"),
                Verdict::Failed(why) => {
                    println!("{name:<10} {seconds:>5} s  FAILED: {why}");
                    code = ExitCode::FAILURE;
                }
            }
        }
        code
    }
}

/// One section as a whole run.
pub(crate) fn alone(name: &'static str, body: impl FnOnce() -> Verdict) -> ExitCode {
    let mut sections = Sections::default();
    sections.section(name, body);
    sections.finish()
}

/// Wall time: a chore reads the clock for its summary only.
#[allow(clippy::disallowed_methods)]
fn now() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}
