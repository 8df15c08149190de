//! What every request passes before its handler: where it comes from, and what it may do.
//!
//! A web page that a browser shows must not reach the API. `Host` has to be an IP address,
//! `localhost`, our node's name or one that was allowed, which a rebound DNS name is not; `Origin`,
//! where it is sent, has to be the same host; `Sec-Fetch-Site` must not name another site.
//!
//! Where tokens are set, a request carries one: in `?token=`, `X-Consul-Token` or `Authorization:
//! Bearer`, the first of them counts. A management token may do everything, a read token whatever
//! is a GET, but not save a snapshot, which holds all values. `/v1/status` needs none, as in Consul.
//! Tokens are kept and compared as SHA-256 digests, in constant time.
//!
//! A path with `//`, `/./` or `/../` in it, however encoded, is not the name of anything here. Consul
//! redirects it; so do we where nothing is changed by it. A redirected PUT would come back as a GET
//! and be lost without a word, hence it is refused.

use std::net::IpAddr;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Digest, SHA256, digest};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, StatusCode, Uri, header};

use super::{Api, ApiError, Parameters};

/// Who may use the API, and under which names it is known.
#[derive(Default)]
#[non_exhaustive]
pub struct Access {
    management: Vec<Digest>,
    read: Vec<Digest>,
    hosts: Vec<String>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access")
            .field("management", &self.management.len())
            .field("read", &self.read.len())
            .field("hosts", &self.hosts)
            .finish()
    }
}

/// What a request may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Right {
    Nothing,
    Read,
    All,
}

impl Access {
    /// Adds a token that may do everything.
    pub fn allow_management(&mut self, token: &str) {
        self.management.push(digest(&SHA256, token.as_bytes()));
    }

    /// Adds a token that may read.
    pub fn allow_reading(&mut self, token: &str) {
        self.read.push(digest(&SHA256, token.as_bytes()));
    }

    /// Adds a name under which clients reach the API.
    pub fn allow_host(&mut self, name: impl Into<String>) {
        self.hosts.push(name.into());
    }

    /// Whether a token is asked for.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        !self.management.is_empty() || !self.read.is_empty()
    }

    /// What the token gives, and whether it is known.
    fn right_of(&self, token: Option<&str>) -> (Right, bool) {
        if !self.is_closed() {
            return (Right::All, true);
        }
        let Some(token) = token else { return (Right::Nothing, true) };
        let given = digest(&SHA256, token.as_bytes());
        // All are compared, so that the time tells nothing.
        let among = |known: &[Digest]| {
            known.iter().fold(false, |found, known| {
                found | verify_slices_are_equal(known.as_ref(), given.as_ref()).is_ok()
            })
        };
        match (among(&self.management), among(&self.read)) {
            (true, _) => (Right::All, true),
            (false, true) => (Right::Read, true),
            (false, false) => (Right::Nothing, false),
        }
    }

    fn knows(&self, host: &str) -> bool {
        let name = name_of(host);
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        bare.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || self.hosts.iter().any(|known| known.eq_ignore_ascii_case(name))
    }
}

/// A host without its port.
fn name_of(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() && !is_bare_v6(host) => name,
        _ => host,
    }
}

fn is_bare_v6(host: &str) -> bool {
    !host.starts_with('[') && host.matches(':').count() > 1
}

/// The middleware.
pub(super) async fn guard(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    match check(&api, &request) {
        Ok(()) => next.run(request).await,
        Err(response) => *response,
    }
}

fn check(api: &Api, request: &Request) -> Result<(), Box<Response>> {
    let refuse =
        |message: &str| Box::new(ApiError::new(StatusCode::FORBIDDEN, message).into_response());
    if !is_from_here(&api.access, request.uri(), request.headers()) {
        return Err(refuse(
            "Host or Origin is not that of this server: write its IP address, or allow the name",
        ));
    }
    let query = Parameters::parse(request.uri().query().unwrap_or_default());
    let path = request.uri().path();
    let (right, known) = api.access.right_of(token(&query, request.headers()));
    if right < needed(request.method(), path) {
        return Err(refuse(if known { "Permission denied" } else { "ACL not found" }));
    }
    if let Some(clean) = clean(path) {
        return Err(Box::new(redirect(request.method(), request.uri(), &clean)));
    }
    Ok(())
}

fn needed(method: &Method, path: &str) -> Right {
    match *method {
        _ if path.starts_with("/v1/status/") => Right::Nothing,
        Method::GET | Method::HEAD if path != "/v1/snapshot" => Right::Read,
        _ => Right::All,
    }
}

/// The token that a request came with: of its query, its own header, or `Authorization`.
pub(super) fn token<'a>(query: &'a Parameters, headers: &'a HeaderMap) -> Option<&'a str> {
    let header = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    let bearer = || {
        let (scheme, token) = header("authorization")?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    };
    query
        .value("token")
        .or_else(|| header("x-consul-token"))
        .or_else(bearer)
        .filter(|token| !token.is_empty())
}

/// Whether no browser was talked into sending this. What is no browser sends what it likes.
fn is_from_here(access: &Access, uri: &Uri, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    let host = match (host, more) {
        (Some(host), None) => host.to_str().ok(),
        (None, None) => uri.authority().map(http::uri::Authority::as_str),
        _ => return false,
    };
    let Some(host) = host else { return headers.get(header::ORIGIN).is_none() };
    let site_is_ours = headers
        .get_all("sec-fetch-site")
        .iter()
        .all(|site| matches!(site.as_bytes(), b"same-origin" | b"none"));
    let origin_is_ours = headers.get_all(header::ORIGIN).iter().all(|origin| {
        let origin = origin.to_str().ok();
        origin.and_then(|origin| origin.split_once("://")).is_some_and(|(_, from)| from == host)
    });
    access.knows(host) && site_is_ours && origin_is_ours
}

