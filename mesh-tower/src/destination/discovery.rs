//! Discovery: the one task of a destination, which takes over the endpoints that discovery names, and
//! wakes the outlier sweep.

use super::{Destination, Endpoint, Source, limit};
use crate::clock;
use crate::connect::{Caps, Connections};
use crate::workers::Workers;
use mesh_core::snapshot::EndpointSource;
use mesh_core::{EndpointSet, EndpointSpec, Timestamp};
use mesh_discovery::{Failure, Sources, Update};
use std::collections::HashSet;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// What discovery has said so far.
#[derive(Clone, Debug)]
pub(super) enum Resolution {
    /// Nothing yet.
    Waiting,
    /// A set of endpoints, perhaps an empty one.
    Known,
    /// No set so far, and the last attempt failed for this reason.
    Failed(Failure),
}

impl Destination {
    /// Starts the task that follows discovery, in place of the one before. With `afresh`,
    /// endpoints get new connections and lose their history at its first update.
    pub(super) fn restart(self: &Arc<Self>, source: &mut Source, afresh: bool) {
        source.generation += 1;
        source.doubted = None;
        let follow = Follow {
            destination: Arc::downgrade(self),
            ask_again: self.ask_again.clone(),
            sources: self.environment.sources.clone(),
            endpoints: source.endpoints.clone(),
            generation: source.generation,
            afresh,
        };
        let task = self.environment.runtime.spawn(follow.run(self.next_sweep())).abort_handle();
        if let Some(old) = source.task.replace(task) {
            old.abort();
        }
    }

    /// Takes over what discovery says, if `generation` is the task in charge. With `afresh`,
    /// endpoints get new connections and lose their history.
    pub(super) fn update(
        self: &Arc<Self>,
        generation: u64,
        afresh: bool,
        specs: Vec<EndpointSpec>,
    ) {
        let mut source = self.source.lock();
        if source.generation != generation {
            return;
        }
        let old = self.picker.get();
        let from = if afresh { EndpointSet::empty() } else { old.set().clone() };
        let specs = self.believed(&mut source, &from, specs);
        let (workers, now) = (self.environment.workers, clock::now());
        let (set, change) = from.update(specs, |spec| {
            Workers::new(workers, spec.declared, now, |limits| {
                let (addresses, hostname) = (spec.addresses.clone(), spec.hostname.clone());
                let destination = self.shared.limits.clone();
                Connections::new(addresses, hostname, source.connect.clone())
                    .capped(Caps { destination, endpoint: limits.clone() })
            })
        });
        let policy = self.policy.get();
        for member in set.members() {
            limit(&member.endpoint, &policy);
            member.endpoint.connections.declared(member.spec.declared, now);
        }
        self.check(&policy, old.set(), &set, afresh);
        let kept: HashSet<*const Endpoint> =
            set.members().iter().map(|member| Arc::as_ptr(&member.endpoint)).collect();
        self.listening.follow(self, &set, &policy, false);
        self.put(set, &policy);
        drop(source);
        self.resolution.send_replace(Resolution::Known);
        for member in old.set().members() {
            if !kept.contains(&Arc::as_ptr(&member.endpoint)) {
                member.endpoint.connections.all().for_each(|connections| connections.drain());
            }
        }
        if !change.is_empty() {
            tracing::debug!(
                "mesh.destination" = &*self.label,
                added = change.added.len(),
                changed = change.changed.len(),
                removed = change.removed.len(),
                "endpoints changed",
            );
        }
    }

    fn failed(&self, failure: Failure) {
        tracing::warn!("mesh.destination" = &*self.label, "discovery failed: {failure}");
        self.resolution.send_if_modified(|seen| {
            if matches!(seen, Resolution::Known) {
                return false;
            }
            *seen = Resolution::Failed(failure);
            true
        });
    }

    /// When outlier detection is to compare its endpoints, whatever task does it.
    fn next_sweep(&self) -> Instant {
        let swept = Timestamp::from_nanos(self.swept.load(Relaxed));
        clock::instant(swept + self.policy.load().outlier.interval)
    }
}

/// The destination's task.
struct Follow {
    destination: Weak<Destination>,
    ask_again: Arc<Notify>,
    sources: Sources,
    endpoints: EndpointSource,
    generation: u64,
    afresh: bool,
}

impl Follow {
    async fn run(self, mut next_sweep: Instant) {
        let mut watch = self.sources.resolver(&self.endpoints).watch();
        let mut afresh = self.afresh;
        let mut ended = false;
        loop {
            tokio::select! {
                update = watch.changed(), if !ended => {
                    let Some(destination) = self.destination.upgrade() else { return };
                    match update {
                        Some(Update::Endpoints(specs)) => {
                            destination.update(self.generation, afresh, specs);
                            afresh = false;
                        }
                        Some(Update::Failed(failure)) => destination.failed(failure),
                        Some(_) => {}
                        None => ended = true,
                    }
                }
                () = self.ask_again.notified() => watch.nudge(),
                () = sleep_until(next_sweep) => {
                    let Some(destination) = self.destination.upgrade() else { return };
                    destination.sweep();
                    next_sweep = destination.next_sweep();
                    destination.doubt_again(self.generation);
                }
            }
        }
    }
}
