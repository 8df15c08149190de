//! The decisions of the mesh, without I/O.
//!
//! Names, endpoints, configuration and its compile step, and every algorithm: load, pick, health,
//! breaker, limits, retries, deadlines, routes. Nothing here reads a clock, draws a random number
//! or opens a socket: `now: Timestamp` and `draw: &mut impl Draw` are arguments, so that a plain
//! function call reproduces every decision.

pub mod deadline;
mod draw;
mod error;
mod name;
mod outcome;
mod swap;
mod time;
pub mod trace_context;

pub use draw::Draw;
pub use error::{Error, ErrorKind};
pub use name::{DEFAULT_NAMESPACE, DestinationName, InvalidName};
pub use outcome::{Failure, GrpcCode, Outcome};
pub use swap::{Loaded, Swap};
pub use time::Timestamp;
