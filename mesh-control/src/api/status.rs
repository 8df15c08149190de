//! `/v1/status`: who leads. A server whose store is a file of its own leads itself.
//!
//! Consul tells the address of its RPC port, which we have not; ours is that of the API.

use std::sync::Arc;

use axum::extract::State;

use super::{Answer, Api, ApiError, GET, Parameters, Route};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::new(GET, "/v1/status/leader", &["dc"], "tells who leads", leader),
        Route::new(GET, "/v1/status/peers", &["dc"], "tells who could", peers),
    ]
}

async fn leader(State(api): State<Arc<Api>>, parameters: Parameters) -> Result<Answer, ApiError> {
    parameters.datacenter(&api)?;
    Ok(Answer::json(&api, &parameters, &api.address))
}

async fn peers(State(api): State<Arc<Api>>, parameters: Parameters) -> Result<Answer, ApiError> {
    parameters.datacenter(&api)?;
    Ok(Answer::json(&api, &parameters, &[&api.address]))
}
