//! Retry: whether a failed attempt may be followed by another.
//!
//! 1. A request that cannot have reached the application (no connection, refused stream,
//!    unprocessed GOAWAY, refused by the endpoint's breaker or limit) may be sent again, whatever
//!    its method.
//! 2. One that may have is sent again only if it is *idempotent*: GET, HEAD or OPTIONS, or declared
//!    so by caller, route or `.proto` file ([`IdempotentMethods`]); and only on a condition of the
//!    policy: by default a reset, 502 to 504, or UNAVAILABLE.
//! 3. Nothing else. A call that is not idempotent is never sent twice once its bytes may
//!    have reached the application, whatever conditions are listed.
//!
//! At most [`Config::attempts`] retries follow the first attempt, each within the destination's
//! [`budget`] and [`throttling`], after a [`backoff`] or the delay that the server asks for
//! ([`pushback`]).
//!
//! Beside these, a request that the endpoint itself says it left out (REFUSED_STREAM, or a GOAWAY
//! with an older last stream) is sent again at once, once per call, whatever is listed: a
//! *transparent* retry, which counts neither as an attempt nor in any budget. Where retries are off
//! there is none.
//!
//! Source: Envoy "Router" (`x-envoy-retry-on`, `x-envoy-retry-grpc-on`), Gateway API HTTPRoute
//! `retry`, gRFC A6. Ours: rule 2, which makes the default safe.

pub mod backoff;
pub mod budget;
pub mod conditions;
pub mod headers;
mod idempotency;
pub mod pushback;
mod request_fields;
pub mod throttling;

pub use conditions::{Condition, Conditions};
pub use headers::RetriableHeader;
pub use idempotency::{IdempotentMethods, InvalidDescriptorSet};
pub use request_fields::RequestFields;

use crate::config::{size, span};
use crate::{Error, Failure, GrpcCode};
use http::{HeaderMap, Method, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// The field of a response that a rate limit made.
const RATE_LIMITED: &str = "x-envoy-ratelimited";

/// Settings of retries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Config {
    /// Attempts after the first; 0 turns retries off. 1.
    pub attempts: u32,
    /// On what. `connect-failure`, `refused-stream`, `reset`, `gateway-error`, `unavailable`.
    pub on: Conditions,
    /// Fields of a response that ask for a retry, whatever its status. None.
    pub retriable_headers: Vec<RetriableHeader>,
    /// Whether a repeated call does no harm; none: GET, HEAD and OPTIONS do not, nor do gRPC methods
    /// that a descriptor set declares idempotent. Other gRPC calls are sent again after an answer
    /// only where this, or the caller, says so.
    pub idempotent: Option<bool>,
    /// The wait before a retry.
    pub backoff: backoff::Config,
    /// Longest that one attempt may take to its response head; none: only the call's deadline.
    #[serde(with = "span::optional")]
    #[schemars(with = "Option<span::Text>")]
    pub per_try_timeout: Option<Duration>,
    /// Longest that an attempt may stand still: until its response head, and then between two
    /// frames of the body; none: `timeouts.streamIdle` for the body alone.
    #[serde(with = "span::optional")]
    #[schemars(with = "Option<span::Text>")]
    pub per_try_idle_timeout: Option<Duration>,
    /// Bytes of a request body that are kept for a retry; a longer body is sent once. 64 KiB.
    #[serde(with = "size")]
    #[schemars(with = "size::Text")]
    pub body_limit: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            attempts: 1,
            on: Conditions::default(),
            retriable_headers: Vec::new(),
            idempotent: None,
            backoff: backoff::Config::default(),
            per_try_timeout: None,
            per_try_idle_timeout: None,
            body_limit: 64 << 10,
        }
    }
}

/// How an attempt ended, for [`decide`].
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_enums, reason = "these are all ends an attempt has")]
pub enum End<'a> {
    /// Without a response.
    Error(&'a Error),
    /// With a response that is no gRPC answer.
    Status(StatusCode),
    /// With a gRPC status in the head of the response.
    Grpc(GrpcCode),
}

impl End<'_> {
    /// Whether that is how calls that go well end.
    #[must_use]
    pub fn is_success(&self) -> bool {
        match self {
            Self::Error(_) => false,
            Self::Status(status) => status.is_success(),
            Self::Grpc(code) => *code == GrpcCode::OK,
        }
    }
}

/// An attempt that has ended, as [`decide`] needs to know it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Attempted<'a> {
    /// The request's method.
    pub method: &'a Method,
    /// What is declared of this call; by policy, or else method, otherwise.
    pub idempotent: Option<bool>,
    /// How it ended.
    pub end: End<'a>,
    /// Attempts made so far, with this one, without transparent ones.
    pub attempts: u32,
    /// Whether the call was sent again transparently before.
    pub resent: bool,
    /// The fields of the response.
    pub headers: Option<&'a HeaderMap>,
}

impl<'a> Attempted<'a> {
    /// The first attempt of a call of which nothing is declared.
    #[must_use]
    pub const fn new(method: &'a Method, end: End<'a>) -> Self {
        Self { method, idempotent: None, end, attempts: 1, resent: false, headers: None }
    }

    /// What is declared of this call.
    #[must_use]
    pub const fn with_idempotent(mut self, idempotent: Option<bool>) -> Self {
        self.idempotent = idempotent;
        self
    }

