//! `/v1/txn`: up to 64 operations that are done together, or not at all.
//!
//! Operations on keys; those on nodes, services and checks are refused as not served.

use std::sync::Arc;

use axum::extract::State;
use base64::Engine as _;
use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::body::Payload;
use super::kv::Pair;
use super::{Answer, Api, ApiError, PUT, Parameters, Route};
use crate::decode;
use crate::registry::kv::KvEntry;
use crate::registry::{Cas, Draft, Plan, View};

/// Operations in one transaction.
const OPERATIONS: usize = 64;

pub(super) fn routes() -> Vec<Route> {
    vec![Route::new(PUT, "/v1/txn", &["dc"], "does operations on keys together or not at all", txn)]
}

/// One operation: exactly one of these.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Operation {
    #[serde(rename = "KV")]
    kv: Option<KvOperation>,
    node: Option<Value>,
    service: Option<Value>,
    check: Option<Value>,
    intention: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct KvOperation {
    verb: String,
    key: String,
    value: String,
    flags: u64,
    index: u64,
    session: String,
    #[allow(
        dead_code,
        reason = "Consul Enterprise's; told by its clients, and without a meaning here"
    )]
    namespace: String,
}

/// An operation that can be done.
struct Kv {
    wanted: KvOperation,
    value: Bytes,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Outcome {
    results: Option<Vec<ResultOf>>,
    errors: Option<Vec<Failure>>,
    #[serde(flatten)]
    read: Option<Read>,
}

/// What Consul tells of transactions that only read.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Read {
    index: u64,
    last_contact: u64,
    known_leader: bool,
    consistency_level: &'static str,
}

#[derive(Debug, Serialize)]
struct ResultOf {
    #[serde(rename = "KV")]
    kv: Pair,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    op_index: usize,
    what: String,
}

/// An entry to tell, once the revision is known.
struct Told {
    key: String,
    entry: KvEntry,
    with_value: bool,
}

async fn txn(
    State(api): State<Arc<Api>>,
    parameters: Parameters,
    Payload(body): Payload,
) -> Result<Answer, ApiError> {
    parameters.datacenter(&api)?;
    let operations: Vec<Operation> = decode::from_json(&body).map_err(|error| unparsed(&error))?;
    if operations.len() > OPERATIONS {
        let count = operations.len();
        let message = format!("Transaction contains too many operations ({count} > {OPERATIONS})");
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message));
    }
    let operations: Vec<Kv> = operations.into_iter().map(keys_only).collect::<Result<_, _>>()?;
    let only_reads = operations.iter().all(|operation| reads(&operation.wanted.verb));
    let plan = |view: &View| {
        let mut draft = api.registry.draft(view);
        let (mut told, mut failures) = (Vec::new(), Vec::new());
        for (op_index, operation) in operations.iter().enumerate() {
            match apply(&mut draft, operation) {
                Ok(entries) => told.extend(entries),
                Err(what) => failures.push(Failure { op_index, what }),
            }
        }
        let whole = failures.is_empty();
        let batch = if whole { draft.into_batch() } else { Default::default() };
        Ok::<_, ApiError>(Plan::new(batch, if whole { Ok(told) } else { Err(failures) }))
    };
    let done = api.registry.write(plan).await?;
    let read = only_reads.then_some(Read {
        index: 0,
        last_contact: 0,
        known_leader: true,
        consistency_level: "",
    });
    Ok(match done.value {
        Ok(told) => {
            let results = told.iter().map(|told| result(told, done.index)).collect();
            Answer::json(&api, &parameters, &Outcome { results: Some(results), errors: None, read })
        }
        Err(failures) => {
            let outcome = Outcome { results: None, errors: Some(failures), read };
            Answer::json(&api, &parameters, &outcome).with_status(StatusCode::CONFLICT)
        }
    })
}

fn result(told: &Told, revision: u64) -> ResultOf {
    let Told { key, entry, with_value } = told;
    let pair = if *with_value { Pair::read } else { Pair::changed };
    ResultOf { kv: pair(key, entry, revision) }
}

fn unparsed(error: &dyn std::fmt::Display) -> ApiError {
    ApiError::bad_request(format!("Failed to parse body: {error}"))
}

