//! `/v1/kv`: keys and values.

use std::sync::Arc;

use axum::extract::{Path, State};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use super::{Answer, Api, ApiError, GET, PUT, Parameters, Route};
use crate::registry::kv::{self, Cas, KvEntry};
use crate::registry::{Indexed, Topic, View};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::new(GET, "/v1/kv/{*key}", &["raw", "index", "wait"], "reads a key", get),
        Route::new(PUT, "/v1/kv/{*key}", &["cas", "flags"], "writes a key", put),
    ]
}

/// An entry as JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Pair {
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
    fn new(key: &str, entry: &KvEntry) -> Self {
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
}

async fn get(
    State(api): State<Arc<Api>>,
    Path(key): Path<String>,
    parameters: Parameters,
) -> Result<Answer, ApiError> {
    parameters.datacenter(&api)?;
    let read = |view: &View| {
        let Indexed { index, value, .. } = view.kv().get(&key);
        Indexed::new(index, value.cloned())
    };
    let wait = parameters.wait()?;
    let Indexed { index, value, .. } =
        api.registry.blocking(wait, &[Topic::Kv(key.clone())], read).await;
    let Some(entry) = value else { return Ok(Answer::empty(StatusCode::NOT_FOUND).at(index)) };
    if parameters.flag("raw") {
        let mut answer = Answer::bytes(entry.value.to_vec()).at(index);
        let octets = HeaderValue::from_static("application/octet-stream");
        answer.set(header::CONTENT_TYPE, octets);
        // The bytes are somebody's; a browser must not take them for a page of ours.
        answer.set(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
        answer.set(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        return Ok(answer);
    }
    Ok(Answer::json(&api, &parameters, &[Pair::new(&key, &entry)]).at(index))
}

async fn put(
    State(api): State<Arc<Api>>,
    Path(key): Path<String>,
    parameters: Parameters,
    value: Bytes,
) -> Result<Answer, ApiError> {
    parameters.datacenter(&api)?;
    let flags = parameters.number("flags")?.unwrap_or(0);
    let cas = match parameters.number("cas")? {
        None => Cas::Any,
        Some(0) => Cas::Absent,
        Some(index) => Cas::Unchanged(index),
    };
    let plan = |view: &View| Ok::<_, ApiError>(kv::put(view, &key, &value, flags, cas));
    let done = api.registry.write(plan).await?;
    Ok(Answer::json(&api, &parameters, &done.value))
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use http::Request;
    use tower::ServiceExt as _;

    use super::super::router;
    use super::*;
    use crate::registry::Registry;
    use crate::store::Embedded;

    #[tokio::test]
    async fn what_is_put_is_read() {
        let registry = Registry::start(Embedded::in_memory().unwrap()).unwrap();
        let router = router(Arc::new(Api::new(registry, "dc1")));
        let ask = async |method: &str, path: &str, body: &'static str| {
            let request = Request::builder().method(method).uri(path).body(Body::from(body));
            let response = router.clone().oneshot(request.unwrap()).await.unwrap();
            let status = response.status().as_u16();
            let index = response.headers().get("x-consul-index").cloned();
            let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
            (status, index, String::from_utf8(body.to_vec()).unwrap())
        };
        assert_eq!(ask("PUT", "/v1/kv/a/b?flags=3", "hello").await, (200, None, "true".into()));
        let index = Some(HeaderValue::from_static("1"));
        let json = r#"[{"LockIndex":0,"Key":"a/b","Flags":3,"Value":"aGVsbG8=","CreateIndex":1,"ModifyIndex":1}]"#;
        assert_eq!(ask("GET", "/v1/kv/a/b", "").await, (200, index.clone(), json.into()));
        assert_eq!(ask("GET", "/v1/kv/a/b?raw", "").await, (200, index.clone(), "hello".into()));
        assert_eq!(ask("GET", "/v1/kv/a", "").await, (404, index, String::new()));
        assert_eq!(ask("PUT", "/v1/kv/a/b?cas=9", "x").await.2, "false");
        assert_eq!(ask("PUT", "/v1/kv/a/b?cas=x", "x").await.0, 400);
    }
}
