//! What the dashboard would do without a mesh, to compare with: take turns over the addresses.
//!
//! The same connections and mTLS, so that the difference is what the mesh decides: no health, no
//! load, no retry.

use mesh_tower::Body;
use mesh_tower::connect::{Connections, Protocol, ResponseBody, Settings};
use mesh_tower::tls::{Client, ClientConfig};
use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Addresses of counting, for the comparison without the mesh.
    #[arg(long, value_delimiter = ',', required = true)]
    counting: Vec<SocketAddr>,
    /// Own certificate, key and trusted CA, for the same comparison.
    #[arg(long, num_args = 3, value_names = ["CERT", "KEY", "CA"], required = true)]
    mtls: Vec<PathBuf>,
}

/// A client that takes turns.
#[derive(Debug)]
pub(crate) struct Unmeshed {
    addresses: Vec<Arc<Connections>>,
    next: AtomicUsize,
}

impl Unmeshed {
    pub(crate) fn new(args: Args) -> Result<Self, mesh_tower::tls::LoadError> {
        let mut files = args.mtls.into_iter();
        let mut tls = ClientConfig::default();
        (tls.cert, tls.key, tls.ca) = (files.next(), files.next(), files.next());
        tls.server_name = Some("counting".to_owned());
        let mut settings = Settings::default();
        settings.tls = Some(Arc::new(Client::new(tls)?));
        let settings = Arc::new(settings);
        let connections =
            |address| Arc::new(Connections::new(vec![address], None, settings.clone()));
        Ok(Self {
            addresses: args.counting.into_iter().map(connections).collect(),
            next: AtomicUsize::new(0),
        })
    }

    pub(crate) async fn send(
        &self,
        request: http::Request<Body>,
    ) -> Result<http::Response<ResponseBody>, Box<dyn Error + Send + Sync>> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.addresses.len();
        let connections = self.addresses.get(turn).ok_or("no address")?;
        connections.send(request, Protocol::Http1).await.map_err(|failed| failed.error.into())
    }
}
