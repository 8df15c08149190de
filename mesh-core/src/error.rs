//! The one error of a call that the mesh could not complete.
//!
//! Every kind has a *flag*: the word that logs, metrics (`error.type`), `Proxy-Status`, the
//! admin pages and `errors/<flag>` in the documentation share. Where Envoy has a response flag
//! of equal meaning, the short code is Envoy's.

use crate::explain::Explanation;
use crate::outcome::{Failure, GrpcCode};
use http::{HeaderMap, StatusCode};
use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $flag:literal $short:literal $status:literal $proxy:literal),* $(,)?) => {
        /// Why a call failed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorKind {
            $($(#[$doc])* $kind,)*
        }

        impl ErrorKind {
            /// All kinds, in the order of the documentation's table.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// The long flag, in snake case: the primary name.
            #[must_use]
            pub const fn flag(self) -> &'static str {
                match self { $(Self::$kind => $flag,)* }
            }

            /// The short flag, Envoy's where the meaning is equal.
            #[must_use]
            pub const fn short_flag(self) -> &'static str {
                match self { $(Self::$kind => $short,)* }
            }

            /// The status a response made from this error carries.
            #[must_use]
            pub const fn status(self) -> StatusCode {
                let code = match self { $(Self::$kind => $status,)* };
                match StatusCode::from_u16(code) {
                    Ok(status) => status,
                    Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
                }
            }

            /// The error type of RFC 9209 (`Proxy-Status`).
            #[must_use]
            pub const fn proxy_status(self) -> &'static str {
                match self { $(Self::$kind => $proxy,)* }
            }
        }
    };
}

kinds! {
    /// No route matches the request.
    NoRoute = "no_route_found" "NR" 404 "destination_not_found",
    /// The route names a destination that does not exist.
    NoDestination = "no_cluster_found" "NC" 503 "destination_not_found",
    /// The destination has no endpoint that can be picked.
    NoHealthyEndpoint = "no_healthy_upstream" "UH" 503 "destination_unavailable",
    /// No connection to the endpoint: refused, unreachable, or the connect timeout passed.
    Connect = "upstream_connection_failure" "UF" 503 "connection_refused",
    /// The endpoint closed the connection before the answer was complete.
    ConnectionClosed = "upstream_connection_termination" "UC" 503 "connection_terminated",
    /// The endpoint reset the stream.
    RemoteReset = "upstream_remote_reset" "UR" 503 "connection_terminated",
    /// We reset the stream.
    LocalReset = "local_reset" "LR" 503 "proxy_internal_error",
    /// A limit of the destination or endpoint is reached, or its breaker is open.
    Overflow = "upstream_overflow" "UO" 503 "connection_limit_reached",
    /// The deadline of the call, or the timeout of the attempt, passed.
    Deadline = "upstream_request_timeout" "UT" 504 "http_response_timeout",
    /// All attempts that the policy allows have failed.
    RetryLimit = "upstream_retry_limit_exceeded" "URX" 503 "destination_unavailable",
    /// The retry budget of the destination is spent.
    RetryBudget = "retry_budget_exhausted" "NRB" 503 "destination_unavailable",
    /// Nothing moved on the stream for too long.
    StreamIdle = "stream_idle_timeout" "SI" 504 "connection_read_timeout",
    /// The stream lasted longer than it may.
    StreamDuration = "duration_timeout" "DT" 504 "http_response_timeout",
    /// The policy fails the call on purpose.
    FaultInjected = "fault_injected" "FI" 503 "proxy_internal_response",
    /// A rate limit refused the call.
    RateLimited = "rate_limited" "RL" 429 "http_request_denied",
    /// The rate limit service could not be asked, and the policy refuses what it cannot ask about.
    RateLimitService = "rate_limit_service_error" "RLSE" 500 "proxy_internal_error",
    /// An intention denies the caller.
    Denied = "denied_by_intention" "NDI" 403 "http_request_denied",
    /// External authorization denied the call.
    ExternalDenied = "unauthorized_external_service" "UAEX" 403 "http_request_denied",
    /// The caller went away.
    CallerGone = "downstream_connection_termination" "DC" 503 "connection_terminated",
    /// The caller sent what is not HTTP, or not allowed.
    CallerProtocol = "downstream_protocol_error" "DPE" 400 "http_request_error",
    /// The endpoint sent what is not HTTP.
    EndpointProtocol = "upstream_protocol_error" "UPE" 502 "http_protocol_error",
    /// The destination's name did not resolve.
    Dns = "dns_resolution_failed" "DF" 503 "dns_error",
    /// The server sheds load.
    Shed = "overload_shed" "OM" 503 "http_request_denied",
    /// The handler panicked.
    Panic = "handler_panicked" "HP" 500 "proxy_internal_error",
    /// The endpoint's certificate proves another identity than the destination allows.
    TlsIdentity = "tls_identity_mismatch" "NTM" 503 "tls_certificate_error",
    /// The endpoint's certificate is expired or not yet valid.
    TlsExpired = "tls_expired" "NTX" 503 "tls_certificate_error",
    /// The endpoint's certificate is signed by nobody we trust.
    TlsUntrusted = "tls_untrusted" "NTU" 503 "tls_certificate_error",
    /// The TLS handshake failed for another reason.
    Tls = "tls_handshake_failure" "NTH" 503 "tls_protocol_error",
    /// No configuration has arrived yet.
    ConfigNotReady = "config_not_ready" "NCR" 503 "proxy_configuration_error",
}

