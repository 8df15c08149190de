//! Rate limit: how many calls may pass in a span of time, in all and for each who asks.
//!
//! A token bucket holds `maxTokens` at most and gets `tokensPerFill` in each `fillInterval`, a bit
//! at a time. A call takes one token from each bucket that applies to it, or, if one of them is
//! empty, from none. So over any span `w` a bucket lets pass at most
//!
//! ```text
//! maxTokens + w × tokensPerFill / fillInterval
//! ```
//!
//! A bucket is one instant, the one at which it will be full again (the *theoretical arrival time*
//! of GCRA): `full = max(full, now) + interval of a token`, refused if that is more than a whole
//! bucket away.
//!
//! A descriptor applies to the calls for which all its entries have a value, and has a bucket for
//! each combination of values ([`Keys`]). Of several descriptors by the same things only the first
//! that applies counts, so that an exception stands before its rule.
//!
//! Shadow mode: `enabled` is the share of the calls that are looked at, `enforced` the share of
//! those over the limit that are refused; what else is over it is only counted.
//!
//! With `enableXRatelimitHeaders` callers are told how they stand ([`Told`]).
//!
//! Source: Envoy "Local rate limit" and its API (names, shadow mode); Linkerd "Rate limiting"
//! (limit in all and per identity, with exceptions); ITU-T I.371 for GCRA. Ours: both shares are
//! 100 unless written, where Envoy has 0, because a limit that is written is meant to hold.

use crate::config::{percent, span};
use crate::{Draw, Timestamp};
use foldhash::quality::RandomState;
use http::{HeaderMap, HeaderName, Method};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::hash::{BuildHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

pub mod global;
mod keys;
mod told;

pub use keys::Keys;
pub use told::Told;

/// Most descriptors of a limit.
pub const MAX_DESCRIPTORS: usize = 64;

/// Settings of a [`RateLimit`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Config {
    /// Bounds all calls together. None.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_bucket: Option<TokenBucket>,
    /// Bounds the calls that have something in common, at most 64. None.
    pub descriptors: Vec<Descriptor>,
    /// Asks a service that counts for all who call, once the limits above let a call pass. None.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global: Option<global::Config>,
    /// Buckets that each descriptor may have at once, 1 to 1,000,000, 18 bytes each: beyond, those
    /// nearest to full are forgotten. 10,000.
    pub max_keys: u32,
    /// Percent of the calls that are looked at. 100.
    #[serde(deserialize_with = "percent::deserialize")]
    #[schemars(with = "percent::Number")]
    pub enabled: u8,
    /// Percent of the calls over the limit that are refused; the others are only counted. 100.
    #[serde(deserialize_with = "percent::deserialize")]
    #[schemars(with = "percent::Number")]
    pub enforced: u8,
    /// Whether answers tell how much is allowed, how much of it is left, and when it is there again,
    /// by that limit of which least is left. Off.
    #[serde(skip_serializing_if = "XRatelimitHeaders::is_off")]
    pub enable_x_ratelimit_headers: XRatelimitHeaders,
    /// Whether a gRPC call over the limit gets `RESOURCE_EXHAUSTED`; else `UNAVAILABLE`, which many
    /// clients send again. true.
    pub rate_limited_as_resource_exhausted: bool,
}

/// Whether and how answers tell of a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub enum XRatelimitHeaders {
    /// They do not.
    #[default]
    Off,
    /// By `x-ratelimit-limit`, `x-ratelimit-remaining` and `x-ratelimit-reset` in seconds
    /// (draft-polli-ratelimit-headers-03).
    DraftVersion03,
}

impl XRatelimitHeaders {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
    fn is_off(&self) -> bool {
        *self == Self::Off
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            token_bucket: None,
            descriptors: Vec::new(),
            global: None,
            max_keys: 10_000,
            enabled: 100,
            enforced: 100,
            enable_x_ratelimit_headers: XRatelimitHeaders::Off,
            rate_limited_as_resource_exhausted: true,
        }
    }
}

/// How many calls may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct TokenBucket {
    /// Most calls at once, at least 1.
    pub max_tokens: u32,
    /// Calls per `fillInterval`, at least 1. 1.
    #[serde(default = "one")]
    pub tokens_per_fill: u32,
    /// The span in which `tokensPerFill` calls may pass, at least 1 ms.
    #[serde(with = "span")]
    #[schemars(with = "span::Text")]
    pub fill_interval: Duration,
}

