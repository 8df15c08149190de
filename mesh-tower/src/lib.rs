//! The service mesh as tower layers.

pub mod answer;
pub mod body;
pub mod breaker;
pub mod call;
pub mod clock;
pub mod connect;
pub mod deadline;
mod integrations;
pub mod limit;
pub mod listen;
pub mod retry;
pub mod server;
pub mod telemetry;
pub mod tls;

pub use body::{Body, BoxError};
#[cfg(feature = "reqwest")]
pub use integrations::reqwest::SendVia;
pub use listen::Listener;
pub use mesh_core::{Error, ErrorKind};
