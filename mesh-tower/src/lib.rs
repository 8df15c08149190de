//! The service mesh as tower layers.

pub mod body;
pub mod clock;
pub mod telemetry;

pub use body::{Body, BoxError};
pub use mesh_core::{Error, ErrorKind};
