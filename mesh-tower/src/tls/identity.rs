//! Identity: what a certificate proves, and whether that is who we want.
//!
//! A workload is named by the one URI in its certificate's subject alternative names, a SPIFFE
//! ID, or by its DNS names. IDs are parsed and compared whole; text that is not exactly an ID is
//! no ID at all, and a certificate with two URIs names nobody.
//!
//! Source: SPIFFE-ID, section 2; X.509-SVID, section 2; RFC 6125 for DNS names (by webpki).

use rustls::pki_types::{CertificateDer, ServerName};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Longest SPIFFE ID, in bytes.
const MAX_ID: usize = 2048;
/// Longest trust domain, in bytes.
const MAX_TRUST_DOMAIN: usize = 255;

/// The identity of a workload: `spiffe://<trust domain>/<path>`.
///
/// ```
/// use mesh_tower::tls::SpiffeId;
///
/// let id: SpiffeId = "spiffe://shop.example/ns/default/sa/inventory".parse()?;
/// assert_eq!(id.trust_domain(), "shop.example");
/// assert_eq!(id.path(), "/ns/default/sa/inventory");
/// assert!("spiffe://shop.example/ns/../sa/inventory".parse::<SpiffeId>().is_err());
/// # Ok::<(), mesh_tower::tls::InvalidSpiffeId>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SpiffeId {
    text: Box<str>,
    path: usize,
}

/// Why a text is no SPIFFE ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidSpiffeId(&'static str);

impl fmt::Display for InvalidSpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a SPIFFE ID: {}", self.0)
    }
}

impl std::error::Error for InvalidSpiffeId {}

impl SpiffeId {
    /// The part between `spiffe://` and the path.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        self.text.get("spiffe://".len()..self.path).unwrap_or_default()
    }

    /// The path, with its leading slash.
    #[must_use]
    pub fn path(&self) -> &str {
        self.text.get(self.path..).unwrap_or_default()
    }

    /// The whole ID.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidSpiffeId;

    fn from_str(text: &str) -> Result<Self, InvalidSpiffeId> {
        if text.len() > MAX_ID {
            return Err(InvalidSpiffeId("it is longer than 2048 bytes"));
        }
        let rest = text
            .strip_prefix("spiffe://")
            .ok_or(InvalidSpiffeId("it does not start with spiffe://"))?;
        let slash = rest.find('/').ok_or(InvalidSpiffeId("it has no path"))?;
        let (domain, path) = rest.split_at(slash);
        if domain.is_empty() || domain.len() > MAX_TRUST_DOMAIN {
            return Err(InvalidSpiffeId("its trust domain is empty or longer than 255 bytes"));
        }
        let plain = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'.' | b'-' | b'_');
        if !domain.bytes().all(plain) {
            return Err(InvalidSpiffeId("its trust domain holds more than a-z 0-9 . - _"));
        }
        for segment in path.split('/').skip(1) {
            if matches!(segment, "" | "." | "..") {
                return Err(InvalidSpiffeId("its path has an empty or relative segment"));
            }
            if !segment.bytes().all(|byte| plain(byte) || byte.is_ascii_uppercase()) {
                return Err(InvalidSpiffeId("its path holds more than a-z A-Z 0-9 . - _"));
            }
        }
        Ok(Self { text: text.into(), path: "spiffe://".len() + slash })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_form_is_an_id() {
        for valid in ["spiffe://td/p", "spiffe://a-b_c.d9/ns/Default/sa/x.y_z-1"] {
            assert_eq!(valid.parse::<SpiffeId>().expect(valid).to_string(), valid);
        }
        let long = format!("spiffe://td/{}", "p".repeat(MAX_ID));
        for invalid in [
            "",
            "spiffe://",
            "spiffe://td",
            "spiffe://td/",
            "spiffe:///p",
            "spiffe://td/p/",
            "spiffe://td//p",
            "spiffe://td/./p",
            "spiffe://td/../p",
            "spiffe://td/p?q",
            "spiffe://td/p#f",
            "spiffe://td/%70",
            "spiffe://td/p\0",
            "spiffe://td/ü",
            "spiffe://td:80/p",
            "spiffe://user@td/p",
            "spiffe://TD/p",
            "SPIFFE://td/p",
            "https://td/p",
            " spiffe://td/p",
            long.as_str(),
        ] {
            assert!(invalid.parse::<SpiffeId>().is_err(), "{invalid:?}");
        }
    }
}
