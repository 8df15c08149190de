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
use x509_parser::asn1_rs::{Any, Class, FromDer, Tag};
use x509_parser::extensions::{GeneralName, SubjectAlternativeName, X509ExtensionParser};
use x509_parser::nom::Parser;
use x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME;

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
    /// A sentence, when the names of the certificate are not to be found or do not parse, are more
    /// than one URI, or one that is like a SPIFFE ID and is none.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let names = names(certificate)?;
        let mut identity = Self::default();
        let mut uris = 0;
        for name in names.iter().flat_map(|names| &names.general_names) {
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

/// What comes before the extensions in a certificate of version 3: its version, number, signature
/// algorithm, issuer, validity, subject and key (RFC 5280, section 4.1). The two unique identifiers
/// that may follow are in no certificate that a verifier of ours accepts.
const FIELDS: [(Class, Tag); 7] = [
    (Class::ContextSpecific, Tag(0)),
    (Class::Universal, Tag::Integer),
    (Class::Universal, Tag::Sequence),
    (Class::Universal, Tag::Sequence),
    (Class::Universal, Tag::Sequence),
    (Class::Universal, Tag::Sequence),
    (Class::Universal, Tag::Sequence),
];

/// The subject alternative names of a certificate (RFC 5280, section 4.2.1.6).
///
/// Of everything else only the outline is read: what a certificate must be besides is for the
/// verifier to say, who reads it whole, and this is done twice in every mutual handshake.
fn names<'a>(
    certificate: &'a CertificateDer<'_>,
) -> Result<Option<SubjectAlternativeName<'a>>, String> {
    let (certificate, _) = take(certificate, Class::Universal, Tag::Sequence)?;
    let (mut fields, _) = take(certificate, Class::Universal, Tag::Sequence)?;
    for (class, tag) in FIELDS {
        (_, fields) = take(fields, class, tag)?;
    }
    if fields.is_empty() {
        return Ok(None);
    }
    let (tagged, rest) = take(fields, Class::ContextSpecific, Tag(3))?;
    let (mut extensions, after) = take(tagged, Class::Universal, Tag::Sequence)?;
    if !rest.is_empty() || !after.is_empty() {
        return Err(broken(&"its extensions are not the last"));
    }
    let mut found = None;
    while !extensions.is_empty() {
        let mut parser = X509ExtensionParser::new().with_deep_parse_extensions(false);
        let (rest, extension) = parser.parse(extensions).map_err(|error| broken(&error))?;
        extensions = rest;
        if extension.oid != OID_X509_EXT_SUBJECT_ALT_NAME {
            continue;
        }
        let (rest, names) = SubjectAlternativeName::from_der(extension.value)
            .map_err(|error| format!("the certificate's names do not parse: {error}"))?;
        if !rest.is_empty() || found.replace(names).is_some() {
            return Err(broken(&"its names are not given once and alone"));
        }
    }
    Ok(found)
}

/// What the element at the start of `from` holds, and what comes after it.
fn take(from: &[u8], class: Class, tag: Tag) -> Result<(&[u8], &[u8]), String> {
    let (rest, element) = Any::from_der(from).map_err(|error| broken(&error))?;
    if element.class() == class && element.tag() == tag {
        Ok((element.data, rest))
    } else {
        Err(broken(&"a field is missing"))
    }
}

fn broken(error: &dyn fmt::Display) -> String {
    format!("the certificate does not parse: {error}")
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
    use rcgen::{CertificateParams, KeyPair, SanType};
    use x509_parser::certificate::X509Certificate;

    /// The names by a parser that reads the whole certificate.
    fn of_whole(certificate: &[u8]) -> Option<Vec<String>> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let names = parsed.subject_alternative_name().ok()?;
        let names = names.iter().flat_map(|names| &names.value.general_names);
        Some(names.map(ToString::to_string).collect())
    }

    fn of_outline(certificate: &[u8]) -> Option<Vec<String>> {
        let certificate = CertificateDer::from(certificate);
        let names = names(&certificate).ok()?;
        let names = names.iter().flat_map(|names| &names.general_names);
        Some(names.map(ToString::to_string).collect())
    }

    #[test]
    fn the_names_are_those_of_a_parser_that_reads_the_whole_certificate() {
        let key = KeyPair::generate().expect("a key");
        let uri = |text: &str| SanType::URI(text.try_into().expect("ASCII"));
        let dns = |text: &str| SanType::DnsName(text.try_into().expect("ASCII"));
        let mut agreed = 0;
        for names in [
            vec![],
            vec![uri("spiffe://td/p")],
            vec![dns("a.example"), SanType::IpAddress([10, 0, 0, 1].into()), uri("spiffe://td/p")],
        ] {
            let mut params = CertificateParams::default();
            params.subject_alt_names = names;
            let certificate = params.self_signed(&key).expect("a certificate").der().to_vec();
            assert!(of_whole(&certificate).is_some());
            assert_eq!(of_outline(&certificate), of_whole(&certificate));
            // Whatever a stranger damages, the two never read different names.
            for at in 0..certificate.len() {
                for mask in [0x01, 0x02, 0x04, 0x20, 0x80, 0xff] {
                    let mut damaged = certificate.clone();
                    damaged[at] ^= mask;
                    let (outline, whole) = (of_outline(&damaged), of_whole(&damaged));
                    if let (Some(outline), Some(whole)) = (outline, whole) {
                        assert_eq!(outline, whole, "byte {at} by {mask:#x}");
                        agreed += 1;
                    }
                }
                assert!(of_outline(&certificate[..at]).is_none(), "cut at {at}");
            }
        }
        assert!(agreed > 1000, "{agreed}");
    }
}
