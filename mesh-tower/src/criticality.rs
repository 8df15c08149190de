//! Criticality of a call that leaves: told to whoever serves it, once per call.
//!
//! The first of these that is there:
//!
//! 1. [`CallOptions::criticality`](crate::CallOptions::criticality);
//! 2. the request's own field, as the caller wrote it;
//! 3. that of the request which the calling handler serves ([`server::Context`](crate::server::Context));
//! 4. `criticality` of the policy.
//!
//! None of them: no field, which every server takes for `CRITICAL`.
//!
//! Order: written when the call is routed, so that all its attempts carry it.
//! Source: "Site Reliability Engineering", chapter 21: set once, near the user, and handed on.

use crate::call::Call;
use crate::server::Context;
use http::HeaderMap;
pub use mesh_core::criticality::{CRITICALITY, Criticality};

/// Writes the field, where there is something to tell.
pub(crate) fn send(call: &Call, headers: &mut HeaderMap) {
    let chosen = call.options.as_ref().and_then(|options| options.criticality);
    if let Some(chosen) = chosen {
        headers.insert(CRITICALITY, chosen.to_value());
        return;
    }
    let served = Context::with(|served| served.criticality).flatten();
    if let Some(inherited) = served.or(call.policy.criticality) {
        headers.entry(CRITICALITY).or_insert_with(|| inherited.to_value());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CallOptions, clock};
    use mesh_core::Policy;
    use std::sync::Arc;

    #[test]
    fn the_callers_choice_then_the_field_then_what_is_served_then_the_policy() {
        use Criticality::{Critical, CriticalPlus, Sheddable, SheddablePlus};
        for (option, field, served, policy, expected) in [
            (None, None, None, None, None),
            (None, None, None, Some(Sheddable), Some(Sheddable)),
            (None, None, Some(SheddablePlus), Some(Sheddable), Some(SheddablePlus)),
            (None, Some(Critical), Some(SheddablePlus), Some(Sheddable), Some(Critical)),
            (Some(CriticalPlus), Some(Critical), Some(Sheddable), None, Some(CriticalPlus)),
        ] {
            let mut own = Policy::default();
            own.criticality = policy;
            let mut call = Call::new(clock::now(), Arc::new(own), false);
            if let Some(option) = option {
                call = call.with_options(CallOptions::new().criticality(option));
            }
            let mut headers = HeaderMap::new();
            headers.extend(field.map(|field: Criticality| (CRITICALITY, field.to_value())));
            let context = Context { criticality: served, ..Context::default() };
            context.enter(|| send(&call, &mut headers));
            let told = headers.get(CRITICALITY).map(|told| told.to_str().expect("a word"));
            assert_eq!(told, expected.map(Criticality::as_str));
        }
    }
}
