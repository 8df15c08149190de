//! Certificates and a faulty network.
//!
//! [`Authority`] signs what TLS tests need, good and bad. [`FaultProxy`] stands between a
//! caller and an endpoint on loopback and delays, cuts, resets or swallows, without root.

mod certificates;
mod fault;

pub use certificates::{Authority, Certificate, Validity};
pub use fault::{Fault, FaultProxy};
