//! Global rate limit: asks a service that counts for all who call.
//!
//! For a call each of `rateLimits` makes one *descriptor*, a list of keys with values, by its
//! actions; one that cannot be made is left out. If there is any, the service is asked with all of
//! them, and the call is over the limit if one of them is. With none the service is not asked.
//!
//! | action | key | value |
//! |---|---|---|
//! | `requestHeaders` | `descriptorKey` | the first value of the field; `:path` (with query), `:method`, `:authority` too |
//! | `queryParameters` | `descriptorKey` | the first value of the parameter, percent-decoded |
//! | `remoteAddress` | `remote_address` | the address of the peer, without its port |
//! | `maskedRemoteAddress` | `masked_remote_address` | its network, as `10.1.0.0/16` |
//! | `genericKey` | `generic_key` | `descriptorValue` |
//! | `headerValueMatch` | `header_match` | `descriptorValue`, if all `headers` match |
//! | `queryParameterValueMatch` | `query_match` | `descriptorValue`, if all `queryParameters` match |
//! | `sourceCluster` | `source_cluster` | our own service |
//! | `destinationCluster` | `destination_cluster` | the service that is called |
//! | `sourceIdentity` | `source_identity` | the identity that the peer has proved; ours |
//!
//! A call that lacks what an action looks at has no such descriptor; with `skipIfAbsent` it lacks
//! the entry alone. Values are cut at 4,096 bytes, and an empty value is as good as none.
//!
//! | the service says | the call |
//! |---|---|
//! | `OK` | passes, with the fields of the answer |
//! | `OVER_LIMIT` | is refused with [`RateLimited`](crate::ErrorKind::RateLimited), unless `enforced` spares it |
//! | nothing within `timeout`, an error, or what is no answer | passes; with `failureModeDeny` it is refused with [`RateLimitService`](crate::ErrorKind::RateLimitService) |
//!
//! Answers are not kept: each call asks.
//!
//! Source: Envoy "Rate limit" (filter, `RateLimit.Action`, `rls.proto`), whose names these are.

mod action;
mod answer;
mod wire;

pub use action::{
    Action, GenericKey, HeaderValueMatch, MaskedRemoteAddress, MatchType, Matcher, Nothing,
    QueryParameterValueMatch, QueryParameters, RequestHeaders,
};
pub use answer::{Answer, Code};

use super::{Asked, XRatelimitHeaders};
use crate::Draw;
use crate::config::span;
use crate::name::DestinationName;
use action::Compiled;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::time::Duration;

/// The method that is asked: the path of its gRPC calls.
pub const METHOD: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
/// Most of `rateLimits`.
pub const MAX_RATE_LIMITS: usize = 64;
/// Most actions of one.
pub const MAX_ACTIONS: usize = 16;
/// Longest answer that is read, in bytes.
pub const MAX_ANSWER: usize = 64 * 1024;
/// Longest value of a descriptor, in bytes.
const MAX_VALUE: usize = 4096;

/// Whom to ask about which calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Config {
    /// The Service that answers: `name`, or `name.namespace` outside of `default`.
    #[schemars(with = "String")]
    pub service: DestinationName,
    /// What tells our limits apart from those of others who ask the same service.
    pub domain: String,
    /// Longest that the answer is waited for, at least 1 ms; never longer than the call may take.
    /// 20 ms.
    #[serde(default = "timeout", with = "span")]
    #[schemars(with = "span::Text")]
    pub timeout: Duration,
    /// Whether calls are refused that could not be asked about. false.
    #[serde(default)]
    pub failure_mode_deny: bool,
    /// What is asked about, 1 to 64.
    pub rate_limits: Vec<Rule>,
}

const fn timeout() -> Duration {
    Duration::from_millis(20)
}

impl Config {
    /// Asks a service with the default timeout, and lets calls pass that it does not answer for.
    #[must_use]
    pub fn new(
        service: DestinationName,
        domain: impl Into<String>,
        rate_limits: impl IntoIterator<Item = Rule>,
    ) -> Self {
        Self {
            service,
            domain: domain.into(),
            timeout: timeout(),
            failure_mode_deny: false,
            rate_limits: rate_limits.into_iter().collect(),
        }
    }
}

