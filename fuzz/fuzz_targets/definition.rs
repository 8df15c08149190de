//! Definition files: never a panic, never more than linear trouble; every error can be printed and
//! names its place, and what is read is written and read again as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_control::decode;
use mesh_control::definition::read;
use mesh_control::types::ServiceDefinition;
use mesh_core::config::Source;

fuzz_target!(|text: &str| {
    for name in ["f.hcl", "f.json"] {
        match read(&[Source::new(name, text)]) {
            Err(errors) => {
                assert!(
                    errors.diagnostics().iter().all(|told| !told.places.is_empty()),
                    "{errors}"
                );
                assert!(!errors.to_string().is_empty());
            }
            Ok(read) => {
                for service in read.services {
                    let told = serde_json::to_value(&service.value).unwrap();
                    let again: ServiceDefinition = decode::from_value(&told).unwrap();
                    assert_eq!(serde_json::to_value(&again).unwrap(), told);
                }
            }
        }
    }
});
