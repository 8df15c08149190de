//! `/v1/agent`: the services and checks of this node, and the node itself.
//!
//! Source: Consul's HTTP API, "Agent", "Service - Agent" and "Check - Agent".

mod node;
mod told;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Deserialize;

use super::parameters::truth;
use super::query::{Name, Narrow, read_body};
use super::{Answer, Api, ApiError, GET, PUT, Parameters, Route, guard};
use crate::agent::{Agent, AgentError, ServiceHealth, Terms};
use crate::filter::Shape;
use crate::types::{CheckDefinition, CheckStatus, ServiceDefinition, Token};
use told::{Health, Local};

const REASON: HeaderName = HeaderName::from_static("x-consul-reason");
const CONTENT_HASH: HeaderName = HeaderName::from_static("x-consul-contenthash");

pub(super) fn routes() -> Vec<Route> {
    let own = vec![
        Route::new(GET, "/v1/agent/services", &["filter"], "lists this node's services", services),
        Route::new(
            GET,
            "/v1/agent/service/{*name}",
            &["hash", "wait"],
            "a service of this node by its ID",
            service,
        ),
        Route::new(
            PUT,
            "/v1/agent/service/register",
            &["replace-existing-checks"],
            "registers a service with its checks and its sidecar",
            register_service,
        ),
        Route::new(
            PUT,
            "/v1/agent/service/deregister/{*name}",
            &[],
            "removes a service with its checks and its sidecar",
            deregister_service,
        ),
        Route::new(
            PUT,
            "/v1/agent/service/maintenance/{*name}",
            &["enable", "reason"],
            "puts a service into maintenance, or ends it",
            service_maintenance,
        ),
        Route::new(GET, "/v1/agent/checks", &["filter"], "lists this node's checks", checks),
        Route::new(PUT, "/v1/agent/check/register", &[], "registers a check", register_check),
        Route::new(
            PUT,
            "/v1/agent/check/deregister/{*name}",
            &[],
            "removes a check",
            deregister_check,
        ),
        Route::new(PUT, "/v1/agent/check/pass/{*name}", &["note"], "says that all is well", pass),
        Route::new(PUT, "/v1/agent/check/warn/{*name}", &["note"], "says that it serves", warn),
        Route::new(PUT, "/v1/agent/check/fail/{*name}", &["note"], "says that it fails", fail),
        Route::new(
            PUT,
            "/v1/agent/check/update/{*name}",
            &[],
            "says how a check stands, by the body",
            update,
        ),
        Route::new(
            GET,
            "/v1/agent/health/service/id/{*name}",
            &["format"],
            "how a service of this node stands, by its ID",
            health_by_id,
        ),
        Route::new(
            GET,
            "/v1/agent/health/service/name/{*name}",
            &["format"],
            "how the services of a name on this node stand",
            health_by_name,
        ),
    ];
    own.into_iter().chain(node::routes()).collect()
}

impl From<AgentError> for ApiError {
    fn from(error: AgentError) -> Self {
        Self::new(error.status(), error.to_string())
    }
}

impl Api {
    /// The agent of this node.
    fn agent(&self) -> Result<&Agent, ApiError> {
        self.agent.as_ref().ok_or_else(|| {
            let sentence = "this server has no agent: ask the agent of a node";
            ApiError::new(StatusCode::NOT_IMPLEMENTED, sentence)
        })
    }
}

/// The token that a request came with: the one that it was let in by.
fn token(parameters: &Parameters, headers: &HeaderMap) -> Token {
    Token::new(guard::token(parameters, headers).unwrap_or_default())
}

/// What changes something answers nothing.
fn done<T>(_: T) -> Answer {
    Answer::empty(StatusCode::OK)
}

async fn services(State(api): State<Arc<Api>>, parameters: Parameters) -> Result<Answer, ApiError> {
    let narrow = Narrow::read(&api, &parameters, &Shape::SERVICE)?;
    let services = api.agent()?.services();
    let mut services: Vec<_> = services.into_iter().map(|(id, own)| (id, own.service)).collect();
    narrow.filtered_by(&mut services, |(_, service)| service);
    let told: BTreeMap<_, _> =
        services.iter().map(|(id, service)| (id, Local::new(service))).collect();
    Ok(Answer::json(&api, &parameters, &told))
}

async fn service(
    State(api): State<Arc<Api>>,
    name: Name,
    parameters: Parameters,
) -> Result<Answer, ApiError> {
    let id = name.or_empty();
    let agent = api.agent()?;
    let found = match parameters.value("hash") {
        Some(hash) => agent.service_other_than(&id, hash, parameters.span()?).await,
        None => agent.service(&id),
    };
    let Some(own) = found else {
        return Err(ApiError::new(StatusCode::NOT_FOUND, format!("unknown service ID: {id}")));
    };
    let told = Local::new(&own.service).with_hash(&own.content_hash);
    let mut answer = Answer::json(&api, &parameters, &told);
    if let Ok(hash) = HeaderValue::from_str(&own.content_hash) {
        answer.set(CONTENT_HASH, hash);
    }
    Ok(answer)
}

