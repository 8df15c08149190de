//! Affinity: the calls of one session go to one endpoint, whose address a cookie carries.
//!
//! ```text
//! call with a cookie ─ its endpoint may take calls ─► there
//!                    └ it may not, or is gone ─┬ lax ────► the policy picks another
//!                                              └ strict ─► refused: no_healthy_upstream (503)
//! call without one, or with one that is no address ────► the policy picks
//! ```
//!
//! The answer sets the cookie when it comes from another endpoint than the one that the call named.
//! Its value is the base64 of `address:port`. An endpoint may take the calls of its sessions while
//! discovery declares it one of `overrideStatuses`; one that is ejected, cannot be reached or has
//! its breaker open may not. Sessions go before priorities, localities and load.
//!
//! The value is not signed: whoever may call can choose an endpoint of the destination, and none
//! that is not.
//!
//! Source: gRFC A55; Envoy "Stateful session" (strict), `CommonLbConfig.override_host_status`.

use crate::endpoint::Declared;
use crate::hash::cookie::Cookie;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// The longest value that is looked at, in bytes: an address has 58 at most, in base64 80.
const LONGEST: usize = 80;

/// Settings of session affinity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Config {
    /// The cookie. A call whose path it does not cover has no session. Without a `ttl` it is a
    /// session cookie.
    pub cookie: Cookie,
    /// Whether a call is refused rather than sent to another endpoint than its session's. No.
    #[serde(default)]
    pub strict: bool,
    /// What discovery, or a health check (`Degraded`), may say of an endpoint that takes the calls
    /// of its sessions; at least one. `Healthy`, `Degraded`; with `Draining`, sessions end where
    /// they are.
    #[serde(default = "usual")]
    pub override_statuses: Vec<Status>,
}

impl Config {
    /// Lax affinity by a cookie.
    #[must_use]
    pub fn new(cookie: Cookie) -> Self {
        Self { cookie, strict: false, override_statuses: usual() }
    }
}

fn usual() -> Vec<Status> {
    vec![Status::Healthy, Status::Degraded]
}

/// What discovery says of an endpoint that takes calls of its sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub enum Status {
    /// It may take calls.
    Healthy,
    /// It may take calls, but less well.
    Degraded,
    /// It takes nothing new.
    Draining,
}

impl Status {
    const fn is(self, declared: Declared) -> bool {
        matches!(
            (self, declared),
            (Self::Healthy, Declared::Healthy)
                | (Self::Degraded, Declared::Degraded)
                | (Self::Draining, Declared::Draining)
        )
    }
}

impl Config {
    /// The address that a call names; `None` if it names none, or what is no address.
    #[must_use]
    pub fn read(&self, headers: &HeaderMap) -> Option<SocketAddr> {
        let value = self.cookie.of(headers).filter(|value| value.len() <= LONGEST)?;
        let mut text = [0; LONGEST];
        let length = STANDARD.decode_slice(value, &mut text).ok()?;
        std::str::from_utf8(text.get(..length)?).ok()?.parse().ok()
    }

    /// The `Set-Cookie` field that names an address.
    #[must_use]
    pub fn set(&self, address: SocketAddr) -> Option<HeaderValue> {
        self.cookie.set(&STANDARD.encode(address.to_string()))
    }

    /// Whether an endpoint of which this is said takes the calls of its sessions.
    #[must_use]
    pub fn takes(&self, declared: Declared) -> bool {
        self.override_statuses.iter().any(|status| status.is(declared))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::COOKIE;

    fn config() -> Config {
        Config::new(Cookie::new("session").unwrap())
    }

    fn read(value: &str) -> Option<SocketAddr> {
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, HeaderValue::try_from(format!("session={value}")).unwrap());
        config().read(&headers)
    }

    /// The example in Envoy's description of the cookie.
    #[test]
    fn the_value_is_the_base64_of_address_and_port() {
        let address: SocketAddr = "1.2.3.4:80".parse().unwrap();
        assert_eq!(read("MS4yLjMuNDo4MA=="), Some(address));
        assert_eq!(read("\"MS4yLjMuNDo4MA==\""), Some(address));
        assert_eq!(config().set(address).unwrap(), "session=MS4yLjMuNDo4MA==; HttpOnly");
    }

    #[test]
    fn every_address_reads_back() {
        for address in [
            "0.0.0.0:0",
            "255.255.255.255:65535",
            "[::1]:80",
            "[1111:2222:3333:4444:5555:6666:7777:8888%4294967295]:65535",
        ] {
            let address: SocketAddr = address.parse().unwrap();
            let set = config().set(address).unwrap();
            let value = set.to_str().unwrap().split([';', '=']).nth(1).unwrap().to_owned();
            let padded = format!("{value}{}", "=".repeat(value.len().wrapping_neg() % 4));
            assert_eq!(read(&padded), Some(address), "{set:?}");
        }
    }

    #[test]
    fn what_is_no_address_is_ignored() {
        let base64 = |text: &str| STANDARD.encode(text);
        for value in [
            "",
            "=",
            "1.2.3.4:80",
            "MS4yLjMuNDo4MA",
            "!!!!",
            &base64("1.2.3.4"),
            &base64("1.2.3.4:99999"),
            &base64("localhost:80"),
            &base64("1.2.3.4:80 "),
            &STANDARD.encode([0xff, 0xfe, 0xfd]),
            &"A".repeat(1 << 20),
        ] {
            assert_eq!(read(value), None, "{}", value.get(..40).unwrap_or(value));
        }
    }

    #[test]
    fn statuses_are_those_that_are_listed() {
        let mut config = config();
        let taken = |config: &Config| {
            [Declared::Healthy, Declared::Degraded, Declared::Draining, Declared::Unhealthy]
                .map(|declared| config.takes(declared))
        };
        assert_eq!(taken(&config), [true, true, false, false]);
        config.override_statuses.push(Status::Draining);
        assert_eq!(taken(&config), [true, true, true, false]);
        config.override_statuses.clear();
        assert_eq!(taken(&config), [false; 4]);
    }
}
