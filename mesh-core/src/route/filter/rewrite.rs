//! Rewrite and redirect: another path, host, scheme or port for a request, to send it on or to
//! send its caller there.
//!
//! A prefix is replaced by whole segments, as it is matched, and the path keeps its leading slash
//! (Gateway API `HTTPPathModifier`, whose table is a test here). The query stays as it is.
//!
//! `Location` of a redirect is `scheme://host[:port]path[?query]`, each part the rule's or else the
//! request's. Without `port`, it is that of `scheme` if the rule states one, and else the one that
//! the caller wrote. Ports 80 of `http` and 443 of `https` are not written.
//!
//! Source: Gateway API `HTTPURLRewriteFilter`, `HTTPRequestRedirectFilter`.

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, StatusCode};
use std::borrow::Cow;
use std::fmt;

/// What becomes of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PathEdit {
    /// This path instead.
    Full(Box<str>),
    /// Other first segments.
    Prefix {
        /// Those that the rule matches, without a final slash; empty for `/`.
        matched: Box<str>,
        /// Those instead, without a final slash; empty for none.
        replacement: Box<str>,
    },
    /// Another beginning, letter by letter, wherever segments end (Envoy `prefix_rewrite`).
    Start {
        /// How many bytes the rule matches.
        matched: usize,
        /// What stands instead.
        replacement: Box<str>,
    },
}

impl PathEdit {
    /// Replaces the segments that a rule matches (`matched`) by others.
    ///
    /// ```
    /// use mesh_core::route::filter::PathEdit;
    ///
    /// let edit = PathEdit::prefix("/foo", "/xyz");
    /// assert_eq!(edit.apply("/foo/bar"), "/xyz/bar");
    /// ```
    #[must_use]
    pub fn prefix(matched: &str, replacement: &str) -> Self {
        let bare = |path: &str| Box::from(path.strip_suffix('/').unwrap_or(path));
        Self::Prefix { matched: bare(matched), replacement: bare(replacement) }
    }

    /// The path that a request is given. One that begins with another prefix stays as it is, and so
    /// does one where the new beginning would make a segment `.` or `..` of what follows it.
    #[must_use]
    pub fn apply<'a>(&'a self, path: &'a str) -> Cow<'a, str> {
        match self {
            Self::Full(path) => Cow::Borrowed(path),
            Self::Prefix { matched, replacement } => match path.strip_prefix(&**matched) {
                Some("") if replacement.is_empty() => Cow::Borrowed("/"),
                Some("") => Cow::Borrowed(replacement),
                Some(rest) if rest.starts_with('/') => Cow::Owned(format!("{replacement}{rest}")),
                _ => Cow::Borrowed(path),
            },
            Self::Start { matched, replacement } => {
                let Some(rest) = path.get(*matched..) else { return Cow::Borrowed(path) };
                let rest = match rest.strip_prefix('/') {
                    Some(bare) if replacement.ends_with('/') => bare,
                    _ => rest,
                };
                let before = replacement.rsplit('/').next().unwrap_or_default();
                let after = rest.split('/').next().unwrap_or_default();
                if is_dots(&format!("{before}{after}")) {
                    return Cow::Borrowed(path);
                }
                Cow::Owned(format!("{replacement}{rest}"))
            }
        }
    }

    /// The target that a request is given; `None` if it would be none.
    fn target(&self, now: &PathAndQuery) -> Option<PathAndQuery> {
        let path = self.apply(now.path());
        match now.query() {
            Some(query) => PathAndQuery::try_from(format!("{path}?{query}")).ok(),
            None => PathAndQuery::try_from(path.as_ref()).ok(),
        }
    }
}

impl fmt::Display for PathEdit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(path) => write!(f, "path {path}"),
            Self::Prefix { matched, replacement } => {
                write!(f, "path {matched}/… to {replacement}/…")
            }
            Self::Start { matched, replacement } => {
                write!(f, "the first {matched} bytes of the path to {replacement}")
            }
        }
    }
}

/// Whether a segment is `.` or `..`, written plainly or percent-encoded.
fn is_dots(segment: &str) -> bool {
    let plain = segment.replace("%2e", ".").replace("%2E", ".");
    matches!(plain.as_str(), "." | "..")
}

