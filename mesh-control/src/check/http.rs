//! A check by HTTP: one request; 2xx passes, 429 warns, any other answer, or none, is critical.
//!
//! *Redirects* are followed, ten at most. 301, 302 and 303 go on as GET without a body, 307 and 308
//! as they were; to another host, `Authorization` and `Cookie` do not go along.
//!
//! *Bounds*: of the body as much is read as is kept, then the connection is closed; the head has at
//! most 64 KiB. `User-Agent` is [`AGENT`] unless the definition says another; a user and password in
//! the URL are sent as `Authorization`, and not shown.
//!
//! Source: Consul "Check Definition"; RFC 9110 §15.4; texts as Consul 1.8.7 gives them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, HeaderMap,
    HeaderName, HeaderValue, LOCATION, USER_AGENT,
};
use http::uri::{Authority, Scheme};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::Builder;
use hyper_util::rt::TokioIo;

use super::CheckResult;
use super::drive::drive;
use super::output::text;
use super::redirect::resolve;
use super::stream::{HTTP_1_1, Tls};
use crate::types::{CheckDefinition, CheckStatus};

/// What it calls itself, so that whoever knows Consul's checks by their name knows these.
pub const AGENT: &str = concat!("Consul Health Check (mesh/", env!("CARGO_PKG_VERSION"), ")");

/// Redirects that are followed. Source: Go's `http.Client`.
const REDIRECTS: usize = 10;
/// Longest head of an answer.
const HEAD: usize = 64 * 1024;

/// See the [module docs](self).
#[derive(Clone, Debug)]
pub struct Http {
    url: String,
    method: String,
    header: Vec<(String, String)>,
    body: Bytes,
    tls: Tls,
}

/// One answer, as far as it was read.
struct Answer {
    status: StatusCode,
    location: Option<String>,
    body: Vec<u8>,
}

impl Http {
    /// That of a definition.
    #[must_use]
    pub fn new(definition: &CheckDefinition) -> Self {
        let pairs = definition.header.iter();
        let pairs = pairs
            .flat_map(|(name, values)| values.iter().map(|value| (name.clone(), value.clone())));
        let method = match definition.method.as_str() {
            "" => "GET",
            method => method,
        };
        Self {
            url: definition.http.clone(),
            method: method.to_owned(),
            header: pairs.collect(),
            body: Bytes::from(definition.body.clone()),
            tls: Tls::new(definition),
        }
    }

    /// The URL, without what is secret in it.
    #[must_use]
    pub fn url(&self) -> String {
        self.url.parse().map_or_else(|_| self.url.clone(), |url| shown(&url))
    }

    /// Asks once, and keeps `limit` bytes of the body.
    pub async fn ask(&self, limit: usize) -> CheckResult {
        match self.exchange(limit).await {
            Ok(Answer { status, body, .. }) => {
                let verdict = match status {
                    status if status.is_success() => CheckStatus::Passing,
                    StatusCode::TOO_MANY_REQUESTS => CheckStatus::Warning,
                    _ => CheckStatus::Critical,
                };
                let (method, url, body) = (&self.method, self.url(), text(&body));
                // With its reason, where it has one.
                let status = status.to_string().replace(" <unknown status code>", "");
                let said = format!("HTTP {method} {url}: {status} Output: {body}");
                CheckResult::new(verdict, said)
            }
            Err(error) => CheckResult::critical(error),
        }
    }

    async fn exchange(&self, limit: usize) -> Result<Answer, String> {
        let invalid = |_| format!("net/http: invalid method {:?}", self.method);
        let mut method = Method::from_bytes(self.method.as_bytes()).map_err(invalid)?;
        let failed =
            |url: &str, reason: &str| format!("{} {url:?}: {reason}", titled(&self.method));
        let mut url: Uri =
            self.url.parse().map_err(|error| failed(&self.url, &format!("no URL: {error}")))?;
        let mut header = self.header()?;
        let mut body = self.body.clone();
        for _ in 0..=REDIRECTS {
            let request = (&method, &url, &header, &body);
            let answer =
                self.once(request, limit).await.map_err(|why| failed(&shown(&url), &why))?;
            let Some(location) = answer.location else { return Ok(answer) };
            let next = resolve(&url, &location)
                .ok_or_else(|| failed(&location, "it is redirected to what is no URL"))?;
            if !matches!(answer.status.as_u16(), 307 | 308) {
                body = Bytes::new();
                header.remove(CONTENT_TYPE);
                header.remove(CONTENT_LENGTH);
                if method != Method::HEAD {
                    method = Method::GET;
                }
            }
            let has_moved = next.authority() != url.authority() || next.scheme() != url.scheme();
            if has_moved {
                [AUTHORIZATION, COOKIE, HOST].iter().for_each(|name| {
                    header.remove(name);
                });
            }
            url = next;
        }
        Err(failed(&shown(&url), &format!("stopped after {REDIRECTS} redirects")))
    }

