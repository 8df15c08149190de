//! `/v1/coordinate`: network coordinates of nodes, of which we keep none.
//!
//! Consul estimates round trips between nodes by gossip. We have no gossip: there is a datacenter,
//! and no node has a coordinate, which every client of these endpoints has to expect of a node that
//! joined a moment ago.

use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;
use serde::Serialize;

use super::query::Name;
use super::{Answer, Api, ApiError, GET, Parameters, Route};
use crate::registry::{Indexed, Topic, View};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::new(GET, "/v1/coordinate/datacenters", &[], "tells our datacenter", datacenters),
        Route::new(
            GET,
            "/v1/coordinate/nodes",
            &["index", "wait", "dc"],
            "always empty: no node has a coordinate",
            nodes,
        ),
        Route::new(GET, "/v1/coordinate/node/{*name}", &["dc"], "404: as above", node),
    ]
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Datacenter<'a> {
    datacenter: &'a str,
    #[serde(rename = "AreaID")]
    area: &'static str,
    coordinates: [(); 0],
}

async fn datacenters(
    State(api): State<Arc<Api>>,
    parameters: Parameters,
) -> Result<Answer, ApiError> {
    let own = Datacenter { datacenter: &api.datacenter, area: "wan", coordinates: [] };
    Ok(Answer::json(&api, &parameters, &[own]))
}

async fn nodes(State(api): State<Arc<Api>>, parameters: Parameters) -> Result<Answer, ApiError> {
    let read = |_: &View| Indexed::new(1, [(); 0]);
    let none = api.blocking(&parameters, &[Topic::Nodes], read).await?;
    Ok(Answer::query(&api, &parameters, &none))
}

async fn node(
    State(api): State<Arc<Api>>,
    name: Name,
    parameters: Parameters,
) -> Result<Answer, ApiError> {
    parameters.datacenter(&api)?;
    name.or_missing("node name")?;
    Ok(Answer::empty(StatusCode::NOT_FOUND))
}
