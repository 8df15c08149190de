//! Outcomes: what attempts ended with, handed to outlier detection and to breakers.

use super::{Destination, Endpoint};
use crate::clock;
use crate::telemetry::BreakerState;
use mesh_core::health::breaker::{self, Admission, Transition};
use mesh_core::health::outlier::Ejection;
use mesh_core::{Outcome, Timestamp};
use std::sync::atomic::Ordering::Relaxed;

impl Destination {
    /// Hands the outcome of an attempt to outlier detection.
    pub(crate) fn record(&self, endpoint: &Endpoint, outcome: Outcome, now: Timestamp) {
        // Only a failure can eject, and only an ejection is bounded by the size of the set.
        let size = if outcome.is_failure() { self.picker.load().set().members().len() } else { 0 };
        let ejection =
            self.detector.load().record(endpoint, size, outcome, now, &mut || fastrand::u64(..));
        if let Some(ejection) = ejection {
            self.ejected(&ejection);
        }
    }

    /// Hands the outcome of an attempt to the endpoint's breaker.
    pub(crate) fn breaker_record(
        &self,
        endpoint: &Endpoint,
        admission: Admission,
        outcome: Outcome,
        now: Timestamp,
        config: &breaker::Config,
    ) {
        let draw = &mut || fastrand::u64(..);
        let to = match endpoint.breaker().record(admission, outcome, now, config, draw) {
            Some(Transition::Opened(span)) => {
                tracing::warn!(
                    "mesh.destination" = &*self.label,
                    "mesh.endpoint" = %endpoint.id(),
                    "breaker open for {span:?}",
                );
                BreakerState::Open
            }
            Some(_) => {
                tracing::info!(
                    "mesh.destination" = &*self.label,
                    "mesh.endpoint" = %endpoint.id(),
                    "breaker closed",
                );
                BreakerState::Closed
            }
            None => return,
        };
        self.shared.metrics.breaker_changed(to);
    }

    pub(super) fn ejected(&self, ejection: &Ejection) {
        self.shared.metrics.ejected();
        tracing::warn!(
            "mesh.destination" = &*self.label,
            "mesh.endpoint" = %ejection.endpoint,
            "endpoint ejected: {}, returns in {:?}", ejection.reason, ejection.duration,
        );
    }

    pub(super) fn sweep(&self) {
        let now = clock::now();
        self.swept.store(now.as_nanos(), Relaxed);
        let picker = self.picker.get();
        let sweep = self.detector.load().sweep(picker.set(), now, &mut || fastrand::u64(..));
        sweep.ejected.iter().for_each(|ejection| self.ejected(ejection));
        for endpoint in sweep.readmitted {
            tracing::info!("mesh.destination" = &*self.label, "mesh.endpoint" = %endpoint, "endpoint readmitted");
        }
    }
}
