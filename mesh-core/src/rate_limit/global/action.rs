//! Actions: what of a call becomes a key with a value.

use super::super::Asked;
use crate::route::{Pattern, percent_decoded};
use http::{HeaderMap, HeaderName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Makes one entry of a descriptor. See the [module docs](super).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "RateLimitAction")]
#[non_exhaustive]
pub enum Action {
    /// Our own service.
    SourceCluster(Nothing),
    /// The service that is called.
    DestinationCluster(Nothing),
    /// The identity that the peer has proved.
    SourceIdentity(Nothing),
    /// A field of the request.
    RequestHeaders(RequestHeaders),
    /// A parameter of the query.
    QueryParameters(QueryParameters),
    /// The address of the peer.
    RemoteAddress(Nothing),
    /// The network of the peer.
    MaskedRemoteAddress(MaskedRemoteAddress),
    /// A value for every call.
    GenericKey(GenericKey),
    /// A value for calls with certain fields.
    HeaderValueMatch(HeaderValueMatch),
    /// A value for calls with certain parameters.
    QueryParameterValueMatch(QueryParameterValueMatch),
}

/// An action without settings: `{}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RateLimitActionNothing")]
#[non_exhaustive]
pub struct Nothing {}

/// A field of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(rename = "RateLimitRequestHeaders")]
#[non_exhaustive]
pub struct RequestHeaders {
    /// Its name, or `:path`, `:method`, `:authority`.
    pub header_name: String,
    /// The key.
    pub descriptor_key: String,
    /// Whether calls without it have the other entries. false: they have no such descriptor.
    #[serde(default)]
    pub skip_if_absent: bool,
}

impl RequestHeaders {
    /// A field, and the key for it.
    #[must_use]
    pub fn new(header_name: impl Into<String>, descriptor_key: impl Into<String>) -> Self {
        Self {
            header_name: header_name.into(),
            descriptor_key: descriptor_key.into(),
            skip_if_absent: false,
        }
    }
}

/// A parameter of the query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(rename = "RateLimitQueryParameters")]
#[non_exhaustive]
pub struct QueryParameters {
    /// Its name.
    pub query_parameter_name: String,
    /// The key.
    pub descriptor_key: String,
    /// Whether calls without it have the other entries. false: they have no such descriptor.
    #[serde(default)]
    pub skip_if_absent: bool,
}

/// The network of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[schemars(rename = "RateLimitMaskedRemoteAddress")]
#[non_exhaustive]
pub struct MaskedRemoteAddress {
    /// Bits of an IPv4 address that count, at most 32. 32.
    pub v4_prefix_mask_len: u8,
    /// Bits of an IPv6 address that count, at most 128. 128.
    pub v6_prefix_mask_len: u8,
}

impl Default for MaskedRemoteAddress {
    fn default() -> Self {
        Self { v4_prefix_mask_len: 32, v6_prefix_mask_len: 128 }
    }
}

/// A value for every call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(rename = "RateLimitGenericKey")]
#[non_exhaustive]
pub struct GenericKey {
    /// The value.
    pub descriptor_value: String,
    /// The key. `generic_key`.
    #[serde(default = "generic_key")]
    pub descriptor_key: String,
}

impl GenericKey {
    /// This value under `generic_key`.
    #[must_use]
    pub fn new(descriptor_value: impl Into<String>) -> Self {
        Self { descriptor_value: descriptor_value.into(), descriptor_key: generic_key() }
    }
}

fn generic_key() -> String {
    "generic_key".to_owned()
}

/// A value for calls with certain fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(rename = "RateLimitHeaderValueMatch")]
#[non_exhaustive]
pub struct HeaderValueMatch {
    /// The value.
    pub descriptor_value: String,
    /// The key. `header_match`.
    #[serde(default = "header_match")]
    pub descriptor_key: String,
    /// Whether it is for calls that match; else for those that do not. true.
    #[serde(default = "yes")]
    pub expect_match: bool,
    /// What must all match, at least one.
    pub headers: Vec<Matcher>,
}

fn header_match() -> String {
    "header_match".to_owned()
}

const fn yes() -> bool {
    true
}

