//! Limits: caps on the work at one destination or endpoint at once.
//!
//! What exceeds a cap is refused at once with [`Overflow`]; nothing queues here. A [`Permit`]
//! counts until it is dropped.
//!
//! | kind | counts | default per destination |
//! |---|---|---|
//! | connections | open connections | 1,024 |
//! | pending | calls that wait for a connection | 1,024 |
//! | requests | attempts in flight | 65,536 |
//! | retries | of these, those that are retries | no cap: the retry budget bounds them |
//!
//! Source: Envoy "Circuit breaking". Ours: 65,536 requests instead of 1,024, because a cap that is
//! met by accident is an outage.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// The value of a cap that caps nothing; written `unlimited` in configuration.
pub const UNLIMITED: u32 = u32::MAX;

/// Caps on the work at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Config {
    /// Open connections, at least 1. 1,024.
    #[serde(with = "cap")]
    #[schemars(with = "cap::Text")]
    pub max_connections: u32,
    /// Calls that wait for a connection, at least 1. 1,024.
    #[serde(with = "cap", rename = "maxPendingRequests")]
    #[schemars(with = "cap::Text")]
    pub max_pending: u32,
    /// Attempts in flight, at least 1. 65,536.
    #[serde(with = "cap")]
    #[schemars(with = "cap::Text")]
    pub max_requests: u32,
    /// Retries in flight; none: the retry budget alone bounds them; 0: no retries.
    pub max_retries: Option<u32>,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_connections: 1024, max_pending: 1024, max_requests: 65_536, max_retries: None }
    }
}

impl Config {
    /// Caps nothing.
    #[must_use]
    pub const fn unlimited() -> Self {
        Self {
            max_connections: UNLIMITED,
            max_pending: UNLIMITED,
            max_requests: UNLIMITED,
            max_retries: None,
        }
    }

    const fn cap(&self, kind: Kind) -> u32 {
        match kind {
            Kind::Connection => self.max_connections,
            Kind::Pending => self.max_pending,
            Kind::Request => self.max_requests,
            Kind::Retry => match self.max_retries {
                Some(cap) => cap,
                None => UNLIMITED,
            },
        }
    }
}

/// For serde: a cap is a whole number, or `unlimited`.
pub mod cap {
    use super::UNLIMITED;
    use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};
    use std::borrow::Cow;

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(u32),
        Word(String),
    }

    /// Writes a cap.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(cap: &u32, serializer: S) -> Result<S::Ok, S::Error> {
        match *cap {
            UNLIMITED => serializer.serialize_str("unlimited"),
            number => serializer.serialize_u32(number),
        }
    }

    /// Reads a cap.
    ///
    /// # Errors
    /// When it is neither a whole number that fits 32 bits nor `unlimited`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
        match Written::deserialize(deserializer) {
            Ok(Written::Number(number)) => Ok(number),
            Ok(Written::Word(word)) if word == "unlimited" => Ok(UNLIMITED),
            _ => Err(D::Error::custom("a cap is a whole number, or `unlimited`")),
        }
    }

    /// The schema of a cap.
    #[derive(Debug)]
    #[non_exhaustive]
    pub struct Text;

    impl JsonSchema for Text {
        fn schema_name() -> Cow<'static, str> {
            "Cap".into()
        }

        fn inline_schema() -> bool {
            true
        }

        fn json_schema(_: &mut SchemaGenerator) -> Schema {
            json_schema!({ "anyOf": [{ "type": "integer", "minimum": 1 }, { "const": "unlimited" }] })
        }
    }
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// An open connection.
    Connection,
    /// A call that waits for a connection.
    Pending,
    /// An attempt in flight.
    Request,
    /// A retry in flight.
    Retry,
}

impl Kind {
    /// The word for labels and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "connections",
            Self::Pending => "pending",
            Self::Request => "requests",
            Self::Retry => "retries",
        }
    }
}

const KINDS: usize = 4;

/// Counts what is under way, and refuses what exceeds a cap. A clone shares the counts.
#[derive(Clone, Debug)]
pub struct Limits(Arc<[Counter; KINDS]>);

#[derive(Debug, Default)]
struct Counter {
    active: AtomicU32,
    cap: AtomicU32,
    refused: AtomicU64,
}

