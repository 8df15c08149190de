//! The demo: a dashboard that calls two services through the mesh, while faults are planted.
//!
//! ```text
//!                    ┌─ mTLS ─► counting a   axum, mesh linked
//! load ─► dashboard ─┼─ mTLS ─► sidecar b ─► counting b   plain HTTP
//!         mesh linked├─ mTLS ─► sidecar c ─► counting c   plain HTTP
//!                    └─ h2c ──► greeter     tonic, mesh linked
//! ```
//!
//! Every box is a process of its own. `cargo demo` runs it.

mod certificates;
mod child;
mod faults;
#[allow(clippy::all, clippy::pedantic, unreachable_pub, missing_docs)]
mod greeter_proto;
mod load;
mod phase;
mod processes;
mod recent;
mod report;
mod run;
mod services;
mod view;

use clap::{Parser, Subcommand};
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Debug, Parser)]
#[command(name = "demo", about = "Three services, two sidecars, planted faults, one live table")]
struct Args {
    /// How long the demo runs.
    #[arg(long, default_value_t = 45, value_parser = clap::value_parser!(u64).range(10..=3600))]
    seconds: u64,
    /// Print lines instead of a table; also the default when the output is not a terminal.
    #[arg(long)]
    plain: bool,
    /// Calls per second.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(10..=2000))]
    rate: u32,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What a child process of the demo is.
#[derive(Debug, Subcommand)]
#[command(hide = true)]
enum Role {
    /// Counts; one of three.
    #[command(hide = true)]
    Counting(services::counting::Args),
    /// Greets, over gRPC.
    #[command(hide = true)]
    Greeter(services::greeter::Args),
    /// Calls the others.
    #[command(hide = true)]
    Dashboard(services::dashboard::Args),
    /// The bundled proxy, beside a service that knows nothing of the mesh.
    #[command(hide = true)]
    Sidecar(Box<mesh_proxy::Args>),
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.role.is_some() {
        child::end_with_parent();
    }
    let done = match args.role {
        Some(Role::Sidecar(proxy)) => return mesh_proxy::run(*proxy),
        Some(Role::Counting(args)) => block_on(services::counting::run(args)),
        Some(Role::Greeter(args)) => block_on(services::greeter::run(args)),
        Some(Role::Dashboard(args)) => block_on(services::dashboard::run(args)),
        None => block_on(run::run(Duration::from_secs(args.seconds), args.rate, args.plain)),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether what ran went well, or why it could not run.
type Done = Result<bool, Box<dyn Error + Send + Sync>>;

fn block_on(future: impl Future<Output = Done>) -> Done {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(future)
}
