//! dashboard: shows the count and a greeting; axum, and every call it makes goes through the mesh.
//!
//! `/` is what a user sees. `/without` asks counting as a client without a mesh would, to have
//! something to compare with. `/state` is what the demo draws.

use crate::Done;
use crate::greeter_proto::HelloRequest;
use crate::greeter_proto::greeter_client::GreeterClient;
use crate::services::counting::Count;
use crate::services::unmeshed::{self, Unmeshed};
use axum::extract::State;
use axum::http::{Request, Response, StatusCode};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use http_body_util::BodyExt;
use mesh_tower::{Body, Mesh};
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tower::ServiceExt;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to serve.
    #[arg(long)]
    listen: SocketAddr,
    /// The mesh's configuration.
    #[arg(long)]
    config: PathBuf,
    #[command(flatten)]
    unmeshed: unmeshed::Args,
}

/// What a user of the dashboard sees.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Page {
    pub(crate) count: u64,
    pub(crate) instance: String,
    pub(crate) greeting: String,
}

/// What the mesh in the dashboard knows of one destination.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct DestinationRow {
    pub(crate) name: String,
    pub(crate) retries: u64,
    pub(crate) attempts: u64,
    pub(crate) ejections: u64,
    pub(crate) endpoints: Vec<EndpointRow>,
}

/// One endpoint of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct EndpointRow {
    pub(crate) address: String,
    /// In full, with reason and time.
    pub(crate) state: String,
    pub(crate) kind: String,
    pub(crate) reason: String,
    pub(crate) load_ms: Option<f64>,
    pub(crate) attempts: u64,
}

pub(crate) async fn run(args: Args) -> Done {
    let mesh = Mesh::builder().config_file(args.config).build()?;
    let unmeshed = Arc::new(Unmeshed::new(args.unmeshed)?);
    let app = Router::new()
        .route("/", get(page))
        .layer(mesh.server())
        .route("/state", get(state))
        .with_state(mesh.clone())
        .route("/without", get(move || without(unmeshed.clone())));
    axum::serve(mesh.listen(args.listen).await?, app).await?;
    Ok(true)
}

type Failed = (StatusCode, String);

async fn page(State(mesh): State<Mesh>) -> Result<Json<Page>, Failed> {
    let mut greeter = GreeterClient::new(mesh.channel("greeter"));
    let hello = HelloRequest { name: "dashboard".to_owned() };
    let counting = mesh
        .channel("counting")
        .oneshot(Request::get("/count").body(Body::empty()).map_err(bad_gateway)?);
    let (count, greeting) = tokio::join!(counting, greeter.say_hello(hello));
    let count = read(count.map_err(bad_gateway)?).await?;
    let greeting = greeting.map_err(bad_gateway)?.into_inner().message;
    Ok(Json(Page { count: count.count, instance: count.instance, greeting }))
}

async fn without(unmeshed: Arc<Unmeshed>) -> Result<Json<Count>, Failed> {
    let request = Request::get("http://counting/count").body(Body::empty()).map_err(bad_gateway)?;
    read(unmeshed.send(request).await.map_err(bad_gateway)?).await.map(Json)
}

async fn read<B>(response: Response<B>) -> Result<Count, Failed>
where
    B: http_body::Body<Data = Bytes, Error: Display>,
{
    if response.status() != StatusCode::OK {
        return Err((StatusCode::BAD_GATEWAY, format!("counting answered {}", response.status())));
    }
    let body = response.into_body().collect().await.map_err(bad_gateway)?.to_bytes();
    serde_json::from_slice(&body).map_err(bad_gateway)
}

fn bad_gateway(error: impl Display) -> (StatusCode, String) {
    (StatusCode::BAD_GATEWAY, error.to_string())
}

async fn state(State(mesh): State<Mesh>) -> Json<Vec<DestinationRow>> {
    Json(mesh.destinations().into_iter().map(Into::into).collect())
}

impl From<mesh_tower::DestinationState> for DestinationRow {
    fn from(state: mesh_tower::DestinationState) -> Self {
        Self {
            name: state.name.to_string(),
            retries: state.retries,
            attempts: state.attempts,
            ejections: state.ejections,
            endpoints: state
                .endpoints
                .into_iter()
                .map(|endpoint| EndpointRow {
                    address: endpoint.id.to_string(),
                    state: endpoint.state.to_string(),
                    kind: endpoint.state.kind.to_string(),
                    reason: endpoint.state.reason.into_owned(),
                    load_ms: endpoint.load.map(|load| load * 1000.0),
                    attempts: endpoint.attempts,
                })
                .collect(),
        }
    }
}
