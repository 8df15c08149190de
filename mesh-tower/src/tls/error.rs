//! Errors of a handshake: which kind, and a sentence on who was wanted and who answered.

use super::identity::Mismatch;
use mesh_core::{Error, ErrorKind};
use rustls::CertificateError;
use std::error::Error as StdError;
use std::io;
use std::time::Duration;

/// What a failed handshake with the endpoint means.
pub(crate) fn of_handshake(error: io::Error) -> Error {
    let Some(tls) = find(&error) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => Error::new(
                ErrorKind::Tls,
                "the endpoint closed the connection during the TLS handshake",
            ),
            _ => Error::new(ErrorKind::Tls, format!("the TLS handshake failed: {error}")),
        }
        .with_source(error);
    };
    let (kind, message) = match tls {
        rustls::Error::InvalidCertificate(certificate) => judge(certificate),
        rustls::Error::AlertReceived(received) => {
            (ErrorKind::Tls, format!("the endpoint refused the TLS handshake: {received:?}"))
        }
        rustls::Error::InvalidMessage(_) => {
            (ErrorKind::Tls, format!("the endpoint does not speak TLS: {tls}"))
        }
        other => (ErrorKind::Tls, format!("the TLS handshake failed: {other}")),
    };
    Error::new(kind, message).with_source(error)
}

/// The refusal, if the connection ended because the endpoint refused our side of the handshake.
///
/// In TLS 1.3 the client is done first: a refused client certificate arrives as an alert where
/// the response should be. The application has seen nothing then.
pub(crate) fn alert(error: &(dyn StdError + 'static)) -> Option<Error> {
    match find(error)? {
        rustls::Error::AlertReceived(received) => Some(Error::new(
            ErrorKind::Tls,
            format!("the endpoint refused the TLS handshake: {received:?}"),
        )),
        _ => None,
    }
}

fn judge(certificate: &CertificateError) -> (ErrorKind, String) {
    use CertificateError as C;
    match certificate {
        C::Other(other) if other.0.is::<Mismatch>() => (ErrorKind::TlsIdentity, other.to_string()),
        C::Expired => (ErrorKind::TlsExpired, "the endpoint's certificate has expired".to_owned()),
        C::ExpiredContext { time, not_after } => {
            let ago = span(time.as_secs().saturating_sub(not_after.as_secs()));
            (ErrorKind::TlsExpired, format!("the endpoint's certificate expired {ago} ago"))
        }
        C::NotValidYet => {
            (ErrorKind::TlsExpired, "the endpoint's certificate is not valid yet".to_owned())
        }
        C::NotValidYetContext { time, not_before } => {
            let left = span(not_before.as_secs().saturating_sub(time.as_secs()));
            (ErrorKind::TlsExpired, format!("the endpoint's certificate is valid only in {left}"))
        }
        C::UnknownIssuer | C::BadSignature => (
            ErrorKind::TlsUntrusted,
            "the endpoint's certificate is signed by nobody we trust".to_owned(),
        ),
        other => (ErrorKind::Tls, format!("the endpoint's certificate is refused: {other}")),
    }
}

fn span(seconds: u64) -> String {
    match seconds {
        0..7_200 => format!("{:?}", Duration::from_secs(seconds)),
        7_200..172_800 => format!("{} hours", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// The error of rustls somewhere below: I/O errors wrap theirs without naming it as their source.
fn find<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        let inner = cause.downcast_ref::<io::Error>().and_then(|io| io.get_ref());
        next = match inner {
            Some(inner) => Some(inner),
            None => cause.source(),
        };
    }
    None
}
