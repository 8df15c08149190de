//! The query parameters that many endpoints share.
//!
//! A blocking query waits until the index is above `index`, at most `wait` (5 min, at most 10),
//! and up to a sixteenth of that longer, so that many waiters do not come back at once.
//!
//! Source: Consul's HTTP API, "Blocking Queries" and "Consistency Modes".

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::FromRequestParts;
use http::request::Parts;

use super::answer::{DEFAULT_WAIT, LONGEST_WAIT};
use super::{Api, ApiError};
use crate::registry::Wait;
use crate::types::GoDuration;

/// How fresh an answer has to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Consistency {
    /// What this server knows, and everything that it acknowledged.
    #[default]
    Default,
    /// Everything that any server acknowledged before the request came.
    Consistent,
    /// Whatever this server knows.
    Stale,
}

/// A request's query, decoded.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Parameters {
    pairs: Vec<(String, String)>,
}

/// The names alone: `token` is among them.
impl std::fmt::Debug for Parameters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.pairs.iter().map(|(name, _)| name)).finish()
    }
}

impl Parameters {
    /// Reads a query string.
    #[must_use]
    pub fn parse(query: &str) -> Self {
        Self { pairs: form_urlencoded::parse(query.as_bytes()).into_owned().collect() }
    }

    /// Whether it is there, with any value or none.
    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        self.pairs.iter().any(|(key, _)| key == name)
    }

    /// The first value, if it is there and not empty.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values(name).find(|value| !value.is_empty())
    }

    /// The first value, if it is there, be it empty or not.
    #[must_use]
    pub fn given(&self, name: &str) -> Option<&str> {
        self.values(name).next()
    }

    /// Refuses more than one of these.
    ///
    /// # Errors
    /// When two are given, with the whole query, as Consul tells it.
    pub fn exclusive(&self, names: &[&str]) -> Result<(), ApiError> {
        if names.iter().filter(|name| self.flag(name)).count() < 2 {
            return Ok(());
        }
        let mut pairs: Vec<_> = self.pairs.iter().collect();
        pairs.sort_by_key(|(name, _)| name);
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        Err(ApiError::bad_request(format!("Conflicting flags: {query}")))
    }

    /// All values, in order.
    pub fn values<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a str> + use<'a, 'n> {
        self.pairs.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A whole number, where it is given.
    ///
    /// # Errors
    /// When it is given and is none.
    pub fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let number = |text: &str| {
            text.parse().map_err(|_| {
                ApiError::bad_request(format!("{name}={text:?} is no whole number of at least 0"))
            })
        };
        self.value(name).map(number).transpose()
    }

    /// What to wait for, if the caller wants to; the wait already holds its share of chance.
    ///
    /// # Errors
    /// When `index` or `wait` cannot be read.
    pub fn wait(&self) -> Result<Option<Wait>, ApiError> {
        let Some(index) = self.value("index") else { return Ok(None) };
        let index = index.parse().map_err(|_| ApiError::bad_request("Invalid index"))?;
        let wait = self.span()?;
        let jitter = Duration::from_secs_f64(wait.as_secs_f64() / 16.0 * fastrand::f64());
        Ok((index > 0).then(|| Wait::new(index, wait + jitter)))
    }

    /// `wait`, within its bounds.
    pub(super) fn span(&self) -> Result<Duration, ApiError> {
        let wait = match self.value("wait") {
            // As Consul: without a unit it is nothing that can be waited for.
            Some(text) => {
                text.parse::<GoDuration>()
                    .map_err(|_| ApiError::bad_request("Invalid wait time"))?
                    .0
            }
            None => DEFAULT_WAIT,
        };
        Ok(if wait.is_zero() { DEFAULT_WAIT } else { wait.min(LONGEST_WAIT) })
    }

    /// How fresh the answer has to be.
    ///
    /// # Errors
    /// When both modes are asked for.
    pub fn consistency(&self) -> Result<Consistency, ApiError> {
        match (self.flag("stale"), self.flag("consistent")) {
            (true, true) => Err(ApiError::bad_request(
                "Cannot specify ?stale with ?consistent, conflicting semantics.",
            )),
            (true, false) => Ok(Consistency::Stale),
            (false, true) => Ok(Consistency::Consistent),
            (false, false) => Ok(Consistency::Default),
        }
    }

    /// Refuses datacenters that this server does not know.
    ///
    /// # Errors
    /// When `dc` names another one than ours.
    pub fn datacenter<'a>(&self, api: &'a Api) -> Result<&'a str, ApiError> {
        api.own_datacenter(self.value("dc").unwrap_or_default())
    }
}

/// What Go takes for a truth value.
pub(super) fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

impl Api {
    /// Our datacenter, unless another one is named.
    pub(super) fn own_datacenter(&self, named: &str) -> Result<&str, ApiError> {
        if named.is_empty() || named == self.datacenter {
            return Ok(&self.datacenter);
        }
        Err(ApiError::new(http::StatusCode::INTERNAL_SERVER_ERROR, "No path to datacenter"))
    }
}

impl<S: Sync> FromRequestParts<S> for Parameters {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::parse(parts.uri.query().unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_bounded_and_spread() {
        let wait = |query: &str| Parameters::parse(query).wait();
        assert_eq!(wait(""), Ok(None));
        assert_eq!(wait("index=0"), Ok(None), "0 does not block");
        for (query, from, to) in [
            ("index=7", 300.0, 318.75),
            ("index=7&wait=10s", 10.0, 10.625),
            ("index=7&wait=1h", 600.0, 637.5),
            ("index=7&wait=0s", 300.0, 318.75),
        ] {
            let wait = wait(query).expect(query).expect(query);
            let span = wait.timeout.as_secs_f64();
            assert!(wait.index == 7 && (from..=to).contains(&span), "{query}: {span}");
        }
        for (query, message) in [
            ("index=-1", "Invalid index"),
            ("index=x", "Invalid index"),
            ("index=1&wait=10", "Invalid wait time"),
            ("index=1&wait=-10s", "Invalid wait time"),
        ] {
            assert_eq!(wait(query).expect_err(query).message, message);
        }
    }

    #[test]
    fn values_are_not_shown() {
        let shown = format!("{:?}", Parameters::parse("token=s3cret&index=7"));
        assert_eq!(shown, r#"["token", "index"]"#);
    }

    #[test]
    fn modes_exclude_each_other() {
        let mode = |query: &str| Parameters::parse(query).consistency();
        assert_eq!(mode("stale"), Ok(Consistency::Stale));
        assert_eq!(mode("consistent="), Ok(Consistency::Consistent));
        assert!(mode("stale&consistent").is_err());
    }
}