async fn register_service(
    State(api): State<Arc<Api>>,
    parameters: Parameters,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Answer, ApiError> {
    let definition: ServiceDefinition = read_body(&body)?;
    let replace = parameters.flag("replace-existing-checks");
    let terms = Terms::api(token(&parameters, &headers)).replacing_checks(replace);
    Ok(api.agent()?.register_service(definition, terms).await.map(done)?)
}

async fn deregister_service(State(api): State<Arc<Api>>, name: Name) -> Result<Answer, ApiError> {
    let id = name.or_error("ServiceID missing")?;
    Ok(api.agent()?.deregister_service(&id).await.map(done)?)
}

async fn service_maintenance(
    State(api): State<Arc<Api>>,
    name: Name,
    parameters: Parameters,
    headers: HeaderMap,
) -> Result<Answer, ApiError> {
    let enable = enable(&parameters)?;
    let id = name.or_missing("service ID")?;
    let agent = api.agent()?;
    if enable {
        let reason = parameters.value("reason").unwrap_or_default();
        let token = token(&parameters, &headers);
        agent.begin_service_maintenance(&id, reason, token).await?;
    } else {
        agent.end_service_maintenance(&id).await?;
    }
    Ok(done(()))
}

/// Whether maintenance is to begin.
fn enable(parameters: &Parameters) -> Result<bool, ApiError> {
    let Some(enable) = parameters.value("enable") else {
        return Err(ApiError::bad_request("Missing value for enable"));
    };
    truth(enable)
        .ok_or_else(|| ApiError::bad_request(format!("Invalid value for enable: {enable:?}")))
}

async fn checks(State(api): State<Arc<Api>>, parameters: Parameters) -> Result<Answer, ApiError> {
    let narrow = Narrow::read(&api, &parameters, &Shape::CHECK)?;
    let mut checks: Vec<_> = api.agent()?.checks().into_iter().collect();
    narrow.filtered_by(&mut checks, |(_, check)| check);
    let checks: BTreeMap<_, _> = checks.into_iter().collect();
    Ok(Answer::json(&api, &parameters, &checks))
}

async fn register_check(
    State(api): State<Arc<Api>>,
    parameters: Parameters,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Answer, ApiError> {
    let definition: CheckDefinition = read_body(&body)?;
    let terms = Terms::api(token(&parameters, &headers));
    Ok(api.agent()?.register_check(definition, terms).await.map(done)?)
}

async fn deregister_check(State(api): State<Arc<Api>>, name: Name) -> Result<Answer, ApiError> {
    let id = name.or_error("CheckID missing")?;
    Ok(api.agent()?.deregister_check(&id).await.map(done)?)
}

async fn pass(
    State(api): State<Arc<Api>>,
    name: Name,
    parameters: Parameters,
) -> Result<Answer, ApiError> {
    heartbeat(&api, name, &parameters, CheckStatus::Passing).await
}

async fn warn(
    State(api): State<Arc<Api>>,
    name: Name,
    parameters: Parameters,
) -> Result<Answer, ApiError> {
    heartbeat(&api, name, &parameters, CheckStatus::Warning).await
}

async fn fail(
    State(api): State<Arc<Api>>,
    name: Name,
    parameters: Parameters,
) -> Result<Answer, ApiError> {
    heartbeat(&api, name, &parameters, CheckStatus::Critical).await
}

async fn heartbeat(
    api: &Api,
    name: Name,
    parameters: &Parameters,
    status: CheckStatus,
) -> Result<Answer, ApiError> {
    let note = parameters.value("note").unwrap_or_default();
    Ok(api.agent()?.update_ttl(&name.or_empty(), status, note).await.map(done)?)
}

/// How a check stands, as its owner says.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Update {
    status: String,
    output: String,
}

async fn update(State(api): State<Arc<Api>>, name: Name, body: Bytes) -> Result<Answer, ApiError> {
    let Update { status, output } = read_body(&body)?;
    let status = match &*status {
        "passing" => CheckStatus::Passing,
        "warning" => CheckStatus::Warning,
        "critical" => CheckStatus::Critical,
        other => {
            return Err(ApiError::bad_request(format!("Invalid check status: '{other}'")));
        }
    };
    Ok(api.agent()?.update_ttl(&name.or_empty(), status, &output).await.map(done)?)
}

async fn health_by_id(
    State(api): State<Arc<Api>>,
    name: Name,
    parameters: Parameters,
) -> Result<Answer, ApiError> {
    let id = name.or_error("Missing serviceID")?;
    let found = api.agent()?.health_by_id(&id);
    let status = found.as_ref().map(|found| found.status);
    let told = found.as_ref().map_or_else(Health::absent, Health::of);
    let body = Answer::json(&api, &parameters, &told);
    Ok(health(&parameters, status, &format!("ServiceId {id} not found"), body))
}

async fn health_by_name(
    State(api): State<Arc<Api>>,
    name: Name,
    parameters: Parameters,
) -> Result<Answer, ApiError> {
    let name = name.or_error("Missing service Name")?;
    let found = api.agent()?.health_by_name(&name);
    let status = found.iter().map(|found: &ServiceHealth| found.status).max();
    let told: Vec<_> = found.iter().map(Health::of).collect();
    let body = Answer::json(&api, &parameters, &told);
    Ok(health(&parameters, status, &format!("ServiceName {name} Not Found"), body))
}

/// The answer by its status code: 200 well, 429 warning, 503 critical, 404 nobody.
fn health(
    parameters: &Parameters,
    status: Option<CheckStatus>,
    absent: &str,
    json: Answer,
) -> Answer {
    let (code, reason) = match status {
        Some(CheckStatus::Passing) => (StatusCode::OK, "passing"),
        Some(CheckStatus::Warning) => (StatusCode::TOO_MANY_REQUESTS, "warning"),
        Some(CheckStatus::Critical) => (StatusCode::SERVICE_UNAVAILABLE, "critical"),
        None => (StatusCode::NOT_FOUND, absent),
    };
    let mut answer = json;
    if parameters.value("format") == Some("text") {
        let word = status.map_or(absent, |status| status.as_str());
        answer = Answer::bytes(word.as_bytes().to_vec());
        answer.set(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    if let Ok(reason) = HeaderValue::from_str(reason) {
        answer.set(REASON, reason);
    }
    answer.with_status(code)
}

#[cfg(test)]
mod tests;
