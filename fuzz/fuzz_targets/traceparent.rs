//! `traceparent`: never a panic; what is read can be written and read back, and a child stays in its
//! trace.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_core::trace_context::TraceContext;

fuzz_target!(|value: &[u8]| {
    let Some(context) = TraceContext::parse(value) else { return };
    let again = TraceContext::parse(context.format().as_bytes()).expect("we write what we read");
    assert_eq!(context, again);
    let child = context.child(&mut || 7);
    assert_eq!(child.trace_id, context.trace_id);
    assert!(TraceContext::parse(child.format().as_bytes()).is_some());
});
