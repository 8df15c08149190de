//! Definitions: what people write into files about services, checks and the agent itself.

mod sidecar;

pub use sidecar::{SIDECAR_PORTS, SIDECAR_SUFFIX, SidecarError, free_port, sidecar};
