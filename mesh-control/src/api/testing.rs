//! For the tests of the API: asks a server in this process.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use http::{HeaderMap, Request, Response};
use serde_json::Value;
use tower::ServiceExt as _;

use super::{Api, router};
use crate::agent::{self, Agent, OfRegistry};
use crate::registry::Registry;
use crate::store::Embedded;
use crate::types::Node;

/// A server of the datacenter `dc1`, with nothing in it.
pub(super) struct Asked {
    router: Router,
}

/// What it answered.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
}

impl Said {
    /// The body as JSON.
    #[track_caller]
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The index to wait for.
    #[track_caller]
    pub(super) fn index(&self) -> u64 {
        let index = self.headers.get("x-consul-index").expect("an index");
        index.to_str().unwrap().parse().unwrap()
    }
}

impl Asked {
    pub(super) fn new() -> Self {
        let registry = Registry::start(Embedded::in_memory().unwrap()).unwrap();
        tokio::spawn(registry.clone().expire_sessions("here".to_owned()));
        let mut api = Api::new(registry, "dc1");
        api.node_name = "here".to_owned();
        Self { router: router(Arc::new(api)) }
    }

    /// The same with an agent for its node, which knows nothing yet.
    pub(super) async fn with_agent() -> Self {
        let registry = Registry::start(Embedded::in_memory().unwrap()).unwrap();
        let mut node = Node::default();
        "here".clone_into(&mut node.name);
        "127.0.0.1".clone_into(&mut node.address);
        let catalog = Arc::new(OfRegistry::new(registry.clone(), "dc1"));
        let agent = Agent::start(agent::Config::new(node), catalog).await.unwrap();
        let mut api = Api::new(registry, "dc1");
        api.node_name = "here".to_owned();
        api.agent = Some(agent);
        Self { router: router(Arc::new(api)) }
    }

    pub(super) async fn raw(
        &self,
        method: &str,
        path: &str,
        body: impl Into<Body>,
    ) -> Response<Body> {
        let request = Request::builder().method(method).uri(path).body(body.into()).unwrap();
        self.router.clone().oneshot(request).await.unwrap()
    }

    pub(super) async fn ask(&self, method: &str, path: &str, body: impl Into<Body>) -> Said {
        let response = self.raw(method, path, body).await;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = to_bytes(response.into_body(), 1 << 24).await.unwrap();
        Said { status, headers, text: String::from_utf8(body.to_vec()).unwrap() }
    }

    pub(super) async fn get(&self, path: &str) -> Said {
        self.ask("GET", path, "").await
    }

    /// Puts a value that must be taken.
    pub(super) async fn put(&self, path: &str, body: Value) -> Said {
        let said = self.ask("PUT", path, body.to_string()).await;
        assert_eq!(said.status, 200, "{path} {body}: {}", said.text);
        said
    }
}
