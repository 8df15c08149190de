//! Configuration: never a panic, never more than linear trouble; what compiles answers a request,
//! and every error can be printed and names its file.
#![no_main]

use http::{HeaderMap, Method};
use libfuzzer_sys::fuzz_target;
use mesh_core::config::{Source, compile, parse};
use mesh_core::route::RouteRequest;

fuzz_target!(|text: &str| {
    let compiled = parse(&[Source::new("mesh.yaml", text)]).and_then(|it| compile(&it, 1));
    match compiled {
        Err(errors) => assert!(!errors.to_string().is_empty()),
        Ok(snapshot) => {
            let headers = HeaderMap::new();
            let (method, query) = (&Method::GET, Some("a=b"));
            let request = RouteRequest::new("inventory", method, "/items/7", query, &headers);
            let _ = snapshot.route(&request, &mut || 7);
        }
    }
});
