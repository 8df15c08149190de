//! Health of a destination's endpoints, as checks and answers tell it.

use super::{Destination, Endpoint};
use crate::clock;
use crate::health_check::Checks;
use crate::workers::Workers;
use mesh_core::health::check::{Ask, Cause, Config};
use mesh_core::health::outlier::{Admitted, Probe, Probed};
use mesh_core::{EndpointId, EndpointSet, Member, Outcome, Policy, Timestamp};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

impl Destination {
    /// Where background work is done.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.environment.runtime
    }

    /// Whether it was ever called.
    pub(crate) fn was_called(&self) -> bool {
        self.shared.metrics.counts().picks > 0
    }

    pub(crate) const fn checks(&self) -> &Checks {
        &self.checks
    }

    /// Checks the endpoints of a set that takes the place of `old`. With `afresh` the endpoints
    /// are those of before, reached in another way.
    pub(super) fn check(
        self: &Arc<Self>,
        policy: &Arc<Policy>,
        old: &EndpointSet<Workers>,
        set: &EndpointSet<Workers>,
        afresh: bool,
    ) {
        if policy.health_check.is_none() {
            return;
        }
        let known: HashMap<&EndpointId, &Member<Workers>> =
            old.members().iter().map(|member| (member.endpoint.id(), member)).collect();
        self.checks.follow(self, set, policy, false, |member| {
            known.get(member.endpoint.id()).is_none_or(|known| {
                if afresh {
                    !known.endpoint.health().is_well()
                } else {
                    !Arc::ptr_eq(&known.endpoint, &member.endpoint)
                }
            })
        });
    }

    /// Takes over what a check saw, beyond whether the endpoint is well.
    pub(crate) fn checked(&self, endpoint: &Endpoint, seen: Result<(), Cause>, now: Timestamp) {
        self.shared.metrics.checked(seen);
        if seen.is_ok() && self.detector.load().check_passed(endpoint, now) {
            tracing::info!(
                "mesh.destination" = &*self.label,
                "mesh.endpoint" = %endpoint.id(),
                "endpoint readmitted: its health check succeeded",
            );
        }
    }

    /// Asks for a call to be sent to an ejected endpoint that was picked.
    pub(crate) fn admit_on_probation(&self, endpoint: &Endpoint, now: Timestamp) -> Admitted {
        self.detector.load().admit(endpoint, now)
    }

    /// Records how the call ended that decides about an endpoint's probation. False if it decided
    /// nothing: then it is a call like any other.
    #[cold]
    pub(crate) fn probed(
        &self,
        endpoint: &Endpoint,
        probe: Probe,
        outcome: Outcome,
        now: Timestamp,
    ) -> bool {
        let detector = self.detector.load();
        match detector.probed(endpoint, probe, outcome, now, &mut || fastrand::u64(..)) {
            Probed::Readmitted => tracing::info!(
                "mesh.destination" = &*self.label,
                "mesh.endpoint" = %endpoint.id(),
                "endpoint readmitted: a call on probation succeeded",
            ),
            Probed::Ejected(ejection) => self.ejected(&ejection),
            Probed::Undecided => return false,
        }
        true
    }

    /// Hands a latency to outlier detection, where it compares them.
    pub(crate) fn observe_latency(&self, endpoint: &Endpoint, took: Duration) {
        self.detector.load().observe(endpoint, took);
    }

    /// One of the endpoint's answers said that it is to be taken out. Nothing, where it is watched:
    /// then it says so there, and would not say that it is well again.
    #[cold]
    pub(crate) fn failed_itself(&self, endpoint: &Endpoint) {
        let policy = self.policy.get();
        let ask = policy.health_check.as_ref().and_then(Config::ask);
        if matches!(ask, Some(Ask::Grpc(grpc)) if grpc.watch) {
            return;
        }
        self.shared.metrics.checked(Err(Cause::ImmediateFail));
        if endpoint.health().set_not_well(clock::now(), Cause::ImmediateFail) {
            tracing::warn!(
                "mesh.destination" = &*self.label,
                "mesh.endpoint" = %endpoint.id(),
                "endpoint unhealthy: {}", Cause::ImmediateFail,
            );
        }
    }

    /// Whether no endpoint can be picked, and the first check of one is still under way.
    pub(super) fn awaits_check(&self) -> bool {
        let picker = self.picker.load();
        let members = picker.set().members();
        members.iter().any(|member| member.endpoint.health().is_unchecked())
            && !members.iter().any(|member| member.endpoint.is_selectable())
    }
}
