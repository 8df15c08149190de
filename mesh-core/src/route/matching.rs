//! One match of a rule: path, method, headers and query, all of which must hold.
//!
//! Semantics and order are Gateway API's (`HTTPRouteMatch`, `GRPCRouteMatch`). What it leaves to
//! implementations is decided here: a regular expression must cover the whole value (RE2 syntax,
//! linear time) and stands between exact paths and prefixes; of a header that comes several times
//! each value counts, and all of them joined by commas (RFC 9110 §5.3); of a query parameter that
//! comes several times the first counts, percent-decoded.
//!
//! Values are bytes. An expression sees them as UTF-8, and where they are not, as one character per
//! byte (ISO 8859-1, RFC 9110 §5.5). So neither a second value nor an odd byte takes a request out
//! of a condition that it meets without: rules that single out what must not pass hold.

use super::RouteRequest;
use super::field::{CookieMatch, HeaderMatch, QueryMatch};
use super::filter::Fraction;
use super::value::{Pattern, ValueMatch};
use crate::draw::Draw;
use crate::outcome::is_grpc;
use http::Method;
use std::cmp::Ordering;
use std::fmt;

/// What the path must be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PathMatch {
    /// This path, letter by letter.
    Exact(Box<str>),
    /// Wholly covered by an expression.
    RegularExpression(Pattern),
    /// This path or one below it: whole segments, so `/a` covers `/a` and `/a/b`, not `/ab`.
    /// Kept without a final slash; `/` is kept as the empty text and covers everything.
    Prefix(Box<str>),
    /// A gRPC call, by the service and method in its path; `None` is any.
    Grpc {
        /// Full name of the service, with its package.
        service: Option<ValueMatch>,
        /// Name of the method.
        method: Option<ValueMatch>,
    },
}

impl PathMatch {
    /// The match of everything.
    #[must_use]
    pub fn any() -> Self {
        Self::Prefix("".into())
    }

    /// A prefix of whole segments.
    #[must_use]
    pub fn prefix(path: &str) -> Self {
        Self::Prefix(path.strip_suffix('/').unwrap_or(path).into())
    }

    fn is_match(&self, request: &RouteRequest<'_>) -> bool {
        match self {
            Self::Exact(path) => **path == *request.path,
            Self::RegularExpression(pattern) => pattern.is_match(request.path),
            Self::Prefix(prefix) => request
                .path
                .strip_prefix(&**prefix)
                .is_some_and(|rest| prefix.is_empty() || rest.is_empty() || rest.starts_with('/')),
            Self::Grpc { service, method } => {
                is_grpc(request.headers)
                    && request
                        .path
                        .strip_prefix('/')
                        .and_then(|path| path.split_once('/'))
                        .is_some_and(|(named_service, named_method)| {
                            service.as_ref().is_none_or(|expected| expected.is_match(named_service))
                                && method
                                    .as_ref()
                                    .is_none_or(|expected| expected.is_match(named_method))
                        })
            }
        }
    }

    /// Kind, then length, then length of the second part: the higher comes first.
    fn specificity(&self) -> (u8, usize, usize) {
        match self {
            Self::Grpc { service, method } => {
                let len = |value: &Option<ValueMatch>| value.as_ref().map_or(0, ValueMatch::len);
                (3, len(service), len(method))
            }
            Self::Exact(path) => (2, path.len(), 0),
            Self::RegularExpression(pattern) => (1, pattern.as_str().len(), 0),
            Self::Prefix(prefix) => (0, prefix.len(), 0),
        }
    }
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => write!(f, "path = {path}"),
            Self::RegularExpression(pattern) => write!(f, "path ~ {}", pattern.as_str()),
            Self::Prefix(prefix) if prefix.is_empty() => f.write_str("any path"),
            Self::Prefix(prefix) => write!(f, "path {prefix} and below"),
            Self::Grpc { service: None, method: None } => f.write_str("any gRPC call"),
            Self::Grpc { service, method } => {
                f.write_str("gRPC")?;
                if let Some(service) = service {
                    write!(f, " service {service}")?;
                }
                if let Some(method) = method {
                    write!(f, " method {method}")?;
                }
                Ok(())
            }
        }
    }
}

