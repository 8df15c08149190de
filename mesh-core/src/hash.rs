//! Hash: the number that decides where a call goes, made from what the call brings.
//!
//! Each entry of the policy names a source; the hashes of those that the call has are combined in
//! their order:
//!
//! ```text
//! h ← rotate_left(h, 1) xor XXH64(value, seed 0)
//! ```
//!
//! | source | value |
//! |---|---|
//! | `header` | its values, joined by commas |
//! | `cookie` | its value; with a `ttl`, a call without it gets one made up, which the answer sets |
//! | `queryParameter` | the first of that name, percent-decoded |
//! | `sourceAddress` | the IP address of the caller, as text |
//!
//! A `terminal` entry ends the list once there is a hash. A key that the caller gives for this one
//! call decides alone. Without any hash a call goes by chance, each attempt anew.
//!
//! Cost: one pass over each value, nothing is kept; XXH64 is no secret, so callers can choose their
//! endpoint, but not make the choice dearer. Source: Envoy `RouteAction.HashPolicy`, gRFC A42 (values
//! joined by commas); XXH64 by the `twox-hash` crate.

pub mod cookie;
mod split;

pub use split::Split;

use crate::Draw;
use crate::route::percent_decoded;
use cookie::Cookie;
use http::{HeaderMap, HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::hash::Hasher;
use std::io::Write;
use std::net::IpAddr;
use twox_hash::XxHash64;

/// XXH64 with seed 0.
///
/// ```
/// assert_eq!(mesh_core::hash::xxh64(b""), 0xef46_db37_51d8_e999);
/// ```
#[must_use]
pub fn xxh64(bytes: &[u8]) -> u64 {
    XxHash64::oneshot(0, bytes)
}

/// Spreads a number that may be chosen over all 64 bits, one to one (the finalizer of SplitMix64).
pub(crate) const fn mix(number: u64) -> u64 {
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

/// One entry of the policy: a source, and whether the list may end with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Written", into = "Written")]
#[schemars(with = "Written")]
#[non_exhaustive]
pub struct Config {
    /// What is hashed.
    pub source: Source,
    /// Whether later entries are ignored once there is a hash. No.
    pub terminal: bool,
}

impl Config {
    /// An entry after which the list goes on.
    #[must_use]
    pub const fn new(source: Source) -> Self {
        Self { source, terminal: false }
    }

    /// Ends the list once there is a hash.
    #[must_use]
    pub const fn terminal(mut self) -> Self {
        self.terminal = true;
        self
    }
}

/// What of a call is hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// The values of a header field, joined by commas.
    Header(HeaderName),
    /// The value of a cookie.
    Cookie(Cookie),
    /// The first value of a query parameter, percent-decoded.
    QueryParameter(Box<str>),
    /// The IP address of the caller.
    SourceAddress,
}

/// A [`Config`] as it is written: one source, and `terminal`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[schemars(rename = "HashPolicy")]
struct Written {
    /// The name of a header field, whose values are joined by commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<String>,
    /// A cookie; with a `ttl` it is made for calls that lack it.
    #[serde(skip_serializing_if = "Option::is_none")]
    cookie: Option<Cookie>,
    /// The name of a query parameter, whose first value counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    query_parameter: Option<Box<str>>,
    /// The IP address of the caller: through the proxy, of the peer that is connected to it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    source_address: bool,
    /// Whether later entries are ignored once there is a hash. No.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    terminal: bool,
}

impl TryFrom<Written> for Config {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let Written { header, cookie, query_parameter, source_address, terminal } = written;
        let header = match header {
            Some(name) => Some(Source::Header(HeaderName::try_from(&*name).map_err(|_| {
                format!("`{}` is not the name of a header field", name.escape_debug())
            })?)),
            None => None,
        };
        let sources = [
            header,
            cookie.map(Source::Cookie),
            query_parameter.map(Source::QueryParameter),
            source_address.then_some(Source::SourceAddress),
        ];
        let mut sources = sources.into_iter().flatten();
        match (sources.next(), sources.next()) {
            (Some(source), None) => Ok(Self { source, terminal }),
            _ => Err("an entry has one of `header`, `cookie`, `queryParameter` and \
                      `sourceAddress: true`; write several entries to combine them"
                .to_owned()),
        }
    }
}

impl From<Config> for Written {
    fn from(Config { source, terminal }: Config) -> Self {
        let written = Self { terminal, ..Self::default() };
        match source {
            Source::Header(name) => Self { header: Some(name.as_str().to_owned()), ..written },
            Source::Cookie(cookie) => Self { cookie: Some(cookie), ..written },
            Source::QueryParameter(name) => Self { query_parameter: Some(name), ..written },
            Source::SourceAddress => Self { source_address: true, ..written },
        }
    }
}

