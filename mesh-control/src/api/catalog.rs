//! `/v1/catalog`: what is registered, whatever its health.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;

use super::query::{Name, Narrow, read_body};
use super::{Answer, Api, ApiError, GET, PUT, Parameters, Route};
use crate::filter::Shape;
use crate::registry::catalog::{
    self, CatalogError, Deregistration, Instance, Instances, Registration,
};
use crate::registry::{Indexed, Topic, View};
use crate::types::{Connect, Node, NodeService, Proxy, ServiceAddress, ServiceKind, Weights};

/// What every query for a list reads.
const LIST: &[&str] =
    &["dc", "filter", "near", "node-meta", "index", "wait", "stale", "consistent"];
/// And every query for instances of a service.
const INSTANCES: &[&str] =
    &["dc", "filter", "near", "node-meta", "tag", "index", "wait", "stale", "consistent"];
/// The query for names.
const NAMES: &[&str] = &["dc", "node-meta", "index", "wait", "stale", "consistent"];
/// A query for one thing.
const ONE: &[&str] = &["dc", "filter", "index", "wait", "stale", "consistent"];

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::new(GET, "/v1/catalog/datacenters", &[], "names the datacenters", datacenters),
        Route::new(GET, "/v1/catalog/nodes", LIST, "lists the nodes", nodes),
        Route::new(
            GET,
            "/v1/catalog/services",
            NAMES,
            "names the services and their tags",
            services,
        ),
        Route::new(
            GET,
            "/v1/catalog/service/{*name}",
            INSTANCES,
            "lists the instances of a service",
            service,
        ),
        Route::new(
            GET,
            "/v1/catalog/connect/{*name}",
            INSTANCES,
            "lists the instances that speak mutual TLS for a service",
            connect,
        ),
        Route::new(GET, "/v1/catalog/node/{*name}", ONE, "a node with its services", node),
        Route::new(
            GET,
            "/v1/catalog/node-services/{*name}",
            ONE,
            "a node with a list of its services",
            node_services,
        ),
        Route::new(
            PUT,
            "/v1/catalog/register",
            &["dc"],
            "registers a node, a service, checks",
            register,
        ),
        Route::new(
            PUT,
            "/v1/catalog/deregister",
            &["dc"],
            "removes a service, a check, a node",
            deregister,
        ),
    ]
}

impl From<CatalogError> for ApiError {
    fn from(error: CatalogError) -> Self {
        match error {
            // As Consul, in which the servers and not the agent find it out.
            CatalogError::Refused(message) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, message),
            CatalogError::Store(error) => error.into(),
        }
    }
}

/// An instance as the catalog tells it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ServiceNode<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    node: &'a str,
    address: &'a str,
    datacenter: &'a str,
    tagged_addresses: Option<&'a BTreeMap<String, String>>,
    node_meta: Option<&'a BTreeMap<String, String>>,
    service_kind: ServiceKind,
    #[serde(rename = "ServiceID")]
    service_id: &'a str,
    service_name: &'a str,
    service_tags: &'a [String],
    service_address: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    service_tagged_addresses: &'a BTreeMap<String, ServiceAddress>,
    service_weights: Weights,
    service_meta: &'a BTreeMap<String, String>,
    service_port: u16,
    service_enable_tag_override: bool,
    service_proxy: &'a Proxy,
    service_connect: &'a Connect,
    create_index: u64,
    modify_index: u64,
}

impl<'a> From<&'a Instance> for ServiceNode<'a> {
    fn from(Instance { node, service, .. }: &'a Instance) -> Self {
        let given = |map: &'a BTreeMap<_, _>| (!map.is_empty()).then_some(map);
        Self {
            id: &node.id,
            node: &node.name,
            address: &node.address,
            datacenter: &node.datacenter,
            tagged_addresses: given(&node.tagged_addresses),
            node_meta: given(&node.meta),
            service_kind: service.kind,
            service_id: &service.id,
            service_name: &service.name,
            service_tags: &service.tags,
            service_address: &service.address,
            service_tagged_addresses: &service.tagged_addresses,
            service_weights: service.weights,
            service_meta: &service.meta,
            service_port: service.port,
            service_enable_tag_override: service.enable_tag_override,
            service_proxy: &service.proxy,
            service_connect: &service.connect,
            create_index: service.create_index,
            modify_index: service.modify_index,
        }
    }
}

/// A node with what is on it; both `null` where there is none.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct OnNode<T> {
    node: Option<Arc<Node>>,
    services: Option<T>,
}

async fn datacenters(State(api): State<Arc<Api>>, parameters: Parameters) -> Answer {
    Answer::json(&api, &parameters, &[&api.datacenter])
}

