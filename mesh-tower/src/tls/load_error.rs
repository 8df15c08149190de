//! What to say of TLS settings that cannot be used. No call was made and no hand shaken: this is no
//! [`Error`](mesh_core::Error) of a call.

use std::fmt;

/// Why TLS settings cannot be used.
///
/// As text it is the setting, the file if it is about one, and the reason:
/// `key: /etc/mesh/key.pem: it holds no private key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    setting: &'static str,
    reason: String,
}

impl LoadError {
    pub(super) fn new(setting: &'static str, reason: impl Into<String>) -> Self {
        Self { setting, reason: reason.into() }
    }

    /// The setting, as the configuration calls it: `ca`, `cert`, `key`, `clientCa`, `serverName`,
    /// `subjectAltNames`.
    #[must_use]
    pub const fn setting(&self) -> &'static str {
        self.setting
    }

    /// What is wrong: the file and the reason, in one sentence.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// What to do.
    #[must_use]
    pub fn help(&self) -> &'static str {
        match self.setting {
            "ca" | "clientCa" => {
                "name a readable PEM file with the certificates (BEGIN CERTIFICATE) of the authorities to trust"
            }
            "cert" => {
                "name a readable PEM file with the certificate (BEGIN CERTIFICATE) and those that lead to its authority"
            }
            "key" => {
                "name a readable PEM file with the private key (BEGIN PRIVATE KEY) that belongs to `cert`"
            }
            "serverName" => "write a DNS name or an IP address",
            _ => "write DNS names, IP addresses, or identities like `spiffe://trust-domain/path`",
        }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, self.reason)
    }
}

impl std::error::Error for LoadError {}
