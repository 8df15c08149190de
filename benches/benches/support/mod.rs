//! What the client benches share: a server in a process of its own, and CPU time per call.

use std::future::Future;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

/// Calls in flight.
pub(crate) const IN_FLIGHT: usize = 16;
/// The body of every response.
pub(crate) const BODY: &[u8] = &[b'x'; 128];

/// A child that serves until dropped; it tells its address on its first line.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    pub(crate) fn start() -> Self {
        let program = std::env::current_exe().expect("this program");
        let mut child = Command::new(program)
            .arg("serve")
            .stdout(Stdio::piped())
            .spawn()
            .expect("a second process");
        let mut line = String::new();
        let output = child.stdout.take().expect("piped");
        BufReader::new(output).read_line(&mut line).expect("an address");
        Self { child, address: line.trim().parse().expect("an address") }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Which part of this program to be, by its arguments.
pub(crate) enum Mode {
    Serve,
    /// One variant, so many calls: for counting instructions.
    Only(String, usize),
    Compare,
}

pub(crate) fn mode() -> Mode {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    match (arguments.next(), arguments.next()) {
        (Some(serve), _) if serve == "serve" => Mode::Serve,
        (Some(variant), Some(calls)) => {
            Mode::Only(variant, calls.parse().expect("a number of calls"))
        }
        _ => Mode::Compare,
    }
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    tokio::task::LocalSet::new().block_on(&runtime.expect("a runtime"), future)
}

/// Runs `calls` calls, [`IN_FLIGHT`] at a time, each task made by `caller`.
pub(crate) async fn run<C, F>(calls: usize, mut caller: impl FnMut() -> C)
where
    C: FnMut() -> F + 'static,
    F: Future<Output = ()> + 'static,
{
    let left = Rc::new(std::cell::Cell::new(calls));
    let tasks: Vec<_> = (0..IN_FLIGHT)
        .map(|_| {
            let (left, mut call) = (Rc::clone(&left), caller());
            tokio::task::spawn_local(async move {
                while left.get() > 0 {
                    left.set(left.get() - 1);
                    call().await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
}

/// CPU time of this process so far, user and kernel; the clock ticks a hundred times a second.
pub(crate) fn cpu() -> [Duration; 2] {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    [fields[11], fields[12]]
        .map(|ticks| Duration::from_millis(10 * ticks.parse::<u64>().expect("ticks")))
}

/// Prints the CPU time per call of each variant, in interleaved rounds, and the ratio to the
/// first.
pub(crate) fn compare(variants: &[&str], mut round: impl FnMut(&str, usize)) {
    const CALLS: usize = 40_000;
    const ROUNDS: usize = 7;
    let mut times = vec![Vec::new(); variants.len()];
    for variant in variants {
        round(variant, CALLS / 10);
    }
    for _ in 0..ROUNDS {
        for (variant, times) in variants.iter().zip(&mut times) {
            let before = cpu();
            round(variant, CALLS);
            let after = cpu();
            let [user, kernel] =
                [0, 1].map(|at| (after[at] - before[at]).as_secs_f64() * 1e6 / CALLS as f64);
            times.push((user + kernel, user));
        }
    }
    let mut base = None;
    for (variant, times) in variants.iter().zip(&mut times) {
        times.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (total, user) = times[ROUNDS / 2];
        let ratio = total / *base.get_or_insert(total);
        println!(
            "{variant:>7}: {total:5.2} us CPU per call ({user:4.2} user), ratio {ratio:.2}, \
             rounds {:.2} to {:.2}",
            times[0].0,
            times[ROUNDS - 1].0
        );
    }
}
