//! `grpc-timeout` and `x-envoy-expected-rq-timeout-ms`: never a panic; what is read can be written,
//! and read back is never longer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_core::deadline::{
    format_expected_timeout, format_grpc_timeout, parse_expected_timeout, parse_grpc_timeout,
};

fuzz_target!(|value: &[u8]| {
    if let Ok(timeout) = parse_grpc_timeout(value) {
        let written = format_grpc_timeout(timeout);
        let again = parse_grpc_timeout(written.as_bytes()).expect("we write what we read");
        assert!(again <= timeout, "{timeout:?} became {again:?}");
    }
    if let Ok(Some(timeout)) = parse_expected_timeout(value) {
        let written = format_expected_timeout(timeout);
        let again = parse_expected_timeout(written.as_bytes()).expect("we write what we read");
        assert_eq!(again, Some(timeout));
    }
});
