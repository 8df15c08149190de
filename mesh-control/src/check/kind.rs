//! What a check does: its definition, read into exactly one kind.
//!
//! | kind | given by | needs `Interval` |
//! |---|---|---|
//! | script | `Args` | yes |
//! | http | `HTTP` | yes |
//! | tcp, udp | `TCP`, `UDP` | yes |
//! | grpc | `GRPC` | yes |
//! | h2ping | `H2PING` | yes |
//! | os_service | `OSService` | yes |
//! | ttl | `TTL` | must not have one |
//! | alias | `AliasNode`, `AliasService`, or both | no |
//!
//! An address that is none is no error here, as in Consul: the check is critical and says why.
//! Source: Consul "Check Definition". Two kinds at once are refused, where Consul takes one of them.

use std::time::Duration;

use super::state::Thresholds;
use crate::types::CheckDefinition;

/// Longest a run takes where the definition does not say.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The same of a script.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(30);
/// No check runs more often. Source: Consul's `MinInterval`.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

/// The one way in which a check finds out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// Runs a command: exit code 0 passes, 1 warns, all else is critical.
    Script,
    /// Sends an HTTP request: 2xx passes, 429 warns, all else is critical.
    Http,
    /// Opens a TCP connection.
    Tcp,
    /// Sends a datagram: critical where an ICMP refusal comes back.
    Udp,
    /// Asks `grpc.health.v1.Health`.
    Grpc,
    /// Sends an HTTP/2 PING.
    H2Ping,
    /// Asks the service manager of the operating system.
    OsService,
    /// Waits to be told, and is critical when nobody does in time.
    Ttl,
    /// Repeats the health of a node or of a service.
    Alias,
}

impl Kind {
    /// The word of the API for it (`Type`).
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Script => "script",
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Grpc => "grpc",
            Self::H2Ping => "h2ping",
            Self::OsService => "os_service",
            Self::Ttl => "ttl",
            Self::Alias => "alias",
        }
    }

    /// Whether it is run again and again.
    #[must_use]
    pub const fn is_repeated(self) -> bool {
        !matches!(self, Self::Ttl | Self::Alias)
    }
}

/// Why a definition is no check. The text begins as Consul's does where Consul refuses it, too.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KindError {
    /// No field says how to find out.
    #[error(
        "TTL must be > 0 for TTL checks (give one of Args, HTTP, TCP, UDP, GRPC, H2PING, OSService, TTL, AliasNode and AliasService)"
    )]
    None,
    /// Fields of different kinds contradict one another.
    #[error("{first} and {second} cannot both be specified: a check has one way to find out")]
    Two {
        /// The field that comes first in the documentation.
        first: &'static str,
        /// The other one.
        second: &'static str,
    },
    /// It is to be run again and again, but not how often.
    #[error(
        "Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP, GRPC or OSService checks ({field} is given)"
    )]
    IntervalMissing {
        /// The field that wants it.
        field: &'static str,
    },
    /// A TTL is not run again and again.
    #[error("Interval and TTL cannot both be specified")]
    TtlWithInterval,
    /// It would be critical before it warns.
    #[error("FailuresBeforeWarning can't be higher than FailuresBeforeCritical")]
    WarningAfterCritical,
}

impl CheckDefinition {
    /// The one kind that it is of.
    ///
    /// ```
    /// use mesh_control::check::Kind;
    /// use mesh_control::types::CheckDefinition;
    ///
    /// let read = |json: &str| serde_json::from_str::<CheckDefinition>(json).unwrap().kind();
    /// assert_eq!(read(r#"{"TCP": "127.0.0.1:80", "Interval": "10s"}"#), Ok(Kind::Tcp));
    /// let error = read(r#"{"TCP": "127.0.0.1:80", "TTL": "10s"}"#).unwrap_err().to_string();
    /// assert!(error.starts_with("TCP and TTL cannot both be specified"), "{error}");
    /// ```
    ///
    /// # Errors
    ///
    /// None or several are given, `Interval` is missing or too much, or thresholds contradict.
    pub fn kind(&self) -> Result<Kind, KindError> {
        let alias = !self.alias_node.is_empty() || !self.alias_service.is_empty();
        let alias_field = if self.alias_service.is_empty() { "AliasNode" } else { "AliasService" };
        let given = [
            ("Args", Kind::Script, !self.args.is_empty()),
            ("HTTP", Kind::Http, !self.http.is_empty()),
            ("TCP", Kind::Tcp, !self.tcp.is_empty()),
            ("UDP", Kind::Udp, !self.udp.is_empty()),
            ("GRPC", Kind::Grpc, !self.grpc.is_empty()),
            ("H2PING", Kind::H2Ping, !self.h2_ping.is_empty()),
            ("OSService", Kind::OsService, !self.os_service.is_empty()),
            (alias_field, Kind::Alias, alias),
            ("TTL", Kind::Ttl, !self.ttl.is_zero()),
        ];
        if !self.interval.is_zero() && !self.ttl.is_zero() {
            return Err(KindError::TtlWithInterval);
        }
        let mut given = given.into_iter().filter(|(_, _, is_given)| *is_given);
        let (field, kind, _) = given.next().ok_or(KindError::None)?;
        if let Some((second, ..)) = given.next() {
            return Err(KindError::Two { first: field, second });
        }
        if kind.is_repeated() && self.interval.is_zero() {
            return Err(KindError::IntervalMissing { field });
        }
        if self.failures_before_warning > self.failures_before_critical {
            return Err(KindError::WarningAfterCritical);
        }
        Ok(kind)
    }

