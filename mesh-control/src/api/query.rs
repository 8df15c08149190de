//! What the queries of the catalog and of health have in common: a name at the end of the path,
//! what narrows the answer, and in which order it is.

use axum::extract::FromRequestParts;
use axum::extract::path::ErrorKind;
use axum::extract::rejection::PathRejection;
use http::request::Parts;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Api, ApiError, Parameters};
use crate::decode;
use crate::filter::{Filter, FilterError, Shape};
use crate::registry::catalog::{Instance, Instances};
use crate::registry::{Indexed, Topic, View};
use crate::types::Node;

/// The rest of the path, decoded: slashes belong to it, and it may be empty.
#[derive(Debug)]
pub(super) struct Name(String);

impl Name {
    /// The name, if there is one.
    pub(super) fn or_missing(self, what: &str) -> Result<String, ApiError> {
        if self.0.is_empty() {
            return Err(ApiError::bad_request(format!("Missing {what}")));
        }
        Ok(self.0)
    }

    /// The name; without one, the caller's mistake in these words.
    pub(super) fn or_error(self, message: &str) -> Result<String, ApiError> {
        if self.0.is_empty() { Err(ApiError::bad_request(message)) } else { Ok(self.0) }
    }

    /// The name, or nothing.
    pub(super) fn or_empty(self) -> String {
        self.0
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let name = axum::extract::Path::<String>::from_request_parts(parts, state).await;
        match name {
            Ok(name) => Ok(Self(name.0)),
            Err(PathRejection::FailedToDeserializePathParams(why))
                if matches!(why.kind(), ErrorKind::InvalidUtf8InPathParam { .. }) =>
            {
                Err(ApiError::bad_request("the path is not UTF-8"))
            }
            // Without a parameter in the route, the path ends where the name would begin.
            Err(_) => Ok(Self(String::new())),
        }
    }
}

/// What narrows a query's answer, and orders it.
#[derive(Debug)]
pub(super) struct Narrow<'a> {
    tags: Vec<&'a str>,
    node_meta: Vec<(&'a str, &'a str)>,
    near: Option<&'a str>,
    filter: Filter,
}

impl<'a> Narrow<'a> {
    /// Reads it from the query; the filter, if the endpoint takes one, is over this shape.
    pub(super) fn read(
        api: &'a Api,
        parameters: &'a Parameters,
        shape: &'static Shape,
    ) -> Result<Self, ApiError> {
        let filter = parameters.value("filter").unwrap_or_default();
        Ok(Self { filter: Filter::new(filter, shape)?, ..Self::unfiltered(api, parameters) })
    }

    /// Reads it from the query of an endpoint that takes no filter.
    pub(super) fn unfiltered(api: &'a Api, parameters: &'a Parameters) -> Self {
        let pairs = parameters.values("node-meta");
        Self {
            tags: parameters.values("tag").filter(|tag| !tag.is_empty()).collect(),
            node_meta: pairs.map(|pair| pair.split_once(':').unwrap_or((pair, ""))).collect(),
            near: parameters.value("near").map(|near| match near {
                "_agent" => api.node_name.as_str(),
                near => near,
            }),
            filter: Filter::default(),
        }
    }

    /// Whether what is on this node is asked for.
    pub(super) fn on(&self, node: &Node) -> bool {
        self.node_meta
            .iter()
            .all(|(key, value)| node.meta.get(*key).is_some_and(|own| own == value))
    }

    /// Puts what is on the node of `near` first, and leaves the rest in its order: we have no
    /// coordinates of nodes, but a node is nearest to itself.
    pub(super) fn near_first<T>(&self, all: &mut [T], node: impl Fn(&T) -> &str) {
        if let Some(near) = self.near {
            all.sort_by_key(|one| !node(one).eq_ignore_ascii_case(near));
        }
    }

    /// The instances of a service that are asked for, in order.
    pub(super) async fn instances(
        &self,
        api: &Api,
        parameters: &Parameters,
        name: &str,
        which: Instances,
    ) -> Result<Indexed<Vec<Instance>>, ApiError> {
        let topic = match which {
            Instances::Named => Topic::service(name),
            Instances::Connect => Topic::connect(name),
        };
        let read = |view: &View| view.catalog().instances(name, which);
        let mut found = api.blocking(parameters, &[topic], read).await?;
        found.value.retain(|instance| {
            self.on(&instance.node) && self.tags.iter().all(|tag| instance.has_tag(tag))
        });
        self.near_first(&mut found.value, |instance| &instance.node.name);
        Ok(found)
    }

    /// Keeps what the filter expression lets pass.
    pub(super) fn filtered<T: Serialize>(&self, all: &mut Vec<T>) {
        self.filter.retain(all);
    }

    /// Keeps that of which a part passes the filter expression.
    pub(super) fn filtered_by<T, P: Serialize>(&self, all: &mut Vec<T>, part: impl Fn(&T) -> &P) {
        if !self.filter.is_empty() {
            let passes = |value| self.filter.matches(&value);
            all.retain(|one| serde_json::to_value(part(one)).is_ok_and(passes));
        }
    }
}

/// Reads the body of a change.
pub(super) fn read_body<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    decode::from_json(body)
        .map_err(|error| ApiError::bad_request(format!("Request decode failed: {error}")))
}

impl From<FilterError> for ApiError {
    fn from(error: FilterError) -> Self {
        Self::new(http::StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

impl Api {
    /// Reads from the view as the query's `dc`, `index`, `wait` and mode say.
    pub(super) async fn blocking<T>(
        &self,
        parameters: &Parameters,
        topics: &[Topic],
        read: impl Fn(&View) -> Indexed<T>,
    ) -> Result<Indexed<T>, ApiError> {
        parameters.datacenter(self)?;
        parameters.consistency()?;
        let wait = parameters.wait()?;
        Ok(self.registry.blocking(wait, topics, read).await)
    }
}
