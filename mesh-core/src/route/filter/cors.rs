//! CORS: which web pages of other origins may call, told to their browsers.
//!
//! A *preflight* (`OPTIONS` with `Origin` and `Access-Control-Request-Method`) is answered here
//! with 204 and goes no further. Any other request goes on, and its answer is told to be readable
//! by the page if the origin is allowed. Of an origin that is not allowed nothing is said, and the
//! browser keeps the answer from the page; callers that are no browsers are not held by it.
//!
//! With credentials no `*` is sent: the origin, method or headers that were asked for are named
//! instead, as the Fetch standard demands. Wherever the answer depends on the origin, it has
//! `Vary: Origin`, also when the request names none: a cache may not give that answer to a page.
//!
//! Source: Gateway API `HTTPCORSFilter` (GEP-1767); Fetch standard, section "CORS protocol".

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use std::fmt;

const ANY: HeaderValue = HeaderValue::from_static("*");

/// One pattern of origins: `scheme://host[:port]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    scheme: Box<str>,
    /// In lower case; of a wildcard what follows the `*`.
    host: Box<str>,
    wildcard: bool,
    port: Option<u16>,
}

impl Origin {
    /// Reads `scheme://host[:port]`; a host may begin with `*`, which stands for one character or
    /// more. `None` if it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, host, port) = split(text)?;
        let known =
            scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        let rest = host.strip_prefix('*');
        let label = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
        let plain = rest.unwrap_or(host).bytes().all(label);
        (known && plain && !scheme.is_empty() && !host.is_empty()).then(|| Self {
            scheme: scheme.to_ascii_lowercase().into(),
            host: rest.unwrap_or(host).to_ascii_lowercase().into(),
            wildcard: rest.is_some(),
            port,
        })
    }

    /// Whether an `Origin` field names one of them. A port that is left out is that of the scheme.
    #[must_use]
    pub fn is_match(&self, origin: &str) -> bool {
        let Some((scheme, host, port)) = split(origin) else { return false };
        let host_matches = if self.wildcard {
            host.len() > self.host.len()
                && host
                    .as_bytes()
                    .get(host.len() - self.host.len()..)
                    .is_some_and(|end| end.eq_ignore_ascii_case(self.host.as_bytes()))
        } else {
            host.eq_ignore_ascii_case(&self.host)
        };
        host_matches && scheme.eq_ignore_ascii_case(&self.scheme) && port == self.port
    }
}

/// Scheme, host and port, which is that of the scheme if none is written.
fn split(origin: &str) -> Option<(&str, &str, Option<u16>)> {
    let (scheme, rest) = origin.split_once("://")?;
    let usual = match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    Some(match rest.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
        Some((host, port)) => (scheme, host, Some(port.parse().ok()?)),
        None => (scheme, rest, usual),
    })
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if self.wildcard { "*" } else { "" };
        write!(f, "{}://{star}{}", self.scheme, self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// Names that are allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Allowed {
    /// None beyond those that the Fetch standard allows anyway.
    #[default]
    Safelisted,
    /// All.
    Any,
    /// These, joined by `, `.
    These(HeaderValue),
}

impl Allowed {
    /// What to say of them: `asked` in place of `*` where that may not be sent.
    fn value(&self, credentials: bool, asked: Option<&HeaderValue>) -> Option<HeaderValue> {
        match self {
            Self::Safelisted => None,
            Self::These(value) => Some(value.clone()),
            Self::Any if credentials => asked.cloned(),
            Self::Any => Some(ANY),
        }
    }
}

/// Which web pages of other origins may call, and what their browsers are told (Gateway API
/// `HTTPCORSFilter`; Fetch standard).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cors {
    /// Origins that are allowed; `None` is any.
    pub origins: Option<Vec<Origin>>,
    /// Whether pages may send cookies and other credentials.
    pub credentials: bool,
    /// Methods that are allowed besides GET, HEAD and POST.
    pub methods: Allowed,
    /// Request headers that are allowed besides those of the Fetch standard.
    pub headers: Allowed,
    /// Response headers that pages may read besides those of the Fetch standard.
    pub expose: Allowed,
    /// How long a browser may keep what it was told, in seconds. 5.
    pub max_age: u32,
}

impl Default for Cors {
    fn default() -> Self {
        Self {
            origins: Some(Vec::new()),
            credentials: false,
            methods: Allowed::default(),
            headers: Allowed::default(),
            expose: Allowed::default(),
            max_age: 5,
        }
    }
}

