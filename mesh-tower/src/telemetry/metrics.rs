//! Metrics: what is counted, and where.
//!
//! A [`Metrics`] handle is one registry; a mesh has one. Each destination resolves its
//! [`DestinationMetrics`] once and adds to plain atomics from then on: relaxed additions, no
//! lock, no hashing, no text. Names and labels are written when a page is scraped.
//!
//! | instrument | labels | counted |
//! |---|---|---|
//! | `http.client.request.duration` (s) | `server.address`, `http.request.method`, `http.response.status_code`, `error.type` | each attempt, to the end of its response body |
//! | `rpc.client.call.duration` (s) | `server.address`, `rpc.system.name`, `rpc.response.status_code` | each gRPC call with all its attempts |
//! | `http.server.request.duration` (s) | `http.request.method`, `http.response.status_code`, `error.type` | each request served, refused ones included |
//! | `rpc.server.call.duration` (s) | `rpc.system.name`, `rpc.response.status_code` | each gRPC call served |
//! | `mesh.tls.handshakes` | `result` = success, client_certificate, timeout, failure | TLS handshakes of callers |
//! | `mesh.calls` | `mesh.destination`, `mesh.outcome` = success, failure, cancelled | each call with all its attempts |
//! | `mesh.retry.attempts` | `mesh.destination` | attempts after the first |
//! | `mesh.retry.hedges` | `mesh.destination` | of these, those sent beside an attempt under way |
//! | `mesh.retry.budget.exhausted` | `mesh.destination` | retries the budget refused |
//! | `mesh.retry.budget.remaining` | `mesh.destination` | retries the budget would allow now |
//! | `mesh.lb.picks` | `mesh.destination` | endpoints picked |
//! | `mesh.lb.endpoints` | `mesh.destination`, `state` | endpoints by state, now |
//! | `mesh.lb.ejections` | `mesh.destination` | endpoints ejected by outlier detection |
//! | `mesh.health_check.results` | `mesh.destination`, `result` = success, or why it failed: status, grpc_status, not_serving, immediate_fail, connect, timeout, reset, garbage, too_long | active health checks |
//! | `mesh.probes` | `mesh.destination`, `result` = answered, unanswered, refused | endpoints asked for a load report before a pick; no calls |
//! | `mesh.breaker.transitions` | `mesh.destination`, `state` = closed, open, half_open | breakers that came into the state |
//! | `mesh.fault.delays`, `mesh.fault.aborts` | `mesh.destination` | calls delayed, and calls failed, on purpose |
//! | `mesh.mirror.copies`, `mesh.mirror.dropped` | `mesh.destination` | copies of requests sent there, and copies given up before |
//! | `mesh.ratelimit.denied` | `mesh.destination`, `mesh.enforced` | calls over a rate limit; those not enforced passed |
//! | `mesh.server.ratelimit.denied` | `mesh.enforced` | requests over a rate limit; the same |
//! | `mesh.ratelimit.global` | `mesh.destination`, `mesh.result` | calls that the rate limit service was asked about, by what came of it; `failure_mode_allowed` are errors that let the call pass |
//! | `mesh.server.ratelimit.global` | `mesh.result` | requests; the same |
//! | `mesh.shed` | `mesh.destination`, `mesh.flag` | calls refused before they were sent |
//! | `mesh.metrics.overflow` | `mesh.destination` | requests counted as `_OTHER` because their family is full |
//!
//! Labels are bounded: destinations are capped at [`MAX_DESTINATIONS`], the rest share one called
//! `_OTHER`; statuses are capped per destination (see [`histogram`](super::histogram)). The name of
//! a destination is that of the configuration, or, where a call names a host that nobody
//! configured, the authority as the caller wrote it; such a name and its counters are forgotten
//! when the destination is, some minutes after its last call.
//!
//! Source: OpenTelemetry semantic conventions for HTTP and RPC metrics.

use super::destination_metrics::DestinationMetrics;
use super::server_metrics::ServerMetrics;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Destinations that get labels of their own.
pub const MAX_DESTINATIONS: usize = 1_000;

const OTHER: &str = "_OTHER";

/// A registry of metrics; clones share it.
///
/// ```
/// use mesh_core::Outcome;
/// use mesh_tower::telemetry::Metrics;
///
/// let metrics = Metrics::new();
/// let inventory = metrics.destination("inventory");
/// inventory.call_ended(Outcome::Success);
/// assert_eq!(metrics.destination("inventory").counts().succeeded, 1);
/// ```
#[derive(Clone, Default)]
pub struct Metrics(Arc<Registry>);

#[derive(Default)]
struct Registry {
    destinations: Mutex<BTreeMap<Arc<str>, Arc<DestinationMetrics>>>,
    server: Arc<ServerMetrics>,
}

impl Metrics {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The metrics of a destination: the same for the same name.
    ///
    /// Takes a lock; call it once per destination, not once per call.
    #[must_use]
    pub fn destination(&self, name: &str) -> Arc<DestinationMetrics> {
        let mut destinations = self.0.destinations.lock();
        if let Some(known) = destinations.get(name) {
            return known.clone();
        }
        let name = if destinations.len() < MAX_DESTINATIONS { name } else { OTHER };
        let name: Arc<str> = name.into();
        destinations
            .entry(name.clone())
            .or_insert_with(|| Arc::new(DestinationMetrics::new(name)))
            .clone()
    }

    /// Forgets a destination, unless somebody still counts for it.
    pub(crate) fn forget(&self, name: &str) {
        let mut destinations = self.0.destinations.lock();
        if destinations.get(name).is_some_and(|known| Arc::strong_count(known) == 1) {
            destinations.remove(name);
        }
    }

    /// The metrics that destinations without a name of their own share: for names that come from
    /// calls instead of configuration.
    #[must_use]
    pub fn other(&self) -> Arc<DestinationMetrics> {
        self.destination(OTHER)
    }

    /// The metrics of what this process serves.
    #[must_use]
    pub fn server(&self) -> &Arc<ServerMetrics> {
        &self.0.server
    }

    /// All destinations, by name.
    #[must_use]
    pub fn destinations(&self) -> Vec<Arc<DestinationMetrics>> {
        self.0.destinations.lock().values().cloned().collect()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.destinations.lock().keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Counts;
    use super::*;

    #[test]
    fn the_same_name_is_the_same_destination() {
        let metrics = Metrics::new();
        metrics.destination("a").retried();
        metrics.clone().destination("a").retried();
        assert_eq!(metrics.destination("a").counts().retries, 2);
        assert_eq!(metrics.destination("b").counts(), Counts::default());
    }

    #[test]
    fn destinations_beyond_the_cap_share_one() {
        let metrics = Metrics::new();
        for i in 0..MAX_DESTINATIONS + 10 {
            metrics.destination(&format!("host-{i}")).picked();
        }
        assert_eq!(metrics.destinations().len(), MAX_DESTINATIONS + 1);
        assert_eq!(metrics.other().counts().picks, 10);
        assert_eq!(metrics.destination("host-0").counts().picks, 1);
    }
}
