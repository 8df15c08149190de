//! The pages: the same facts as text for people and as JSON for programs.

use super::Page;
use crate::access_log::Utc;
use crate::proxy::Proxy;
use serde_json::json;
use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;

/// Whether the path is one of ours, whatever the method.
pub(super) fn is_known(path: &str) -> bool {
    matches!(
        path,
        "/" | "/live"
            | "/ready"
            | "/metrics"
            | "/config"
            | "/endpoints"
            | "/explain"
            | "/drain"
            | "/reload"
    )
}

pub(super) async fn front(proxy: &Proxy) -> String {
    let counters = proxy.counters();
    format!(
        "mesh-proxy {}\n{}, {} connections open, {} accepted\n\n{}\n{}\nPages: /live /ready /metrics /config /endpoints /explain?url=…; POST /drain /reload\n",
        env!("CARGO_PKG_VERSION"),
        if proxy.is_ready() { "ready" } else { "draining" },
        counters.open(),
        counters.accepted.load(Relaxed),
        config(proxy).await.text,
        endpoints(proxy).text,
    )
}

pub(super) async fn config(proxy: &Proxy) -> Page {
    let status = proxy.status();
    let listeners = proxy.listeners().await;
    let mut text =
        format!("configuration version {}, applied {}\n", status.version, Utc(status.applied));
    // Writing to a string cannot fail.
    if let Some((when, why)) = &status.refused {
        let _ = writeln!(text, "REFUSED at {}, the version above stays:\n{why}", Utc(*when));
    }
    for (name, address, destination) in &listeners {
        let to = destination.as_deref().unwrap_or("the authority of each request");
        let _ = writeln!(text, "listener {name} on {address} to {to}");
    }
    let refused =
        status.refused.map(|(when, why)| json!({ "at": Utc(when).to_string(), "why": why }));
    let listeners: Vec<_> = listeners
        .iter()
        .map(|(name, address, destination)| {
            json!({ "name": &**name, "address": address.to_string(), "destination": destination.as_deref() })
        })
        .collect();
    let json = json!({
        "version": status.version,
        "applied": Utc(status.applied).to_string(),
        "refused": refused,
        "listeners": listeners,
    });
    Page { text, json }
}

pub(super) fn endpoints(proxy: &Proxy) -> Page {
    let mut text = String::new();
    let mut rows = Vec::new();
    for destination in proxy.mesh().destinations() {
        let _ = writeln!(
            text,
            "{}: {} attempts, {} retries, {} ejections",
            destination.name, destination.attempts, destination.retries, destination.ejections
        );
        let mut endpoints = Vec::new();
        for endpoint in &destination.endpoints {
            let load = endpoint.load.map(|load| format!("load {:.3} ms, ", load * 1e3));
            let _ = writeln!(
                text,
                "  {:<24} {}, since {} s ago ({} in flight, {} connections, {} attempts, {}weight {})",
                endpoint.id.as_str(),
                endpoint.state,
                endpoint.lasted.as_secs(),
                endpoint.in_flight,
                endpoint.connections,
                endpoint.attempts,
                load.unwrap_or_default(),
                endpoint.weight,
            );
            endpoints.push(json!({
                "id": endpoint.id.as_str(),
                "state": endpoint.state.kind.as_str(),
                "text": endpoint.state.to_string(),
                "reason": &*endpoint.state.reason,
                "sinceSeconds": endpoint.lasted.as_secs_f64(),
                "inFlight": endpoint.in_flight,
                "connections": endpoint.connections,
                "attempts": endpoint.attempts,
                "load": endpoint.load,
                "weight": endpoint.weight,
            }));
        }
        rows.push(json!({
            "destination": &*destination.name,
            "attempts": destination.attempts,
            "retries": destination.retries,
            "ejections": destination.ejections,
            "endpoints": endpoints,
        }));
    }
    if rows.is_empty() {
        text.push_str("no destination is in use\n");
    }
    Page { text, json: rows.into() }
}
