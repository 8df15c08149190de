//! The configuration in force with the destinations it names: one value, swapped whole.

use super::routing::RoutedConnection;
use crate::call::{Begun, Call};
use crate::clock;
use crate::destination::Destination;
use crate::draws::CallDraws;
use crate::explain::Recording;
use crate::rate_limit::Limit;
use http::Request;
use mesh_core::route::Backend;
use mesh_core::snapshot::{DestinationId, Routed, Snapshot};
use mesh_core::{Error, ErrorKind, Timestamp};
use std::collections::HashMap;
use std::sync::Arc;

/// A snapshot with the destinations it names, in the same order.
pub(super) struct Live {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) destinations: Vec<Arc<Destination>>,
    /// Those of routes, in the order of the snapshot.
    pub(super) limits: Vec<Arc<Limit>>,
}

impl Live {
    /// The rate limits of a snapshot: those that are the same as before keep what they counted.
    pub(super) fn limits_of(&self, snapshot: &Snapshot) -> Vec<Arc<Limit>> {
        let mut known: HashMap<&str, Vec<_>> = HashMap::new();
        for (written, limit) in self.snapshot.route_limits().iter().zip(&self.limits) {
            known.entry(&written.route).or_default().push((&written.config, limit));
        }
        let made = snapshot.route_limits().iter().map(|written| {
            let known = known.get(&*written.route).into_iter().flatten();
            match known.into_iter().find(|(config, _)| **config == written.config) {
                Some((_, limit)) => Arc::clone(limit),
                None => Arc::new(Limit::new(&written.config)),
            }
        });
        made.collect()
    }

    pub(super) fn at(&self, id: DestinationId) -> Option<&Arc<Destination>> {
        self.destinations.get(id.index())
    }

    /// In place of the backend that was drawn, while it has no endpoint that is up, the first of
    /// those that stand in for it which has one.
    pub(super) fn stand_in<'a>(
        &self,
        routed: &mut Routed<'a>,
        now: Timestamp,
        recording: Option<&Arc<Recording>>,
    ) {
        let drawn: &'a Backend = routed.backend;
        let Some(failover) = &drawn.failover else { return };
        let can_take = |backend: &&'a Backend| {
            let destination = self.at(backend.destination);
            destination.is_some_and(|known| known.can_take(backend.subset.as_deref(), now))
        };
        routed.backend =
            std::iter::once(drawn).chain(failover.iter()).find(can_take).unwrap_or(drawn);
        if let Some(recording) = recording
            && !std::ptr::eq(routed.backend, drawn)
        {
            let label = |backend: &Backend| backend.label(&self.snapshot).unwrap_or_default();
            recording.stands_in(&label(drawn), &label(routed.backend));
        }
    }

    fn destination_of(&self, routed: &Routed<'_>) -> Result<Arc<Destination>, Error> {
        self.at(routed.backend.destination).cloned().ok_or_else(|| {
            Error::new(ErrorKind::NoDestination, "the route names a destination that is gone")
        })
    }

    /// A connection, as a rule has decided.
    pub(super) fn connection(&self, mut routed: Routed<'_>) -> Result<RoutedConnection, Error> {
        self.stand_in(&mut routed, clock::now(), None);
        let routed = &routed;
        Ok(RoutedConnection {
            destination: self.destination_of(routed)?,
            policy: routed.backend.policy.clone(),
            subset: routed.backend.subset.clone(),
        })
    }

    /// A call, as a rule has decided.
    pub(super) fn call<B>(
        &self,
        request: &Request<B>,
        begun: Begun,
        draws: CallDraws,
        routed: &Routed<'_>,
    ) -> Result<Call, Error> {
        let policy = routed.backend.policy.clone();
        let mut call = Call::of(request, begun, policy, self.destination_of(routed)?);
        call.draws = draws;
        call.rule = Some(routed.rule.clone());
        call.filters = routed.backend.filters.clone();
        call.subset = routed.backend.subset.clone();
        if let Some(id) = routed.backend.rate_limit {
            call.rate_limit = self.limits.get(id.index()).cloned();
        }
        Ok(call)
    }
}