async fn nodes(State(api): State<Arc<Api>>, parameters: Parameters) -> Result<Answer, ApiError> {
    let narrow = Narrow::read(&api, &parameters, &Shape::NODE)?;
    let read = |view: &View| view.catalog().nodes();
    let mut nodes = api.blocking(&parameters, &[Topic::Nodes], read).await?;
    nodes.value.retain(|node| narrow.on(node));
    narrow.near_first(&mut nodes.value, |node| &node.name);
    narrow.filtered(&mut nodes.value);
    Ok(Answer::query(&api, &parameters, &nodes))
}

async fn services(State(api): State<Arc<Api>>, parameters: Parameters) -> Result<Answer, ApiError> {
    let narrow = Narrow::unfiltered(&api, &parameters);
    let read = |view: &View| view.catalog().services(|node| narrow.on(node));
    let services = api.blocking(&parameters, &[Topic::Services], read).await?;
    Ok(Answer::query(&api, &parameters, &services))
}

async fn service(
    State(api): State<Arc<Api>>,
    name: Name,
    parameters: Parameters,
) -> Result<Answer, ApiError> {
    instances(&api, name, &parameters, Instances::Named).await
}

async fn connect(
    State(api): State<Arc<Api>>,
    name: Name,
    parameters: Parameters,
) -> Result<Answer, ApiError> {
    instances(&api, name, &parameters, Instances::Connect).await
}

async fn instances(
    api: &Api,
    name: Name,
    parameters: &Parameters,
    which: Instances,
) -> Result<Answer, ApiError> {
    let name = name.or_missing("service name")?;
    let narrow = Narrow::read(api, parameters, &Shape::CATALOG_SERVICE)?;
    let found = narrow.instances(api, parameters, &name, which).await?;
    let mut rows: Vec<_> = found.value.iter().map(ServiceNode::from).collect();
    narrow.filtered(&mut rows);
    Ok(Answer::query(api, parameters, &Indexed::new(found.index, rows)))
}

async fn node(
    State(api): State<Arc<Api>>,
    name: Name,
    parameters: Parameters,
) -> Result<Answer, ApiError> {
    let (index, found, services) = on_node(&api, name, &parameters).await?;
    let Some(node) = found else {
        return Ok(Answer::json(&api, &parameters, &()).at(index));
    };
    let services: BTreeMap<_, _> =
        services.into_iter().map(|service| (service.id.clone(), service)).collect();
    let answer = OnNode { node: Some(node), services: Some(services) };
    Ok(Answer::json(&api, &parameters, &answer).at(index))
}

async fn node_services(
    State(api): State<Arc<Api>>,
    name: Name,
    parameters: Parameters,
) -> Result<Answer, ApiError> {
    let (index, node, services) = on_node(&api, name, &parameters).await?;
    let answer = OnNode { services: node.is_some().then_some(services), node };
    Ok(Answer::json(&api, &parameters, &answer).at(index))
}

async fn on_node(
    api: &Api,
    name: Name,
    parameters: &Parameters,
) -> Result<(u64, Option<Arc<Node>>, Vec<Arc<NodeService>>), ApiError> {
    let name = name.or_missing("node name")?;
    let narrow = Narrow::read(api, parameters, &Shape::SERVICE)?;
    let read = |view: &View| view.catalog().node_services(&name);
    let found = api.blocking(parameters, &[Topic::node(&name)], read).await?;
    let Some(there) = found.value else { return Ok((found.index, None, Vec::new())) };
    let mut services = there.services;
    narrow.filtered(&mut services);
    Ok((found.index, Some(there.node), services))
}

async fn register(
    State(api): State<Arc<Api>>,
    parameters: Parameters,
    body: Bytes,
) -> Result<Answer, ApiError> {
    let wanted: Registration = read_body(&body)?;
    parameters.datacenter(&api)?;
    api.own_datacenter(&wanted.datacenter)?;
    api.registry.write(|view| catalog::register(view, &wanted, &api.datacenter)).await?;
    Ok(Answer::json(&api, &parameters, &true))
}

async fn deregister(
    State(api): State<Arc<Api>>,
    parameters: Parameters,
    body: Bytes,
) -> Result<Answer, ApiError> {
    let wanted: Deregistration = read_body(&body)?;
    parameters.datacenter(&api)?;
    api.own_datacenter(&wanted.datacenter)?;
    api.registry.write(|view| catalog::deregister(view, &wanted)).await?;
    Ok(Answer::json(&api, &parameters, &true))
}

#[cfg(test)]
mod tests;
