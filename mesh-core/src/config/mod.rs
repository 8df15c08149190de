//! How values are written in configuration.

pub mod percent;
pub mod size;
pub mod span;