impl Cors {
    /// Whether a request asks what is allowed, instead of doing it.
    #[must_use]
    pub fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
        *method == Method::OPTIONS
            && headers.contains_key(ORIGIN)
            && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
    }

    fn allows(&self, origin: &HeaderValue) -> bool {
        self.origins.as_ref().is_none_or(|origins| {
            origin.to_str().is_ok_and(|text| origins.iter().any(|known| known.is_match(text)))
        })
    }

    /// The fields of the answer to a preflight; none if its origin is not allowed.
    #[must_use]
    pub fn preflight(&self, request: &HeaderMap) -> HeaderMap {
        let mut answer = HeaderMap::new();
        let Some(origin) = request.get(ORIGIN) else { return answer };
        if !self.share(origin, &mut answer) {
            return answer;
        }
        let method = request.get(ACCESS_CONTROL_REQUEST_METHOD);
        if let Some(methods) = self.methods.value(self.credentials, method) {
            answer.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
        }
        let asked = request.get(ACCESS_CONTROL_REQUEST_HEADERS);
        if let Some(headers) = self.headers.value(self.credentials, asked) {
            answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, headers);
        }
        answer.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(self.max_age));
        answer
    }

    /// Tells the browser behind a request what the page may do with the answer; `origin` is the
    /// page's, if the request names one. What the endpoint said of an origin that is allowed is
    /// replaced.
    pub fn decorate(&self, origin: Option<&HeaderValue>, answer: &mut HeaderMap) {
        let Some(origin) = origin else { return self.vary(answer) };
        if !self.share(origin, answer) {
            return;
        }
        let named = match &self.expose {
            Allowed::Any if self.credentials => joined(answer.keys()),
            _ => None,
        };
        if let Some(expose) = self.expose.value(self.credentials, named.as_ref()) {
            let _full = answer.try_insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose);
        }
    }

    const fn depends_on_origin(&self) -> bool {
        self.origins.is_some() || self.credentials
    }

    /// Keeps caches from giving the answer for one origin, or for none, to another.
    fn vary(&self, answer: &mut HeaderMap) {
        if self.depends_on_origin() {
            let _full = answer.try_append(VARY, HeaderValue::from_static("origin"));
        }
    }

    /// Allows an origin to read an answer; `false` if it may not.
    fn share(&self, origin: &HeaderValue, answer: &mut HeaderMap) -> bool {
        self.vary(answer);
        if !self.allows(origin) {
            return false;
        }
        let shown = if self.depends_on_origin() { origin.clone() } else { ANY };
        let _full = answer.try_insert(ACCESS_CONTROL_ALLOW_ORIGIN, shown);
        if self.credentials {
            let value = HeaderValue::from_static("true");
            let _full = answer.try_insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, value);
        }
        true
    }
}

/// Names as one value.
fn joined<'a>(names: impl Iterator<Item = &'a HeaderName>) -> Option<HeaderValue> {
    let names: Vec<&str> = names.map(HeaderName::as_str).collect();
    HeaderValue::try_from(names.join(", ")).ok()
}