const fn one() -> u32 {
    1
}

impl TokenBucket {
    /// A bucket of so many tokens, of which so many come in each interval.
    #[must_use]
    pub const fn new(max_tokens: u32, tokens_per_fill: u32, fill_interval: Duration) -> Self {
        Self { max_tokens, tokens_per_fill, fill_interval }
    }
}

/// A limit for the calls that have something in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Descriptor {
    /// What they have in common, at least one thing.
    pub entries: Vec<Entry>,
    /// How many may pass, for each combination of values.
    pub token_bucket: TokenBucket,
}

impl Descriptor {
    /// A limit for the calls to which all these entries apply.
    #[must_use]
    pub fn new(entries: impl IntoIterator<Item = Entry>, token_bucket: TokenBucket) -> Self {
        Self { entries: entries.into_iter().collect(), token_bucket }
    }
}

/// One thing that calls have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[non_exhaustive]
pub struct Entry {
    /// What is looked at.
    pub by: By,
    /// Name of the field, for `Header`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The only value that it applies to; of a `Path` also what it begins with, if this ends in
    /// `*`. Otherwise each value has a bucket of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

impl Entry {
    /// Each value by itself.
    #[must_use]
    pub const fn by(by: By) -> Self {
        Self { by, name: None, value: None }
    }

    /// Each value of a field by itself.
    #[must_use]
    pub fn header(name: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..Self::by(By::Header) }
    }

    /// Only this value.
    #[must_use]
    pub fn value(mut self, value: impl Into<String>) -> Self {
        self.value = Some(value.into());
        self
    }
}

/// What an [`Entry`] looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub enum By {
    /// A field of the request.
    Header,
    /// The identity that the peer has proved with its certificate.
    Identity,
    /// The address of the peer, without its port.
    RemoteAddress,
    /// The path, without its query.
    Path,
    /// The method.
    Method,
}

/// A call, as far as a limit looks at it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Asked<'a> {
    /// Its fields.
    pub headers: &'a HeaderMap,
    /// Its method.
    pub method: &'a Method,
    /// Its path, without query.
    pub path: &'a str,
    /// Its query, without the question mark.
    pub query: Option<&'a str>,
    /// What it names as `host` or `host:port`.
    pub authority: Option<&'a str>,
    /// Who sent it, if that is proved.
    pub identity: Option<&'a str>,
    /// Where it came from.
    pub address: Option<IpAddr>,
    /// Our own service.
    pub service: Option<&'a str>,
    /// The service that is called.
    pub destination: Option<&'a str>,
}

impl<'a> Asked<'a> {
    /// A call whose sender is not known.
    #[must_use]
    pub const fn new(headers: &'a HeaderMap, method: &'a Method, path: &'a str) -> Self {
        Self {
            headers,
            method,
            path,
            query: None,
            authority: None,
            identity: None,
            address: None,
            service: None,
            destination: None,
        }
    }

    /// The rest of its target.
    #[must_use]
    pub const fn target(mut self, authority: Option<&'a str>, query: Option<&'a str>) -> Self {
        self.authority = authority;
        self.query = query;
        self
    }

    /// Our own service, and the one that is called.
    #[must_use]
    pub const fn between(mut self, service: Option<&'a str>, destination: Option<&'a str>) -> Self {
        self.service = service;
        self.destination = destination;
        self
    }

    /// Who sent it: a proved identity, and an address.
    #[must_use]
    pub const fn from(mut self, identity: Option<&'a str>, address: Option<IpAddr>) -> Self {
        self.identity = identity;
        self.address = address;
        self
    }
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It is within all limits.
    Pass,
    /// It is over a limit that is not enforced for it: it passes, and counts as over.
    Shadow,
    /// It is refused.
    Refuse,
}

