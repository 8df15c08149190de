//! Identity: what a certificate proves, and whether that is who we want.
//!
//! A workload is named by the one URI in its certificate's subject alternative names, a SPIFFE
//! ID, or by its DNS names. IDs are parsed and compared whole; text that is not exactly an ID is
//! no ID at all, and a certificate with two URIs names nobody.
//!
//! Source: X.509-SVID, section 2; RFC 6125 for DNS names (by webpki).

use mesh_core::SpiffeId;
use rustls::pki_types::{CertificateDer, ServerName};
use std::fmt;
use std::net::IpAddr;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The names in a certificate. Only that of a verified certificate proves anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    spiffe: Option<SpiffeId>,
    dns: Vec<String>,
    addresses: Vec<IpAddr>,
}

impl Identity {
    /// Reads the names of a certificate.
    ///
    /// # Errors
    ///
    /// A sentence, when the certificate does not parse, holds more than one URI, or one that is
    /// like a SPIFFE ID and is none.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, parsed) = X509Certificate::from_der(certificate)
            .map_err(|error| format!("the certificate does not parse: {error}"))?;
        let names = parsed
            .subject_alternative_name()
            .map_err(|error| format!("the certificate's names do not parse: {error}"))?;
        let mut identity = Self::default();
        let mut uris = 0;
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::URI(uri) => {
                    uris += 1;
                    if uris > 1 {
                        return Err("the certificate holds more than one URI".to_owned());
                    }
                    if uri.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe:")) {
                        let id = uri.parse().map_err(|error| format!("{uri:?} is {error}"))?;
                        identity.spiffe = Some(id);
                    }
                }
                GeneralName::DNSName(name) => identity.dns.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => identity.addresses.extend(address(bytes)),
                _ => {}
            }
        }
        Ok(identity)
    }

    /// The SPIFFE ID, if there is one.
    #[must_use]
    pub fn spiffe(&self) -> Option<&SpiffeId> {
        self.spiffe.as_ref()
    }

    /// The DNS names, as written.
    #[must_use]
    pub fn dns(&self) -> &[String] {
        &self.dns
    }

    /// The one name for logs and policies: the SPIFFE ID, else the first DNS name.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match &self.spiffe {
            Some(id) => Some(id.as_str()),
            None => self.dns.first().map(String::as_str),
        }
    }
}

impl From<SpiffeId> for Identity {
    /// The identity of a certificate that holds this ID and no other name.
    fn from(id: SpiffeId) -> Self {
        Self { spiffe: Some(id), ..Self::default() }
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spiffe = self.spiffe.iter().map(ToString::to_string);
        let dns = self.dns.iter().map(|name| format!("{name:?}"));
        let addresses = self.addresses.iter().map(ToString::to_string);
        let all: Vec<_> = spiffe.chain(dns).chain(addresses).collect();
        f.write_str(if all.is_empty() { "no name" } else { "" })?;
        f.write_str(&all.join(", "))
    }
}

/// One name we accept.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    Spiffe(SpiffeId),
    Host(ServerName<'static>),
}

impl Wanted {
    /// Reads a `subjectAltNames` entry: a SPIFFE ID, a DNS name or an address.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.contains("://") {
            return text.parse().map(Self::Spiffe).map_err(|error| format!("{text:?} is {error}"));
        }
        ServerName::try_from(text.to_owned())
            .map(Self::Host)
            .map_err(|_| format!("{text:?} is neither a DNS name nor an address"))
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spiffe(id) => id.fmt(f),
            Self::Host(name) => write!(f, "{:?}", name.to_str()),
        }
    }
}

/// The certificate is valid, and another's.
#[derive(Clone, Debug)]
pub(super) struct Mismatch(pub(super) String);

impl Mismatch {
    pub(super) fn new(wanted: &[Wanted], proven: &Identity) -> Self {
        let wanted: Vec<_> = wanted.iter().map(ToString::to_string).collect();
        Self(format!("wanted {}, the certificate proves {proven}", wanted.join(" or ")))
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Mismatch {}