/// Another host or path for a request that is sent on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rewrite {
    /// The authority that endpoints see.
    pub host: Option<Authority>,
    /// The path that endpoints see.
    pub path: Option<PathEdit>,
}

impl Rewrite {
    /// The target in place of `now`; `None` if it stays.
    #[must_use]
    pub fn target(&self, now: &PathAndQuery) -> Option<PathAndQuery> {
        self.path.as_ref()?.target(now).filter(|target| target != now)
    }
}

impl fmt::Display for Rewrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.host.as_ref().map(|host| format!("host {host}"));
        let path = self.path.as_ref().map(ToString::to_string);
        let parts: Vec<String> = host.into_iter().chain(path).collect();
        f.write_str(&parts.join(", "))
    }
}

/// Sends callers elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Redirect {
    /// Instead of the request's.
    pub scheme: Option<Scheme>,
    /// Instead of the request's host.
    pub host: Option<Box<str>>,
    /// Instead of the port that follows from the scheme.
    pub port: Option<u16>,
    /// What becomes of the path.
    pub path: Option<PathEdit>,
    /// 301, 302, 303, 307 or 308. 302.
    pub status: StatusCode,
}

impl Default for Redirect {
    fn default() -> Self {
        Self { scheme: None, host: None, port: None, path: None, status: StatusCode::FOUND }
    }
}

impl Redirect {
    /// The value of `Location` for a request. `scheme` is the one that the caller used; `None` if
    /// the caller named no host, or one that no field can hold.
    #[must_use]
    pub fn location(
        &self,
        scheme: &Scheme,
        authority: &str,
        target: Option<&PathAndQuery>,
    ) -> Option<HeaderValue> {
        let authority: Authority = authority.parse().ok()?;
        let host = self.host.as_deref().unwrap_or_else(|| authority.host());
        let port = match (self.port, &self.scheme) {
            (Some(port), _) => Some(port),
            (None, Some(_)) => None,
            (None, None) => authority.port_u16(),
        };
        let scheme = self.scheme.as_ref().unwrap_or(scheme);
        let usual = if *scheme == Scheme::HTTPS { 443 } else { 80 };
        let port = match port.filter(|port| *port != usual) {
            Some(port) => format!(":{port}"),
            None => String::new(),
        };
        let edited = self.path.as_ref().zip(target).and_then(|(path, now)| path.target(now));
        let target = edited.as_ref().or(target).map_or("/", PathAndQuery::as_str);
        HeaderValue::try_from(format!("{scheme}://{host}{port}{target}")).ok()
    }
}

