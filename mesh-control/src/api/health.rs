//! `/v1/health`: instances with all that decides on their health, and checks.

use std::sync::Arc;

use axum::extract::State;

use super::parameters::truth;
use super::query::{Name, Narrow};
use super::{Answer, Api, ApiError, GET, Parameters, Route};
use crate::filter::Shape;
use crate::registry::catalog::Instances;
use crate::registry::{Indexed, Topic, View};
use crate::types::{CheckStatus, HealthCheck, Node};

/// What a query for instances reads.
const INSTANCES: &[&str] = &[
    "dc",
    "passing",
    "filter",
    "near",
    "node-meta",
    "tag",
    "index",
    "wait",
    "stale",
    "consistent",
];
/// And one for checks.
const CHECKS: &[&str] =
    &["dc", "filter", "near", "node-meta", "index", "wait", "stale", "consistent"];
/// And one for the checks of one node.
const ON_NODE: &[&str] = &["dc", "filter", "index", "wait", "stale", "consistent"];

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::new(
            GET,
            "/v1/health/service/{*name}",
            INSTANCES,
            "lists the instances of a service with their checks",
            service,
        ),
        Route::new(
            GET,
            "/v1/health/connect/{*name}",
            INSTANCES,
            "lists what speaks mutual TLS for a service, with checks",
            connect,
        ),
        Route::new(GET, "/v1/health/node/{*name}", ON_NODE, "lists the checks of a node", node),
        Route::new(
            GET,
            "/v1/health/checks/{*name}",
            CHECKS,
            "lists the checks of a service",
            checks,
        ),
        Route::new(
            GET,
            "/v1/health/state/{*name}",
            CHECKS,
            "lists the checks in a state, or in `any`",
            state,
        ),
    ]
}

async fn service(
    State(api): State<Arc<Api>>,
    name: Name,
    parameters: Parameters,
) -> Result<Answer, ApiError> {
    instances(&api, name, &parameters, Instances::Named).await
}

async fn connect(
    State(api): State<Arc<Api>>,
    name: Name,
    parameters: Parameters,
) -> Result<Answer, ApiError> {
    instances(&api, name, &parameters, Instances::Connect).await
}

async fn instances(
    api: &Api,
    name: Name,
    parameters: &Parameters,
    which: Instances,
) -> Result<Answer, ApiError> {
    let name = name.or_missing("service name")?;
    let passing = passing(parameters)?;
    let narrow = Narrow::read(api, parameters, &Shape::SERVICE_HEALTH)?;
    let mut found = narrow.instances(api, parameters, &name, which).await?;
    if passing {
        found.value.retain(|instance| instance.status() == CheckStatus::Passing);
    }
    narrow.filtered(&mut found.value);
    Ok(Answer::query(api, parameters, &found))
}

/// Whether only instances are asked for of which every check passes.
fn passing(parameters: &Parameters) -> Result<bool, ApiError> {
    match parameters.value("passing") {
        None => Ok(parameters.flag("passing")),
        Some(text) => {
            truth(text).ok_or_else(|| ApiError::bad_request("Invalid value for ?passing"))
        }
    }
}

async fn node(
    State(api): State<Arc<Api>>,
    name: Name,
    parameters: Parameters,
) -> Result<Answer, ApiError> {
    let name = name.or_missing("node name")?;
    let narrow = Narrow::read(&api, &parameters, &Shape::CHECK)?;
    let read = |view: &View| view.catalog().node_checks(&name);
    let mut found = api.blocking(&parameters, &[Topic::node(&name)], read).await?;
    narrow.filtered(&mut found.value);
    Ok(Answer::query(&api, &parameters, &found))
}

async fn checks(
    State(api): State<Arc<Api>>,
    name: Name,
    parameters: Parameters,
) -> Result<Answer, ApiError> {
    let name = name.or_missing("service name")?;
    let read = |view: &View| view.catalog().service_checks(&name);
    list(&api, &parameters, Topic::service(&name), read).await
}

async fn state(
    State(api): State<Arc<Api>>,
    name: Name,
    parameters: Parameters,
) -> Result<Answer, ApiError> {
    let wanted = match &*name.or_missing("check state")? {
        "any" => None,
        "passing" => Some(CheckStatus::Passing),
        "warning" => Some(CheckStatus::Warning),
        "critical" => Some(CheckStatus::Critical),
        _ => {
            // No check is ever in such a state.
            let read = |view: &View| Indexed::new(view.catalog().checks(None).index, Vec::new());
            return list(&api, &parameters, Topic::Checks, read).await;
        }
    };
    let read = |view: &View| view.catalog().checks(wanted);
    list(&api, &parameters, Topic::Checks, read).await
}

async fn list(
    api: &Api,
    parameters: &Parameters,
    topic: Topic,
    read: impl Fn(&View) -> Indexed<Vec<(Arc<Node>, Arc<HealthCheck>)>>,
) -> Result<Answer, ApiError> {
    let narrow = Narrow::read(api, parameters, &Shape::CHECK)?;
    let mut found = api.blocking(parameters, &[topic], read).await?;
    found.value.retain(|(node, _)| narrow.on(node));
    narrow.near_first(&mut found.value, |(node, _)| &node.name);
    let mut checks: Vec<_> = found.value.into_iter().map(|(_, check)| check).collect();
    narrow.filtered(&mut checks);
    Ok(Answer::query(api, parameters, &Indexed::new(found.index, checks)))
}

#[cfg(test)]
mod tests;
