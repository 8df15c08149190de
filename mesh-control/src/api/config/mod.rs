//! `/v1/config`: config entries.
//!
//! Source: Consul's HTTP API, "Config"; answers and texts of Consul 1.8.7. Kinds of gateways are
//! not kept. What the data plane cannot do (such as failover to other datacenters) is refused.

use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;

use super::body::Payload;
use super::query::Name;
use super::{Answer, Api, ApiError, DELETE, GET, PUT, Parameters, Route};
use crate::registry::entries::EntryError;
use crate::registry::{Cas, Topic};
use crate::types::{ConfigEntry, EntryKind, UnknownKind};

const READ: &[&str] = &["dc", "index", "wait", "stale", "consistent"];

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::new(PUT, "/v1/config", &["dc", "cas"], "makes or changes a config entry", put),
        Route::new(
            GET,
            "/v1/config/{*entry}",
            READ,
            "a config entry by kind and name, or all of a kind",
            get,
        ),
        Route::new(DELETE, "/v1/config/{*entry}", &["dc", "cas"], "removes a config entry", delete),
    ]
}

impl From<EntryError> for ApiError {
    fn from(error: EntryError) -> Self {
        match error {
            // As Consul, in which the servers and not the agent find it out.
            EntryError::Refused(message) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, message),
            EntryError::Store(error) => error.into(),
        }
    }
}

async fn put(
    State(api): State<Arc<Api>>,
    parameters: Parameters,
    Payload(body): Payload,
) -> Result<Answer, ApiError> {
    parameters.datacenter(&api)?;
    let cas = match cas(&parameters)? {
        None => Cas::Any,
        Some(0) => Cas::Absent,
        Some(index) => Cas::Unchanged(index),
    };
    let entry = ConfigEntry::read_json(&body).map_err(|error| {
        ApiError::bad_request(format!("Bad request: Request decoding failed: {error}"))
    })?;
    let done = api.registry.put_entry(&entry, cas).await?;
    Ok(Answer::json(&api, &parameters, &done))
}

async fn get(
    State(api): State<Arc<Api>>,
    path: Name,
    parameters: Parameters,
) -> Result<Answer, ApiError> {
    let path = path.or_empty();
    let unknown =
        |error: UnknownKind| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    let (kind, name) = path.split_once('/').unwrap_or((&path, ""));
    if kind.is_empty() {
        return Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "Must provide either a kind or both kind and name",
        ));
    }
    let kind = EntryKind::parse(kind).map_err(unknown)?;
    let topics = [Topic::ConfigEntries];
    if name.is_empty() {
        let all = api.blocking(&parameters, &topics, |view| view.entries().of_kind(kind)).await?;
        let told: Vec<_> = all.value.iter().map(Arc::as_ref).collect();
        return Ok(Answer::json(&api, &parameters, &told).at(all.index));
    }
    let found = api.blocking(&parameters, &topics, |view| view.entries().get(kind, name)).await?;
    let answer = match &found.value {
        Some(entry) => Answer::json(&api, &parameters, &**entry),
        None => Answer::bytes(
            format!("Config entry not found for {:?} / {name:?}", kind.name()).into_bytes(),
        )
        .with_status(StatusCode::NOT_FOUND),
    };
    Ok(answer.at(found.index))
}

async fn delete(
    State(api): State<Arc<Api>>,
    path: Name,
    parameters: Parameters,
) -> Result<Answer, ApiError> {
    parameters.datacenter(&api)?;
    let path = path.or_empty();
    let Some((kind, name)) =
        path.split_once('/').filter(|(kind, name)| !kind.is_empty() && !name.is_empty())
    else {
        let message = "Must provide both a kind and name to delete";
        return Err(ApiError::new(StatusCode::NOT_FOUND, message));
    };
    let kind = EntryKind::parse(kind).map_err(|error| ApiError::bad_request(error.to_string()))?;
    let cas = cas(&parameters)?;
    let done = api.registry.delete_entry(kind, name, cas).await?;
    Ok(match cas {
        // As Consul, which compares from 1.11 on.
        Some(_) => Answer::json(&api, &parameters, &done),
        None => Answer::json(&api, &parameters, &serde_json::Map::new()),
    })
}

fn cas(parameters: &Parameters) -> Result<Option<u64>, ApiError> {
    let parse = |text: &str| {
        text.parse().map_err(|_| {
            let message = format!("strconv.ParseUint: parsing {text:?}: invalid syntax");
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message)
        })
    };
    parameters.given("cas").map(parse).transpose()
}

#[cfg(test)]
mod tests;
