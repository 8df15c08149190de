//! Definitions: what people write into files about services, checks and the agent itself.
//!
//! Consul's files in HCL and JSON, and the same in YAML: `service`, `services`, `check`, `checks`,
//! `config_entries { bootstrap }`, and the [`Settings`] of agent and server. Keys are matched
//! without regard to case and underscores. A YAML file of objects with `apiVersion` is handed on
//! to [`mesh_core::config`].
//!
//! Services, checks and entries of several files add up; of settings the last one counts. Errors
//! are told all at once, each with file, line, column and snippet.
//!
//! Limits: 1 MiB, 32 levels and 100,000 values per file (aliases of YAML expanded), 10,000 files,
//! 64 MiB.
//!
//! Differences to Consul 1.8.7: `service`, `check` and blocks of settings may be repeated in one
//! file; durations, check states, ports and addresses are read when the file is, not at start; a key that
//! stands twice is an error; a port must be one; YAML.
//!
//! Source: Consul's "Configuration" and "Register services", and answers of `consul validate`.

mod files;
mod hcl;
mod json;
mod read;
mod settings;
mod sidecar;
mod text;
mod yaml;

pub use files::{LoadError, load};
pub use read::{Defined, Definitions, read};
pub use settings::{
    Acl, Addresses, DefaultPolicy, Listen, LogLevel, Port, Ports, Settings, Tokens,
};
pub use sidecar::{SIDECAR_PORTS, SIDECAR_SUFFIX, SidecarError, free_port, sidecar};

#[cfg(test)]
mod tests;
