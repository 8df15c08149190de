//! Cookies that keep a caller at one endpoint: read from requests, set in answers.
//!
//! How they are read is told in `cookie.rs`; one without a value is none. Set: `name=value; Max-Age=60; Path=/; Secure; SameSite=Lax;
//! HttpOnly`, where what is not configured is left out, and `HttpOnly` always stands: no script has
//! a use for it. Source: RFC 6265; Envoy `Cookie`, gRFC A55 (path).

use crate::config::span;
use crate::cookie;
use http::{HeaderMap, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::time::Duration;

/// What a cookie is called, and how it is set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Written", into = "Written")]
#[schemars(with = "Written")]
#[non_exhaustive]
pub struct Cookie {
    /// Its name: a token (RFC 6265 §4.1.1), compared letter by letter.
    pub name: Box<str>,
    /// `Max-Age`, in whole seconds, rounded up; 0 is a session cookie, which has none.
    pub ttl: Option<Duration>,
    /// `Path`: where it is sent.
    pub path: Option<Box<str>>,
    /// `Secure`: only over TLS.
    pub secure: bool,
    /// `SameSite`.
    pub same_site: Option<SameSite>,
}

/// From which sites a browser sends a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub enum SameSite {
    /// Its own alone.
    Strict,
    /// Its own, and links to it.
    Lax,
    /// All; browsers ask for `secure` too.
    None,
}

impl SameSite {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "Strict",
            Self::Lax => "Lax",
            Self::None => "None",
        }
    }
}

/// A [`Cookie`] as it is written.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(rename = "Cookie")]
struct Written {
    /// Its name.
    name: Box<str>,
    /// `Max-Age`, in whole seconds, rounded up; `0s` is a session cookie, which has none.
    #[serde(default, with = "span::optional", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<span::Text>")]
    ttl: Option<Duration>,
    /// `Path`: where it is sent. It begins with `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<Box<str>>,
    /// `Secure`: only over TLS. No.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    secure: bool,
    /// `SameSite`. None.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    same_site: Option<SameSite>,
}

impl TryFrom<Written> for Cookie {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let Written { name, ttl, path, secure, same_site } = written;
        if !cookie::is_name(&name) {
            return Err(format!(
                "`{}` is not the name of a cookie: use letters, digits and `-._`",
                name.escape_debug()
            ));
        }
        if let Some(path) = &path
            && !(path.starts_with('/') && path.bytes().all(is_path))
        {
            return Err(format!(
                "`{}` is not the path of a cookie: it begins with `/`, and has no `;`",
                path.escape_debug()
            ));
        }
        Ok(Self { name, ttl, path, secure, same_site })
    }
}

impl From<Cookie> for Written {
    fn from(Cookie { name, ttl, path, secure, same_site }: Cookie) -> Self {
        Self { name, ttl, path, secure, same_site }
    }
}

const fn is_path(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b';'
}

impl Cookie {
    /// A cookie without attributes.
    ///
    /// # Errors
    /// When the name is not a token.
    pub fn new(name: &str) -> Result<Self, String> {
        let (ttl, path, secure, same_site) = (None, None, false, None);
        Written { name: name.into(), ttl, path, secure, same_site }.try_into()
    }

    /// Its value in a request; an empty one is none.
    #[must_use]
    pub fn of<'a>(&self, headers: &'a HeaderMap) -> Option<&'a [u8]> {
        cookie::value(headers, &self.name).filter(|value| !value.is_empty())
    }

    /// The `Set-Cookie` field that sets it; `None` if the value cannot stand in one.
    #[must_use]
    pub fn set(&self, value: &str) -> Option<HeaderValue> {
        let mut text = format!("{}={value}", self.name);
        if let Some(ttl) = self.ttl.filter(|ttl| !ttl.is_zero()) {
            let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
            // Writing to a string does not fail, here and below.
            let _ = write!(text, "; Max-Age={seconds}");
        }
        if let Some(path) = &self.path {
            let _ = write!(text, "; Path={path}");
        }
        if self.secure {
            text.push_str("; Secure");
        }
        if let Some(same_site) = self.same_site {
            let _ = write!(text, "; SameSite={}", same_site.as_str());
        }
        text.push_str("; HttpOnly");
        HeaderValue::try_from(text).ok()
    }

    /// Whether a client sends it with requests to `path` (RFC 6265 §5.1.4).
    #[must_use]
    pub fn covers(&self, path: &str) -> bool {
        let Some(own) = self.path.as_deref() else { return true };
        path.strip_prefix(own)
            .is_some_and(|rest| rest.is_empty() || own.ends_with('/') || rest.starts_with('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookie(text: &str) -> Result<Cookie, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn it_is_set_with_what_is_configured() {
        for (written, expected) in [
            (r#"{"name":"sid"}"#, "sid=v; HttpOnly"),
            (r#"{"name":"sid","ttl":"0s"}"#, "sid=v; HttpOnly"),
            (
                r#"{"name":"sid","ttl":"1m500ms","path":"/a","secure":true,"sameSite":"Lax"}"#,
                "sid=v; Max-Age=61; Path=/a; Secure; SameSite=Lax; HttpOnly",
            ),
        ] {
            let cookie = cookie(written).unwrap();
            assert_eq!(cookie.set("v").unwrap(), expected);
            assert_eq!(serde_json::to_string(&cookie).unwrap(), written);
        }
        assert_eq!(Cookie::new("sid").unwrap().set("a\r\nb"), None);
    }

    #[test]
    fn a_path_covers_what_is_below_it() {
        for (own, path, covered) in [
            ("/", "/a", true),
            ("/a", "/a", true),
            ("/a", "/a/b", true),
            ("/a/", "/a/b", true),
            ("/a/", "/a", false),
            ("/a", "/ab", false),
            ("/a", "/", false),
        ] {
            let cookie = cookie(&format!(r#"{{"name":"sid","path":"{own}"}}"#)).unwrap();
            assert_eq!(cookie.covers(path), covered, "{own} {path}");
        }
        assert!(Cookie::new("sid").unwrap().covers("/anything"));
    }

    #[test]
    fn names_and_paths_that_would_break_the_field_are_refused() {
        for name in ["", "a b", "a;b", "a=b", "ä", "a\n"] {
            assert!(Cookie::new(name).is_err(), "{name:?}");
        }
        for path in ["", "a", "/a;b", "/a b", "/\\n"] {
            let written = format!(r#"{{"name":"sid","path":"{path}"}}"#);
            assert!(cookie(&written).is_err(), "{path:?}");
        }
    }
}