/// A value for calls with certain parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(rename = "RateLimitQueryParameterValueMatch")]
#[non_exhaustive]
pub struct QueryParameterValueMatch {
    /// The value.
    pub descriptor_value: String,
    /// The key. `query_match`.
    #[serde(default = "query_match")]
    pub descriptor_key: String,
    /// Whether it is for calls that match; else for those that do not. true.
    #[serde(default = "yes")]
    pub expect_match: bool,
    /// What must all match, at least one.
    pub query_parameters: Vec<Matcher>,
}

fn query_match() -> String {
    "query_match".to_owned()
}

/// What a field or parameter must be. One that is absent matches only where no `value` is written
/// and `invertMatch` is (Envoy).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(rename = "RateLimitMatcher")]
#[non_exhaustive]
pub struct Matcher {
    /// Its name.
    pub name: String,
    /// How `value` is meant. `Exact`.
    #[serde(default, rename = "type")]
    pub kind: MatchType,
    /// What its first value must be; left out: that it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Whether it must not be so. false.
    #[serde(default)]
    pub invert_match: bool,
}

/// How a text is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "RateLimitMatchType")]
#[non_exhaustive]
pub enum MatchType {
    /// Letter by letter.
    #[default]
    Exact,
    /// The expression covers all of it.
    RegularExpression,
}

/// An action, read once.
#[derive(Debug)]
pub(super) enum Compiled {
    Source,
    Destination,
    Identity,
    Header { name: Named, key: String, skip: bool },
    Query { name: String, key: String, skip: bool },
    Address,
    Network { v4: u8, v6: u8 },
    Fixed { key: String, value: String },
    HeaderMatch { key: String, value: String, expect: bool, all: Vec<(Option<HeaderName>, Test)> },
    QueryMatch { key: String, value: String, expect: bool, all: Vec<(String, Test)> },
}

/// A field, or what HTTP/2 writes as one.
#[derive(Debug)]
pub(super) enum Named {
    Field(HeaderName),
    Path,
    Method,
    Authority,
    /// No request has it.
    Unknown,
}

impl Named {
    fn new(name: &str) -> Self {
        match name {
            ":path" => Self::Path,
            ":method" => Self::Method,
            ":authority" => Self::Authority,
            _ => name.parse().map_or(Self::Unknown, Self::Field),
        }
    }
}

/// What a value must be.
#[derive(Debug)]
pub(super) struct Test {
    /// `None`: that it is there. An expression that does not compile is told at load, and matches
    /// nothing.
    value: Option<Result<Pattern, String>>,
    invert: bool,
}

impl Test {
    fn new(written: &Matcher) -> Self {
        let value = written.value.as_ref().map(|value| match written.kind {
            MatchType::Exact => Err(value.clone()),
            // What matches nothing, where an expression is none.
            MatchType::RegularExpression => Pattern::new(value).map_err(|_| "\u{0}".to_owned()),
        });
        Self { value, invert: written.invert_match }
    }

    fn holds(&self, found: Option<&str>) -> bool {
        match (&self.value, found) {
            (None, found) => found.is_some() != self.invert,
            (Some(_), None) => false,
            (Some(Err(exact)), Some(found)) => (exact == found) != self.invert,
            (Some(Ok(pattern)), Some(found)) => pattern.is_match(found) != self.invert,
        }
    }
}

impl Compiled {
    pub(super) fn new(action: &Action) -> Self {
        match action {
            Action::SourceCluster(_) => Self::Source,
            Action::DestinationCluster(_) => Self::Destination,
            Action::SourceIdentity(_) => Self::Identity,
            Action::RequestHeaders(by) => Self::Header {
                name: Named::new(&by.header_name),
                key: by.descriptor_key.clone(),
                skip: by.skip_if_absent,
            },
            Action::QueryParameters(by) => Self::Query {
                name: by.query_parameter_name.clone(),
                key: by.descriptor_key.clone(),
                skip: by.skip_if_absent,
            },
            Action::RemoteAddress(_) => Self::Address,
            Action::MaskedRemoteAddress(mask) => {
                Self::Network { v4: mask.v4_prefix_mask_len, v6: mask.v6_prefix_mask_len }
            }
            Action::GenericKey(by) => {
                Self::Fixed { key: by.descriptor_key.clone(), value: by.descriptor_value.clone() }
            }
            Action::HeaderValueMatch(by) => Self::HeaderMatch {
                key: by.descriptor_key.clone(),
                value: by.descriptor_value.clone(),
                expect: by.expect_match,
                all: by
                    .headers
                    .iter()
                    .map(|test| (test.name.parse().ok(), Test::new(test)))
                    .collect(),
            },
            Action::QueryParameterValueMatch(by) => Self::QueryMatch {
                key: by.descriptor_key.clone(),
                value: by.descriptor_value.clone(),
                expect: by.expect_match,
                all: by
                    .query_parameters
                    .iter()
                    .map(|test| (test.name.clone(), Test::new(test)))
                    .collect(),
            },
        }
    }

