//! TLS to Consul: rustls with aws-lc-rs, handed over explicitly; TLS 1.2 too, which is what Consul
//! before 1.12 may be set to.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::TlsConnector;

/// What is needed to open one connection; reads files.
pub(super) fn connector(ca: Option<&Path>) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            let unusable = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
            let bytes = std::fs::read(path).map_err(|error| unusable(&error))?;
            for found in CertificateDer::pem_slice_iter(&bytes) {
                let found = found.map_err(|error| unusable(&error))?;
                roots.add(found).map_err(|error| unusable(&error))?;
            }
            if roots.is_empty() {
                return Err(unusable(&"it holds no certificate"));
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            let (added, _unreadable) = roots.add_parsable_certificates(found.certs);
            if added == 0 {
                return Err("the system trusts no certificate, and CONSUL_CACERT is not set".into());
            }
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

pub(super) fn name(host: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(host.to_owned())
        .map_err(|_| format!("`{host}` is neither a DNS name nor an address"))
}