impl fmt::Display for Redirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status.as_u16())?;
        if let Some(scheme) = &self.scheme {
            write!(f, ", scheme {scheme}")?;
        }
        if let Some(host) = &self.host {
            write!(f, ", host {host}")?;
        }
        if let Some(port) = self.port {
            write!(f, ", port {port}")?;
        }
        self.path.as_ref().map_or(Ok(()), |path| write!(f, ", {path}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table in the doc comment of `HTTPPathModifier.replacePrefixMatch`, with the rows that it
    /// leaves out.
    #[test]
    fn a_prefix_is_replaced_as_gateway_api_has_it() {
        for (path, prefix, replacement, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo", "/foo", "/xyz/", "/xyz"),
            ("/foo/", "/foo/", "/xyz/", "/xyz/"),
            ("/bar", "/", "/xyz", "/xyz/bar"),
            ("/", "/", "/xyz", "/xyz/"),
            ("/", "/", "/", "/"),
            ("/foo/foo", "/foo", "/x", "/x/foo"),
            ("/food", "/foo", "/x", "/food"),
            ("*", "/", "/x", "*"),
        ] {
            assert_eq!(
                PathEdit::prefix(prefix, replacement).apply(path),
                expected,
                "{path}: {prefix} to {replacement}"
            );
        }
    }

    #[test]
    fn another_beginning_makes_no_way_out_of_its_folder() {
        let edit = |matched: &str, replacement: &str| PathEdit::Start {
            matched: matched.len(),
            replacement: replacement.into(),
        };
        for (matched, replacement, path, expected) in [
            ("/admin", "/", "/admin", "/"),
            ("/admin", "/", "/admin/users", "/users"),
            ("/admin/", "/", "/admin/users", "/users"),
            ("/admin", "/root", "/administrator", "/rootistrator"),
            ("/admin", "/root/", "/admin//x", "/root//x"),
            ("/a", "/", "/a/", "/"),
            ("/a", "/b/", "/a../secret", "/a../secret"),
            ("/a", "/b/", "/a%2e%2E/secret", "/a%2e%2E/secret"),
            ("/a", "/b.", "/a./secret", "/b../secret"),
            ("/a", "/.", "/a./secret", "/a./secret"),
            ("/a", "/b/", "/a...", "/b/..."),
            ("/long", "/b", "/l", "/l"),
        ] {
            assert_eq!(edit(matched, replacement).apply(path), expected, "{matched} {path}");
        }
    }

    #[test]
    fn a_rewrite_keeps_the_query_and_says_when_nothing_changes() {
        let rewrite = |path| Rewrite { host: None, path: Some(path) };
        let target = |text: &str| PathAndQuery::try_from(text).expect("a target");
        for (edit, now, then) in [
            (PathEdit::Full("/one".into()), "/a/b?x=1&y", Some("/one?x=1&y")),
            (PathEdit::Full("/one".into()), "/one?x", None),
            (PathEdit::prefix("/a", "/c"), "/a/b?", Some("/c/b?")),
            (PathEdit::prefix("/a", "/a/"), "/a/b", None),
        ] {
            assert_eq!(rewrite(edit).target(&target(now)), then.map(target), "{now}");
        }
        assert_eq!(Rewrite::default().target(&target("/")), None);
    }

    fn location(redirect: &Redirect, scheme: &Scheme, authority: &str, target: &str) -> String {
        let target = PathAndQuery::try_from(target).expect("a target");
        let value = redirect.location(scheme, authority, Some(&target)).expect("a location");
        value.to_str().expect("text").to_owned()
    }

    #[test]
    fn a_location_takes_from_the_request_what_the_rule_leaves_open() {
        let none = Redirect::default;
        let with = |edit: fn(&mut Redirect)| {
            let mut redirect = none();
            edit(&mut redirect);
            redirect
        };
        let (http, https) = (&Scheme::HTTP, &Scheme::HTTPS);
        for (redirect, scheme, authority, target, expected) in [
            (none(), http, "a:8080", "/x?y=1", "http://a:8080/x?y=1"),
            (none(), http, "a:80", "/x", "http://a/x"),
            (none(), https, "a:443", "/x", "https://a/x"),
            (none(), https, "a:80", "/x", "https://a:80/x"),
            (with(|r| r.scheme = Some(Scheme::HTTPS)), http, "a:8080", "/x", "https://a/x"),
            (with(|r| r.scheme = Some(Scheme::HTTP)), https, "a:8443", "/x", "http://a/x"),
            (with(|r| r.port = Some(8443)), http, "a:8080", "/x", "http://a:8443/x"),
            (with(|r| r.port = Some(80)), http, "a:8080", "/x", "http://a/x"),
            (
                with(|r| (r.scheme, r.port) = (Some(Scheme::HTTPS), Some(443))),
                http,
                "a",
                "/x",
                "https://a/x",
            ),
            (
                with(|r| (r.scheme, r.port) = (Some(Scheme::HTTPS), Some(80))),
                http,
                "a",
                "/x",
                "https://a:80/x",
            ),
            (
                with(|r| r.host = Some("b.example".into())),
                http,
                "a:81",
                "/x",
                "http://b.example:81/x",
            ),
            (with(|r| r.host = Some("b".into())), http, "[::1]:81", "/", "http://b:81/"),
            (none(), http, "[::1]:81", "/", "http://[::1]:81/"),
            (
                with(|r| r.path = Some(PathEdit::prefix("/old", "/new"))),
                http,
                "a",
                "/old/1?q",
                "http://a/new/1?q",
            ),
            (with(|r| r.path = Some(PathEdit::Full("/".into()))), http, "a", "/b?q", "http://a/?q"),
        ] {
            assert_eq!(location(&redirect, scheme, authority, target), expected);
        }
        assert_eq!(none().location(http, "", None), None, "no host");
        assert_eq!(none().location(http, "a b", None), None);
    }
}