/// Conditions that must all hold.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Match {
    /// On the path.
    pub path: PathMatch,
    /// On the method; `None` is any.
    pub method: Option<Method>,
    /// On headers.
    pub headers: Vec<HeaderMatch>,
    /// On query parameters.
    pub query: Vec<QueryMatch>,
    /// On cookies.
    pub cookies: Vec<CookieMatch>,
    /// Of the requests that meet the others, this share; `None` is all. Drawn for each request, and
    /// so no part of [`Match::is_match`].
    pub fraction: Option<Fraction>,
}

impl Match {
    /// The match of every request.
    #[must_use]
    pub fn any() -> Self {
        Self {
            path: PathMatch::any(),
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
            cookies: Vec::new(),
            fraction: None,
        }
    }

    /// Whether a request meets all conditions but the draw.
    #[must_use]
    pub fn is_match(&self, request: &RouteRequest<'_>) -> bool {
        self.path.is_match(request)
            && self.method.as_ref().is_none_or(|method| method == request.method)
            && self.headers.iter().all(|header| header.is_match(request.headers))
            && self.query.iter().all(|parameter| parameter.is_match(request.query))
            && self.cookies.iter().all(|cookie| cookie.is_match(request.headers))
    }

    /// Whether this match takes a request: it meets all conditions, and is drawn.
    pub(crate) fn takes(&self, request: &RouteRequest<'_>, draw: &mut impl Draw) -> bool {
        self.is_match(request) && self.fraction.is_none_or(|fraction| fraction.takes(draw))
    }

    /// Orders by precedence, the one to try first being the lesser: gRPC calls, exact path, the
    /// longest expression, the longest prefix; then a method; then most headers and cookies; then
    /// most query parameters; then a share of requests before all.
    #[must_use]
    pub fn precedence(&self, other: &Self) -> Ordering {
        let key = |this: &Self| {
            let fields = this.headers.len() + this.cookies.len();
            let share = this.fraction.is_some();
            (this.path.specificity(), this.method.is_some(), fields, this.query.len(), share)
        };
        key(other).cmp(&key(self))
    }

