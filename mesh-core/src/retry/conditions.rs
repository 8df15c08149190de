//! On what a call is retried, as a list of words, status codes and ranges.
//!
//! | written | met by |
//! |---|---|
//! | `connect-failure` | no connection, or refused before the request was sent |
//! | `refused-stream` | a stream that the endpoint says it has not processed |
//! | `reset-before-request` | a connection or stream broken before the application can have seen the request |
//! | `reset` | no response at all: any of the above, a break later on, an attempt's timeout |
//! | `gateway-error` | 502, 503, 504, and what meets `reset` |
//! | `5xx` | any 5xx, and what meets `reset` |
//! | `retriable-4xx` | 409 |
//! | `envoy-ratelimited` | a response that carries `x-envoy-ratelimited` |
//! | `503`, `500-504` | that status, that range |
//! | `unavailable`, `cancelled`, … | that gRPC status (any standard name) |
//!
//! A field of the response can be one too: [`headers`](super::headers). Envoy's word
//! `retriable-status-codes` has no use in configuration, where the codes themselves are listed;
//! `http3-post-connect-failure` has none without HTTP/3.
//!
//! Source: Envoy `x-envoy-retry-on`, `x-envoy-retry-grpc-on`, and its code where that says more
//! (`gateway-error` includes resets).

use crate::GrpcCode;
use http::StatusCode;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// One condition; see the [module docs](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Condition {
    /// `connect-failure`
    ConnectFailure,
    /// `refused-stream`
    RefusedStream,
    /// `reset-before-request`
    ResetBeforeRequest,
    /// `reset`
    Reset,
    /// `gateway-error`
    GatewayError,
    /// `5xx`
    ServerError,
    /// `retriable-4xx`
    Retriable4xx,
    /// `envoy-ratelimited`
    RateLimited,
    /// A field of the response, by [`Config::retriable_headers`](super::Config::retriable_headers).
    RetriableHeader,
    /// A status, or a range with both ends included.
    Status {
        /// The lowest.
        from: u16,
        /// The highest.
        to: u16,
    },
    /// A gRPC status.
    Grpc(GrpcCode),
}

const WORDS: [(&str, Condition); 8] = [
    ("connect-failure", Condition::ConnectFailure),
    ("refused-stream", Condition::RefusedStream),
    ("reset-before-request", Condition::ResetBeforeRequest),
    ("reset", Condition::Reset),
    ("gateway-error", Condition::GatewayError),
    ("5xx", Condition::ServerError),
    ("retriable-4xx", Condition::Retriable4xx),
    ("envoy-ratelimited", Condition::RateLimited),
];

impl Condition {
    fn meets_status(self, status: StatusCode) -> bool {
        let code = status.as_u16();
        match self {
            Self::GatewayError => (502..=504).contains(&code),
            Self::ServerError => status.is_server_error(),
            Self::Retriable4xx => code == 409,
            Self::Status { from, to } => (from..=to).contains(&code),
            _ => false,
        }
    }
}

impl FromStr for Condition {
    type Err = InvalidCondition;

    fn from_str(text: &str) -> Result<Self, InvalidCondition> {
        if let Some((_, word)) = WORDS.iter().find(|(word, _)| *word == text) {
            return Ok(*word);
        }
        if let Some(code) = GrpcCode::from_name(text).filter(|code| *code != GrpcCode::OK) {
            return Ok(Self::Grpc(code));
        }
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        let status = |text: &str| {
            let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse::<u16>().ok()).flatten().filter(|code| *code <= 599)
        };
        match (status(from), status(to)) {
            (Some(from), Some(to)) if 400 <= from && from <= to => Ok(Self::Status { from, to }),
            _ => Err(InvalidCondition(text.chars().take(40).collect())),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status { from, to } if from == to => write!(f, "{from}"),
            Self::Status { from, to } => write!(f, "{from}-{to}"),
            Self::Grpc(code) => {
                f.write_str(&code.to_string().replace('_', "-").to_ascii_lowercase())
            }
            Self::RetriableHeader => f.write_str("retriable-headers"),
            word => f.write_str(
                WORDS.iter().find(|(_, one)| one == word).map_or("unknown", |(word, _)| *word),
            ),
        }
    }
}

impl Serialize for Condition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Status { from, to } if from == to => serializer.serialize_u16(*from),
            _ => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Condition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written<'a> {
            Number(u64),
            #[serde(borrow)]
            Word(Cow<'a, str>),
        }
        let text: Cow<'_, str> = match Written::deserialize(deserializer) {
            Ok(Written::Number(number)) => number.to_string().into(),
            Ok(Written::Word(word)) => word,
            Err(_) => return Err(D::Error::custom("a retry condition is a word or a status code")),
        };
        text.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for Condition {
    fn schema_name() -> Cow<'static, str> {
        "RetryCondition".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "integer", "minimum": 400, "maximum": 599 },
            { "type": "string" },
        ] })
    }
}

/// A text that is no condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidCondition(String);

impl fmt::Display for InvalidCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not a retry condition: use ", self.0.escape_debug())?;
        for (word, _) in WORDS {
            write!(f, "{word}, ")?;
        }
        f.write_str("a status from 400 to 599, a range like 500-504, or a gRPC status name")
    }
}

impl std::error::Error for InvalidCondition {}

/// On what a call is retried. The default is the safe rule of [`retry`](super).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Conditions(Vec<Condition>);

impl Default for Conditions {
    fn default() -> Self {
        Self(vec![
            Condition::ConnectFailure,
            Condition::RefusedStream,
            Condition::Reset,
            Condition::GatewayError,
            Condition::Grpc(GrpcCode::UNAVAILABLE),
        ])
    }
}

impl FromIterator<Condition> for Conditions {
    fn from_iter<I: IntoIterator<Item = Condition>>(conditions: I) -> Self {
        Self(conditions.into_iter().collect())
    }
}

impl Conditions {
    /// The conditions, as listed.
    #[must_use]
    pub fn as_slice(&self) -> &[Condition] {
        &self.0
    }

    /// Whether this very condition is listed.
    #[must_use]
    pub fn contains(&self, condition: Condition) -> bool {
        self.0.contains(&condition)
    }

    /// Adds a condition, unless it is listed.
    pub fn push(&mut self, condition: Condition) {
        if !self.contains(condition) {
            self.0.push(condition);
        }
    }

    /// Removes every condition.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn first_of(&self, conditions: &[Condition]) -> Option<Condition> {
        self.0.iter().copied().find(|condition| conditions.contains(condition))
    }

    pub(super) fn status(&self, status: StatusCode) -> Option<Condition> {
        self.0.iter().copied().find(|condition| condition.meets_status(status))
    }

    pub(super) fn grpc(&self, code: GrpcCode) -> Option<Condition> {
        self.0.iter().copied().find(|condition| *condition == Condition::Grpc(code))
    }
}
