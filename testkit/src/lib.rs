//! What the mesh's own tests share.
//!
//! [`contract`] is the one test that every layer passes. A development dependency only: nothing
//! here is meant for production.

pub mod contract;
