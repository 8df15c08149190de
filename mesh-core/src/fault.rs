//! Fault: delays and fails calls on purpose, to see what callers make of it.
//!
//! ```text
//! delayed ⇔ draw₁ < delay.percentage      aborted ⇔ draw₂ < abort.percentage
//! ```
//!
//! The two draws are independent: a call may be delayed and then aborted. An aborted call goes
//! nowhere, a delayed one leaves after the delay, within its deadline.
//!
//! With `header: true` the caller says what is injected, and the configuration how often at most:
//!
//! | field of the request | |
//! |---|---|
//! | `x-envoy-fault-delay-request` | the delay, in milliseconds |
//! | `x-envoy-fault-abort-request` | the HTTP status, 200 to 599 |
//! | `x-envoy-fault-abort-grpc-request` | the gRPC status; only where the HTTP status is not asked for |
//! | `x-envoy-fault-{delay,abort}-request-percentage` | how often, a whole number; at most `percentage` |
//!
//! A value that is none of these counts as missing: without a delay or status nothing is injected,
//! without a percentage that of the configuration holds. A delay is at most [`MAX_DELAY`].
//!
//! An HTTP status means to a gRPC call what it means in an answer without `grpc-status`; 200 is
//! `UNKNOWN`. A gRPC status means nothing to a call that is not gRPC, which gets its HTTP equivalent.
//!
//! No more than `maxActiveFaults` calls of one process are delayed at a time; what comes above it
//! passes unharmed, aborts too.
//!
//! Source: Envoy, HTTP fault filter; gRFC A33.

use crate::config::span;
use crate::draw::Draw;
use crate::outcome::GrpcCode;
use http::{HeaderMap, StatusCode};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// Longest delay that a caller may ask for.
pub const MAX_DELAY: Duration = Duration::from_secs(3600);

const DELAY: &str = "x-envoy-fault-delay-request";
const DELAY_PERCENTAGE: &str = "x-envoy-fault-delay-request-percentage";
const ABORT: &str = "x-envoy-fault-abort-request";
const ABORT_GRPC: &str = "x-envoy-fault-abort-grpc-request";
const ABORT_PERCENTAGE: &str = "x-envoy-fault-abort-request-percentage";

/// Which calls are delayed and which are failed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Config {
    /// Calls that leave later. None.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<Delay>,
    /// Calls that fail without leaving. None.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abort: Option<Abort>,
    /// How many calls of this process may be delayed at once, at least 1; above it no fault is injected.
    /// Unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_active_faults: Option<u32>,
}

/// Calls that leave later: `fixedDelay` or `header`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Delay {
    /// How much later, at least 1 ms.
    #[serde(default, with = "span::optional", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<span::Text>")]
    pub fixed_delay: Option<Duration>,
    /// Whether the caller says how much, in `x-envoy-fault-delay-request`. No.
    #[serde(default, skip_serializing_if = "is_false")]
    pub header: bool,
    /// How many of them, in percent. It must be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percentage: Option<Percentage>,
}

/// Calls that fail without leaving: `httpStatus`, `grpcStatus` or `header`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Abort {
    /// With an HTTP status, 200 to 599.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<u16>", range(min = 200, max = 599))]
    pub http_status: Option<HttpStatus>,
    /// With a gRPC status, by name or number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<GrpcStatus>,
    /// Whether the caller says how, in `x-envoy-fault-abort-request` or
    /// `x-envoy-fault-abort-grpc-request`. No.
    #[serde(default, skip_serializing_if = "is_false")]
    pub header: bool,
    /// How many of them, in percent. It must be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percentage: Option<Percentage>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

