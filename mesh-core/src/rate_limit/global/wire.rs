//! The question on the wire, and what of the two messages concerns us.
//!
//! | message | fields |
//! |---|---|
//! | `RateLimitRequest` | 1 `domain`, 2 `descriptors` |
//! | `RateLimitDescriptor` | 1 `entries` (1 `key`, 2 `value`), 3 `hits_addend` (1 `value`) |
//! | `RateLimitResponse` | 1 `overall_code`, 2 `statuses`, 3 `response_headers_to_add`, 4 `request_headers_to_add` |
//! | `DescriptorStatus` | 2 `current_limit` (1 `requests_per_unit`, 2 `unit`, 3 `name`), 3 `limit_remaining`, 4 `duration_until_reset` (1 `seconds`, 2 `nanos`) |
//! | `HeaderValue` | 1 `key`, 2 `value`, 3 `raw_value` |
//!
//! Source: Protocol Buffers "Encoding"; gRPC over HTTP/2, Length-Prefixed-Message; Envoy `rls.proto`,
//! `ratelimit.proto`, `base.proto`.

use super::Made;
use crate::protobuf::{BYTES, VARINT};

/// A question as a gRPC message with its prefix.
pub(super) fn encode(domain: &str, made: &[Made<'_>]) -> Vec<u8> {
    let mut request = Vec::with_capacity(256);
    bytes(1, domain.as_bytes(), &mut request);
    let (mut descriptor, mut entry) = (Vec::new(), Vec::new());
    for Made { entries, hits_addend } in made {
        descriptor.clear();
        for (key, value) in entries {
            entry.clear();
            bytes(1, key.as_bytes(), &mut entry);
            bytes(2, value.as_bytes(), &mut entry);
            bytes(1, &entry, &mut descriptor);
        }
        // One is what is counted unless the question says otherwise.
        if *hits_addend != 1 {
            entry.clear();
            varint(1 << 3 | VARINT, &mut entry);
            varint(u64::from(*hits_addend), &mut entry);
            bytes(3, &entry, &mut descriptor);
        }
        bytes(2, &descriptor, &mut request);
    }
    let length = u32::try_from(request.len()).unwrap_or(u32::MAX);
    let mut framed = Vec::with_capacity(request.len() + 5);
    framed.push(0);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.append(&mut request);
    framed
}

fn bytes(number: u64, value: &[u8], out: &mut Vec<u8>) {
    varint(number << 3 | BYTES, out);
    varint(value.len() as u64, out);
    out.extend_from_slice(value);
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
