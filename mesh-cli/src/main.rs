//! `mesh`: run the proxy and the control plane, check configuration, explain a call.
//!
//! Exit codes: 0 fine, 1 failed, 2 usage, 3 warnings with `--strict`.

mod ask;
mod config;
mod explain;
mod load;
mod server;

use clap::{Parser, Subcommand, ValueEnum};
use std::io::Write;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A service mesh that services link, and a thin proxy made of the same layers.
#[derive(Debug, Parser)]
#[command(name = "mesh", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Check, show and describe configuration.
    #[command(subcommand)]
    Config(config::Verb),
    /// Run a server that forgets everything when it ends: the same as `server --dev`.
    Dev(server::DevArgs),
    /// Tell why a request goes where it goes.
    Explain(explain::Args),
    /// Run the proxy beside a service, or in front of some.
    Proxy(Box<mesh_proxy::Args>),
    /// Run the control plane: registry, health, KV and configuration behind Consul's HTTP API.
    Server(server::Args),
}

/// How a result is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

fn main() -> ExitCode {
    match Cli::parse().verb {
        Verb::Config(verb) => config::run(verb),
        Verb::Dev(args) => server::run(args.into()),
        Verb::Explain(args) => explain::run(&args),
        Verb::Proxy(args) => mesh_proxy::run(*args),
        Verb::Server(args) => server::run(args),
    }
}

/// Prints a result. A reader that went away (`mesh … | head`) is no failure.
fn print(text: &str) {
    let _gone = writeln!(std::io::stdout(), "{}", text.trim_end());
}

/// Prints a value as JSON.
fn print_json(value: &impl serde::Serialize) -> ExitCode {
    match serde_json::to_string_pretty(value) {
        Ok(text) => {
            print(&text);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: cannot be written as JSON: {error}");
            ExitCode::FAILURE
        }
    }
}
