//! `/v1/kv`: keys and values.

use std::sync::Arc;

use axum::extract::State;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use super::body::Payload;
use super::query::Name;
use super::{Answer, Api, ApiError, DELETE, GET, PUT, Parameters, Route};
use crate::registry::kv::KvEntry;
use crate::registry::{Cas, Indexed, LockError, Plan, Topic, View};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::new(
            GET,
            "/v1/kv/{*key}",
            &["recurse", "keys", "separator", "raw", "index", "wait", "consistent", "stale", "dc"],
            "reads a key, all that begin so, or their names",
            get,
        ),
        Route::new(
            PUT,
            "/v1/kv/{*key}",
            &["flags", "cas", "acquire", "release", "dc"],
            "writes a key, takes or gives back its lock",
            put,
        ),
        Route::new(
            DELETE,
            "/v1/kv/{*key}",
            &["recurse", "cas", "dc"],
            "deletes a key, or all that begin so",
            delete,
        ),
    ]
}

/// An entry as JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Pair {
    lock_index: u64,
    key: String,
    flags: u64,
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    create_index: u64,
    modify_index: u64,
}

impl Pair {
    pub(super) fn new(key: &str, entry: &KvEntry) -> Self {
        use base64::Engine as _;
        let encode = |value: &Bytes| base64::engine::general_purpose::STANDARD.encode(value);
        Self {
            lock_index: entry.lock_index,
            key: key.to_owned(),
            flags: entry.flags,
            value: (!entry.value.is_empty()).then(|| encode(&entry.value)),
            session: entry.session.clone(),
            create_index: entry.create_index,
            modify_index: entry.modify_index,
        }
    }

    /// Without the value, and with this revision where it was changed by the write that is told.
    pub(super) fn changed(key: &str, entry: &KvEntry, revision: u64) -> Self {
        let or_new = |index: u64| if index == 0 { revision } else { index };
        let create_index = match entry.create_index {
            // Changed in the same write that made it, or made by it.
            0 if entry.modify_index == 0 => revision,
            index => index,
        };
        Self {
            value: None,
            create_index,
            modify_index: or_new(entry.modify_index),
            ..Self::new(key, entry)
        }
    }

    /// With the value, as [`Pair::changed`].
    pub(super) fn read(key: &str, entry: &KvEntry, revision: u64) -> Self {
        Self { value: Self::new(key, entry).value, ..Self::changed(key, entry, revision) }
    }
}