/// How one descriptor is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(rename = "GlobalRateLimit")]
#[non_exhaustive]
pub struct Rule {
    /// Its entries in their order, 1 to 16.
    pub actions: Vec<Action>,
    /// How much a call counts, 1 to 1,000,000,000. 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub hits_addend: u32,
}

const fn one() -> u32 {
    1
}

impl Rule {
    /// A descriptor of these entries, for which a call counts once.
    #[must_use]
    pub fn new(actions: impl IntoIterator<Item = Action>) -> Self {
        Self { actions: actions.into_iter().collect(), hits_addend: one() }
    }
}

/// Keys with values, as the service gets them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Made<'a> {
    /// In the order of the actions.
    pub entries: Vec<(&'a str, Cow<'a, str>)>,
    /// How much the call counts.
    pub hits_addend: u32,
}

/// What is asked about a call.
#[derive(Debug)]
#[non_exhaustive]
pub struct Question {
    /// The gRPC message with its prefix.
    pub message: Vec<u8>,
    /// How many descriptors it has.
    pub descriptors: usize,
}

/// Makes questions and reads answers. See the [module docs](self).
///
/// ```
/// use mesh_core::rate_limit::Asked;
/// use mesh_core::rate_limit::global::{Action, Config, Global, RequestHeaders, Rule};
///
/// let by_tenant = Rule::new([Action::RequestHeaders(RequestHeaders::new("x-tenant", "tenant"))]);
/// let config = Config::new("ratelimit".parse()?, "shop", [by_tenant]);
/// let global = Global::new(&config, Default::default());
/// let request = http::Request::get("/").header("x-tenant", "ada").body(()).unwrap();
/// let asked = Asked::new(request.headers(), request.method(), request.uri().path());
/// assert_eq!(global.descriptors(&asked)[0].entries, [("tenant", "ada".into())]);
/// # Ok::<(), mesh_core::InvalidName>(())
/// ```
#[derive(Debug)]
pub struct Global {
    domain: String,
    rules: Vec<(Vec<Compiled>, u32)>,
    tells: bool,
}

impl Global {
    /// By these settings; `headers` says whether answers tell of the limits.
    #[must_use]
    pub fn new(config: &Config, headers: XRatelimitHeaders) -> Self {
        let rules = config.rate_limits.iter().map(|rule| {
            (rule.actions.iter().map(Compiled::new).collect(), rule.hits_addend.max(1))
        });
        Self {
            domain: config.domain.clone(),
            rules: rules.collect(),
            tells: headers != XRatelimitHeaders::Off,
        }
    }

    /// The descriptors of a call.
    #[must_use]
    pub fn descriptors<'a>(&'a self, asked: &Asked<'a>) -> Vec<Made<'a>> {
        let made = self.rules.iter().filter_map(|(actions, hits_addend)| {
            let mut entries = Vec::with_capacity(actions.len());
            for action in actions {
                match action.entry(asked) {
                    Some((key, value)) => entries.push((key, cut(value))),
                    None if action.skip_if_absent() => {}
                    None => return None,
                }
            }
            (!entries.is_empty()).then_some(Made { entries, hits_addend: *hits_addend })
        });
        made.collect()
    }

    /// What to ask about a call; `None` if there is nothing.
    #[must_use]
    pub fn question(&self, asked: &Asked<'_>) -> Option<Question> {
        let made = self.descriptors(asked);
        if made.is_empty() {
            return None;
        }
        Some(Question { message: wire::encode(&self.domain, &made), descriptors: made.len() })
    }

    /// Reads the message of an answer to a question with so many descriptors; `None` if it is none.
    #[must_use]
    pub fn answer(&self, message: &[u8], descriptors: usize) -> Option<Answer> {
        Answer::decode(message, self.tells.then_some(descriptors))
    }
}

/// Whether a share in percent takes this one.
#[must_use]
pub fn takes(percent: u8, draw: &mut impl Draw) -> bool {
    percent >= 100 || draw.below(100) < usize::from(percent)
}

/// The first bytes of a long value.
fn cut(value: Cow<'_, str>) -> Cow<'_, str> {
    if value.len() <= MAX_VALUE {
        return value;
    }
    let mut end = MAX_VALUE;
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    match value {
        Cow::Borrowed(text) => Cow::Borrowed(text.get(..end).unwrap_or_default()),
        Cow::Owned(mut text) => {
            text.truncate(end);
            Cow::Owned(text)
        }
    }
}

#[cfg(test)]
mod tests;
