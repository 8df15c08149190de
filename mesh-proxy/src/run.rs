//! Run: the process, from its flags to its exit code.
//!
//! SIGTERM and SIGINT drain, a second one ends at once; SIGHUP and a changed file reload.
//! Exit codes: 0 drained in time, 1 failed or cut off.

use crate::admin::Admin;
use crate::args::{AdminListen, Args};
use crate::config;
use crate::logs;
use crate::proxy::{Proxy, StartError};
use crate::reload::Changes;
use std::io::{self, Write as _};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Runs the proxy until it is told to end.
#[must_use]
pub fn run(args: Args) -> ExitCode {
    if args.print_config {
        return print_config(&args);
    }
    logs::start();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let code = runtime.block_on(serve(args)).unwrap_or_else(|error| not_served(&*error));
    runtime.shutdown_background();
    code
}

/// What is wrong in a configuration says by itself that it is an error.
fn not_served(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    match error.downcast_ref() {
        Some(StartError::Config(told)) => {
            eprintln!("{told}");
            ExitCode::FAILURE
        }
        _ => failed(error),
    }
}

fn failed(error: &(impl std::fmt::Display + ?Sized)) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

fn print_config(args: &Args) -> ExitCode {
    match config::from_flags(args) {
        Some(yaml) => {
            print!("{yaml}");
            ExitCode::SUCCESS
        }
        None => failed("--print-config needs --listen and --upstream"),
    }
}

async fn serve(args: Args) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut changes = Changes::of(&config::files(&args))?;
    // Before the proxy, so that nobody is served by one that then ends for the admin's port.
    let admin = match args.admin {
        AdminListen::Off => None,
        AdminListen::At(address) => Some(Admin::bind(address).await?),
    };
    let proxy = Proxy::start(args).await?;
    for address in proxy.addresses().await {
        // A proxy goes on when nobody reads what it says.
        let _ = writeln!(io::stderr(), "listening on {address}");
    }
    let admin = admin.map(|admin| {
        let _ = writeln!(io::stderr(), "admin on http://{}", admin.address());
        tokio::spawn(admin.serve(proxy.clone()))
    });
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = proxy.asked_to_drain() => break,
            _ = hangup.recv() => reload(&proxy).await,
            () = changes.next() => reload(&proxy).await,
        }
    }
    let limit = proxy.drain_timeout();
    tracing::info!("draining for at most {limit:?}; a second signal ends at once");
    let drained = tokio::select! {
        drained = proxy.drain(limit) => drained,
        _ = terminate.recv() => false,
        _ = interrupt.recv() => false,
    };
    if let Some(admin) = admin {
        admin.abort();
    }
    if drained {
        tracing::info!("drained");
        Ok(ExitCode::SUCCESS)
    } else {
        tracing::warn!("ended before all connections had");
        Ok(ExitCode::FAILURE)
    }
}

async fn reload(proxy: &Proxy) {
    match proxy.reload().await {
        Ok(()) => tracing::info!("configuration applied"),
        Err(error) => tracing::error!("configuration refused, the last one stays:\n{error}"),
    }
}
