//! `Retry-After` and `grpc-retry-pushback-ms`: never a panic, and never a delay above the cap.
#![no_main]

use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use mesh_core::retry::pushback::{MAX, Pushback, grpc, retry_after, server_delay};
use std::time::{Duration, UNIX_EPOCH};

fuzz_target!(|value: &[u8]| {
    let Ok(value) = HeaderValue::from_bytes(value) else { return };
    // 21 November 2026.
    let wall = UNIX_EPOCH + Duration::from_secs(1_795_219_200);
    let mut headers = HeaderMap::new();
    headers.insert("retry-after", value.clone());
    assert!(retry_after(&headers, wall).is_none_or(|delay| delay <= MAX));
    headers.insert("grpc-retry-pushback-ms", value);
    if let Some(Pushback::Wait(delay)) = grpc(&headers) {
        assert!(delay <= MAX);
    }
    assert!(server_delay(&headers, wall).is_none_or(|delay| delay <= MAX));
});
