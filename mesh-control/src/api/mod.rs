//! The HTTP API: Consul's `/v1`, by family.
//!
//! Each family is a file with its `routes()`. A [`Route`] says what it is besides how it is served,
//! so that the table of what works (`docs/consul-compatibility.md`) is made from the code.

mod agent;
mod answer;
mod body;
mod catalog;
mod config;
mod control;
mod coordinate;
mod event;
mod fallback;
mod guard;
mod health;
mod kv;
mod parameters;
mod query;
mod session;
mod snapshot;
mod status;
#[cfg(test)]
mod testing;
mod txn;

use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::routing::{MethodFilter, MethodRouter, on};

use crate::agent::Agent;
use crate::registry::Registry;

pub use answer::{Answer, ApiError};
pub use control::Control;
pub use guard::Access;
pub use parameters::{Consistency, Parameters};

/// What the handlers share.
#[derive(Debug)]
#[non_exhaustive]
pub struct Api {
    /// What is known, and how it changes.
    pub registry: Registry,
    /// The datacenter that this server is of.
    pub datacenter: String,
    /// The name of the node that this server is.
    pub node_name: String,
    /// The agent of that node; its endpoints say that there is none without it.
    pub agent: Option<Agent>,
    /// Leaving and reloading.
    pub control: Control,
    /// Where the API listens, which is what tells servers apart.
    pub address: String,
    /// Who may use it.
    pub access: Access,
    /// Whether JSON is indented without `?pretty`, as in a development server.
    pub pretty: bool,
}

impl Api {
    /// An API over this registry, for this datacenter.
    #[must_use]
    pub fn new(registry: Registry, datacenter: impl Into<String>) -> Self {
        Self {
            registry,
            datacenter: datacenter.into(),
            node_name: String::new(),
            agent: None,
            control: Control::default(),
            address: String::new(),
            access: Access::default(),
            pretty: false,
        }
    }
}

/// One endpoint of the API.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Route {
    /// `GET`, `PUT`, …
    pub method: &'static str,
    /// As axum writes it: `/v1/kv/{*key}`.
    pub path: &'static str,
    /// The query parameters that it reads.
    pub parameters: &'static [&'static str],
    /// What it does, in a line.
    pub does: &'static str,
    handler: MethodRouter<Arc<Api>>,
}

impl Route {
    fn new<H: Handler<T, Arc<Api>>, T: 'static>(
        (method, filter): (&'static str, MethodFilter),
        path: &'static str,
        parameters: &'static [&'static str],
        does: &'static str,
        handler: H,
    ) -> Self {
        Self { method, path, parameters, does, handler: on(filter, handler) }
    }
}

const GET: (&str, MethodFilter) = ("GET", MethodFilter::GET);
const DELETE: (&str, MethodFilter) = ("DELETE", MethodFilter::DELETE);
const PUT: (&str, MethodFilter) = ("PUT", MethodFilter::PUT);

/// Every endpoint, family by family.
#[must_use]
pub fn routes() -> Vec<Route> {
    [
        agent::routes(),
        catalog::routes(),
        config::routes(),
        health::routes(),
        kv::routes(),
        coordinate::routes(),
        event::routes(),
        session::routes(),
        snapshot::routes(),
        status::routes(),
        txn::routes(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The API as a service for `axum::serve`.
pub fn router(api: Arc<Api>) -> Router {
    let router = routes().into_iter().fold(Router::new(), |router, route| {
        let router = match route.path.split_once("{*").map(|(without, _)| without) {
            // So that the handler says what is missing, and not the router that nothing is there.
            Some(without) => router.route(without, route.handler.clone()),
            None => router,
        };
        router.route(route.path, route.handler)
    });
    router
        .fallback(fallback::not_found)
        .method_not_allowed_fallback(fallback::wrong_method)
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&api), guard::guard))
        .with_state(api)
}
