//! Grace: a set that has lost all or most of its endpoints is not believed while they still answer.
//!
//! ```text
//!          less than half are left                 half are named again
//! in use ───────────────────────────► doubted ────────────────────────────────► in use
//!                                        └─ of those that are missing none answers,
//!                                           or `emptySetGrace` is over ───────► as it is named
//! ```
//!
//! A registry that lost its data, a selector with a slip, or a DNS zone that was emptied by mistake
//! must not take a service down that is well. Half is counted against the endpoints before the loss
//! that discovery declared usable; new ones count as well as old ones, so that a deployment that
//! replaces all of them is believed, and so is a loss of half or less. Meanwhile what is named is
//! in use, changes included, and beside it those that are missing:
//!
//! - of a set that is empty all, while one of them answers;
//! - of another each that answers. One that was declared draining or unhealthy was on its way out.
//!
//! An endpoint *answers* while it is not known to be unreachable; calls find that out, because
//! endpoints stay in use meanwhile. That is looked at with every outlier sweep. A list in the
//! configuration itself is believed at once, and so is the first set of a changed source, unless it is
//! empty.

use super::{Destination, Endpoint, Source};
use crate::clock;
use crate::workers::Workers;
use mesh_core::snapshot::EndpointSource;
use mesh_core::{EndpointSet, EndpointSpec, Timestamp};
use std::collections::HashSet;
use std::sync::Arc;

/// A set that is not believed.
#[derive(Debug)]
pub(super) struct Doubt {
    since: Timestamp,
    /// How many usable endpoints there were before.
    before: usize,
    /// What discovery says.
    named: Vec<EndpointSpec>,
}

impl Destination {
    /// The endpoints that are in use while discovery names these: they themselves, unless they are
    /// too few to be believed. The first time, the grace begins.
    pub(super) fn believed(
        &self,
        source: &mut Source,
        set: &EndpointSet<Workers>,
        named: Vec<EndpointSpec>,
    ) -> Vec<EndpointSpec> {
        let doubt = source.doubted.take();
        let is_news = std::mem::take(&mut source.changed);
        if matches!(source.endpoints, EndpointSource::Static(_)) || is_news && !named.is_empty() {
            return named;
        }
        let usable = set.members().iter().filter(|member| member.spec.declared.is_usable()).count();
        let before = doubt.as_ref().map_or(usable, |doubt| doubt.before);
        if named.len().saturating_mul(2) >= before && !named.is_empty() {
            return named;
        }
        let ids: HashSet<_> = named.iter().map(|spec| &spec.id).collect();
        let missing = set.members().iter().filter(|member| !ids.contains(&member.spec.id));
        let held: Vec<EndpointSpec> = if !named.is_empty() {
            let usable = missing.filter(|member| member.spec.declared.is_usable());
            usable
                .filter(|member| answers(&member.endpoint))
                .map(|member| (*member.spec).clone())
                .collect()
        } else if set.members().iter().any(|member| answers(&member.endpoint)) {
            missing.map(|member| (*member.spec).clone()).collect()
        } else {
            Vec::new()
        };
        let now = clock::now();
        let since = doubt.as_ref().map_or(now, |doubt| doubt.since);
        if held.is_empty() || now.since(since) >= self.policy.load().pick.empty_set_grace {
            return named;
        }
        if doubt.is_none() {
            tracing::warn!(
                "mesh.destination" = &*self.label,
                "discovery names {} endpoints where there were {before}; {} that it names no more \
                 stay in use while they answer",
                named.len(),
                held.len(),
            );
        }
        let all = named.iter().cloned().chain(held).collect();
        source.doubted = Some(Doubt { since, before, named });
        all
    }

    /// Looks again at a set that is not believed: its grace may be over.
    pub(super) fn doubt_again(self: &Arc<Self>, generation: u64) {
        let named = self.source.lock().doubted.as_ref().map(|doubt| doubt.named.clone());
        if let Some(named) = named {
            self.update(generation, false, named);
        }
    }
}

