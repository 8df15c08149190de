//! `mesh server` and `mesh dev`: the control plane as a process.
//!
//! SIGTERM, SIGINT and a request to leave drain, a second one ends at once. Exit codes: 0 drained in time, 1 failed or
//! cut off.

use mesh_control::server::{Server, Settings};
use mesh_control::types::Token;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Longest that draining takes. Blocked queries end at once; what is left is a moment's work.
const DRAIN: Duration = Duration::from_secs(10);

/// The control plane: what `consul agent -server` is to Consul.
#[derive(Clone, Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("data").required(true).args(["dev", "data_dir"]),
    after_help = "Examples:\n  mesh server --data-dir /var/lib/mesh\n  mesh server --dev --http 127.0.0.1:0"
)]
pub(crate) struct Args {
    /// Keep everything in memory, and answer with indented JSON.
    #[arg(long)]
    dev: bool,

    /// Where the store is kept; made if it is not there.
    #[arg(long, value_name = "DIR", env = "MESH_DATA_DIR")]
    data_dir: Option<PathBuf>,

    #[command(flatten)]
    common: Common,
}

/// Arguments of `mesh dev`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DevArgs {
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Debug, clap::Args)]
struct Common {
    /// Where the API listens; port 0 picks a free one and prints it.
    #[arg(long, value_name = "ADDR", env = "MESH_HTTP", default_value_t = Settings::default().http)]
    http: SocketAddr,

    /// Where the catalog is told by DNS, by UDP and TCP; port 0 picks a free one and prints it.
    #[arg(long, value_name = "ADDR", env = "MESH_DNS", default_value = "127.0.0.1:8600")]
    dns_listen: SocketAddr,

    /// Answer no DNS.
    #[arg(long, conflicts_with = "dns_listen")]
    no_dns: bool,

    /// The datacenter that this server is of.
    #[arg(long, value_name = "NAME", env = "MESH_DATACENTER", default_value = "dc1")]
    datacenter: String,

    /// The name of its node; by default the machine's.
    #[arg(long, value_name = "NAME", env = "MESH_NODE_NAME")]
    node_name: Option<String>,

    /// A token that may do everything. Without any token, whoever reaches the API may. Give it by
    /// the environment: what is on a command line, every user of the machine sees.
    #[arg(long, value_name = "TOKEN", value_parser = token, env = "MESH_MANAGEMENT_TOKEN", hide_env_values = true)]
    management_token: Option<Token>,

    /// A token that may read.
    #[arg(long, value_name = "TOKEN", value_parser = token, env = "MESH_READ_TOKEN", hide_env_values = true)]
    read_token: Option<Token>,

    /// Further names under which clients reach the API, with commas between them. IP addresses,
    /// localhost and the node's name are known.
    #[arg(long, value_name = "NAME,…", env = "MESH_HOST_NAMES", value_delimiter = ',')]
    host_names: Vec<String>,
}

/// A token that is not empty.
fn token(text: &str) -> Result<Token, &'static str> {
    if text.is_empty() { Err("a token is not empty") } else { Ok(Token::new(text)) }
}

impl From<DevArgs> for Args {
    fn from(args: DevArgs) -> Self {
        Self { dev: true, data_dir: None, common: args.common }
    }
}

/// Runs the server until it is told to end.
pub(crate) fn run(args: Args) -> ExitCode {
    mesh_proxy::logs::start();
    raise_open_files();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let code = runtime.block_on(serve(args)).unwrap_or_else(|error| failed(&*error));
    runtime.shutdown_background();
    code
}

fn failed(error: &(impl std::fmt::Display + ?Sized)) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

/// Every blocked query is a connection, and the usual soft limit is for programs that use select.
fn raise_open_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        eprintln!("warning: the limit of open files stays at {current:?}: {error}");
    }
}

async fn serve(args: Args) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut settings = Settings::default();
    settings.http = args.common.http;
    settings.dns = (!args.common.no_dns).then_some(args.common.dns_listen);
    settings.data_dir = args.data_dir;
    settings.datacenter = args.common.datacenter;
    settings.management_tokens.extend(args.common.management_token);
    settings.read_tokens.extend(args.common.read_token);
    settings.host_names = args.common.host_names;
    if let Some(name) = args.common.node_name {
        settings.node_name = name;
    }
    let server = Server::start(settings).await?;
    let mut told = format!("listening on http://{}\n", server.http());
    match server.data() {
        Some(path) => told.push_str(&format!("data in {}\n", path.display())),
        None => told.push_str("data in memory: it is gone when this server ends\n"),
    }
    if let Some(dns) = server.dns() {
        told.push_str(&format!("DNS on {dns}\n"));
    }
    // A server goes on when nobody reads what it says.
    let _ = io::stderr().write_all(told.as_bytes());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = server.left() => {}
    }
    tracing::info!("draining for at most {DRAIN:?}; a second signal ends at once");
    let drained = tokio::select! {
        drained = server.drain(DRAIN) => drained,
        _ = terminate.recv() => false,
        _ = interrupt.recv() => false,
    };
    if drained {
        tracing::info!("drained");
        Ok(ExitCode::SUCCESS)
    } else {
        tracing::warn!("ended before all requests had");
        Ok(ExitCode::FAILURE)
    }
}