impl Limits {
    /// Limits with these caps, and nothing under way.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let limits = Self(Arc::default());
        limits.reconfigure(config);
        limits
    }

    /// Changes the caps. What is under way and now exceeds one is left to finish.
    pub fn reconfigure(&self, config: &Config) {
        for kind in [Kind::Connection, Kind::Pending, Kind::Request, Kind::Retry] {
            self.counter(kind).cap.store(config.cap(kind), Relaxed);
        }
    }

    /// Counts one more, until the permit is dropped.
    ///
    /// # Errors
    /// When the cap is reached.
    pub fn acquire(&self, kind: Kind) -> Result<Permit, Overflow> {
        let counter = self.counter(kind);
        let cap = counter.cap.load(Relaxed);
        match counter.active.fetch_update(Relaxed, Relaxed, |active| {
            // `UNLIMITED` itself is never reached: the count stays below 2^32 − 1.
            (active < cap).then(|| active + 1)
        }) {
            Ok(_) => Ok(Permit { limits: self.clone(), kind }),
            Err(_) => {
                counter.refused.fetch_add(1, Relaxed);
                Err(Overflow { kind, cap })
            }
        }
    }

    /// How many are under way.
    #[must_use]
    pub fn active(&self, kind: Kind) -> u32 {
        self.counter(kind).active.load(Relaxed)
    }

    /// How many were refused so far.
    #[must_use]
    pub fn refused(&self, kind: Kind) -> u64 {
        self.counter(kind).refused.load(Relaxed)
    }

    fn counter(&self, kind: Kind) -> &Counter {
        let [connection, pending, request, retry] = &*self.0;
        match kind {
            Kind::Connection => connection,
            Kind::Pending => pending,
            Kind::Request => request,
            Kind::Retry => retry,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::new(&Config::default())
    }
}

/// Counts one unit of work until it is dropped.
#[derive(Debug)]
#[must_use = "dropping it ends what it counts"]
pub struct Permit {
    limits: Limits,
    kind: Kind,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limits.counter(self.kind).active.fetch_sub(1, Relaxed);
    }
}

/// A cap is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Overflow {
    /// Of which kind.
    pub kind: Kind,
    /// The cap.
    pub cap: u32,
}

impl fmt::Display for Overflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the limit of {} {} is reached", self.cap, self.kind.as_str())
    }
}

impl std::error::Error for Overflow {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_exceeds_a_cap_is_refused_until_a_permit_is_dropped() {
        let config = Config { max_requests: 2, ..Config::default() };
        let limits = Limits::new(&config);
        let first = limits.acquire(Kind::Request).expect("free");
        let _second = limits.acquire(Kind::Request).expect("free");
        let refused = limits.acquire(Kind::Request).expect_err("full");
        assert_eq!(refused.to_string(), "the limit of 2 requests is reached");
        assert_eq!(limits.refused(Kind::Request), 1);
        drop(first);
        assert!(limits.acquire(Kind::Request).is_ok());
        assert!(limits.acquire(Kind::Connection).is_ok(), "each kind has its own cap");
    }

    #[test]
    fn a_lower_cap_lets_finish_what_runs() {
        let limits = Limits::default();
        let permits: Vec<_> = (0..3).map(|_| limits.acquire(Kind::Request)).collect();
        let config = Config { max_requests: 1, ..Config::default() };
        limits.reconfigure(&config);
        assert_eq!(limits.active(Kind::Request), 3);
        assert!(limits.acquire(Kind::Request).is_err());
        drop(permits);
        assert_eq!(limits.active(Kind::Request), 0);
        assert!(limits.acquire(Kind::Request).is_ok());
    }

    #[test]
    fn threads_never_exceed_a_cap() {
        let config = Config { max_requests: 3, ..Config::default() };
        let limits = Limits::new(&config);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        let permit = limits.acquire(Kind::Request);
                        assert!(limits.active(Kind::Request) <= 3);
                        drop(permit);
                    }
                });
            }
        });
        assert_eq!(limits.active(Kind::Request), 0);
    }

    #[test]
    fn a_cap_is_a_number_or_unlimited() {
        let config: Config =
            serde_json::from_str(r#"{"maxRequests":"unlimited","maxPendingRequests":7}"#)
                .expect("valid");
        assert_eq!((config.max_requests, config.max_pending), (UNLIMITED, 7));
        for text in [r#"{"maxRequests":"many"}"#, r#"{"maxRequests":-1}"#, r#"{"maxRequest":1}"#] {
            assert!(serde_json::from_str::<Config>(text).is_err(), "{text}");
        }
        let text = serde_json::to_string(&config).expect("plain");
        assert_eq!(serde_json::from_str::<Config>(&text).expect("round trip"), config);
    }
}