fn answers(endpoint: &Endpoint) -> bool {
    !endpoint.health().is_unreachable()
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

    fn specs(ports: impl IntoIterator<Item = u16>) -> Vec<EndpointSpec> {
        let spec = |port| EndpointSpec::new(([127, 0, 0, 1], port).into());
        ports.into_iter().map(spec).collect()
    }

    fn say(destination: &Arc<Destination>, specs: Vec<EndpointSpec>) {
        let generation = destination.source.lock().generation;
        destination.update(generation, false, specs);
    }

    /// The ports in use.
    fn used(destination: &Destination) -> Vec<u16> {
        let picker = destination.picker.get();
        let members = picker.set().members().iter();
        let mut ports: Vec<u16> =
            members.map(|member| member.spec.addresses.first().map_or(0, |a| a.port())).collect();
        ports.sort_unstable();
        ports
    }

    async fn ten() -> Arc<Destination> {
        let (destination, _) = destination(Policy::default()).await;
        say(&destination, specs(1..=10));
        assert_eq!(used(&destination), Vec::from_iter(1..=10));
        destination
    }

    #[tokio::test(start_paused = true)]
    async fn a_loss_of_half_is_believed_at_once() {
        let destination = ten().await;
        for left in [9, 5, 3, 2, 1] {
            say(&destination, specs(1..=left));
            assert_eq!(used(&destination), Vec::from_iter(1..=left));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_set_of_others_is_believed_at_once() {
        let destination = ten().await;
        say(&destination, specs(21..=30));
        assert_eq!(used(&destination), Vec::from_iter(21..=30));
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_loss_of_most_those_that_answer_stay_until_the_grace_is_over() {
        let destination = ten().await;
        let picker = destination.picker.get();
        picker.set().members()[9].endpoint.health().set_unreachable(clock::now(), Timestamp::MAX);
        let mut named = specs([1, 2, 3, 11]);
        named[0].weight = 7;
        say(&destination, named);
        assert_eq!(used(&destination), [1, 2, 3, 4, 5, 6, 7, 8, 9, 11], "10 does not answer");
        let now = destination.picker.get();
        assert_eq!(now.set().members()[0].spec.weight, 7, "what is named is taken over");
        assert!(
            Arc::ptr_eq(&now.set().members()[4].endpoint, &picker.set().members()[3].endpoint),
            "and what stays keeps its history"
        );

        for place in [3, 4, 5, 6] {
            let health = picker.set().members()[place].endpoint.health();
            health.set_unreachable(clock::now(), Timestamp::MAX);
        }
        tokio::time::sleep(Duration::from_secs(11)).await;
        assert_eq!(used(&destination), [1, 2, 3, 8, 9, 11], "seen with the next sweep");
        tokio::time::sleep(Duration::from_secs(270)).await;
        assert_eq!(used(&destination), [1, 2, 3, 8, 9, 11], "5 min are not over");
        tokio::time::sleep(Duration::from_secs(40)).await;
        assert_eq!(used(&destination), [1, 2, 3, 11]);
    }

    #[tokio::test(start_paused = true)]
    async fn half_named_again_ends_the_doubt() {
        let destination = ten().await;
        say(&destination, specs([1]));
        say(&destination, specs([1, 2]));
        assert_eq!(used(&destination), Vec::from_iter(1..=10), "the grace goes on");
        say(&destination, specs(1..=5));
        assert_eq!(used(&destination), [1, 2, 3, 4, 5]);
    }

    #[tokio::test(start_paused = true)]
    async fn endpoints_that_were_draining_may_go() {
        use mesh_core::Declared;

        let destination = ten().await;
        let mut draining = specs(1..=10);
        for spec in &mut draining[2..] {
            spec.declared = Declared::Draining;
        }
        say(&destination, draining);
        say(&destination, specs(1..=2));
        assert_eq!(used(&destination), [1, 2], "none is lost of two");
        let mut draining = specs(1..=10);
        draining[9].declared = Declared::Draining;
        say(&destination, draining);
        say(&destination, specs(1..=2));
        assert_eq!(used(&destination), Vec::from_iter(1..=9));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_grace_everything_is_believed() {
        let mut policy = Policy::default();
        policy.pick.empty_set_grace = Duration::ZERO;
        let (destination, _) = destination(policy).await;
        say(&destination, specs(1..=10));
        say(&destination, specs([1]));
        assert_eq!(used(&destination), [1]);
    }
}
