//! `/v1/snapshot`: saves everything, and puts it back.
//!
//! What is restored gets one new revision, above every one that was seen before, where Consul brings
//! back the indexes of the day; a record that is as it was keeps its own.

use std::sync::Arc;

use axum::extract::{Request, State};
use http::{HeaderValue, StatusCode, header};

use super::{Answer, Api, ApiError, GET, PUT, Parameters, Route, body};
use crate::snapshot::{self, SnapshotError, archive};

/// Most bytes of a packed snapshot.
const LARGEST: usize = 512 << 20;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::new(GET, "/v1/snapshot", &["stale", "dc"], "saves everything", save),
        Route::new(
            PUT,
            "/v1/snapshot",
            &["dc"],
            "puts everything back, whole or not at all",
            restore,
        ),
    ]
}

async fn save(State(api): State<Arc<Api>>, parameters: Parameters) -> Result<Answer, ApiError> {
    parameters.datacenter(&api)?;
    let (revision, records) = api.registry.read_store().await?;
    let pack = move || archive::pack(&snapshot::write(revision, &records), revision);
    let packed = aside(pack).await?.map_err(|error| failed(&error))?;
    let mut answer = Answer::bytes(packed).at(revision.max(1));
    answer.set(header::CONTENT_TYPE, HeaderValue::from_static("application/x-gzip"));
    Ok(answer)
}

async fn restore(
    State(api): State<Arc<Api>>,
    parameters: Parameters,
    request: Request,
) -> Result<Answer, ApiError> {
    parameters.datacenter(&api)?;
    let packed = body::read(request, LARGEST).await?;
    let unpack = move || snapshot::read(&archive::unpack(&packed)?);
    let (revision, records) = aside(unpack).await??;
    api.registry.restore(revision, records).await?;
    Ok(Answer::empty(StatusCode::OK))
}

/// Runs what takes long where it holds nobody up.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| failed(&error))
}

fn failed(error: &dyn std::fmt::Display) -> ApiError {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

impl From<SnapshotError> for ApiError {
    fn from(error: SnapshotError) -> Self {
        Self::bad_request(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use serde_json::json;

    use super::super::testing::Asked;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_saved_comes_back_whole_at_one_new_index() {
        let server = Asked::new();
        for (key, value) in [("a", "1"), ("b", "2"), ("same", "3")] {
            server.ask("PUT", &format!("/v1/kv/{key}"), value).await;
        }
        let saved = server.raw("GET", "/v1/snapshot", Body::empty()).await;
        assert_eq!(saved.headers()["content-type"], "application/x-gzip");
        let saved = to_bytes(saved.into_body(), 1 << 20).await.unwrap();
        server.ask("PUT", "/v1/kv/a", "changed").await;
        server.ask("DELETE", "/v1/kv/b", "").await;
        server.ask("PUT", "/v1/kv/c", "new").await;
        let before = server.get("/v1/kv/?recurse").await;

        let mut broken = saved.to_vec();
        let middle = broken.len() / 2;
        broken[middle] ^= 1;
        let refused = server.ask("PUT", "/v1/snapshot", broken).await;
        assert_eq!(refused.status, 400, "{}", refused.text);
        assert_eq!(server.get("/v1/kv/?recurse").await.text, before.text);

        assert_eq!(server.ask("PUT", "/v1/snapshot", saved).await.status, 200);
        let after = server.get("/v1/kv/?recurse").await;
        assert!(after.index() > before.index());
        let all = after.json();
        let told = |field: &str| {
            all.as_array().unwrap().iter().map(|pair| pair[field].clone()).collect::<Vec<_>>()
        };
        assert_eq!(told("Key"), [json!("a"), json!("b"), json!("same")]);
        assert_eq!(told("Value"), [json!("MQ=="), json!("Mg=="), json!("Mw==")]);
        assert_eq!(told("ModifyIndex"), [json!(7), json!(7), json!(3)]);
    }
}