/// What of a call may be hashed.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Input<'a> {
    /// Its header fields.
    pub headers: &'a HeaderMap,
    /// The query of its URI.
    pub query: Option<&'a str>,
    /// The address that it comes from, if that is known.
    pub source: Option<IpAddr>,
}

impl<'a> Input<'a> {
    /// A call without a query, from nowhere known.
    #[must_use]
    pub const fn new(headers: &'a HeaderMap) -> Self {
        Self { headers, query: None, source: None }
    }

    /// The query of its URI.
    #[must_use]
    pub const fn with_query(mut self, query: Option<&'a str>) -> Self {
        self.query = query;
        self
    }

    /// The address that it comes from.
    #[must_use]
    pub const fn with_source(mut self, source: Option<IpAddr>) -> Self {
        self.source = source;
        self
    }
}

/// The hash of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hashed {
    /// The hash; `None` if the call has nothing that is asked for.
    pub hash: Option<u64>,
    /// `Set-Cookie` fields for the answer: cookies that were made up for this call.
    pub cookies: Vec<HeaderValue>,
}

/// Hashes a call.
///
/// ```
/// use http::{HeaderMap, HeaderName, HeaderValue};
/// use mesh_core::hash::{self, Config, Input, Source};
///
/// let mut headers = HeaderMap::new();
/// headers.insert("x-user", HeaderValue::from_static("ada"));
/// let policies = [Config::new(Source::Header(HeaderName::from_static("x-user")))];
/// let hashed = hash::hash(&policies, &Input::new(&headers), &mut || 0);
/// assert_eq!(hashed.hash, Some(hash::xxh64(b"ada")));
/// ```
#[must_use]
pub fn hash(policies: &[Config], input: &Input<'_>, draw: &mut impl Draw) -> Hashed {
    let mut hashed = Hashed::default();
    for Config { source, terminal } in policies {
        let new = match source {
            Source::Header(name) => header(input.headers, name),
            Source::Cookie(cookie) => match cookie.of(input.headers) {
                Some(value) => Some(xxh64(value)),
                None => cookie.ttl.map(|_| {
                    let value = format!("{:016x}", draw.bits());
                    hashed.cookies.extend(cookie.set(&value));
                    xxh64(value.as_bytes())
                }),
            },
            Source::QueryParameter(name) => input.query.and_then(|query| parameter(query, name)),
            Source::SourceAddress => input.source.map(address),
        };
        hashed.hash = match (hashed.hash, new) {
            (Some(old), Some(new)) => Some(old.rotate_left(1) ^ new),
            (old, new) => new.or(old),
        };
        if *terminal && hashed.hash.is_some() {
            break;
        }
    }
    hashed
}

/// What the hash of a call is made of, in order: the sources of those entries that it has
/// something for.
#[must_use]
pub fn sources(policies: &[Config], input: &Input<'_>) -> Vec<String> {
    let mut sources = Vec::new();
    for Config { source, terminal } in policies {
        let found = match source {
            Source::Header(name) => {
                input.headers.contains_key(name).then(|| format!("header {name}"))
            }
            Source::Cookie(cookie) => {
                let made = cookie.of(input.headers).is_none();
                let made_up = if made { " (made for this call)" } else { "" };
                (!made || cookie.ttl.is_some()).then(|| format!("cookie {}{made_up}", cookie.name))
            }
            Source::QueryParameter(name) => {
                let query = input.query.unwrap_or_default();
                parameter(query, name).map(|_| format!("query parameter {name}"))
            }
            Source::SourceAddress => input.source.map(|source| format!("source address {source}")),
        };
        sources.extend(found);
        if *terminal && !sources.is_empty() {
            break;
        }
    }
    sources
}

fn header(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    let mut values = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let first = values.next()?;
    let Some(second) = values.next() else { return Some(xxh64(first)) };
    let mut hasher = XxHash64::with_seed(0);
    hasher.write(first);
    for value in std::iter::once(second).chain(values) {
        hasher.write(b",");
        hasher.write(value);
    }
    Some(hasher.finish())
}

fn parameter(query: &str, name: &str) -> Option<u64> {
    let value = query.split('&').find_map(|pair| {
        let (found, value) = pair.split_once('=').unwrap_or((pair, ""));
        percent_decoded(found).eq(name.bytes()).then_some(value)
    })?;
    if !value.contains('%') {
        return Some(xxh64(value.as_bytes()));
    }
    Some(xxh64(&percent_decoded(value).collect::<Vec<u8>>()))
}

fn address(address: IpAddr) -> u64 {
    // The longest has 45 bytes.
    let mut text = [0; 48];
    let mut rest = &mut text[..];
    // Cannot fail: it fits.
    let _ = write!(rest, "{}", address.to_canonical());
    let left = rest.len();
    xxh64(text.get(..48 - left).unwrap_or_default())
}

#[cfg(test)]
#[path = "hash/tests.rs"]
mod tests;
