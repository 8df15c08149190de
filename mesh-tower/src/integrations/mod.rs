//! The mesh in other libraries' words, each behind the feature of its name.

#[cfg(feature = "axum")]
mod axum;
#[cfg(feature = "reqwest")]
pub(crate) mod reqwest;
#[cfg(feature = "tonic")]
pub(crate) mod tonic;
