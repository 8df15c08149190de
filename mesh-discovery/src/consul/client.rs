//! Client: GET requests to Consul's HTTP API, one at a time over a connection that is kept.
//!
//! A blocking query holds its connection while it waits, so each watch has one of its own. One
//! that the server closed while it was idle is opened again without a word. A peer that vanished
//! is found out by TCP keep-alive within 30 s.
//!
//! What a server may do to us is bounded: time to connect, time to the head, [`BODY`] from there to
//! the end, and the size of the answer.

use super::config::Config;
use super::tls;
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Body;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// How long the body of an answer may take.
const BODY: Duration = Duration::from_secs(60);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Bytes of an error's body that are told.
const TOLD: usize = 200;

/// One connection, opened when it is needed.
pub(super) struct Connection {
    config: Arc<Config>,
    open: Option<Open>,
}

/// An open connection with the task that moves its bytes.
struct Open {
    sender: SendRequest<Empty<Bytes>>,
    task: AbortHandle,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An answer: 200, or 404 where that means that there is nothing.
pub(super) struct Reply {
    /// Whether there is what was asked for.
    pub(super) found: bool,
    /// `X-Consul-Index`.
    pub(super) index: u64,
    pub(super) body: Bytes,
}

impl Connection {
    pub(super) fn new(config: Arc<Config>) -> Self {
        Self { config, open: None }
    }

    /// Asks for a path with its query; the head of the answer may take `head`.
    ///
    /// # Errors
    /// A sentence that says what came in place of an answer, without the address.
    pub(super) async fn get(&mut self, target: &str, head: Duration) -> Result<Reply, String> {
        let mut open = match self.open.take().filter(|open| !open.sender.is_closed()) {
            Some(open) => open,
            None => self.connect().await?,
        };
        let sent = open.sender.ready().await;
        if sent.is_err() {
            open = self.connect().await?;
        }
        let request = self.request(target)?;
        let answer = timeout(head, open.sender.send_request(request))
            .await
            .map_err(|_| format!("no answer within {head:?}"))?
            .map_err(|error| told(&error))?;
        let (head, body) = answer.into_parts();
        let larger = || format!("its answer is larger than {} bytes", self.config.max_answer);
        // What says that it will be too large is not waited for.
        if body.size_hint().lower() > self.config.max_answer as u64 {
            return Err(larger());
        }
        let body = Limited::new(body, self.config.max_answer).collect();
        let body = timeout(BODY, body)
            .await
            .map_err(|_| format!("its answer has not ended after {BODY:?}"))?;
        let body = body.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
            Some(_) => larger(),
            None => format!("its answer breaks off: {}", told(&*error)),
        })?;
        let body = body.to_bytes();
        if head.status != StatusCode::OK && head.status != StatusCode::NOT_FOUND {
            return Err(format!("{}{}", head.status, shown(&body)));
        }
        let index = head.headers.get("x-consul-index").and_then(|index| index.to_str().ok());
        let Some(index) = index.and_then(|index| index.parse().ok()) else {
            return Err(format!(
                "{} without X-Consul-Index: whoever answers there is no Consul",
                head.status
            ));
        };
        self.open = Some(open);
        Ok(Reply { found: head.status == StatusCode::OK, index, body })
    }

    fn request(&self, target: &str) -> Result<Request<Empty<Bytes>>, String> {
        let mut request = Request::get(target)
            .header(header::HOST, self.config.address.authority())
            .header(header::USER_AGENT, HeaderValue::from_static("mesh"))
            .header(header::ACCEPT, HeaderValue::from_static("application/json"))
            .body(Empty::new())
            .map_err(|error| error.to_string())?;
        if let Some(token) = &self.config.token {
            request.headers_mut().insert("x-consul-token", token.field().clone());
        }
        Ok(request)
    }

    async fn connect(&self) -> Result<Open, String> {
        let limit = self.config.connect_timeout;
        timeout(limit, self.dial()).await.map_err(|_| format!("no connection within {limit:?}"))?
    }

    async fn dial(&self) -> Result<Open, String> {
        let address = &self.config.address;
        let refused = |error: std::io::Error| format!("cannot connect: {error}");
        let stream = TcpStream::connect((address.host(), address.port())).await.map_err(refused)?;
        stream.set_nodelay(true).map_err(refused)?;
        let probes = TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(3);
        SockRef::from(&stream).set_tcp_keepalive(&probes).map_err(refused)?;
        if !address.is_https() {
            return handshake(stream).await;
        }
        let ca = self.config.ca.clone();
        let connector = tokio::task::spawn_blocking(move || tls::connector(ca.as_deref()))
            .await
            .map_err(|error| error.to_string())??;
        let name = tls::name(address.host())?;
        let stream = connector.connect(name, stream).await;
        handshake(stream.map_err(|error| format!("TLS: {error}"))?).await
    }
}

async fn handshake(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<Open, String> {
    let (sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| told(&error))?;
    let task = tokio::spawn(async move {
        // How it ends is told to whoever waits for an answer.
        let _ = connection.await;
    });
    Ok(Open { sender, task: task.abort_handle() })
}

/// An error with its cause.
fn told(error: &(dyn std::error::Error + 'static)) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// The beginning of a body, after a colon.
fn shown(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body.get(..TOLD).unwrap_or(body));
    match text.trim() {
        "" => String::new(),
        text => format!(": {}", printable(text)),
    }
}

/// What Consul said, for a person: control characters escaped, and nothing else.
pub(super) fn printable(text: &str) -> String {
    let mut told = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { told.extend(c.escape_default()) } else { told.push(c) }
    }
    told
}

/// A text as one segment of a path (RFC 3986 §3.3: all but unreserved characters escaped).
pub(super) fn segment(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(byte as char);
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_cannot_leave_its_place() {
        assert_eq!(segment("web-v2_1.~"), "web-v2_1.~");
        assert_eq!(segment("a/b?c#d%2f é"), "a%2Fb%3Fc%23d%252f%20%C3%A9");
    }

    #[test]
    fn what_is_told_of_a_body_is_short_and_without_control_characters() {
        assert_eq!(shown(b" \n"), "");
        assert_eq!(shown(b"ACL not found\n"), ": ACL not found");
        assert_eq!(shown(b"Consul's\x1b[31m\r\nb"), ": Consul's\\u{1b}[31m\\r\\nb");
        assert!(shown(&vec![b'x'; 1 << 20]).len() < 300);
    }
}
