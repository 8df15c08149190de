//! Logs go to stderr, for people or, with `MESH_LOG_FORMAT=json`, as JSON. What is told is chosen by
//! `MESH_LOG`, else `RUST_LOG`, as `tracing` filters are written.

use std::io::{self, IsTerminal};
use tracing_subscriber::EnvFilter;

/// Starts writing the logs of this process.
pub fn start() {
    let (filter, wrong) = log_filter();
    let json = match std::env::var_os("MESH_LOG_FORMAT") {
        Some(format) if format == "json" => true,
        Some(format) if format != "text" && !format.is_empty() => {
            eprintln!(
                "warning: MESH_LOG_FORMAT={} is not text or json: logs are text",
                format.display()
            );
            false
        }
        _ => false,
    };
    if let Some(wrong) = wrong {
        eprintln!("warning: {wrong}");
    }
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // Fails only where a subscriber is installed already, whose owner wants it so.
    let _ = if json {
        builder.json().try_init()
    } else {
        let color = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        builder.with_ansi(color).try_init()
    };
}

/// What `MESH_LOG` asks for, else `RUST_LOG`, else `info`; and what is wrong with it, in which
/// case it is `info` too: a process that is silent about everything is worse.
fn log_filter() -> (EnvFilter, Option<String>) {
    let set =
        |name| std::env::var_os(name).filter(|text| !text.is_empty()).map(|text| (name, text));
    let Some((name, text)) = set("MESH_LOG").or_else(|| set("RUST_LOG")) else {
        return (EnvFilter::new("info"), None);
    };
    let text = text.to_string_lossy();
    match EnvFilter::try_new(&text) {
        Ok(filter) => (filter, None),
        Err(error) => {
            let wrong = format!("{name}={text} is no filter ({error}): logs are at info");
            (EnvFilter::new("info"), Some(wrong))
        }
    }
}
