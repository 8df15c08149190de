//! The metrics page: the mesh's own, and what only the proxy and its process know.

use crate::proxy::Proxy;
use mesh_tower::telemetry::prometheus;
use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;

/// What ends a page of OpenMetrics.
const END: &str = "# EOF\n";

/// Content type and page, in the format that `accept` prefers.
pub(super) fn page(proxy: &Proxy, accept: Option<&str>) -> (&'static str, String) {
    let page = prometheus::page(proxy.mesh().metrics(), accept);
    let (mut text, open) = match page.text.strip_suffix(END) {
        Some(body) => (body.to_owned(), true),
        None => (page.text, false),
    };
    // Writing to a string cannot fail.
    let _ = own(&mut text, proxy, open);
    if open {
        text.push_str(END);
    }
    (page.content_type, text)
}

/// In OpenMetrics a counter's family is named without its `_total`.
fn own(text: &mut String, proxy: &Proxy, open: bool) -> std::fmt::Result {
    let total = if open { "" } else { "_total" };
    let counters = proxy.counters();
    writeln!(
        text,
        "# HELP mesh_proxy_rejected{total} Requests and connections refused before any endpoint saw them."
    )?;
    writeln!(text, "# TYPE mesh_proxy_rejected{total} counter")?;
    for (reason, count) in counters.rejected() {
        writeln!(text, "mesh_proxy_rejected_total{{reason=\"{reason}\"}} {count}")?;
    }
    for (name, help, count) in [
        (
            "mesh_proxy_connections_accepted",
            "Connections accepted.",
            counters.accepted.load(Relaxed),
        ),
        (
            "mesh_proxy_access_log_dropped",
            "Lines that could not be written in time.",
            proxy.log_lines_dropped(),
        ),
    ] {
        writeln!(
            text,
            "# HELP {name}{total} {help}\n# TYPE {name}{total} counter\n{name}_total {count}"
        )?;
    }
    writeln!(
        text,
        "# HELP mesh_proxy_connections_open Connections open now.\n# TYPE mesh_proxy_connections_open gauge\nmesh_proxy_connections_open {}",
        counters.open()
    )?;
    if let Some(bytes) = resident_memory() {
        writeln!(
            text,
            "# HELP process_resident_memory_bytes Memory in use.\n# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes {bytes}"
        )?;
    }
    Ok(())
}

/// Resident memory of this process, where the system tells.
fn resident_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}