    /// Time between the end of one run and the next: what is given, but at least 1 s.
    #[must_use]
    pub fn run_interval(&self) -> Duration {
        self.interval.0.max(SHORTEST_INTERVAL)
    }

    /// Longest a run takes: what is given, or 10 s, but no longer than the interval; scripts 30 s.
    #[must_use]
    pub fn run_timeout(&self) -> Duration {
        match (self.timeout.is_zero(), self.args.is_empty()) {
            (false, _) => self.timeout.0,
            (true, false) => SCRIPT_TIMEOUT,
            (true, true) => TIMEOUT.min(self.run_interval()),
        }
    }

    /// Rows of results that it takes to change.
    #[must_use]
    pub const fn thresholds(&self) -> Thresholds {
        Thresholds::new(
            self.success_before_passing,
            self.failures_before_warning,
            self.failures_before_critical,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(json: &str) -> Result<Kind, String> {
        let definition: CheckDefinition = serde_json::from_str(json).expect(json);
        definition.kind().map_err(|error| error.to_string())
    }

    #[test]
    fn each_field_makes_its_kind() {
        for (json, expected) in [
            (r#"{"Args": ["true"], "Interval": "1s"}"#, Kind::Script),
            (r#"{"HTTP": "http://a/", "Interval": "1s"}"#, Kind::Http),
            (r#"{"TCP": "a:1", "Interval": "1s"}"#, Kind::Tcp),
            (r#"{"UDP": "a:1", "Interval": "1s"}"#, Kind::Udp),
            (r#"{"GRPC": "a:1/b", "Interval": "1s"}"#, Kind::Grpc),
            (r#"{"H2PING": "a:1", "Interval": "1s"}"#, Kind::H2Ping),
            (r#"{"OSService": "ssh", "Interval": "1s"}"#, Kind::OsService),
            (r#"{"TTL": "1s", "Timeout": "1s"}"#, Kind::Ttl),
            (r#"{"AliasService": "a"}"#, Kind::Alias),
            (r#"{"AliasNode": "a", "AliasService": "a", "Interval": "1s"}"#, Kind::Alias),
        ] {
            assert_eq!(kind(json), Ok(expected), "{json}");
        }
    }

    #[test]
    fn what_contradicts_is_named_as_consul_names_it() {
        for (json, expected) in [
            ("{}", "TTL must be > 0 for TTL checks"),
            (r#"{"Interval": "1s"}"#, "TTL must be > 0 for TTL checks"),
            (r#"{"HTTP": "http://a/"}"#, "Interval must be > 0 for Script, HTTP,"),
            (r#"{"GRPC": "a:1", "Timeout": "1s"}"#, "Interval must be > 0 for Script, HTTP,"),
            (r#"{"TTL": "1s", "Interval": "1s"}"#, "Interval and TTL cannot both be specified"),
            (r#"{"HTTP": "http://a/", "TCP": "a:1", "Interval": "1s"}"#, "HTTP and TCP cannot"),
            (r#"{"AliasNode": "a", "TTL": "1s"}"#, "AliasNode and TTL cannot both"),
            (r#"{"AliasService": "a", "UDP": "a:1", "Interval": "1s"}"#, "UDP and AliasService"),
            (
                r#"{"TCP": "a:1", "Interval": "1s", "FailuresBeforeWarning": 3, "FailuresBeforeCritical": 2}"#,
                "FailuresBeforeWarning can't be higher",
            ),
        ] {
            let error = kind(json).expect_err(json);
            assert!(error.starts_with(expected), "{json}: {error}");
        }
    }

    #[test]
    fn a_run_ends_before_the_next_begins_where_nobody_says_otherwise() {
        let times = |json: &str| {
            let definition: CheckDefinition = serde_json::from_str(json).expect(json);
            (definition.run_interval().as_millis(), definition.run_timeout().as_millis())
        };
        assert_eq!(times(r#"{"TCP": "a:1", "Interval": "10ms"}"#), (1_000, 1_000));
        assert_eq!(times(r#"{"TCP": "a:1", "Interval": "5s"}"#), (5_000, 5_000));
        assert_eq!(times(r#"{"TCP": "a:1", "Interval": "1m"}"#), (60_000, 10_000));
        assert_eq!(times(r#"{"TCP": "a:1", "Interval": "5s", "Timeout": "7s"}"#), (5_000, 7_000));
        assert_eq!(times(r#"{"Args": ["a"], "Interval": "5s"}"#), (5_000, 30_000));
    }
}