/// The decoded path without its tricks, as Go cleans it; `None` if there are none.
fn clean(path: &str) -> Option<String> {
    let decoded: Vec<u8> = decode(path.as_bytes());
    let ends_in_slash = decoded.ends_with(b"/");
    let mut parts: Vec<&[u8]> = Vec::new();
    let mut is_clean = decoded.starts_with(b"/");
    let mut all = decoded.split(|byte| *byte == b'/').skip(1).peekable();
    while let Some(part) = all.next() {
        match part {
            b"" if all.peek().is_none() => {}
            b"" | b"." => is_clean = false,
            b".." => {
                is_clean = false;
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    if is_clean {
        return None;
    }
    let mut clean = String::new();
    for part in &parts {
        clean.push('/');
        for byte in *part {
            let plain = byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(byte);
            if plain {
                clean.push(char::from(*byte))
            } else {
                clean.push_str(&format!("%{byte:02X}"))
            }
        }
    }
    if ends_in_slash || clean.is_empty() {
        clean.push('/');
    }
    Some(clean)
}

fn decode(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|_| *first == b'%');
        let byte = digits.and_then(|hex| u8::from_str_radix(str::from_utf8(hex).ok()?, 16).ok());
        (rest, _) = match byte {
            Some(byte) => (&after[2..], decoded.push(byte)),
            None => (after, decoded.push(*first)),
        };
    }
    decoded
}

fn redirect(method: &Method, uri: &Uri, clean: &str) -> Response {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return ApiError::bad_request(format!(
            "the path has empty parts, `.` or `..` in it; without them it is {clean}"
        ))
        .into_response();
    }
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    (StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, format!("{clean}{query}"))]).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_go_does() {
        for (path, cleaned) in [
            ("/v1/kv/a/b", None),
            ("/v1/kv/a/", None),
            ("/v1/kv/a..b/...", None),
            ("/v1/kv/a%2Fb", None),
            ("/v1/kv//a", Some("/v1/kv/a")),
            ("//v1/kv/a/", Some("/v1/kv/a/")),
            ("/v1/kv/%2e%2e/a", Some("/v1/a")),
            ("/v1/kv/a%2f%2f..%2fb%20c", Some("/v1/kv/b%20c")),
            ("/v1/kv/./a", Some("/v1/kv/a")),
            ("/../..", Some("/")),
            ("/v1/kv/%zz", None),
        ] {
            assert_eq!(clean(path).as_deref(), cleaned, "{path}");
        }
    }

    #[test]
    fn no_other_site_reaches_the_api() {
        let mut access = Access::default();
        access.allow_host("node-1");
        let from = |headers: &[(&'static str, &str)]| {
            let headers = headers
                .iter()
                .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()));
            is_from_here(&access, &Uri::from_static("/v1/kv/a"), &headers.collect())
        };
        for host in
            ["localhost", "LOCALHOST:1", "127.0.0.1:8500", "10.1.2.3", "[::1]:80", "node-1:1"]
        {
            assert!(from(&[("host", host)]), "{host}");
        }
        for host in ["", "evil.test", "evil.test:8500", "127.0.0.1.evil.test", "node-1.evil.test"] {
            assert!(!from(&[("host", host)]), "{host}");
        }
        let host = ("host", "localhost:8500");
        assert!(from(&[]), "no browser leaves the host out");
        assert!(from(&[
            host,
            ("origin", "http://localhost:8500"),
            ("sec-fetch-site", "same-origin")
        ]));
        assert!(from(&[host, ("sec-fetch-site", "none")]));
        for other in [
            ("origin", "http://evil.test"),
            ("origin", "null"),
            ("origin", "http://localhost:9999"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            assert!(!from(&[host, other]), "{other:?}");
        }
    }

    #[test]
    fn a_token_gives_what_it_is_for() {
        let mut access = Access::default();
        assert_eq!(access.right_of(None), (Right::All, true), "open where no token is set");
        access.allow_management("root");
        access.allow_reading("guest");
        for (token, right) in [
            (None, (Right::Nothing, true)),
            (Some("root"), (Right::All, true)),
            (Some("guest"), (Right::Read, true)),
            (Some("roo"), (Right::Nothing, false)),
            (Some("roott"), (Right::Nothing, false)),
        ] {
            assert_eq!(access.right_of(token), right, "{token:?}");
        }
        let shown = format!("{access:?}");
        assert!(!shown.contains("root") && shown.contains("management: 1"), "{shown}");
        for (method, path, right) in [
            (Method::GET, "/v1/kv/a", Right::Read),
            (Method::PUT, "/v1/kv/a", Right::All),
            (Method::DELETE, "/v1/kv/a", Right::All),
            (Method::GET, "/v1/snapshot", Right::All),
            (Method::GET, "/v1/status/leader", Right::Nothing),
        ] {
            assert_eq!(needed(&method, path), right, "{method} {path}");
        }
    }

    #[test]
    fn the_first_place_of_a_token_counts() {
        let read = |query: &str, headers: &[(&'static str, &str)]| {
            let headers = headers
                .iter()
                .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()));
            token(&Parameters::parse(query), &headers.collect()).map(str::to_owned)
        };
        let (own, bearer) = (("x-consul-token", "b"), ("authorization", "bearer c"));
        assert_eq!(read("token=a", &[own, bearer]).as_deref(), Some("a"));
        assert_eq!(read("token=", &[own, bearer]).as_deref(), Some("b"));
        assert_eq!(read("", &[bearer]).as_deref(), Some("c"));
        assert_eq!(read("", &[("authorization", "Basic c")]), None);
    }
}