/// A call that the mesh could not complete: what, to whom, why, after how many attempts.
///
/// Cheap to clone. The message is one sentence for a person; [`Error::kind`] is for code.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: Cow<'static, str>,
    destination: Option<Arc<str>>,
    endpoint: Option<Arc<str>>,
    attempts: u32,
    exhausted: Option<ErrorKind>,
    reached: bool,
    code: Option<GrpcCode>,
    fields: Option<HeaderMap>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
    explanation: Option<Arc<Explanation>>,
}

impl Error {
    /// An error of a kind, with the known facts in one sentence, without a final full stop.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Arc::new(Inner {
            kind,
            message: message.into(),
            destination: None,
            endpoint: None,
            attempts: 0,
            exhausted: None,
            reached: false,
            code: None,
            fields: None,
            source: None,
            explanation: None,
        }))
    }

    /// What caused it.
    #[must_use]
    pub fn with_source(self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.change(|inner| inner.source = Some(Arc::from(source.into())))
    }

    /// Whom the call was for.
    #[must_use]
    pub fn with_destination(self, destination: impl Into<Arc<str>>) -> Self {
        self.change(|inner| inner.destination = Some(destination.into()))
    }

    /// The endpoint of the last attempt.
    #[must_use]
    pub fn with_endpoint(self, endpoint: impl Into<Arc<str>>) -> Self {
        self.change(|inner| inner.endpoint = Some(endpoint.into()))
    }

    /// How many attempts were made.
    #[must_use]
    pub fn with_attempts(self, attempts: u32) -> Self {
        self.change(|inner| inner.attempts = attempts)
    }

    /// What was used up, so that no further attempt followed: [`ErrorKind::RetryLimit`],
    /// [`ErrorKind::RetryBudget`], or [`ErrorKind::Overflow`] for the cap on retries at once.
    #[must_use]
    pub fn with_exhausted(self, what: ErrorKind) -> Self {
        self.change(|inner| inner.exhausted = Some(what))
    }

    /// Why it went where it went, for a caller that asks.
    #[must_use]
    pub fn with_explanation(self, explanation: Arc<Explanation>) -> Self {
        self.change(|inner| inner.explanation = Some(explanation))
    }

    /// Says that bytes of the request may have reached the application: only an idempotent call
    /// may then be tried again.
    #[must_use]
    pub fn after_send(self) -> Self {
        self.change(|inner| inner.reached = true)
    }

    /// Another gRPC status than that of the kind.
    #[must_use]
    pub fn with_grpc_code(self, code: GrpcCode) -> Self {
        self.change(|inner| inner.code = Some(code))
    }

    /// Fields for a response made from this error, beside those that tell of it.
    #[must_use]
    pub fn with_fields(self, fields: HeaderMap) -> Self {
        self.change(|inner| inner.fields = Some(fields).filter(|fields| !fields.is_empty()))
    }

    fn change(mut self, edit: impl FnOnce(&mut Inner)) -> Self {
        edit(Arc::make_mut(&mut self.0));
        self
    }

    /// Why, for code.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The long flag of the kind.
    #[must_use]
    pub fn flag(&self) -> &'static str {
        self.0.kind.flag()
    }

    /// The sentence alone, without destination, endpoint and attempts.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Whom the call was for, if that was known by then.
    #[must_use]
    pub fn destination(&self) -> Option<&str> {
        self.0.destination.as_deref()
    }

    /// The endpoint of the last attempt, if one was picked.
    #[must_use]
    pub fn endpoint(&self) -> Option<&str> {
        self.0.endpoint.as_deref()
    }

    /// How many attempts were made; 0 if none left us.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.0.attempts
    }

    /// What was used up, so that no further attempt followed. The kind stays that of the last
    /// attempt.
    #[must_use]
    pub fn exhausted(&self) -> Option<ErrorKind> {
        self.0.exhausted
    }

    /// What a response made from this error carries beside what tells of it: of a rate limit, how
    /// much is allowed and when.
    #[must_use]
    pub fn fields(&self) -> Option<&HeaderMap> {
        self.0.fields.as_ref()
    }

    /// Why the call went where it went, if its caller asked (`CallOptions::explain`).
    #[must_use]
    pub fn explanation(&self) -> Option<&Explanation> {
        self.0.explanation.as_deref()
    }

    /// Whether bytes of the request may have reached the application.
    #[must_use]
    pub fn may_have_reached(&self) -> bool {
        self.0.reached
    }

    /// Whether another attempt is safe for any method: the request cannot have reached the
    /// application.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        !self.0.reached
            && matches!(
                self.0.kind,
                ErrorKind::Connect
                    | ErrorKind::ConnectionClosed
                    | ErrorKind::RemoteReset
                    | ErrorKind::Overflow
                    | ErrorKind::TlsIdentity
                    | ErrorKind::TlsExpired
                    | ErrorKind::TlsUntrusted
                    | ErrorKind::Tls
            )
    }

    /// What the endpoint's health learns from it; `None` if it says nothing about the endpoint.
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        use ErrorKind as K;
        match self.0.kind {
            K::Connect | K::TlsIdentity | K::TlsExpired | K::TlsUntrusted | K::Tls | K::Dns => {
                Some(Failure::Connect)
            }
            K::ConnectionClosed | K::RemoteReset => Some(Failure::Reset),
            K::Deadline | K::StreamIdle | K::StreamDuration => Some(Failure::Timeout),
            K::EndpointProtocol => Some(Failure::Protocol),
            _ => None,
        }
    }

    /// The gRPC status of a response made from this error.
    #[must_use]
    pub fn grpc_code(&self) -> GrpcCode {
        use ErrorKind as K;
        if let Some(code) = self.0.code {
            return code;
        }
        match self.0.kind {
            K::Deadline | K::StreamDuration => GrpcCode::DEADLINE_EXCEEDED,
            K::NoRoute => GrpcCode::UNIMPLEMENTED,
            K::RateLimited | K::Shed => GrpcCode::RESOURCE_EXHAUSTED,
            K::Denied | K::ExternalDenied => GrpcCode::PERMISSION_DENIED,
            K::CallerGone => GrpcCode::CANCELLED,
            K::CallerProtocol | K::EndpointProtocol | K::Panic => GrpcCode::INTERNAL,
            _ => GrpcCode::UNAVAILABLE,
        }
    }
}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Self {
        Self::new(kind, "")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.flag())?;
        if let Some(destination) = &self.0.destination {
            write!(f, ": call to {destination} failed")?;
        }
        if let Some(endpoint) = &self.0.endpoint {
            write!(f, " at {endpoint}")?;
        }
        if !self.0.message.is_empty() {
            write!(f, ": {}", self.0.message)?;
        }
        match (self.0.attempts, self.0.exhausted) {
            (0 | 1, None) => Ok(()),
            (0 | 1, Some(what)) => write!(f, " ({})", what.flag()),
            (attempts, None) => write!(f, " (after {attempts} attempts)"),
            (attempts, Some(what)) => write!(f, " (after {attempts} attempts: {})", what.flag()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("message", &self.0.message)
            .field("destination", &self.0.destination)
            .field("endpoint", &self.0.endpoint)
            .field("attempts", &self.0.attempts)
            .field("exhausted", &self.0.exhausted)
            .field("reached", &self.0.reached)
            .field("code", &self.0.code)
            .field("fields", &self.0.fields)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn flags_are_unique() {
        let long: HashSet<_> = ErrorKind::ALL.iter().map(|kind| kind.flag()).collect();
        let short: HashSet<_> = ErrorKind::ALL.iter().map(|kind| kind.short_flag()).collect();
        assert_eq!(long.len(), ErrorKind::ALL.len());
        assert_eq!(short.len(), ErrorKind::ALL.len());
    }

    #[test]
    fn a_message_says_what_to_whom_why_and_how_often() {
        let error = Error::new(ErrorKind::Connect, "connection refused")
            .with_destination("inventory")
            .with_endpoint("127.0.0.1:9")
            .with_attempts(2);
        assert_eq!(
            error.to_string(),
            "upstream_connection_failure: call to inventory failed at 127.0.0.1:9: \
             connection refused (after 2 attempts)"
        );
        let error = error.with_exhausted(ErrorKind::RetryLimit);
        assert_eq!(error.kind(), ErrorKind::Connect, "that of the last attempt");
        let told = error.to_string();
        assert!(told.ends_with("(after 2 attempts: upstream_retry_limit_exceeded)"), "{told}");
    }

    #[test]
    fn only_what_cannot_have_reached_the_application_is_retryable() {
        assert!(Error::from(ErrorKind::Connect).is_retryable());
        assert!(!Error::from(ErrorKind::ConnectionClosed).after_send().is_retryable());
        assert!(!Error::from(ErrorKind::Deadline).is_retryable());
    }
}
