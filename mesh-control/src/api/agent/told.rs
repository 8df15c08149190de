//! A service of this node as the agent tells it, which is not how the catalog does.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::agent::ServiceHealth;
use crate::types::{
    CheckStatus, Connect, HealthCheck, NodeService, Proxy, ServiceAddress, ServiceKind, Weights,
};

/// A service.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Local<'a> {
    #[serde(skip_serializing_if = "ServiceKind::is_typical")]
    kind: ServiceKind,
    #[serde(rename = "ID")]
    id: &'a str,
    service: &'a str,
    tags: &'a [String],
    meta: &'a BTreeMap<String, String>,
    port: u16,
    address: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tagged_addresses: &'a BTreeMap<String, ServiceAddress>,
    weights: Weights,
    enable_tag_override: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_hash: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    proxy: Option<&'a Proxy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect: Option<&'a Connect>,
}

impl<'a> Local<'a> {
    pub(super) fn new(service: &'a NodeService) -> Self {
        Self {
            kind: service.kind,
            id: &service.id,
            service: &service.name,
            tags: &service.tags,
            meta: &service.meta,
            port: service.port,
            address: &service.address,
            tagged_addresses: &service.tagged_addresses,
            weights: service.weights,
            enable_tag_override: service.enable_tag_override,
            content_hash: None,
            proxy: (!service.kind.is_typical()).then_some(&service.proxy),
            connect: service.connect.native.then_some(&service.connect),
        }
    }

    pub(super) fn with_hash(self, hash: &'a str) -> Self {
        Self { content_hash: Some(hash), ..self }
    }
}

/// How a service stands.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Health<'a> {
    aggregated_status: CheckStatus,
    service: Option<Local<'a>>,
    checks: Option<&'a [HealthCheck]>,
}

impl<'a> Health<'a> {
    pub(super) fn of(found: &'a ServiceHealth) -> Self {
        Self {
            aggregated_status: found.status,
            service: Some(Local::new(&found.service)),
            checks: Some(&found.checks),
        }
    }

    /// Of a service that is not there.
    pub(super) const fn absent() -> Self {
        Self { aggregated_status: CheckStatus::Critical, service: None, checks: None }
    }
}
