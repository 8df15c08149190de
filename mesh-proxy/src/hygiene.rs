//! Hygiene: what comes in is either refused or leaves us in one canonical form.
//!
//! - *Target and authority*: one valid `Host`, or the target's own authority, which wins; origin
//!   form on the way out; no userinfo; the path in its one spelling ([`path`]).
//! - *Hop by hop*: the fields that `Connection` lists, `Connection` itself and its relatives end
//!   here; `Upgrade` goes on only where it is asked for properly, and never for `h2c`; `TE` only
//!   as `trailers`.
//! - *Framing*: `Content-Length` and `Transfer-Encoding` end here; the body we send is framed
//!   anew by its own length.
//! - *Trust*: `x-forwarded-client-cert` is ours alone to set. From a peer without a verified
//!   identity, `X-Forwarded-*`, `Forwarded` and the control fields of proxies (`x-envoy-*`,
//!   `x-original-url`, `x-rewrite-url`) have no effect. A name with `_` counts as the one with `-`.
//!
//! One pass over the names finds what there is to do; a request without any of it is not touched,
//! but for the address of the client, which is made once per connection.
//!
//! Source: RFC 9110 sections 7.2 and 7.6, RFC 9112 section 3.2, RFC 9113 section 8.

use ::http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, Entry, HOST, HeaderMap, HeaderName, HeaderValue,
    TE, TRANSFER_ENCODING, UPGRADE,
};
use ::http::uri::{Authority, PathAndQuery, Scheme};
use ::http::{Method, Request, Response, StatusCode, Uri, Version};
use mesh_core::route::path;
use mesh_tower::listen::Peer;
use std::borrow::Cow;
use std::net::SocketAddr;

/// Longest target, in bytes.
const TARGET_LIMIT: usize = 16 * 1024;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// Why a request is refused: the status and the sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) message: Cow<'static, str>,
}

const fn bad(message: &'static str) -> Refusal {
    Refusal { status: StatusCode::BAD_REQUEST, message: Cow::Borrowed(message) }
}

/// What the fields of one connection's requests are set to; made once per connection.
#[derive(Clone, Debug)]
pub(crate) struct Edge {
    forwarded_for: HeaderValue,
    forwarded_proto: HeaderValue,
    client_cert: Option<HeaderValue>,
    /// The peer proved who it is, so what it says of others is believed.
    trusted: bool,
}

impl Edge {
    /// For a connection from `peer`, over TLS or not.
    pub(crate) fn new(peer: &Peer, tls: bool) -> Self {
        let client_cert = peer.identity().and_then(|identity| {
            let kind = if identity.spiffe().is_some() { "URI" } else { "DNS" };
            let name = identity.name()?;
            // Quoted as Envoy's format has it; a name that needs escaping is not passed on.
            let plain = name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
            plain.then(|| HeaderValue::try_from(format!("{kind}=\"{name}\"")).ok())?
        });
        Self {
            forwarded_for: address_value(peer.address()),
            forwarded_proto: HeaderValue::from_static(if tls { "https" } else { "http" }),
            client_cert,
            trusted: peer.identity().is_some(),
        }
    }
}

fn address_value(address: SocketAddr) -> HeaderValue {
    // An address is visible ASCII, so this is never the fallback.
    HeaderValue::try_from(address.ip().to_canonical().to_string())
        .unwrap_or(HeaderValue::from_static("unknown"))
}

/// What the names of a request say there is to do; a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Work(u16);

impl Work {
    const CONNECTION: Self = Self(1);
    const HOP: Self = Self(1 << 1);
    const FRAMING: Self = Self(1 << 2);
    const TE: Self = Self(1 << 3);
    const UPGRADE: Self = Self(1 << 4);
    const EXPECT: Self = Self(1 << 5);
    const IDENTITY: Self = Self(1 << 6);
    const UNTRUSTED: Self = Self(1 << 7);
    const COOKIE: Self = Self(1 << 8);
    const FORWARDED: Self = Self(1 << 9);

    const fn has(self, work: Self) -> bool {
        self.0 & work.0 != 0
    }

    fn of(headers: &HeaderMap) -> Self {
        Self(headers.keys().fold(0, |work, name| work | class(name.as_str()).0))
    }
}