    /// Whether every request that meets `other` meets `self`. May say `false` wrongly (two
    /// expressions are compared by their text), never `true`.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let path = match (&self.path, &other.path) {
            (PathMatch::Prefix(outer), PathMatch::Prefix(inner) | PathMatch::Exact(inner)) => inner
                .strip_prefix(&**outer)
                .is_some_and(|rest| outer.is_empty() || rest.is_empty() || rest.starts_with('/')),
            (PathMatch::Prefix(outer), _) if outer.is_empty() => true,
            (PathMatch::RegularExpression(outer), PathMatch::Exact(inner)) => outer.is_match(inner),
            (PathMatch::Grpc { service, method }, PathMatch::Grpc { service: s, method: m }) => {
                (service.is_none() || service == s) && (method.is_none() || method == m)
            }
            (mine, theirs) => mine == theirs,
        };
        path && self.fraction.is_none()
            && (self.method.is_none() || self.method == other.method)
            && self
                .headers
                .iter()
                .all(|mine| other.headers.iter().any(|theirs| mine.covers(theirs)))
            && self.query.iter().all(|mine| {
                let covered = |theirs: &QueryMatch| {
                    mine.name == theirs.name && mine.value.covers(&theirs.value)
                };
                other.query.iter().any(covered)
            })
            && self.cookies.iter().all(|mine| {
                let covered = |theirs: &CookieMatch| {
                    mine.name == theirs.name && mine.value.covers(&theirs.value)
                };
                other.cookies.iter().any(covered)
            })
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(method) = &self.method {
            write!(f, "{method} ")?;
        }
        write!(f, "{}", self.path)?;
        for header in &self.headers {
            let not = if header.invert { "not " } else { "" };
            write!(f, ", header {} {not}{}", header.name, header.value)?;
        }
        for parameter in &self.query {
            write!(f, ", query {} {}", parameter.name.escape_debug(), parameter.value)?;
        }
        for cookie in &self.cookies {
            write!(f, ", cookie {} {}", cookie.name, cookie.value)?;
        }
        match self.fraction {
            Some(fraction) => write!(f, ", {fraction} of those"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, HeaderName, HeaderValue};

    fn pattern(text: &str) -> Pattern {
        Pattern::new(text).expect("valid")
    }

    fn with<T>(
        path: &str,
        query: Option<&str>,
        headers: &[(&'static str, &'static str)],
        test: impl FnOnce(&RouteRequest<'_>) -> T,
    ) -> T {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .fold(HeaderMap::new(), |mut map, (name, value)| {
                map.append(name, value);
                map
            });
        test(&RouteRequest::new("a", &Method::GET, path, query, &headers))
    }

    #[test]
    fn a_cookie_must_match() {
        let some = CookieMatch::new("group", ValueMatch::RegularExpression(pattern("[bc]")));
        for (line, expected) in [("a=1; group=c", true), ("group=\"b\"", true), ("group=d", false)]
        {
            let matched = with("/", None, &[("cookie", line)], |r| some.is_match(r.headers));
            assert_eq!(matched, expected, "{line}");
        }
    }

    #[test]
    fn a_match_that_takes_a_share_covers_nothing() {
        let half = Match { fraction: Fraction::new(1, 2), ..Match::any() };
        assert!(!half.covers(&Match::any()) && Match::any().covers(&half));
        assert_eq!(half.precedence(&Match::any()), Ordering::Less, "it is tried first");
    }

    #[test]
    fn an_expression_covers_the_texts_that_it_matches() {
        let header = |value| Match {
            headers: vec![HeaderMatch::new(HeaderName::from_static("x"), value)],
            ..Match::any()
        };
        let any = header(ValueMatch::RegularExpression(pattern("[ab]")));
        assert!(any.covers(&header(ValueMatch::Exact("a".into()))));
        assert!(!any.covers(&header(ValueMatch::Exact("c".into()))));
        assert!(!header(ValueMatch::Exact("a".into())).covers(&any));
    }

    #[test]
    fn a_prefix_ends_at_a_segment() {
        for (prefix, path, expected) in [
            ("/", "/", true),
            ("/", "/a", true),
            ("/", "*", true),
            ("/a", "/a", true),
            ("/a", "/a/", true),
            ("/a", "/a/b", true),
            ("/a", "/ab", false),
            ("/a/", "/a", true),
            ("/a/", "/a/b", true),
            ("/a/", "/ab", false),
            ("/a/b", "/a", false),
            ("/A", "/a", false),
        ] {
            let matched = with(path, None, &[], |r| PathMatch::prefix(prefix).is_match(r));
            assert_eq!(matched, expected, "{prefix} {path}");
        }
    }

    #[test]
    fn an_expression_covers_the_whole_path() {
        for (text, path, expected) in [
            ("/a", "/a", true),
            ("/a", "/ab", false),
            ("/a|/b", "/b", true),
            ("/a|/b", "/bc", false),
            ("/items/[0-9]+", "/items/17", true),
            ("/items/[0-9]+", "/items/17\n", false),
        ] {
            let path_match = PathMatch::RegularExpression(pattern(text));
            assert_eq!(
                with(path, None, &[], |r| path_match.is_match(r)),
                expected,
                "{text} {path}"
            );
        }
        assert!(Pattern::new("a)(b").is_err(), "wrapping must not repair it");
        assert!(Pattern::new(r"(?:\w{100}){100}").is_err(), "the compiled form has a limit");
    }

    #[test]
    fn of_repeated_headers_each_value_counts_and_all_of_them_joined() {
        let exact = |value: &str| {
            HeaderMatch::new(HeaderName::from_static("x"), ValueMatch::Exact(value.into()))
        };
        for (sent, value, expected) in [
            (&[("x", "1")][..], "1", true),
            (&[("x", "1"), ("x", "2")], "1", true),
            (&[("x", "1"), ("x", "2")], "2", true),
            (&[("x", "1"), ("x", "2")], "1,2", true),
            (&[("x", "1"), ("x", "2")], "2,1", false),
            (&[("x", "1"), ("x", "2")], "3", false),
            (&[("x", "1,2")], "1", false),
            (&[("y", "1")], "1", false),
            (&[], "", false),
        ] {
            let matched = with("/", None, sent, |r| exact(value).is_match(r.headers));
            assert_eq!(matched, expected, "{sent:?} {value}");
        }
    }

    #[test]
    fn no_byte_takes_a_value_out_of_a_condition() {
        let name = HeaderName::from_static("x");
        let expression = |text: &str| {
            HeaderMatch::new(name.clone(), ValueMatch::RegularExpression(pattern(text)))
        };
        let exact = HeaderMatch::new(name.clone(), ValueMatch::Exact("caf\u{e9}".into()));
        let sent = |values: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(name.clone(), HeaderValue::from_bytes(value).expect("valid"));
            }
            headers
        };
        for (values, text, expected) in [
            (&[&b"evil\xff"[..]][..], ".*", true),
            (&[b"evil\xff"], "evil.*", true),
            (&[b"\xffevil"], ".*evil", true),
            (&[b"\xc3\xa9"], ".", true),
            (&[b"\xe9"], "\u{e9}", true),
            (&[b"evil\xff"], "evil", false),
            (&[b"evil", b"\xff"], "evil", true),
            (&[b"\xff", b"evil"], "evil", true),
            (&[b"a\xff", b"b"], "a.,b", true),
            (&[b"", b"b"], ",b", true),
        ] {
            let matched = expression(text).is_match(&sent(values));
            assert_eq!(matched, expected, "{values:?} {text}");
        }
        assert!(exact.is_match(&sent(&[b"caf\xc3\xa9"])));
        assert!(!exact.is_match(&sent(&[b"caf\xe9"])), "letter by letter");
    }

    #[test]
    fn the_first_query_parameter_counts_decoded() {
        for (query, value, expected) in [
            (Some("a=1"), "1", true),
            (Some("b=2&a=1"), "1", true),
            (Some("a=1&a=2"), "2", false),
            (Some("%61=x%20y"), "x y", true),
            (Some("a=100%"), "100%", true),
            (Some("a"), "", true),
            (Some("aa=1"), "1", false),
            (None, "", false),
        ] {
            let exact = QueryMatch::new("a", ValueMatch::Exact(value.into()));
            assert_eq!(exact.is_match(query), expected, "{query:?} {value}");
        }
        let digits = QueryMatch::new("a", ValueMatch::RegularExpression(pattern("[0-9]+")));
        assert!(digits.is_match(Some("a=%31%32")));
        assert!(!digits.is_match(Some("a=%ff")));
        let any = QueryMatch::new("a", ValueMatch::RegularExpression(pattern(".*")));
        assert!(any.is_match(Some("a=%ff")));
    }

    #[test]
    fn a_grpc_match_needs_a_grpc_call() {
        let any = PathMatch::Grpc { service: None, method: None };
        let hello = PathMatch::Grpc {
            service: Some(ValueMatch::Exact("pkg.Greeter".into())),
            method: Some(ValueMatch::RegularExpression(pattern("Say.*"))),
        };
        let grpc = &[("content-type", "application/grpc+proto")][..];
        for (path, headers, any_matches, hello_matches) in [
            ("/pkg.Greeter/SayHello", grpc, true, true),
            ("/pkg.Greeter/Bye", grpc, true, false),
            ("/pkg.Other/SayHello", grpc, true, false),
            ("/pkg.Greeter", grpc, false, false),
            ("/pkg.Greeter/SayHello", &[], false, false),
            ("/pkg.Greeter/SayHello", &[("content-type", "application/grpc-web")], false, false),
        ] {
            assert_eq!(with(path, None, headers, |r| any.is_match(r)), any_matches, "{path}");
            assert_eq!(with(path, None, headers, |r| hello.is_match(r)), hello_matches, "{path}");
        }
    }

    #[test]
    fn a_header_may_have_to_be_there_or_another_or_absent() {
        let of = |value: ValueMatch| HeaderMatch::new(HeaderName::from_static("x"), value);
        let (one, any) = (|| of(ValueMatch::Exact("1".into())), || of(ValueMatch::Any));
        let inverted = |header: HeaderMatch| header.inverted();
        for (header, absent, same, other, both) in [
            (one(), false, true, false, true),
            (any(), false, true, true, true),
            (inverted(one()), false, false, true, false),
            (inverted(any()), true, false, false, false),
        ] {
            let matched = Match { headers: vec![header.clone()], ..Match::any() };
            let meets = |fields: &[(&'static str, &'static str)]| {
                with("/", None, fields, |request| matched.is_match(request))
            };
            let seen = [&[][..], &[("x", "1")], &[("x", "2")], &[("x", "2"), ("x", "1")]];
            assert_eq!(seen.map(meets), [absent, same, other, both], "{header:?}");
        }
        for (wide, narrow, covers) in [
            (any(), one(), true),
            (any(), inverted(one()), true),
            (any(), inverted(any()), false),
            (one(), any(), false),
            (one(), inverted(one()), false),
            (inverted(one()), inverted(one()), true),
            (inverted(one()), of(ValueMatch::Exact("2".into())), false),
        ] {
            assert_eq!(wide.covers(&narrow), covers, "{wide:?} {narrow:?}");
        }
    }
}