    /// Whether a call without it has the other entries.
    pub(super) const fn skip_if_absent(&self) -> bool {
        matches!(self, Self::Header { skip: true, .. } | Self::Query { skip: true, .. })
    }

    /// The entry of a call, if it has one.
    pub(super) fn entry<'a>(&'a self, asked: &Asked<'a>) -> Option<(&'a str, Cow<'a, str>)> {
        let (key, value) = match self {
            Self::Source => ("source_cluster", Cow::Borrowed(asked.service?)),
            Self::Destination => ("destination_cluster", Cow::Borrowed(asked.destination?)),
            Self::Identity => ("source_identity", Cow::Borrowed(asked.identity?)),
            Self::Header { name, key, .. } => (&**key, named(name, asked)?),
            Self::Query { name, key, .. } => (&**key, parameter(asked.query?, name)?),
            Self::Address => ("remote_address", asked.address?.to_canonical().to_string().into()),
            Self::Network { v4, v6 } => {
                ("masked_remote_address", network(asked.address?.to_canonical(), *v4, *v6).into())
            }
            Self::Fixed { key, value } => (&**key, Cow::Borrowed(&**value)),
            Self::HeaderMatch { key, value, expect, all } => {
                let holds = |(name, test): &(Option<HeaderName>, Test)| {
                    let found = name.as_ref().and_then(|name| first(asked.headers, name));
                    test.holds(found.as_deref())
                };
                (all.iter().all(holds) == *expect).then_some((&**key, Cow::Borrowed(&**value)))?
            }
            Self::QueryMatch { key, value, expect, all } => {
                let holds = |(name, test): &(String, Test)| {
                    let found = asked.query.and_then(|query| parameter(query, name));
                    test.holds(found.as_deref())
                };
                (all.iter().all(holds) == *expect).then_some((&**key, Cow::Borrowed(&**value)))?
            }
        };
        (!value.is_empty()).then_some((key, value))
    }
}

fn named<'a>(name: &Named, asked: &Asked<'a>) -> Option<Cow<'a, str>> {
    match name {
        Named::Field(name) => first(asked.headers, name),
        Named::Path => Some(match asked.query {
            Some(query) => format!("{}?{query}", asked.path).into(),
            None => Cow::Borrowed(asked.path),
        }),
        Named::Method => Some(Cow::Borrowed(asked.method.as_str())),
        Named::Authority => asked.authority.map(Cow::Borrowed),
        Named::Unknown => None,
    }
}

fn first<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, str>> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()))
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let value = query.split('&').find_map(|pair| {
        let (found, value) = pair.split_once('=').unwrap_or((pair, ""));
        percent_decoded(found).eq(name.bytes()).then_some(value)
    })?;
    if !value.contains('%') {
        return Some(Cow::Borrowed(value));
    }
    let bytes: Vec<u8> = percent_decoded(value).collect();
    Some(String::from_utf8_lossy(&bytes).into_owned().into())
}

/// An address with its last bits zero, and how many are left.
fn network(address: IpAddr, v4: u8, v6: u8) -> String {
    match address {
        IpAddr::V4(address) => {
            let length = v4.min(32);
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            format!("{}/{length}", Ipv4Addr::from(u32::from(address) & mask))
        }
        IpAddr::V6(address) => {
            let length = v6.min(128);
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            format!("{}/{length}", Ipv6Addr::from(u128::from(address) & mask))
        }
    }
}
