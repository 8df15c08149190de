//! Filters of the API: never a panic, never more than linear trouble; what is accepted decides, and
//! its negation decides the other way; every error can be printed and names its place.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_control::filter::{Filter, Shape};
use serde_json::json;

fuzz_target!(|text: &str| {
    let shape = &Shape::SERVICE_HEALTH;
    match Filter::new(text, shape) {
        Err(error) => assert!(error.line > 0 && error.column > 0 && !error.what.is_empty()),
        Ok(filter) if filter.is_empty() => {}
        Ok(filter) => {
            let value = json!({
                "Node": {"Node": "n", "Meta": {"os": "linux"}},
                "Service": {"ID": "w1", "Port": 8080, "Tags": ["v1"], "Meta": {"env": "qa"}},
                "Checks": [{"Status": "passing"}, {"Status": "warning"}],
            });
            // Two levels more, or some bytes, may be beyond a limit.
            if let Ok(negated) = Filter::new(&format!("not ({text})"), shape) {
                assert_ne!(filter.matches(&value), negated.matches(&value));
            }
        }
    }
});
