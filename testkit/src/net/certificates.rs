//! A certificate authority for one test.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Validity {
    /// From 2000 to 2100.
    #[default]
    Now,
    /// It ended in 2001.
    Expired,
    /// It begins in 2099.
    NotYet,
}

/// A root that tests trust, or on purpose do not.
pub struct Authority {
    pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A leaf with its key, as PEM for files and as DER for rustls.
#[non_exhaustive]
pub struct Certificate {
    /// The leaf.
    pub cert_pem: String,
    /// Its PKCS #8 key.
    pub key_pem: String,
    cert: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Authority {
    /// Makes a root with an ECDSA P-256 key.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        set_validity(&mut params, Validity::Now);
        let key = key();
        let cert = params.self_signed(&key).expect("a root signs itself");
        Self { pem: cert.pem(), der: cert.der().clone(), issuer: Issuer::new(params, key) }
    }

    /// The root as PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A valid leaf for server and client use. A name that holds `://` becomes a URI name (a
    /// SPIFFE ID, or two for a test that must refuse them), an IP address an IP name, the rest
    /// DNS names.
    #[must_use]
    pub fn issue(&self, names: &[&str]) -> Certificate {
        self.issue_valid(names, Validity::Now)
    }

    /// As [`issue`](Self::issue), valid at another time.
    ///
    /// # Panics
    ///
    /// If a name cannot stand in a certificate.
    #[must_use]
    pub fn issue_valid(&self, names: &[&str], validity: Validity) -> Certificate {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "leaf");
        params.subject_alt_names = names.iter().map(|name| alt_name(name)).collect();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        set_validity(&mut params, validity);
        let key = key();
        let cert = params.signed_by(&key, &self.issuer).expect("the authority signs");
        Certificate {
            cert_pem: cert.pem(),
            key_pem: key.serialize_pem(),
            cert: cert.der().clone(),
            key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        }
    }

    /// A server that shows `leaf`, and demands a certificate of ours from clients if `mutual`.
    #[must_use]
    pub fn server(&self, leaf: &Certificate, mutual: bool, alpn: &[&str]) -> ServerConfig {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider has TLS 1.2 and 1.3");
        let builder = if mutual {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()), provider())
                    .build()
                    .expect("one root is enough");
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder
            .with_single_cert(vec![leaf.cert.clone()], leaf.key.clone_key())
            .expect("certificate and key belong together");
        config.alpn_protocols = protocols(alpn);
        config
    }

    /// A client that trusts this root only, and shows `leaf` if there is one.
    #[must_use]
    pub fn client(&self, leaf: Option<&Certificate>, alpn: &[&str]) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider has TLS 1.2 and 1.3")
            .with_root_certificates(self.roots());
        let mut config = match leaf {
            None => builder.with_no_client_auth(),
            Some(leaf) => builder
                .with_client_auth_cert(vec![leaf.cert.clone()], leaf.key.clone_key())
                .expect("certificate and key belong together"),
        };
        config.alpn_protocols = protocols(alpn);
        config
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).expect("our own root is well-formed");
        roots
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn protocols(alpn: &[&str]) -> Vec<Vec<u8>> {
    alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect()
}

fn key() -> KeyPair {
    KeyPair::generate().expect("the system has entropy")
}

fn alt_name(name: &str) -> SanType {
    let text = || name.try_into().expect("a name of ASCII characters");
    match name.parse::<IpAddr>() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) if name.contains("://") => SanType::URI(text()),
        Err(_) => SanType::DnsName(text()),
    }
}

fn set_validity(params: &mut CertificateParams, validity: Validity) {
    let (from, to) = match validity {
        Validity::Now => (2000, 2100),
        Validity::Expired => (2000, 2001),
        Validity::NotYet => (2099, 2100),
    };
    params.not_before = date_time_ymd(from, 1, 1);
    params.not_after = date_time_ymd(to, 1, 1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::duplex;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    async fn shake(
        server: ServerConfig,
        client: ClientConfig,
        name: &'static str,
    ) -> Result<(), String> {
        let (near, far) = duplex(16 * 1024);
        let name = name.try_into().expect("a server name");
        let (client, server) = tokio::join!(
            TlsConnector::from(Arc::new(client)).connect(name, near),
            TlsAcceptor::from(Arc::new(server)).accept(far),
        );
        client.map_err(|error| error.to_string())?;
        server.map(drop).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn only_what_is_right_is_accepted() {
        let ours = Authority::new("ours");
        let theirs = Authority::new("theirs");
        let good = ours.issue(&["localhost", "127.0.0.1"]);
        let server = |leaf: &Certificate, mutual| ours.server(leaf, mutual, &[]);

        let plain = || ours.client(None, &[]);
        assert_eq!(shake(server(&good, false), plain(), "localhost").await, Ok(()));
        assert_eq!(shake(server(&good, false), plain(), "127.0.0.1").await, Ok(()));
        let mutual = ours.client(Some(&ours.issue(&["spiffe://a/b"])), &[]);
        assert_eq!(shake(server(&good, true), mutual, "localhost").await, Ok(()));

        for (leaf, reason) in [
            (ours.issue(&["elsewhere"]), "not valid for"),
            (ours.issue_valid(&["localhost"], Validity::Expired), "xpired"),
            (ours.issue_valid(&["localhost"], Validity::NotYet), "ot valid yet"),
            (theirs.issue(&["localhost"]), "UnknownIssuer"),
        ] {
            let error = shake(server(&leaf, false), plain(), "localhost").await.expect_err(reason);
            assert!(error.contains(reason), "{error}, not {reason}");
        }
        let error =
            shake(server(&good, true), plain(), "localhost").await.expect_err("no identity");
        assert!(error.contains("no certificates"), "{error}");
    }
}
