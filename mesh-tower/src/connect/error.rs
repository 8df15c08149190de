//! Errors: what went wrong on a connection, and whether the application can have seen the call.

use crate::body::Body;
use crate::tls;
use http::Request;
use mesh_core::{Error, ErrorKind};
use rustix::io::Errno;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// An attempt that brought no response.
///
/// When no byte of the request left us it is given back, so that another attempt needs no copy.
#[derive(Debug)]
#[non_exhaustive]
pub struct SendError {
    /// Why. [`Error::may_have_reached`] is set as soon as the application can have seen it.
    pub error: Error,
    /// The request, whole, if none of it was written.
    pub request: Option<Box<Request<Body>>>,
}

impl SendError {
    pub(super) fn lost(error: Error) -> Self {
        Self { error, request: None }
    }

    pub(super) fn unsent(error: Error, request: Request<Body>) -> Self {
        Self { error, request: Some(Box::new(request)) }
    }
}

impl From<SendError> for Error {
    fn from(error: SendError) -> Self {
        error.error
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl StdError for SendError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.error)
    }
}

/// No socket: nobody answered at the address, or this process can have no more sockets, which says
/// nothing about the endpoint.
pub(super) fn of_dial(address: SocketAddr, error: io::Error) -> Error {
    let short = match Errno::from_io_error(&error) {
        Some(Errno::MFILE) => Some("this process has as many files open as it may (ulimit -n)"),
        Some(Errno::NFILE) => Some("this machine has as many files open as it may"),
        Some(Errno::NOBUFS | Errno::NOMEM) => Some("this machine has no memory for a socket"),
        Some(Errno::ADDRNOTAVAIL) => Some("this machine has no local port left for it"),
        _ => None,
    };
    if let Some(short) = short {
        let message = format!("no connection to {address}: {short}");
        return Error::new(ErrorKind::Overflow, message).with_source(error);
    }
    let reason = match error.kind() {
        io::ErrorKind::ConnectionRefused => format!("{address} refused the connection"),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            format!("{address} is unreachable")
        }
        io::ErrorKind::TimedOut => format!("{address} did not answer"),
        _ => format!("no connection to {address}: {error}"),
    };
    Error::new(ErrorKind::Connect, reason).with_source(error)
}

/// The connect timeout passed first.
pub(super) fn of_connect_timeout(addresses: &[SocketAddr], timeout: Duration) -> Error {
    let to = match addresses {
        [one] => one.to_string(),
        several => several.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    };
    Error::new(ErrorKind::Connect, format!("no connection to {to} within {timeout:?}"))
}

/// A failure of an HTTP/1 exchange, or of its body, once the request is on its way.
pub(super) fn of_http1(error: hyper::Error) -> Error {
    if let Some(refused) = tls::alert(&error) {
        return refused.with_source(error);
    }
    let (kind, message) = if error.is_user() {
        (ErrorKind::CallerGone, format!("the request's body failed: {}", chain(&error)))
    } else if error.is_parse() {
        (ErrorKind::EndpointProtocol, format!("the response is not HTTP/1: {}", chain(&error)))
    } else if error.is_incomplete_message() {
        (
            ErrorKind::ConnectionClosed,
            "the endpoint closed the connection before the response was complete".to_owned(),
        )
    } else {
        match io_kind(&error) {
            Some(io::ErrorKind::ConnectionReset) => {
                (ErrorKind::RemoteReset, "the endpoint reset the connection".to_owned())
            }
            // hyper's chunked and length decoders report a malformed body in these two kinds.
            Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) => (
                ErrorKind::EndpointProtocol,
                format!("the response's body is malformed: {}", chain(&error)),
            ),
            _ => (
                ErrorKind::ConnectionClosed,
                format!("the connection to the endpoint broke: {}", chain(&error)),
            ),
        }
    };
    Error::new(kind, message).with_source(error).after_send()
}

/// A failure of an HTTP/2 stream or of its connection, once the request is on its way.
///
/// Two answers prove that no application saw the request: the code REFUSED_STREAM, and a GOAWAY
/// whose last stream is older (RFC 9113, sections 8.7 and 6.8).
pub(super) fn of_http2(error: h2::Error) -> Error {
    if let Some(refused) = error.get_io().and_then(|io| tls::alert(io)) {
        return refused.with_source(error);
    }
    if error.is_go_away() && error.is_remote() {
        let message = "the endpoint is closing the connection (GOAWAY) and left the request out";
        return Error::new(ErrorKind::ConnectionClosed, message).with_source(error);
    }
    if error.is_reset() && error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM) {
        let message = "the endpoint refused the stream (REFUSED_STREAM)";
        return Error::new(ErrorKind::RemoteReset, message).with_source(error);
    }
    let (kind, message) = if error.is_reset() && error.is_remote() {
        let code = error.reason().unwrap_or(h2::Reason::NO_ERROR);
        (ErrorKind::RemoteReset, format!("the endpoint reset the stream ({code:?})"))
    } else if let Some(io) = error.get_io() {
        match io.kind() {
            io::ErrorKind::ConnectionReset => {
                (ErrorKind::RemoteReset, "the endpoint reset the connection".to_owned())
            }
            _ => {
                (ErrorKind::ConnectionClosed, format!("the connection to the endpoint broke: {io}"))
            }
        }
    } else if error.is_library() {
        (ErrorKind::EndpointProtocol, format!("the endpoint broke HTTP/2: {error}"))
    } else {
        (ErrorKind::LocalReset, format!("the stream was given up: {error}"))
    };
    Error::new(kind, message).with_source(error).after_send()
}

/// The errors of a chain, outermost first, each once.
pub(super) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

fn io_kind(error: &dyn StdError) -> Option<io::ErrorKind> {
    let mut next = error.source();
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        next = cause.source();
    }
    None
}
