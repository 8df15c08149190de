//! Consul as a source: a scripted server for what Consul does not do when asked, then a real one.

#![cfg(feature = "consul")]
#![allow(missing_docs)]

mod faults;
mod real;
mod server;

use mesh_core::snapshot::ConsulService;
use mesh_discovery::consul::Config;
use mesh_discovery::{Consul, Failure, Resolve, Update, Watch};
use std::net::SocketAddr;
use std::time::Duration;

/// Longer than any machine under load should need.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn consul(address: SocketAddr) -> Consul {
    let mut config = Config::default();
    config.address = address.to_string().parse().expect("an address");
    config.seed = Some(42);
    Consul::new(config)
}

pub(crate) fn web(address: SocketAddr) -> Watch {
    consul(address).service(ConsulService::new("web")).watch()
}

/// The next update, which must come.
pub(crate) async fn next(watch: &mut Watch) -> Update {
    tokio::time::timeout(PATIENCE, watch.changed())
        .await
        .expect("an update was due")
        .expect("the source goes on")
}

/// The identities in the next set, past failures.
pub(crate) async fn ids(watch: &mut Watch) -> Vec<String> {
    loop {
        if let Update::Endpoints(specs) = next(watch).await {
            return specs.iter().map(|spec| spec.id.to_string()).collect();
        }
    }
}

/// The next failure, which must come before another set.
pub(crate) async fn failure(watch: &mut Watch) -> Failure {
    match next(watch).await {
        Update::Failed(failure) => failure,
        other => panic!("a failure was due, not {other:?}"),
    }
}