impl Config {
    /// Whether nothing is injected.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.delay.is_none() && self.abort.is_none()
    }

    /// What contradicts itself, and what to do about it.
    #[must_use]
    pub fn contradiction(&self) -> Option<(&'static str, &'static str)> {
        if let Some(delay) = &self.delay
            && delay.fixed_delay.is_some() == delay.header
        {
            return Some(("delay", "state either `fixedDelay` or `header: true`"));
        }
        let shares = [
            ("delay", self.delay.as_ref().map(|delay| delay.percentage)),
            ("abort", self.abort.as_ref().map(|abort| abort.percentage)),
        ];
        if let Some((key, _)) = shares.into_iter().find(|(_, share)| *share == Some(None)) {
            return Some((key, "state of how many calls: `percentage`, from 0 to 100"));
        }
        if let Some(abort) = &self.abort {
            let stated = [abort.http_status.is_some(), abort.grpc_status.is_some(), abort.header];
            if stated.iter().filter(|stated| **stated).count() != 1 {
                return Some((
                    "abort",
                    "state one of `httpStatus`, `grpcStatus` and `header: true`",
                ));
            }
        }
        None
    }

    /// What to inject into one call.
    pub fn decide(&self, headers: &HeaderMap, draw: &mut impl Draw) -> Injected {
        let mut injected = Injected::default();
        if let Some(delay) = &self.delay {
            let wanted = match delay.fixed_delay {
                Some(fixed) => Some(fixed),
                None => number(headers, DELAY).map(|ms| Duration::from_millis(ms).min(MAX_DELAY)),
            };
            let share =
                delay.percentage.unwrap_or_default().asked(headers, DELAY_PERCENTAGE, delay.header);
            injected.delay = wanted.filter(|span| !span.is_zero() && share.takes(draw));
        }
        if let Some(abort) = &self.abort {
            let wanted = abort.status().or_else(|| asked_status(headers).filter(|_| abort.header));
            let share =
                abort.percentage.unwrap_or_default().asked(headers, ABORT_PERCENTAGE, abort.header);
            injected.abort = wanted.filter(|_| share.takes(draw));
        }
        injected
    }
}

impl Abort {
    fn status(&self) -> Option<Status> {
        let http = self.http_status.map(|HttpStatus(status)| Status::Http(status));
        http.or_else(|| self.grpc_status.map(|GrpcStatus(code)| Status::Grpc(code)))
    }
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

fn asked_status(headers: &HeaderMap) -> Option<Status> {
    let http = || {
        let code = u16::try_from(number(headers, ABORT)?).ok().filter(|code| is_status(*code))?;
        StatusCode::from_u16(code).ok().map(Status::Http)
    };
    let grpc = || u32::try_from(number(headers, ABORT_GRPC)?).ok().map(GrpcCode::new);
    http().or_else(|| grpc().map(Status::Grpc))
}

const fn is_status(code: u16) -> bool {
    200 <= code && code < 600
}

/// What is injected into one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Injected {
    /// It leaves this much later.
    pub delay: Option<Duration>,
    /// After the delay, it fails so.
    pub abort: Option<Status>,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// With an HTTP status.
    Http(StatusCode),
    /// With a gRPC status.
    Grpc(GrpcCode),
}

impl Status {
    /// What it is to a gRPC call.
    #[must_use]
    pub const fn grpc(self) -> GrpcCode {
        match self {
            Self::Http(status) => GrpcCode::from_http(status),
            Self::Grpc(code) => code,
        }
    }

    /// What it is to any other call.
    ///
    /// Source: `google.rpc.Code`, which states the HTTP status of each gRPC status.
    #[must_use]
    pub fn http(self) -> StatusCode {
        let code = match self {
            Self::Http(status) => return status,
            Self::Grpc(code) => code,
        };
        match code {
            GrpcCode::OK => StatusCode::OK,
            GrpcCode::INVALID_ARGUMENT | GrpcCode::FAILED_PRECONDITION | GrpcCode::OUT_OF_RANGE => {
                StatusCode::BAD_REQUEST
            }
            GrpcCode::UNAUTHENTICATED => StatusCode::UNAUTHORIZED,
            GrpcCode::PERMISSION_DENIED => StatusCode::FORBIDDEN,
            GrpcCode::NOT_FOUND => StatusCode::NOT_FOUND,
            GrpcCode::ABORTED | GrpcCode::ALREADY_EXISTS => StatusCode::CONFLICT,
            GrpcCode::RESOURCE_EXHAUSTED => StatusCode::TOO_MANY_REQUESTS,
            GrpcCode::UNIMPLEMENTED => StatusCode::NOT_IMPLEMENTED,
            GrpcCode::UNAVAILABLE => StatusCode::SERVICE_UNAVAILABLE,
            GrpcCode::DEADLINE_EXCEEDED => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(status) => write!(f, "HTTP status {}", status.as_u16()),
            Self::Grpc(code) => write!(f, "gRPC status {code}"),
        }
    }
}