impl fmt::Display for Cors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("origins ")?;
        match &self.origins {
            None => f.write_str("*")?,
            Some(origins) => {
                let origins: Vec<String> = origins.iter().map(ToString::to_string).collect();
                f.write_str(&origins.join(" "))?;
            }
        }
        f.write_str(if self.credentials { ", with credentials" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_match_by_scheme_host_and_port() {
        for (pattern, origin, expected) in [
            ("https://a.example", "https://a.example", true),
            ("https://a.example", "https://A.Example", true),
            ("https://a.example", "https://a.example:443", true),
            ("https://a.example:443", "https://a.example", true),
            ("https://a.example", "https://a.example:8443", false),
            ("https://a.example", "http://a.example", false),
            ("http://a.example:80", "http://a.example", true),
            ("https://*.a.example", "https://b.a.example", true),
            ("https://*.a.example", "https://c.b.a.example", true),
            ("https://*.a.example", "https://a.example", false),
            ("https://*.a.example", "https://.a.example", false),
            ("https://*.a.example", "https://b.a.example.evil", false),
            ("https://*", "https://anything", true),
            ("https://*", "http://anything", false),
            ("https://*a", "https://\u{e9}a", true),
            ("https://[::1]:1", "https://[::1]:1", true),
            ("https://[::1]", "https://[::1]", true),
            ("https://a.example", "null", false),
            ("https://a.example", "", false),
            ("https://a.example", "https://a.example:x", false),
        ] {
            let parsed = Origin::parse(pattern).expect("an origin");
            assert_eq!(parsed.is_match(origin), expected, "{pattern} {origin}");
        }
        for wrong in [
            "*",
            "a.example",
            "https://",
            "https://a*b",
            "https://a/",
            "https://a:99999",
            "://a",
            "ht tp://a",
        ] {
            assert_eq!(Origin::parse(wrong), None, "{wrong}");
        }
    }

    fn cors(credentials: bool, any: bool) -> Cors {
        let origin = Origin::parse("https://*.shop.example").expect("an origin");
        Cors {
            origins: (!any).then(|| vec![origin]),
            credentials,
            methods: if any {
                Allowed::Any
            } else {
                Allowed::These(HeaderValue::from_static("PUT"))
            },
            headers: if any {
                Allowed::Any
            } else {
                Allowed::These(HeaderValue::from_static("x-a"))
            },
            expose: if any {
                Allowed::Any
            } else {
                Allowed::These(HeaderValue::from_static("x-b"))
            },
            max_age: 60,
        }
    }

    fn asking(origin: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ORIGIN, HeaderValue::from_static(origin));
        headers.insert(ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("DELETE"));
        headers.insert(ACCESS_CONTROL_REQUEST_HEADERS, HeaderValue::from_static("x-c,x-d"));
        headers
    }

    fn told(headers: &HeaderMap) -> Vec<String> {
        let text = |(name, value): (&HeaderName, &HeaderValue)| {
            let name = name.as_str().trim_start_matches("access-control-");
            format!("{name}={}", value.to_str().expect("text"))
        };
        headers.iter().map(text).collect()
    }

    const HOME: &str = "https://www.shop.example";

    #[test]
    fn a_preflight_is_told_what_is_allowed() {
        for (credentials, any, expected) in [
            (
                false,
                false,
                &[
                    "vary=origin",
                    "allow-origin=https://www.shop.example",
                    "allow-methods=PUT",
                    "allow-headers=x-a",
                    "max-age=60",
                ][..],
            ),
            (
                true,
                false,
                &[
                    "vary=origin",
                    "allow-origin=https://www.shop.example",
                    "allow-credentials=true",
                    "allow-methods=PUT",
                    "allow-headers=x-a",
                    "max-age=60",
                ],
            ),
            (false, true, &["allow-origin=*", "allow-methods=*", "allow-headers=*", "max-age=60"]),
            (
                true,
                true,
                &[
                    "vary=origin",
                    "allow-origin=https://www.shop.example",
                    "allow-credentials=true",
                    "allow-methods=DELETE",
                    "allow-headers=x-c,x-d",
                    "max-age=60",
                ],
            ),
        ] {
            assert_eq!(told(&cors(credentials, any).preflight(&asking(HOME))), expected);
        }
        assert_eq!(
            told(&cors(true, false).preflight(&asking("https://evil.example"))),
            ["vary=origin"]
        );
        assert_eq!(
            told(&Cors::default().preflight(&asking(HOME))),
            ["vary=origin"],
            "none is allowed"
        );
    }

    #[test]
    fn with_credentials_and_nothing_asked_for_nothing_is_named() {
        let mut headers = asking(HOME);
        headers.remove(ACCESS_CONTROL_REQUEST_HEADERS);
        assert!(!cors(true, true).preflight(&headers).contains_key(ACCESS_CONTROL_ALLOW_HEADERS));
    }

    #[test]
    fn an_answer_is_readable_by_the_pages_of_allowed_origins() {
        let answer = |credentials, any, origin| {
            let mut headers = HeaderMap::new();
            headers.insert("x-e", HeaderValue::from_static("1"));
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("theirs"));
            cors(credentials, any).decorate(Some(&HeaderValue::from_static(origin)), &mut headers);
            told(&headers)
        };
        assert_eq!(answer(false, true, HOME), ["x-e=1", "allow-origin=*", "expose-headers=*"]);
        assert_eq!(
            answer(true, true, HOME)[2..],
            [
                "vary=origin",
                "allow-credentials=true",
                "expose-headers=x-e, access-control-allow-origin, vary, access-control-allow-credentials"
            ]
        );
        assert_eq!(
            answer(false, false, HOME),
            ["x-e=1", "allow-origin=https://www.shop.example", "vary=origin", "expose-headers=x-b"]
        );
        assert_eq!(
            answer(false, false, "https://evil.example"),
            ["x-e=1", "allow-origin=theirs", "vary=origin"]
        );
    }

    #[test]
    fn an_answer_for_nobody_is_not_given_to_a_page_by_a_cache() {
        let mut headers = HeaderMap::new();
        cors(false, false).decorate(None, &mut headers);
        assert_eq!(told(&headers), ["vary=origin"]);
        headers.clear();
        cors(false, true).decorate(None, &mut headers);
        assert!(headers.is_empty(), "all are told the same");
    }

    #[test]
    fn a_preflight_is_options_with_both_fields() {
        let mut headers = asking(HOME);
        assert!(Cors::is_preflight(&Method::OPTIONS, &headers));
        assert!(!Cors::is_preflight(&Method::GET, &headers));
        headers.remove(ACCESS_CONTROL_REQUEST_METHOD);
        assert!(!Cors::is_preflight(&Method::OPTIONS, &headers));
    }
}
