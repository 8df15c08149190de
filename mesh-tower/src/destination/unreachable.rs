//! Unreachable: an endpoint that cannot be connected to, until it can.
//!
//! An endpoint that cannot be connected to is out until a task of its own has opened a connection:
//! within 100 ms of the failure, then with full jitter up to 1 s, so that a destination that was down
//! as a whole serves again within a second of coming back.

use super::{Destination, Endpoint};
use crate::clock;
use crate::workers::Worker;
use mesh_core::retry::backoff;
use mesh_core::{Error, ErrorKind};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::sleep;

/// Background attempts to reach an endpoint that refused: 100 ms, doubling to 1 s.
const RECONNECT: backoff::Config =
    backoff::Config::new(Duration::from_millis(100), Duration::from_secs(1));

impl Destination {
    /// The endpoint could not be connected to: takes it out, asks discovery again, and tries it
    /// in the background until it answers or is removed.
    pub(crate) fn unreachable(self: &Arc<Self>, endpoint: &Arc<Endpoint>, error: &Error) {
        if !endpoint.connections.lost(error) {
            return;
        }
        let delay = RECONNECT.delay(1, &mut || fastrand::u64(..));
        let now = clock::now();
        endpoint.health().set_unreachable(now, now + delay);
        tracing::warn!(
            "mesh.destination" = &*self.label,
            "mesh.endpoint" = %endpoint.id(),
            "endpoint unreachable: {}", error.message(),
        );
        self.ask_again.notify_one();
        let task = reconnect(Arc::downgrade(self), endpoint.clone(), delay);
        self.environment.runtime.spawn(task);
    }

    /// A connection broke under an attempt: asks in the background whether the endpoint still
    /// accepts any, so that a dead one is out before the next call picks it.
    pub(crate) fn suspect(self: &Arc<Self>, endpoint: &Arc<Endpoint>, error: &Error) {
        // Over HTTP/2 it may be one stream that was reset, which says nothing about the rest.
        let stream = error.kind() == ErrorKind::RemoteReset
            && endpoint.connections.all().any(|connections| connections.counts().http2 > 0);
        if stream || endpoint.health().is_unreachable() || !endpoint.connections.begin_asking() {
            return;
        }
        let (destination, endpoint) = (Arc::downgrade(self), endpoint.clone());
        let protocol = self.policy.load().protocol;
        self.environment.runtime.spawn(async move {
            let reached = endpoint.connections.of(Worker::default()).probe(protocol).await;
            endpoint.connections.end_asking();
            // That no connection may be opened says nothing about the endpoint.
            if let (Err(error), Some(destination)) = (reached, destination.upgrade())
                && error.kind() != ErrorKind::Overflow
            {
                destination.unreachable(&endpoint, &error.with_endpoint(endpoint.id()));
            }
        });
    }
}

/// Tries an unreachable endpoint until it answers, is removed, or the destination is gone.
async fn reconnect(destination: Weak<Destination>, endpoint: Arc<Endpoint>, mut delay: Duration) {
    let mut attempt = 1;
    loop {
        sleep(delay).await;
        let Some(protocol) = destination.upgrade().map(|known| known.policy.load().protocol) else {
            return;
        };
        let reached = endpoint.connections.of(Worker::default()).probe(protocol).await;
        let Some(destination) = destination.upgrade() else { return };
        let now = clock::now();
        match reached {
            Ok(()) => {
                endpoint.load().came_back();
                endpoint.health().set_reachable(now);
                endpoint.connections.found();
                tracing::info!("mesh.destination" = &*destination.label, "mesh.endpoint" = %endpoint.id(), "endpoint reachable again");
                return;
            }
            Err(error) => {
                attempt += 1;
                delay = RECONNECT.delay(attempt, &mut || fastrand::u64(..));
                endpoint.health().set_unreachable(now, now + delay);
                endpoint.connections.lost(&error.clone().with_endpoint(endpoint.id()));
                tracing::debug!("mesh.destination" = &*destination.label, "mesh.endpoint" = %endpoint.id(), "still unreachable: {}", error.message());
            }
        }
        let here = destination
            .picker
            .load()
            .set()
            .members()
            .iter()
            .any(|member| Arc::ptr_eq(&member.endpoint, &endpoint));
        if !here {
            return;
        }
    }
}
