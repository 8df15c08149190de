//! The node itself: what it is, who else there is, maintenance, reloading and leaving.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::{Value, json};

use super::super::{Answer, Api, ApiError, GET, PUT, Parameters, Route};
use super::{done, enable, token};
use crate::agent::Agent;
use crate::types::CheckStatus;

/// Our version, as it is told to those who ask for Consul's.
const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::new(GET, "/v1/agent/self", &[], "this node and its settings", this),
        Route::new(GET, "/v1/agent/members", &[], "lists the servers that are known", members),
        Route::new(
            PUT,
            "/v1/agent/maintenance",
            &["enable", "reason"],
            "puts the node into maintenance, or ends it",
            maintenance,
        ),
        Route::new(GET, "/v1/agent/metrics", &["format"], "figures of this server", metrics),
        Route::new(PUT, "/v1/agent/reload", &[], "reads the definition files again", reload),
        Route::new(PUT, "/v1/agent/leave", &[], "drains and ends this server", leave),
    ]
}

/// A member as Consul's gossip knows it; `Status` 1 is alive.
fn member(api: &Api, agent: &Agent) -> Value {
    let node = agent.node();
    json!({
        "Name": node.name, "Addr": node.address, "Port": 8301,
        "Tags": {
            "acls": "0", "build": format!("{VERSION}:"), "dc": api.datacenter, "id": node.id,
            "port": "8300", "role": "consul", "segment": "", "vsn": "2", "vsn_max": "3",
            "vsn_min": "2"
        },
        "Status": 1, "ProtocolMin": 1, "ProtocolMax": 5, "ProtocolCur": 2, "DelegateMin": 2,
        "DelegateMax": 5, "DelegateCur": 4
    })
}

async fn this(State(api): State<Arc<Api>>, parameters: Parameters) -> Result<Answer, ApiError> {
    let agent = api.agent()?;
    let node = agent.node();
    let (services, checks) = (agent.services().len(), agent.checks());
    let ttl = checks.values().filter(|check| check.kind == "ttl").count();
    let revision = api.registry.read(|view| view.revision());
    let told = json!({
        "Config": {
            "Datacenter": api.datacenter, "NodeName": node.name, "NodeID": node.id,
            "Revision": "", "Server": true, "Version": VERSION
        },
        // Of Consul's hundreds, those that clients are known to read.
        "DebugConfig": {
            "Datacenter": api.datacenter, "NodeName": node.name, "NodeID": node.id,
            "ServerMode": true, "Version": VERSION, "KVMaxValueSize": 512 * 1024
        },
        "Coord": {"Vec": [0, 0, 0, 0, 0, 0, 0, 0], "Error": 1.5, "Adjustment": 0, "Height": 0.00001},
        "Member": member(&api, agent),
        "Stats": {
            "agent": {
                "check_monitors": (checks.len() - ttl).to_string(),
                "check_ttls": ttl.to_string(),
                "checks": checks.len().to_string(),
                "services": services.to_string()
            },
            "build": {"prerelease": "", "revision": "", "version": VERSION},
            "consul": {
                "acl": "disabled", "bootstrap": "true", "known_datacenters": "1",
                "leader": "true", "leader_addr": "127.0.0.1:8300", "server": "true"
            },
            "store": {"revision": revision.to_string()},
            "runtime": {"arch": std::env::consts::ARCH, "os": std::env::consts::OS}
        },
        "Meta": node.meta
    });
    Ok(Answer::json(&api, &parameters, &told))
}

async fn members(State(api): State<Arc<Api>>, parameters: Parameters) -> Result<Answer, ApiError> {
    let member = member(&api, api.agent()?);
    Ok(Answer::json(&api, &parameters, &[member]))
}

async fn maintenance(
    State(api): State<Arc<Api>>,
    parameters: Parameters,
    headers: HeaderMap,
) -> Result<Answer, ApiError> {
    let agent = api.agent()?;
    if enable(&parameters)? {
        let reason = parameters.value("reason").unwrap_or_default();
        agent.begin_node_maintenance(reason, token(&parameters, &headers)).await?;
    } else {
        agent.end_node_maintenance().await?;
    }
    Ok(done(()))
}

/// One figure, as Consul's telemetry tells it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Gauge {
    name: &'static str,
    value: u64,
    labels: BTreeMap<String, String>,
}

async fn metrics(State(api): State<Arc<Api>>, parameters: Parameters) -> Result<Answer, ApiError> {
    let figures = api.registry.read(|view| {
        let catalog = view.catalog();
        let services = catalog.services(|_| true).value;
        let critical = catalog.checks(Some(CheckStatus::Critical)).value.len();
        [
            ("mesh.store.revision", view.revision()),
            ("mesh.catalog.nodes", catalog.nodes().value.len() as u64),
            ("mesh.catalog.services", services.len() as u64),
            ("mesh.catalog.checks", catalog.checks(None).value.len() as u64),
            ("mesh.catalog.checks.critical", critical as u64),
        ]
    });
    match parameters.value("format") {
        Some("prometheus") => {
            let lines = figures.map(|(name, value)| {
                let name = name.replace('.', "_");
                format!("# TYPE {name} gauge\n{name} {value}\n")
            });
            let mut answer = Answer::bytes(lines.concat().into_bytes());
            let text = HeaderValue::from_static("text/plain; version=0.0.4");
            answer.set(header::CONTENT_TYPE, text);
            Ok(answer)
        }
        Some(other) => Err(ApiError::bad_request(format!(
            "format={other:?} is not known: leave it out for JSON, or ask for prometheus"
        ))),
        None => {
            let gauges =
                figures.map(|(name, value)| Gauge { name, value, labels: BTreeMap::new() });
            let told = json!({
                "Timestamp": "", "Gauges": gauges, "Points": [], "Counters": [], "Samples": []
            });
            Ok(Answer::json(&api, &parameters, &told))
        }
    }
}

async fn reload(State(api): State<Arc<Api>>) -> Result<Answer, ApiError> {
    match api.control.reload().await {
        Ok(()) => Ok(done(())),
        Err(why) => Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, why)),
    }
}

async fn leave(State(api): State<Arc<Api>>) -> Answer {
    api.control.leave();
    done(())
}
