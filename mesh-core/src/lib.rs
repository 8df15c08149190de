//! The decisions of the mesh, without I/O.
//!
//! Names, endpoints, configuration and its compile step, and every algorithm: load, pick, health,
//! breaker, limits, retries, deadlines, routes. Nothing here reads a clock, draws a random number
//! or opens a socket: `now: Timestamp` and `draw: &mut impl Draw` are arguments, so that a plain
//! function call reproduces every decision.

pub mod affinity;
pub mod concurrency;
pub mod config;
mod cookie;
pub mod criticality;
pub mod deadline;
mod draw;
mod endpoint;
mod error;
pub mod explain;
pub mod fault;
pub mod hash;
pub mod health;
pub mod hedge;
pub mod limit;
pub mod load;
mod name;
mod outcome;
pub mod pick;
pub mod policy;
mod protobuf;
pub mod rate_limit;
pub mod retry;
pub mod route;
pub mod shed;
pub mod snapshot;
mod spiffe;
mod swap;
pub mod throttle;
mod time;
pub mod trace_context;

pub use draw::Draw;
pub use endpoint::{
    Change, Declared, Endpoint, EndpointId, EndpointSet, EndpointSpec, InvalidLocality, Locality,
    Member,
};
pub use error::{Error, ErrorKind};
pub use name::{DEFAULT_NAMESPACE, DestinationName, InvalidName};
pub use outcome::{Failure, GrpcCode, Outcome, is_grpc};
pub use policy::Policy;
pub use spiffe::{InvalidSpiffeId, SpiffeId};
pub use swap::{Loaded, Swap};
pub use time::Timestamp;
