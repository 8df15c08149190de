//! `/v1/session`: who holds locks, and until when.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::body::Payload;
use super::query::Name;
use super::{Answer, Api, ApiError, GET, PUT, Parameters, Route};
use crate::decode::Options;
use crate::registry::id::random_uuid;
use crate::registry::session::{self, Behavior, ServiceCheck, Session, SessionError};
use crate::registry::{Indexed, Topic, View};
use crate::types::GoDuration;

const QUERY: &[&str] = &["index", "wait", "consistent", "stale", "dc"];
/// Without one.
const LOCK_DELAY: Duration = Duration::from_secs(15);
/// What Consul takes for seconds: below this many nanoseconds.
const SECONDS_BELOW: u64 = 1_000;
/// The check that a session lives with where none is named.
const NODE_CHECK: &str = "serfHealth";

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::new(PUT, "/v1/session/create", &["dc"], "makes a session", create),
        Route::new(
            PUT,
            "/v1/session/destroy/{*name}",
            &["dc"],
            "ends a session and lets go of its locks",
            destroy,
        ),
        Route::new(PUT, "/v1/session/renew/{*name}", &["dc"], "lengthens its life", renew),
        Route::new(GET, "/v1/session/info/{*name}", QUERY, "reads a session", info),
        Route::new(GET, "/v1/session/node/{*name}", QUERY, "lists those of a node", of_node),
        Route::new(GET, "/v1/session/list", QUERY, "lists all", list),
    ]
}

/// What a session is made of, as it is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Wanted {
    name: String,
    node: String,
    lock_delay: Option<Value>,
    behavior: String,
    #[serde(rename = "TTL")]
    ttl: String,
    /// Consul's name until 1.7.
    checks: Option<Vec<String>>,
    node_checks: Option<Vec<String>>,
    service_checks: Option<Vec<ServiceCheck>>,
}

#[derive(Debug, Serialize)]
struct Made {
    #[serde(rename = "ID")]
    id: String,
}

async fn create(
    State(api): State<Arc<Api>>,
    parameters: Parameters,
    Payload(body): Payload,
) -> Result<Answer, ApiError> {
    parameters.datacenter(&api)?;
    let options = Options { ignore_unknown: true, ..Options::default() };
    let wanted: Wanted = if body.is_empty() {
        Wanted::default()
    } else {
        options.read_json(&body).map_err(|error| undecoded(&error))?
    };
    let asked = Session {
        id: random_uuid(),
        node: if wanted.node.is_empty() { api.node_name.clone() } else { wanted.node },
        name: wanted.name,
        ttl: wanted.ttl,
        service_checks: wanted.service_checks,
        lock_delay: wanted.lock_delay.as_ref().map_or(Ok(LOCK_DELAY), lock_delay)?,
        behavior: match wanted.behavior.as_str() {
            "" | "release" => Behavior::Release,
            "delete" => Behavior::Delete,
            other => return Err(failed(format!("Invalid Behavior setting '{other}'"))),
        },
        ..Session::default()
    };
    let checks = wanted.node_checks.or(wanted.checks);
    let plan = |view: &View| {
        let mut session = asked.clone();
        session.node_checks = checks.clone().unwrap_or_else(|| {
            // A node without an agent of ours has no such check.
            let known = view.catalog().node_checks(&session.node).value;
            let there = known.iter().any(|check| check.id == NODE_CHECK);
            there.then(|| NODE_CHECK.to_owned()).into_iter().collect()
        });
        session::create(view, &session, &api.node_name)
    };
    let made = api.registry.write(plan).await?;
    // Its life begins now, and not when somebody looks at it first.
    let _ = api.registry.renew_session(&made.value);
    Ok(Answer::json(&api, &parameters, &Made { id: made.value }))
}

fn lock_delay(given: &Value) -> Result<Duration, ApiError> {
    let wrong = |why: String| ApiError::bad_request(format!("Request decode failed: {why}"));
    match given {
        Value::Number(number) => match number.as_u64() {
            Some(seconds) if seconds < SECONDS_BELOW => Ok(Duration::from_secs(seconds)),
            Some(nanos) => Ok(Duration::from_nanos(nanos)),
            None => Err(wrong(format!("LockDelay: {number} is no duration"))),
        },
        Value::String(text) => text
            .parse::<GoDuration>()
            .map(|span| span.0)
            .map_err(|_| wrong(format!("time: invalid duration {text:?}"))),
        other => Err(wrong(format!("LockDelay: {other} is no duration"))),
    }
}

async fn destroy(
    State(api): State<Arc<Api>>,
    name: Name,
    parameters: Parameters,
) -> Result<Answer, ApiError> {
    parameters.datacenter(&api)?;
    api.registry.destroy_session(&id(name)?).await?;
    Ok(Answer::json(&api, &parameters, &true))
}

async fn renew(
    State(api): State<Arc<Api>>,
    name: Name,
    parameters: Parameters,
) -> Result<Answer, ApiError> {
    parameters.datacenter(&api)?;
    let id = id(name)?;
    let session = api.registry.renew_session(&id).ok_or_else(|| {
        ApiError::new(StatusCode::NOT_FOUND, format!("Session id '{id}' not found"))
    })?;
    Ok(Answer::json(&api, &parameters, &[session]))
}

async fn info(
    State(api): State<Arc<Api>>,
    name: Name,
    parameters: Parameters,
) -> Result<Answer, ApiError> {
    let id = id(name)?;
    sessions(&api, &parameters, |session| session.id == id).await
}

async fn of_node(
    State(api): State<Arc<Api>>,
    name: Name,
    parameters: Parameters,
) -> Result<Answer, ApiError> {
    let node = name.or_missing("node name")?;
    sessions(&api, &parameters, |session| session.node.eq_ignore_ascii_case(&node)).await
}

async fn list(State(api): State<Arc<Api>>, parameters: Parameters) -> Result<Answer, ApiError> {
    sessions(&api, &parameters, |_| true).await
}

async fn sessions(
    api: &Api,
    parameters: &Parameters,
    which: impl Fn(&Session) -> bool,
) -> Result<Answer, ApiError> {
    let read = |view: &View| {
        let sessions = view.sessions();
        let found = sessions.iter().filter(|session| which(session)).cloned();
        Indexed::new(sessions.index(), found.collect::<Vec<_>>())
    };
    let found = api.blocking(parameters, &[Topic::Sessions], read).await?;
    Ok(Answer::query(api, parameters, &found))
}

fn id(name: Name) -> Result<String, ApiError> {
    let id = name.or_missing("session")?;
    if id.len() != 36 {
        let message = "failed session lookup: index error: UUID must be 36 characters";
        return Err(failed(message));
    }
    Ok(id)
}

fn failed(message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message)
}

fn undecoded(error: &dyn std::fmt::Display) -> ApiError {
    ApiError::bad_request(format!("Request decode failed: {error}"))
}

impl From<SessionError> for ApiError {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Store(error) => error.into(),
            error => failed(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
