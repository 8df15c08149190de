//! Configuration: objects in YAML, checked, merged and compiled to a [`Snapshot`].
//!
//! [`parse`] reads objects and checks each by itself; [`compile`] checks them against each other
//! and builds the snapshot. Both tell everything they find, each with its place. Reading files is
//! not done here: [`Source`] is a name and a text.
//!
//! Kinds: `Service`, `TrafficPolicy`, `ServerPolicy`, `Listener` (`mesh/v1`); `HTTPRoute`,
//! `GRPCRoute`, `TCPRoute` (Gateway API). The reference is `docs/configuration.md`.
//!
//! ```
//! use mesh_core::config::{self, Source};
//!
//! let text = "
//! apiVersion: mesh/v1
//! kind: Service
//! metadata: { name: inventory }
//! spec:
//!   endpoint: { dns: 'inventory.internal:8080' }
//! ";
//! let errors = config::parse(&[Source::new("mesh.yaml", text)]).unwrap_err();
//! assert!(errors.to_string().contains("did you mean `endpoints`?"), "{errors}");
//! ```
//!
//! [`Snapshot`]: crate::snapshot::Snapshot

mod compile;
mod consul;
mod de;
mod diagnostic;
mod filters;
mod kinds;
mod parse;
mod schema;
mod server_policy;
mod source;
mod tree;

pub mod percent;
pub mod size;
pub mod span;

pub use compile::compile;
pub use diagnostic::{Diagnostic, Errors, Place, Severity};
pub use kinds::{AppProtocol, Direction, ListenerProtocol};
pub use parse::{Documents, parse};
pub use schema::schema;
pub use server_policy::{LoadReports, ServerPolicy};
pub use source::{Origin, Origins, Source};
pub use tree::MAX_BYTES;

#[cfg(test)]
mod tests;
