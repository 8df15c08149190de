//! The filters of routes, as they are written.
//!
//! The bodies are those of Gateway API. What it leaves to implementations is an object of its own,
//! `HTTPRouteFilter`, which an `ExtensionRef` names (as in Envoy Gateway).

use super::de::Located;
use super::kinds::BackendRef;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A filter; the part that `type` names is stated, and no other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct RouteFilter {
    /// Which filter.
    #[serde(rename = "type")]
    pub(crate) kind: Located<FilterType>,
    /// For `RequestHeaderModifier`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) request_header_modifier: Option<Located<HeaderModifier>>,
    /// For `ResponseHeaderModifier`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) response_header_modifier: Option<Located<HeaderModifier>>,
    /// For `RequestRedirect`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) request_redirect: Option<Located<RequestRedirect>>,
    /// For `URLRewrite`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) url_rewrite: Option<Located<UrlRewrite>>,
    /// For `RequestMirror`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) request_mirror: Option<Located<RequestMirror>>,
    /// For `CORS`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cors: Option<Located<CorsFilter>>,
    /// For `ExtensionRef`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) extension_ref: Option<Located<ExtensionRef>>,
}

/// Which filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub(crate) enum FilterType {
    /// Edits the fields of requests.
    #[default]
    RequestHeaderModifier,
    /// Edits the fields of responses.
    ResponseHeaderModifier,
    /// Sends callers elsewhere. Not in a `GRPCRoute`.
    RequestRedirect,
    /// Gives requests another host or path. Not in a `GRPCRoute`.
    #[serde(rename = "URLRewrite")]
    UrlRewrite,
    /// Sends copies of requests to another destination.
    RequestMirror,
    /// Tells browsers which pages may call. Not in a `GRPCRoute`.
    #[serde(rename = "CORS")]
    Cors,
    /// What an object of its own says. Not in a `GRPCRoute`.
    ExtensionRef,
}

impl FilterType {
    /// As it is written.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::RequestHeaderModifier => "RequestHeaderModifier",
            Self::ResponseHeaderModifier => "ResponseHeaderModifier",
            Self::RequestRedirect => "RequestRedirect",
            Self::UrlRewrite => "URLRewrite",
            Self::RequestMirror => "RequestMirror",
            Self::Cors => "CORS",
            Self::ExtensionRef => "ExtensionRef",
        }
    }

    /// The key of its part.
    pub(crate) const fn key(self) -> &'static str {
        match self {
            Self::RequestHeaderModifier => "requestHeaderModifier",
            Self::ResponseHeaderModifier => "responseHeaderModifier",
            Self::RequestRedirect => "requestRedirect",
            Self::UrlRewrite => "urlRewrite",
            Self::RequestMirror => "requestMirror",
            Self::Cors => "cors",
            Self::ExtensionRef => "extensionRef",
        }
    }
}

/// Edits of fields; a name stands in one of the three at most.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct HeaderModifier {
    /// Fields that get this value and no other.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) set: Vec<Located<Header>>,
    /// Fields that get this value beside those they have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) add: Vec<Located<Header>>,
    /// Names of fields that go.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) remove: Vec<Located<String>>,
}

/// A field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Header {
    /// Its name.
    pub(crate) name: Located<String>,
    /// Its value.
    pub(crate) value: Located<String>,
}

/// Where callers are sent; what is left out stays as in the request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct RequestRedirect {
    /// `http` or `https`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scheme: Option<Located<String>>,
    /// Host name, without a port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hostname: Option<Located<String>>,
    /// What becomes of the path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<Located<PathModifier>>,
    /// Port. That of `scheme` if it is stated, else the one that the caller wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) port: Option<Located<u32>>,
    /// 301, 302, 303, 307 or 308. 302.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status_code: Option<Located<u32>>,
}

/// Another host or path for requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct UrlRewrite {
    /// The host that endpoints see.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hostname: Option<Located<String>>,
    /// What becomes of the path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<Located<PathModifier>>,
}

/// What becomes of a path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct PathModifier {
    /// Which of the two.
    #[serde(rename = "type")]
    pub(crate) kind: Located<PathModifierType>,
    /// The path instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) replace_full_path: Option<Located<String>>,
    /// The segments in place of those that the rule's one `PathPrefix` matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) replace_prefix_match: Option<Located<String>>,
}

/// How a path is replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) enum PathModifierType {
    /// Wholly; the query stays.
    #[default]
    ReplaceFullPath,
    /// By its first segments.
    ReplacePrefixMatch,
}

/// Who gets copies of requests: of all, of `percent`, or of `fraction`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct RequestMirror {
    /// Who gets them.
    pub(crate) backend_ref: Located<BackendRef>,
    /// Of how many requests, 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) percent: Option<Located<u32>>,
    /// Of how many requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fraction: Option<Located<FractionOf>>,
}

/// A share: `numerator / denominator`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct FractionOf {
    /// At most the denominator.
    pub(crate) numerator: u32,
    /// From 1. 100.
    #[serde(default = "hundred")]
    pub(crate) denominator: u32,
}

const fn hundred() -> u32 {
    100
}

/// Which web pages may call.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct CorsFilter {
    /// `scheme://host[:port]`, where the host may begin with `*`; or `*` alone for all. None.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) allow_origins: Vec<Located<String>>,
    /// Whether pages may send credentials. No.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) allow_credentials: Option<bool>,
    /// Methods besides GET, HEAD and POST; or `*` alone. None.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) allow_methods: Vec<Located<String>>,
    /// Names of request headers; or `*`. None but those of the Fetch standard.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) allow_headers: Vec<Located<String>>,
    /// Names of response headers that pages may read; or `*`. None but those of the Fetch standard.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) expose_headers: Vec<Located<String>>,
    /// How long a browser may keep what it was told, in seconds, from 1. 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_age: Option<Located<u32>>,
}

/// The object that says what a filter does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct ExtensionRef {
    /// `mesh`.
    pub(crate) group: Located<String>,
    /// `HTTPRouteFilter`.
    pub(crate) kind: Located<String>,
    /// Its name, in the namespace of the route.
    pub(crate) name: Located<String>,
}

/// `HTTPRouteFilter`: a filter that Gateway API does not have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct HttpRouteFilterSpec {
    /// The answer to every request of the rules that name this object; they go nowhere.
    pub(crate) direct_response: Located<DirectResponse>,
}

/// An answer that is always the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct DirectResponse {
    /// 200 to 599.
    pub(crate) status_code: Located<u32>,
    /// Of the body. `text/plain; charset=utf-8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) content_type: Option<Located<String>>,
    /// At most 4,096 bytes. None.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) body: Option<Located<String>>,
}