    /// Attempts made so far, with this one, without transparent ones.
    #[must_use]
    pub const fn with_attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// Whether the call was sent again transparently before.
    #[must_use]
    pub const fn with_resent(mut self, resent: bool) -> Self {
        self.resent = resent;
        self
    }

    /// The fields of the response.
    #[must_use]
    pub const fn with_headers(mut self, headers: Option<&'a HeaderMap>) -> Self {
        self.headers = headers;
        self
    }

    /// Whether the response is that of a rate limit.
    fn is_rate_limited(&self) -> bool {
        self.headers.is_some_and(|headers| headers.contains_key(RATE_LIMITED))
    }

    /// Whether the endpoint says that it left the request out.
    fn is_unprocessed(&self) -> bool {
        let End::Error(error) = self.end else { return false };
        error.is_retryable() && error.failure() == Some(Failure::Reset)
    }
}

impl Config {
    /// Longest that an attempt may take to its response head. With `hedged` it goes on beyond
    /// `perTryTimeout`, beside the next.
    #[must_use]
    pub fn attempt_timeout(&self, hedged: bool) -> Option<Duration> {
        let whole = self.per_try_timeout.filter(|_| !hedged);
        whole.into_iter().chain(self.per_try_idle_timeout).min()
    }

    /// Whether a repeated call does no harm: what is declared of it, else the policy, else the
    /// method.
    #[must_use]
    pub fn is_idempotent(&self, declared: Option<bool>, method: &Method) -> bool {
        declared
            .or(self.idempotent)
            .unwrap_or(matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS))
    }
}

/// What is to follow an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a caller must handle all")]
pub enum Verdict {
    /// Another attempt at once, which nothing counts: the application has not seen this one.
    Transparent,
    /// Another attempt, if budget and deadline allow.
    Retry {
        /// The condition that allows it.
        condition: Condition,
    },
    /// This end is the call's.
    Stop {
        /// Why.
        why: Stop,
    },
}

/// Why no attempt follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stop {
    /// No condition of the policy matches; a success is the usual case.
    NotListed,
    /// All attempts that the policy allows were made.
    Exhausted,
    /// It may have reached the application, and to repeat it might do harm.
    NotIdempotent,
    /// A rate limit refused it, and `envoy-ratelimited` is not listed.
    RateLimited,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotListed => "no retry condition matches",
            Self::Exhausted => "all attempts are used",
            Self::NotIdempotent => "the request may have been processed and is not idempotent",
            Self::RateLimited => "a rate limit refused it",
        })
    }
}

/// Decides what follows an attempt. See the [module docs](self) for the rule.
///
/// ```
/// use http::{HeaderMap, Method, StatusCode};
/// use mesh_core::retry::{self, Attempted, End, Stop, Verdict};
///
/// let config = retry::Config::default();
/// let end = End::Status(StatusCode::SERVICE_UNAVAILABLE);
/// assert!(matches!(
///     retry::decide(&config, &Attempted::new(&Method::GET, end)),
///     Verdict::Retry { .. }
/// ));
/// assert_eq!(
///     retry::decide(&config, &Attempted::new(&Method::POST, end)),
///     Verdict::Stop { why: Stop::NotIdempotent }
/// );
/// ```
#[must_use]
pub fn decide(config: &Config, attempted: &Attempted<'_>) -> Verdict {
    if attempted.is_unprocessed() && !attempted.resent && config.attempts > 0 {
        return Verdict::Transparent;
    }
    let Some(condition) = condition(config, attempted) else {
        return Verdict::Stop { why: Stop::NotListed };
    };
    if condition != Condition::RateLimited && attempted.is_rate_limited() {
        return Verdict::Stop { why: Stop::RateLimited };
    }
    let reached = match attempted.end {
        End::Error(error) => !error.is_retryable(),
        End::Status(_) | End::Grpc(_) => true,
    };
    if reached && !config.is_idempotent(attempted.idempotent, attempted.method) {
        return Verdict::Stop { why: Stop::NotIdempotent };
    }
    if attempted.attempts > config.attempts {
        return Verdict::Stop { why: Stop::Exhausted };
    }
    Verdict::Retry { condition }
}

/// The condition of the policy that an attempt's end meets.
fn condition(config: &Config, attempted: &Attempted<'_>) -> Option<Condition> {
    use Condition as C;
    let on = &config.on;
    if on.contains(C::RateLimited) && attempted.is_rate_limited() {
        return Some(C::RateLimited);
    }
    let listed = match attempted.end {
        End::Error(error) if error.is_retryable() => match error.failure() {
            Some(Failure::Reset) => on.first_of(&[
                C::RefusedStream,
                C::ResetBeforeRequest,
                C::Reset,
                C::GatewayError,
                C::ServerError,
            ]),
            _ => on.first_of(&[C::ConnectFailure, C::Reset, C::GatewayError, C::ServerError]),
        },
        End::Error(error) => match error.failure() {
            Some(Failure::Reset) => on.first_of(&[C::Reset, C::GatewayError, C::ServerError]),
            Some(Failure::Timeout) => {
                on.first_of(&[C::Reset]).or_else(|| on.status(error.kind().status()))
            }
            Some(Failure::Protocol) => on.status(error.kind().status()),
            _ => None,
        },
        End::Status(status) => on.status(status),
        End::Grpc(code) => on.grpc(code),
    };
    listed.or_else(|| {
        let headers = attempted.headers?;
        let asks = config.retriable_headers.iter().any(|field| field.is_in(headers));
        asks.then_some(C::RetriableHeader)
    })
}

#[cfg(test)]
mod tests;