fn keys_only(operation: Operation) -> Result<Kv, ApiError> {
    let others = [&operation.node, &operation.service, &operation.check, &operation.intention];
    if others.into_iter().any(Option::is_some) {
        return Err(ApiError::new(
            StatusCode::NOT_IMPLEMENTED,
            "mesh does not serve operations on nodes, services, checks or intentions in \
             transactions; use /v1/catalog/register and /v1/catalog/deregister",
        ));
    }
    let wanted = operation.kv.ok_or_else(|| unparsed(&"an operation has no KV"))?;
    let value = base64::engine::general_purpose::STANDARD.decode(&wanted.value);
    let value = value.map_err(|error| unparsed(&format!("illegal base64 data: {error}")))?;
    Ok(Kv { wanted, value: value.into() })
}

/// Whether the verb changes nothing.
fn reads(verb: &str) -> bool {
    matches!(verb, "get" | "get-tree" | "check-index" | "check-session" | "check-not-exists")
}

/// Does one operation; what there is to tell of it, or why it cannot be done.
fn apply(draft: &mut Draft<'_>, operation: &Kv) -> Result<Vec<Told>, String> {
    let Kv { wanted, value } = operation;
    let KvOperation { verb, key, flags, index, session, .. } = wanted;
    if key.is_empty() && !matches!(verb.as_str(), "get-tree" | "delete-tree") {
        return Err("Must provide key".to_owned());
    }
    if key.contains('\0') {
        return Err("the key holds a NUL, which keys must not".to_owned());
    }
    let one = |entry: KvEntry, with_value: bool| vec![Told { key: key.clone(), entry, with_value }];
    let there = |entry: Option<KvEntry>| entry.ok_or_else(|| format!("key {key:?} doesn't exist"));
    let done = match verb.as_str() {
        "set" => draft.set(key, value, *flags, Cas::Any).map_or_else(Vec::new, |it| one(it, false)),
        "cas" => {
            let cas = if *index == 0 { Cas::Absent } else { Cas::Unchanged(*index) };
            let done = draft.set(key, value, *flags, cas);
            one(done.ok_or_else(|| format!("failed to set key {key:?}, index is stale"))?, false)
        }
        "lock" => {
            let done =
                draft.lock(key, value, *flags, session).map_err(|error| error.to_string())?;
            let held = || format!("failed to lock key {key:?}, lock is already held");
            one(done.ok_or_else(held)?, false)
        }
        "unlock" => {
            let done =
                draft.unlock(key, value, *flags, session).map_err(|error| error.to_string())?;
            let other = || {
                format!(
                    "failed to unlock key {key:?}, lock isn't held, or is held by another session"
                )
            };
            one(done.ok_or_else(other)?, false)
        }
        "get" => one(there(draft.get(key))?, true),
        "get-tree" => {
            let all = draft.under(key).into_iter();
            all.map(|(key, entry)| Told { key, entry, with_value: true }).collect()
        }
        "check-index" => {
            let entry = there(draft.get(key))?;
            let current = entry.modify_index;
            if current != *index {
                let what = format!("failed index check for key {key:?}, current modify index");
                return Err(format!("{what} {current} != {index}"));
            }
            one(entry, false)
        }
        "check-session" => {
            let entry = there(draft.get(key))?;
            let current = entry.session.as_deref().unwrap_or_default();
            if current != session {
                let what = format!("failed session check for key {key:?}, current session");
                return Err(format!("{what} {current:?} != {session:?}"));
            }
            one(entry, false)
        }
        "check-not-exists" => match draft.get(key) {
            Some(_) => return Err(format!("key {key:?} exists")),
            None => Vec::new(),
        },
        "delete" => {
            draft.delete(key);
            Vec::new()
        }
        "delete-cas" => {
            if !draft.delete_unchanged(key, *index) {
                return Err(format!("failed to delete key {key:?}, index is stale"));
            }
            Vec::new()
        }
        "delete-tree" => {
            draft.delete_under(key);
            Vec::new()
        }
        other => return Err(format!("unknown KV verb {other:?}")),
    };
    Ok(done)
}

#[cfg(test)]
mod tests;