    /// What the definition wants sent, and what is sent otherwise.
    fn header(&self) -> Result<HeaderMap, String> {
        let mut header = HeaderMap::new();
        for (name, value) in &self.header {
            let name = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| format!("net/http: invalid header field name {name:?}"))?;
            let value = HeaderValue::from_str(value)
                .map_err(|_| format!("net/http: invalid header field value for {name:?}"))?;
            header.append(name, value);
        }
        header.entry(USER_AGENT).or_insert(HeaderValue::from_static(AGENT));
        header.entry(ACCEPT).or_insert(HeaderValue::from_static("text/plain, text/*, */*"));
        header.insert(CONNECTION, HeaderValue::from_static("close"));
        // Both are the connection's to say.
        header.remove(CONTENT_LENGTH);
        header.remove(http::header::TRANSFER_ENCODING);
        Ok(header)
    }

    async fn once(
        &self,
        (method, url, header, body): (&Method, &Uri, &HeaderMap, &Bytes),
        limit: usize,
    ) -> Result<Answer, String> {
        let scheme = url.scheme_str().unwrap_or_default();
        let is_tls = match url.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err(format!("unsupported protocol scheme {scheme:?}")),
        };
        let authority = url.authority().ok_or("no Host in request URL")?;
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let address = format!("{}:{port}", authority.host());
        let io = self.tls.open(&address, is_tls.then_some(HTTP_1_1)).await?;
        let said = |error: hyper::Error| error.to_string();
        let (mut sender, connection) =
            Builder::new().max_buf_size(HEAD).handshake(TokioIo::new(io)).await.map_err(said)?;

        let target = url.path_and_query().map_or("/", |target| target.as_str());
        let mut request = Request::new(Full::new(body.clone()));
        *request.method_mut() = method.clone();
        *request.uri_mut() = target.parse().map_err(|_| format!("no path: {target:?}"))?;
        *request.headers_mut() = header.clone();
        let (user, host) = split(authority);
        let host = HeaderValue::from_str(host).map_err(|_| format!("no host: {host:?}"))?;
        request.headers_mut().entry(HOST).or_insert(host);
        if let Some(user) = user
            && let Ok(value) = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(user)))
        {
            request.headers_mut().entry(AUTHORIZATION).or_insert(value);
        }
        drive(connection, async {
            let answer = sender.send_request(request).await.map_err(said)?;
            let status = answer.status();
            let is_redirect = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
            let location = answer.headers().get(LOCATION).filter(|_| is_redirect);
            let location = location.map(|location| text(location.as_bytes()));
            let body = match location {
                Some(_) => Vec::new(),
                None => beginning(answer.into_body(), limit).await,
            };
            Ok(Answer { status, location, body })
        })
        .await
    }
}

/// The first `limit` bytes of a body, or what comes of them: the status says how it is.
async fn beginning(mut body: Incoming, limit: usize) -> Vec<u8> {
    let mut read = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data() {
            let room = limit - read.len();
            read.extend_from_slice(&data[..data.len().min(room)]);
            if read.len() == limit {
                break;
            }
        }
    }
    read
}

/// User and password, and the host with its port.
fn split(authority: &Authority) -> (Option<&str>, &str) {
    match authority.as_str().rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority.as_str()),
    }
}

/// The URL as it may be shown.
fn shown(url: &Uri) -> String {
    let (Some(scheme), Some(authority)) = (url.scheme_str(), url.authority()) else {
        return url.to_string();
    };
    let (user, host) = split(authority);
    let user = user.map_or("", |_| "xxxxx@");
    let target = url.path_and_query().map_or("", |target| target.as_str());
    format!("{scheme}://{user}{host}{target}")
}

/// `Get` of `GET`: so begin the texts of errors.
fn titled(method: &str) -> String {
    let mut letters = method.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters.flat_map(char::to_lowercase)).collect()
    })
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
