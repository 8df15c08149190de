//! counting: answers with how often it was asked. One instance links the mesh, two do not.

use crate::Done;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use mesh_tower::Mesh;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to serve.
    #[arg(long)]
    listen: SocketAddr,
    /// Where faults are planted; never through the mesh.
    #[arg(long)]
    control: SocketAddr,
    /// The instance's name, in its answers.
    #[arg(long)]
    name: String,
    /// Certificate, key and client CA: links the mesh and serves mTLS. Without them plain HTTP.
    #[arg(long, num_args = 3, value_names = ["CERT", "KEY", "CA"])]
    mtls: Option<Vec<PathBuf>>,
}

#[derive(Debug, Default)]
struct Counter {
    name: String,
    count: AtomicU64,
    failing: AtomicBool,
    delay_ms: AtomicU64,
}

/// What the dashboard reads.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Count {
    pub(crate) count: u64,
    pub(crate) instance: String,
}

/// What the demo plants.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Fault {
    pub(crate) failing: bool,
    pub(crate) delay_ms: u64,
}

pub(crate) async fn run(args: Args) -> Done {
    let counter = Arc::new(Counter { name: args.name, ..Counter::default() });
    let control = Router::new().route("/fault", post(plant)).with_state(counter.clone());
    let control_listener = TcpListener::bind(args.control).await?;
    tokio::spawn(async move { axum::serve(control_listener, control).await });

    let app = Router::new().route("/count", get(count)).with_state(counter);
    match args.mtls.as_deref() {
        Some([cert, key, ca]) => {
            let mesh = Mesh::builder().server_tls(cert, key, Some(ca.clone())).build()?;
            axum::serve(mesh.listen(args.listen).await?, app.layer(mesh.server())).await?;
        }
        _ => axum::serve(TcpListener::bind(args.listen).await?, app).await?,
    }
    Ok(true)
}

async fn count(State(counter): State<Arc<Counter>>) -> Result<Json<Count>, StatusCode> {
    if counter.failing.load(Ordering::Relaxed) {
        return Err(StatusCode::SERVICE_UNAVAILABLE);
    }
    let delay = counter.delay_ms.load(Ordering::Relaxed);
    if delay > 0 {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    let count = counter.count.fetch_add(1, Ordering::Relaxed) + 1;
    Ok(Json(Count { count, instance: counter.name.clone() }))
}

async fn plant(State(counter): State<Arc<Counter>>, Query(fault): Query<Fault>) {
    counter.failing.store(fault.failing, Ordering::Relaxed);
    counter.delay_ms.store(fault.delay_ms, Ordering::Relaxed);
}
