//! The client's side: whom we trust, whom we want, and who we are.

use super::files::{Contents, Reloading};
use super::identity::{Identity, Mismatch, Wanted};
use super::load_error::LoadError;
use super::{H2, HTTP_1_1, error, provider, versions};
use crate::connect::Transport;
use mesh_core::snapshot::TlsConfig;
use mesh_core::{Error, ErrorKind};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_rustls::TlsConnector;

/// How to speak TLS to the endpoints of one destination.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ClientConfig {
    /// The name sent as SNI, and expected in the certificate. The endpoint's own name or address
    /// when absent.
    pub server_name: Option<String>,
    /// PEM file of the certificates we trust. The system's when absent.
    pub ca: Option<PathBuf>,
    /// PEM file of our own certificate chain, for mutual TLS. Needs `key`.
    pub cert: Option<PathBuf>,
    /// PEM file of our own private key.
    pub key: Option<PathBuf>,
    /// The names we accept instead of `server_name`, one of which the certificate must prove:
    /// SPIFFE IDs, DNS names or addresses.
    pub subject_alt_names: Vec<String>,
    /// Protocols to offer (ALPN). By the protocol of the call when empty.
    pub alpn: Vec<String>,
    /// Accept TLS 1.2 as well. Off.
    pub allow_tls12: bool,
}

impl From<&TlsConfig> for ClientConfig {
    fn from(config: &TlsConfig) -> Self {
        Self {
            server_name: config.server_name.clone(),
            ca: config.ca.clone(),
            cert: config.cert.clone(),
            key: config.key.clone(),
            subject_alt_names: config.subject_alt_names.clone(),
            alpn: config.alpn.clone(),
            allow_tls12: false,
        }
    }
}

/// Opens TLS over transports to the endpoints of one destination.
pub struct Client {
    server_name: Option<ServerName<'static>>,
    configs: Reloading<Configs>,
}

/// One per list of protocols to offer; they share trust, certificate and session tickets.
struct Configs {
    http1: Arc<rustls::ClientConfig>,
    http2: Arc<rustls::ClientConfig>,
    either: Arc<rustls::ClientConfig>,
}

/// The protocols to offer (ALPN).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    Http1,
    Http2,
    Either,
}

impl Client {
    /// Loads the files, and keeps watching them.
    ///
    /// # Errors
    ///
    /// Names the setting that cannot be used, and why.
    pub fn new(config: ClientConfig) -> Result<Self, LoadError> {
        let wanted: Arc<[Wanted]> = config
            .subject_alt_names
            .iter()
            .map(|name| Wanted::parse(name))
            .collect::<Result<_, _>>()
            .map_err(|reason| LoadError::new("subjectAltNames", reason))?;
        let server_name = match config.server_name {
            Some(name) => match ServerName::try_from(name.clone()) {
                Ok(name) => Some(name),
                Err(_) => {
                    let reason = format!("{name:?} is neither a DNS name nor an address");
                    return Err(LoadError::new("serverName", reason));
                }
            },
            None => None,
        };
        let (trusted, own) = (config.ca.is_some(), config.cert.is_some());
        if own != config.key.is_some() {
            let missing = if own { "key" } else { "cert" };
            let reason = "it is missing: certificate and key belong together";
            return Err(LoadError::new(missing, reason));
        }
        let files = [("ca", config.ca), ("cert", config.cert), ("key", config.key)];
        let files =
            files.into_iter().filter_map(|(setting, path)| Some((setting, path?))).collect();
        let configs = Reloading::new(files, move |contents| {
            let roots = if trusted { contents.roots("ca")? } else { native_roots()? };
            build(contents, roots, own, Arc::clone(&wanted), &config.alpn, config.allow_tls12)
        })?;
        Ok(Self { server_name, configs })
    }

