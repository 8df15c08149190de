//! The service mesh as tower layers.

pub mod answer;
pub mod body;
pub mod clock;
mod integrations;
pub mod listen;
pub mod connect;
pub mod telemetry;

pub use body::{Body, BoxError};
pub use listen::Listener;
pub use mesh_core::{Error, ErrorKind};
