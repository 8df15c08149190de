//! The server's side: who we are, and whom we let in.

use super::files::Reloading;
use super::identity::{Identity, Mismatch};
use super::load_error::LoadError;
use super::{H2, HTTP_1_1, provider, versions};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme,
};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// How a listener speaks TLS.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerConfig {
    /// PEM file of our certificate chain.
    pub cert: PathBuf,
    /// PEM file of our private key.
    pub key: PathBuf,
    /// PEM file of the certificates that may sign clients. With it, a client must show a
    /// certificate (mutual TLS); without, none is asked for.
    pub client_ca: Option<PathBuf>,
    /// Accept TLS 1.2 as well. Off.
    pub allow_tls12: bool,
    /// Protocols in the order we prefer them (ALPN). `h2`, `http/1.1`.
    pub alpn: Vec<String>,
}

impl ServerConfig {
    /// TLS with our certificate, asking clients for none.
    pub fn new(cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        let alpn = [H2, HTTP_1_1].map(|name| String::from_utf8_lossy(name).into_owned());
        Self {
            cert: cert.into(),
            key: key.into(),
            client_ca: None,
            allow_tls12: false,
            alpn: alpn.into(),
        }
    }
}

/// TLS for a listener, from files that are loaded again when they change.
///
/// ```no_run
/// use mesh_tower::tls::Server;
/// use tokio_rustls::TlsAcceptor;
///
/// # fn load() -> Result<(), mesh_tower::tls::LoadError> {
/// let server = Server::from_files("tls.crt", "tls.key", Some("clients.crt".into()))?;
/// let acceptor = TlsAcceptor::from(server.config());    // once per connection
/// # Ok(())
/// # }
/// ```
pub struct Server {
    config: Reloading<rustls::ServerConfig>,
}

impl Server {
    /// TLS with our certificate and key; mutual with `client_ca`.
    ///
    /// # Errors
    ///
    /// As [`Server::new`].
    pub fn from_files(
        cert: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
        client_ca: Option<PathBuf>,
    ) -> Result<Self, LoadError> {
        Self::new(ServerConfig { client_ca, ..ServerConfig::new(cert, key) })
    }

    /// Loads the files, and keeps watching them.
    ///
    /// # Errors
    ///
    /// Names the setting and the file that cannot be used, and why.
    pub fn new(config: ServerConfig) -> Result<Self, LoadError> {
        let asks = config.client_ca.is_some();
        let files = [
            ("cert", Some(config.cert)),
            ("key", Some(config.key)),
            ("clientCa", config.client_ca),
        ];
        let files =
            files.into_iter().filter_map(|(setting, path)| Some((setting, path?))).collect();
        let config = Reloading::new(files, move |contents| {
            let provider = provider();
            let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(versions(config.allow_tls12))
                .map_err(|error| LoadError::new("tls", error.to_string()))?;
            let builder = if asks {
                let roots = Arc::new(contents.roots("clientCa")?);
                let inner = WebPkiClientVerifier::builder_with_provider(roots, provider)
                    .build()
                    .map_err(|error| LoadError::new("clientCa", error.to_string()))?;
                builder.with_client_cert_verifier(Arc::new(Verifier(inner)))
            } else {
                builder.with_no_client_auth()
            };
            let mut built = builder.with_cert_resolver(contents.certified()?);
            built.ignore_client_order = true;
            // A ticket is used once, and each connection brings the next: one keeps a client that
            // comes again resuming, and a second costs every handshake another derived key.
            built.send_tls13_tickets = 1;
            built.alpn_protocols = config.alpn.iter().map(|name| name.clone().into()).collect();
            Ok(built)
        })?;
        Ok(Self { config })
    }

    /// The settings for the next handshake, from the files as they last loaded.
    #[must_use]
    pub fn config(&self) -> Arc<rustls::ServerConfig> {
        self.config.get()
    }

    /// What the client of an accepted connection has proven; `None` if it showed no certificate.
    #[must_use]
    pub fn peer(connection: &rustls::ServerConnection) -> Option<Identity> {
        Identity::of(connection.peer_certificates()?.first()?).ok()
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

/// Checks the chain as everybody does, and that the names are those of one workload.
#[derive(Debug)]
struct Verifier(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Verifier {
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.0.verify_client_cert(end_entity, intermediates, now)?;
        match Identity::of(end_entity) {
            Ok(_) => Ok(verified),
            Err(reason) => {
                Err(CertificateError::Other(OtherError(Arc::new(Mismatch(reason)))).into())
            }
        }
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