/// What a field of this name makes us do.
fn class(name: &str) -> Work {
    if name.contains('_') {
        // Many servers behind us read `_` and `-` as the same.
        return match class(&name.replace('_', "-")) {
            work if work.0 == 0 => work,
            _ => Work::IDENTITY,
        };
    }
    match name.as_bytes() {
        b"connection" => Work::CONNECTION,
        b"keep-alive"
        | b"proxy-connection"
        | b"proxy-authorization"
        | b"proxy-authenticate"
        | b"http2-settings" => Work::HOP,
        b"content-length" | b"transfer-encoding" => Work::FRAMING,
        b"te" => Work::TE,
        b"upgrade" => Work::UPGRADE,
        b"expect" => Work::EXPECT,
        b"cookie" => Work::COOKIE,
        b"x-forwarded-client-cert" => Work::IDENTITY,
        b"x-forwarded-for" => Work::FORWARDED,
        b"forwarded"
        | b"x-forwarded-host"
        | b"x-forwarded-proto"
        | b"x-forwarded-port"
        | b"x-forwarded-prefix"
        | b"x-real-ip"
        | b"x-original-url"
        | b"x-rewrite-url" => Work::UNTRUSTED,
        name if name.starts_with(b"x-envoy-") => Work::UNTRUSTED,
        _ => Work(0),
    }
}

/// What the request asks for beyond an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asks {
    /// Nothing.
    Answer,
    /// A switch to the protocol in `Upgrade`.
    Upgrade,
}

/// Makes a request canonical.
///
/// # Errors
/// When it must be refused.
pub(crate) fn request<B>(request: &mut Request<B>, edge: &Edge) -> Result<Asks, Refusal> {
    target(request)?;
    let multiplexed = request.version() == Version::HTTP_2;
    let headers = request.headers_mut();
    let work = Work::of(headers);
    let mut asks = Asks::Answer;
    if work != Work::default() {
        if work.has(Work::CONNECTION) && multiplexed {
            return Err(bad("Connection in an HTTP/2 request"));
        }
        if work.has(Work::UPGRADE) {
            asks = upgrade(headers, multiplexed);
        }
        if work.has(Work::CONNECTION) {
            remove_listed(headers);
        }
        if work.has(Work::EXPECT) {
            expect(headers)?;
        }
        remove(headers, work, edge.trusted);
        if work.has(Work::COOKIE) && multiplexed {
            join_cookies(headers);
        }
        if asks == Asks::Upgrade {
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
    }
    forward(headers, work, edge);
    Ok(asks)
}

/// Checks target and `Host`, and brings an HTTP/1 target into origin form.
fn target<B>(request: &mut Request<B>) -> Result<(), Refusal> {
    let uri = request.uri();
    let path = uri.path();
    if path.len() + uri.query().map_or(0, str::len) > TARGET_LIMIT {
        return Err(Refusal {
            status: StatusCode::URI_TOO_LONG,
            message: "the target is above 16 KiB".into(),
        });
    }
    if request.method() == Method::CONNECT {
        return Err(Refusal {
            status: StatusCode::METHOD_NOT_ALLOWED,
            message: "CONNECT is not served here".into(),
        });
    }
    let normal = if path.starts_with('/') {
        path::normalize(path).map_err(|why| Refusal {
            status: StatusCode::BAD_REQUEST,
            message: why.to_string().into(),
        })?
    } else if path == "*" && request.method() == Method::OPTIONS {
        None
    } else {
        return Err(bad("the target is no path"));
    };
    let multiplexed = request.version() == Version::HTTP_2;
    let absolute = uri.scheme().is_some();
    match (uri.authority(), absolute) {
        (None, _) => check_host(request.headers())?,
        (Some(_), false) => return Err(bad("the target is no path")),
        (Some(authority), true) => {
            if !is_authority(authority.as_str()) {
                return Err(bad("the authority is not host or host:port"));
            }
            if uri.scheme() != Some(&Scheme::HTTP) && uri.scheme() != Some(&Scheme::HTTPS) {
                return Err(bad("the scheme is neither http nor https"));
            }
            if !multiplexed {
                check_host(request.headers())?;
            }
        }
    }
    let encrypted = uri.scheme() == Some(&Scheme::HTTPS);
    if normal.is_some() || (absolute && !multiplexed) || encrypted {
        rewrite(request, normal, multiplexed)?;
    } else if multiplexed && absolute {
        request.headers_mut().remove(HOST);
    }
    Ok(())
}

/// Puts the normal path in; in HTTP/1 the authority of the target becomes `Host`. The scheme
/// speaks of the caller's connection (`X-Forwarded-Proto` keeps it); whether the next one has TLS
/// is for the destination to say.
fn rewrite<B>(
    request: &mut Request<B>,
    normal: Option<String>,
    multiplexed: bool,
) -> Result<(), Refusal> {
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    if let Some(normal) = normal {
        let query = parts.path_and_query.as_ref().and_then(PathAndQuery::query);
        let text = match query {
            Some(query) => format!("{normal}?{query}"),
            None => normal,
        };
        parts.path_and_query =
            Some(PathAndQuery::try_from(text).map_err(|_| bad("the target is no path"))?);
    }
    if multiplexed {
        parts.scheme = parts.scheme.map(|_| Scheme::HTTP);
        request.headers_mut().remove(HOST);
    } else {
        parts.scheme = None;
        if let Some(authority) = parts.authority.take() {
            request.headers_mut().insert(HOST, host_value(&authority)?);
        }
    }
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| bad("the target is no path"))?;
    Ok(())
}

