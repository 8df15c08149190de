//! Ask: what a running proxy would do now, from its admin page.

use http::header::{ACCEPT, HOST};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use mesh_core::explain::Explanation;
use mesh_tower::{Body, Mesh};
use std::net::SocketAddr;
use std::time::Duration;
use tower_service::Service;

/// Longest that the proxy may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest answer: some 100,000 endpoints.
const LONGEST: usize = 64 << 20;

/// A request, as it is described to the proxy.
pub(crate) struct Question<'a> {
    pub(crate) method: &'a Method,
    pub(crate) url: &'a Uri,
    pub(crate) headers: &'a [(HeaderName, HeaderValue)],
    pub(crate) listener: Option<&'a str>,
}

impl Question<'_> {
    fn path(&self) -> Result<String, String> {
        let mut query = form_urlencoded::Serializer::new(String::from("/explain?"));
        query.append_pair("method", self.method.as_str());
        query.append_pair("url", &self.url.to_string());
        for (name, value) in self.headers {
            let value =
                value.to_str().map_err(|_| format!("the value of `{name}` is not ASCII"))?;
            query.append_pair("header", &format!("{name}: {value}"));
        }
        if let Some(listener) = self.listener {
            query.append_pair("listener", listener);
        }
        Ok(query.finish())
    }
}

/// Asks the proxy whose admin pages are at this address.
pub(crate) fn ask(admin: SocketAddr, question: &Question<'_>) -> Result<Explanation, String> {
    let path = question.path()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| error.to_string())?.block_on(async {
        let asked = tokio::time::timeout(PATIENCE, fetch(admin, &path)).await;
        asked.map_err(|_| format!("no answer from http://{admin} within {PATIENCE:?}"))?
    })
}

async fn fetch(admin: SocketAddr, path: &str) -> Result<Explanation, String> {
    let failed = |error: &dyn std::fmt::Display| {
        format!(
            "cannot ask the proxy at http://{admin}: {error}; --proxy takes the address that it \
             prints as `admin on`"
        )
    };
    let request = Request::get(format!("http://{admin}{path}"))
        .header(HOST, admin.to_string())
        .header(ACCEPT, "application/json")
        .body(Body::empty())
        .map_err(|error| failed(&error))?;
    let mesh = Mesh::builder().build().map_err(|error| failed(&error))?;
    let response = mesh.http().call(request).await.map_err(|error| failed(&error.message()))?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, LONGEST).collect().await;
    let body = body.map_err(|error| failed(&error))?.to_bytes();
    match head.status {
        StatusCode::OK => serde_json::from_slice(&body).map_err(|error| failed(&error)),
        StatusCode::BAD_REQUEST => Err(String::from_utf8_lossy(&body).trim_end().to_owned()),
        status => Err(failed(&status)),
    }
}
