//! The files that describe gRPC services: `descriptorSet` of a Service.

use mesh_core::retry::IdempotentMethods;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Largest file that is read. Descriptors of a thousand services are a few MiB.
const MOST: u64 = 16 << 20;

/// What to do about a file that cannot be used.
pub(crate) const HELP: &str = "name a file that `protoc --descriptor_set_out` wrote, or tonic's build script by \
     `file_descriptor_set_path`";

/// The methods that a file declares idempotent, or why it cannot be used: the file and the reason.
pub(crate) fn read(path: &Path) -> Result<IdempotentMethods, String> {
    let told = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| told(&error))?;
    file.take(MOST + 1).read_to_end(&mut bytes).map_err(|error| told(&error))?;
    if bytes.len() as u64 > MOST {
        return Err(told(&format_args!("it is larger than {} MiB", MOST >> 20)));
    }
    IdempotentMethods::from_descriptor_set(&bytes).map_err(|error| told(&error))
}