/// A share of calls in percent, in steps of 0.0001; 0 to 100.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percentage(u32);

impl Percentage {
    /// Steps of one percent (Envoy's finest denominator is a million).
    const STEPS: u32 = 10_000;

    /// A share; `None` if it is not from 0 to 100.
    #[must_use]
    pub fn new(percent: f64) -> Option<Self> {
        // The cast is of a number from 0 to 1,000,000.
        (0.0..=100.0)
            .contains(&percent)
            .then(|| Self((percent * f64::from(Self::STEPS)).round() as u32))
    }

    /// In percent.
    #[must_use]
    pub fn percent(self) -> f64 {
        f64::from(self.0) / f64::from(Self::STEPS)
    }

    /// What the caller asks for, but no more than this.
    fn asked(self, headers: &HeaderMap, name: &str, heard: bool) -> Self {
        let asked = number(headers, name).filter(|_| heard);
        let asked = asked.and_then(|percent| u32::try_from(percent).ok()?.checked_mul(Self::STEPS));
        asked.map_or(self, |asked| self.min(Self(asked)))
    }

    fn takes(self, draw: &mut impl Draw) -> bool {
        const ALL: u32 = 100 * Percentage::STEPS;
        self.0 >= ALL || (self.0 > 0 && draw.below(ALL as usize) < self.0 as usize)
    }
}

impl Serialize for Percentage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.percent())
    }
}

impl<'de> Deserialize<'de> for Percentage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let percent = f64::deserialize(deserializer)?;
        Self::new(percent)
            .ok_or_else(|| D::Error::custom(format!("{percent} is not a percentage from 0 to 100")))
    }
}

impl JsonSchema for Percentage {
    fn schema_name() -> Cow<'static, str> {
        "Percentage".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number", "minimum": 0, "maximum": 100 })
    }
}

/// An HTTP status from 200 to 599.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HttpStatus(pub StatusCode);

impl Serialize for HttpStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(self.0.as_u16())
    }
}

impl<'de> Deserialize<'de> for HttpStatus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u64::deserialize(deserializer)?;
        u16::try_from(number)
            .ok()
            .filter(|code| is_status(*code))
            .and_then(|code| StatusCode::from_u16(code).ok())
            .map(Self)
            .ok_or_else(|| D::Error::custom(format!("{number} is no status from 200 to 599")))
    }
}

/// A gRPC status, by name or number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GrpcStatus(pub GrpcCode);

impl Serialize for GrpcStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.name() {
            Some(name) => serializer.serialize_str(name),
            None => serializer.serialize_u32(self.0.number()),
        }
    }
}

impl<'de> Deserialize<'de> for GrpcStatus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u32),
            Name(String),
        }
        match Written::deserialize(deserializer) {
            Ok(Written::Number(number)) => Ok(Self(GrpcCode::new(number))),
            Ok(Written::Name(name)) => GrpcCode::from_name(&name).map(Self).ok_or_else(|| {
                D::Error::custom(format!("`{}` is no gRPC status", name.escape_debug()))
            }),
            Err(_) => Err(D::Error::custom("expected the name or number of a gRPC status")),
        }
    }
}

impl JsonSchema for GrpcStatus {
    fn schema_name() -> Cow<'static, str> {
        "GrpcStatus".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "string" }, { "type": "integer", "minimum": 0 }] })
    }
}

/// The calls of a process that are delayed now; clones share the count.
#[derive(Clone, Debug, Default)]
pub struct Active(Arc<AtomicU32>);

impl Active {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.load(Relaxed)
    }

    /// Counts one more for as long as the value lives; `None` if there are as many as there may be.
    #[must_use]
    pub fn enter(&self, most: Option<u32>) -> Option<ActiveFault> {
        let most = most.unwrap_or(u32::MAX);
        let counted = self.0.fetch_update(Relaxed, Relaxed, |count| {
            (count < most).then(|| count.saturating_add(1))
        });
        counted.is_ok().then(|| ActiveFault(self.clone()))
    }
}

/// A call that is delayed; counted until it is dropped.
#[derive(Debug)]
pub struct ActiveFault(Active);

impl Drop for ActiveFault {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests;
