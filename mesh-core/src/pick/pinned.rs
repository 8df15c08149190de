//! Pinned: the endpoint that a call asks for by its address.
//!
//! It is looked up in an index of all addresses of the set, which is built when it is first asked
//! for; whoever replaces a picker that has one builds the next one's beforehand
//! ([`Picker::index_addresses`]). An address that two endpoints have is the first one's.
//!
//! Source: gRFC A55.

use super::{NoPick, PickArgs, Picked, Picker, Reason};
use crate::affinity;
use crate::endpoint::{Declared, Member};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::OnceLock;

/// The endpoint that a call asks for.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Pinned<'a> {
    /// Any of its addresses.
    pub address: SocketAddr,
    /// When it is taken, and what happens if it is not.
    pub config: &'a affinity::Config,
}

impl<'a> Pinned<'a> {
    /// The endpoint at an address.
    #[must_use]
    pub const fn new(address: SocketAddr, config: &'a affinity::Config) -> Self {
        Self { address, config }
    }
}

/// Where the endpoint of an address is in its set.
#[derive(Debug, Default)]
pub(super) struct Addresses(OnceLock<HashMap<SocketAddr, u32>>);

impl Addresses {
    fn of<C>(&self, members: &[Member<C>]) -> &HashMap<SocketAddr, u32> {
        self.0.get_or_init(|| {
            let mut places = HashMap::with_capacity(members.len());
            for (member, place) in members.iter().zip(0..) {
                for address in &member.spec.addresses {
                    places.entry(*address).or_insert(place);
                }
            }
            places
        })
    }
}

impl<C> Picker<C> {
    /// Prepares for calls that are pinned to an address, lest the first of them does.
    pub fn index_addresses(&self) {
        self.addresses.of(self.set.members());
    }

    /// Whether it is prepared for calls that are pinned to an address.
    #[must_use]
    pub fn has_addresses(&self) -> bool {
        self.addresses.0.get().is_some()
    }

    /// The endpoint that a call is pinned to, or the refusal if it may go nowhere else; `None` if
    /// the policy is to pick.
    pub(super) fn pick_pinned(
        &self,
        pinned: &Pinned<'_>,
        args: &PickArgs<'_>,
    ) -> Option<Result<Picked<'_, C>, NoPick>> {
        let members = self.set.members();
        let place = self.addresses.of(members).get(&pinned.address);
        let member = place.and_then(|place| members.get(*place as usize));
        let strict = pinned.config.strict;
        match member.filter(|member| may_take(member, pinned.config, args)) {
            Some(member) => Some(Ok(Picked { member, reason: Reason::Session })),
            None => strict.then(|| Err(no_session(member, pinned, args))),
        }
    }
}

fn may_take<C>(member: &Member<C>, config: &affinity::Config, args: &PickArgs<'_>) -> bool {
    let endpoint = &*member.endpoint;
    config.takes(status_of(member))
        && is_wanted(member, args)
        && endpoint.health().is_selectable_or_draining()
        && endpoint.breaker().would_admit(args.now)
        // A retry that may go elsewhere does.
        && (config.strict || !args.avoid.contains(endpoint.id()))
}

/// What discovery says of it, and its health check besides.
fn status_of<C>(member: &Member<C>) -> Declared {
    match member.spec.declared {
        Declared::Healthy if member.endpoint.health().is_degraded() => Declared::Degraded,
        declared => declared,
    }
}

/// Whether the call may go there: a session does not lead out of the subset that its route names.
fn is_wanted<C>(member: &Member<C>, args: &PickArgs<'_>) -> bool {
    args.subset.is_empty() || args.subset.iter().any(|labels| labels.are_in(&member.spec.metadata))
}

#[cold]
fn no_session<C>(member: Option<&Member<C>>, pinned: &Pinned<'_>, args: &PickArgs<'_>) -> NoPick {
    let why = match member {
        Some(member) if !is_wanted(member, args) => {
            format!("{} is not in the subset that the call is for", member.endpoint.id())
        }
        Some(member) => format!("{} is {}", member.endpoint.id(), member.endpoint.state(args.now)),
        None => format!("there is no endpoint at {}", pinned.address),
    };
    NoPick::Session { why }
}
