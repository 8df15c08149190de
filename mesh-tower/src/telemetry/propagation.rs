//! Trace context on its way through: W3C `traceparent`, `tracestate` and `baggage`.
//!
//! The parent of a request is the first of: its own `traceparent` field; the request that the
//! calling handler serves (`server::Context`); none.
//!
//! | parent | span recorded | the request leaves with |
//! |---|---|---|
//! | own field | yes | a child of it |
//! | own field | no | the field as it is |
//! | served request | either | a child of it, with its `tracestate` and `baggage` |
//! | none | yes | a new trace, sampled |
//! | none | no | nothing |
//!
//! A field that does not parse counts as none, and its `tracestate` is dropped with it.
//!
//! Source: W3C Trace Context, "Processing Model for Working with Trace Context".

use crate::fields;
use crate::server::Context;
use http::{HeaderMap, HeaderName};
use mesh_core::trace_context::{TRACEPARENT, TraceContext};

const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// Makes the request a child in its trace, as the table in the [module docs](self) says, and
/// returns the context it leaves with if that is a new one.
pub(super) fn propagate(headers: &mut HeaderMap, recorded: bool) -> Option<TraceContext> {
    let mut draw = || fastrand::u64(..);
    let own = fields::get(headers, &TRACEPARENT);
    if own.is_some() && !recorded {
        return None;
    }
    let parsed = own.map(|value| TraceContext::parse(value.as_bytes()));
    let context = match parsed {
        Some(Some(parent)) => parent.child(&mut draw),
        unusable => {
            if unusable.is_some() {
                headers.remove(TRACESTATE);
            }
            match Context::with(|served| inherit(headers, served)).flatten() {
                Some(parent) => parent.child(&mut draw),
                None if recorded => TraceContext::root(&mut draw),
                None => return None,
            }
        }
    };
    headers.insert(TRACEPARENT, context.format());
    Some(context)
}

fn inherit(headers: &mut HeaderMap, served: &Context) -> Option<TraceContext> {
    let parent = served.trace?;
    for (name, value) in [(TRACESTATE, &served.trace_state), (BAGGAGE, &served.baggage)] {
        if let Some(value) = value {
            headers.entry(name).or_insert_with(|| value.clone());
        }
    }
    Some(parent)
}