    /// The name to ask for: the configured one, else the endpoint's.
    fn name(&self, endpoint: &str) -> Result<ServerName<'static>, Error> {
        if let Some(name) = &self.server_name {
            return Ok(name.clone());
        }
        ServerName::try_from(endpoint.to_owned()).map_err(|_| {
            let reason = format!("{endpoint:?} is no name for TLS; set serverName");
            Error::new(ErrorKind::Tls, reason)
        })
    }

    /// Shakes hands over `transport` with the endpoint called `endpoint`; says whether HTTP/2
    /// was chosen.
    pub(crate) async fn connect(
        &self,
        transport: Transport,
        endpoint: &str,
        offer: Offer,
    ) -> Result<(Transport, bool), Error> {
        let name = self.name(endpoint)?;
        let configs = self.configs.get();
        let config = match offer {
            Offer::Http1 => &configs.http1,
            Offer::Http2 => &configs.http2,
            Offer::Either => &configs.either,
        };
        let connector = TlsConnector::from(Arc::clone(config));
        let stream = connector.connect(name, transport).await.map_err(error::of_handshake)?;
        let http2 = match stream.get_ref().1.alpn_protocol() {
            Some(chosen) => chosen == H2,
            // An endpoint without ALPN speaks what it was built for.
            None => offer == Offer::Http2,
        };
        Ok((Transport::tls(stream), http2))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

fn build(
    contents: &Contents<'_>,
    roots: RootCertStore,
    own: bool,
    wanted: Arc<[Wanted]>,
    alpn: &[String],
    allow_tls12: bool,
) -> Result<Configs, LoadError> {
    let refused = |error: rustls::Error| LoadError::new("tls", error.to_string());
    let provider = provider();
    let verifier = Verifier {
        algorithms: provider.signature_verification_algorithms,
        roots: Arc::new(roots),
        wanted,
    };
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions(allow_tls12))
        .map_err(refused)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let config = if own {
        builder.with_client_cert_resolver(contents.certified()?)
    } else {
        builder.with_no_client_auth()
    };
    let offering = |protocols: &[&[u8]]| {
        let mut config = config.clone();
        config.alpn_protocols = match alpn {
            [] => protocols.iter().map(|name| name.to_vec()).collect(),
            chosen => chosen.iter().map(|name| name.clone().into_bytes()).collect(),
        };
        Arc::new(config)
    };
    Ok(Configs {
        http1: offering(&[HTTP_1_1]),
        http2: offering(&[H2]),
        either: offering(&[H2, HTTP_1_1]),
    })
}

fn native_roots() -> Result<RootCertStore, LoadError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _unreadable) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let reason = match found.errors.first() {
            Some(error) => format!("the system's trusted certificates do not load: {error}"),
            None => "it is not set, and the system trusts no certificate".to_owned(),
        };
        return Err(LoadError::new("ca", reason));
    }
    Ok(roots)
}

/// Checks the chain as everybody does, and the identity as configured.
#[derive(Debug)]
struct Verifier {
    algorithms: WebPkiSupportedAlgorithms,
    roots: Arc<RootCertStore>,
    /// Empty: the server name.
    wanted: Arc<[Wanted]>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        let proves =
            |name: &ServerName<'_>| rustls::client::verify_server_name(&parsed, name).is_ok();
        let proven = match Identity::of(end_entity) {
            Ok(identity) => identity,
            Err(reason) => return Err(mismatch(Mismatch(reason))),
        };
        let accepted = if self.wanted.is_empty() {
            proves(server_name)
        } else {
            self.wanted.iter().any(|wanted| match wanted {
                Wanted::Spiffe(id) => proven.spiffe() == Some(id),
                Wanted::Host(name) => proves(name),
            })
        };
        if accepted {
            return Ok(ServerCertVerified::assertion());
        }
        if !self.wanted.is_empty() {
            return Err(mismatch(Mismatch::new(&self.wanted, &proven)));
        }
        let mut found = Mismatch::new(&[Wanted::Host(server_name.to_owned())], &proven);
        if let ServerName::IpAddress(_) = server_name {
            found.0.push_str("; say which name to expect by serverName or subjectAltNames");
        }
        Err(mismatch(found))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn mismatch(mismatch: Mismatch) -> rustls::Error {
    CertificateError::Other(OtherError(Arc::new(mismatch))).into()
}
