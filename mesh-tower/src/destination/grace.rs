//! Grace: an empty set is not believed while an endpoint still answers.
//!
//! ```text
//! in use ── discovery names none ──► doubted ── discovery names some ──────────────► in use
//!                                       └────── none answers, or `emptySetGrace` is over ──► empty
//! ```
//!
//! A registry that lost its data, a selector with a slip, or a DNS zone that was emptied by mistake
//! must not take a service down that is well. An endpoint *answers* while it is not known to be
//! unreachable; calls find that out, because endpoints stay in use meanwhile. That is looked at
//! with every outlier sweep. An empty list in the configuration itself is believed at once, and so
//! is a set that names fewer endpoints than before.

use super::{Destination, Source};
use crate::clock;
use mesh_core::snapshot::EndpointSource;
use std::sync::Arc;

impl Destination {
    /// Whether an empty set is not believed yet. The first time, the grace begins.
    pub(super) fn doubts(&self, source: &mut Source) -> bool {
        if matches!(source.endpoints, EndpointSource::Static(_)) {
            return false;
        }
        let picker = self.picker.load();
        let members = picker.set().members();
        if members.iter().all(|member| member.endpoint.health().is_unreachable()) {
            return false;
        }
        let now = clock::now();
        if source.doubted.is_none() {
            tracing::warn!(
                "mesh.destination" = &*self.label,
                "discovery names no endpoint any more; the {} that were there stay in use while \
                 they answer",
                members.len(),
            );
        }
        let since = *source.doubted.get_or_insert(now);
        now.since(since) < picker.config().empty_set_grace
    }

    /// Believes an empty set whose grace is over.
    pub(super) fn doubt_again(self: &Arc<Self>, generation: u64) {
        let doubted = self.source.lock().doubted.is_some();
        if doubted {
            self.update(generation, false, Vec::new());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{destination, refusal};
    use super::*;
    use mesh_core::{Policy, Timestamp};
    use std::time::Duration;

    fn empty(destination: &Arc<Destination>) {
        let generation = destination.source.lock().generation;
        destination.update(generation, false, Vec::new());
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_set_is_believed_when_nobody_answers() {
        let (destination, endpoint) = destination(Policy::default()).await;
        empty(&destination);
        assert!(refusal(&destination).is_none(), "it stays in use");
        endpoint.health().set_unreachable(clock::now(), Timestamp::MAX);
        let generation = destination.source.lock().generation;
        destination.doubt_again(generation);
        assert_eq!(refusal(&destination).expect("nobody").message(), "it has no endpoints");
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_set_is_believed_when_the_grace_is_over() {
        let (destination, _endpoint) = destination(Policy::default()).await;
        empty(&destination);
        // The destination's own task looks again with each sweep.
        tokio::time::sleep(Duration::from_secs(280)).await;
        assert!(refusal(&destination).is_none(), "5 min are not over");
        tokio::time::sleep(Duration::from_secs(40)).await;
        assert!(refusal(&destination).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_set_that_comes_back_ends_the_doubt() {
        let (destination, endpoint) = destination(Policy::default()).await;
        empty(&destination);
        let specs: Vec<_> = destination
            .picker
            .load()
            .set()
            .members()
            .iter()
            .map(|member| (*member.spec).clone())
            .collect();
        let generation = destination.source.lock().generation;
        destination.update(generation, false, specs);
        assert!(destination.source.lock().doubted.is_none());
        let picker = destination.picker.get();
        assert!(Arc::ptr_eq(&picker.set().members()[0].endpoint, &endpoint));
    }
}