/// Lets calls pass at the configured rates. See the [module docs](self).
///
/// ```
/// use mesh_core::Timestamp;
/// use mesh_core::rate_limit::{Asked, Config, RateLimit, TokenBucket, Verdict};
/// use std::time::Duration;
///
/// let mut config = Config::default();
/// config.token_bucket = Some(TokenBucket::new(2, 1, Duration::from_secs(1)));
/// let limit = RateLimit::new(&config);
/// let request = http::Request::new(());
/// let asked = Asked::new(request.headers(), request.method(), request.uri().path());
/// let mut check = |now| limit.check(&asked, now, &mut || 0u64);
/// let now = Timestamp::from_nanos(0);
/// assert_eq!([check(now), check(now), check(now)], [Verdict::Pass, Verdict::Pass, Verdict::Refuse]);
/// assert_eq!(check(now + Duration::from_secs(1)), Verdict::Pass);
/// ```
#[derive(Debug)]
pub struct RateLimit {
    total: Option<(Rate, AtomicU64)>,
    rules: Vec<Rule>,
    enabled: u8,
    enforced: u8,
    tells: bool,
    /// Seeded anew for each limit, so that nobody can choose keys that share a bucket.
    hasher: RandomState,
}

#[derive(Debug)]
struct Rule {
    entries: Vec<Compiled>,
    /// Rules with the same number are by the same things.
    group: usize,
    keys: Keys,
    rate: Rate,
}

#[derive(Debug)]
struct Compiled {
    by: By,
    name: Option<HeaderName>,
    value: Option<String>,
    /// The value, of an address.
    address: Option<IpAddr>,
}

/// A rate, in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Rate {
    /// Of one token, rounded up: never more than was asked for.
    token: u64,
    /// Of a full bucket.
    full: u64,
    /// Tokens of a full bucket.
    most: u32,
}

impl Rate {
    fn of(bucket: &TokenBucket) -> Self {
        let interval = u64::try_from(bucket.fill_interval.as_nanos()).unwrap_or(u64::MAX);
        let token = interval.div_ceil(u64::from(bucket.tokens_per_fill.max(1))).max(1);
        let most = bucket.max_tokens.max(1);
        Self { token, full: token.saturating_mul(u64::from(most)), most }
    }

    /// When a bucket is full after one more token; `None` if it has none.
    fn take(self, full_at: u64, now: u64) -> Option<u64> {
        let after = full_at.max(now).saturating_add(self.token);
        (after.saturating_sub(now) <= self.full && after < u64::MAX).then_some(after)
    }

    /// When a bucket is full after a token was given back.
    const fn give_back(self, full_at: u64) -> u64 {
        full_at.saturating_sub(self.token)
    }

    /// How a bucket stands.
    fn told(self, full_at: u64, now: u64) -> Told {
        let missing = full_at.saturating_sub(now);
        let left = self.full.saturating_sub(missing) / self.token;
        let remaining = u32::try_from(left).unwrap_or(u32::MAX).min(self.most);
        Told { limit: self.most, remaining, reset: missing.div_ceil(1_000_000_000) }
    }
}

impl RateLimit {
    /// A limit with full buckets.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let mut groups: Vec<Vec<(By, Option<HeaderName>)>> = Vec::new();
        let rules = config.descriptors.iter().map(|descriptor| {
            let entries: Vec<_> = descriptor.entries.iter().map(Compiled::new).collect();
            let things: Vec<_> =
                entries.iter().map(|entry| (entry.by, entry.name.clone())).collect();
            let group = groups.iter().position(|known| *known == things).unwrap_or_else(|| {
                groups.push(things);
                groups.len() - 1
            });
            let single = entries.iter().all(|entry| entry.is_single());
            let keys = Keys::new(if single { 1 } else { config.max_keys });
            Rule { entries, group, keys, rate: Rate::of(&descriptor.token_bucket) }
        });
        let rules = rules.collect();
        let total =
            config.token_bucket.as_ref().map(|bucket| (Rate::of(bucket), AtomicU64::new(0)));
        let hasher = RandomState::default();
        let tells = config.enable_x_ratelimit_headers != XRatelimitHeaders::Off;
        Self { total, rules, enabled: config.enabled, enforced: config.enforced, tells, hasher }
    }

    /// How the tightest of the buckets that apply to a call stands after it; `None` unless callers
    /// are told, or if none applies.
    pub fn told(&self, asked: &Asked<'_>, now: Timestamp) -> Option<Told> {
        if !self.tells {
            return None;
        }
        let now = now.as_nanos();
        let total =
            self.total.as_ref().map(|(rate, full_at)| rate.told(full_at.load(Relaxed), now));
        let keyed = self.applying(asked).map(|(rule, key)| rule.rate.told(rule.keys.get(key), now));
        total.into_iter().chain(keyed).reduce(Told::tighter)
    }

    /// Takes the tokens of a call, if all buckets that apply have one.
    pub fn check(&self, asked: &Asked<'_>, now: Timestamp, draw: &mut impl Draw) -> Verdict {
        if self.enabled < 100 && draw.below(100) >= usize::from(self.enabled) {
            return Verdict::Pass;
        }
        if self.take(asked, now.as_nanos()) {
            return Verdict::Pass;
        }
        if self.enforced < 100 && draw.below(100) >= usize::from(self.enforced) {
            return Verdict::Shadow;
        }
        Verdict::Refuse
    }

    fn take(&self, asked: &Asked<'_>, now: u64) -> bool {
        if let Some((rate, full_at)) = &self.total
            && full_at.fetch_update(Relaxed, Relaxed, |at| rate.take(at, now)).is_err()
        {
            return false;
        }
        let refused = self
            .applying(asked)
            .find(|(rule, key)| !rule.keys.update(*key, |full_at| rule.rate.take(full_at, now)));
        let Some((refusing, _)) = refused else { return true };
        for (rule, key) in self.applying(asked) {
            if std::ptr::eq(rule, refusing) {
                break;
            }
            rule.keys.update(key, |full_at| Some(rule.rate.give_back(full_at)));
        }
        if let Some((rate, full_at)) = &self.total {
            // Always `Ok`: the closure never refuses.
            let _ = full_at.fetch_update(Relaxed, Relaxed, |at| Some(rate.give_back(at)));
        }
        false
    }

    /// The rules that apply, each with the key of its bucket.
    fn applying<'a>(&'a self, asked: &'a Asked<'_>) -> impl Iterator<Item = (&'a Rule, u64)> {
        let mut groups = 0_u64;
        self.rules.iter().filter_map(move |rule| {
            let group = 1_u64.checked_shl(u32::try_from(rule.group).unwrap_or(u32::MAX));
            let group = group.filter(|group| groups & group == 0)?;
            let key = rule.key(asked, &self.hasher)?;
            groups |= group;
            Some((rule, key))
        })
    }
}

