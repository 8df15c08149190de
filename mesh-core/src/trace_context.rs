//! Trace context: the trace a request belongs to, as `traceparent` carries it.
//!
//! `00-<trace id: 32 hex>-<span id: 16 hex>-<flags: 2 hex>`, lower case; an id of all zeros is
//! no id. A version above 00 is read by its first four parts, version `ff` is none. What we
//! write is version 00.
//!
//! Source: W3C Trace Context, section 3.2.

use crate::Draw;
use http::{HeaderName, HeaderValue};
use std::fmt;

/// The field that carries it.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

const SAMPLED: u8 = 1;
/// The flags that version 00 defines: sampled, and random trace id (level 2). Others are not
/// passed on.
const KNOWN: u8 = 0b11;

/// A span of a trace, as its children need to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct TraceContext {
    /// The trace, the same on every hop. Not 0.
    pub trace_id: u128,
    /// The span within the trace. Not 0.
    pub span_id: u64,
    /// Bit 0: sampled. Bit 1: the trace id is random.
    pub flags: u8,
}

impl TraceContext {
    /// Reads the value of `traceparent`; `None` if it is malformed, which means to start anew.
    ///
    /// ```
    /// use mesh_core::trace_context::TraceContext;
    ///
    /// let text = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    /// let parent = TraceContext::parse(text).unwrap();
    /// assert!(parent.is_sampled());
    /// assert_eq!(parent.format().as_bytes(), text);
    /// ```
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (version, rest) = (value.get(..2)?, value.get(2..)?);
        let (version, known) = (hex(version)?, rest.get(..53)?);
        let more = rest.get(53..)?;
        let whole = if version == 0 { more.is_empty() } else { matches!(more, [] | [b'-', ..]) };
        let dashes = [0, 33, 50].iter().all(|at| known.get(*at) == Some(&b'-'));
        if version == 0xff || !whole || !dashes {
            return None;
        }
        let trace_id = hex(known.get(1..33)?)?;
        let span_id = u64::try_from(hex(known.get(34..50)?)?).ok()?;
        let flags = u8::try_from(hex(known.get(51..53)?)?).ok()? & KNOWN;
        (trace_id != 0 && span_id != 0).then_some(Self { trace_id, span_id, flags })
    }

    /// Writes the value of `traceparent`.
    #[must_use]
    pub fn format(&self) -> HeaderValue {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        put_hex(&mut text[3..35], self.trace_id);
        put_hex(&mut text[36..52], u128::from(self.span_id));
        put_hex(&mut text[53..], u128::from(self.flags));
        // Hexadecimal digits and dashes are always a valid value.
        HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static(""))
    }

    /// A new trace, sampled, as OpenTelemetry's default sampler has it.
    #[must_use]
    pub fn root(draw: &mut impl Draw) -> Self {
        let trace_id = u128::from(draw.bits()) << 64 | u128::from(draw.bits());
        Self { trace_id: trace_id.max(1), span_id: draw.bits().max(1), flags: KNOWN }
    }

    /// A new span below this one.
    #[must_use]
    pub fn child(&self, draw: &mut impl Draw) -> Self {
        Self { span_id: draw.bits().max(1), ..*self }
    }

    /// Whether the caller records the trace.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

/// Reads lower-case hexadecimal digits; at most 32 are asked for.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |sum: u128, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(sum << 4 | u128::from(digit))
    })
}

/// Writes a number into all of `digits`, zeros first.
fn put_hex(digits: &mut [u8], mut number: u128) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 0xf) as usize];
        number >>= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_good_value_survives_the_way_through() {
        let parent = TraceContext::parse(GOOD.as_bytes()).expect("good");
        assert_eq!(parent.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        assert_eq!(parent.span_id, 0xb7ad_6b71_6920_3331);
        assert_eq!(parent.format(), GOOD);
        assert_eq!(parent.to_string(), GOOD);
    }

    #[test]
    fn malformed_values_start_a_new_trace() {
        for text in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "0x-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00_0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331_01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0g",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01x",
        ] {
            assert_eq!(TraceContext::parse(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn later_versions_are_read_by_the_parts_we_know() {
        let later = "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-09-what-else";
        let parent = TraceContext::parse(later.as_bytes()).expect("readable");
        assert_eq!(parent.format(), GOOD, "unknown flags are not passed on");
    }

    #[test]
    fn a_child_stays_in_the_trace_and_ids_are_never_zero() {
        let zero = &mut || 0u64;
        let root = TraceContext::root(zero);
        assert!(root.trace_id != 0 && root.span_id != 0 && root.is_sampled());
        let mut seed = 7u64;
        let child = root.child(&mut || {
            seed += 1;
            seed
        });
        assert_eq!((child.trace_id, child.flags), (root.trace_id, root.flags));
        assert_ne!(child.span_id, root.span_id);
        assert_eq!(TraceContext::parse(child.format().as_bytes()), Some(child));
    }
}
