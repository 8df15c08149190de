//! State: a destination as the admin page and the metrics show it.

use super::{Destination, Endpoint};
use crate::telemetry::{Observe, Observed};
use mesh_core::health::{EndpointState, StateKind};
use mesh_core::{EndpointId, Timestamp};
use std::sync::Arc;
use std::time::Duration;

/// A destination as the admin page shows it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DestinationState {
    /// Its name; for one without configuration, the authority that calls named.
    pub name: Arc<str>,
    /// Attempts made.
    pub attempts: u64,
    /// How many of them were retries.
    pub retries: u64,
    /// How often outlier detection ejected an endpoint.
    pub ejections: u64,
    /// Those who serve it.
    pub endpoints: Vec<EndpointView>,
}

/// An endpoint as the admin page shows it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EndpointView {
    /// Its id, by default its address.
    pub id: EndpointId,
    /// Its state, with reason and times.
    pub state: EndpointState,
    /// How long it has been in this state; a ready one that was never out: in its set.
    pub lasted: Duration,
    /// Attempts made.
    pub attempts: u64,
    /// Attempts in flight.
    pub in_flight: u32,
    /// What the picker compares, in seconds; none if it does not go by latency.
    pub load: Option<f64>,
    /// Its configured share.
    pub weight: u32,
    /// Open connections.
    pub connections: usize,
}

impl Destination {
    /// Who serves it, in which state, with which load.
    pub(crate) fn state(&self, now: Timestamp) -> DestinationState {
        let policy = self.policy.load();
        let picker = self.picker.load();
        let counts = self.shared.metrics.counts();
        DestinationState {
            name: self.label.clone(),
            attempts: counts.picks,
            retries: counts.retries,
            ejections: counts.ejections,
            endpoints: picker
                .set()
                .members()
                .iter()
                .map(|member| {
                    let endpoint = &member.endpoint;
                    let (state, since) = told(endpoint, now);
                    EndpointView {
                        id: endpoint.id().clone(),
                        state,
                        lasted: now.since(since),
                        attempts: endpoint.connections.attempts(),
                        in_flight: endpoint.load().in_flight(),
                        load: policy.pick.load(endpoint.load(), now),
                        weight: member.spec.weight,
                        connections: endpoint
                            .connections
                            .all()
                            .map(|connections| connections.counts().connections())
                            .sum(),
                    }
                })
                .collect(),
        }
    }
}

/// The state of an endpoint with all that is known here, and since when it is in it.
fn told(endpoint: &Endpoint, now: Timestamp) -> (EndpointState, Timestamp) {
    let mut state = endpoint.state(now);
    if state.kind == StateKind::Unreachable
        && let Some(cause) = endpoint.connections.cause()
    {
        state.reason = cause.message().to_owned().into();
    }
    let declared = endpoint.connections.declared_since();
    let since = match state.since {
        // It is not ready for longer than discovery says that it may be called.
        Some(since) if state.kind == StateKind::Ready => since.max(declared),
        Some(since) => since,
        None => declared,
    };
    (state, since)
}

impl Observe for Destination {
    fn observe(&self, now: Timestamp) -> Observed {
        let mut endpoints: Vec<(&'static str, u64)> = Vec::new();
        for member in self.picker.load().set().members() {
            let state = member.endpoint.state(now).kind.as_str();
            match endpoints.iter_mut().find(|(known, _)| *known == state) {
                Some((_, count)) => *count += 1,
                None => endpoints.push((state, 1)),
            }
        }
        Observed { endpoints, budget_remaining: Some(u64::from(self.shared.budget.remaining(now))) }
    }
}