async fn get(
    State(api): State<Arc<Api>>,
    name: Name,
    parameters: Parameters,
) -> Result<Answer, ApiError> {
    let prefix = name.or_empty();
    if parameters.flag("keys") {
        return keys(&api, &parameters, prefix).await;
    }
    if parameters.flag("recurse") {
        return tree(&api, &parameters, prefix).await;
    }
    let key = named(prefix)?;
    let read = |view: &View| {
        let Indexed { index, value, .. } = view.kv().get(&key);
        Indexed::new(index, value.cloned())
    };
    let Indexed { index, value, .. } =
        api.blocking(&parameters, &[Topic::Kv(key.clone())], read).await?;
    let Some(entry) = value else { return Ok(Answer::empty(StatusCode::NOT_FOUND).at(index)) };
    if parameters.flag("raw") {
        let mut answer = Answer::bytes(entry.value.to_vec()).at(index);
        answer.set(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        // The bytes are somebody's; a browser must not take them for a page of ours.
        answer.set(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
        answer.set(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        return Ok(answer);
    }
    Ok(Answer::json(&api, &parameters, &[Pair::new(&key, &entry)]).at(index))
}

async fn tree(api: &Api, parameters: &Parameters, prefix: String) -> Result<Answer, ApiError> {
    let read = |view: &View| {
        let pairs = view.kv().under(&prefix).map(|(key, entry)| (key.to_owned(), entry.clone()));
        Indexed::new(view.kv().index_under(&prefix), pairs.collect::<Vec<_>>())
    };
    let found = api.blocking(parameters, &[Topic::Kv(prefix.clone())], read).await?;
    let pairs: Vec<_> = found.value.iter().map(|(key, entry)| Pair::new(key, entry)).collect();
    Ok(listed(api, parameters, found.index, &pairs))
}

async fn keys(api: &Api, parameters: &Parameters, prefix: String) -> Result<Answer, ApiError> {
    let separator = parameters.value("separator");
    let read = |view: &View| {
        let mut keys = Vec::<String>::new();
        for (key, _) in view.kv().under(&prefix) {
            let end = separator.and_then(|separator| {
                let after = &key[prefix.len()..];
                Some(prefix.len() + after.find(separator)? + separator.len())
            });
            let key = &key[..end.unwrap_or(key.len())];
            // In order, what has the same beginning is side by side.
            if keys.last().is_none_or(|last| last != key) {
                keys.push(key.to_owned());
            }
        }
        Indexed::new(view.kv().index_under(&prefix), keys)
    };
    let found = api.blocking(parameters, &[Topic::Kv(prefix.clone())], read).await?;
    Ok(listed(api, parameters, found.index, &found.value))
}

/// Consul says 404 to an empty list.
fn listed<T: Serialize>(api: &Api, parameters: &Parameters, index: u64, all: &[T]) -> Answer {
    if all.is_empty() {
        return Answer::empty(StatusCode::NOT_FOUND).at(index);
    }
    Answer::json(api, parameters, all).at(index)
}

async fn put(
    State(api): State<Arc<Api>>,
    name: Name,
    parameters: Parameters,
    Payload(value): Payload,
) -> Result<Answer, ApiError> {
    parameters.datacenter(&api)?;
    let key = named(name.or_empty())?;
    parameters.exclusive(&["cas", "acquire", "release"])?;
    let flags = number(&parameters, "flags")?.unwrap_or(0);
    let cas = match number(&parameters, "cas")? {
        None => Cas::Any,
        Some(0) => Cas::Absent,
        Some(index) => Cas::Unchanged(index),
    };
    let (acquire, release) = (parameters.given("acquire"), parameters.given("release"));
    let plan = |view: &View| {
        let mut draft = api.registry.draft(view);
        let done = match (acquire, release) {
            (Some(session), _) => draft.lock(&key, &value, flags, session)?,
            (_, Some(session)) => draft.unlock(&key, &value, flags, session)?,
            _ => draft.set(&key, &value, flags, cas),
        };
        Ok::<_, ApiError>(Plan::new(draft.into_batch(), done.is_some()))
    };
    let done = api.registry.write(plan).await?;
    Ok(Answer::json(&api, &parameters, &done.value))
}

async fn delete(
    State(api): State<Arc<Api>>,
    name: Name,
    parameters: Parameters,
) -> Result<Answer, ApiError> {
    parameters.datacenter(&api)?;
    parameters.exclusive(&["recurse", "cas"])?;
    let recurse = parameters.flag("recurse");
    let prefix = name.or_empty();
    let key = if recurse { prefix } else { named(prefix)? };
    let cas = number(&parameters, "cas")?;
    let plan = |view: &View| {
        let mut draft = api.registry.draft(view);
        let done = match cas {
            _ if recurse => {
                draft.delete_under(&key);
                true
            }
            // 0 means "if it is not there", which is nothing to delete.
            Some(0) => false,
            Some(index) => draft.delete_unchanged(&key, index),
            None => {
                draft.delete(&key);
                true
            }
        };
        Ok::<_, ApiError>(Plan::new(draft.into_batch(), done))
    };
    let done = api.registry.write(plan).await?;
    Ok(Answer::json(&api, &parameters, &done.value))
}

fn named(key: String) -> Result<String, ApiError> {
    if key.is_empty() {
        return Err(ApiError::bad_request("Missing key name"));
    }
    if key.contains('\0') {
        return Err(ApiError::bad_request("the key holds a NUL, which keys must not"));
    }
    Ok(key)
}

/// A number in the query; Consul's status and text where it is none.
fn number(parameters: &Parameters, name: &str) -> Result<Option<u64>, ApiError> {
    let parse = |text: &str| {
        text.parse().map_err(|_| {
            let message = format!("strconv.ParseUint: parsing {text:?}: invalid syntax");
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message)
        })
    };
    parameters.given(name).map(parse).transpose()
}

impl From<LockError> for ApiError {
    fn from(error: LockError) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

#[cfg(test)]
mod tests;