impl Rule {
    /// The key of the bucket for a call; `None` if the rule does not apply.
    fn key(&self, asked: &Asked<'_>, hasher: &RandomState) -> Option<u64> {
        let mut hash = hasher.build_hasher();
        for entry in &self.entries {
            entry.hash(asked, &mut hash)?;
        }
        Some(hash.finish())
    }
}

impl Compiled {
    fn new(entry: &Entry) -> Self {
        let name = entry.name.as_ref().and_then(|name| name.parse().ok());
        let value = entry.value.clone();
        let address = value.as_ref().and_then(|value| value.parse::<IpAddr>().ok());
        let address = address.map(|address| address.to_canonical());
        Self { by: entry.by, name, value, address }
    }

    /// Whether there is one bucket for all calls that it applies to.
    fn is_single(&self) -> bool {
        self.value.is_some()
    }

    /// Adds the call's value to a hash; `None` if the entry does not apply to it.
    fn hash(&self, asked: &Asked<'_>, hash: &mut impl Hasher) -> Option<()> {
        match self.by {
            By::Header => {
                let mut values = asked.headers.get_all(self.name.as_ref()?).iter();
                let first = values.next()?;
                self.one(first.as_bytes(), hash)?;
                // What a caller repeats is one value more, not one that nobody looks at; and no
                // bucket more where one value has one for all.
                if !self.is_single() {
                    values.for_each(|more| more.as_bytes().hash(hash));
                }
            }
            By::Identity => self.one(asked.identity?.as_bytes(), hash)?,
            By::RemoteAddress => {
                // A listener for both families tells of IPv4 as `::ffff:10.0.0.1`.
                let found = asked.address?.to_canonical();
                match &self.value {
                    Some(_) => (self.address == Some(found)).then_some(())?,
                    None => found.hash(hash),
                }
            }
            By::Path => self.one(asked.path.as_bytes(), hash)?,
            By::Method => self.one(asked.method.as_str().as_bytes(), hash)?,
        }
        Some(())
    }

    fn one(&self, found: &[u8], hash: &mut impl Hasher) -> Option<()> {
        let Some(value) = &self.value else {
            found.hash(hash);
            return Some(());
        };
        let applies = match value.strip_suffix('*').filter(|_| self.by == By::Path) {
            Some(prefix) => found.starts_with(prefix.as_bytes()),
            None => found == value.as_bytes(),
        };
        applies.then_some(())
    }
}

#[cfg(test)]
#[path = "rate_limit/tests.rs"]
mod tests;