fn host_value(authority: &Authority) -> Result<HeaderValue, Refusal> {
    HeaderValue::from_str(authority.as_str()).map_err(|_| bad("the authority is not text"))
}

/// Exactly one `Host`, and a valid one.
fn check_host(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => {
            if host.to_str().is_ok_and(is_authority) {
                Ok(())
            } else {
                Err(bad("Host is not host or host:port"))
            }
        }
        (None, _) => Err(bad("no Host")),
        (Some(_), Some(_)) => Err(bad("more than one Host")),
    }
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`, of letters, digits and `-._~` only: names that
/// need more are escaped before they come here.
fn is_authority(text: &str) -> bool {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let Some((address, after)) = rest.split_once(']') else { return false };
        if !address.contains(':')
            || !address.bytes().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.'))
        {
            return false;
        }
        match after.strip_prefix(':') {
            Some(port) => (address, Some(port)),
            None if after.is_empty() => (address, None),
            None => return false,
        }
    } else {
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
        if !host.bytes().all(plain) {
            return false;
        }
        (host, port)
    };
    let digits = |port: &str| {
        matches!(port.len(), 1..=5)
            && port.bytes().all(|b| b.is_ascii_digit())
            && port.parse::<u16>().is_ok()
    };
    !host.is_empty() && port.is_none_or(digits)
}

/// Whether the request asks for a protocol that we pass on; if not, the wish ends here.
fn upgrade(headers: &mut HeaderMap, multiplexed: bool) -> Asks {
    let listed = tokens(headers, &CONNECTION).any(|option| option.eq_ignore_ascii_case("upgrade"));
    let mut values = headers.get_all(UPGRADE).iter();
    let known = match (values.next(), values.next()) {
        // One protocol: out of a list the endpoint could choose `h2c`.
        (Some(one), None) => {
            let one = one.as_bytes();
            !one.contains(&b',') && !one.to_ascii_lowercase().trim_ascii_start().starts_with(b"h2c")
        }
        _ => false,
    };
    if listed && known && !multiplexed {
        Asks::Upgrade
    } else {
        headers.remove(UPGRADE);
        Asks::Answer
    }
}

/// `100-continue` is answered by our own engine; nothing else may be expected.
fn expect(headers: &mut HeaderMap) -> Result<(), Refusal> {
    let only =
        headers.get_all(EXPECT).iter().all(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if !only {
        return Err(Refusal {
            status: StatusCode::EXPECTATION_FAILED,
            message: "Expect is not `100-continue`".into(),
        });
    }
    headers.remove(EXPECT);
    Ok(())
}

/// Removes what `Connection` lists, and `Connection`.
fn remove_listed(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = tokens(headers, &CONNECTION)
        .filter_map(|option| HeaderName::from_bytes(option.as_bytes()).ok())
        .filter(|name| *name != HOST && *name != UPGRADE && *name != TE)
        .collect();
    for name in listed {
        headers.remove(name);
    }
    headers.remove(CONNECTION);
}

/// The options of a comma-separated field; what is not text has none.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|option| !option.is_empty())
}

/// Removes what ends here in any case, and what an untrusted peer may not say.
fn remove(headers: &mut HeaderMap, work: Work, trusted: bool) {
    if work.has(Work::FRAMING) {
        headers.remove(CONTENT_LENGTH);
        headers.remove(TRANSFER_ENCODING);
    }
    if work.has(Work::TE)
        && !headers.get_all(TE).iter().all(|v| v.as_bytes().eq_ignore_ascii_case(b"trailers"))
    {
        headers.remove(TE);
    }
    let gone = |class: Work| {
        class == Work::HOP || class == Work::IDENTITY || (!trusted && class == Work::UNTRUSTED)
    };
    if work.has(Work(Work::HOP.0 | Work::IDENTITY.0)) || (!trusted && work.has(Work::UNTRUSTED)) {
        let names: Vec<HeaderName> =
            headers.keys().filter(|name| gone(class(name.as_str()))).cloned().collect();
        for name in names {
            headers.remove(name);
        }
    }
}

/// HTTP/2 may send a cookie in crumbs; an HTTP/1 endpoint expects one field (RFC 9113 section
/// 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut joined: Vec<u8> = Vec::new();
    let mut count = 0;
    for value in headers.get_all(COOKIE) {
        if count > 0 {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(value.as_bytes());
        count += 1;
    }
    if count > 1
        && let Ok(joined) = HeaderValue::from_bytes(&joined)
    {
        headers.insert(COOKIE, joined);
    }
}

/// Says who the client is.
fn forward(headers: &mut HeaderMap, work: Work, edge: &Edge) {
    let before = if edge.trusted && work.has(Work::FORWARDED) {
        let hops: Vec<&[u8]> =
            headers.get_all(FORWARDED_FOR).iter().map(HeaderValue::as_bytes).collect();
        let mut chain = hops.join(&b", "[..]);
        chain.extend_from_slice(b", ");
        chain.extend_from_slice(edge.forwarded_for.as_bytes());
        HeaderValue::from_bytes(&chain).ok()
    } else {
        None
    };
    headers.insert(FORWARDED_FOR, before.unwrap_or_else(|| edge.forwarded_for.clone()));
    if let Entry::Vacant(entry) = headers.entry(FORWARDED_PROTO) {
        entry.insert(edge.forwarded_proto.clone());
    }
    if let Some(identity) = &edge.client_cert {
        headers.insert(CLIENT_CERT, identity.clone());
    }
}

/// Makes a response canonical: what was between us and the endpoint ends here.
pub(crate) fn response<B>(response: &mut Response<B>) {
    let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    let mut found = Work::default();
    let mut listed = false;
    for (name, value) in &*headers {
        found.0 |= match name.as_str().as_bytes() {
            b"connection" => {
                // Most endpoints say only whether they keep the connection.
                let value = value.as_bytes();
                listed |= !value.eq_ignore_ascii_case(b"keep-alive")
                    && !value.eq_ignore_ascii_case(b"close");
                Work::CONNECTION.0
            }
            b"keep-alive" | b"proxy-connection" => Work::HOP.0,
            b"transfer-encoding" => Work::FRAMING.0,
            b"upgrade" => Work::UPGRADE.0,
            b"te" => Work::TE.0,
            _ => 0,
        };
    }
    if found == Work::default() {
        return;
    }
    let upgrade = if switching { headers.remove(UPGRADE) } else { None };
    if listed {
        let names: Vec<HeaderName> = tokens(headers, &CONNECTION)
            .filter_map(|option| HeaderName::from_bytes(option.as_bytes()).ok())
            .filter(|name| *name != CONTENT_LENGTH)
            .collect();
        for name in names {
            headers.remove(name);
        }
    }
    for (work, name) in [
        (Work::CONNECTION, CONNECTION),
        (Work::FRAMING, TRANSFER_ENCODING),
        (Work::UPGRADE, UPGRADE),
        (Work::TE, TE),
        (Work::HOP, KEEP_ALIVE),
        (Work::HOP, PROXY_CONNECTION),
    ] {
        if found.has(work) {
            headers.remove(name);
        }
    }
    if let Some(upgrade) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, upgrade);
    }
}

/// Removes from request trailers what would change the meaning of the head (RFC 9110 section
/// 6.5.1).
pub(crate) fn trailers(trailers: &mut HeaderMap) {
    let unwanted: Vec<HeaderName> = trailers
        .keys()
        .filter(|name| {
            class(name.as_str()).0 != 0
                || matches!(
                    name.as_str(),
                    "host"
                        | "authorization"
                        | "trailer"
                        | "content-type"
                        | "content-encoding"
                        | "content-range"
                        | "cache-control"
                        | "max-forwards"
                        | "set-cookie"
                )
        })
        .cloned()
        .collect();
    for name in unwanted {
        trailers.remove(name);
    }
}

#[cfg(test)]
mod tests;
