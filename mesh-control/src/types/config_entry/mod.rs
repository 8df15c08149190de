//! Config entries: what is said of a service, or of all, in one place for all data planes.
//!
//! Source: Consul's "Configuration Entries"; keys that came after 1.8 (`LoadBalancer`, `Targets`,
//! `RequestTimeout`, edits of headers) from its newer documents.

mod defaults;
mod resolver;
mod router;
mod splitter;

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::decode::{DecodeError, Dialect, Options, nearest, same_letters};

pub use defaults::{Expose, ExposePath, MeshGateway, ProxyDefaults, ServiceDefaults};
pub use resolver::{
    CookieConfig, Failover, FailoverTarget, HashPolicy, LeastRequestConfig, LoadBalancer, Redirect,
    ResolverSubset, RingHashConfig, ServiceResolver,
};
pub use router::{
    HeaderMatch, HttpMatch, QueryMatch, RouteDestination, RouteMatch, RouterRoute, ServiceRouter,
};
pub use splitter::{HeaderEdits, ServiceSplitter, Split};

/// What a config entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum EntryKind {
    /// Of all proxies.
    ProxyDefaults,
    /// Of a service: its protocol.
    ServiceDefaults,
    /// Who serves a service.
    ServiceResolver,
    /// Which calls of a service go where.
    ServiceRouter,
    /// In which shares the calls of a service go where.
    ServiceSplitter,
}

impl EntryKind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::ProxyDefaults,
        Self::ServiceDefaults,
        Self::ServiceResolver,
        Self::ServiceRouter,
        Self::ServiceSplitter,
    ];

    /// As Consul names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ProxyDefaults => "proxy-defaults",
            Self::ServiceDefaults => "service-defaults",
            Self::ServiceResolver => "service-resolver",
            Self::ServiceRouter => "service-router",
            Self::ServiceSplitter => "service-splitter",
        }
    }

    /// The kind of this name.
    ///
    /// # Errors
    /// When there is none, or not in this server.
    pub fn parse(name: &str) -> Result<Self, UnknownKind> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| UnknownKind(name.chars().take(64).collect()))
    }
}

impl fmt::Display for EntryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is that of no [`EntryKind`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownKind(String);

impl fmt::Display for UnknownKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid config entry kind: {}", self.0)?;
        match nearest(&self.0, &EntryKind::ALL.map(EntryKind::name)) {
            Some(nearest) => write!(f, ", did you mean {nearest:?}?"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for UnknownKind {}

/// A config entry. As JSON it has its `Kind` beside its values.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "Kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ConfigEntry {
    /// Of all proxies.
    ProxyDefaults(ProxyDefaults),
    /// Of a service.
    ServiceDefaults(ServiceDefaults),
    /// Who serves a service.
    ServiceResolver(Box<ServiceResolver>),
    /// Which calls of a service go where.
    ServiceRouter(ServiceRouter),
    /// In which shares the calls of a service go where.
    ServiceSplitter(ServiceSplitter),
}

impl ConfigEntry {
    /// Reads an entry, in the canonical form.
    ///
    /// # Errors
    /// When it is no JSON, says no kind, or has what entries of the kind have not.
    pub fn read_json(body: &[u8]) -> Result<Self, DecodeError> {
        let written: Map<String, Value> = Options::of(Dialect::Entry).read_json(body)?;
        Self::read(written)
    }

    /// The same of a map that was read already.
    ///
    /// # Errors
    /// When it says no kind, or has what entries of the kind have not.
    pub fn read(mut written: Map<String, Value>) -> Result<Self, DecodeError> {
        // Clients send back what they were told.
        for told in ["CreateIndex", "ModifyIndex"] {
            written.retain(|key, _| !same_letters(key, told));
        }
        let key = written.keys().find(|key| same_letters(key, "Kind")).cloned();
        let kind = key.and_then(|key| written.remove(&key));
        let kind = kind.ok_or_else(|| {
            DecodeError::new("Payload does not contain a kind/Kind key at the top level")
        })?;
        let Value::String(kind) = kind else {
            return Err(DecodeError::new("Kind value in payload is not a string"));
        };
        let kind =
            EntryKind::parse(&kind).map_err(|unknown| DecodeError::new(unknown.to_string()))?;
        let (options, value) = (Options::of(Dialect::Entry), Value::Object(written));
        let mut entry = match kind {
            EntryKind::ProxyDefaults => Self::ProxyDefaults(options.read_value(&value)?),
            EntryKind::ServiceDefaults => Self::ServiceDefaults(options.read_value(&value)?),
            EntryKind::ServiceResolver => Self::ServiceResolver(options.read_value(&value)?),
            EntryKind::ServiceRouter => Self::ServiceRouter(options.read_value(&value)?),
            EntryKind::ServiceSplitter => Self::ServiceSplitter(options.read_value(&value)?),
        };
        entry.canonicalize();
        Ok(entry)
    }

    fn canonicalize(&mut self) {
        match self {
            // There is one, whatever it was called.
            Self::ProxyDefaults(entry) => ProxyDefaults::NAME.clone_into(&mut entry.name),
            Self::ServiceDefaults(entry) => entry.protocol = entry.protocol.to_lowercase(),
            Self::ServiceResolver(_) => {}
            Self::ServiceRouter(entry) => entry.canonicalize(),
            Self::ServiceSplitter(entry) => entry.canonicalize(),
        }
    }

    /// What it says.
    #[must_use]
    pub const fn kind(&self) -> EntryKind {
        match self {
            Self::ProxyDefaults(_) => EntryKind::ProxyDefaults,
            Self::ServiceDefaults(_) => EntryKind::ServiceDefaults,
            Self::ServiceResolver(_) => EntryKind::ServiceResolver,
            Self::ServiceRouter(_) => EntryKind::ServiceRouter,
            Self::ServiceSplitter(_) => EntryKind::ServiceSplitter,
        }
    }

    /// The service that it is about; `global` for all proxies.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::ProxyDefaults(entry) => &entry.name,
            Self::ServiceDefaults(entry) => &entry.name,
            Self::ServiceResolver(entry) => &entry.name,
            Self::ServiceRouter(entry) => &entry.name,
            Self::ServiceSplitter(entry) => &entry.name,
        }
    }
}

/// Whether it is as if it were not given.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests;
